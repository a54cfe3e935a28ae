package explain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/describe"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// standardRequests are bRequest of USB 2.0 §9.4, table 9-4.
var standardRequests = map[uint8]string{
	0: "GET_STATUS", 1: "CLEAR_FEATURE", 3: "SET_FEATURE", 5: "SET_ADDRESS", 6: "GET_DESCRIPTOR", 7: "SET_DESCRIPTOR",
	8: "GET_CONFIGURATION", 9: "SET_CONFIGURATION", 10: "GET_INTERFACE", 11: "SET_INTERFACE", 12: "SYNCH_FRAME",
}

// descriptorTypes are those of USB 2.0 §9.4, table 9-5, and what else a bus shows.
var descriptorTypes = map[uint8]string{
	1: "device", 2: "configuration", 3: "string", 4: "interface", 5: "endpoint", 6: "device qualifier", 7: "other speed configuration",
	0x0B: "interface association", 0x0F: "BOS", ccid.ClassDescriptorType: "smart card class",
}

// classRequests are those of CCID 1.1 §5.3 and of ICCD 1.0.
var classRequests = map[uint8]string{
	ccid.RequestAbort: "ABORT", ccid.RequestGetClockFrequencies: "GET_CLOCK_FREQUENCIES", ccid.RequestGetDataRates: "GET_DATA_RATES",
	ccid.ICCDPowerOn: "ICC_POWER_ON", ccid.ICCDPowerOff: "ICC_POWER_OFF", ccid.ICCDXfrBlock: "XFR_BLOCK", ccid.ICCDDataBlock: "DATA_BLOCK",
	ccid.ICCDSlotStatus: "SLOT_STATUS", ccid.ICCDGetStatus: "GET_ICC_STATUS",
}

// requestKind is bits 5 and 6 of bmRequestType (USB 2.0 §9.3).
func requestKind(requestType uint8) string {
	return [4]string{"standard", "class", "vendor", "reserved"}[requestType>>5&3]
}

// explainRequest names a control request and its fields (USB 2.0 §9.3), and what it carries.
func explainRequest(t *capture.Transfer, out *Transfer) {
	s := t.Setup
	if !t.HasSetup {
		out.Name = "control transfer"
		out.Problems = append(out.Problems, "the capture does not have the request")
		return
	}
	name, known := requestName(s)
	out.Name = name
	direction := "to the device"
	if s.RequestType&0x80 != 0 {
		direction = "from the device"
	}
	recipient := oneOf(int(s.RequestType&0x1F), "device", "interface", "endpoint", "other")
	request := Field{Name: "bRequest", Value: hex8(s.Request)}
	if known {
		request.Meaning = name
	}
	out.Fields = []Field{
		{Name: "bmRequestType", Value: hex8(s.RequestType), Meaning: fmt.Sprintf("%s request, %s, %s", requestKind(s.RequestType), recipient, direction)},
		request,
		{Name: "wValue", Value: hex16(s.Value), Meaning: valueMeaning(s)},
		{Name: "wIndex", Value: hex16(s.Index), Meaning: indexMeaning(s)},
		{Name: "wLength", Value: fmt.Sprint(max(0, t.Requested))},
	}
	if t.Err == nil && t.In() {
		out.Layers = append(out.Layers, answerLayers(s, t.Data)...)
	}
}

func requestName(s usbtransport.Setup) (string, bool) {
	switch requestKind(s.RequestType) {
	case "standard":
		if name, ok := standardRequests[s.Request]; ok {
			if s.Request == 6 || s.Request == 7 {
				name += " " + descriptorName(uint8(s.Value>>8))
			}
			return name, true
		}
	case "class":
		if name, ok := classRequests[s.Request]; ok {
			return name, true
		}
	}
	return fmt.Sprintf("%s request %s", requestKind(s.RequestType), hex8(s.Request)), false
}

func descriptorName(t uint8) string {
	if name, ok := descriptorTypes[t]; ok {
		return name
	}
	return hex8(t)
}

