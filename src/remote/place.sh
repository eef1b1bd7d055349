# Puts the files of a run directory in place on this host (see place.rs).
#
#   sh -c <this> orgalorg-place <dir> <root> <id>
#
#   dir     the run directory
#   root    what to place them under: / (but for tests)
#   id      a word that nothing on this host has in its name
#
# In each directory that is there already, what is to come is first copied into a
# new directory of ours, and renamed from there when all copies have been made:
# what cannot work out fails before anything has changed. What is not there yet
# comes whole, with all that is below it. Names may be anything, so they are
# found by patterns, and go to other programs by the hundred.
#
# Needs a POSIX sh, and cp, mv and the like of GNU or BusyBox.
dir=$1 root=${2%/} id=$3
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
is_shared() {
    is_directory "$1" && [ -d "$2" ]
}

conflict() {
    conflicts=$((conflicts + 1))
    [ "$conflicts" -gt 20 ] || say "can't put '$1' in place: $2 is in the way"
}

check() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        exists "$entry" || continue
        target=$root$1/${entry##*/}
        if is_shared "$entry" "$target"; then
            # Patterns would find nothing there.
            [ -r "$entry" ] && [ -x "$entry" ] || fail "can't read '$dir/$entry'"
            check "$1/${entry##*/}"
        elif is_directory "$entry"; then
            ! exists "$target" || conflict "$target" 'something that is no directory'
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
        is_shared "$entry" "$root$1/${entry##*/}" && continue
        set -- "$@" "$entry"
        [ $# -lt 200 ] || { copy "$@"; set -- "$1"; }
    done
    [ $# = 1 ] || copy "$@"
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        is_shared "$entry" "$root$1/${entry##*/}" && stage "$1/${entry##*/}"
    done
}

# Two directories may be one, by a link. But this must be ours.
copy() {
    staging=$root$1/.orgalorg-$id
    if ! is_directory "$staging" || [ ! -O "$staging" ]; then
        mkdir -m 700 "$staging" || fail "can't write to '$root$1/'"
    fi
    shift
    cp -dpR "$@" "$staging/" || fail "can't copy what belongs to '${staging%/*}/'"
}

# What was one file with several names shall be that again; cp sees to it only
# for what it copies at once. $2 is where this directory has been copied to.
relink() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        exists "$entry" || continue
        target=$root$1/${entry##*/}
        if is_shared "$entry" "$target"; then
            relink "$1/${entry##*/}" "$target/.orgalorg-$id"
        elif is_directory "$entry"; then
            relink "$1/${entry##*/}" "$2/${entry##*/}"
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
    for number in $(stat -c %h:%i "$@" 2>/dev/null); do
        entry=$1 copy=$staging/${1##*/}
        shift
        case $number in 1:*) continue ;; esac
        eval "first=\${inode_${number#*:}-}"
        if [ -z "$first" ]; then
            eval "inode_${number#*:}=\$copy"
        elif ! [ "$first" -ef "$copy" ]; then
            rm -f "$copy"
            ln "$first" "$copy" 2>/dev/null || cp -dp "$entry" "$copy" ||
                fail "can't copy what belongs to '${staging%/*}/'"
            joined=yes
        fi
    done
    [ -z "$joined" ] || touch -r ".$from" "$staging"
}

# From below, for what is new here must not be walked into.
commit() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        is_shared "$entry" "$root$1/${entry##*/}" && commit "$1/${entry##*/}"
    done
    set -- "$root$1" "$root$1/.orgalorg-$id"
    is_directory "$2" || return
    for entry in "$2"/* "$2"/.[!.]* "$2"/..?*; do
        exists "$entry" || continue
        if is_directory "$entry" && [ ! -w "$entry" ]; then
            # Only who may write to a directory may move it elsewhere.
            chmod u+w "$entry"
            move "$1" "$2" "$entry"
            chmod u-w "$1/${entry##*/}"
            continue
        fi
        set -- "$@" "$entry"
        [ $# -lt 200 ] || { move "$@"; set -- "$1" "$2"; }
    done
    [ $# = 2 ] || move "$@"
    rmdir "$2"
}

move() {
    target=$1
    shift 2
    mv -f "$@" "$target/" || fail "can't put files in place in '$target/'"
}

discard() {
    for entry in ".$1"/* ".$1"/.[!.]* ".$1"/..?*; do
        is_shared "$entry" "$root$1/${entry##*/}" && discard "$1/${entry##*/}"
    done
    set -- "$root$1/.orgalorg-$id"
    is_directory "$1" && [ -O "$1" ] && remove "$1"
}

# Also directories that may not be written to.
remove() {
    chmod -R u+rwX "$1" 2>/dev/null
    rm -rf "$1"
}

fail() {
    trap '' HUP INT TERM
    discard ''
    say "$1; $changed"
    exit 1
}

trap '' PIPE
cd "$dir" || exit
conflicts=0 changed='nothing has been changed'
check ''
[ "$conflicts" -le 20 ] || say "... and $((conflicts - 20)) more like these"
[ "$conflicts" = 0 ] || { say "$changed"; exit 1; }
trap 'fail stopped' HUP INT TERM
stage ''
[ -z "$(find . -type f -links +1 | head -c 1)" ] || relink '' "$root/.orgalorg-$id"
# All or nothing from here on.
trap '' HUP INT TERM
changed='some files may be in place, others are not'
commit ''
exit 0
