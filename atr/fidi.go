package atr

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"
)

// The factors that every card starts with unless it is in specific mode (ISO/IEC 7816-3:2006 §8.1).
const (
	DefaultFi = 372
	DefaultDi = 1
	// DefaultFD codes them as TA1 does.
	DefaultFD byte = 0x11

	defaultFmaxHz = 5_000_000
)

// FI returns the clock rate conversion integer Fi that the high half of ta1 codes, and the highest clock frequency, in hertz,
// that goes with it (ISO/IEC 7816-3:2006 table 7). ok is false for a reserved value.
func FI(ta1 byte) (fi, fmaxHz int, ok bool) {
	table := [16]struct{ fi, fmaxHz int }{
		0: {372, 4_000_000}, 1: {372, 5_000_000}, 2: {558, 6_000_000}, 3: {744, 8_000_000},
		4: {1116, 12_000_000}, 5: {1488, 16_000_000}, 6: {1860, 20_000_000},
		9: {512, 5_000_000}, 10: {768, 7_500_000}, 11: {1024, 10_000_000}, 12: {1536, 15_000_000}, 13: {2048, 20_000_000},
	}
	e := table[ta1>>4]
	return e.fi, e.fmaxHz, e.fi != 0
}

// DI returns the baud rate adjustment integer Di that the low half of ta1 codes (ISO/IEC 7816-3:2006 table 8). ok is
// false for a reserved value.
func DI(ta1 byte) (di int, ok bool) {
	table := [16]int{1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 6: 32, 7: 64, 8: 12, 9: 20}
	di = table[ta1&0x0F]
	return di, di != 0
}

// ETU is an elementary time unit, the duration of one bit, in clock cycles: the reduced fraction Num/Den. The zero value is an
// unknown one.
type ETU struct{ Num, Den int }

// WorkETU returns F/D. It is the zero value when an argument is not positive.
func WorkETU(fi, di int) ETU {
	if fi <= 0 || di <= 0 {
		return ETU{}
	}
	a, b := fi, di
	for b != 0 {
		a, b = b, a%b
	}
	return ETU{Num: fi / a, Den: di / a}
}

// String returns the number of cycles, such as "31" or "23.25"; where two decimals can't hold it, also the fraction: "42.67 (128/3)".
func (e ETU) String() string {
	if e.Den <= 0 {
		return "unknown"
	}
	cycles := float64(e.Num) / float64(e.Den)
	switch {
	case e.Den == 1:
		return fmt.Sprint(e.Num)
	case 100%e.Den == 0:
		return fmt.Sprintf("%.4g", cycles)
	default:
		return fmt.Sprintf("%.2f (%d/%d)", cycles, e.Num, e.Den)
	}
}

// Bps returns the speed f·D/F in bits per second, rounded down, for a clock of clockHz. It is 0 when an argument
// is not positive.
func Bps(fi, di, clockHz int) int {
	if fi <= 0 || di <= 0 || clockHz <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(clockHz), uint64(di))
	if high >= uint64(fi) {
		return math.MaxInt
	}
	bps, _ := bits.Div64(high, low, uint64(fi))
	return int(min(bps, math.MaxInt))
}

// WWT returns the waiting time WT of T=0: WI × 960 × Fi / f (ISO/IEC 7816-3:2006 §10.2), the longest pause before a character
// of the card.
//
// This and the other functions of time round up, take f = clockHz in hertz, and return 0, for "not known", when a
// factor or the clock is not positive. What doesn't fit a Duration (292 years) becomes the longest one.
func WWT(wi byte, fi, clockHz int) time.Duration {
	return cycles(int64(wi)*960*int64(fi), 1, clockHz)
}

// BWT returns the block waiting time of T=1: 11 etu + 2^BWI × 960 × 372 / f (ISO/IEC 7816-3:2006 §11.4.3), the
// longest pause before a block of the card. A BWI above 9 is reserved and taken for 9.
func BWT(bwi byte, fi, di, clockHz int) time.Duration {
	if fi <= 0 || di <= 0 {
		return 0
	}
	return cycles(11*int64(fi)+int64(di)*(960*DefaultFi)<<min(bwi, maxBWI), int64(di), clockHz)
}

// CWT returns the character waiting time of T=1: (11 + 2^CWI) etu (ISO/IEC 7816-3:2006 §11.4.3), the longest pause
// between two characters of a block. CWI is 0..15; its high half is ignored.
func CWT(cwi byte, fi, di, clockHz int) time.Duration {
	return cycles((11+1<<(cwi&0x0F))*int64(fi), int64(di), clockHz)
}

// BGT returns the block guard time of T=1: 22 etu (ISO/IEC 7816-3:2006 §11.4.3), the shortest pause between two blocks
// of opposite direction.
func BGT(fi, di, clockHz int) time.Duration {
	return cycles(22*int64(fi), int64(di), clockHz)
}

// GT returns the shortest time from one character sent to the card to the next (ISO/IEC 7816-3:2006 §8.3, §11.2), for protocol
// t running with the factors fi and di: 12 etu + R × N / f, where R is Fi/Di of TA1 when the ATR has global bytes
// (T=15), otherwise fi/di. N = 255 means 12 etu, and 11 etu in T=1.
func (a *ATR) GT(t uint8, fi, di, clockHz int) time.Duration {
	f, d := int64(fi), int64(di)
	n := int64(a.GuardTime())
	switch {
	case n == 255 && t == 1:
		return cycles(11*f, d, clockHz)
	case n == 255:
		return cycles(12*f, d, clockHz)
	case slices.Contains(a.Protocols, 15):
		tf, td, _ := a.FiDi()
		// A common denominator keeps the sum exact.
		return cycles(12*f*int64(td)+int64(tf)*n*d, d*int64(td), clockHz)
	default:
		return cycles((12+n)*f, d, clockHz)
	}
}

// cycles returns num/den clock cycles as a duration, rounded up.
func cycles(num, den int64, clockHz int) time.Duration {
	if num <= 0 || den <= 0 || clockHz <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(num), uint64(time.Second))
	overflow, div := bits.Mul64(uint64(den), uint64(clockHz))
	switch {
	case overflow != 0:
		return time.Nanosecond // den is at most 4,096: no clock is that fast
	case high >= div:
		return math.MaxInt64
	}
	ns, rest := bits.Div64(high, low, div)
	if rest > 0 {
		ns++
	}
	return time.Duration(min(ns, math.MaxInt64))
}
