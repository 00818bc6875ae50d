#!/bin/busybox sh
# shellcheck shell=dash
# PID 1 of the guest until the host's root is there: read-only over 9p, a tmpfs on top for writing.
# The kernel's command line brings TINYSPLIT_PYTHON and TINYSPLIT_REPOSITORY into the environment.
# An end of this script is a kernel panic, and that is how the host learns of it.
set -e
export PATH=/bin
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module"
done </order
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
mount -t tmpfs tmpfs /top
mkdir /top/upper /top/work
mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work overlay /root
for place in proc sys dev; do
    mount --move "/$place" "/root/$place"
done
mount -t tmpfs tmpfs /root/run
mkdir /root/run/lane
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 lane /root/run/lane
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
exec /bin/busybox switch_root /root "$TINYSPLIT_PYTHON" "$TINYSPLIT_REPOSITORY/tests/radio/guest/start.py"
