package ifdhandler

import (
	"fmt"
	"strings"

	"github.com/goccid/goccid/ccid/host"
)

// deviceName is a parsed device name; the zero value is any reader.
type deviceName struct {
	ids             bool
	vendor, product uint16
	place           bool
	bus, address    int
	number          int // of the interface
}

// parseDeviceName reads a device name as pcscd gives it. A part behind the identifiers that is not understood is left
// out, as the reference driver does.
func parseDeviceName(s string) (deviceName, error) {
	var n deviceName
	ids, place, _ := strings.Cut(strings.TrimPrefix(s, "usb:"), ":")
	if _, err := fmt.Sscanf(ids, "%04x/%04x", &n.vendor, &n.product); err != nil || !strings.HasPrefix(s, "usb:") {
		return deviceName{}, fmt.Errorf("device name %q: not usb:VID/PID", s)
	}
	n.ids = true
	if _, err := fmt.Sscanf(place, "libudev:%d:/dev/bus/usb/%d/%d", &n.number, &n.bus, &n.address); err == nil {
		n.place = true
		return n, nil
	}
	if _, err := fmt.Sscanf(place, "libusb-1.0:%d:%d:%d", &n.bus, &n.address, &n.number); err == nil {
		n.place = true
	}
	return n, nil
}

// matches reports whether the name is that of the function.
func (n deviceName) matches(f host.Function) bool {
	if n.ids && (f.Device.IDVendor != n.vendor || f.Device.IDProduct != n.product) {
		return false
	}
	return !n.place || f.Device.Bus == n.bus && f.Device.Address == n.address && int(f.Interface.Number) == n.number
}
