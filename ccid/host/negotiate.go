package host

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
)

// Parameters are what reader and card work with.
type Parameters struct {
	// T is the protocol, 0 or 1.
	T uint8
	// FD codes Fi and Di as TA1 does (ISO/IEC 7816-3:2006 §8.3).
	FD byte
	// PPS: the host exchanged PPS with the card.
	PPS bool
	// Refused is why the reader's own parameters are in use instead of ours, nil where it took ours or sets them by
	// itself. The card works with its defaults then.
	Refused error
	// IFSC and IFSD are the T=1 information field sizes in bytes, 0 where the reader runs T=1.
	IFSC, IFSD int
}

// String returns all that is known, for logs: "T=1, Fi/Di 96, PPS done, IFSC 254, IFSD 254".
func (p Parameters) String() string {
	text := fmt.Sprintf("T=%d, Fi/Di %02X", p.T, p.FD)
	if p.PPS {
		text += ", PPS done"
	}
	if p.IFSC > 0 {
		text += fmt.Sprintf(", IFSC %d, IFSD %d", p.IFSC, p.IFSD)
	}
	if p.Refused != nil {
		text += fmt.Sprintf(", set by the reader (%v)", p.Refused)
	}
	return text
}

// Mapping says who makes T=0 TPDUs out of APDUs, for readers at TPDU and character level.
type Mapping uint8

const (
	// MapAPDU: Transmit takes APDUs, short or extended, and does what T=0 needs: GET RESPONSE, repeated Le, ENVELOPE
	// (ISO/IEC 7816-3:2006 §12.2).
	MapAPDU Mapping = iota
	// Transparent: Transmit takes TPDUs, and the caller reacts to 61xx and 6Cxx, as PC/SC applications expect to.
	Transparent
)

// String returns "APDUs" or "transparent".
func (m Mapping) String() string {
	if m == Transparent {
		return "transparent"
	}
	return "APDUs"
}

// setup is one way to set up a card's protocol.
type setup struct {
	fd  byte
	pps *atr.PPS // what to send, nil for no PPS
	set bool     // send SetParameters
	// warm: the cold reset before this try is to be followed by a warm one.
	warm bool
	edc  t1.EDC // of T=1 blocks, where the host makes them
}

// Connect powers the card on and sets the first protocol that it offers and the reader can speak, with APDUs mapped for
// T=0. It returns the answer to reset.
func (s *Slot) Connect(ctx context.Context) ([]byte, error) {
	raw, err := s.PowerOn(ctx, ColdReset)
	if err != nil {
		return nil, err
	}
	return raw, s.SetProtocol(ctx, s.preferredProtocol(raw), MapAPDU)
}

// preferredProtocol returns the protocol that Connect sets: 0 where there is none, so that SetProtocol says why.
func (s *Slot) preferredProtocol(raw []byte) uint8 {
	a, err := atr.Parse(raw)
	if err != nil {
		return 0
	}
	if a.Specific != nil {
		return a.Specific.T
	}
	for _, t := range a.Protocols {
		if t <= 1 && s.readerSpeaks(t) {
			return t
		}
	}
	return a.FirstProtocol()
}

// readerSpeaks reports whether dwProtocols has T=t; a reader that claims neither T=0 nor T=1 is not believed.
func (s *Slot) readerSpeaks(t uint8) bool {
	class := s.class
	return class.SupportsProtocol(t) || class.DwProtocols&3 == 0
}

// SetProtocol makes the card ready for Transmit with T=0 or T=1: PPS and PC_to_RDR_SetParameters as far as the reader
// does not do them by itself, from the fastest parameters that reader and card have in common down to the default ones,
// with a cold reset before each new try, and the negotiation of the T=1 information field size. mapping says whether
// commands for T=0 are APDUs or TPDUs; it counts for readers at TPDU and character level only.
//
// With a protocol set already, the same one again only changes the mapping; another one costs a cold reset. Errors, in
// an *Error: ErrNotPowered, ErrBadATR, ErrProtocol, ErrParameters with the reason for each try, and those of PowerOn.
func (s *Slot) SetProtocol(ctx context.Context, t uint8, mapping Mapping) error {
	return s.do(ctx, "set protocol", func(ctx context.Context) error { return s.setProtocol(ctx, t, mapping) })
}

// Parameters returns what was set by SetProtocol, and false while no protocol is set. It does not wait for an operation
// under way.
func (s *Slot) Parameters() (Parameters, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.parameters, s.shown.set && s.card.Powered
}

