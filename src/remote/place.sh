# Puts the files of a run directory in place on this host (see place.rs).
#
#   sh -c <this> orgalorg-place <dir> <root>
#
#   dir     the run directory
#   root    what to place them under: / (but for tests)
#
# In each directory that is there already, what is to come is first copied into a
# new directory of ours, and renamed from there when all copies have been made:
# what cannot work out fails before anything has changed. What is not there yet
# comes whole, with all that is below it. Names may be anything, so they are
# found by patterns, and go to other programs by the hundred.
#
# Another target of the run may be this machine, too, and do the same at the same
# time.
#
# Needs a POSIX sh, and cp, mv and the like of GNU or BusyBox.
#
# shellcheck shell=sh
dir=$1 root=${2%/}
LC_ALL=C
export LC_ALL
unset GLOBIGNORE

say() {
    printf '%s\n' "$1" >&2
}

# A pattern that matches nothing stands for itself, and is nothing.
exists() {
    [ -e "$1" ] || [ -L "$1" ]
}

is_directory() {
    [ -d "$1" ] && [ ! -L "$1" ]
}

# Of all functions that walk, $1 is the directory below $dir and $root alike.
# Only directories on both sides are walked into; on ours a link to one will do.
# Which these are is seen once, by "check", and remembered by number, as all walk
# in the same order.
is_shared() {
    is_directory "$1" || return
    number=$((number + 1))
    eval "[ \"\$shared_$number\" ]"
}

see_whether_shared() {
    number=$((number + 1))
    if [ -d "$1" ]; then eval "shared_$number=yes"; else eval "shared_$number="; fi
    [ -d "$1" ]
}

conflict() {
    conflicts=$((conflicts + 1))
    [ "$conflicts" -gt 20 ] || say "can't put '$1' in place: $2 is in the way"
}

check() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        exists "$entry" || continue
        target=$root$1/${entry##*/}
        if is_directory "$entry"; then
            if see_whether_shared "$target"; then
                # Patterns would find nothing there.
                { [ -r "$entry" ] && [ -x "$entry" ]; } || fail "can't read '$dir/$entry'"
                check "$1/${entry##*/}"
            elif exists "$target"; then
                conflict "$target" 'something that is no directory'
            fi
        elif is_directory "$target"; then
            conflict "$target" 'a directory'
        elif [ -L "$target" ] && [ ! -L "$entry" ]; then
            conflict "$target" 'a symbolic link'
        fi
    done
}

