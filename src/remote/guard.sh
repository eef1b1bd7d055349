# Holds the lock on this host, and ends what was started on it (see guard.rs).
#
#   sh -c 'eval "$(head -c <length of this>)"' orgalorg-guard \
#       <leader> <sshd> <connection> <mode> <make> <lease> <who> <path>
#
#   leader      the process that sshd started for this channel
#   sshd        the sshd process of this connection: its other children are commands
#   connection  its addresses and ports, as sshd puts them into SSH_CONNECTION
#   mode        flock, by which "pgrep -f flock" finds who holds a lock; none, which
#               only ends commands; sweep, which ends them at once
#   make        what to create if there is nothing to lock: file, directory, nothing
#   lease       seconds without a heartbeat after which the client counts as gone
#   who         the holder, for people
#   path        what to lock
#
# Needs a POSIX sh, sed, any flock, and /proc or a ps that knows -A and -o.
#
# shellcheck shell=sh
# Records and numbers of processes are split into words on purpose: SC2013, SC2046 and
# SC2086 are switched off there. SC2154 misses variables that `eval` sets.

# `who` is there for other guards, which read this command line.
# shellcheck disable=SC2034
leader=$1 sshd=$2 connection=$3 mode=$4 make=$5 lease=$6 who=$7 path=$8
leaders= spared= pending= has_started= dog= locked= round=0
run_directory= left_directory= has_orders=
# A process that has lost its parent has another one by now: init, whose children are
# the daemons of this host.
case $sshd in 0 | 1) sshd=none ;; esac

say() {
    printf '%s\n' "$1"
}

# Sets $processes to "pid:parent:session:start" of all living processes. One sed
# for all, because shells read files byte by byte. A name stands in parentheses,
# and may be up to 15 bytes of anything: a record ends where it has all fields,
# or a process could pass for another one.
list_processes() {
    if [ -r /proc/self/stat ]; then
        looks=20
        # GNU sed stops (with this status) at a process that ends while it is read,
        # and the rest would be missing: perhaps those that matter.
        while read_processes; [ "$?" = 4 ] && [ "$((looks -= 1))" -gt 0 ]; do :; done
    else
        processes=$(ps -A -o pid= -o ppid= -o sess= |
            sed -n 's/^ *\([0-9][0-9]*\)  *\([0-9][0-9]*\)  *\([0-9][0-9]*\) *$/\1:\2:\3:0/p')
    fi
}

read_processes() {
    processes=$(LC_ALL=C sed -n -e ':more' -e \
        's/^\([0-9]*\) (.*) \([A-Za-z]\) \([0-9]*\) [-0-9]* \([0-9]*\)\( [-0-9]*\)\{15\} \([0-9]*\) .*/\2\1:\3:\4:\6/' \
        -e 't done' -e N -e 'b more' -e ':done' -e '/^[XZ]/!s/^.//p' /proc/[0-9]*/stat 2>/dev/null)
}

# Adds what sshd has started since the last time, and forgets leaders whose
# sessions are empty, before their numbers are given to others. This must happen
# while the connection lives: the sshd process goes with it, its children become
# init's, and its number may be somebody else's. Says whether it does live.
learn() {
    list_processes
    connected= found=
    for process in $processes; do
        IFS=:
        # shellcheck disable=SC2086
        set -- $process
        if [ "$2" = "$sshd" ]; then
            if [ "$1" = "$leader" ]; then connected=yes; else found="$found $1"; fi
        else
            case " $found " in
                *" $3 "*) ;;
                *) case " $leaders " in *" $3 "*) found="$found $3" ;; esac ;;
            esac
        fi
    done
    unset IFS
    [ "$connected" ] || return
    for one in $found; do
        case " $leaders " in *" $one "*) ;; *) pending= ;; esac
    done
    leaders=$found
}

