// Package describe explains a reader's USB descriptors to people: each field of the CCID class descriptor with its
// meaning, and what in it looks wrong. It does no I/O of its own.
package describe

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccid/goccid/ccid"
)

// Field is one field of a descriptor.
type Field struct {
	// Name is the specification's name, "dwFeatures".
	Name string
	// Value is the number as people look for it: decimal for counts, hexadecimal for bit masks.
	Value string
	// Meaning says what the value stands for, "" where the value says it all.
	Meaning string
	// Details are further lines: one for each feature.
	Details []string
}

// Class explains each field of the class descriptor, in the descriptor's order (CCID 1.1 §5.1, table 5.1-1).
func Class(d *ccid.ClassDescriptor) []Field {
	return []Field{
		{Name: "bLength", Value: decimal(d.BLength), Meaning: "bytes"},
		{Name: "bDescriptorType", Value: hexadecimal(d.BDescriptorType, 2), Meaning: descriptorType(d.BDescriptorType)},
		{Name: "bcdCCID", Value: hexadecimal(d.BcdCCID, 4), Meaning: "CCID " + BCD(d.BcdCCID)},
		{Name: "bMaxSlotIndex", Value: decimal(d.BMaxSlotIndex), Meaning: plural(d.Slots(), "slot")},
		{Name: "bVoltageSupport", Value: hexadecimal(d.BVoltageSupport, 2), Meaning: d.BVoltageSupport.String()},
		{Name: "dwProtocols", Value: hexadecimal(d.DwProtocols, 8), Meaning: protocols(d.DwProtocols)},
		{Name: "dwDefaultClock", Value: decimal(d.DwDefaultClock), Meaning: Clock(d.DwDefaultClock)},
		{Name: "dwMaximumClock", Value: decimal(d.DwMaximumClock), Meaning: Clock(d.DwMaximumClock)},
		{Name: "bNumClockSupported", Value: decimal(d.BNumClockSupported), Meaning: listLength(d.BNumClockSupported, "frequencies", "the default one only")},
		{Name: "dwDataRate", Value: decimal(d.DwDataRate), Meaning: Rate(d.DwDataRate)},
		{Name: "dwMaxDataRate", Value: decimal(d.DwMaxDataRate), Meaning: Rate(d.DwMaxDataRate)},
		{Name: "bNumDataRatesSupported", Value: decimal(d.BNumDataRatesSupported), Meaning: listLength(d.BNumDataRatesSupported, "rates", "any from default to maximum")},
		{Name: "dwMaxIFSD", Value: decimal(d.DwMaxIFSD), Meaning: "bytes of a T=1 block"},
		{Name: "dwSynchProtocols", Value: hexadecimal(d.DwSynchProtocols, 8), Meaning: synchronous(d.DwSynchProtocols)},
		{Name: "dwMechanical", Value: hexadecimal(d.DwMechanical, 8), Meaning: d.DwMechanical.String()},
		{Name: "dwFeatures", Value: hexadecimal(d.DwFeatures, 8), Meaning: "exchanges at " + d.DwFeatures.ExchangeLevel().String() + " level", Details: d.DwFeatures.Names()},
		{Name: "dwMaxCCIDMessageLength", Value: decimal(d.DwMaxCCIDMessageLength), Meaning: "bytes, with the header of 10"},
		{Name: "bClassGetResponse", Value: hexadecimal(d.BClassGetResponse, 2), Meaning: classByte(d.BClassGetResponse)},
		{Name: "bClassEnvelope", Value: hexadecimal(d.BClassEnvelope, 2), Meaning: classByte(d.BClassEnvelope)},
		{Name: "wLcdLayout", Value: hexadecimal(d.WLcdLayout, 4), Meaning: display(d.WLcdLayout)},
		{Name: "bPINSupport", Value: hexadecimal(d.BPINSupport, 2), Meaning: d.BPINSupport.String()},
		{Name: "bMaxCCIDBusySlots", Value: decimal(d.BMaxCCIDBusySlots), Meaning: plural(int(d.BMaxCCIDBusySlots), "slot") + " at a time"},
	}
}

// BCD returns a release number as people write it: 0x0110 is "1.10" (USB 2.0 §9.6.1).
func BCD(v uint16) string { return fmt.Sprintf("%x.%02x", v>>8, v&0xFF) }

// Clock returns a frequency given in kHz: "4 MHz", "3.58 MHz".
func Clock(kHz uint32) string { return number(float64(kHz)/1000) + " MHz" }

// Rate returns a data rate given in bit/s, exactly: "10.753 kbit/s", "1.2 Mbit/s".
func Rate(bps uint32) string {
	switch {
	case bps >= 1_000_000:
		return number(float64(bps)/1e6) + " Mbit/s"
	case bps >= 1000:
		return number(float64(bps)/1e3) + " kbit/s"
	}
	return decimal(bps) + " bit/s"
}

// InterfaceProtocol says which way of carrying messages bInterfaceProtocol stands for (CCID 1.1 §4.2, ICCD 1.0 §4.1).
func InterfaceProtocol(p uint8) string {
	switch p {
	case ccid.ProtocolCCID:
		return "CCID: bulk transfers"
	case ccid.ProtocolICCDA:
		return "ICCD version A: control transfers"
	case ccid.ProtocolICCDB:
		return "ICCD version B: control transfers"
	}
	return "unknown"
}

// InterfaceClass says what bInterfaceClass means to a smart card driver (CCID 1.1 §4.2).
func InterfaceClass(c uint8) string {
	switch c {
	case ccid.InterfaceClass:
		return "smart card"
	case ccid.VendorInterfaceClass:
		return "vendor's own, with a CCID class descriptor"
	}
	return "not a smart card class"
}

type unsigned interface {
	~uint8 | ~uint16 | ~uint32
}

func decimal[T unsigned](v T) string { return strconv.FormatUint(uint64(v), 10) }

func hexadecimal[T unsigned](v T, digits int) string { return fmt.Sprintf("0x%0*X", digits, uint64(v)) }

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func descriptorType(t uint8) string {
	if t == ccid.ClassDescriptorType {
		return "smart card class descriptor"
	}
	return "vendor's own type in place of 0x21"
}

func protocols(v uint32) string {
	var list []string
	for t := range 32 {
		if v&(1<<t) != 0 {
			list = append(list, protocolBit(t))
		}
	}
	if list == nil {
		return "none"
	}
	return strings.Join(list, ", ")
}

// protocolBit names a bit of dwProtocols, of which the upper 16 are reserved.
func protocolBit(t int) string {
	if t < 16 {
		return fmt.Sprintf("T=%d", t)
	}
	return fmt.Sprintf("reserved bit %d", t)
}

func synchronous(v uint32) string {
	names := []string{"2-wire", "3-wire", "I²C"}
	var list []string
	for bit := range 32 {
		switch {
		case v&(1<<bit) == 0:
		case bit < len(names):
			list = append(list, names[bit])
		default:
			list = append(list, fmt.Sprintf("bit %d", bit))
		}
	}
	if list == nil {
		return "none"
	}
	return strings.Join(list, ", ")
}

func listLength(n uint8, what, none string) string {
	if n == 0 {
		return "no list: " + none
	}
	return "in the list of " + what
}

func classByte(v uint8) string {
	if v == 0xFF {
		return "the class byte of the APDU"
	}
	return ""
}

func display(v uint16) string {
	if v == 0 {
		return "no display"
	}
	return fmt.Sprintf("display of %d × %d characters", v>>8, v&0xFF)
}
