package advice

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccid/goccid/usbtransport"
)

// Search is how a search for readers that found none went.
type Search struct {
	// Backend is the backend's name.
	Backend string
	// Devices are the USB devices that were seen, none of which has a CCID interface.
	Devices []usbtransport.DeviceInfo
	// Err is why devices could not be listed.
	Err error
}

// maxListed bounds how many foreign devices are named.
const maxListed = 12

// NoReader says why there may be no reader, from what was seen, and how to try a virtual one.
func (m Machine) NoReader(s Search) []string {
	var lines []string
	switch {
	case errors.Is(s.Err, usbtransport.ErrNotSupported) && m.GOOS != "linux":
		lines = append(lines, "Without cgo there is no USB on "+m.GOOS+": build with \"go build -tags libusb ./cmd/ccid-probe\" and run with --usb libusb.")
	case s.Backend == "usbip":
		lines = append(lines, overUSBIP(s)...)
	case s.Err != nil:
		lines = append(lines, fmt.Sprintf("USB devices can't be listed: %v.", s.Err))
	case len(s.Devices) == 0:
		lines = append(lines, m.noDevices(s.Backend)...)
	default:
		lines = append(lines, foreign(s.Devices)...)
	}
	return append(lines, "No reader at hand? A virtual one needs no hardware and no rights:", "  "+TryVirtual)
}

// overUSBIP says why a USB/IP server may have no reader.
func overUSBIP(s Search) []string {
	switch {
	case s.Err != nil:
		return []string{
			fmt.Sprintf("The USB/IP server does not answer: %v.", s.Err),
			"Does usbipd run there, and does a firewall let its port through? On its machine \"usbip list -r 127.0.0.1\" asks it (at another port than 3240 with --tcp-port PORT before list).",
		}
	case len(s.Devices) == 0:
		return []string{
			"The USB/IP server exports nothing that is free, or not under this bus ID. On its machine:",
			"  usbip list --local; sudo usbip bind --busid BUSID    (Linux)",
			"  usbipd list; usbipd bind --busid BUSID               (Windows)",
		}
	}
	if s.Busy() != nil {
		lines := []string{"Whether there is a reader can't be told: a device that another client has can't be asked."}
		for _, d := range s.Devices {
			if errors.Is(d.Unreadable, usbtransport.ErrBusy) {
				lines = append(lines, "  "+describe(d))
			}
		}
		return append(lines, ImportedElsewhere()...)
	}
	return foreign(s.Devices)
}

// Busy is why a device of a USB/IP server could not be asked whether it is a reader, where somebody else has it; nil where that is not
// so.
func (s Search) Busy() error {
	if s.Backend != "usbip" {
		return nil
	}
	for _, d := range s.Devices {
		if errors.Is(d.Unreadable, usbtransport.ErrBusy) {
			return d.Unreadable
		}
	}
	return nil
}

// ImportedElsewhere says what can be done about a device that a USB/IP server does not give because it is in use.
func ImportedElsewhere() []string {
	return []string{
		"Another client of the USB/IP server has imported the device, or a program there uses it. It is one client's at a time:",
		"end the program that has it (goccidd with --usbip, say), or on a Linux client: usbip port; sudo usbip detach --port PORT",
	}
}

func (m Machine) noDevices(backend string) []string {
	if backend != "libusb" && m.GOOS == "linux" && !m.exists("sys/bus/usb/devices") {
		return m.handIn("This system has no USB at all (/sys/bus/usb is missing).")
	}
	lines := []string{"Not one USB device is visible, not even a hub."}
	if m.InContainer() || m.InWSL() {
		return m.handIn(lines[0])
	}
	return append(lines, "Is the reader plugged in? Does \"lsusb\" or \"sudo dmesg | tail\" show it?")
}

// foreign names the devices that are there but aren't CCID readers.
func foreign(devices []usbtransport.DeviceInfo) []string {
	var others []usbtransport.DeviceInfo
	for _, d := range devices {
		if !isHub(d) {
			others = append(others, d)
		}
	}
	if len(others) == 0 {
		return []string{"There are USB hubs but no device on them. Is the reader plugged in? Does \"sudo dmesg | tail\" show it?"}
	}
	lines := []string{"USB devices are there, but none with an interface of class 0x0B (smart card), nor of class 0xFF with a CCID descriptor:"}
	for _, d := range others[:min(len(others), maxListed)] {
		lines = append(lines, "  "+describe(d))
	}
	if more := len(others) - maxListed; more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return append(lines, "If the reader is among them it speaks its maker's own protocol, or waits for a mode switch; if not, it is not plugged in or its port is off.")
}

func isHub(d usbtransport.DeviceInfo) bool {
	const hubClass, deviceClassOffset = 0x09, 4
	return len(d.Descriptors) > deviceClassOffset && d.Descriptors[deviceClassOffset] == hubClass
}

func describe(d usbtransport.DeviceInfo) string {
	parts := []string{d.String()}
	if name := strings.TrimSpace(d.Manufacturer + " " + d.Product); name != "" {
		parts = append(parts, fmt.Sprintf("%q", name))
	}
	if d.Unreadable != nil {
		return strings.Join(append(parts, fmt.Sprintf("(unreadable: %v)", d.Unreadable)), " ")
	}
	return strings.Join(append(parts, "("+classes(d)+")"), " ")
}

// classNames are the interface classes that users meet (USB-IF's list of class codes).
var classNames = map[uint8]string{
	0x01: "audio", 0x02: "communications", 0x03: "keyboard, mouse or FIDO key", 0x06: "camera", 0x07: "printer", 0x08: "mass storage",
	0x09: "hub", 0x0A: "communications data", 0x0B: "smart card", 0x0E: "video", 0xE0: "wireless", 0xEF: "miscellaneous", 0xFE: "application",
	0xFF: "vendor's own",
}

// classes names what the device's interfaces are.
func classes(d usbtransport.DeviceInfo) string {
	interfaces, _ := usbtransport.ParseInterfaces(d.Descriptors)
	seen := map[string]bool{}
	for _, i := range interfaces {
		name, ok := classNames[i.Class]
		if !ok {
			name = "other"
		}
		seen[fmt.Sprintf("class 0x%02X %s", i.Class, name)] = true
	}
	if len(seen) == 0 {
		return "no interface"
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), "; ")
}
