package pcscd

import (
	"context"
	"time"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/wire"
)

// joinable: somebody new may have a handle. A reader that vanishes during a Connect is not a wrong handle yet.
func joinable(h *handle) wire.Code {
	switch r := h.reader; {
	case r.removed:
		return wire.ErrReaderUnavailable
	case r.exclusive != nil:
		return wire.ErrSharingViolation
	}
	return wire.Success
}

// hasCard: clients see a card.
func hasCard(h *handle) wire.Code {
	if h.reader.public.State&wire.StateAbsent != 0 {
		return wire.ErrNoSmartcard
	}
	return wire.Success
}

// connect is SCardConnect, from the reader's state on.
func (r *reader) connect(ctx context.Context, h *handle, preferred wire.Protocol) (wire.Protocol, wire.Code) {
	if code := r.awaitKnown(ctx); code != wire.Success {
		return 0, code
	}
	if code := r.pass(ctx, h, toConnect, healthy, joinable); code != wire.Success {
		return 0, code
	}
	defer r.passed()
	if h.mode == wire.Direct {
		return r.enter(h, preferred)
	}
	if code := r.take(ctx, h, healthy, joinable, hasCard); code != wire.Success {
		return 0, code
	}
	defer r.give()
	switch code := r.wakeUp(); code {
	case wire.Success:
	case wire.ErrUnresponsiveCard:
		return 0, wire.ErrUnpoweredCard
	case wire.ErrRemovedCard:
		return 0, wire.ErrNoSmartcard
	default:
		return 0, code
	}
	active, code := r.negotiate(preferred)
	if code != wire.Success {
		return active, code
	}
	return active, r.attach(h, hasCard)
}

// enter is the rest of a DIRECT connect: the card is left alone.
func (r *reader) enter(h *handle, preferred wire.Protocol) (wire.Protocol, wire.Code) {
	r.mu.Lock()
	card, active := r.card, r.public.Protocol
	r.mu.Unlock()
	if preferred&wire.ProtocolRaw != 0 {
		active = r.setProtocol(card, wire.ProtocolRaw)
	}
	return active, r.attach(h)
}

// attach makes h one of the reader's handles.
func (r *reader) attach(h *handle, checks ...check) wire.Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code := h.verify(append([]check{joinable}, checks...)...); code != wire.Success {
		return code
	}
	switch {
	case h.mode == wire.Exclusive && len(r.handles) > 0:
		return wire.ErrSharingViolation
	case len(r.handles) >= r.manager.options.MaxReaderHandles:
		return wire.ErrInternalError
	}
	r.handles = append(r.handles, h)
	if h.mode == wire.Exclusive {
		r.exclusive, r.exclusiveSince = h, time.Now()
	}
	r.setUses(h, h.mode != wire.Direct)
	r.counters.Connects++
	r.share()
	return wire.Success
}

// awaitKnown waits for the reader's first status, which comes in bounded time.
func (r *reader) awaitKnown(ctx context.Context) wire.Code {
	select {
	case <-r.known:
		return wire.Success
	default:
	}
	select {
	case <-r.known:
		return wire.Success
	case <-r.life.Done():
		return wire.ErrReaderUnavailable
	case <-ctx.Done():
		return codeOf(ctx)
	}
}

// reconnect is SCardReconnect, from the reader's state on.
func (r *reader) reconnect(ctx context.Context, h *handle, mode wire.ShareMode, preferred wire.Protocol, initialization wire.Disposition) (wire.Protocol, wire.Code) {
	if code := r.take(ctx, h, connected, healthy, unlocked); code != wire.Success {
		return 0, code
	}
	defer r.give()
	if code := r.initialize(h, mode, initialization); code != wire.Success {
		return 0, code
	}
	active, code := r.renegotiate(mode, preferred)
	if code != wire.Success {
		return active, code
	}
	return active, r.changeMode(h, mode)
}

