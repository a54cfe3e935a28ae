# export_reader READY DONE: exports the reader by the kernel's usbip-host, says so by making the file READY, and goes on, also
# when it is plugged in anew, until the file DONE is there.
export_reader() {
	modprobe --all virtio_net usbip-host
	busybox ip address add 10.0.2.15/24 dev eth0
	busybox ip link set eth0 up
	usbipd --ipv4 --daemon --pid=/run/usbipd.pid
	bind_readers
	touch "$1"
	until [ -e "$2" ]; do
		bind_readers
		sleep 0.2
	done
	kill "$(cat /run/usbipd.pid)"
	modprobe --remove usbip-host
}

# bind_readers gives QEMU's reader to usbip-host, wherever it is plugged in.
bind_readers() {
	local device
	for device in /sys/bus/usb/devices/*; do
		[ "$(cat "$device/idVendor" 2>/dev/null)" = 08e6 ] || continue
		[ "$(basename "$(readlink "$device/driver")")" = usbip-host ] && continue
		usbip bind --busid="$(basename "$device")" 2>&1 | grep -v complete
	done
}
