package pcscd

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/wire"
)

// Functions in this file work with the card. Whoever calls them has the reader's turn and does not hold reader.mu, unless
// they say otherwise. The driver's calls run as long as the reader lives: a client that goes must not leave a card
// half powered up.

// power takes actions one after the other, the last of which is PowerUp or Reset, and publishes what comes of them. What
// went before the last may fail. Codes: ErrRemovedCard when there is no card, ErrUnresponsiveCard,
// ErrReaderUnavailable.
func (r *reader) power(actions ...ifdhandler.Action) wire.Code {
	r.mu.Lock()
	card, present := r.card, r.present
	if actions[len(actions)-1] == ifdhandler.PowerUp {
		r.counters.PowerUps++
	} else {
		r.counters.Resets++
	}
	r.mu.Unlock()
	if !present {
		return wire.ErrRemovedCard
	}
	var answer []byte
	var err error
	for _, a := range actions {
		answer, err = r.manager.driver.PowerICC(r.life, r.lun, a)
	}
	if err != nil {
		if r.failed(err) == ifdhandler.NoSuchDevice {
			return wire.ErrReaderUnavailable
		}
		// A card that is being pulled out fails first and is missed then; clients shall be told the one truth.
		_ = r.look(r.life)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.removed:
		return wire.ErrReaderUnavailable
	case r.card != card:
		return wire.ErrRemovedCard
	}
	return r.answered(answer, err == nil)
}

// answered publishes what a power-up or reset has led to. r.mu must be held.
func (r *reader) answered(answer []byte, ok bool) wire.Code {
	first := !r.public.Known
	if r.fresh {
		r.count()
		r.counters.Insertions++
		r.fresh = false
	}
	r.becomeKnown()
	before := r.public
	r.stale = false
	r.powered = ok && len(answer) > 0 && len(answer) <= wire.MaxATR
	if r.powered {
		r.clearCard(statePowered)
		r.public.ATR = bytes.Clone(answer)
	} else {
		r.clearCard(stateMute)
	}
	r.publish(first || before.State != r.public.State || before.EventCounter != r.public.EventCounter ||
		!bytes.Equal(before.ATR, r.public.ATR))
	if !r.powered {
		return wire.ErrUnresponsiveCard
	}
	return wire.Success
}

// wakeUp powers the card up if it is not ready for use: its power was taken, or it is to be reset.
func (r *reader) wakeUp() wire.Code {
	r.mu.Lock()
	ready := r.powered && !r.stale
	r.mu.Unlock()
	if ready {
		return wire.Success
	}
	return r.power(ifdhandler.PowerUp)
}