// initialize does to the card what a Reconnect wants.
func (r *reader) initialize(h *handle, mode wire.ShareMode, d wire.Disposition) wire.Code {
	if d != wire.LeaveCard {
		return initializeCode(r.reset(d))
	}
	r.mu.Lock()
	state, code := r.public.State, h.verify(connected, healthy, hasCard)
	r.mu.Unlock()
	switch {
	case code != wire.Success:
		return code
	case state&wire.StateSwallowed != 0:
		return wire.ErrUnresponsiveCard
	case mode == wire.Direct:
		return wire.Success
	}
	return initializeCode(r.wakeUp())
}

// initializeCode is what Reconnect calls a failed power-up.
func initializeCode(code wire.Code) wire.Code {
	if code == wire.ErrRemovedCard {
		return wire.ErrNoSmartcard
	}
	return code
}

// renegotiate agrees on a protocol for a Reconnect.
func (r *reader) renegotiate(mode wire.ShareMode, preferred wire.Protocol) (wire.Protocol, wire.Code) {
	if mode != wire.Direct || preferred&wire.ProtocolRaw != 0 {
		return r.negotiate(preferred)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.public.Protocol, wire.Success
}

// changeMode ends a Reconnect. What has happened to the card is known to the client from now on.
func (r *reader) changeMode(h *handle, mode wire.ShareMode) wire.Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code := h.verify(connected, hasCard); code != wire.Success {
		return code
	}
	switch {
	case mode == wire.Exclusive && r.exclusive == nil:
		if len(r.handles) > 1 {
			return wire.ErrSharingViolation
		}
		r.exclusive, r.exclusiveSince = h, time.Now()
		// Those who wait to connect have nothing to wait for.
		r.lock.dismiss(func(w *waiter) bool { return w.what == toConnect })
	case mode != wire.Exclusive:
		r.exclusive = nil
	}
	h.mode = mode
	h.event = noEvent
	r.setUses(h, true)
	r.share()
	return wire.Success
}

// disconnect is SCardDisconnect, from the reader's state on.
func (r *reader) disconnect(ctx context.Context, h *handle, d wire.Disposition) wire.Code {
	if d != wire.LeaveCard {
		switch code := r.pass(ctx, h, toDisconnect, connected); code {
		case wire.Success:
			r.dispose(r.life, h, d)
			defer r.passed()
		case wire.ErrInvalidValue: // the reader is gone, and the handle with it
		default:
			return code
		}
	}
	r.drop(h)
	return wire.Success
}

// dispose does to the card what a disposition says. ctx bounds the wait for the card, false when it has ended before.
func (r *reader) dispose(ctx context.Context, h *handle, d wire.Disposition) bool {
	if d == wire.EjectCard {
		return true // no driver of the API 3.0 can
	}
	if code := r.take(ctx, h, connected); code != wire.Success {
		return false
	}
	defer r.give()
	if d == wire.ResetCard {
		r.reset(d)
		return true
	}
	r.mu.Lock()
	r.disturb(cardReset)
	r.mu.Unlock()
	r.powerDown()
	return true
}

// ownsCard: the handle's client has had the card for itself, so its state is not for others to see.
func (r *reader) ownsCard(h *handle) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return (r.lock.owner == h || r.exclusive == h) && h.event == noEvent && !r.removed
}

// abandon ends a handle whose client went without doing so, with a reset. Everybody is told at once; if the card can't
// be had within ctx, it is reset before its next use.
func (r *reader) abandon(ctx context.Context, h *handle) {
	r.mu.Lock()
	if !r.removed {
		r.disturb(cardReset)
		r.stale = r.powered
	}
	r.mu.Unlock()
	if r.pass(ctx, h, toDisconnect, connected) == wire.Success {
		r.dispose(ctx, h, wire.ResetCard)
		r.drop(h)
		r.passed()
		return
	}
	r.drop(h)
}

// presentHere: Transmit's question for a card.
func presentHere(protocol wire.Protocol) check {
	return func(h *handle) wire.Code {
		if protocol == wire.ProtocolRaw {
			return wire.Success
		}
		return hasCard(h)
	}
}