stage() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        exists "$entry" || continue
        if is_shared "$entry"; then
            stage "$1/${entry##*/}"
            continue
        fi
        set -- "$@" "$entry"
        [ $# -lt 200 ] || { copy "$@"; set -- "$1"; }
    done
    [ $# = 1 ] || copy "$@"
}

copy() {
    staging=$root$1/.orgalorg-$id
    if ! is_ours "$staging"; then
        mkdir -m 700 "$staging" || fail "can't write to '$root$1/'"
        eval "staging_$(stat -c %d_%i "$staging" 2>/dev/null)=ours"
    fi
    shift
    cp -dpR "$@" "$staging/" || fail "can't copy what belongs to '${staging%/*}/'"
}

# Whether we have made this staging directory: somebody else may have seen its name and
# made one. (Of two directories that are one, by a link, the second has ours already.)
is_ours() {
    is_directory "$1" && eval "[ \"\$staging_$(stat -c %d_%i "$1" 2>/dev/null)\" ]"
}

# What was one file with several names shall be that again; cp sees to it only
# for what it copies at once. $2 is where this directory has been copied to, and
# $depth how far it is below one that is shared.
relink() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        exists "$entry" || continue
        if [ "$depth" = 0 ] && is_shared "$entry"; then
            relink "$1/${entry##*/}" "$root$1/${entry##*/}/.orgalorg-$id"
        elif is_directory "$entry"; then
            depth=$((depth + 1))
            relink "$1/${entry##*/}" "$2/${entry##*/}"
            depth=$((depth - 1))
        elif [ -f "$entry" ] && [ ! -L "$entry" ]; then
            set -- "$@" "$entry"
            [ $# -lt 200 ] || { join "$@"; set -- "$1" "$2"; }
        fi
    done
    [ $# = 2 ] || join "$@"
}

join() {
    from=$1 staging=$2 joined=
    shift 2
    for inode in $(stat -c %h:%i "$@" 2>/dev/null); do
        entry=$1 copy=$staging/${1##*/}
        shift
        case $inode in 1:*) continue ;; esac
        eval "first=\${inode_${inode#*:}-}"
        if [ -z "$first" ]; then
            eval "inode_${inode#*:}=\$copy"
        elif ! [ "$first" -ef "$copy" ]; then
            rm -f "$copy"
            ln "$first" "$copy" 2>/dev/null || cp -dp "$entry" "$copy" ||
                fail "can't copy what belongs to '${staging%/*}/'"
            joined=yes
        fi
    done
    [ -z "$joined" ] || touch -r ".$from" "$staging"
}

commit() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        is_shared "$entry" && commit "$1/${entry##*/}"
    done
    set -- "$root$1/.orgalorg-$id" "$root$1"
    is_ours "$1" && empty "$1" "$2"
}

# Moves all that is in one directory to another one.
empty() {
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        exists "$entry" || continue
        if is_directory "$entry" && [ ! -w "$entry" ]; then
            # Only a directory that we may write to can be moved elsewhere.
            chmod u+w "$entry"
            move "$1" "$2" "$entry"
            chmod u-w "$2/${entry##*/}"
            continue
        fi
        set -- "$@" "$entry"
        [ $# -lt 200 ] || { move "$@"; set -- "$1" "$2"; }
    done
    [ $# = 2 ] || move "$@"
    rmdir "$1"
}

# Another target may have put a directory there meanwhile: what is in ours goes
# into it then. And mv gives the second name of a file to what has the first one,
# which may be ours although it was the other's.
move() {
    target=$2
    shift 2
    if said=$(mv -f "$@" "$target/" 2>&1); then
        [ -z "$said" ] || say "$said"
        return
    fi
    for entry; do
        if is_directory "$entry" && [ -d "$target/${entry##*/}" ]; then
            (empty "$entry" "$target/${entry##*/}") || exit
        elif [ -f "$entry" ] && [ ! -L "$entry" ] && [ "$entry" -ef "$target/${entry##*/}" ]; then
            rm -f "$entry"
        elif exists "$entry"; then
            say "$said"
            fail "can't put files in place in '$target/'"
        fi
    done
}

discard() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        is_shared "$entry" && discard "$1/${entry##*/}"
    done
    set -- "$root$1/.orgalorg-$id"
    is_ours "$1" && remove "$1"
}

# Also directories that may not be written to.
remove() {
    chmod -R u+rwX "$1" 2>/dev/null
    rm -rf "$1"
}

# One after the other, where that can be had: what was one file with several names
# would become two if some came from here and some from there.
wait_for_turn() {
    command -v flock >/dev/null 2>&1 || return
    # "command", because a special builtin that fails ends a POSIX shell.
    { command exec 9<..; } 2>/dev/null && flock 9
}

fail() {
    trap '' HUP INT TERM
    number=0
    discard ''
    say "$1; $changed"
    exit 1
}

trap '' PIPE
cd "$dir" || exit
id=$(mktemp -u XXXXXXXXXX) || exit
wait_for_turn
conflicts=0 changed='nothing has been changed'
number=0
check ''
[ "$conflicts" -le 20 ] || say "... and $((conflicts - 20)) more like these"
[ "$conflicts" = 0 ] || { say "something is in the way; $changed"; exit 1; }
trap 'fail stopped' HUP INT TERM
number=0
stage ''
number=0 depth=0
[ -z "$(find . -type f -links +1 2>/dev/null | head -c 1)" ] || relink '' "$root/.orgalorg-$id"
# All or nothing from here on.
trap '' HUP INT TERM
changed='some files may be in place, others are not'
number=0
commit ''
exit 0