func valueMeaning(s usbtransport.Setup) string {
	switch kind := requestKind(s.RequestType); {
	case kind == "standard" && (s.Request == 6 || s.Request == 7):
		return fmt.Sprintf("%s descriptor %d", descriptorName(uint8(s.Value>>8)), uint8(s.Value))
	case kind == "standard" && s.Request == 9:
		return fmt.Sprintf("configuration %d", uint8(s.Value))
	case kind == "standard" && s.Request == 5:
		return fmt.Sprintf("address %d", s.Value)
	case kind == "standard" && s.Request == 1 && s.RequestType&0x1F == 2 && s.Value == 0:
		return "ENDPOINT_HALT"
	case kind == "class" && s.Request == ccid.RequestAbort && s.RequestType == ccid.RequestTypeOut:
		return fmt.Sprintf("bSlot %d, bSeq %d", uint8(s.Value), uint8(s.Value>>8))
	case kind == "class" && s.Request == ccid.ICCDXfrBlock:
		return chainParameter(s.Value>>8, ccid.LevelExtendedAPDU)
	}
	return ""
}

func indexMeaning(s usbtransport.Setup) string {
	switch s.RequestType & 0x1F {
	case 1:
		return fmt.Sprintf("interface %d", uint8(s.Index))
	case 2:
		return "endpoint " + hex8(uint8(s.Index))
	}
	if s.RequestType == 0x80 && s.Request == 6 && s.Value>>8 == 3 && s.Index != 0 {
		return "language"
	}
	return ""
}

// answerLayers explains what the device answered to a request.
func answerLayers(s usbtransport.Setup, data []byte) []Layer {
	switch {
	case s.RequestType == 0x80 && s.Request == 6:
		return descriptorLayers(uint8(s.Value>>8), data)
	case s.RequestType == ccid.RequestTypeIn && s.Request == ccid.RequestGetClockFrequencies:
		return []Layer{numbers("clock frequencies", data, describe.Clock)}
	case s.RequestType == ccid.RequestTypeIn && s.Request == ccid.RequestGetDataRates:
		return []Layer{numbers("data rates", data, describe.Rate)}
	case s.RequestType == ccid.RequestTypeIn && s.Request == ccid.ICCDGetStatus && len(data) > 0:
		return []Layer{{Protocol: "ICCD", Name: "status " + hex8(data[0]), Notes: []string{ccid.ICCDState(data[0]).String()}}}
	case s.RequestType == ccid.RequestTypeIn && s.Request == ccid.ICCDSlotStatus && len(data) > 1:
		return []Layer{{Protocol: "ICCD", Name: "status " + spaced(data), Notes: []string{ccid.Status(data[1]).String()}}}
	}
	return nil
}

func numbers(name string, data []byte, text func(uint32) string) Layer {
	list := ccid.ParseFrequencies(data)
	l := Layer{Protocol: "CCID", Name: plural(len(list), "entry") + " of " + name}
	if len(list) != 1 {
		l.Name = fmt.Sprintf("%d %s", len(list), name)
	}
	for _, v := range list {
		l.Notes = append(l.Notes, text(v))
	}
	return l
}

// descriptorLayers explains descriptors one by one (USB 2.0 §9.6).
func descriptorLayers(asked uint8, data []byte) []Layer {
	var layers []Layer
	for len(data) >= 2 {
		n := int(data[0])
		if n < 2 || n > len(data) {
			return append(layers, Layer{Protocol: "USB", Name: "descriptor that is cut off", Notes: []string{spaced(data)}})
		}
		layers = append(layers, descriptorLayer(data[:n]))
		if data = data[n:]; asked != 2 && asked != 7 && asked != 0x0F {
			break
		}
	}
	return layers
}

