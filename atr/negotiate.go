package atr

// ReaderLimits is what a reader announces of its speeds (CCID 1.1 §5.1: dwDefaultClock, dwMaximumClock, dwMaxDataRate;
// §5.3.3 GET_DATA_RATES), in hertz and bits per second. Values come from the device and may be absurd; that leads to
// fewer or slower candidates, not to an error.
type ReaderLimits struct {
	// DefaultClockHz is the clock after power-up. When it is not positive no speed can be judged and only the default is tried.
	DefaultClockHz int
	// MaxClockHz is the highest clock. Below DefaultClockHz it is ignored.
	MaxClockHz int
	// DataRatesBps are the speeds that the reader can do. Empty: any up to MaxDataRateBps.
	DataRatesBps []int
	// MaxDataRateBps is the highest speed. 0: not limited.
	MaxDataRateBps int
}

// Candidate is one set of transmission factors to try with a card.
type Candidate struct {
	// T is the protocol.
	T uint8
	// FD codes F and D as TA1 does, 11 the default.
	FD byte
	// Fi and Di are the factors that FD codes.
	Fi, Di int
	// ClockHz is the clock at which the reader reaches Bps: its default clock, or its maximum clock when only that one gives a speed
	// from its list.
	ClockHz int
	// Bps is the speed at ClockHz, 0 when the clock is unknown.
	Bps int
	// PPS: F and D differ from what is in force after reset, so a PPS1 is to be sent.
	PPS bool
	// Implicit: the card runs with factors that it doesn't tell (TA2 bit 5). Fi and Di are the defaults, for want of better.
	Implicit bool
	// Supported: the speed is within the reader's limits. Only the one candidate of specific mode may not be; the
	// reader may then be unable to use this card.
	Supported bool
}

// Candidates returns the speeds at which to try the card with protocol t, in the order in which to try them. It is never empty.
//
// In negotiable mode that is the card's own Fi and Di, then the same Fi with each smaller power of two for D
// (ISO/IEC 7816-3:2006 §9.2 lets the host choose any D from 1 to Di; cards that only know their own Di, or none at
// all, refuse, and the next candidate is tried after a reset), as far as it is faster than the default and the reader
// can do it, and at last the default 372/1 without PPS1. A candidate is left out when the reader's clock is above the fmax that
// goes with Fi.
//
// In specific mode (TA2) the card dictates: exactly one candidate, PPS false, see Implicit and Supported. Reserved factors in
// TA1 lead to the default.
func (a *ATR) Candidates(t uint8, r ReaderLimits) []Candidate {
	if a.Specific != nil {
		return []Candidate{a.dictated(t, r)}
	}
	ta1 := a.TA1()
	list := make([]Candidate, 0, 8)
	for _, d := range smallerDi(ta1) {
		c, ok := r.candidate(ta1&0xF0 | d)
		if !ok || !c.Supported || c.Fi >= DefaultFi*c.Di {
			continue
		}
		c.T, c.PPS = t, true
		list = append(list, c)
	}
	return append(list, r.fallback(t))
}

// dictated returns the candidate of specific mode.
func (a *ATR) dictated(t uint8, r ReaderLimits) Candidate {
	if a.Specific.Implicit {
		c := r.fallback(t)
		c.Implicit = true
		return c
	}
	c, ok := r.candidate(a.TA1())
	if !ok {
		return r.fallback(t)
	}
	c.T = t
	return c
}

// smallerDi returns the codes of D to try for ta1: its own, and those of the smaller powers of two.
func smallerDi(ta1 byte) []byte {
	own, ok := DI(ta1)
	if !ok {
		return nil
	}
	codes := []byte{ta1 & 0x0F}
	for _, code := range []byte{6, 5, 4, 3, 2, 1} {
		if d, _ := DI(code); d < own {
			codes = append(codes, code)
		}
	}
	return codes
}

// fallback returns the default factors. The reader has just received the ATR with them, so they are supported whatever it announces.
func (r ReaderLimits) fallback(t uint8) Candidate {
	return Candidate{
		T: t, FD: DefaultFD, Fi: DefaultFi, Di: DefaultDi, Supported: true,
		ClockHz: r.DefaultClockHz, Bps: Bps(DefaultFi, DefaultDi, r.DefaultClockHz),
	}
}

// candidate weighs the factors that fd codes against the reader's limits. ok is false for reserved factors.
func (r ReaderLimits) candidate(fd byte) (c Candidate, ok bool) {
	fi, fmaxHz, okF := FI(fd)
	di, okD := DI(fd)
	if !okF || !okD {
		return Candidate{}, false
	}
	c = Candidate{FD: fd, Fi: fi, Di: di, ClockHz: r.DefaultClockHz, Bps: Bps(fi, di, r.DefaultClockHz)}
	for _, clock := range []int{r.DefaultClockHz, r.MaxClockHz} {
		if r.DefaultClockHz <= 0 || clock < r.DefaultClockHz || clock > fmaxHz || !r.supports(Bps(fi, di, clock)) {
			continue
		}
		c.ClockHz, c.Bps, c.Supported = clock, Bps(fi, di, clock), true
		break
	}
	return c, true
}

// supports reports whether the reader announces the speed.
func (r ReaderLimits) supports(bps int) bool {
	if bps <= 0 || r.MaxDataRateBps > 0 && bps > r.MaxDataRateBps && !sameRate(bps, r.MaxDataRateBps) {
		return false
	}
	for _, rate := range r.DataRatesBps {
		if sameRate(bps, rate) {
			return true
		}
	}
	return len(r.DataRatesBps) == 0
}

// sameRate reports whether two speeds differ by rounding only. Readers round the clock (3.58 MHz for 3.5714), the quotient
// or both; half a percent covers what is announced in the field, and the closest speeds that two different F/D give are
// 3 % apart.
func sameRate(bps, announced int) bool {
	if announced <= 0 {
		return false
	}
	difference := int64(bps) - int64(announced)
	return max(difference, -difference) <= max(2, int64(announced)/200)
}

// PPSRequest returns the request that puts the candidate into force, and whether an exchange is needed at all. None
// is in specific mode, nor when the candidate is what the card does anyway: its first protocol with the default factors.
func (a *ATR) PPSRequest(c Candidate) (request PPS, needed bool) {
	request = PPS{T: c.T}
	if c.PPS {
		fd := c.FD
		request.PPS1 = &fd
	}
	return request, a.Specific == nil && (c.PPS || c.T != a.FirstProtocol())
}
