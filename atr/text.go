package atr

import (
	"fmt"
	"strings"
	"time"
)

// textClockHz is the clock for which Text gives times and speeds, a common one.
const textClockHz = 4_000_000

// Text explains the ATR for people, one fact a line. Lines that belong to the one before are indented. Times and speeds
// are for a clock of 4 MHz and the factors of TA1. Problems come last, each line starting with "problem: ".
func (a *ATR) Text() []string {
	lines := []string{fmt.Sprintf("TS = %02X: %s convention", a.Raw[0], a.Convention)}
	if len(a.Raw) > 1 {
		lines = append(lines, fmt.Sprintf("T0 = %02X: %s, %d historical bytes", a.Raw[1], indicated(a.Raw[1], 1), a.Raw[1]&0x0F))
	}
	e := explainer{a: a}
	for i, g := range a.Groups {
		lines = append(lines, e.group(i+1, g)...)
	}
	lines = append(lines, a.modeText()...)
	lines = append(lines, a.historicalText()...)
	if a.TCK.Present {
		lines = append(lines, fmt.Sprintf("TCK = %02X: %s", a.TCK.Value, verdict(a.TCK.Correct)))
	}
	for _, p := range a.Problems() {
		lines = append(lines, "problem: "+p)
	}
	return lines
}

func verdict(correct bool) string {
	if correct {
		return "correct"
	}
	return "wrong"
}

// indicated names the interface bytes with index i that the high half of T0 or TD(i-1) announces.
func indicated(y byte, i int) string {
	var names []string
	for n := range 4 {
		if y&(0x10<<n) != 0 {
			names = append(names, fmt.Sprintf("T%c%d", 'A'+n, i))
		}
	}
	if len(names) == 0 {
		return "no more interface bytes"
	}
	return strings.Join(names, " ")
}

// explainer explains the interface bytes in their order; only the first TA, TB and TC for a T count.
type explainer struct {
	a    *ATR
	seen [16][3]bool
}

func (e *explainer) group(i int, g Group) []string {
	var lines []string
	explain := [3]func(i int, t, v byte) string{e.taText, e.tbText, e.tcText}
	for n, field := range []Byte{g.TA, g.TB, g.TC} {
		if !field.Present {
			continue
		}
		text := explain[n](i, g.T, field.Value)
		if i > 2 && e.seen[g.T][n] {
			text = fmt.Sprintf("ignored, not the first T%c for T=%d", 'A'+n, g.T)
		}
		e.seen[g.T][n] = e.seen[g.T][n] || i > 2
		lines = append(lines, fmt.Sprintf("T%c%d = %02X: %s", 'A'+n, i, field.Value, text))
	}
	if g.TD.Present {
		lines = append(lines, fmt.Sprintf("TD%d = %02X: %s; %s", i, g.TD.Value, protocolText(g.TD.Value&0x0F), indicated(g.TD.Value, i+1)))
	}
	return lines
}

func protocolText(t byte) string {
	switch t {
	case 0:
		return "T=0, half-duplex characters"
	case 1:
		return "T=1, half-duplex blocks"
	case 14:
		return "T=14, a proprietary protocol"
	case 15:
		return "T=15, bytes about all protocols"
	}
	return fmt.Sprintf("T=%d, a reserved protocol", t)
}

func (e *explainer) taText(i int, t, v byte) string {
	switch {
	case i == 1:
		return factorsText(v)
	case i == 2:
		return fmt.Sprintf("specific mode, T=%d", v&0x0F)
	case t == 1:
		return fmt.Sprintf("IFSC = %d, the card takes blocks of up to %d bytes", v, e.a.T1().IFSC)
	case t == 15:
		return fmt.Sprintf("clock stop %s; classes %s", e.a.ClockStop(), e.a.Classes())
	}
	return fmt.Sprintf("specific to T=%d", t)
}

func factorsText(ta1 byte) string {
	fi, fmaxHz, okF := FI(ta1)
	di, okD := DI(ta1)
	if !okF || !okD {
		return fmt.Sprintf("Fi = %s, Di = %s", numberOrReserved(fi, okF), numberOrReserved(di, okD))
	}
	return fmt.Sprintf("Fi = %d, Di = %d, %s cycles per etu; %d bit/s at 4 MHz, %d bit/s at fmax = %g MHz",
		fi, di, WorkETU(fi, di), Bps(fi, di, textClockHz), Bps(fi, di, fmaxHz), float64(fmaxHz)/1e6)
}

func numberOrReserved(n int, ok bool) string {
	if !ok {
		return "reserved"
	}
	return fmt.Sprint(n)
}

func (e *explainer) tbText(i int, t, v byte) string {
	fi, di, _ := e.a.FiDi()
	switch {
	case i == 1 && v&0x1F == 0:
		return "no programming voltage"
	case i == 1:
		// Volts and milliamperes as in the 1997 edition; since 2006 the byte is to be ignored.
		current := [...]string{"25 mA", "50 mA", "100 mA", "reserved current"}[v>>5&3]
		return fmt.Sprintf("programming voltage %d V, %s (deprecated)", v&0x1F, current)
	case i == 2:
		return fmt.Sprintf("programming voltage %.1f V (deprecated)", float64(v)/10)
	case t == 1:
		p := e.a.T1()
		return fmt.Sprintf("BWI = %d, CWI = %d; BWT %v, CWT %v", v>>4, v&0x0F,
			shown(BWT(p.BWI, fi, di, textClockHz)), shown(CWT(p.CWI, fi, di, textClockHz)))
	case t == 15:
		return "contact C6 " + e.a.SPU().String()
	}
	return fmt.Sprintf("specific to T=%d", t)
}

func (e *explainer) tcText(i int, t, v byte) string {
	switch {
	case i == 1 && v == 255:
		return "extra guard time N = 255: 12 etu between characters, 11 etu in T=1"
	case i == 1:
		return fmt.Sprintf("extra guard time N = %d", v)
	case i == 2:
		fi, _, _ := e.a.FiDi()
		wi := e.a.T0().WI
		return fmt.Sprintf("WI = %d; waiting time of T=0 %v", v, shown(WWT(wi, fi, textClockHz)))
	case t == 1 && v&1 == 0:
		return "error detection by LRC"
	case t == 1:
		return "error detection by CRC"
	case t == 15:
		return "reserved"
	}
	return fmt.Sprintf("specific to T=%d", t)
}

// shown rounds a time to what a person wants to know.
func shown(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// modeText tells what is spoken after the reset.
func (a *ATR) modeText() []string {
	s := a.Specific
	if s == nil {
		var names []string
		for _, t := range a.Protocols {
			if t != 15 {
				names = append(names, fmt.Sprintf("T=%d", t))
			}
		}
		if len(names) == 0 {
			names = []string{"T=0"}
		}
		return []string{"negotiable mode; protocols offered: " + strings.Join(names, ", ")}
	}
	change, factors := "the card can't leave it", "factors of TA1"
	if s.CanChange {
		change = "a warm reset may end it"
	}
	if s.Implicit {
		factors = "factors known to the host by other means"
	}
	return []string{fmt.Sprintf("specific mode: T=%d only, %s; %s", s.T, factors, change)}
}
