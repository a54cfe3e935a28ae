package usbfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
)

// uevent is what the package needs of a uevent, the kernel's or udev's.
type uevent struct {
	fromUdev bool
	// action is "add", "remove", "bind", "unbind", "change" …
	action string
	// subsystem and kind are SUBSYSTEM and DEVTYPE: "usb", and "usb_device" or "usb_interface".
	subsystem, kind string
	// path is DEVPATH: "/devices/pci0000:00/0000:00:04.0/usb1/1-1/1-1:1.0".
	path string
	// bus and address are BUSNUM and DEVNUM of a usb_device, 0 where they are not given.
	bus, address int
}

// maxUevent is the largest message that is read; the kernel's have up to 2,048 bytes of properties, udev's some more.
const maxUevent = 32 << 10

// udevMagic and the offsets of udev's header (systemd, src/libsystemd/sd-device/device-monitor.c).
const (
	udevPrefix           = "libudev\x00"
	udevMagic            = 0xFEEDCAFE
	udevPropertiesOffset = 16
	udevHeaderSize       = 40
)

var errUevent = errors.New("not a uevent")

// parseUevent reads a message of the netlink socket. github.com/pilebones/go-udev has a parser, but one that drops
// messages with "=" in a value, as udev's often have, and panics on a message without a NUL; and its monitor can't be stopped
// while it waits.
func parseUevent(message []byte) (uevent, error) {
	if bytes.HasPrefix(message, []byte(udevPrefix)) {
		return parseUdev(message)
	}
	header, properties, ok := bytes.Cut(message, []byte{0})
	if !ok || !bytes.ContainsRune(header, '@') {
		return uevent{}, errUevent
	}
	return parseProperties(properties), nil
}

func parseUdev(message []byte) (uevent, error) {
	if len(message) < udevHeaderSize || binary.BigEndian.Uint32(message[len(udevPrefix):]) != udevMagic {
		return uevent{}, errUevent
	}
	offset := binary.NativeEndian.Uint32(message[udevPropertiesOffset:])
	if offset < udevHeaderSize || int64(offset) > int64(len(message)) {
		return uevent{}, errUevent
	}
	event := parseProperties(message[offset:])
	event.fromUdev = true
	return event, nil
}

// parseProperties reads KEY=value pairs that end with NUL each.
func parseProperties(properties []byte) uevent {
	var event uevent
	for pair := range bytes.SplitSeq(properties, []byte{0}) {
		key, value, _ := strings.Cut(string(pair), "=")
		switch key {
		case "ACTION":
			event.action = value
		case "SUBSYSTEM":
			event.subsystem = value
		case "DEVTYPE":
			event.kind = value
		case "DEVPATH":
			event.path = value
		case "BUSNUM":
			event.bus = atoi(value)
		case "DEVNUM":
			event.address = atoi(value)
		}
	}
	return event
}

func atoi(s string) int {
	n, err := strconv.ParseUint(s, 10, 16) // "003" is 3
	if err != nil {
		return 0
	}
	return int(n)
}

// device is the name of the device that the event is about, or whose interface it is about. ok is false for anything else.
func (e uevent) device() (name string, ok bool) {
	if e.subsystem != "usb" {
		return "", false
	}
	last := e.path[strings.LastIndexByte(e.path, '/')+1:]
	switch e.kind {
	case "usb_device":
		return last, isDeviceName(last)
	case "usb_interface":
		name, _, isInterface := strings.Cut(last, ":")
		return name, isInterface && isDeviceName(name)
	}
	return "", false
}

// worthAnotherTry reports whether an event about a device that is known may have changed the outcome of an Open: its
// node may have got other permissions from udev, or the device has got interfaces (it was authorised, or configured anew).
func (e uevent) worthAnotherTry() bool {
	if e.fromUdev {
		return e.kind == "usb_device"
	}
	return e.kind == "usb_interface" && e.action == "add"
}
