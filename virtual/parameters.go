package virtual

import (
	"context"
	"slices"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/virtual/card"
)

// parameters are what a slot uses to talk to its card.
type parameters struct {
	protocol uint8
	t0       ccid.ParametersT0
	t1       ccid.ParametersT1
}

// defaultParameters are those after ResetParameters and IccPowerOn (ISO/IEC 7816-3:2006 §8.3, §11.4).
func defaultParameters() parameters {
	return parameters{
		t0: ccid.ParametersT0{BmFindexDindex: 0x11, BWaitingIntegerT0: 10},
		t1: ccid.ParametersT1{BmFindexDindex: 0x11, BmTCCKST1: ccid.TCCKST1Fixed, BmWaitingIntegersT1: 0x4D, BIFSC: 32},
	}
}

// fd is bmFindexDindex of the protocol in use.
func (p parameters) fd() byte {
	if p.protocol == 1 {
		return p.t1.BmFindexDindex
	}
	return p.t0.BmFindexDindex
}

func (p *parameters) setFD(fd byte) { p.t0.BmFindexDindex, p.t1.BmFindexDindex = fd, fd }

func (p parameters) bytes() []byte {
	if p.protocol == 1 {
		return p.t1.Bytes()
	}
	return p.t0.Bytes()
}

// negotiate sets up the card after its ATR as far as the reader's features say that it does so by itself (CCID 1.1 §5.1).
func (s *slot) negotiate(ctx context.Context, icc card.Card, atr []byte) parameters {
	p := defaultParameters()
	features := s.function.class.DwFeatures
	if features&(ccid.FeatureAutoATRConfig|ccid.FeatureAutoParameters) == 0 {
		return p
	}
	traits := card.ReadATR(atr)
	p.protocol = icc.State().Protocol
	p.t0.BGuardTimeT0, p.t1.BGuardTimeT1 = traits.GuardTime, traits.GuardTime
	p.t0.BWaitingIntegerT0 = traits.WI
	p.t1.BmWaitingIntegersT1, p.t1.BIFSC = traits.WaitingIntegers, traits.IFSC
	if traits.CRC {
		p.t1.BmTCCKST1 |= ccid.TCCKSTCRC
	}
	if len(atr) > 0 && atr[0] == 0x3F {
		p.t0.BmTCCKST0 |= ccid.TCCKSTInverseConvention
		p.t1.BmTCCKST1 |= ccid.TCCKSTInverseConvention
	}
	if state := icc.State(); features&ccid.FeatureAutoParameters != 0 && state.Negotiable && traits.TA1 != 0x11 {
		s.pps(ctx, icc, state.Protocol, traits.TA1)
	}
	p.setFD(icc.State().FD)
	return p
}

// pps makes a PPS exchange for the reader's own purposes (ISO/IEC 7816-3:2006 §9).
func (s *slot) pps(ctx context.Context, icc card.Card, protocol, fd byte) bool {
	request := []byte{0xFF, 0x10 | protocol, fd, 0xFF ^ 0x10 ^ protocol ^ fd}
	icc.Write(request)
	answer, err := icc.Read(ctx, len(request))
	return err == nil && slices.Equal(request, answer)
}

func (s *slot) getParameters(c ccid.Command) ccid.Response {
	if !s.isActive() {
		return s.failure(c, ccid.ErrorICCMute)
	}
	s.function.mu.Lock()
	p := s.parameters
	s.function.mu.Unlock()
	return s.answer(c, p.protocol, p.bytes())
}

func (s *slot) resetParameters(c ccid.Command) ccid.Response {
	if !s.isActive() {
		return s.failure(c, ccid.ErrorICCMute)
	}
	s.function.mu.Lock()
	protocol := s.parameters.protocol
	s.parameters = defaultParameters()
	s.parameters.protocol = protocol
	p := s.parameters
	s.configured = false
	s.function.mu.Unlock()
	return s.answer(c, p.protocol, p.bytes())
}

// Offsets of the fields of SetParameters, for bError.
const (
	offsetProtocolNum  = 7
	offsetFindexDindex = 10
	offsetTCCKST       = 11
	offsetClockStop    = 14
	offsetIFSC         = 15
)

