package host

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// notifications is the state of the interrupt endpoint.
type notifications struct {
	// working: slot changes are reported. Otherwise the slots are asked while somebody waits.
	working atomic.Bool
	// watched: the endpoint is read all the time. It does not change after the opening.
	watched bool
}

// Faults of the interrupt endpoint in a row: after each the endpoint is cleared and read again, after some time that
// grows; after maxFaults the slots are asked instead, until the endpoint delivers again.
const (
	maxFaults      = 5
	leastFaultWait = 50 * time.Millisecond
	mostFaultWait  = 5 * time.Second
)

// WaitChange waits until the card's presence is no longer as in last, or another card is in the slot, and returns the
// state then. Start with State's result; a change between two calls is not lost. Readers without a working interrupt
// endpoint are asked every Limits.Poll. Errors, in an *Error: those of usbtransport.
func (s *Slot) WaitChange(ctx context.Context, last CardState) (CardState, error) {
	state, err := s.waitChange(ctx, last)
	if err != nil {
		return state, &Error{Op: "wait for change", Reader: s.Name(), Slot: s.index, Err: err}
	}
	return state, nil
}

func (s *Slot) waitChange(ctx context.Context, last CardState) (CardState, error) {
	for asked := false; ; {
		if err := s.reader.gone(); err != nil {
			return CardState{}, err
		}
		state, changed, mustAsk := s.look()
		if state.Events != last.Events || state.Present != last.Present {
			return state, nil
		}
		if mustAsk || !asked {
			asked = true
			if err := s.ask(ctx); err != nil {
				return CardState{}, err
			}
			continue
		}
		if err := s.awaitChange(ctx, changed); err != nil {
			return CardState{}, err
		}
		asked = s.reader.notifications.working.Load()
	}
}

// awaitChange waits until there may be something new: a change, a notification, or the time to ask a reader that does not
// notify.
func (s *Slot) awaitChange(ctx context.Context, changed <-chan struct{}) error {
	var poll <-chan time.Time
	if !s.reader.notifications.working.Load() {
		timer := time.NewTimer(s.reader.deadlines.limits.Poll)
		defer timer.Stop()
		poll = timer.C
	}
	select {
	case <-changed:
	case <-poll:
	case <-ctx.Done():
		return s.reader.ended(ctx)
	case <-s.reader.life.Done():
	}
	return nil
}

// look returns the card's state, the channel that is closed at its next change, and whether a notification says that the
// reader should be asked.
func (s *Slot) look() (state CardState, changed <-chan struct{}, mustAsk bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.card, s.changed, s.hint != nil
}

// ask gets the slot's state. Where the reader does not tell it, what the notification said counts.
func (s *Slot) ask(ctx context.Context) error {
	_, err := s.Status(ctx)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || s.reader.gone() != nil {
		return err
	}
	s.reader.log.Debugf("slot %d: %v", s.index, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if hint := s.asked; hint != nil {
		s.asked = nil
		if hint.Present != s.card.Present {
			s.card.Present = hint.Present
			s.card.Powered = s.card.Powered && hint.Present
			s.announce(1)
		}
	}
	return nil
}

// notify takes what a notification says of the slot.
func (s *Slot) notify(c ccid.SlotChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.Changed && c.Present == s.card.Present {
		return
	}
	if s.hint != nil {
		// Nobody has asked since the one before: a change that it told of is still news.
		c.Changed = c.Changed || s.hint.Changed
	}
	s.hint = &c
	s.announce(0)
}

// suspect makes whoever waits for this slot ask the reader.
func (s *Slot) suspect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hint == nil {
		s.hint = &ccid.SlotChange{Slot: s.index, Present: s.card.Present}
	}
	s.announce(0)
}

// watch starts to read the interrupt endpoint, where there is one.
func (r *Reader) watch() {
	if r.function.Interrupt == nil {
		return
	}
	r.notifications.watched = true
	r.notifications.working.Store(!r.quirks.USB.Poll)
	r.background.Go(r.readNotifications)
}

// readNotifications reads the interrupt endpoint until the reader is closed or removed.
func (r *Reader) readNotifications() {
	buf := r.notificationBuffer()
	for faults := 0; r.gone() == nil; {
		n, err := r.gate.interruptIn(r.life, r.function.Interrupt.Address, buf)
		switch {
		case err == nil || n > 0:
			faults = 0
			r.setNotifications(true)
			r.takeNotification(buf[:min(max(n, 0), len(buf))])
		case errors.Is(err, usbtransport.ErrTimedOut) && r.life.Err() == nil:
		default:
			faults++
			r.repairNotifications(faults, err)
		}
	}
}

// notificationBuffer returns room for one message with a state for each slot, in whole packets.
func (r *Reader) notificationBuffer() []byte {
	packet := r.function.Interrupt.MaxPacketSize
	return make([]byte, (1+(len(r.slots)+3)/4+packet-1)/packet*packet)
}

// repairNotifications brings the interrupt endpoint back after a fault, and waits longer each time.
func (r *Reader) repairNotifications(faults int, err error) {
	if r.gone() != nil {
		return
	}
	r.log.Debugf("interrupt endpoint: %v", err)
	if faults == maxFaults {
		r.setNotifications(false)
	}
	_ = r.pause(r.life, min(leastFaultWait<<min(faults-1, 10), mostFaultWait))
	if r.gone() == nil && errors.Is(err, usbtransport.ErrStalled) {
		_ = withTimeout(r.life, controlWait, func(ctx context.Context) error {
			return r.gate.clearHalt(ctx, r.function.Interrupt.Address)
		})
	}
}

func (r *Reader) setNotifications(working bool) {
	working = working && !r.quirks.USB.Poll
	if r.notifications.working.Swap(working) == working {
		return
	}
	for _, s := range r.slots {
		s.suspect()
	}
}

// takeNotification gives a message to the slots that it is about; any other message makes every slot ask.
func (r *Reader) takeNotification(message []byte) {
	if t := traceOf(r.log); t != nil {
		t.Tracef("< interrupt: % X", message)
	}
	changes, err := ccid.ParseNotifySlotChange(message, len(r.slots))
	if err != nil {
		r.log.Debugf("interrupt message % X", message)
		for _, s := range r.slots {
			s.suspect()
		}
		return
	}
	for _, c := range changes {
		r.slots[c.Slot].notify(c)
	}
}

// dropNotification swallows what the reader wanted to report before it was opened; some do not start without.
func (r *Reader) dropNotification(ctx context.Context) {
	r.dropNotificationWithin(ctx, drainWait)
}

func (r *Reader) dropNotificationWithin(ctx context.Context, wait time.Duration) {
	_ = withTimeout(ctx, wait, func(ctx context.Context) error {
		_, err := r.gate.interruptIn(ctx, r.function.Interrupt.Address, r.notificationBuffer())
		return err
	})
}

// readInterruptFirst reads the interrupt endpoint for readers that answer GetSlotStatus only after that, unless it is
// read all the time anyway.
func (r *Reader) readInterruptFirst(ctx context.Context) {
	if wait := r.quirks.USB.InterruptFirst; wait > 0 && r.function.Interrupt != nil && !r.notifications.watched {
		r.dropNotificationWithin(ctx, wait)
	}
}