func descriptorLayer(d []byte) Layer {
	l := Layer{Protocol: "USB", Name: descriptorName(d[1]) + " descriptor"}
	le := binary.LittleEndian
	switch {
	case d[1] == 1 && len(d) >= 18:
		l.Fields = []Field{
			{Name: "bcdUSB", Value: hex16(le.Uint16(d[2:])), Meaning: "USB " + describe.BCD(le.Uint16(d[2:]))},
			{Name: "bDeviceClass", Value: hex8(d[4])},
			{Name: "bDeviceSubClass", Value: hex8(d[5])},
			{Name: "bDeviceProtocol", Value: hex8(d[6])},
			{Name: "bMaxPacketSize0", Value: fmt.Sprint(d[7])},
			{Name: "idVendor", Value: hex16(le.Uint16(d[8:]))},
			{Name: "idProduct", Value: hex16(le.Uint16(d[10:]))},
			{Name: "bcdDevice", Value: hex16(le.Uint16(d[12:])), Meaning: describe.BCD(le.Uint16(d[12:]))},
			{Name: "iManufacturer", Value: fmt.Sprint(d[14])},
			{Name: "iProduct", Value: fmt.Sprint(d[15])},
			{Name: "iSerialNumber", Value: fmt.Sprint(d[16])},
			{Name: "bNumConfigurations", Value: fmt.Sprint(d[17])},
		}
	case d[1] == 2 && len(d) >= 9:
		l.Fields = []Field{
			{Name: "wTotalLength", Value: fmt.Sprint(le.Uint16(d[2:]))},
			{Name: "bNumInterfaces", Value: fmt.Sprint(d[4])},
			{Name: "bConfigurationValue", Value: fmt.Sprint(d[5])},
			{Name: "bmAttributes", Value: hex8(d[7])},
			{Name: "bMaxPower", Value: fmt.Sprint(d[8]), Meaning: fmt.Sprintf("%d mA", 2*int(d[8]))},
		}
	case d[1] == 3:
		l.Notes = []string{utf16Text(d[2:])}
	case d[1] == 4 && len(d) >= 9:
		l.Fields = []Field{
			{Name: "bInterfaceNumber", Value: fmt.Sprint(d[2])},
			{Name: "bAlternateSetting", Value: fmt.Sprint(d[3])},
			{Name: "bNumEndpoints", Value: fmt.Sprint(d[4])},
			{Name: "bInterfaceClass", Value: hex8(d[5]), Meaning: describe.InterfaceClass(d[5])},
			{Name: "bInterfaceSubClass", Value: hex8(d[6])},
			{Name: "bInterfaceProtocol", Value: hex8(d[7])},
		}
		if d[5] == ccid.InterfaceClass {
			l.Fields[5].Meaning = describe.InterfaceProtocol(d[7])
		}
	case d[1] == 5 && len(d) >= 7:
		direction := "out"
		if d[2]&0x80 != 0 {
			direction = "in"
		}
		l.Fields = []Field{
			{Name: "bEndpointAddress", Value: hex8(d[2]), Meaning: transferType(usbtransport.TransferType(d[3]&3)) + " " + direction},
			{Name: "bmAttributes", Value: hex8(d[3])},
			{Name: "wMaxPacketSize", Value: fmt.Sprint(le.Uint16(d[4:]))},
			{Name: "bInterval", Value: fmt.Sprint(d[6])},
		}
	case len(d) == ccid.ClassDescriptorLength:
		if class, err := ccid.ParseClassDescriptor(d); err == nil {
			l.Name, l.Fields = "smart card class descriptor", fieldsOf(describe.Class(class))
			return l
		}
		l.Notes = []string{spaced(d)}
	default:
		l.Notes = []string{spaced(d)}
	}
	return l
}

func transferType(t usbtransport.TransferType) string {
	switch t {
	case usbtransport.TransferControl:
		return "control"
	case usbtransport.TransferIsochronous:
		return "isochronous"
	case usbtransport.TransferBulk:
		return "bulk"
	}
	return "interrupt"
}

// failure is how a transfer failed, in a word that programs can rely on.
func failure(t *capture.Transfer) string {
	if t.Err == nil {
		if !t.Ended() {
			return "not ended"
		}
		return ""
	}
	for _, kind := range failures {
		if errors.Is(t.Err, kind.err) {
			return kind.text
		}
	}
	return t.Err.Error()
}

var failures = []struct {
	err  error
	text string
}{
	{usbtransport.ErrRemoved, "device removed"},
	{usbtransport.ErrStalled, "stalled"},
	{usbtransport.ErrTimedOut, "timed out"},
	{usbtransport.ErrCancelled, "cancelled"},
	{usbtransport.ErrOverflow, "overflow"},
	{usbtransport.ErrInvalid, "refused by the host"},
	{usbtransport.ErrNotSupported, "not supported"},
	{usbtransport.ErrIO, "failed on the bus"},
}

// utf16Text decodes a string descriptor's text (USB 2.0 §9.6.7).
func utf16Text(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}
