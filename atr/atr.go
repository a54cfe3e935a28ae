package atr

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// MaxLength is the length of the longest ATR: TS and 32 more characters (ISO/IEC 7816-3:2006 §8.2.1).
const MaxLength = 33

// The kinds of failure of Parse, to be tested with errors.Is.
var (
	// ErrTruncated: the ATR ends before the bytes it announces.
	ErrTruncated = errors.New("atr: truncated")
	// ErrTooLong: more than MaxLength bytes.
	ErrTooLong = errors.New("atr: too long")
	// ErrTS: the first byte is none of 3B, 3F and 03.
	ErrTS = errors.New("atr: not an initial character TS")
)

// Convention is how the card codes bits on the line (ISO/IEC 7816-3:2006 §8.1).
type Convention uint8

// The two conventions.
const (
	Direct  Convention = iota // TS 3B: high is 1, least significant bit first
	Inverse                   // TS 3F: low is 1, most significant bit first
)

// String returns "direct" or "inverse".
func (c Convention) String() string {
	if c == Inverse {
		return "inverse"
	}
	return "direct"
}

// Byte is an interface byte, which the ATR may or may not have.
type Byte struct {
	Value   byte
	Present bool
}

// Or returns the byte's value, or def when the byte is absent.
func (b Byte) Or(def byte) byte {
	if b.Present {
		return b.Value
	}
	return def
}

// Group is the interface bytes TAi TBi TCi TDi of one i (ISO/IEC 7816-3:2006 §8.2.3).
type Group struct {
	// T is the T of TD(i-1), which says what TA, TB and TC of i > 2 are about: a protocol, or 15 for all protocols.
	// It is 0 for i = 1, whose bytes are about all protocols.
	T              uint8
	TA, TB, TC, TD Byte
}

// TCK describes the check character (ISO/IEC 7816-3:2006 §8.2.5).
type TCK struct {
	// Present: the ATR has one. Expected: it must have one, since it offers more than T=0.
	Present, Expected bool
	// Value is what the card sent, 0 when not Present.
	Value byte
	// Computed is the exclusive-or of all bytes from T0 to the last historical byte: what TCK must be.
	Computed byte
	// Correct: there is a TCK of the right value, or there is none and none is expected.
	Correct bool
}

// SpecificMode is TA2: the card speaks one protocol with one set of parameters from the start, without PPS
// (ISO/IEC 7816-3:2006 §8.3, figure 15).
type SpecificMode struct {
	// T is the protocol in use.
	T uint8
	// CanChange: a warm reset may take the card to negotiable mode (bit 8 is 0).
	CanChange bool
	// Implicit: Fi and Di are not those of TA1 but known to the host by other means (bit 5 is 1).
	Implicit bool
	// Value is TA2.
	Value byte
}

// ATR is a decoded Answer To Reset.
type ATR struct {
	// Raw is the ATR as its bytes, from TS (3B or 3F) on, including Trailing.
	Raw        []byte
	Convention Convention
	// Groups are the interface bytes; Groups[0] is those of i = 1. Empty only when Truncated before TA1.
	Groups []Group
	// Protocols are the values of T in the order offered, each once: 0..14, and 15 when global bytes are present. It is {0}
	// when TD1 is absent.
	Protocols []uint8
	// Historical are the historical bytes, at most 15.
	Historical []byte
	TCK        TCK
	// Specific is TA2, nil when absent: the card is in negotiable mode.
	Specific *SpecificMode
	// Trailing are bytes after the end of the ATR. Readers add status words, zeros, or their buffer's old content.
	Trailing []byte
	// Truncated: the ATR ends too early. Parse then also returned an error.
	Truncated bool
}

// Parse decodes an ATR. It keeps a copy of b.
//
// A TS of 03 is an inverse-convention ATR that was received by the direct convention; Parse decodes all of it by the
// inverse one, so Raw starts with 3F then.
//
// Parse returns a nil ATR and an error wrapping ErrTS or ErrTooLong, or wrapping ErrTruncated. With ErrTruncated the
// ATR is not nil: it holds what could be read, to be shown, not to be used.
func Parse(b []byte) (*ATR, error) {
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%w: no bytes", ErrTruncated)
	case len(b) > MaxLength:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, len(b), MaxLength)
	}
	raw := slices.Clone(b)
	if raw[0] == 0x03 {
		invert(raw)
	}
	a := &ATR{Raw: raw}
	switch raw[0] {
	case 0x3B:
	case 0x3F:
		a.Convention = Inverse
	default:
		return nil, fmt.Errorf("%w: %02X", ErrTS, raw[0])
	}
	if err := a.parse(); err != nil {
		a.Truncated = true
		return a, err
	}
	return a, nil
}

