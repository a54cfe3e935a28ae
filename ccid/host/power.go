package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
)

// Reset says how PowerOn brings a card to its answer to reset.
type Reset uint8

// The kinds of Reset (ISO/IEC 7816-3:2006 §6.2).
const (
	// ColdReset takes the card's power away first, if it has any.
	ColdReset Reset = iota
	// WarmReset keeps the power. A card without power, or one that does not answer to it, gets a cold reset.
	WarmReset
)

// PowerOn activates the card, or resets it, and returns its answer to reset, 1..33 bytes as the reader gave them, valid or
// not (CCID 1.1 §6.1.1). Where the reader selects no voltage by itself, those that it can give are tried one after the
// other. The protocol that was set is gone. Errors, in an *Error: ErrNoCard, ErrMute, ErrBadATR, *ccid.CommandError,
// *NoAnswerError, and those of usbtransport.
func (s *Slot) PowerOn(ctx context.Context, reset Reset) ([]byte, error) {
	var raw []byte
	err := s.do(ctx, "power on", func(ctx context.Context) error {
		err := s.powerOn(ctx, reset)
		raw = slices.Clone(s.raw)
		return err
	})
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// PowerOff takes the card's power away (CCID 1.1 §6.1.2).
func (s *Slot) PowerOff(ctx context.Context) error {
	return s.do(ctx, "power off", s.powerOff)
}

func (s *Slot) powerOff(ctx context.Context) error {
	s.session = s.reader.withoutCard()
	s.lose()
	_, err := s.command(ctx, request{command: ccid.IccPowerOff(uint8(s.index)), wait: s.reader.deadlines.status()})
	if errors.Is(err, ErrNoCard) {
		return nil
	}
	return err
}

func (s *Slot) powerOn(ctx context.Context, reset Reset) error {
	power, needs, powered := s.power, s.needs.Power, s.State().Powered
	s.session = s.reader.withoutCard()
	if reset == WarmReset && powered && !needs.OffBeforeOn {
		err := s.activate(ctx, power)
		if err == nil || s.isFinal(ctx, err) {
			return err
		}
		s.reader.log.Debugf("slot %d: warm reset: %v", s.index, err)
	}
	return s.coldReset(ctx)
}

func (s *Slot) coldReset(ctx context.Context) error {
	return s.notePresence(s.tryVoltages(ctx))
}

// tryVoltages makes a cold reset at one voltage after the other.
func (s *Slot) tryVoltages(ctx context.Context) error {
	// A reader that wants the power off before each power on gets it with that.
	if s.lastStatus() == ccid.ICCActive && !s.needs.Power.OffBeforeOn {
		if err := s.restPower(ctx); err != nil {
			return err
		}
	}
	var err error
	for i, power := range s.voltages() {
		if i > 0 && !s.needs.Power.OffBeforeOn {
			if err := s.restPower(ctx); err != nil {
				return err
			}
		}
		if err = s.activate(ctx, power); err == nil {
			return s.matchClass(ctx)
		}
		var failed *ccid.CommandError
		if !errors.As(err, &failed) && !errors.Is(err, ErrBadATR) || s.isFinal(ctx, err) {
			return err
		}
		s.reader.log.Debugf("slot %d: power on at %v: %v", s.index, power, err)
	}
	if errors.Is(err, ccid.ErrorICCMute) {
		return fmt.Errorf("%w: %w", ErrMute, err)
	}
	return err
}

// restPower takes the power away for long enough that the next activation is a cold reset.
func (s *Slot) restPower(ctx context.Context) error {
	if err := s.powerOff(ctx); err != nil {
		var failed *ccid.CommandError
		if !errors.As(err, &failed) {
			return err
		}
	}
	return s.reader.pause(ctx, deactivationPause)
}

func (s *Slot) lastStatus() ccid.ICCStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// voltages returns the values of bPowerSelect to try, in order. The highest voltage comes first: old cards know no other,
// and later ones bear it; cards that don't say so are moved by matchClass.
func (s *Slot) voltages() []ccid.PowerSelect {
	class := s.class
	if class.DwFeatures&(ccid.FeatureAutoVoltage|ccid.FeatureAutoActivation) != 0 {
		return []ccid.PowerSelect{ccid.PowerAutomatic}
	}
	var list []ccid.PowerSelect
	for _, p := range []ccid.PowerSelect{s.needs.Power.Voltage, s.reader.options.Voltage, ccid.Power5V, ccid.Power3V, ccid.Power18V} {
		if supports(class.BVoltageSupport, p) && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		// It claims to give none at all.
		return []ccid.PowerSelect{ccid.PowerAutomatic, ccid.Power5V}
	}
	return list
}

func supports(v ccid.VoltageSupport, p ccid.PowerSelect) bool {
	return p != ccid.PowerAutomatic && p <= ccid.Power18V && v&(1<<(p-1)) != 0
}

// activate sends IccPowerOn and takes the answer to reset.
func (s *Slot) activate(ctx context.Context, power ccid.PowerSelect) error {
	if s.needs.Power.OffBeforeOn {
		if err := s.restPower(ctx); err != nil {
			return err
		}
	}
	resp, err := s.iccPowerOn(ctx, power)
	if err != nil {
		return err
	}
	if n := len(resp.Data); n < 1 || n > atr.MaxLength {
		return fmt.Errorf("%w: %d bytes", ErrBadATR, n)
	}
	s.session = session{raw: resp.Data, power: power, conditions: s.reader.conditionsFor(resp.Data)}
	if parsed, err := atr.Parse(resp.Data); err == nil {
		s.atr = parsed
	} else {
		s.reader.log.Debugf("slot %d: ATR % X: %v", s.index, resp.Data, err)
	}
	s.setPowered()
	return nil
}

// iccPowerOn sends IccPowerOn. Where it fails in the way that the reader has an Escape command against, it is sent again
// after that.
func (s *Slot) iccPowerOn(ctx context.Context, power ccid.PowerSelect) (ccid.Response, error) {
	q := request{command: ccid.IccPowerOn(uint8(s.index), power), wait: s.reader.deadlines.firstATR(power)}
	resp, err := s.command(ctx, q)
	needs := s.reader.quirks.Power
	if len(needs.RetryEscape) == 0 || !errors.Is(err, ccid.ErrorCode(needs.RetryOn)) {
		return resp, err
	}
	if _, escapeErr := s.escape(ctx, needs.RetryEscape); escapeErr != nil {
		return resp, errors.Join(err, escapeErr)
	}
	return s.command(ctx, q)
}

// notePresence takes the result of a cold reset as an answer to the question whether there is a card, for readers that
// always report one. As they can't tell of the next one either, the slot stays empty until a cold reset succeeds.
func (s *Slot) notePresence(err error) error {
	if !s.reader.quirks.Power.PresenceByPowerOn {
		return err
	}
	var failed *ccid.CommandError
	absent := errors.As(err, &failed)
	if err != nil && !absent {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = absent
	if s.card.Present == absent {
		s.card.Present = !absent
		s.announce(1)
	}
	if absent {
		return fmt.Errorf("%w: %w", ErrNoCard, err)
	}
	return nil
}

// matchClass moves a card to the voltage that it is known to need, or that was powered with a voltage which its ATR does not
// allow to one that it does, where the reader has one (ISO/IEC 7816-3:2006 §6.2.4, §10.1).
func (s *Slot) matchClass(ctx context.Context) error {
	if s.power == ccid.PowerAutomatic {
		return nil
	}
	// What the reader needs with all cards has been tried.
	if p := s.needs.Power.Voltage; p != s.reader.quirks.Power.Voltage && p != s.power && supports(s.class.BVoltageSupport, p) {
		return s.move(ctx, p)
	}
	if s.atr == nil || !s.atr.Offers(15) {
		return nil
	}
	allowed := s.atr.Classes()
	if allowed.Has(atr.Classes(1) << (s.power - 1)) {
		return nil
	}
	for _, p := range s.voltages() {
		if !allowed.Has(atr.Classes(1) << (p - 1)) {
			continue
		}
		return s.move(ctx, p)
	}
	s.reader.log.Debugf("slot %d: card works with %v, reader gives %v", s.index, allowed, s.power)
	return nil
}

// move powers the card with another voltage.
func (s *Slot) move(ctx context.Context, p ccid.PowerSelect) error {
	if !s.reader.quirks.Power.OffBeforeOn {
		if err := s.restPower(ctx); err != nil {
			return err
		}
	}
	return s.activate(ctx, p)
}
