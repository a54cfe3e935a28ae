package atr

import "strings"

// ClockStop is the clock stop indicator XI, bits 8 and 7 of the first TA for T=15 (ISO/IEC 7816-3:2006 §8.3,
// table 9): whether the card bears a stopped clock, and in which state.
type ClockStop uint8

// The values of XI.
const (
	ClockStopNotSupported ClockStop = iota
	ClockStopLow
	ClockStopHigh
	ClockStopAny // supported in either state
)

// String returns "not supported", "state L", "state H" or "no preference".
func (c ClockStop) String() string {
	return [...]string{"not supported", "state L", "state H", "no preference"}[c&3]
}

// Classes is the class indicator UI, bits 6 to 1 of the first TA for T=15 (ISO/IEC 7816-3:2006 §8.3, table 10): the
// supply voltages that the card works with, as a set.
type Classes uint8

// The classes of operating conditions (ISO/IEC 7816-3:2006 §5.1.3).
const (
	ClassA Classes = 1 << iota // 5 V
	ClassB                     // 3 V
	ClassC                     // 1.8 V
)

// Has reports whether all classes of other are in c.
func (c Classes) Has(other Classes) bool { return c&other == other }

// String returns for example "A 5 V, B 3 V", and "reserved" for bits that have no meaning.
func (c Classes) String() string {
	var names []string
	for i, name := range []string{"A 5 V", "B 3 V", "C 1.8 V"} {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if c == 0 || c>>3 != 0 {
		names = append(names, "reserved")
	}
	return strings.Join(names, ", ")
}

// reserved reports whether UI is none of the values of table 10: A, B, C, AB, BC, ABC.
func (c Classes) reserved() bool {
	return c == 0 || c>>3 != 0 || c == ClassA|ClassC
}

// Classes returns the classes that the card works with. Without a TA for T=15 it is class A only.
func (a *ATR) Classes() Classes {
	return Classes(a.specific(15, ta).Or(byte(ClassA)) & 0x3F)
}

// ClockStop returns whether the clock may be stopped. Without a TA for T=15 it may not.
func (a *ATR) ClockStop() ClockStop {
	return ClockStop(a.specific(15, ta).Or(byte(ClassA)) >> 6)
}

// SPU is the use that the card makes of contact C6, the first TB for T=15 (ISO/IEC 7816-3:2006 §8.3).
type SPU struct {
	// Value is TB. 0: the card doesn't use C6.
	Value byte
}

// Used reports whether the card uses contact C6.
func (s SPU) Used() bool { return s.Value != 0 }

// Proprietary reports whether the use is proprietary rather than standard (bit 8).
func (s SPU) Proprietary() bool { return s.Value&0x80 != 0 }

// String returns "not used", "standard use" or "proprietary use".
func (s SPU) String() string {
	switch {
	case !s.Used():
		return "not used"
	case s.Proprietary():
		return "proprietary use"
	default:
		return "standard use"
	}
}

// SPU returns the use of contact C6, "not used" without a TB for T=15.
func (a *ATR) SPU() SPU { return SPU{Value: a.specific(15, tb).Or(0)} }
