# The init of the supervisor's PID namespace: sets up the network and the
# file-system view that the programs under test run in, starts the hosts, and
# ends (and with it every host) at the end of its standard input.
#
#     supervisor.sh DIR
#
# /proc stays the machine's: programs under test share this mount namespace but
# not the PID namespace, and would find no /proc/self in a /proc of its own.
#
# shellcheck shell=sh

set -eu
dir=$1

# Nothing but the last line may hold the pipe that tells when to end.
exec 3<&0 </dev/null

readlink /proc/self/ns/net >"$dir/network"

# What the machine knows about users, hosts and ssh must not change a test.
for file in hosts passwd nsswitch.conf ssh; do
    if [ -e "/etc/$file" ]; then
        mount --bind "$dir/client/$file" "/etc/$file"
    fi
done

ip -batch "$dir/bridge.batch"

# One read-only view of /usr, which all hosts clone.
mount --bind /usr "$dir/usr"
mount -o remount,bind,ro "$dir/usr"

exec 9</proc/self/ns/net
while read -r name link mac address address6; do
    unshare --net --mount --pid --uts --ipc --fork --kill-child \
        sh "$dir/host.sh" "$dir" "$name" "$link" "$mac" "$address" "$address6" 3<&- &
done <"$dir/hosts.list"
exec 9<&-

# `wait`, and not `cat` in the foreground, so that ended hosts are reaped.
cat <&3 >/dev/null &
exec 3<&-
wait $!
