package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

const (
	// maxExtensions bounds the time extensions for one command: one each 75 ms for the default of Limits.KeyGeneration.
	maxExtensions = 4096
	// maxBusy bounds how often a command is sent again to a slot that says it is busy, busyPause apart.
	maxBusy   = 20
	busyPause = 50 * time.Millisecond
)

// request is one command message and what is to be known about it.
type request struct {
	command ccid.Command
	// wait is how long the answer may take, from deadlines.
	wait time.Duration
	// limits are those that hold for the card in the slot; the zero value is the reader's own.
	limits Limits
	// secret keeps the data out of the log, and those of the answer.
	secret bool
}

// command runs one exchange. An answer that reports a failure is returned with a *ccid.CommandError, which is also
// ErrNoCard where the slot has none. So is an empty block that comes as a success while the card is taken out.
func (r *Reader) command(ctx context.Context, q request) (ccid.Response, error) {
	for busy := 0; ; busy++ {
		resp, err := r.exchange(ctx, q)
		switch {
		case err != nil:
			return resp, err
		case resp.Status.Command() == ccid.CommandOK && resp.Type == ccid.TypeDataBlock && len(resp.Data) == 0 && resp.Status.ICC() == ccid.ICCAbsent:
			return resp, fmt.Errorf("%w: empty answer to %v", ErrNoCard, q.command.Type)
		case resp.Status.Command() == ccid.CommandOK:
			return resp, nil
		}
		failure := &ccid.CommandError{Command: q.command.Type, Slot: resp.Slot, Seq: resp.Seq, Status: resp.Status, Code: resp.Error}
		if resp.Error == ccid.ErrorSlotBusy && busy < maxBusy {
			if err := r.pause(ctx, busyPause); err != nil {
				return ccid.Response{}, err
			}
			continue
		}
		if resp.Status.ICC() == ccid.ICCAbsent {
			return resp, fmt.Errorf("%w: %w", ErrNoCard, failure)
		}
		return resp, failure
	}
}

// exchange sends one command and returns its answer, whatever that reports, with data of its own. As many as the reader
// can work on are under way at once, in the order of asking; each slot has one at a time. Where the reader fails to
// answer, the slot is brought back before the error is returned, so that the next command finds it ready. It ends at the
// ceiling of the slot's operation, in which the wait for the other slots does not count.
func (r *Reader) exchange(ctx context.Context, q request) (ccid.Response, error) {
	asked, s := time.Now(), r.slots[q.command.Slot]
	if err := r.acquire(ctx, r.bus); err != nil {
		return ccid.Response{}, err
	}
	defer func() { <-r.bus }()
	s.ceiling.spare(time.Since(asked))
	within := s.ceiling
	if within.limit == 0 {
		within = newCeiling(r.deadlines.limits.Exchange)
	}
	none := NoAnswerError{Command: q.command.Type, Ceiling: within.passed()}
	if none.Ceiling > 0 {
		return ccid.Response{}, &none
	}
	ctx, cancel := r.device.bind(ctx, r.life)
	defer cancel()
	if err := r.settleBefore(q.command); err != nil {
		return ccid.Response{}, err
	}
	begun := time.Now()
	resp, err := r.attemptUntil(ctx, within.until, q)
	if err == nil {
		return resp, nil
	}
	none.Waited, none.Ceiling = time.Since(begun), within.passed()
	return ccid.Response{}, r.settle(ctx, q, none, err)
}

// attemptUntil is attempt for a new command, which ends at a time as if there had been no answer.
func (r *Reader) attemptUntil(ctx context.Context, end time.Time, q request) (ccid.Response, error) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	return r.attempt(ctx, q, r.dispatcher.register(q))
}

// settleBefore brings back what may still be at a command that was given up: the slot that c is for, and any slot of a reader
// that works for one at a time. A command that is for a card is not sent to one that lost its power by that: the error is
// ErrNotPowered.
func (r *Reader) settleBefore(c ccid.Command) error {
	powered := r.slots[c.Slot].State().Powered
	for i, s := range r.slots {
		if (i == int(c.Slot) || cap(r.bus) == 1) && s.unsettled {
			s.unsettled = !r.recover(StepAbort, StepReset, uint8(i)).Recovered
		}
	}
	forCard := c.Type == ccid.TypeXfrBlock || c.Type == ccid.TypeSecure
	if powered && forCard && !r.slots[c.Slot].State().Powered {
		return ErrNotPowered
	}
	return nil
}

