// Package ccid is the CCID 1.1 specification as bytes: the class descriptor, every message in both directions, status
// and error codes, control requests and interrupt messages. It is pure: no I/O, no clock, no state. The host side
// (ccid/host) and the device side (virtual) share it.
//
// Section numbers are those of "Universal Serial Bus Device Class: Smart Card CCID, Specification for Integrated
// Circuit(s) Cards Interface Devices", revision 1.1.
package ccid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	// ClassDescriptorLength is bLength of the class descriptor, in bytes (§5.1).
	ClassDescriptorLength = 54
	// ClassDescriptorType is bDescriptorType of the class descriptor (§5.1).
	ClassDescriptorType = 0x21
	// InterfaceClass is bInterfaceClass of a smart card device (§4.2).
	InterfaceClass = 0x0B
	// VendorInterfaceClass is bInterfaceClass of devices from before the class was assigned; they are readers when
	// they carry a class descriptor.
	VendorInterfaceClass = 0xFF
)

// The values of bInterfaceProtocol (§4.2; ICCD 1.0 §4.1).
const (
	ProtocolCCID  = 0 // bulk transfers
	ProtocolICCDA = 1 // ICCD version A: control transfers
	ProtocolICCDB = 2 // ICCD version B: control transfers
)

// ErrDescriptor is what every error of ParseClassDescriptor is, to errors.Is.
var ErrDescriptor = errors.New("ccid: bad class descriptor")

// ClassDescriptor is the smart card device class descriptor (§5.1, table 5.1-1). The field names and JSON names are the
// specification's.
type ClassDescriptor struct {
	// BLength is the descriptor's size in bytes, 54.
	BLength uint8 `json:"bLength"`
	// BDescriptorType is 0x21; some readers say 0xFF.
	BDescriptorType uint8 `json:"bDescriptorType"`
	// BcdCCID is the CCID release number in BCD: 0x0110 is 1.10.
	BcdCCID uint16 `json:"bcdCCID"`
	// BMaxSlotIndex is the highest slot number; slots are numbered from 0.
	BMaxSlotIndex uint8 `json:"bMaxSlotIndex"`
	// BVoltageSupport has a bit for each supply voltage the reader can give.
	BVoltageSupport VoltageSupport `json:"bVoltageSupport"`
	// DwProtocols has bit n set for protocol T=n in its low 16 bits; the upper 16 bits are reserved.
	DwProtocols uint32 `json:"dwProtocols"`
	// DwDefaultClock is the default ICC clock frequency in kHz.
	DwDefaultClock uint32 `json:"dwDefaultClock"`
	// DwMaximumClock is the highest ICC clock frequency in kHz.
	DwMaximumClock uint32 `json:"dwMaximumClock"`
	// BNumClockSupported is how many frequencies GET_CLOCK_FREQUENCIES returns; 0 means the default ones only.
	BNumClockSupported uint8 `json:"bNumClockSupported"`
	// DwDataRate is the default ICC data rate in bit/s.
	DwDataRate uint32 `json:"dwDataRate"`
	// DwMaxDataRate is the highest ICC data rate in bit/s.
	DwMaxDataRate uint32 `json:"dwMaxDataRate"`
	// BNumDataRatesSupported is how many rates GET_DATA_RATES returns; 0 means all rates up to the maximum.
	BNumDataRatesSupported uint8 `json:"bNumDataRatesSupported"`
	// DwMaxIFSD is the largest IFSD of the reader for T=1, in bytes.
	DwMaxIFSD uint32 `json:"dwMaxIFSD"`
	// DwSynchProtocols has a bit for each synchronous protocol: 2-wire, 3-wire, I2C.
	DwSynchProtocols uint32 `json:"dwSynchProtocols"`
	// DwMechanical has a bit for each mechanical feature.
	DwMechanical Mechanical `json:"dwMechanical"`
	// DwFeatures has the reader's automatic features and its level of exchange.
	DwFeatures Features `json:"dwFeatures"`
	// DwMaxCCIDMessageLength is the largest message in bytes, header included.
	DwMaxCCIDMessageLength uint32 `json:"dwMaxCCIDMessageLength"`
	// BClassGetResponse is the class byte for GET RESPONSE of an extended-APDU reader; 0xFF echoes the APDU's class.
	BClassGetResponse uint8 `json:"bClassGetResponse"`
	// BClassEnvelope is the class byte for ENVELOPE of an extended-APDU reader; 0xFF echoes the APDU's class.
	BClassEnvelope uint8 `json:"bClassEnvelope"`
	// WLcdLayout is the display: lines in the high byte, characters a line in the low byte; 0 is no display.
	WLcdLayout uint16 `json:"wLcdLayout"`
	// BPINSupport has a bit for each PIN-pad function.
	BPINSupport PINSupport `json:"bPINSupport"`
	// BMaxCCIDBusySlots is how many slots can work at the same time.
	BMaxCCIDBusySlots uint8 `json:"bMaxCCIDBusySlots"`
}

