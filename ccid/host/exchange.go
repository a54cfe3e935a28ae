package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

const (
	// maxForeign bounds the messages that are not the answer to the last command and are dropped: late answers to
	// commands that were given up, duplicates, garbage.
	maxForeign = 32
	// maxExtensions bounds the time extensions for one command: one each 75 ms for the default of Limits.Exchange.
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
	// secret keeps the data out of the log.
	secret bool
}

// command runs one exchange. An answer that reports a failure is returned with a *ccid.CommandError, which is also
// ErrNoCard where the slot has none.
func (r *Reader) command(ctx context.Context, q request) (ccid.Response, error) {
	for busy := 0; ; busy++ {
		resp, err := r.exchange(ctx, q)
		if err != nil || resp.Status.Command() == ccid.CommandOK {
			return resp, err
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

// exchange sends one command and returns its answer, whatever that reports, with data of its own. Where the reader
// fails to answer it is brought back before the error is returned, so that the next command finds it ready.
func (r *Reader) exchange(ctx context.Context, q request) (ccid.Response, error) {
	if err := r.acquire(ctx, r.bus); err != nil {
		return ccid.Response{}, err
	}
	defer func() { <-r.bus }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.life, cancel)()

	if r.unsettled {
		r.unsettled = !r.recover(StepAbort, StepReset, q.command.Slot).Recovered
	}
	q.command.Seq = r.nextSeq()
	resp, err := r.attempt(ctx, q)
	if err == nil {
		resp.Data = slices.Clone(resp.Data)
		return resp, nil
	}
	return ccid.Response{}, r.settle(ctx, q, err)
}

// nextSeq returns the next bSeq. There is one counter for the reader, not one for each slot: there are readers that
// take no two commands in a row with the same number, even for different slots.
func (r *Reader) nextSeq() uint8 {
	seq := r.seq
	r.seq++
	return seq
}

// attempt sends a command with its bSeq and waits for the answer. It repairs nothing.
func (r *Reader) attempt(ctx context.Context, q request) (ccid.Response, error) {
	r.traceCommand(q.command, q.secret)
	sending, cancel := context.WithTimeout(ctx, min(sendWait, q.wait))
	err := r.carrier.send(sending, q.command)
	cancel()
	if err != nil {
		return ccid.Response{}, err
	}
	end := time.Now().Add(r.deadlines.limits.Exchange)
	deadline := time.Now().Add(q.wait)
	for foreign, extensions := 0, 0; foreign <= maxForeign; {
		resp, err := r.receive(ctx, deadline)
		mismatch := resp.Check(q.command)
		switch {
		case err != nil && !errors.Is(err, ccid.ErrMessage):
			return ccid.Response{}, err
		case mismatch != nil:
			foreign++
			r.log.Debugf("dropped a message that answers nothing: %v", errors.Join(err, mismatch))
		case err != nil:
			return ccid.Response{}, err
		case resp.Status.Command() == ccid.CommandTimeExtension:
			if extensions++; extensions > maxExtensions {
				return ccid.Response{}, fmt.Errorf("%w: %d time extensions to one command", ErrResponse, extensions)
			}
			deadline = time.Now().Add(r.deadlines.extended(q.wait, uint8(resp.Error)))
			if deadline.After(end) {
				deadline = end
			}
		default:
			r.slots[q.command.Slot].observe(resp.Status, q.command.Type)
			return resp, nil
		}
	}
	return ccid.Response{}, fmt.Errorf("%w: %d messages that answer nothing", ccid.ErrMessage, maxForeign+1)
}

func (r *Reader) receive(ctx context.Context, deadline time.Time) (ccid.Response, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	resp, err := r.carrier.receive(ctx)
	if err == nil {
		r.traceResponse(resp)
	}
	return resp, err
}

// settle brings the reader back after a command that got no answer, and returns the error to report.
func (r *Reader) settle(ctx context.Context, q request, err error) error {
	if errors.Is(err, usbtransport.ErrRemoved) {
		return err
	}
	first, last := StepClearHalt, StepReset
	switch {
	case r.life.Err() != nil, ctx.Err() != nil:
		// The caller does not wait for more than an abort; the rest is done when somebody needs the reader.
		first, last = StepAbort, StepAbort
	case errors.Is(err, usbtransport.ErrTimedOut):
		first = StepAbort
	}
	recovery := r.recover(first, last, q.command.Slot)
	r.unsettled = !recovery.Recovered
	switch gone := r.gone(); {
	case gone != nil:
		return gone
	case ctx.Err() != nil:
		return &usbtransport.Error{Op: q.command.Type.String(), Device: r.device.info.PortPath, Kind: usbtransport.ContextKind(ctx)}
	case errors.Is(err, usbtransport.ErrTimedOut):
		return &NoAnswerError{Command: q.command.Type, Waited: q.wait, Recovery: recovery}
	}
	return fmt.Errorf("%w; %v", err, recovery)
}

// recover brings a reader back that does not answer on this slot: it takes one step after the other, from first to last,
// until the reader answers.
func (r *Reader) recover(first, last RecoveryStep, slot uint8) Recovery {
	var done Recovery
	for step := first; step <= last; step++ {
		done.Tried = append(done.Tried, step)
		err := r.takeStep(step, slot)
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

// takeStep takes one step of a recovery and returns nil when the reader then answers.
func (r *Reader) takeStep(step RecoveryStep, slot uint8) error {
	switch step {
	case StepAbort:
		// Both halves have the same number, a new one. Many readers stall the request, and take the message all the
		// same.
		c := r.numbered(ccid.AbortCommand(slot))
		requested := r.within(controlWait, func(ctx context.Context) error { return r.carrier.requestAbort(ctx, slot, c.Seq) })
		if err := r.probe(c); err != nil {
			return errors.Join(requested, err)
		}
		return nil
	case StepClearHalt:
		if err := r.within(controlWait, r.carrier.clear); err != nil {
			return err
		}
		return r.probe(r.numbered(ccid.GetSlotStatus(slot)))
	case StepPowerOff:
		r.slots[slot].lose()
		return r.probe(r.numbered(ccid.IccPowerOff(slot)))
	default:
		for _, s := range r.slots {
			s.lose()
		}
		if err := withTimeout(context.Background(), resetWait, r.carrier.reset); err != nil {
			return err
		}
		return r.probe(r.numbered(ccid.GetSlotStatus(slot)))
	}
}

func (r *Reader) numbered(c ccid.Command) ccid.Command {
	c.Seq = r.nextSeq()
	return c
}

// probe sends a command whose answer shows that the reader is alive. A reader that asks for more time is not yet.
func (r *Reader) probe(c ccid.Command) error {
	return r.within(recoveryWait, func(ctx context.Context) error {
		resp, err := r.attempt(ctx, request{command: c, wait: recoveryWait})
		if err == nil && resp.Status.Command() == ccid.CommandFailed && resp.Error == ccid.ErrorSlotBusy {
			return resp.Error
		}
		return err
	})
}

func (r *Reader) within(limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), min(limit, r.deadlines.limits.Silence))
	defer cancel()
	return f(ctx)
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
	switch {
	case r.device.Removed():
		return r.device.errRemoved("reader")
	case r.life.Err() != nil:
		return &usbtransport.Error{Op: "reader", Device: r.device.info.PortPath, Kind: usbtransport.ErrClosed}
	}
	return nil
}

// ended returns the error for a context that has ended while nothing was under way.
func (r *Reader) ended(ctx context.Context) error {
	return &usbtransport.Error{Op: "wait", Device: r.device.info.PortPath, Kind: usbtransport.ContextKind(ctx)}
}