func (s *Slot) setProtocol(ctx context.Context, t uint8, mapping Mapping) error {
	if err := s.checkProtocol(t); err != nil {
		return err
	}
	if s.transmitter != nil && s.parameters.T == t {
		if t == 1 {
			return nil
		}
		transmitter, err := s.newTransmitterT0(mapping)
		if err == nil {
			s.transmitter = transmitter
		}
		return err
	}
	var reasons []error
	var silent *NoAnswerError
	var failed []setup
	for _, try := range s.withoutFailed(t, s.setups(t)) {
		if silent != nil && try.pps != nil {
			// A reader that said nothing to one PPS would make us wait for each other one.
			continue
		}
		if try.edc == t1.CRCPlain && !mayBeEDC(failed, reasons, try) {
			continue
		}
		if s.used {
			if err := s.resetFor(ctx, try); err != nil {
				return err
			}
			if err := s.checkProtocol(t); err != nil {
				return err
			}
		}
		s.used = true
		err := s.establish(ctx, t, mapping, try)
		if err == nil {
			s.learn(t, failed)
			s.parameters.Refused = errors.Join(s.parameters.Refused, notSet(try, reasons))
			s.reader.log.Debugf("slot %d: %v", s.index, s.parameters)
			return nil
		}
		s.transmitter = nil
		_ = errors.As(err, &silent)
		if s.isFinal(ctx, err) {
			if s.ceiling.passed() > 0 {
				// The next operation goes on with what this one did not get to.
				s.learn(t, append(failed, try))
			}
			return err
		}
		s.reader.log.Debugf("slot %d: T=%d with Fi/Di %02X: %v", s.index, t, try.fd, err)
		reasons = append(reasons, fmt.Errorf("Fi/Di %02X: %w", try.fd, err))
		failed = append(failed, try)
	}
	if s.atr != nil {
		s.reader.options.Speeds.forget(s.speedKeyOf(t))
	}
	return fmt.Errorf("%w: %w", ErrParameters, errors.Join(reasons...))
}

// mayBeEDC reports whether the other form of CRC is worth a try: unless the first one failed at the same speed, and not
// for want of any block that the other side understands.
func mayBeEDC(failed []setup, reasons []error, try setup) bool {
	n := len(failed)
	return n == 0 || failed[n-1].edc != t1.CRC || failed[n-1].fd != try.fd || errors.Is(reasons[n-1], t1.ErrNeedReset)
}

// resetFor resets the card for another try.
func (s *Slot) resetFor(ctx context.Context, try setup) error {
	if err := s.powerOn(ctx, ColdReset); err != nil || !try.warm {
		return err
	}
	return s.powerOn(ctx, WarmReset)
}

// notSet returns why a protocol that was set up without SetParameters was.
func notSet(try setup, reasons []error) error {
	if try.set || len(reasons) == 0 {
		return nil
	}
	return errors.Join(reasons...)
}

// checkProtocol tells why T=t can't be used with this card and reader.
func (s *Slot) checkProtocol(t uint8) error {
	switch {
	case !s.State().Powered:
		return ErrNotPowered
	case s.atr == nil:
		return fmt.Errorf("%w: % X", ErrBadATR, s.raw)
	case t > 1:
		return fmt.Errorf("%w: T=%d", ErrProtocol, t)
	case !s.readerSpeaks(t):
		return fmt.Errorf("%w: reader does not speak T=%d", ErrProtocol, t)
	case s.atr.Specific != nil && s.atr.Specific.T != t:
		return fmt.Errorf("%w: card is in specific mode with T=%d", ErrProtocol, s.atr.Specific.T)
	case s.atr.Specific == nil && !s.atr.Offers(t):
		return fmt.Errorf("%w: card does not offer T=%d", ErrProtocol, t)
	case s.atr.Specific == nil && s.needs.Protocol.NoPPS && t != s.atr.FirstProtocol():
		return fmt.Errorf("%w: card would need PPS for T=%d, which the reader can't exchange", ErrProtocol, t)
	}
	return nil
}

// setups returns the ways to set up T=t, in the order in which to try them. A card that announces CRC is tried with the
// standard's and then, after a reset, with the other form that is in the field: whoever has the wrong one sees nothing but
// damaged blocks.
func (s *Slot) setups(t uint8) []setup {
	list := s.speeds(t)
	if t != 1 || s.atr.T1().EDC == 0 || s.level() > ccid.LevelTPDU {
		return list
	}
	both := make([]setup, 0, 2*len(list))
	for _, try := range list {
		standard, plain := try, try
		standard.edc, plain.edc = t1.CRC, t1.CRCPlain
		both = append(both, standard, plain)
	}
	return both
}