// attempt sends a command and waits for the answer, with all time extensions until ctx ends. It repairs nothing.
func (r *Reader) attempt(ctx context.Context, q request, c *call) (ccid.Response, error) {
	defer r.dispatcher.leave(c)
	r.traceCommand(c.command, q.secret)
	err := withTimeout(ctx, min(sendWait, q.wait), func(ctx context.Context) error { return r.dispatcher.send(ctx, c) })
	if err != nil {
		return ccid.Response{}, err
	}
	limits := q.limits
	if limits == (Limits{}) {
		limits = r.deadlines.limits
	}
	wait := q.wait
	for extensions := 0; extensions <= maxExtensions; extensions++ {
		resp, err := r.dispatcher.next(ctx, c, wait)
		if err != nil {
			return ccid.Response{}, err
		}
		if resp.Status.Command() != ccid.CommandTimeExtension {
			return resp, r.heed(ctx, c.command, resp.Status)
		}
		wait = limits.extended(q.wait, uint8(resp.Error))
	}
	return ccid.Response{}, fmt.Errorf("%w: %d time extensions to one command", ErrResponse, maxExtensions+1)
}

// heed takes what an answer says of the slot. The error is that the reader is gone.
//
// A reader that is pulled out may lose its card first, and say so with its last answer. So before a card counts as taken out, the
// reader is asked whether it is so: one that is going does not answer that. Otherwise that answer is what counts, or the one that
// is there if it gives none.
func (r *Reader) heed(ctx context.Context, to ccid.Command, status ccid.Status) error {
	// What the slot says after a sleep is not news of its card.
	r.noticeSleep()
	s := r.slots[to.Slot]
	if to.Type != ccid.TypeGetSlotStatus && status.ICC() == ccid.ICCAbsent && s.State().Present {
		r.readInterruptFirst(ctx)
		ask := request{command: ccid.GetSlotStatus(to.Slot), wait: r.deadlines.slotStatus()}
		_, err := r.attempt(ctx, ask, r.dispatcher.register(ask))
		if err == nil {
			return nil
		}
		if gone := r.gone(); gone != nil {
			return gone
		}
		s.unsettled = true
	}
	s.observe(status, to.Type)
	return nil
}

// settle brings the slot back after a command that got no answer, and returns the error to report: none, if it is that.
func (r *Reader) settle(ctx context.Context, q request, none NoAnswerError, err error) error {
	if errors.Is(err, usbtransport.ErrRemoved) {
		return err
	}
	first, last := StepClearHalt, StepReset
	switch {
	case r.life.Err() != nil, ctx.Err() != nil:
		// The caller does not wait for more than an abort; the rest is done when somebody needs the slot.
		first, last = StepAbort, StepAbort
	case errors.Is(err, usbtransport.ErrTimedOut):
		first = StepAbort
	}
	recovery := r.recover(first, last, q.command.Slot)
	r.slots[q.command.Slot].unsettled = !recovery.Recovered
	switch gone := r.gone(); {
	case gone != nil:
		return gone
	case ctx.Err() != nil:
		return &usbtransport.Error{Op: q.command.Type.String(), Device: r.device.info.PortPath, Kind: usbtransport.ContextKind(ctx)}
	case errors.Is(err, usbtransport.ErrTimedOut):
		none.Recovery = recovery
		return &none
	}
	return fmt.Errorf("%w; %v", err, recovery)
}

// recover brings a reader back that does not answer on this slot: it takes one step after the other, from first to last,
// until the reader answers. While other slots wait for answers, the reset that would take those away is left out.
func (r *Reader) recover(first, last RecoveryStep, slot uint8) Recovery {
	var done Recovery
	for step := first; step <= last; step++ {
		release, err := r.exclude(step)
		if err != nil {
			r.log.Debugf("recovery of slot %d: no %v: %v", slot, step, err)
			return done
		}
		done.Tried = append(done.Tried, step)
		err = r.takeStep(step, slot)
		release()
		r.log.Debugf("recovery of slot %d: %v: %v", slot, step, err)
		if err == nil {
			done.Recovered = true
			return done
		}
		if r.gone() != nil {
			return done
		}
	}
	return done
}

// errOthersWait says why a recovery left out a step.
var errOthersWait = errors.New("other slots wait for answers")

