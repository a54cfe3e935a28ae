package card

import "slices"

// historical says, in compact TLV (ISO/IEC 7816-4 §8.1.1): selection by DF name, path and file identifier; command
// chaining, extended Lc and Le; pre-issuing data "goccid".
var historical = []byte{0x80, 0x73, 0xC0, 0x01, 0xC0, 0x66, 'g', 'o', 'c', 'c', 'i', 'd'}

// makeATR builds the answer to reset that the options describe (ISO/IEC 7816-3:2006 §8.2).
func makeATR(o Options) []byte {
	k := byte(len(historical))
	if o.Protocol == 0 {
		return slices.Concat([]byte{0x3B, 0x10 | k, or(o.TA1, 0x94)}, historical)
	}
	// TD1 announces T=1 first, TD2 its interface bytes TA3 (IFSC), TB3 (BWI 4, CWI 5) and, for CRC, TC3.
	atr := []byte{0x3B, 0x90 | k, or(o.TA1, 0x96), 0x81, 0x31, or(o.IFSC, 254), 0x45}
	if o.CRC {
		atr[4] |= 0x40
		atr = append(atr, 0x01)
	}
	atr = append(atr, historical...)
	var tck byte
	for _, b := range atr[1:] {
		tck ^= b
	}
	return append(atr, tck)
}

func or(v, fallback byte) byte {
	if v == 0 {
		return fallback
	}
	return v
}

// Traits is what a reader or a card needs of an ATR's interface bytes (ISO/IEC 7816-3:2006 §8.3, §10.2, §11.4).
type Traits struct {
	// Protocols are those offered, in order; T=0 where the ATR names none.
	Protocols []byte
	// TA1 is 0x11 when absent.
	TA1 byte
	// Specific says that TA2 is there: the card takes no PPS, and speaks SpecificProtocol.
	Specific         bool
	SpecificProtocol byte
	// GuardTime is TC1, 0 when absent.
	GuardTime byte
	// WI is TC2, 10 when absent.
	WI byte
	// IFSC, WaitingIntegers (BWI, CWI) and CRC are the first TA, TB and TC for T=1: 32, 0x4D and false when absent.
	IFSC, WaitingIntegers byte
	CRC                   bool
}

// ReadATR reads the interface bytes. An ATR that ends early counts as far as it goes: the card is as it is.
func ReadATR(atr []byte) Traits {
	t := Traits{TA1: 0x11, WI: 10, IFSC: 32, WaitingIntegers: 0x4D}
	r := atrReader{traits: &t, protocol: 0xFF}
	if len(atr) >= 2 {
		r.rest = atr[2:]
		for y, group := atr[1]>>4, 1; y != 0; group++ {
			y = r.group(y, group)
		}
	}
	if len(t.Protocols) == 0 {
		t.Protocols = []byte{0}
	}
	return t
}

// atrReader walks the interface bytes.
type atrReader struct {
	traits   *Traits
	rest     []byte
	protocol byte // T of the TD before the group
	seenT1   bool
}

// group reads TAi..TDi as y announces them, and returns the next Y.
func (r *atrReader) group(y byte, i int) byte {
	var value [4]byte
	var there [4]bool
	for bit := range value {
		if y>>bit&1 != 0 && len(r.rest) > 0 {
			value[bit], there[bit], r.rest = r.rest[0], true, r.rest[1:]
		}
	}
	r.use(i, value, there)
	if i > 2 && r.protocol == 1 {
		r.seenT1 = true
	}
	if !there[3] {
		return 0
	}
	r.protocol = value[3] & 15
	if r.protocol != 15 && !slices.Contains(r.traits.Protocols, r.protocol) {
		r.traits.Protocols = append(r.traits.Protocols, r.protocol)
	}
	return value[3] >> 4
}

func (r *atrReader) use(i int, value [4]byte, there [4]bool) {
	t := r.traits
	set := func(field *byte, bit int) {
		if there[bit] {
			*field = value[bit]
		}
	}
	switch {
	case i == 1:
		set(&t.TA1, 0)
		set(&t.GuardTime, 2)
	case i == 2:
		t.Specific, t.SpecificProtocol = there[0], value[0]&15
		set(&t.WI, 2)
	case r.protocol == 1 && !r.seenT1:
		if value[0] != 0 && value[0] != 255 {
			set(&t.IFSC, 0)
		}
		set(&t.WaitingIntegers, 1)
		t.CRC = value[2]&1 != 0
	}
}