// speeds returns the ways to set up T=t, in the order in which to try them (CCID 1.1 §5.1, dwFeatures).
func (s *Slot) speeds(t uint8) []setup {
	features := s.class.DwFeatures
	if features&ccid.FeatureAutoParameters != 0 {
		return []setup{{fd: s.atr.TA1()}}
	}
	autoPPS := features&ccid.FeatureAutoPPS != 0
	// At APDU level whatever the host sends is an APDU to the reader, so there is no way to make a PPS.
	noPPS := features.ExchangeLevel() >= ccid.LevelShortAPDU || s.needs.Protocol.NoPPS
	candidates := s.atr.Candidates(t, s.readerLimits())
	if noPPS && !autoPPS && s.atr.Specific == nil {
		candidates = candidates[len(candidates)-1:]
	}
	var list []setup
	for _, c := range candidates {
		try := setup{fd: c.FD, set: true}
		if pps, needed := s.atr.PPSRequest(c); needed && !autoPPS && !noPPS {
			try.pps = &pps
		}
		list = append(list, try)
	}
	warm := t == 1 && s.needs.Protocol.SetParametersMayFail
	if t == s.atr.FirstProtocol() || warm {
		// The reader may be fit for the card as it is after the reset, even where it takes no parameters.
		list = append(list, setup{fd: atr.DefaultFD, warm: warm})
	}
	return list
}

// readerLimits returns what the reader announces of its speeds.
func (s *Slot) readerLimits() atr.ReaderLimits {
	class := s.class
	limits := atr.ReaderLimits{
		DefaultClockHz: s.deadlines.clockHz, DataRatesBps: s.needs.Protocol.DataRates(s.index, s.reader.dataRates),
		MaxDataRateBps: int(min(class.DwMaxDataRate, math.MaxInt32)),
	}
	if class.DwFeatures&ccid.FeatureAutoClock != 0 {
		limits.MaxClockHz = plausibleClock(class.DwMaximumClock)
	}
	return limits
}

// establish sets up T=t in one way. The card has just been reset.
func (s *Slot) establish(ctx context.Context, t uint8, mapping Mapping, try setup) error {
	p := Parameters{T: t, FD: try.fd}
	if try.pps != nil {
		selected, err := s.exchangePPS(ctx, *try.pps)
		if err != nil {
			return err
		}
		p.FD, p.PPS = selected.FD, true
	}
	if try.set {
		told, refused, err := s.setParameters(ctx, t, p.FD)
		if err != nil {
			return err
		}
		p.Refused = refused
		if p.FD, err = s.agreedSpeed(ctx, p, told); err != nil {
			return err
		}
		if err := s.setRate(ctx, p.FD); err != nil {
			return err
		}
	}
	if s.class.DwFeatures&ccid.FeatureAutoParameters != 0 {
		if fd, ok := s.readParameters(ctx, t); ok {
			p.FD = fd
		}
		if !s.State().Powered {
			return ErrNotPowered
		}
	}
	s.parameters, s.edc = p, try.edc
	if t == 1 {
		return s.startT1(ctx)
	}
	var err error
	s.transmitter, err = s.newTransmitterT0(mapping)
	return err
}

// exchangePPS sends a PPS request and checks the answer (ISO/IEC 7816-3:2006 §9).
func (s *Slot) exchangePPS(ctx context.Context, pps atr.PPS) (atr.Selection, error) {
	answer, err := s.sendPPS(ctx, pps.Bytes())
	if err != nil {
		return atr.Selection{}, fmt.Errorf("PPS: %w", err)
	}
	response, err := atr.ParsePPS(answer)
	if err != nil {
		return atr.Selection{}, err
	}
	return pps.Accept(response)
}

// sendPPS returns the card's answer to a PPS request. At character level PPS0 tells how much there is to read.
func (s *Slot) sendPPS(ctx context.Context, request []byte) ([]byte, error) {
	wait := s.waitingTimes().t0(2 * atr.MaxPPSLength)
	if s.level() != ccid.LevelCharacter {
		resp, err := s.xfr(ctx, request, 0, 0, false, wait)
		return resp.Data, err
	}
	head, err := s.readBlock(ctx, request, 2, 0, false, wait)
	if err != nil {
		return nil, err
	}
	rest := 1
	for options := head[1] >> 4 & 7; options != 0; options &= options - 1 {
		rest++
	}
	tail, err := s.readBlock(ctx, nil, rest, 0, false, wait)
	return append(head, tail...), err
}

