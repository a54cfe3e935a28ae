package pcscd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/wire"
)

// The states of a reader's card that are published.
const (
	stateAbsent  = wire.StateAbsent
	statePowered = wire.StatePresent | wire.StatePowered | wire.StateNegotiable
	stateMute    = wire.StatePresent | wire.StateSwallowed
	stateUnknown = wire.StateUnknown
)

// reader is one slot with its card.
//
// A card's way, as clients see it: absent → (inserted, power-up) → powered or mute → … → absent. A powered card whose
// power was taken because nobody used it still looks powered; only its protocol is undefined. One whose power was taken
// by a Disconnect is present and no more.
type reader struct {
	manager *Manager
	name    string
	lun     ifdhandler.Lun
	log     logrus.FieldLogger

	// life ends with the reader; finished is closed when its channel is closed too.
	life     context.Context
	die      context.CancelFunc
	finished chan struct{}
	// known is closed when the first status is known.
	known chan struct{}
	// looking is held by whoever asks the driver for the card's presence.
	looking chan struct{}

	mu      sync.Mutex
	removed bool
	// public is what clients see as soon as it is published.
	public wire.ReaderState
	// present is whether there is a card as the driver told it last; fresh, that it has not been powered up yet.
	present, fresh bool
	// card counts insertions and removals, so that two cards can be told apart.
	card uint64
	// powered: the card has power and is as its last reset left it. stale: it has, but must be reset before it is used.
	powered, stale bool
	// failures counts questions about the card's presence that failed, one after the other.
	failures int

	turn      turn
	lock      lock
	handles   []*handle
	users     int // handles with uses
	exclusive *handle
	// exclusiveSince is when the exclusive handle became that.
	exclusiveSince time.Time

	// resting is set while powerOff, which takes an unused card's power, is going to fire.
	resting  bool
	powerOff *time.Timer
	// interrupt ends a wait for the driver's next event; woken: it was to be ended.
	interrupt context.CancelFunc
	woken     bool

	counters  Counters
	lastError *ErrorReport
}

func newReader(m *Manager, r Reader) *reader {
	life, die := context.WithCancel(context.Background())
	return &reader{
		manager: m, name: r.Name, lun: r.Lun, log: m.log.WithField("reader", r.Name),
		life: life, die: die, finished: make(chan struct{}), known: make(chan struct{}), looking: make(chan struct{}, 1),
		public: wire.ReaderState{Name: r.Name},
	}
}

// end marks the reader as removed, and ends all waits and calls. It returns false if that was done before.
func (r *reader) end() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removed {
		return false
	}
	r.removed = true
	r.die()
	r.handles, r.exclusive, r.users = nil, nil, 0
	r.lock.owner, r.lock.depth = nil, 0
	r.lock.dismiss(func(*waiter) bool { return true })
	r.stopTimers()
	return true
}

func (r *reader) stopTimers() {
	if r.powerOff != nil {
		r.powerOff.Stop()
	}
	if r.lock.recheck != nil {
		r.lock.recheck.Stop()
	}
}

// finish closes the driver's channel once nobody works with the card any more.
func (r *reader) finish() {
	r.mu.Lock()
	if !r.turn.try() {
		mine := r.turn.join()
		r.mu.Unlock()
		<-mine
		r.mu.Lock()
	}
	// The turn is not given any more: whoever comes now finds the reader removed.
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := r.manager.driver.CloseChannel(ctx, r.lun); err != nil {
		r.log.WithError(err).Debug("channel closed with an error")
	}
	r.manager.forget(r)
	close(r.finished)
}

// publish shows public to clients, and wakes those who wait for a change if signal is set. r.mu must be held.
func (r *reader) publish(signal bool) {
	if !r.removed {
		r.manager.publish(r, signal)
	}
}

// take waits until it is the caller's turn to work with the card. Each check must hold, before a wait and after it.
// Whoever got Success has to call give.
func (r *reader) take(ctx context.Context, h *handle, checks ...check) wire.Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code := h.verify(checks...); code != wire.Success {
		return code
	}
	if r.turn.try() {
		return wire.Success
	}
	if code := r.await(ctx); code != wire.Success {
		return code
	}
	if code := h.verify(checks...); code != wire.Success {
		r.turn.give()
		return code
	}
	return wire.Success
}

// await waits in line for the turn. r.mu is held, but not while it waits.
func (r *reader) await(ctx context.Context) wire.Code {
	mine := r.turn.join()
	r.mu.Unlock()
	select {
	case <-mine:
	case <-ctx.Done():
	case <-r.life.Done():
	}
	r.mu.Lock()
	gaveUp := r.turn.leave(mine)
	switch {
	case r.removed && !gaveUp:
		r.turn.give()
		return wire.ErrReaderUnavailable
	case r.removed:
		return wire.ErrReaderUnavailable
	case gaveUp:
		return codeOf(ctx)
	}
	return wire.Success
}

// give ends the caller's turn.
func (r *reader) give() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn.give()
	r.rest()
}

// disturb tells all handles of what happened to the card. Those who wait to begin a transaction have to know it before.
// r.mu must be held.
func (r *reader) disturb(e event) {
	for _, h := range r.handles {
		h.event = e
	}
	r.lock.dismiss(func(w *waiter) bool { return w.what == toBegin })
}

// setUses makes the card keep its power for the handle, or not any more. r.mu must be held.
func (r *reader) setUses(h *handle, uses bool) {
	if h.uses == uses {
		return
	}
	h.uses = uses
	if uses {
		r.users++
	} else {
		r.users--
	}
}

// share publishes how many handles there are. r.mu must be held.
func (r *reader) share() {
	sharing := int32(len(r.handles))
	if r.exclusive != nil {
		sharing = wire.SharingExclusive
	}
	if r.public.Sharing != sharing {
		r.public.Sharing = sharing
		r.publish(true)
	}
}

// drop ends a handle: what it has of the lock goes with it.
func (r *reader) drop(h *handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	if r.removed {
		return
	}
	r.setUses(h, false)
	r.handles = slices.DeleteFunc(r.handles, func(o *handle) bool { return o == h })
	if r.exclusive == h {
		r.exclusive = nil
	}
	if r.lock.owner == h {
		r.lock.owner, r.lock.depth = nil, 0
	}
	r.lock.dismiss(func(w *waiter) bool { return w.h == h })
	r.advance()
	r.share()
	r.rest()
}

// failed notes a driver's error, and acts on what it says about the reader. Whatever a call says that the reader's removal has
// ended, NoSuchDevice is why.
func (r *reader) failed(err error) ifdhandler.Code {
	code := ifdhandler.CodeOf(err)
	r.mu.Lock()
	removed := r.removed
	if !removed {
		r.counters.DriverErrors++
		r.lastError = &ErrorReport{Time: time.Now(), Text: err.Error()}
	}
	r.mu.Unlock()
	if removed {
		return ifdhandler.NoSuchDevice
	}
	if code == ifdhandler.NoSuchDevice {
		r.manager.remove(r.manager.slots(r.lun.Reader()))
	}
	return code
}
