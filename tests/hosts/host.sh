# The init of one host: builds the host around itself and runs sshd in it.
# The host ends when this process ends.
#
#     host.sh DIR NAME LINK MAC ADDRESS ADDRESS6
#
# Descriptor 9 is the supervisor's network namespace.
#
# shellcheck shell=sh
# SC2154: settings.sh sets $sshd, $client_mac and $host_keys.
# shellcheck disable=SC2154

set -eu
dir=$1 name=$2 link=$3 mac=$4 address=$5 address6=$6
root=$dir/root

exec </dev/null >>"$dir/log/$name" 2>&1
trap 'echo "host $name ended"' EXIT
# shellcheck source=/dev/null
. "$dir/settings.sh"

echo "$name" >/proc/sys/kernel/hostname

# The wire: LINK on the bridge, eth0 here.
exec 8</proc/self/ns/net
nsenter --net=/proc/self/fd/9 ip link add name "$link" master br0 up \
    type veth peer name eth0 address "$mac" netns /proc/self/fd/8
exec 8<&- 9<&-
ip -batch - <<END
link set lo up
addr add $address/16 dev eth0
addr add $address6/64 dev eth0 nodad
link set eth0 up
neigh add 10.77.0.1 lladdr $client_mac dev eth0 nud permanent
neigh add fd00:77::1 lladdr $client_mac dev eth0 nud permanent
END

# The file system. Every host uses the same mount point, each in its own mount
# namespace.
mount -t tmpfs -o mode=755 host "$root"
cp -a "$dir/template/." "$root"
if [ -d /etc/alternatives ]; then
    (cd /etc/alternatives && xargs -r cp -a -t "$root/etc/alternatives" <"$dir/alternatives")
fi
mount --bind "$dir/usr" "$root/usr"
mount -t proc proc "$root/proc"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
cd "$root"
pivot_root . mnt
umount -l /mnt
echo "$name" >/etc/hostname

case $host_keys in
*ed25519*) ssh-keygen -q -t ed25519 -N '' -C "root@$name" -f /etc/ssh/ssh_host_ed25519_key ;;
esac

# Not `exec`: as init this shell reaps what sshd's sessions leave behind.
"$sshd" -D -e
