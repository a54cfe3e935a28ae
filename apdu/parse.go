package apdu

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The kinds of failure, to be tested with errors.Is.
var (
	// ErrTooShort: the bytes end before the fields that every APDU has.
	ErrTooShort = errors.New("apdu: too short")
	// ErrLength: the length fields contradict the number of bytes.
	ErrLength = errors.New("apdu: length fields do not match the number of bytes")
	// ErrRange: a value does not fit its field.
	ErrRange = errors.New("apdu: value does not fit")
	// ErrHeader: CLA or INS have a forbidden value.
	ErrHeader = errors.New("apdu: forbidden header value")
	// ErrChain: the commands don't form a chain.
	ErrChain = errors.New("apdu: broken command chain")
)

// ParseCommand decodes a command by the letter of ISO/IEC 7816-3:2006 §12.1. The result's Data is part of b, not a
// copy. It returns an error wrapping ErrTooShort or ErrLength. Encoding the result gives b again.
func ParseCommand(b []byte) (Command, error) {
	if len(b) < HeaderLength {
		return Command{}, fmt.Errorf("%w: %d bytes, a command has at least %d", ErrTooShort, len(b), HeaderLength)
	}
	c, rest := splitHeader(b)
	if len(rest) == 0 {
		return c, nil
	}
	lc := int(rest[0])
	switch {
	case len(rest) == 1:
		c.Ne = shortNe(rest[0])
	case lc > 0 && len(rest) == 1+lc:
		c.Data = rest[1:]
	case lc > 0 && len(rest) == 1+lc+1:
		c.Data, c.Ne = rest[1:1+lc:1+lc], shortNe(rest[1+lc])
	case lc == 0 && len(rest) >= 3:
		return parseExtended(c, rest, b)
	default:
		return Command{}, lengthError(b)
	}
	return c, nil
}

// parseExtended decodes rest, the bytes after the header: 00, two bytes of length, and what follows them.
func parseExtended(c Command, rest, b []byte) (Command, error) {
	c.Extended = true
	lc := int(binary.BigEndian.Uint16(rest[1:]))
	switch {
	case len(rest) == 3:
		c.Ne = extendedNe(rest[1:])
	case lc > 0 && len(rest) == 3+lc:
		c.Data = rest[3:]
	case lc > 0 && len(rest) == 3+lc+2:
		c.Data, c.Ne = rest[3:3+lc:3+lc], extendedNe(rest[3+lc:])
	default:
		return Command{}, lengthError(b)
	}
	return c, nil
}

// ParseCommandLenient decodes a command as hosts send it and cards take it in the field. What ParseCommand accepts
// it decodes alike. Beyond that it accepts, and encodes to the standard's form of the same meaning:
//
//   - Lc = 00 followed by a short Le: case 2 written as case 4 without data.
//   - 00 0000 followed by an Le of one or two bytes: the same, extended.
//   - A short Lc with data and an extended Le of two bytes, or of three with a leading 00. The command is extended.
//   - An extended Lc with data and an Le of one byte, or of three with a leading 00. One byte of 00 asks for all
//     there is: Ne = 65,536.
//
// Missing data bytes and any other surplus stay errors, as for ParseCommand: to guess what was meant could send a
// card half a command.
func ParseCommandLenient(b []byte) (Command, error) {
	c, err := ParseCommand(b)
	if err == nil || len(b) <= HeaderLength+1 {
		return c, err
	}
	c, rest := splitHeader(b)
	if rest[0] == 0 && len(rest) == 2 {
		c.Ne = shortNe(rest[1])
		return c, nil
	}
	data, le, ok := splitData(rest)
	if !ok {
		return Command{}, err
	}
	ne, ok := lenientNe(le)
	if !ok {
		return Command{}, err
	}
	c.Data, c.Ne, c.Extended = data, ne, true
	return c, nil
}

// splitData takes apart the bytes after the header: a short or extended Lc, as many bytes of data, and what follows. ok is
// false when data is missing.
func splitData(rest []byte) (data, le []byte, ok bool) {
	lc, start := int(rest[0]), 1
	if lc == 0 && len(rest) >= 3 {
		lc, start = int(binary.BigEndian.Uint16(rest[1:])), 3
	}
	end := start + lc
	switch {
	case end > len(rest):
		return nil, nil, false
	case lc == 0:
		return nil, rest[end:], true
	default:
		return rest[start:end:end], rest[end:], true
	}
}

// lenientNe decodes an Le of one, two or three bytes, of which the first of three is 00.
func lenientNe(le []byte) (ne int, ok bool) {
	switch {
	case len(le) == 1 && le[0] == 0:
		return MaxNe, true
	case len(le) == 1:
		return int(le[0]), true
	case len(le) == 2:
		return extendedNe(le), true
	case len(le) == 3 && le[0] == 0:
		return extendedNe(le[1:]), true
	}
	return 0, false
}

// splitHeader takes apart a command of at least HeaderLength bytes.
func splitHeader(b []byte) (c Command, rest []byte) {
	return Command{CLA: b[0], INS: b[1], P1: b[2], P2: b[3]}, b[HeaderLength:]
}

func lengthError(b []byte) error {
	return fmt.Errorf("%w: %d bytes, the fifth is %02X", ErrLength, len(b), b[HeaderLength])
}

func shortNe(le byte) int {
	if le == 0 {
		return MaxShortNe
	}
	return int(le)
}

func extendedNe(le []byte) int {
	if n := int(binary.BigEndian.Uint16(le)); n > 0 {
		return n
	}
	return MaxNe
}
