package usbip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"github.com/goccid/goccid/usbtransport"
)

// Standard requests (USB 2.0 table 9-4), and the hub's request to reset a port (§11.24.2.13).
const (
	requestClearFeature     = 1
	requestSetFeature       = 3
	requestSetAddress       = 5
	requestGetDescriptor    = 6
	requestSetConfiguration = 9
	requestSetInterface     = 11

	recipientDevice    = 0x00
	recipientInterface = 0x01
	recipientEndpoint  = 0x02
	recipientPort      = 0x23 // class request to "other"

	featureHalt      = 0
	featurePortReset = 4

	descriptorString = 3
)

const (
	deviceDescriptorSize        = 18
	configurationDescriptorSize = 9
	// maxConfiguration bounds wTotalLength; that of a CCID reader has some hundred bytes.
	maxConfiguration = usbtransport.MaxControl
	languageEnglish  = 0x0409
)

// errDescriptor says that what came is not the descriptor that was asked for.
var errDescriptor = errors.New("not the descriptor that was asked for")

// errNoAnswer says that the time for an answer has passed.
var errNoAnswer = errors.New("the device has not answered in time")

// control makes a control transfer on an import.
func (a *attachment) control(ctx context.Context, setup usbtransport.Setup, data []byte) outcome {
	return a.runControl(ctx, nil, setup, data)
}

func (a *attachment) runControl(ctx context.Context, stop <-chan struct{}, setup usbtransport.Setup, data []byte) outcome {
	c := command{kind: commandSubmit, in: setup.RequestType&0x80 != 0, length: len(data)}
	c.setup = packSetup(setup, len(data))
	if c.in {
		c.flags = flagIn
		data = nil
	}
	return a.run(ctx, stop, c, data)
}

// packSetup makes a SETUP packet (USB 2.0 table 9-2).
func packSetup(setup usbtransport.Setup, length int) [setupSize]byte {
	var b [setupSize]byte
	b[0], b[1] = setup.RequestType, setup.Request
	binary.LittleEndian.PutUint16(b[2:], setup.Value)
	binary.LittleEndian.PutUint16(b[4:], setup.Index)
	binary.LittleEndian.PutUint16(b[6:], uint16(length))
	return b
}

// descriptor reads a descriptor of at least min bytes.
func (a *attachment) descriptor(ctx context.Context, kind, index uint8, language uint16, minimum, length int) ([]byte, error) {
	setup := usbtransport.Setup{RequestType: 0x80, Request: requestGetDescriptor, Value: uint16(kind)<<8 | uint16(index), Index: language}
	o := a.control(ctx, setup, make([]byte, length))
	switch {
	case o.err != nil:
		return nil, o.err
	case o.taken:
		return nil, fmt.Errorf("descriptor %d/%d: %w: %w", kind, index, usbtransport.ErrIO, errNoAnswer)
	case o.status != statusSuccess:
		return nil, fmt.Errorf("descriptor %d/%d: %w: %w", kind, index, o.status.kind(), o.status)
	case len(o.data) < minimum || o.data[1] != kind:
		return nil, fmt.Errorf("descriptor %d/%d: %w: %w", kind, index, usbtransport.ErrIO, errDescriptor)
	}
	return o.data, nil
}

// readInfo reads a device's descriptors and strings.
func readInfo(ctx context.Context, a *attachment, info usbtransport.DeviceInfo) (usbtransport.DeviceInfo, error) {
	device, err := a.descriptor(ctx, usbtransport.DescriptorDevice, 0, 0, deviceDescriptorSize, deviceDescriptorSize)
	if err != nil {
		return info, err
	}
	head, err := a.descriptor(ctx, usbtransport.DescriptorConfiguration, 0, 0, configurationDescriptorSize, configurationDescriptorSize)
	if err != nil {
		return info, err
	}
	total := int(binary.LittleEndian.Uint16(head[2:]))
	if total < configurationDescriptorSize || total > maxConfiguration {
		return info, fmt.Errorf("%w: configuration descriptors of %d bytes: %w", usbtransport.ErrIO, total, errDescriptor)
	}
	configuration, err := a.descriptor(ctx, usbtransport.DescriptorConfiguration, 0, 0, total, total)
	if err != nil {
		return info, err
	}
	info.Unreadable = nil
	info.Descriptors = append(device[:deviceDescriptorSize:deviceDescriptorSize], configuration...)
	info.IDVendor, info.IDProduct = binary.LittleEndian.Uint16(device[8:]), binary.LittleEndian.Uint16(device[10:])
	info.BCDDevice = binary.LittleEndian.Uint16(device[12:])
	language := readLanguage(ctx, a)
	info.Manufacturer = readString(ctx, a, device[14], language)
	info.Product = readString(ctx, a, device[15], language)
	info.SerialNumber = readString(ctx, a, device[16], language)
	return info, nil
}

// maxString is the length of the longest string descriptor, in bytes.
const maxString = 255

// readLanguage returns the first language of a device's strings.
func readLanguage(ctx context.Context, a *attachment) uint16 {
	languages, err := a.descriptor(ctx, descriptorString, 0, 0, 4, maxString)
	if err != nil {
		return languageEnglish
	}
	return binary.LittleEndian.Uint16(languages[2:])
}

// readString returns a string, or "" where the device has none or does not give it.
func readString(ctx context.Context, a *attachment, index uint8, language uint16) string {
	if index == 0 {
		return ""
	}
	b, err := a.descriptor(ctx, descriptorString, index, language, 2, maxString)
	if err != nil {
		return ""
	}
	b = b[2:min(max(int(b[0]), 2), len(b))]
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		unit := binary.LittleEndian.Uint16(b)
		if unit < ' ' || unit == 0x7F {
			continue // would be in the way of whoever prints it
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// configure sets the configuration: a device that was just imported has none (Linux).
func configure(ctx context.Context, a *attachment, descriptors []byte) error {
	if len(descriptors) < deviceDescriptorSize+configurationDescriptorSize {
		return fmt.Errorf("%w: %w", usbtransport.ErrIO, errDescriptor)
	}
	value := descriptors[deviceDescriptorSize+5]
	o := a.control(ctx, usbtransport.Setup{Request: requestSetConfiguration, Value: uint16(value)}, nil)
	switch {
	case o.err != nil:
		return o.err
	case o.taken:
		return fmt.Errorf("set configuration %d: %w: %w", value, usbtransport.ErrIO, errNoAnswer)
	case o.status != statusSuccess:
		return fmt.Errorf("set configuration %d: %w: %w", value, usbtransport.ErrIO, o.status)
	}
	return nil
}
