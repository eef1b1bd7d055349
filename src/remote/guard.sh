# Holds the lock on this host, and ends what was started on it (see guard.rs).
#
#   sh -c 'eval "$(head -c <length of this>)"' orgalorg-guard \
#       <leader> <sshd> <mode> <make> <lease> <who> <path>
#
#   leader  the process that sshd started for this channel
#   sshd    the sshd process of this connection: its other children are commands
#   mode    lock; none, which only ends commands; sweep, which ends them at once
#   make    what to create if there is nothing to lock: file, directory, nothing
#   lease   seconds without a heartbeat after which the client counts as gone
#   who     the holder, for people
#   path    what to lock
#
# Needs a POSIX sh, any flock, and /proc or a ps that knows -A and -o.
leader=$1 sshd=$2 mode=$3 make=$4 lease=$5 who=$6 path=$7
leaders= dog= locked= run_directory= left_directory=

say() {
    printf '%s\n' "$1"
}

# Sets $processes to "pid parent session ..." of all living processes.
list_processes() {
    processes=
    if [ -r /proc/self/stat ]; then
        for stat in /proc/[0-9]*/stat; do
            { IFS= read -r line <"$stat"; } 2>/dev/null || continue
            pid=${line%% *}
            # After the name, which stands in parentheses and may be anything.
            set -f
            set -- ${line##*") "}
            set +f
            [ "$1" = Z ] || processes="$processes $pid $2 $4"
        done
    else
        processes=$(ps -A -o pid= -o ppid= -o sess= | tr '\n' ' ')
    fi
}

# Adds what sshd has started since the last time. This must happen while the
# connection lives: the sshd process goes with it, and its children become
# init's.
learn() {
    list_processes
    set -- $processes
    while [ $# -ge 3 ]; do
        if [ "$2" = "$sshd" ] && [ "$1" != "$leader" ]; then
            case " $leaders " in
                *" $1 "*) ;;
                *) leaders="$leaders $1" ;;
            esac
        fi
        shift 3
    done
}

# Sets $doomed to the living members of the leaders' sessions and all below them
# (sudo may put its command into a session of its own). A daemon that has left
# both is spared.
find_doomed() {
    list_processes
    doomed= family=" $leaders " grown=yes
    while [ "$grown" ]; do
        grown=
        set -- $processes
        while [ $# -ge 3 ]; do
            is_one=
            case $family in *" $1 "* | *" $2 "*) is_one=yes ;; esac
            case " $leaders " in *" $3 "*) is_one=yes ;; esac
            case " $doomed " in *" $1 "*) is_one= ;; esac
            if [ "$is_one" ] && [ "$1" != $$ ]; then
                family="$family$1 " doomed="$doomed $1" grown=yes
            fi
            shift 3
        done
    done
}

# Waits until nothing doomed is left, for about so many tenths of a second, and
# sends a signal, if one is named, again and again: while some are signalled,
# others may start more.
wait_for_doomed() {
    tenths=$1
    while find_doomed; [ "$doomed" ]; do
        [ -z "$2" ] || signal_doomed "$2"
        [ "$tenths" -gt 0 ] || return 1
        if sleep 0.1 2>/dev/null; then
            tenths=$((tenths - 1))
        else
            sleep 1
            tenths=$((tenths - 10))
        fi
    done
}

signal_doomed() {
    for pid in $doomed; do
        kill -s "$1" "$pid" 2>/dev/null
    done
}

# TERM, and KILL after three seconds.
end_commands() {
    doomed=
    if [ "$leaders" ]; then
        find_doomed
        signal_doomed TERM
        if ! wait_for_doomed 30 ''; then
            wait_for_doomed 10 KILL
        fi
    fi
    say "ENDED$doomed"
}

