package host

import (
	"errors"
	"fmt"
	"slices"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// Function is one interface of a USB device that is, or claims to be, a CCID reader.
type Function struct {
	// Device is the device that it belongs to.
	Device usbtransport.DeviceInfo
	// Interface is its interface descriptor.
	Interface usbtransport.InterfaceDescriptor
	// StringIndex is iInterface, 0 where the interface has no name.
	StringIndex uint8
	// Class is the class descriptor, nil where none was found.
	Class *ccid.ClassDescriptor
	// BulkOut, BulkIn and Interrupt are the endpoints, nil where there is none. A reader without Interrupt is asked
	// for its state from time to time. Tokens of ICCD version A or B, as bInterfaceProtocol says, have no bulk endpoints.
	BulkOut, BulkIn, Interrupt *usbtransport.EndpointDescriptor
	// Unusable is why the interface can't be driven, nil when it can. It is an ErrNotAReader, or the device's Unreadable.
	Unusable error
}

// Functions returns the CCID functions of a device in the order of their interface numbers as described: each interface
// of class 0x0B, usable or not, and each of class 0xFF that carries a class descriptor, be it on the interface or on
// one of its endpoints, in whatever alternate setting (CCID 1.1 §4.2, §5.1; some readers put it elsewhere). Descriptors
// that can't be parsed give an error beside the functions before the fault. A device whose descriptors are unknown gives
// its Unreadable error, and beside it one unusable function if it is known to have an interface of class 0x0B all the same.
func Functions(device usbtransport.DeviceInfo) ([]Function, error) {
	if device.Descriptors == nil {
		return unreadable(device), device.Unreadable
	}
	interfaces, err := usbtransport.ParseInterfaces(device.Descriptors)
	var list []Function
	for i, descriptor := range interfaces {
		if isAlternateOf(interfaces[:i], descriptor.Number) {
			continue
		}
		alternates := interfaces[i:]
		class, classErr := findClass(alternates, descriptor.Number)
		if descriptor.Class != ccid.InterfaceClass && (descriptor.Class != ccid.VendorInterfaceClass || class == nil) {
			continue
		}
		f := Function{Device: device, Interface: descriptor, Class: class, StringIndex: stringIndex(device.Descriptors, descriptor.Number)}
		f.findEndpoints()
		f.Unusable = f.judge(classErr)
		list = append(list, f)
	}
	return list, err
}

// unreadable is the function of a device whose descriptors are not known, but that it is a reader. What else there is to know of it
// has to wait for them.
func unreadable(device usbtransport.DeviceInfo) []Function {
	i := slices.Index(device.Classes, ccid.InterfaceClass)
	if i < 0 || device.Unreadable == nil {
		return nil
	}
	return []Function{{
		Device: device, Unusable: device.Unreadable,
		Interface: usbtransport.InterfaceDescriptor{Number: uint8(i), Class: ccid.InterfaceClass},
	}}
}

// isAlternateOf reports whether an earlier setting of the interface is in the list: the first one is the active one.
func isAlternateOf(earlier []usbtransport.InterfaceDescriptor, number uint8) bool {
	for _, d := range earlier {
		if d.Number == number {
			return true
		}
	}
	return false
}

// findClass looks for the class descriptor in every place where readers have been seen to put it.
func findClass(interfaces []usbtransport.InterfaceDescriptor, number uint8) (*ccid.ClassDescriptor, error) {
	var first error
	for _, d := range interfaces {
		if d.Number != number {
			continue
		}
		places := [][]byte{d.Extra}
		for _, e := range d.Endpoints {
			places = append(places, e.Extra)
		}
		for _, extra := range places {
			class, err := ccid.FindClassDescriptor(extra)
			if err == nil {
				return class, nil
			}
			// What is wrong with something is worth more than that elsewhere there is nothing.
			if first == nil || len(extra) > 0 {
				first = err
			}
		}
	}
	return nil, first
}

// findEndpoints takes the first endpoint of each kind, told by attributes and direction, whatever their order.
func (f *Function) findEndpoints() {
	for i := range f.Interface.Endpoints {
		e := &f.Interface.Endpoints[i]
		switch {
		case e.Type == usbtransport.TransferBulk && e.In() && f.BulkIn == nil:
			f.BulkIn = e
		case e.Type == usbtransport.TransferBulk && !e.In() && f.BulkOut == nil:
			f.BulkOut = e
		case e.Type == usbtransport.TransferInterrupt && e.In() && f.Interrupt == nil && e.MaxPacketSize > 0:
			f.Interrupt = e
		}
	}
}

// judge returns why the interface can't be driven.
func (f *Function) judge(classErr error) error {
	reason := func(format string, args ...any) error {
		return fmt.Errorf("%w: interface %d: %w", ErrNotAReader, f.Interface.Number, fmt.Errorf(format, args...))
	}
	switch {
	case f.Class == nil:
		return reason("%w", classErr)
	case f.Token():
		return nil
	case f.BulkOut == nil:
		return reason("no bulk OUT endpoint")
	case f.BulkIn == nil:
		return reason("no bulk IN endpoint")
	case f.BulkOut.MaxPacketSize == 0:
		return reason("bulk OUT endpoint 0x%02X: wMaxPacketSize is 0", f.BulkOut.Address)
	case f.BulkIn.MaxPacketSize == 0:
		return reason("bulk IN endpoint 0x%02X: wMaxPacketSize is 0", f.BulkIn.Address)
	}
	return nil
}

// stringIndex returns iInterface (USB 2.0 table 9-12, offset 8) of the first setting of the interface; the descriptors
// have been walked before without error up to it.
func stringIndex(raw []byte, number uint8) uint8 {
	for len(raw) >= 2 && int(raw[0]) >= 2 && int(raw[0]) <= len(raw) {
		if raw[1] == usbtransport.DescriptorInterface && raw[0] >= 9 && raw[2] == number {
			return raw[8]
		}
		raw = raw[raw[0]:]
	}
	return 0
}

// function returns the CCID function with this interface number, or why there is none that can be driven.
func function(device usbtransport.DeviceInfo, number uint8) (Function, error) {
	list, err := Functions(device)
	for _, f := range list {
		if f.Interface.Number == number {
			return f, f.Unusable
		}
	}
	return Function{}, errors.Join(fmt.Errorf("%w: interface %d: no such CCID interface", ErrNotAReader, number), err)
}