// setParameters tells the reader what was agreed on with the card (CCID 1.1 §6.1.7). Readers that do not support the
// command, or do not let a value be changed, say so without harm: refused is then what they said. told is the answer.
func (s *Slot) setParameters(ctx context.Context, t uint8, fd byte) (told ccid.Response, refused, err error) {
	c := ccid.SetParametersT0(uint8(s.index), s.parametersT0(fd))
	if t == 1 {
		c = ccid.SetParametersT1(uint8(s.index), s.parametersT1(fd))
	}
	told, err = s.command(ctx, request{command: c, wait: s.reader.deadlines.status()})
	if notDone(err) {
		return told, err, nil
	}
	return told, nil, err
}

// notDone reports whether a reader says that it does not have a command, or does not take a value in it, and no more.
func notDone(err error) bool {
	var failed *ccid.CommandError
	if !errors.As(err, &failed) || errors.Is(err, ErrNoCard) {
		return false
	}
	_, isOffset := failed.Code.Offset()
	return isOffset || failed.Code == ccid.ErrorCommandNotSupported
}

func (s *Slot) parametersT0(fd byte) ccid.ParametersT0 {
	p := ccid.ParametersT0{BmFindexDindex: fd, BGuardTimeT0: s.atr.GuardTime(), BWaitingIntegerT0: s.atr.T0().WI}
	if s.atr.Convention == atr.Inverse {
		p.BmTCCKST0 = ccid.TCCKSTInverseConvention
	}
	return p
}

func (s *Slot) parametersT1(fd byte) ccid.ParametersT1 {
	t1 := s.t1Params()
	p := ccid.ParametersT1{
		BmFindexDindex: fd, BmTCCKST1: ccid.TCCKST1Fixed, BGuardTimeT1: s.atr.GuardTime(),
		BmWaitingIntegersT1: t1.BWI<<4 | t1.CWI, BIFSC: uint8(t1.IFSC),
	}
	if t1.EDC != 0 {
		p.BmTCCKST1 |= ccid.TCCKSTCRC
	}
	if s.atr.Convention == atr.Inverse {
		p.BmTCCKST1 |= ccid.TCCKSTInverseConvention
	}
	return p
}

func (s *Slot) level() ccid.ExchangeLevel { return s.class.DwFeatures.ExchangeLevel() }

// t1Params returns what the ATR says of T=1, with the block waiting time that the card is known to need.
func (s *Slot) t1Params() atr.T1Params {
	p := s.atr.T1()
	p.BWI = max(p.BWI, s.needs.Protocol.MinBWI)
	return p
}

// waitingTimes returns the card's waiting times with the parameters in use.
func (s *Slot) waitingTimes() waitingTimes {
	w := waitingTimes{model: s.deadlines, fd: atr.DefaultFD, wi: s.atr.T0().WI, n: s.atr.GuardTime(), t1: s.t1Params()}
	if s.parameters.FD != 0 {
		w.fd = s.parameters.FD
	}
	return w
}

// startT1 chooses how T=1 is spoken and, where that is for us, negotiates IFSD.
func (s *Slot) startT1(ctx context.Context) error {
	switch s.level() {
	case ccid.LevelShortAPDU:
		s.transmitter = s.newShortAPDU()
		return nil
	case ccid.LevelExtendedAPDU:
		s.transmitter = extendedAPDU{s}
		return nil
	}
	transmitter, err := s.newTransmitterT1()
	if err != nil {
		return err
	}
	s.transmitter = transmitter
	return transmitter.negotiate(ctx)
}

// t1Config returns what the engine has to know. A block must fit the reader's messages in both directions.
func (s *Slot) t1Config() t1.Config {
	return t1.Config{EDC: s.edc, IFSC: min(s.atr.T1().IFSC, s.largestField())}
}

// largestField is the largest information field of a block that fits a message: less prologue and a CRC.
func (s *Slot) largestField() int { return max(1, min(s.reader.MaxCommand()-3-2, maxIFS)) }

// maxIFS is the largest information field (ISO/IEC 7816-3:2006 §11.4.2).
const maxIFS = 254

// ifsd returns the information field size that the reader can take: dwMaxIFSD made plausible, 0 where it says nothing
// usable, which leaves T=1 at its default.
func (s *Slot) ifsd() int {
	announced := int(min(s.class.DwMaxIFSD, maxIFS))
	return min(announced, s.largestField())
}