# The dog wakes us when nobody has called it off for the time of the lease.
unleash_dog() {
    call_off_dog
    (
        # The trap may run as soon as sleep has been started.
        before=$!
        trap '[ "$!" = "$before" ] || kill "$!" 2>/dev/null; exit' USR1
        sleep "$lease" &
        wait "$!"
        # If we were killed, somebody else may have our number by now.
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
}

# Makes the run directory of an upload, for us alone. In a directory that
# somebody else has put there he could put things into ours.
make_run_directory() {
    base=/tmp/orgalorg-$(id -un)
    [ "$(id -u)" != 0 ] || base=/var/run/orgalorg
    mkdir -p "${base%/*}" 2>/dev/null
    reason=$(mkdir -m 700 "$base" 2>&1)
    if [ -L "$base" ] || { [ -d "$base" ] && ! [ -O "$base" ]; }; then
        say "NORUNDIR $base belongs to somebody else"
    elif [ ! -d "$base" ]; then
        say "NORUNDIR $reason"
    elif chmod 700 "$base" && reason=$(mkdir -m 700 "$base/$1" 2>&1); then
        run_directory=$base/$1
        say "RUNDIR $run_directory"
    else
        say "NORUNDIR $reason"
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
    call_off_dog
    end_commands
    remove_run_directory
    exit 0
}

# The lock target as a thing, whatever it is called: two targets of a run may be
# one machine.
identity() {
    read -r boot 2>/dev/null </proc/sys/kernel/random/boot_id || boot=
    printf '%s:%s' "$boot" "$(stat -L -c %d:%i -- "$path" 2>/dev/null)"
}

# Who holds it: other guards of this host have it in their command lines.
holder() {
    for cmdline in $(grep -l orgalorg-guard /proc/[0-9]*/cmdline 2>/dev/null); do
        [ "$cmdline" != "/proc/$$/cmdline" ] || continue
        tr '\n\000' ' \n' 2>/dev/null <"$cmdline" | tail -n 8 | {
            read -r name
            for skipped in leader sshd mode make lease; do read -r skipped; done
            IFS= read -r its_who
            IFS= read -r its_path
            [ "$name" = orgalorg-guard ] && [ "$its_path" = "$(printf %s "$path" | tr '\n' ' ')" ] &&
                printf '%s' "$its_who"
        } && return
    done
}

refuse() {
    say "$1"
    call_off_dog
    exit 1
}

take_lock() {
    command -v flock >/dev/null 2>&1 || refuse "NOFLOCK"
    if [ ! -e "$path" ]; then
        case $make in
            file) { command : >>"$path"; } 2>/dev/null ;;
            directory) mkdir -p -- "$path" 2>/dev/null ;;
        esac
    fi
    # Nothing else: opening a FIFO would wait for ever.
    if [ ! -f "$path" ] && [ ! -d "$path" ]; then
        refuse "NOTARGET"
    fi
    # "command", because a special builtin that fails ends a POSIX shell.
    { command exec 9<"$path"; } 2>/dev/null || refuse "UNREADABLE"
    if flock -n 9; then
        locked=yes
        say "LOCKED $(identity)"
    else
        refuse "HELD $(identity) $(holder)"
    fi
}

trap '' HUP PIPE INT QUIT
trap leave ALRM TERM
if [ "$mode" = sweep ]; then
    learn
    leave
fi
unleash_dog
[ "$mode" != lock ] || take_lock
say "READY"

while IFS= read -r order; do
    case $order in
        BEAT*)
            unleash_dog
            learn
            if [ "$locked" ] && [ -e /proc/self/fd/9 ] &&
                ! [ "$path" -ef /proc/self/fd/9 ]; then
                say "REPLACED"
                locked=
            fi
            say "$order"
            ;;
        STARTED) learn ;;
        STOP)
            learn
            end_commands
            ;;
        RUNDIR*) make_run_directory "${order#RUNDIR }" ;;
        KEEP) left_directory=$run_directory run_directory= ;;
        LOOK)
            if [ "$left_directory" ] && [ "$(ls -A "$left_directory" 2>/dev/null)" ]; then
                say "LEFT $left_directory"
            else
                say "NOTHING LEFT"
            fi
            ;;
        DONE)
            trap '' ALRM TERM
            call_off_dog
            remove_run_directory
            exit 0
            ;;
    esac
done
leave
