#!/bin/sh
# Boots systemd over a copy of this machine's files that is gone with it: in the network that it is
# started in, and in other namespaces of its own. Nothing but the journal starts by itself.
#
# unshare --mount --propagation private sh boot.sh DIRECTORY CONTROL-GROUP
# unshare --mount --propagation private sh boot.sh DIRECTORY CONTROL-GROUP remove
set -eu
work=$1 group=$2 step=${3-begin}

if [ "$step" != inside ]; then
    # Wherever this machine has them, if it does.
    mount -t tmpfs tmpfs "$work"
    mkdir "$work/groups"
    mount -t cgroup2 cgroup2 "$work/groups"
    group=$work/groups/$group
fi
case $step in
begin)
    # A namespace of control groups begins with the one that it is made in.
    mkdir "$group"
    echo $$ > "$group/cgroup.procs"
    exec unshare --pid --fork --kill-child --cgroup --ipc --uts sh "$0" "$work" "$2" inside
    ;;
remove)
    exec find "$group" -depth -type d -exec rmdir {} +
    ;;
esac

root=$work/root
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
mount -t proc proc "$root/proc"
# Read-only, as in any container: devices are this machine's.
mount -t sysfs sysfs "$root/sys"
mount -o remount,bind,ro "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"

units=$root/usr/lib/systemd
rm -rf "$root"/etc/systemd/system/* "$units"/system-generators/*
find "$units"/system/*.wants -type l ! -name '*journald*' -delete
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf.d/test.conf"
: > "$root/etc/fstab"
echo gateway > "$root/etc/hostname"
# With none systemd believes that this is the first boot of all, and asks.
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
rm -rf "$root/etc/lockgate" "$root/var/lib/lockgate" "$root/var/log/lockgate"

cd "$root"
pivot_root . mnt
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . \
    sh -c 'umount -l /mnt && exec /lib/systemd/systemd --unit=basic.target --log-target=journal'