// invert turns bytes received by one convention into those meant by the other: bits in opposite order, with opposite
// values.
func invert(b []byte) {
	for i, v := range b {
		b[i] = ^bits.Reverse8(v)
	}
}

func (a *ATR) parse() error {
	if len(a.Raw) < 2 {
		a.Protocols = []uint8{0}
		return fmt.Errorf("%w: T0 is missing", ErrTruncated)
	}
	rest, err := a.parseInterface(a.Raw[2:])
	a.parseProtocols()
	if err != nil {
		return err
	}
	k := int(a.Raw[1] & 0x0F)
	n := min(k, len(rest))
	a.Historical, rest = rest[:n:n], rest[n:]
	a.parseTCK(rest)
	if n < k {
		return fmt.Errorf("%w: T0 announces %d historical bytes, there are %d", ErrTruncated, k, n)
	}
	return nil
}

// parseInterface reads the interface bytes that T0 and the TDi announce, and returns the bytes that follow them. The
// chain of TDi can't be longer than the ATR.
func (a *ATR) parseInterface(b []byte) (rest []byte, err error) {
	a.Groups = make([]Group, 0, 4)
	indicator, t := a.Raw[1], uint8(0)
	for more := true; more; {
		a.Groups = append(a.Groups, Group{T: t})
		g := &a.Groups[len(a.Groups)-1]
		for i, field := range []*Byte{&g.TA, &g.TB, &g.TC, &g.TD} {
			if indicator&(0x10<<i) == 0 {
				continue
			}
			if len(b) == 0 {
				return nil, fmt.Errorf("%w: T%c%d is missing", ErrTruncated, 'A'+i, len(a.Groups))
			}
			*field = Byte{Value: b[0], Present: true}
			b = b[1:]
		}
		more, indicator, t = g.TD.Present, g.TD.Value, g.TD.Value&0x0F
	}
	return b, nil
}

func (a *ATR) parseProtocols() {
	for _, g := range a.Groups {
		if t := g.TD.Value & 0x0F; g.TD.Present && !slices.Contains(a.Protocols, t) {
			a.Protocols = append(a.Protocols, t)
		}
	}
	if len(a.Protocols) == 0 {
		a.Protocols = []uint8{0}
	}
	if len(a.Groups) > 1 && a.Groups[1].TA.Present {
		ta2 := a.Groups[1].TA.Value
		a.Specific = &SpecificMode{T: ta2 & 0x0F, CanChange: ta2&0x80 == 0, Implicit: ta2&0x10 != 0, Value: ta2}
	}
}

// parseTCK takes rest, the bytes after the historical ones, for TCK and surplus.
func (a *ATR) parseTCK(rest []byte) {
	k := &a.TCK
	for _, v := range a.Raw[1 : len(a.Raw)-len(rest)] {
		k.Computed ^= v
	}
	k.Expected = slices.ContainsFunc(a.Protocols, func(t uint8) bool { return t != 0 })
	// A T=0-only card should send none. Exactly one byte too many is taken for a TCK nevertheless, more are not.
	k.Present = len(rest) == 1 || len(rest) > 1 && k.Expected
	k.Correct = !k.Expected
	if k.Present {
		k.Value = rest[0]
		k.Correct = k.Value == k.Computed
		rest = rest[1:]
	}
	if len(rest) > 0 {
		a.Trailing = rest
	}
}

// Valid reports whether the ATR is built as ISO/IEC 7816-3:2006 §8.2 demands: complete, TCK right, nothing after the
// end. Reserved values don't make it invalid; see Problems.
func (a *ATR) Valid() bool {
	return !a.Truncated && a.TCK.Correct && a.TCK.Present == a.TCK.Expected && len(a.Trailing) == 0
}

// first returns group 1, which is empty when the ATR is truncated.
func (a *ATR) first() Group {
	if len(a.Groups) == 0 {
		return Group{}
	}
	return a.Groups[0]
}