// ParseClassDescriptor decodes a class descriptor of exactly 54 bytes. bDescriptorType may be 0x21 or, as some readers
// have it, 0xFF. No other field is judged: real readers lie in most of them. The error is an ErrDescriptor that says
// which byte is wrong.
func ParseClassDescriptor(b []byte) (*ClassDescriptor, error) {
	if len(b) != ClassDescriptorLength {
		return nil, fmt.Errorf("%w: %d bytes, needs %d", ErrDescriptor, len(b), ClassDescriptorLength)
	}
	if b[0] != ClassDescriptorLength {
		return nil, fmt.Errorf("%w: offset 0: bLength is %d, needs %d", ErrDescriptor, b[0], ClassDescriptorLength)
	}
	if b[1] != ClassDescriptorType && b[1] != 0xFF {
		return nil, fmt.Errorf("%w: offset 1: bDescriptorType is 0x%02X, needs 0x21", ErrDescriptor, b[1])
	}
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	return &ClassDescriptor{
		BLength:                b[0],
		BDescriptorType:        b[1],
		BcdCCID:                u16(b[2:]),
		BMaxSlotIndex:          b[4],
		BVoltageSupport:        VoltageSupport(b[5]),
		DwProtocols:            u32(b[6:]),
		DwDefaultClock:         u32(b[10:]),
		DwMaximumClock:         u32(b[14:]),
		BNumClockSupported:     b[18],
		DwDataRate:             u32(b[19:]),
		DwMaxDataRate:          u32(b[23:]),
		BNumDataRatesSupported: b[27],
		DwMaxIFSD:              u32(b[28:]),
		DwSynchProtocols:       u32(b[32:]),
		DwMechanical:           Mechanical(u32(b[36:])),
		DwFeatures:             Features(u32(b[40:])),
		DwMaxCCIDMessageLength: u32(b[44:]),
		BClassGetResponse:      b[48],
		BClassEnvelope:         b[49],
		WLcdLayout:             u16(b[50:]),
		BPINSupport:            PINSupport(b[52]),
		BMaxCCIDBusySlots:      b[53],
	}, nil
}