# A command is about to be started. Until we are told that it was, its client can
# be killed, and its sshd be gone before we have seen whose child it is.
expect_command() {
    # What earlier commands have left on purpose is not of this one.
    if [ "$has_started" ]; then
        learn
        leaving=
        for process in $processes; do
            IFS=:
            # shellcheck disable=SC2086
            set -- $process
            [ "$1" != "$3" ] || [ "$2" = "$sshd" ] || leaving="$leaving $1"
        done
        unset IFS
        # Another look: nothing of the new one may be among them.
        learn && spared=$leaving
    fi
    has_started=yes pending=yes
}

# Finds the command that was expected, now that its sshd has gone: it leads a
# session, and has the connection's name in its environment as soon as it is more
# than a copy of sshd.
find_orphan() {
    [ "$pending" ] && [ "$connection" ] && [ -r /proc/self/environ ] || return
    pending= tries=10 own_session= own_start=0
    while [ "$tries" -gt 0 ]; do
        list_processes
        for process in $processes; do
            IFS=:
            # shellcheck disable=SC2086
            set -- $process
            [ "$1" != $$ ] || own_session=$3 own_start=$4
        done
        unset IFS
        for process in $processes; do
            IFS=:
            # shellcheck disable=SC2086
            set -- $process
            if [ "$1" = "$3" ] && [ "$1" != "$leader" ] && [ "$1" != "$own_session" ] &&
                [ "$4" -ge "$own_start" ] && is_of_connection "$1"; then
                leaders="$leaders $1" tries=0
            fi
        done
        unset IFS
        [ "$tries" -eq 0 ] || pause
    done
}

is_of_connection() {
    case " $spared " in *" $1 "*) return 1 ;; esac
    tr '\000' '\n' 2>/dev/null <"/proc/$1/environ" | grep -qxF "SSH_CONNECTION=$connection"
}