// speaks: the client's protocol is the card's. Where the card has none yet, none is; it is the driver's to say what that means.
func speaks(protocol wire.Protocol) check {
	return func(h *handle) wire.Code {
		switch protocol {
		case wire.ProtocolRaw, wire.ProtocolAnyOld, h.reader.public.Protocol:
			return wire.Success
		}
		return wire.ErrProtoMismatch
	}
}

// transmit is SCardTransmit. The exchange runs to its own deadline, whatever becomes of the client.
func (r *reader) transmit(ctx context.Context, h *handle, protocol wire.Protocol, command []byte) ([]byte, wire.Code) {
	code := r.take(ctx, h, connected, unlocked, healthy, undisturbed, presentHere(protocol), speaks(protocol))
	if code != wire.Success {
		return nil, code
	}
	defer r.give()
	r.mu.Lock()
	r.counters.Transmits++
	if protocol == wire.ProtocolAnyOld {
		protocol = r.public.Protocol
	}
	r.mu.Unlock()
	response, result := r.exchange(r.life, func(ctx context.Context) ([]byte, error) {
		return r.manager.driver.TransmitToICC(ctx, r.lun, ifdhandler.Protocol(protocol), command)
	})
	if result != ifdhandler.Success && r.wasReset(h) {
		return nil, wire.ErrResetCard
	}
	return response, lookUp(transmitCodes, result)
}

// wasReset reports whether the handle is to be told of a reset.
func (r *reader) wasReset(h *handle) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return h.event == cardReset
}

// control is SCardControl. It ends with the client: the entry of a PIN takes long.
func (r *reader) control(ctx context.Context, h *handle, code uint32, in []byte) ([]byte, wire.Code) {
	if code := r.take(ctx, h, connected, unlocked, healthy); code != wire.Success {
		return nil, code
	}
	defer r.give()
	ctx, cancel := r.within(ctx)
	defer cancel()
	r.mu.Lock()
	r.counters.Controls++
	r.mu.Unlock()
	out, result := r.exchange(ctx, func(ctx context.Context) ([]byte, error) {
		return r.manager.driver.Control(ctx, r.lun, code, in)
	})
	return out, lookUp(controlCodes, result)
}

// within makes ctx end with the reader too.
func (r *reader) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(r.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// firstAttribute is the lowest number of an attribute that is not a tag between resource manager and driver.
const firstAttribute = 0x10000

// getAttrib is SCardGetAttrib.
func (r *reader) getAttrib(ctx context.Context, h *handle, id uint32, limit int) ([]byte, wire.Code) {
	if code := r.take(ctx, h, connected, unlocked, healthy, undisturbed); code != wire.Success {
		return nil, code
	}
	defer r.give()
	ctx, cancel := r.within(ctx)
	defer cancel()
	value, err := r.manager.driver.GetCapabilities(ctx, r.lun, ifdhandler.Tag(id))
	if ifdhandler.CodeOf(err) == ifdhandler.ErrorTag {
		if id != wire.AttrDeviceFriendlyName && id != wire.AttrDeviceSystemName {
			return nil, wire.ErrUnsupportedFeature
		}
		value, err = append([]byte(r.name), 0), nil
	}
	if err != nil {
		return nil, lookUp(attributeCodes, r.failed(err))
	}
	if len(value) > limit {
		return value, wire.ErrInsufficientBuffer
	}
	return value, wire.Success
}

// setAttrib is SCardSetAttrib.
func (r *reader) setAttrib(ctx context.Context, h *handle, id uint32, value []byte) wire.Code {
	if code := r.take(ctx, h, connected, unlocked, healthy, undisturbed); code != wire.Success {
		return code
	}
	defer r.give()
	if id < firstAttribute {
		return wire.ErrUnsupportedFeature
	}
	err := r.manager.driver.SetCapabilities(r.lun, ifdhandler.Tag(id), value)
	if ifdhandler.CodeOf(err) == ifdhandler.ErrorTag {
		return wire.ErrUnsupportedFeature
	}
	if err != nil {
		return lookUp(attributeCodes, r.failed(err))
	}
	return wire.Success
}
