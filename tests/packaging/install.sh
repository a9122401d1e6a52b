#!/bin/sh
# Installs a package, runs what it has brought, removes it, and looks for what is left: on a copy of
# this machine's files that is gone with the script, in namespaces of its own.
#
# unshare --mount --net --propagation private sh install.sh PACKAGE DIRECTORY
set -eu
package=$1 work=$2

mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
root=$work/root
mount --rbind /dev "$root/dev"
mount --bind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
cp "$package" "$root/run/lockgate.deb"
ip link set lo up

# Without what would start services, or speak to the machine's own.
in_root() (
    exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
)
in_root dpkg --install /run/lockgate.deb
in_root lockgate check
in_root sh -c 'getent passwd lockgate'
in_root sh -c 'test -s /usr/share/bash-completion/completions/lockgate && man -w lockgate-run'

# As the unit does, with what systemd would make.
in_root install -d -o lockgate -g lockgate /run/lockgate /var/lib/lockgate
capabilities=+net_bind_service,+net_admin,+net_raw,+sys_nice,+ipc_lock,+dac_read_search
bounds=-all,$capabilities
# One process, so that it can be told to stop.
(exec chroot "$root" setpriv --reuid lockgate --regid lockgate --clear-groups --no-new-privs \
    --inh-caps "$capabilities" --ambient-caps "$capabilities" --bounding-set "$bounds" \
    lockgate run) &
gateway=$!
trap 'kill -9 $gateway 2> /dev/null || true' EXIT
tries=0
until in_root lockgate status > "$work/status"; do
    tries=$((tries + 1))
    test $tries -lt 150 || exit 1
    sleep 0.2
done
grep -q web "$work/status"
grep -q "^Uid:[[:space:]]*$(in_root id -u lockgate)" "/proc/$gateway/status"
kill -TERM $gateway
wait $gateway
trap - EXIT

in_root dpkg --purge lockgate
if in_root getent passwd lockgate; then
    echo "the user is left" && exit 1
fi
# What dpkg knows of all packages that were ever there, and the remains of files that were removed.
left=$(find "$work/upper" -name '*lockgate*' ! -type c ! -path '*/var/cache/*' | sed "s|^$work/upper||")
echo "left: [$left]"
test -z "$left"
test ! -e "$root/etc/lockgate"
