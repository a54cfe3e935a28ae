package atr

import (
	"errors"
	"fmt"
)

// The limits of a PPS message (ISO/IEC 7816-3:2006 §9.2): PPSS PPS0 PCK, and PPS1 to PPS3 in between.
const (
	MinPPSLength = 3
	MaxPPSLength = 6

	ppss       = 0xFF
	ppsOptions = 3
)

// The kinds of failure of a PPS exchange, to be tested with errors.Is.
var (
	// ErrPPSFormat: the bytes are not a PPS message.
	ErrPPSFormat = errors.New("atr: malformed PPS")
	// ErrPPSRefused: a well-formed answer does not agree to the request. The card must be reset.
	ErrPPSRefused = errors.New("atr: PPS not agreed")
)

// PPS is a protocol and parameters selection, request or response (ISO/IEC 7816-3:2006 §9.2).
type PPS struct {
	// T is the protocol, 0..14.
	T uint8
	// PPS1 codes F and D as TA1 does. nil: not part of the message.
	PPS1 *byte
	// PPS2 codes the use of contact C6 as the first TB for T=15 does. nil: not part of the message.
	PPS2 *byte
	// PPS3 is reserved. nil: not part of the message.
	PPS3 *byte
}

// Bytes returns the message with PPSS and PCK.
func (p PPS) Bytes() []byte {
	b := make([]byte, 2, MaxPPSLength)
	b[0], b[1] = ppss, p.T&0x0F
	for i, option := range [ppsOptions]*byte{p.PPS1, p.PPS2, p.PPS3} {
		if option != nil {
			b[1] |= 0x10 << i
			b = append(b, *option)
		}
	}
	return append(b, xor(b))
}

// String returns the message in hexadecimal, "FF 11 18 F6".
func (p PPS) String() string { return fmt.Sprintf("% X", p.Bytes()) }

// ParsePPS decodes a PPS message. The error wraps ErrPPSFormat: PPSS is not FF, the number of bytes is not what PPS0 says,
// the reserved bit 8 of PPS0 is set, T is 15, or PCK is wrong.
func ParsePPS(b []byte) (PPS, error) {
	if len(b) < MinPPSLength || len(b) > MaxPPSLength {
		return PPS{}, fmt.Errorf("%w: %d bytes, %d..%d", ErrPPSFormat, len(b), MinPPSLength, MaxPPSLength)
	}
	switch {
	case b[0] != ppss:
		return PPS{}, fmt.Errorf("%w: PPSS is %02X", ErrPPSFormat, b[0])
	case b[1]&0x80 != 0, b[1]&0x0F == 0x0F:
		return PPS{}, fmt.Errorf("%w: PPS0 is %02X", ErrPPSFormat, b[1])
	}
	p := PPS{T: b[1] & 0x0F}
	rest := b[2:]
	for i, option := range [ppsOptions]**byte{&p.PPS1, &p.PPS2, &p.PPS3} {
		if b[1]&(0x10<<i) == 0 {
			continue
		}
		if len(rest) == 0 {
			return PPS{}, fmt.Errorf("%w: %d bytes, PPS0 %02X announces more", ErrPPSFormat, len(b), b[1])
		}
		v := rest[0]
		*option, rest = &v, rest[1:]
	}
	switch {
	case len(rest) != 1:
		return PPS{}, fmt.Errorf("%w: %d bytes do not fit PPS0 %02X", ErrPPSFormat, len(b), b[1])
	case xor(b) != 0:
		return PPS{}, fmt.Errorf("%w: PCK is %02X, must be %02X", ErrPPSFormat, rest[0], xor(b)^rest[0])
	}
	return p, nil
}

// Selection is what a successful PPS exchange leaves in force.
type Selection struct {
	// T is the protocol.
	T uint8
	// FD codes F and D as TA1 does: PPS1, or 11 when the card did not echo it.
	FD byte
	// SPU is PPS2 when both sides gave it: the use of contact C6, 0 for none.
	SPU byte
}

// Accept returns what the card's answer to the request selects (ISO/IEC 7816-3:2006 §9.3). The card may leave PPS1 out,
// which selects the default F and D, and PPS2 and PPS3, but may not change T or a value or add one: then the error
// wraps ErrPPSRefused.
func (p PPS) Accept(response PPS) (Selection, error) {
	if response.T != p.T {
		return Selection{}, fmt.Errorf("%w: T=%d was asked for, the card says T=%d", ErrPPSRefused, p.T, response.T)
	}
	s := Selection{T: p.T, FD: DefaultFD}
	options := [ppsOptions]struct{ asked, got, selected *byte }{
		{p.PPS1, response.PPS1, &s.FD},
		{p.PPS2, response.PPS2, &s.SPU},
		{p.PPS3, response.PPS3, nil},
	}
	for i, o := range options {
		switch {
		case o.got == nil:
		case o.asked == nil:
			return Selection{}, fmt.Errorf("%w: the card adds PPS%d = %02X", ErrPPSRefused, i+1, *o.got)
		case *o.got != *o.asked:
			return Selection{}, fmt.Errorf("%w: PPS%d = %02X was asked for, the card says %02X", ErrPPSRefused, i+1, *o.asked, *o.got)
		case o.selected != nil:
			*o.selected = *o.got
		}
	}
	return s, nil
}

func xor(b []byte) (sum byte) {
	for _, v := range b {
		sum ^= v
	}
	return sum
}