// AppendBinary appends the 54 bytes of the descriptor to dst. It never fails; the error is there for
// encoding.BinaryAppender.
func (d *ClassDescriptor) AppendBinary(dst []byte) ([]byte, error) {
	le := binary.LittleEndian
	dst = append(dst, d.BLength, d.BDescriptorType)
	dst = le.AppendUint16(dst, d.BcdCCID)
	dst = append(dst, d.BMaxSlotIndex, uint8(d.BVoltageSupport))
	dst = le.AppendUint32(dst, d.DwProtocols)
	dst = le.AppendUint32(dst, d.DwDefaultClock)
	dst = le.AppendUint32(dst, d.DwMaximumClock)
	dst = append(dst, d.BNumClockSupported)
	dst = le.AppendUint32(dst, d.DwDataRate)
	dst = le.AppendUint32(dst, d.DwMaxDataRate)
	dst = append(dst, d.BNumDataRatesSupported)
	dst = le.AppendUint32(dst, d.DwMaxIFSD)
	dst = le.AppendUint32(dst, d.DwSynchProtocols)
	dst = le.AppendUint32(dst, uint32(d.DwMechanical))
	dst = le.AppendUint32(dst, uint32(d.DwFeatures))
	dst = le.AppendUint32(dst, d.DwMaxCCIDMessageLength)
	dst = append(dst, d.BClassGetResponse, d.BClassEnvelope)
	dst = le.AppendUint16(dst, d.WLcdLayout)
	return append(dst, uint8(d.BPINSupport), d.BMaxCCIDBusySlots), nil
}

// FindClassDescriptor walks the class-specific descriptors that follow an interface or endpoint descriptor and returns
// the first that ParseClassDescriptor takes. Without one it returns ErrDescriptor with what was seen.
func FindClassDescriptor(extra []byte) (*ClassDescriptor, error) {
	if len(extra) == 0 {
		return nil, fmt.Errorf("%w: none there", ErrDescriptor)
	}
	var seen []string
	for offset := 0; offset < len(extra); {
		length := int(extra[offset])
		if length < 2 || length > len(extra)-offset {
			return nil, fmt.Errorf("%w: offset %d: bLength %d, but %d bytes are left", ErrDescriptor, offset, length, len(extra)-offset)
		}
		d, err := ParseClassDescriptor(extra[offset : offset+length])
		if err == nil {
			return d, nil
		}
		seen = append(seen, fmt.Sprintf("type 0x%02X with %d bytes", extra[offset+1], length))
		offset += length
	}
	return nil, fmt.Errorf("%w: found only %s", ErrDescriptor, strings.Join(seen, ", "))
}

// SupportsProtocol reports whether dwProtocols has the bit of protocol T=t.
func (d *ClassDescriptor) SupportsProtocol(t uint8) bool {
	return t < 16 && d.DwProtocols&(1<<t) != 0
}

// Slots is the number of slots, 1..256.
func (d *ClassDescriptor) Slots() int { return int(d.BMaxSlotIndex) + 1 }

// VoltageSupport is bVoltageSupport (§5.1).
type VoltageSupport uint8

// The bits of bVoltageSupport.
const (
	Voltage5V  VoltageSupport = 1 << 0
	Voltage3V  VoltageSupport = 1 << 1
	Voltage18V VoltageSupport = 1 << 2
)

// String lists the voltages: "5 V, 3 V, 1.8 V"; "none" for 0.
func (v VoltageSupport) String() string {
	return join(bitNames(uint32(v), []string{"5 V", "3 V", "1.8 V"}))
}

// Mechanical is dwMechanical (§5.1).
type Mechanical uint32

// The bits of dwMechanical.
const (
	MechanicalAccept  Mechanical = 1 << 0
	MechanicalEject   Mechanical = 1 << 1
	MechanicalCapture Mechanical = 1 << 2
	MechanicalLock    Mechanical = 1 << 3
)

// String lists the mechanical features; "none" for 0.
func (m Mechanical) String() string {
	return join(bitNames(uint32(m), []string{"card accept", "card ejection", "card capture", "card lock/unlock"}))
}

// PINSupport is bPINSupport (§5.1).
type PINSupport uint8

// The bits of bPINSupport.
const (
	PINVerification PINSupport = 1 << 0
	PINModification PINSupport = 1 << 1
)

// String lists the PIN-pad functions; "none" for 0.
func (p PINSupport) String() string {
	return join(bitNames(uint32(p), []string{"PIN verification", "PIN modification"}))
}

// Features is dwFeatures (§5.1).
type Features uint32

