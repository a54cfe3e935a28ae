package usbtransport

import (
	"encoding/binary"
	"fmt"
)

// Descriptor types (USB 2.0 table 9-5).
const (
	DescriptorDevice        = 0x01
	DescriptorConfiguration = 0x02
	DescriptorInterface     = 0x04
	DescriptorEndpoint      = 0x05
)

// TransferType is the transfer type of an endpoint: bits 0 and 1 of bmAttributes (USB 2.0 table 9-13).
type TransferType uint8

// The transfer types.
const (
	TransferControl TransferType = iota
	TransferIsochronous
	TransferBulk
	TransferInterrupt
)

// EndpointDescriptor is an endpoint descriptor (USB 2.0 §9.6.6) with what follows it.
type EndpointDescriptor struct {
	// Address is bEndpointAddress: bit 7 set for IN.
	Address uint8
	// Type is the transfer type; other bits of bmAttributes are dropped.
	Type TransferType
	// MaxPacketSize is bits 0..10 of wMaxPacketSize, in bytes.
	MaxPacketSize int
	// Interval is bInterval.
	Interval uint8
	// Extra holds the class-specific descriptors after this endpoint's own.
	Extra []byte
}

// In reports whether the device sends on this endpoint.
func (e EndpointDescriptor) In() bool { return e.Address&0x80 != 0 }

// InterfaceDescriptor is an interface descriptor (USB 2.0 §9.6.5) with what follows it.
type InterfaceDescriptor struct {
	Number, AlternateSetting  uint8
	Class, SubClass, Protocol uint8
	// Endpoints are the endpoint descriptors that follow, however many bNumEndpoints claims.
	Endpoints []EndpointDescriptor
	// Extra holds the class-specific descriptors between the interface descriptor and its first endpoint.
	Extra []byte
}

// maxDescriptors bounds how many descriptors one configuration may hold; wTotalLength alone allows 32,767.
const maxDescriptors = 1024

// ParseInterfaces walks raw descriptors (as in DeviceInfo.Descriptors) and returns every alternate setting of every
// interface of the first configuration, in the order of the bytes. A descriptor whose bLength is under 2 or runs past
// the end gives an error that names its offset; what stood before it is returned with the error.
func ParseInterfaces(raw []byte) ([]InterfaceDescriptor, error) {
	var list []InterfaceDescriptor
	configurations := 0
	for offset, count := 0, 0; offset < len(raw); count++ {
		length := int(raw[offset])
		if length < 2 || length > len(raw)-offset {
			return list, fmt.Errorf("usb descriptors: offset %d: bLength %d, but %d bytes are left", offset, length, len(raw)-offset)
		}
		if count == maxDescriptors {
			return list, fmt.Errorf("usb descriptors: more than %d of them", maxDescriptors)
		}
		d := raw[offset : offset+length : offset+length]
		offset += length
		switch d[1] {
		case DescriptorDevice:
			continue
		case DescriptorConfiguration:
			configurations++
			if configurations > 1 {
				return list, nil
			}
			continue
		case DescriptorInterface:
			if length < 9 {
				return list, fmt.Errorf("usb descriptors: offset %d: interface descriptor of %d bytes, needs 9", offset-length, length)
			}
			list = append(list, InterfaceDescriptor{Number: d[2], AlternateSetting: d[3], Class: d[5], SubClass: d[6], Protocol: d[7]})
			continue
		}
		if len(list) == 0 {
			continue
		}
		current := &list[len(list)-1]
		if d[1] == DescriptorEndpoint {
			if length < 7 {
				return list, fmt.Errorf("usb descriptors: offset %d: endpoint descriptor of %d bytes, needs 7", offset-length, length)
			}
			current.Endpoints = append(current.Endpoints, EndpointDescriptor{
				Address: d[2], Type: TransferType(d[3] & 3), MaxPacketSize: int(binary.LittleEndian.Uint16(d[4:]) & 0x7FF), Interval: d[6],
			})
			continue
		}
		if n := len(current.Endpoints); n > 0 {
			current.Endpoints[n-1].Extra = append(current.Endpoints[n-1].Extra, d...)
		} else {
			current.Extra = append(current.Extra, d...)
		}
	}
	return list, nil
}
