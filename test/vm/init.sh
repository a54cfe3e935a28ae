#!/bin/busybox sh
# Process 1 of the guest: makes this host's files its own (read-only, changes go to memory), runs /run/vm/script in
# there, reports its exit status on the console and powers off.

/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /tree /layers /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

# Ends the guest even when whoever started it is gone.
(sleep 1200; poweroff -f) &

for module in $(cat /modules/order); do
	insmod "/modules/$module" || echo "goccid-vm: can't load $module"
done

mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /host
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose tree /tree
mount -t tmpfs tmpfs /layers
mkdir /layers/upper /layers/work
mount -t overlay -o "lowerdir=/tree:/host,upperdir=/layers/upper,workdir=/layers/work" overlay /root

mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t debugfs debugfs /root/sys/kernel/debug
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t tmpfs tmpfs /root/run
mkdir /root/run/vm
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /root/run/vm
ip link set lo up
hostname goccid-vm

# Signs of life, for the host to tell a machine that froze from a test that takes long.
(while sleep 5; do echo 'goccid-vm: alive'; done) &

# An empty line first: the firmware and the script may have left the cursor behind some text.
printf '\ngoccid-vm: booted\n'
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot /root /bin/bash /run/vm/script </dev/null
printf '\ngoccid-vm: exit %d\n' $?
poweroff -f
