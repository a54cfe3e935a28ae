package capture

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/goccid/goccid/usbtransport"
)

// Standard requests and descriptor types that a capture tells of a device with (USB 2.0 §9.4, table 9-5).
const (
	requestTypeMask    = 0x60 // of bmRequestType: standard, class, vendor
	recipientMask      = 0x1F
	recipientInterface = 1
	recipientEndpoint  = 2

	requestGetStatus        = 0
	requestClearFeature     = 1
	requestGetDescriptor    = 6
	requestSetConfiguration = 9

	descriptorString       = 3
	deviceDescriptorLength = 18
	englishUS              = 0x0409
)

// Device is one device of a capture, with what the host was told about it.
type Device struct {
	// Info is what the descriptors in the capture say; Unreadable where it has none. The port is not known: PortPath is
	// made of bus number and address.
	Info usbtransport.DeviceInfo
	// Transfers are those of the device, in order.
	Transfers []Transfer
}

// Devices returns the devices of a capture, ordered by bus and address. A device that is plugged in again has another
// address, and is another device here.
func (c *Capture) Devices() []Device {
	type place struct{ bus, address int }
	index := map[place]int{}
	var list []Device
	for _, t := range c.Transfers {
		if t.Address == 0 {
			continue // it has no address yet; what was said then is said again later
		}
		p := place{t.Bus, t.Address}
		i, known := index[p]
		if !known {
			i = len(list)
			index[p] = i
			list = append(list, Device{})
		}
		list[i].Transfers = append(list[i].Transfers, t)
	}
	for i := range list {
		list[i].Info = describe(list[i].Transfers)
	}
	slices.SortFunc(list, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Info.Bus, b.Info.Bus), cmp.Compare(a.Info.Address, b.Info.Address))
	})
	return list
}

// describe gathers a device's descriptors from the requests for them.
func describe(transfers []Transfer) usbtransport.DeviceInfo {
	bus, address := transfers[0].Bus, transfers[0].Address
	info := usbtransport.DeviceInfo{
		Key: fmt.Sprintf("capture-%d-%d", bus, address), Bus: bus, Address: address, PortPath: fmt.Sprintf("%d-%d", bus, address),
	}
	d := answeredDescriptors(transfers)
	device := d[descriptorKey{kind: usbtransport.DescriptorDevice}]
	if len(device) < deviceDescriptorLength {
		info.Unreadable = fmt.Errorf("capture: no device descriptor: it has to begin before the device is plugged in")
		return info
	}
	le := binary.LittleEndian
	info.IDVendor, info.IDProduct, info.BCDDevice = le.Uint16(device[8:]), le.Uint16(device[10:]), le.Uint16(device[12:])
	info.Manufacturer, info.Product, info.SerialNumber = d.text(device[14]), d.text(device[15]), d.text(device[16])
	configuration := d.configuration(transfers)
	if configuration == nil {
		info.Unreadable = fmt.Errorf("capture: no configuration descriptor: it has to begin before the device is plugged in")
		return info
	}
	info.Descriptors = slices.Concat(device[:deviceDescriptorLength], configuration)
	return info
}

// descriptorKey is what GET_DESCRIPTOR asks for (USB 2.0 §9.4.3).
type descriptorKey struct {
	kind, index uint8
	language    uint16
}

type descriptors map[descriptorKey][]byte

// answeredDescriptors returns the longest answer to each GET_DESCRIPTOR request to the device.
func answeredDescriptors(transfers []Transfer) descriptors {
	d := descriptors{}
	for i := range transfers {
		t := &transfers[i]
		if !t.HasSetup || t.Setup.RequestType != 0x80 || t.Setup.Request != requestGetDescriptor || t.Err != nil || t.Missing > 0 {
			continue
		}
		key := descriptorKey{uint8(t.Setup.Value >> 8), uint8(t.Setup.Value), t.Setup.Index}
		if len(t.Data) > len(d[key]) {
			d[key] = t.Data
		}
	}
	return d
}

// configuration returns the configuration that was set, else the first, nil where none is whole.
func (d descriptors) configuration(transfers []Transfer) []byte {
	set := -1
	for i := range transfers {
		if t := &transfers[i]; t.HasSetup && t.Setup.RequestType == 0 && t.Setup.Request == requestSetConfiguration && t.Err == nil {
			set = int(t.Setup.Value)
		}
	}
	var first []byte
	for index := range 256 {
		b := d[descriptorKey{kind: usbtransport.DescriptorConfiguration, index: uint8(index)}]
		if len(b) < 9 || b[1] != usbtransport.DescriptorConfiguration {
			continue
		}
		total := int(binary.LittleEndian.Uint16(b[2:]))
		if total < 9 || total > len(b) {
			continue
		}
		b = b[:total]
		if first == nil {
			first = b
		}
		if int(b[5]) == set {
			return b
		}
	}
	return first
}

// text returns a string descriptor (USB 2.0 §9.6.7) in the first language there is, "" for index 0 and where there is none.
func (d descriptors) text(index uint8) string {
	if index == 0 {
		return ""
	}
	languages := []uint16{englishUS}
	for key := range d {
		if key.kind == descriptorString && key.index == index {
			languages = append(languages, key.language)
		}
	}
	slices.Sort(languages[1:])
	for _, language := range languages {
		if b := d[descriptorKey{descriptorString, index, language}]; len(b) >= 2 && b[1] == descriptorString {
			return strings.ToValidUTF8(utf16Text(b[2:min(len(b), max(2, int(b[0])))]), "\uFFFD")
		}
	}
	return ""
}

func utf16Text(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}
