# The outermost process of a set of test hosts: keeps the supervisor, and
# tidies up behind it.
#
#     keeper.sh DIR
#
# Standard input is a pipe from the test process. It ends when that process
# ends, in whichever way, and with it the supervisor.
#
# shellcheck shell=sh

dir=$1

unshare --net --mount --pid --fork --kill-child sh "$dir/supervisor.sh" "$dir"

# The hosts ended with the supervisor's PID namespace. The programs under test
# only shared its network, so those that are still there have to be found.
network=$(sed 's/[^0-9]//g' "$dir/network")
if [ -n "$network" ]; then
    stat -L -c '%i %n' /proc/[0-9]*/ns/net 2>/dev/null |
        while read -r inode path; do
            [ "$inode" = "$network" ] || continue
            pid=${path#/proc/}
            kill -KILL "${pid%%/*}" 2>/dev/null
        done
fi

# Quiet, for nobody may be left to read it.
rm -rf --one-file-system "$dir" 2>/dev/null