// powerDown takes the card's power on a client's order: clients see that it has none.
func (r *reader) powerDown() {
	r.mu.Lock()
	card, present := r.card, r.present
	r.mu.Unlock()
	if !present {
		return
	}
	if _, err := r.manager.driver.PowerICC(r.life, r.lun, ifdhandler.PowerDown); err != nil {
		r.failed(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removed || r.card != card {
		return
	}
	r.powered = false
	r.public.State, r.public.Protocol = wire.StatePresent, wire.ProtocolUndefined
	r.publish(true)
}

// reset does what a disposition says: ResetCard, UnpowerCard with a power-up behind it. All handles are told.
func (r *reader) reset(d wire.Disposition) wire.Code {
	r.mu.Lock()
	r.disturb(cardReset)
	r.mu.Unlock()
	if d == wire.UnpowerCard {
		return r.power(ifdhandler.PowerDown, ifdhandler.PowerUp)
	}
	return r.power(ifdhandler.Reset)
}

// rest makes the card lose its power after a while if nobody uses it. r.mu must be held.
func (r *reader) rest() {
	grace := r.manager.options.PowerOffGrace
	rests := r.powered && r.users == 0 && grace >= 0 && !r.removed
	if !rests {
		if r.resting {
			r.powerOff.Stop()
			r.resting = false
		}
		return
	}
	r.resting = true
	if r.powerOff == nil {
		r.powerOff = time.AfterFunc(grace, r.takePower)
		return
	}
	r.powerOff.Reset(grace)
}

// takePower takes the power of a card that nobody uses. Clients see no change but for the protocol; Connect and
// Reconnect give the power back.
func (r *reader) takePower() {
	r.mu.Lock()
	unused := r.resting && r.powered && r.users == 0 && !r.removed
	if !unused || !r.turn.try() {
		// Whoever has the turn begins the grace anew with its end.
		r.mu.Unlock()
		return
	}
	r.resting = false
	card := r.card
	r.mu.Unlock()
	defer r.give()
	_, err := r.manager.driver.PowerICC(r.life, r.lun, ifdhandler.PowerDown)
	if err != nil {
		r.failed(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removed || r.card != card {
		return
	}
	r.powered = false
	r.counters.AutoPowerOffs++
	if r.public.Protocol != wire.ProtocolUndefined {
		r.public.Protocol = wire.ProtocolUndefined
		r.publish(false)
	}
}

// negotiate agrees on a protocol that the client prefers, and returns the one that is in use.
func (r *reader) negotiate(preferred wire.Protocol) (wire.Protocol, wire.Code) {
	r.mu.Lock()
	card, current, answer := r.card, r.public.Protocol, r.public.ATR
	r.mu.Unlock()
	switch {
	case preferred&wire.ProtocolRaw != 0:
		return r.setProtocol(card, wire.ProtocolRaw), wire.Success
	case current == wire.ProtocolUndefined:
		// Only where there is a choice does the old bit stand for both protocols: it is none of those in use.
		if preferred&wire.ProtocolAnyOld != 0 {
			preferred |= wire.ProtocolAny
		}
		allowed, first := candidates(answer, preferred)
		return r.choose(card, allowed, first)
	case current&preferred == 0:
		return current, wire.ErrProtoMismatch
	}
	return current, wire.Success
}

// candidates are the protocols that both the card and the client can do, T=1 first; and the card's own choice.
func candidates(answer []byte, preferred wire.Protocol) (allowed []wire.Protocol, first wire.Protocol) {
	a, err := atr.Parse(answer)
	if err != nil || a.Protocols[0] > 1 {
		return nil, 0
	}
	if a.Specific != nil && a.Specific.T > 1 {
		return nil, 0
	}
	for _, t := range []uint8{1, 0} {
		if p := wire.ProtocolT0 << t; a.Offers(t) && preferred&p != 0 {
			allowed = append(allowed, p)
		}
	}
	return allowed, wire.ProtocolT0 << a.FirstProtocol()
}

// choose sets the first of the protocols that the reader can do.
func (r *reader) choose(card uint64, allowed []wire.Protocol, first wire.Protocol) (wire.Protocol, wire.Code) {
	for i, p := range allowed {
		err := r.setParameters(p)
		if err == nil {
			return r.setProtocol(card, p), wire.Success
		}
		switch r.failed(err) {
		case ifdhandler.ProtocolNotSupported, ifdhandler.ErrorNotSupported:
			if i > 0 {
				return wire.ProtocolUndefined, wire.ErrUnresponsiveCard
			}
		case ifdhandler.NotSupported:
			// The reader can't choose; what the card speaks on its own is all there is.
			return r.setProtocol(card, first), wire.Success
		case ifdhandler.NoSuchDevice:
			return wire.ProtocolUndefined, wire.ErrReaderUnavailable
		default:
			return wire.ProtocolUndefined, wire.ErrUnresponsiveCard
		}
	}
	return wire.ProtocolUndefined, wire.ErrProtoMismatch
}

// setParameters has the driver set a protocol. A card that turns out to have lost its power meanwhile is powered up for it.
func (r *reader) setParameters(p wire.Protocol) error {
	set := func() error {
		return r.manager.driver.SetProtocolParameters(r.life, r.lun, ifdhandler.Protocol(p), 0, [3]byte{})
	}
	err := set()
	if errors.Is(err, ifdhandler.ErrCardReset) && r.power(ifdhandler.PowerUp) == wire.Success {
		return set()
	}
	return err
}

// setProtocol makes a protocol the one in use, if the card is still the same.
func (r *reader) setProtocol(card uint64, p wire.Protocol) wire.Protocol {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.card == card && r.public.Protocol != p {
		r.public.Protocol = p
		r.publish(false)
	}
	return p
}

// exchange is one call of the driver on behalf of a handle.
func (r *reader) exchange(ctx context.Context, call func(context.Context) ([]byte, error)) ([]byte, ifdhandler.Code) {
	answer, err := call(ctx)
	if err == nil {
		return answer, ifdhandler.Success
	}
	code := r.failed(err)
	switch {
	case code == ifdhandler.ICCNotPresent:
		r.missed()
	case errors.Is(err, ifdhandler.ErrCardReset):
		r.lostPower()
	}
	return nil, code
}

// lostPower is what an exchange says that finds the card without the power that it was given. All handles are told of a reset, and
// whoever uses the card next powers it up.
func (r *reader) lostPower() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.removed && r.powered {
		r.disturb(cardReset)
		r.stale = true
	}
}

// missed is what an exchange says that finds no card. If it is there all the same, the watching goroutine welcomes it
// as a new one.
func (r *reader) missed() {
	r.mu.Lock()
	if !r.removed && r.present {
		r.takeOut()
	}
	r.mu.Unlock()
	r.wake()
}