// setParameters answers SetParameters (CCID 1.1 §6.1.7).
func (s *slot) setParameters(ctx context.Context, c ccid.Command) ccid.Response {
	if !s.isActive() {
		s.inactive(c)
		return s.failure(c, ccid.ErrorICCMute)
	}
	p, code := s.parseParameters(c)
	if code != 0 {
		return s.failure(c, code)
	}
	icc := s.activeCard()
	if icc == nil {
		return s.failure(c, ccid.ErrorICCMute)
	}
	state := icc.State()
	features := s.function.class.DwFeatures
	wanted := p.protocol != state.Protocol || p.fd() != state.FD
	if wanted && features&ccid.FeatureAutoPPS != 0 && state.Negotiable {
		if !s.pps(ctx, icc, p.protocol, p.fd()) {
			return s.failure(c, ccid.ErrorICCMute)
		}
		state = icc.State()
	}
	if p.protocol != state.Protocol {
		s.violated(c, RuleProtocol, "T=%d, but the card speaks T=%d", p.protocol, state.Protocol)
		return s.failure(c, offsetProtocolNum)
	}
	if p.fd() != state.FD {
		s.violated(c, RuleNotConfigured, "bmFindexDindex %02X, but the card works with %02X", p.fd(), state.FD)
	}
	s.function.mu.Lock()
	s.parameters, s.configured = p, true
	s.function.mu.Unlock()
	return s.answer(c, p.protocol, p.bytes())
}

// parseParameters judges the data by themselves. code is 0 or the error to answer with.
func (s *slot) parseParameters(c ccid.Command) (p parameters, code ccid.ErrorCode) {
	s.function.mu.Lock()
	p = s.parameters
	traits := card.ReadATR(s.atr)
	s.function.mu.Unlock()
	p.protocol = c.Specific[0]
	bad := func(rule Rule, code ccid.ErrorCode, what string, value byte) (parameters, ccid.ErrorCode) {
		s.violated(c, rule, "%s %02X", what, value)
		return p, code
	}
	var err error
	switch p.protocol {
	case 0:
		p.t0, err = ccid.ParseParametersT0(c.Data)
	case 1:
		p.t1, err = ccid.ParseParametersT1(c.Data)
	default:
		return bad(RuleProtocol, offsetProtocolNum, "bProtocolNum", p.protocol)
	}
	if err != nil {
		s.violated(c, RuleDataLength, "%v", err)
		return p, ccid.ErrorBadLength
	}
	if !s.function.class.SupportsProtocol(p.protocol) {
		return bad(RuleProtocol, offsetProtocolNum, "the reader has no T =", p.protocol)
	}
	if !validFD(p.fd()) {
		return bad(RuleParameters, offsetFindexDindex, "bmFindexDindex", p.fd())
	}
	stop := p.t0.BClockStop
	if p.protocol == 1 {
		stop = p.t1.BClockStop
		switch {
		case p.t1.BmTCCKST1&^(ccid.TCCKSTCRC|ccid.TCCKSTInverseConvention) != ccid.TCCKST1Fixed:
			return bad(RuleParameters, offsetTCCKST, "bmTCCKST1", p.t1.BmTCCKST1)
		case p.t1.BmTCCKST1&ccid.TCCKSTCRC != 0 != traits.CRC:
			return bad(RuleNotConfigured, offsetTCCKST, "the ATR has another EDC than bmTCCKST1", p.t1.BmTCCKST1)
		case p.t1.BIFSC == 0 || p.t1.BIFSC == 255:
			return bad(RuleParameters, offsetIFSC, "bIFSC", p.t1.BIFSC)
		}
	} else if p.t0.BmTCCKST0&^ccid.TCCKSTInverseConvention != 0 {
		return bad(RuleParameters, offsetTCCKST, "bmTCCKST0", p.t0.BmTCCKST0)
	}
	if stop > 3 {
		return bad(RuleParameters, offsetClockStop, "bClockStop", stop)
	}
	return p, 0
}

// validFD reports whether F and D are not reserved (ISO/IEC 7816-3:2006 tables 7 and 8).
func validFD(fd byte) bool {
	f, d := fd>>4, fd&15
	return f != 7 && f != 8 && f < 14 && d >= 1 && d <= 9
}

// inactive records that a host uses a card without power, unless it can't know yet that the power is gone.
func (s *slot) inactive(c ccid.Command) {
	s.function.mu.Lock()
	// A message that was on its way when the reader was pulled out comes to one without power.
	unknowing := s.lost || s.function.port == nil
	s.function.mu.Unlock()
	if !unknowing {
		s.violated(c, RuleInactive, "%v", c.Type)
	}
}