// exclude keeps all other exchanges from starting, until release is called, for a step that ends them; if any is under
// way it fails. The caller has a place on the bus.
func (r *Reader) exclude(step RecoveryStep) (release func(), err error) {
	if step != StepReset {
		return func() {}, nil
	}
	taken := 0
	release = func() {
		for range taken {
			<-r.bus
		}
	}
	for taken < cap(r.bus)-1 {
		select {
		case r.bus <- struct{}{}:
			taken++
		default:
			release()
			return nil, errOthersWait
		}
	}
	return release, nil
}

// takeStep takes one step of a recovery and returns nil when the reader then answers.
func (r *Reader) takeStep(step RecoveryStep, slot uint8) error {
	switch step {
	case StepAbort:
		// Both halves have the same number, a new one. Many readers stall the request, and take the message all the
		// same.
		c := r.dispatcher.register(request{command: ccid.AbortCommand(slot)})
		requested := r.within(controlWait, func(ctx context.Context) error {
			// Not while the message could not follow: the slot would refuse everything until it does.
			return r.dispatcher.exclusively(ctx, func() error { return r.carrier.requestAbort(ctx, slot, c.command.Seq) })
		})
		if err := r.probeWith(c); err != nil {
			return errors.Join(requested, err)
		}
		return nil
	case StepClearHalt:
		if err := r.within(controlWait, r.dispatcher.clearHalts); err != nil {
			return err
		}
		return r.probe(ccid.GetSlotStatus(slot))
	case StepPowerOff:
		r.slots[slot].lose()
		return r.probe(ccid.IccPowerOff(slot))
	default:
		// Before and after: nobody is to use a card that is about to lose its power, nor one that was powered meanwhile.
		r.device.PowerLost()
		err := withTimeout(context.Background(), resetWait, r.carrier.reset)
		r.device.PowerLost()
		if err != nil {
			return err
		}
		return r.probe(ccid.GetSlotStatus(slot))
	}
}

// probe sends a command whose answer shows that the reader is alive.
func (r *Reader) probe(c ccid.Command) error {
	return r.probeWith(r.dispatcher.register(request{command: c}))
}

// probeWith is probe for a command that has its number already. A reader that asks for more time is not yet alive, nor is
// one whose slot is busy, or still waits for the other half of an abort.
func (r *Reader) probeWith(c *call) error {
	wait := r.deadlines.recovery()
	return r.within(wait, func(ctx context.Context) error {
		resp, err := r.attempt(ctx, request{command: c.command, wait: wait}, c)
		if err != nil || resp.Status.Command() != ccid.CommandFailed {
			return err
		}
		if resp.Error == ccid.ErrorSlotBusy || resp.Error == ccid.ErrorCommandAborted && c.command.Type != ccid.TypeAbort {
			return resp.Error
		}
		return nil
	})
}

func (r *Reader) within(limit time.Duration, f func(context.Context) error) error {
	return withTimeout(context.Background(), min(limit, r.deadlines.limits.Silence), f)
}

// pause waits, unless the context, the reader or the device ends before.
func (r *Reader) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return r.ended(ctx)
	case <-r.life.Done():
		return r.gone()
	}
}

// acquire takes a lock made of a channel with room for one, in the order of asking.
func (r *Reader) acquire(ctx context.Context, lock chan struct{}) error {
	if err := r.gone(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return r.ended(ctx)
	}
	select {
	case lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return r.ended(ctx)
	case <-r.life.Done():
		return r.gone()
	}
}

// gone returns why the reader can't be used any more, nil while it can.
func (r *Reader) gone() error {
	// The removal is noted first, and ends life then. It may come between any two looks, and whoever met it, such as the
	// operation before, has to have it told to the next one.
	switch {
	case r.device.Removed():
		return r.device.errRemoved("reader")
	case r.life.Err() == nil:
		return nil
	case r.device.Removed():
		return r.device.errRemoved("reader")
	}
	return &usbtransport.Error{Op: "reader", Device: r.device.info.PortPath, Kind: usbtransport.ErrClosed}
}

// ended returns the error for a context that has ended while nothing was under way.
func (r *Reader) ended(ctx context.Context) error {
	return &usbtransport.Error{Op: "wait", Device: r.device.info.PortPath, Kind: usbtransport.ContextKind(ctx)}
}
