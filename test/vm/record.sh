# Runs in the guest: records what pcscd and libccid say to the reader, from its plug-in on, as /run/vm/traces/*.pcapng.
set -euo pipefail

mkdir -p /run/vm/traces
exec 3<>"/dev/$(basename "$(dirname "$(grep -lx org.goccid.vm /sys/class/virtio-ports/*/name)")")"

# hotplug ACTION: has the host unplug the reader or plug it in.
hotplug() {
	echo "{\"id\":1,\"action\":\"$1\",\"port\":1}" >&3
	read -r answer <&3
	[ "$answer" = '{"id":1}' ] || { echo "host: $answer"; exit 1; }
}

# until_true COMMAND...: waits until the command succeeds, half a minute at most.
until_true() {
	for _ in $(seq 300); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.1
	done
	echo "waited in vain for: $*"
	exit 1
}

# record NAME <APDUS: plugs the reader in and starts pcscd, has a client send the APDUs, and records all of it.
record() {
	local name=$1 raw=/tmp/$1.pcapng
	cat >/tmp/apdus
	dumpcap -q -i usbmon1 -w "$raw" 2>/tmp/dumpcap.log &
	local dumpcap=$!
	until_true grep -q File: /tmp/dumpcap.log
	hotplug plug
	until_true lsusb -d 08e6:4433

	pcscd --config /dev/null --foreground >"/run/vm/traces/$name.log" 2>&1 &
	local pcscd=$!
	until_true test -e /run/pcscd/pcscd.comm
	until_true sh -c "opensc-tool -l | grep -q Gemalto"
	echo "== $name"
	timeout 60 scriptor -p T=0 /tmp/apdus || true

	kill $pcscd
	wait $pcscd || true
	kill $dumpcap
	wait $dumpcap || true
	hotplug unplug
	until_true sh -c '! lsusb -d 08e6:4433'
	# Device 1 is the root hub.
	tshark -r "$raw" -Y 'usb.device_address != 1' -w "/run/vm/traces/$name.pcapng" 2>/dev/null
}

hotplug unplug

# The CCC and CAC applets: answers of one packet and of several, with 61xx and without, known and unknown commands.
record qemu-ccid-libccid <<'APDUS'
00 A4 04 00 07 A0 00 00 00 79 01 00
00 C0 00 00 0D
00 52 00 00 02 02 02
00 C0 00 00 02
00 52 00 02 02 02 C8
00 C0 00 00 C8
00 52 00 CA 02 02 FF
00 C0 00 00 FF
00 A4 04 00 07 A0 00 00 00 79 01 01 00
00 36 00 00 64
00 A4 04 00 07 A0 00 00 00 79 02 00
00 A4 04 00 07 A0 00 00 00 99 99 99
00 A4 04 00 07 A0 00 00 01 16 DB 00
00 C0 00 00 0D
00 52 00 00 02 01 02
00 C0 00 00 02
00 52 00 02 02 01 34
00 C0 00 00 10
00 B0 00 00 04
00 84 00 00 08
reset
00 C0 00 00 0D
00 A4 04 00 07 A0 00 00 00 79 01 00
00 C0 00 00 0D
APDUS

# An answer of exactly one full packet, which a zero-length packet ends: libccid doesn't read that, and takes it for the
# start of the next answer. From there on it is out of step with the reader.
record qemu-ccid-libccid-zero-length <<'APDUS'
00 A4 04 00 07 A0 00 00 01 16 DB 00
00 C0 00 00 0D
00 52 00 02 02 01 34
00 C0 00 00 34
00 A4 04 00 07 A0 00 00 00 79 01 00
00 C0 00 00 0D
APDUS
