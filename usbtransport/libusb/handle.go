//go:build libusb

package libusb

// #cgo pkg-config: libusb-1.0
// #include <libusb.h>
import "C"

import (
	"errors"
	"reflect"
	"syscall"

	"github.com/google/gousb"
)

// gousb exposes neither libusb_clear_halt, nor a reset of a device that is in use; and nothing it does expose has the
// same effect: a CLEAR_FEATURE request leaves the host's data toggle as it was, and selecting an alternate setting resets the toggles of
// all endpoints and ends the transfers that wait on them. So these two are called here, with the handle that gousb holds.

var errNoHandle = errors.New("gousb has changed: its Device holds no handle")

// handle returns the libusb_device_handle of an open device. The field is not exported; TestHandleOfGousb fails if an update
// renames it.
func handle(device *gousb.Device) (*C.libusb_device_handle, error) {
	field := reflect.ValueOf(device).Elem().FieldByName("handle")
	if !field.IsValid() || field.Kind() != reflect.Pointer || field.IsNil() {
		return nil, errNoHandle
	}
	return (*C.libusb_device_handle)(field.UnsafePointer()), nil
}

// clearHalt clears the halt of an endpoint on the device and the data toggle on both sides.
func clearHalt(device *gousb.Device, endpoint uint8) error {
	h, err := handle(device)
	if err != nil {
		return err
	}
	code, errno := C.libusb_clear_halt(h, C.uchar(endpoint))
	if code == C.LIBUSB_ERROR_OTHER && errors.Is(errno, syscall.EPIPE) {
		return gousb.ErrorPipe // libusb has no code of its own for a device that refuses the request
	}
	return asError(code)
}

// resetDevice resets the device's port; libusb claims again what was claimed.
func resetDevice(device *gousb.Device) error {
	h, err := handle(device)
	if err != nil {
		return err
	}
	return asError(C.libusb_reset_device(h))
}

// isConnected asks the system at once whether the handle's device is still there: by a question about an interface that needs
// no transfer. A system that does not answer it is taken to have no such device.
func isConnected(device *gousb.Device, number uint8) bool {
	h, err := handle(device)
	if err != nil {
		return false
	}
	switch C.libusb_kernel_driver_active(h, C.int(number)) {
	case 0, 1, C.LIBUSB_ERROR_NOT_FOUND:
		return true
	}
	return false
}

// isConfigured asks the system whether the device has a configuration, and with it interfaces. One whose authorization was taken
// away is still there without. Only the system's word counts: a question that fails otherwise is no answer.
func isConfigured(device *gousb.Device) bool {
	number, err := device.ActiveConfigNum()
	if err != nil {
		return !errors.Is(err, gousb.ErrorNoDevice) && !errors.Is(err, gousb.ErrorNotFound)
	}
	return number != 0
}

func asError(code C.int) error {
	if code == 0 {
		return nil
	}
	return gousb.Error(code)
}
