//go:build libusb

package libusb

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/gousb"

	"github.com/goccid/goccid/usbtransport"
)

const (
	deviceDescriptorSize        = 18
	configurationDescriptorSize = 9
	// requestTimeout bounds a control request: USB 2.0 §9.2.6.1 gives a device no more than 5 s for any.
	requestTimeout = 5 * time.Second
)

// claimInterface claims an interface of an open device. The device still belongs to the caller if that fails.
func claimInterface(device *gousb.Device, info usbtransport.DeviceInfo, number uint8) (*claimed, error) {
	device.ControlTimeout = requestTimeout
	active, err := device.ActiveConfigNum()
	if err != nil {
		return nil, openError(info, kindOf(err), err)
	}
	info.Descriptors, err = readDescriptors(device, active)
	if err != nil {
		return nil, openError(info, kindOf(err), err)
	}
	endpoints, err := usbtransport.EndpointsOf(info.Descriptors, number)
	if err != nil {
		return nil, openError(info, usbtransport.ErrInvalid, err)
	}
	configuration, err := device.Config(active)
	if err != nil {
		return nil, openError(info, usbtransport.ErrIO, err)
	}
	configuration.Desc = narrowed(configuration.Desc, int(number))
	claim, err := configuration.Interface(int(number), 0)
	if err != nil {
		configuration.Close()
		return nil, openError(info, claimKind(device, err), err)
	}
	return newClaimed(info, number, endpoints, device, configuration, claim)
}

// narrowed returns a configuration that has nothing but one interface in its first alternate setting, at the place that has
// its number: gousb takes the number for an index when it decides whether to select an alternate setting, and panics on a device
// whose interfaces are not numbered from 0.
func narrowed(configuration gousb.ConfigDesc, number int) gousb.ConfigDesc {
	interfaces := make([]gousb.InterfaceDesc, number+1)
	for i := range interfaces {
		interfaces[i].Number = -1
	}
	for _, i := range configuration.Interfaces {
		if i.Number != number {
			continue
		}
		for _, alternate := range i.AltSettings {
			if alternate.Alternate == 0 {
				interfaces[number] = gousb.InterfaceDesc{Number: number, AltSettings: []gousb.InterfaceSetting{alternate}}
			}
		}
	}
	configuration.Interfaces = interfaces
	return configuration
}

// claimKind finds out why a claim failed: gousb keeps the error's text and drops the error.
func claimKind(device *gousb.Device, err error) error {
	if _, probe := device.Control(0x80, 0, 0, 0, make([]byte, 2)); errors.Is(probe, gousb.ErrorNoDevice) { // GET_STATUS
		return usbtransport.ErrRemoved
	}
	for _, code := range []gousb.Error{gousb.ErrorBusy, gousb.ErrorAccess, gousb.ErrorNoDevice, gousb.ErrorNotFound, gousb.ErrorNotSupported} {
		if errorEndsWith(err, code) {
			return kindOf(code)
		}
	}
	return usbtransport.ErrIO
}

func errorEndsWith(err error, code gousb.Error) bool {
	text, end := err.Error(), code.Error()
	return len(text) >= len(end) && text[len(text)-len(end):] == end
}

// readDescriptors reads the device descriptor and that of a configuration, with all that belongs to it.
func readDescriptors(device *gousb.Device, value int) ([]byte, error) {
	raw, err := readDescriptor(device, usbtransport.DescriptorDevice, 0, deviceDescriptorSize)
	if err != nil {
		return nil, err
	}
	if len(raw) < deviceDescriptorSize {
		return nil, fmt.Errorf("a device descriptor of %d bytes", len(raw))
	}
	for index := range raw[17] { // bNumConfigurations
		header, err := readDescriptor(device, usbtransport.DescriptorConfiguration, index, configurationDescriptorSize)
		if err != nil {
			return nil, err
		}
		if len(header) < configurationDescriptorSize {
			return nil, fmt.Errorf("a configuration descriptor of %d bytes", len(header))
		}
		if int(header[5]) != value {
			continue
		}
		total := int(header[2]) | int(header[3])<<8
		configuration, err := readDescriptor(device, usbtransport.DescriptorConfiguration, index, max(total, configurationDescriptorSize))
		if err != nil {
			return nil, err
		}
		return append(raw, configuration...), nil
	}
	return nil, fmt.Errorf("no descriptor of the active configuration %d", value)
}

func readDescriptor(device *gousb.Device, kind, index uint8, length int) ([]byte, error) {
	data := make([]byte, length)
	n, err := device.Control(0x80, 6, uint16(kind)<<8|uint16(index), 0, data) // GET_DESCRIPTOR
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", kind, err)
	}
	return data[:n:n], nil
}
