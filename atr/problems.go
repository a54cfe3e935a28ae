package atr

import (
	"fmt"
	"slices"
)

// Problems lists what the ATR does against ISO/IEC 7816-3:2006 §8, reserved values included, one sentence each. Cards with
// such ATRs are in use; nothing here keeps a card from being tried.
func (a *ATR) Problems() []string {
	var p []string
	report := func(bad bool, format string, args ...any) {
		if bad {
			p = append(p, fmt.Sprintf(format, args...))
		}
	}
	report(a.Truncated, "the ATR ends too early")
	a.reportTCK(report)
	report(len(a.Trailing) > 0, "bytes after the end: % X", a.Trailing)
	a.reportGlobal(report)
	a.reportProtocols(report)
	a.reportT1(report)
	return p
}

type reportFunc func(bad bool, format string, args ...any)

func (a *ATR) reportTCK(report reportFunc) {
	k := a.TCK
	report(k.Present && !k.Correct, "TCK is %02X, must be %02X", k.Value, k.Computed)
	report(k.Expected && !k.Present, "TCK is missing, must be %02X", k.Computed)
	report(k.Present && !k.Expected, "TCK must be absent when only T=0 is offered")
}

// reportGlobal looks at the bytes that are about all protocols, and at TC2.
func (a *ATR) reportGlobal(report reportFunc) {
	ta1 := a.TA1()
	_, _, okF := FI(ta1)
	_, okD := DI(ta1)
	report(!okF, "Fi of TA1 = %02X is reserved", ta1)
	report(!okD, "Di of TA1 = %02X is reserved", ta1)
	if s := a.Specific; s != nil {
		report(s.Value&0x60 != 0, "TA2 = %02X has reserved bits set", s.Value)
		report(!slices.Contains(a.Protocols, s.T) || s.T == 15, "TA2 = %02X dictates T=%d, which is not offered", s.Value, s.T)
	}
	report(len(a.Groups) > 1 && a.Groups[1].TC.Or(defaultWI) == 0, "WI = 0 of TC2 is reserved")
	if t15 := a.specific(15, ta); t15.Present {
		report(a.Classes().reserved(), "class indicator %02X of the first TA for T=15 is reserved", t15.Value&0x3F)
	}
}

func (a *ATR) reportProtocols(report reportFunc) {
	report(a.Protocols[0] == 15, "TD1 says T=15, which is no protocol")
	report(!slices.IsSorted(a.Protocols), "protocols are not offered in ascending order")
	for _, t := range a.Protocols {
		report(t > 1 && t < 14, "T=%d is reserved", t)
	}
}

func (a *ATR) reportT1(report reportFunc) {
	ifsc, waits, edc := a.specific(1, ta), a.specific(1, tb), a.specific(1, tc)
	report(ifsc.Present && (ifsc.Value == 0 || ifsc.Value == 0xFF), "IFSC = %d is reserved", ifsc.Value)
	report(waits.Value>>4 > maxBWI, "BWI = %d is reserved", waits.Value>>4)
	report(edc.Value > 1, "first TC for T=1 = %02X has reserved bits set", edc.Value)
}