// The bits of dwFeatures.
const (
	FeatureAutoATRConfig     Features = 0x00000002 // automatic parameter configuration based on ATR data
	FeatureAutoActivation    Features = 0x00000004 // automatic activation of the ICC on inserting
	FeatureAutoVoltage       Features = 0x00000008 // automatic ICC voltage selection
	FeatureAutoClock         Features = 0x00000010 // automatic ICC clock frequency change
	FeatureAutoBaudRate      Features = 0x00000020 // automatic baud rate change
	FeatureAutoParameters    Features = 0x00000040 // automatic parameters negotiation by the CCID
	FeatureAutoPPS           Features = 0x00000080 // automatic PPS by the CCID
	FeatureClockStop         Features = 0x00000100 // CCID can set the ICC in clock stop mode
	FeatureNAD               Features = 0x00000200 // NAD value other than 00 accepted (T=1)
	FeatureAutoIFSD          Features = 0x00000400 // automatic IFSD exchange as first exchange (T=1)
	FeatureICCD              Features = 0x00000800 // USB-ICC: the card itself (ICCD 1.0 §5.1)
	FeatureLevelTPDU         Features = 0x00010000 // TPDU level exchanges
	FeatureLevelShortAPDU    Features = 0x00020000 // short APDU level exchange
	FeatureLevelExtendedAPDU Features = 0x00040000 // short and extended APDU level exchange
	FeatureWakeup            Features = 0x00100000 // USB wake-up on ICC insertion and removal
)

// featureNames is in the order of the bits, for String.
var featureNames = [32]string{
	1: "automatic parameter configuration from the ATR", 2: "automatic activation on insertion", 3: "automatic voltage selection",
	4: "automatic clock frequency change", 5: "automatic baud rate change", 6: "automatic parameters negotiation",
	7: "automatic PPS", 8: "clock stop", 9: "NAD other than 00", 10: "automatic IFSD exchange", 11: "USB-ICC",
	16: "TPDU level", 17: "short APDU level", 18: "short and extended APDU level", 20: "USB wake-up on card events",
}

// Names lists the features that are set, in the order of their bits; unknown bits as "bit n".
func (f Features) Names() []string { return bitNames(uint32(f), featureNames[:]) }

// String joins Names with commas; "none" for 0.
func (f Features) String() string { return join(f.Names()) }

// ExchangeLevel is how a reader exchanges data with the card (§5.1, dwFeatures bits 16..18).
type ExchangeLevel uint8

// The levels of exchange.
const (
	LevelCharacter ExchangeLevel = iota
	LevelTPDU
	LevelShortAPDU
	LevelExtendedAPDU
)

// String returns "character", "TPDU", "short APDU" or "extended APDU".
func (l ExchangeLevel) String() string {
	switch l {
	case LevelCharacter:
		return "character"
	case LevelTPDU:
		return "TPDU"
	case LevelShortAPDU:
		return "short APDU"
	case LevelExtendedAPDU:
		return "extended APDU"
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// ExchangeLevel returns the level that the features announce. The specification allows one level bit at most; where a
// reader sets several, the highest level counts, as it needs least of the host.
func (f Features) ExchangeLevel() ExchangeLevel {
	switch {
	case f&FeatureLevelExtendedAPDU != 0:
		return LevelExtendedAPDU
	case f&FeatureLevelShortAPDU != 0:
		return LevelShortAPDU
	case f&FeatureLevelTPDU != 0:
		return LevelTPDU
	}
	return LevelCharacter
}

// bitNames names each bit that is set; a bit without a name is "bit n".
func bitNames(value uint32, names []string) []string {
	var list []string
	for bit := range 32 {
		switch {
		case value&(1<<bit) == 0:
		case bit < len(names) && names[bit] != "":
			list = append(list, names[bit])
		default:
			list = append(list, fmt.Sprintf("bit %d", bit))
		}
	}
	return list
}

func join(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