// specific returns the first TAi, TBi or TCi, as field picks it, with i > 2 that is about t: the specific bytes of a
// protocol, or the global ones after T=15 (ISO/IEC 7816-3:2006 §8.2.3).
func (a *ATR) specific(t uint8, field func(Group) Byte) Byte {
	for i, g := range a.Groups {
		if i >= 2 && g.T == t && field(g).Present {
			return field(g)
		}
	}
	return Byte{}
}

func ta(g Group) Byte { return g.TA }
func tb(g Group) Byte { return g.TB }
func tc(g Group) Byte { return g.TC }

// Offers reports whether the card can be made to speak T=t, 0..14: in specific mode the one protocol of TA2,
// otherwise those of Protocols.
func (a *ATR) Offers(t uint8) bool {
	if t == 15 {
		return false
	}
	if a.Specific != nil {
		return a.Specific.T == t
	}
	return slices.Contains(a.Protocols, t)
}

// FirstProtocol returns the protocol that the card speaks when no PPS is done: that of TA2 in specific mode, otherwise
// the first one offered (ISO/IEC 7816-3:2006 §6.3.1). A T of 15, which isn't a protocol, is passed over; 0 is the answer when nothing
// else is left.
func (a *ATR) FirstProtocol() uint8 {
	if a.Specific != nil && a.Specific.T != 15 {
		return a.Specific.T
	}
	for _, t := range a.Protocols {
		if t != 15 {
			return t
		}
	}
	return 0
}

// TA1 returns the byte that codes Fi and Di, 11 when absent.
func (a *ATR) TA1() byte { return a.first().TA.Or(DefaultFD) }

// FiDi returns the factors that TA1 codes and the highest clock frequency, in hertz, that goes with them
// (ISO/IEC 7816-3:2006 tables 7 and 8). It returns the defaults 372, 1 and 5 MHz when TA1 is absent or reserved.
func (a *ATR) FiDi() (fi, di, fmaxHz int) {
	if f, fmax, ok := FI(a.TA1()); ok {
		if d, ok := DI(a.TA1()); ok {
			return f, d, fmax
		}
	}
	return DefaultFi, DefaultDi, defaultFmaxHz
}

// GuardTime returns TC1, the extra guard time integer N: 0..254, and 255 for "the least there is". 0 when absent.
func (a *ATR) GuardTime() byte { return a.first().TC.Or(0) }

// T0Params are the parameters of T=0 (ISO/IEC 7816-3:2006 §10.2).
type T0Params struct {
	// WI is the waiting time integer, 1..255.
	WI byte
}

// defaultWI is WI when TC2 is absent.
const defaultWI = 10

// T0 returns the parameters for T=0: TC2, or the default WI = 10 when it is absent or the reserved 0.
func (a *ATR) T0() T0Params {
	if len(a.Groups) > 1 && a.Groups[1].TC.Or(0) != 0 {
		return T0Params{WI: a.Groups[1].TC.Value}
	}
	return T0Params{WI: defaultWI}
}

// T1Params are the parameters of T=1 (ISO/IEC 7816-3:2006 §11.4).
type T1Params struct {
	// IFSC is the size of the largest information field that the card takes, 1..254.
	IFSC int
	// BWI is the block waiting time integer, 0..9; CWI the character waiting time integer, 0..15.
	BWI, CWI byte
	// EDC is the error detection code: 0 LRC, 1 CRC.
	EDC byte
}

// The defaults and limits of T=1.
const (
	defaultIFSC   = 32
	maxIFSC       = 254
	defaultBWICWI = 0x4D
	maxBWI        = 9
)

// T1 returns the parameters for T=1: the first TAi, TBi and TCi with i > 2 that follow a TD of T=1, or the defaults:
// IFSC 32, BWI 4, CWI 13, LRC. Reserved values become usable ones: IFSC 0 → 32, IFSC 255 → 254, BWI above 9 → 9, and only
// bit 1 of TCi counts.
func (a *ATR) T1() T1Params {
	ifsc := int(a.specific(1, ta).Or(defaultIFSC))
	if ifsc == 0 {
		ifsc = defaultIFSC
	}
	waits := a.specific(1, tb).Or(defaultBWICWI)
	return T1Params{
		IFSC: min(ifsc, maxIFSC),
		BWI:  min(waits>>4, maxBWI),
		CWI:  waits & 0x0F,
		EDC:  a.specific(1, tc).Or(0) & 1,
	}
}