# Of a guard that was killed its dog is left, which has its command line.
find_dogs() {
    # shellcheck disable=SC2013
    for cmdline in $(grep -l orgalorg-guard /proc/[0-9]*/cmdline 2>/dev/null); do
        set -f
        # shellcheck disable=SC2046
        set -- $(tr '\000' ' ' 2>/dev/null <"$cmdline" | sed -n '1s/.* orgalorg-guard \([0-9]* [0-9]*\) .*/\1/p')
        set +f
        { [ "$2" = "$sshd" ] && [ "$1" != "$leader" ]; } || continue
        cmdline=${cmdline#/proc/}
        leaders="$leaders ${cmdline%/cmdline}"
    done
}

# Sets $doomed to the living members of the leaders' sessions, all below them,
# and the sessions of these (sudo may put its command into one of its own). Who
# was doomed stays so, also when its parent is gone. A daemon that has left both
# before is spared.
find_doomed() {
    list_processes
    doomed= round=$((round + 1))
    for one in $leaders; do
        eval "[ \"\$mark_$one\" ]" || mark "$one" leader
    done
    # Again while some were found: a child may stand before its parent. (Nothing is
    # kept of the others, for long strings are slow in bash.)
    grown=yes
    while [ "$grown" ]; do
        grown=
        for process in $processes; do
            IFS=:
            # shellcheck disable=SC2086
            set -- $process
            judge "$@"
        done
        unset IFS
    done
}

# One of the list. A number that was marked is that process while it lives, and
# its session as long as this has members.
# shellcheck disable=SC2154
judge() {
    eval "old=\$mark_$1 above=\$round_$2 kin=\$mark_$3 seen=\$round_$1"
    if [ "$seen" = "$round" ]; then
        return
    elif [ "$above" = "$round" ] || [ "$kin" ] || [ "$old" = "$4" ] || [ "$old" = leader ]; then
        [ "$1" != $$ ] && [ "$1" != 1 ] || return 0
        [ "$old" = "$4" ] || mark "$1" "$4"
        eval "round_$1=$round"
        doomed="$doomed $1" grown=yes
    fi
}

mark() {
    eval "mark_$1=$2"
    marked="$marked $1"
}

pause() {
    if sleep 0.1 2>/dev/null; then
        tries=$((tries - 1))
    else
        sleep 1
        tries=$((tries - 10))
    fi
}

# Sets $now in hundredths of a second, from anywhere.
tell_time() {
    now=
    { read -r now rest; } 2>/dev/null </proc/uptime || return
    case $now in *.??) now=$((${now%.*} * 100 + 1${now#*.} - 100)) ;; *) now= ;; esac
}

# Waits until nothing doomed is left: $1 tenths of a second at most. Processes that it
# finds meanwhile get the signal $2, if there is one: while some are signalled, others
# may start more.
wait_for_doomed() {
    tries=$1
    tell_time
    until=${now:+$((now + tries * 10))}
    while [ "$doomed" ]; do
        # To list all processes costs much, to ask for one costs nothing. But one that is
        # gone answers until its parent has waited for it, and its children are not asked.
        [ "$2" ] && questions=1 || questions=5
        while pause; questions=$((questions - 1)); [ "$questions" -gt 0 ] && is_time_left && lives_any; do :; done
        find_doomed
        [ -z "$2" ] || signal_doomed "$2"
        is_time_left || break
    done
    [ -z "$doomed" ]
}

is_time_left() {
    # On a host with very many processes, looking takes time as well.
    [ -z "$until" ] || tell_time
    [ "$tries" -gt 0 ] && [ "${now:-0}" -lt "${until:-1}" ]
}

lives_any() {
    for pid in $doomed; do
        ! lives "$pid" || return 0
    done
    return 1
}

# kill(1) finds a zombie too, and a container whose init does not wait for its
# children is full of them.
lives() {
    kill -0 "$1" 2>/dev/null || return
    fields=
    { IFS= read -r fields; } 2>/dev/null <"/proc/$1/stat"
    case ${fields##*") "} in [XZ]*) return 1 ;; esac
}

signal_doomed() {
    for pid in $doomed; do
        kill -s "$1" "$pid" 2>/dev/null
    done
}

# TERM, and KILL after three seconds (KILL_AFTER in src/deadlines.rs).
end_commands() {
    doomed= marked=
    if [ "$leaders" ]; then
        find_doomed
        signal_doomed TERM
        if ! wait_for_doomed 30 ''; then
            signal_doomed KILL
            wait_for_doomed 10 KILL
        fi
        for pid in $marked; do
            unset "mark_$pid" "round_$pid"
        done
    fi
    say "ENDED$doomed"
}

# The dog wakes us when nobody has called it off for the time of the lease. It
# sleeps in pieces, so as not to outlive us for long if we are killed.
unleash_dog() {
    call_off_dog
    (
        # The trap may run as soon as sleep has been started.
        before=$!
        trap '[ "$!" = "$before" ] || kill "$!" 2>/dev/null; exit' USR1
        piece=$(((lease + 4) / 5))
        while [ "$lease" -gt 0 ]; do
            sleep "$piece" &
            wait "$!"
            lives $$ || exit
            lease=$((lease - piece))
        done
        # Somebody else may have our number by now.
        [ ! -r /proc/self/cmdline ] || grep -q orgalorg-guard "/proc/$$/cmdline" || exit
        kill -s ALRM $$
    ) </dev/null >/dev/null 2>&1 9<&- &
    dog=$!
}

# By a signal that we do not catch ourselves: a shell that has just been forked
# still has our traps for a moment, and loses what comes then. For the same
# reason the dog, which catches this one, ends its sleep by another.
call_off_dog() {
    [ -z "$dog" ] || kill -s USR1 "$dog" 2>/dev/null
    dog=
}

# Makes the run directory of an upload, for us alone. In a directory that
# somebody else has put there he could put things into ours. One that is there
# already is another's: two targets of a run may be one machine.
make_run_directory() {
    base=/tmp/orgalorg-$(id -un)
    [ "$(id -u)" != 0 ] || base=/var/run/orgalorg
    mkdir -p "${base%/*}" 2>/dev/null
    reason=$(mkdir -m 700 "$base" 2>&1)
    name=$1 number=1
    if [ -L "$base" ] || { [ -d "$base" ] && ! [ -O "$base" ]; }; then
        say "NORUNDIR $base belongs to somebody else"
    elif [ ! -d "$base" ]; then
        say "NORUNDIR $reason"
    else
        chmod 700 "$base"
        until reason=$(mkdir -m 700 "$base/$name" 2>&1); do
            if [ ! -e "$base/$name" ]; then
                say "NORUNDIR $reason"
                return
            fi
            number=$((number + 1)) name=$1-$number
        done
        run_directory=$base/$name
        say "RUNDIR $run_directory"
    fi
}

# What was uploaded for a run that has come to nothing is of no use to anybody.
remove_run_directory() {
    [ "$run_directory" ] || return
    # There may be directories in it that even their owner may not write to.
    chmod -R u+rwX "$run_directory" 2>/dev/null
    rm -rf "$run_directory"
}

# The client is gone. Its commands must not outlive it, and only then may the
# lock go.
leave() {
    trap '' ALRM TERM
    # We may come from anywhere.
    unset IFS
    call_off_dog
    # Nothing is started before we have said that we are ready, and an order that
    # came after that shows that our parent really was the connection's.
    if [ "$mode" != sweep ] && [ "$has_orders" ]; then
        learn || find_orphan
    fi
    end_commands
    remove_run_directory
    trap - EXIT
    exit 0
}

# Something needed a process and there was none (the commands may have taken all
# that their user may have), which ends a shell. Groups can be killed without, and
# then there should be room for the rest.
# shellcheck disable=SC2317 # called by a trap
fall() {
    trap - EXIT
    trap '' ALRM TERM
    [ "$mode" = sweep ] || [ "$has_started" ] || exit 1
    read_parent "/proc/$leader/stat"
    if [ "$parent" = "$sshd" ]; then
        for stat in /proc/[0-9]*/stat; do
            read_parent "$stat"
            one=${stat#/proc/}
            one=${one%/stat}
            [ "$parent" != "$sshd" ] || [ "$one" = "$leader" ] || leaders="$leaders $one"
        done
    fi
    unset IFS
    for one in $leaders; do
        # Not all take the same of these.
        kill -s KILL -- "-$one" 2>/dev/null || kill -s KILL "-$one" 2>/dev/null
    done
    tell_time
    until=${now:+$((now + 30))}
    while [ "$now" ] && [ "$now" -lt "$until" ]; do tell_time; done
    end_commands
    exit 1
}

# Without a process of its own, and slow.
# shellcheck disable=SC2317 # called by `fall`
read_parent() {
    parent= line=
    { IFS= read -r line; } 2>/dev/null <"$1"
    line=${line#*") "?" "}
    parent=${line%% *}
}

# The lock target as a thing, whatever it is called: two targets of a run may be
# one machine.
identity() {
    read -r boot 2>/dev/null </proc/sys/kernel/random/boot_id || boot=
    printf '%s:%s' "$boot" "$(stat -L -c %d:%i -- "$path" 2>/dev/null)"
}

# Who holds it: other guards of this host have it in their command lines.
holder() {
    own=$(words_of "/proc/$$")
    # shellcheck disable=SC2013
    for process in $(grep -l orgalorg-guard /proc/[0-9]*/cmdline 2>/dev/null); do
        process=${process%/cmdline}
        words=$(words_of "$process")
        # Our children have our command line, and the sudo above us ends with it.
        [ "$words" != "$own" ] || continue
        printf '%s\n' "$words" | {
            read -r name
            # shellcheck disable=SC2034
            for skipped in leader sshd connection mode make lease; do read -r skipped; done
            IFS= read -r its_who
            # shellcheck disable=SC2030
            IFS= read -r its_path
            [ "$name" = orgalorg-guard ] && holds_it && printf '%s' "$its_who"
        } && return
    done
}

# The name of a guard and its arguments, a line each.
words_of() {
    tr '\n\000' ' \n' 2>/dev/null <"$1/cmdline" | tail -n 9
}

# Whether that process has our lock target open; where we may not look, whether it
# calls it by the same name. (A guard that is refused the lock closes it first.)
# shellcheck disable=SC2031 # runs in the subshell that reads the words
holds_it() {
    if [ -r "$process/fd" ]; then
        [ "$process/fd/9" -ef "$path" ]
    else
        [ "$its_path" = "$(printf %s "$path" | tr '\n' ' ')" ]
    fi
}

refuse() {
    say "$1"
    call_off_dog
    exit 1
}

take_lock() {
    command -v flock >/dev/null 2>&1 || refuse "NOFLOCK"
    reason=
    if [ ! -e "$path" ]; then
        # The reason is the end of what is said.
        case $make in
            file) reason=$({ LC_ALL=C && command : >>"$path"; } 2>&1) ;;
            directory) reason=$(LC_ALL=C mkdir -p -- "$path" 2>&1) ;;
        esac
        reason=${reason##*: }
    fi
    shown="'$(printf %s "$path" | tr '\n' ' ')'"
    if [ ! -e "$path" ] && [ "$reason" ]; then
        refuse "FORBIDDEN $shown is not there, and cannot be made: $reason"
    elif [ ! -e "$path" ]; then
        refuse "NOTARGET $shown is not there"
    # Nothing else: opening a FIFO would wait for ever.
    elif [ ! -f "$path" ] && [ ! -d "$path" ]; then
        refuse "NOTARGET $shown is neither a file nor a directory"
    fi
    # "command", because a special builtin that fails ends a POSIX shell.
    { command exec 9<"$path"; } 2>/dev/null ||
        refuse "FORBIDDEN $shown cannot be opened by $(id -un)"
    if flock -n 9; then
        locked=yes
        say "LOCKED $(identity)"
    else
        identity=$(identity)
        exec 9<&-
        refuse "HELD $identity $(holder)"
    fi
}

trap '' HUP PIPE INT QUIT
trap leave ALRM TERM
trap fall EXIT
# What the login shell has said before is no answer.
say '[orgalorg-begins]'
if [ "$mode" = sweep ]; then
    # There is no order to show it.
    case $(cat "/proc/$sshd/comm" 2>/dev/null) in '' | *ssh* | *bear*) ;; *) sshd=none ;; esac
    learn
    find_dogs
    leave
fi
unleash_dog
[ "$mode" != flock ] || take_lock
say "READY"

while IFS= read -r order; do
    has_orders=yes
    case $order in
        BEAT*)
            # "command eval", because dash and BusyBox go on then if there are no
            # processes left for a moment.
            command eval 'unleash_dog; learn'
            if [ "$locked" ] && [ -e /proc/self/fd/9 ] &&
                ! [ "$path" -ef /proc/self/fd/9 ]; then
                say "REPLACED"
                locked=
            fi
            say "$order"
            ;;
        STARTING) expect_command ;;
        STARTED) command eval learn ;;
        # By itself: what it has left is left on purpose.
        FINISHED) leaders= pending= ;;
        STOP)
            call_off_dog
            learn
            end_commands
            unleash_dog
            ;;
        RUNDIR*) make_run_directory "${order#RUNDIR }" ;;
        KEEP) left_directory=$run_directory run_directory= ;;
        DONE)
            trap '' ALRM TERM
            call_off_dog
            remove_run_directory
            if [ "$left_directory" ] && [ "$(ls -A "$left_directory" 2>/dev/null)" ]; then
                say "LEFT $left_directory"
            fi
            trap - EXIT
            exit 0
            ;;
    esac
done
leave
