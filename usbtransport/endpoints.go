package usbtransport

import (
	"errors"
	"fmt"
)

// The longest transfers in bytes that a backend takes; longer ones are ErrInvalid.
const (
	// MaxTransfer is for bulk and interrupt transfers; the longest CCID message has 65,554 bytes.
	MaxTransfer = 1 << 20
	// MaxControl is for the data of a control transfer.
	MaxControl = 4096
)

// Endpoints are the endpoints of one interface by address. Its methods are the checks that backends owe the caller
// before a transfer; their errors are Causes of an ErrInvalid.
type Endpoints map[uint8]EndpointDescriptor

// EndpointsOf returns the endpoints of the interface with this number in its alternate setting 0, which is the active
// one after a claim. Of two descriptors with the same address the first counts. An interface that is not there is an
// error, and so is one that stands behind descriptors which can't be parsed.
func EndpointsOf(descriptors []byte, number uint8) (Endpoints, error) {
	interfaces, err := ParseInterfaces(descriptors)
	for _, i := range interfaces {
		if i.Number == number && i.AlternateSetting == 0 {
			return NewEndpoints(i.Endpoints), nil
		}
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the device has no interface %d", number)
}

// NewEndpoints puts descriptors in order by address; of two with the same address the first counts.
func NewEndpoints(list []EndpointDescriptor) Endpoints {
	endpoints := Endpoints{}
	for _, e := range list {
		if _, twice := endpoints[e.Address]; !twice {
			endpoints[e.Address] = e
		}
	}
	return endpoints
}

// CheckOut returns the bulk OUT endpoint with this address if size bytes may be sent to it.
func (e Endpoints) CheckOut(address uint8, size int) (EndpointDescriptor, error) {
	descriptor, err := e.check(address, TransferBulk, false)
	if err == nil && size > MaxTransfer {
		err = fmt.Errorf("%d bytes, the most is %d", size, MaxTransfer)
	}
	return descriptor, err
}

// CheckIn returns the IN endpoint of the given type with this address if a buffer of size bytes may be read into.
func (e Endpoints) CheckIn(address uint8, want TransferType, size int) (EndpointDescriptor, error) {
	descriptor, err := e.check(address, want, true)
	if err == nil && (size == 0 || size > MaxTransfer || size%descriptor.MaxPacketSize != 0) {
		err = fmt.Errorf("a buffer of %d bytes, needs a multiple of wMaxPacketSize %d up to %d", size, descriptor.MaxPacketSize, MaxTransfer)
	}
	return descriptor, err
}

// CheckKnown reports an address that no endpoint has.
func (e Endpoints) CheckKnown(address uint8) error {
	if _, known := e[address]; !known {
		return errors.New("the interface has no such endpoint")
	}
	return nil
}

func (e Endpoints) check(address uint8, want TransferType, in bool) (EndpointDescriptor, error) {
	descriptor := e[address]
	if err := e.CheckKnown(address); err != nil {
		return descriptor, err
	}
	switch {
	case descriptor.Type != want || descriptor.In() != in:
		return descriptor, errors.New("the endpoint is of another type or direction")
	case descriptor.MaxPacketSize == 0:
		return descriptor, errors.New("wMaxPacketSize is 0")
	}
	return descriptor, nil
}

// CheckControl reports data of a control transfer that is too long.
func CheckControl(size int) error {
	if size > MaxControl {
		return fmt.Errorf("%d bytes, the most is %d", size, MaxControl)
	}
	return nil
}
