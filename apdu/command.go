package apdu

import (
	"encoding/binary"
	"fmt"
)

// The limits of the length fields (ISO/IEC 7816-4 §5.1).
const (
	// HeaderLength is the number of bytes of CLA INS P1 P2.
	HeaderLength = 4
	// MaxShortData and MaxShortNe are what one-byte Lc and Le fields can say.
	MaxShortData = 255
	MaxShortNe   = 256
	// MaxData and MaxNe are what extended Lc and Le fields can say.
	MaxData = 65535
	MaxNe   = 65536
	// MaxCommandLength is the length of the longest command: header, 3 bytes of Lc, data, 2 bytes of Le.
	MaxCommandLength = HeaderLength + 3 + MaxData + 2
	// MaxResponseLength is the length of the longest response: data and status word.
	MaxResponseLength = MaxNe + 2
)

// Case tells which of the optional fields a command has and how they are encoded (ISO/IEC 7816-3:2006 §12.1).
type Case uint8

// The seven forms of a command. A case 1 command has no length field, hence no extended form.
const (
	Case1  Case = iota + 1 // no data, no response data
	Case2                  // no data, response data
	Case3                  // data, no response data
	Case4                  // data, response data
	Case2E                 // case 2 with an extended Le
	Case3E                 // case 3 with an extended Lc
	Case4E                 // case 4 with extended Lc and Le
)

// String returns the standard's name of the case: "1", "2S", "4E" …
func (c Case) String() string {
	names := [...]string{Case1: "1", Case2: "2S", Case3: "3S", Case4: "4S", Case2E: "2E", Case3E: "3E", Case4E: "4E"}
	if c < Case1 || int(c) >= len(names) {
		return fmt.Sprintf("Case(%d)", uint8(c))
	}
	return names[c]
}

// Command is a command APDU.
type Command struct {
	CLA, INS, P1, P2 byte
	// Data is the command data field, at most 255 bytes, or 65,535 when Extended.
	Data []byte
	// Ne is the largest number of response data bytes expected: 0 none (no Le field), 1..256, or ..65,536 when Extended.
	Ne int
	// Extended says that the length fields are extended. It means nothing for a command that has none (case 1).
	Extended bool
}

// Case returns the command's case.
func (c Command) Case() Case {
	switch data, le := len(c.Data) > 0, c.Ne > 0; {
	case !data && !le:
		return Case1
	case !data && c.Extended:
		return Case2E
	case !data:
		return Case2
	case !le && c.Extended:
		return Case3E
	case !le:
		return Case3
	case c.Extended:
		return Case4E
	default:
		return Case4
	}
}

// NeedsExtended reports whether the command's data or Ne don't fit short length fields.
func (c Command) NeedsExtended() bool {
	return len(c.Data) > MaxShortData || c.Ne > MaxShortNe
}

// CheckHeader returns an error wrapping ErrHeader when CLA or INS have a value that ISO/IEC 7816-4 §5.1 forbids for
// a card: CLA FF (it would be taken for PPSS), INS 6X and 9X (in T=0 they would be taken for SW1). The parsers don't
// call it: PC/SC uses CLA FF for commands to the reader itself.
func (c Command) CheckHeader() error {
	switch {
	case c.CLA == 0xFF:
		return fmt.Errorf("%w: CLA FF", ErrHeader)
	case c.INS&0xF0 == 0x60, c.INS&0xF0 == 0x90:
		return fmt.Errorf("%w: INS %02X", ErrHeader, c.INS)
	}
	return nil
}

// AppendBinary appends the encoded command to dst. It returns an error wrapping ErrRange when the data or Ne don't
// fit the length fields that Extended asks for.
func (c Command) AppendBinary(dst []byte) ([]byte, error) {
	maxData, maxNe := MaxShortData, MaxShortNe
	if c.Extended {
		maxData, maxNe = MaxData, MaxNe
	}
	if len(c.Data) > maxData {
		return dst, fmt.Errorf("%w: %d data bytes, at most %d", ErrRange, len(c.Data), maxData)
	}
	if c.Ne < 0 || c.Ne > maxNe {
		return dst, fmt.Errorf("%w: Ne %d, at most %d", ErrRange, c.Ne, maxNe)
	}
	dst = append(dst, c.CLA, c.INS, c.P1, c.P2)
	// The conversions below cut off the one bit that does not fit, which turns 256 and 65,536 into their encoding 0.
	switch c.Case() {
	case Case2:
		dst = append(dst, byte(c.Ne))
	case Case3:
		dst = append(append(dst, byte(len(c.Data))), c.Data...)
	case Case4:
		dst = append(append(dst, byte(len(c.Data))), c.Data...)
		dst = append(dst, byte(c.Ne))
	case Case2E:
		dst = binary.BigEndian.AppendUint16(append(dst, 0), uint16(c.Ne))
	case Case3E:
		dst = binary.BigEndian.AppendUint16(append(dst, 0), uint16(len(c.Data)))
		dst = append(dst, c.Data...)
	case Case4E:
		dst = binary.BigEndian.AppendUint16(append(dst, 0), uint16(len(c.Data)))
		dst = append(dst, c.Data...)
		dst = binary.BigEndian.AppendUint16(dst, uint16(c.Ne))
	}
	return dst, nil
}

// Bytes returns the encoded command, as AppendBinary does.
func (c Command) Bytes() ([]byte, error) {
	return c.AppendBinary(make([]byte, 0, HeaderLength+3+len(c.Data)+2))
}
