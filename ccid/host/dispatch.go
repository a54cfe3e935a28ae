package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

const (
	// maxForeign bounds the messages in a row that answer nothing and are dropped: late answers to commands that were
	// given up, duplicates, garbage.
	maxForeign = 32
	// maxFaultsShared bounds the faults in a row that are repaired while several slots wait. One slot alone learns of
	// the first.
	maxFaultsShared = 2
	// maxCalls bounds the calls at once, so that one of the 256 numbers is free for one more, see numberFor.
	maxCalls = 254
)

// dispatcher sends the commands of all slots, and gives each answer to whoever waits for it. As long as anybody waits, one
// goroutine reads; leave waits for its end when the last one leaves.
//
// An answer that is lost is missed at the deadline of its command and no sooner: slots answer in any order, so another slot's
// answer to a later command says nothing of it, and a slot has one command at a time.
type dispatcher struct {
	carrier carrier
	log     func(format string, args ...any)
	trace   func(resp ccid.Response, secret bool)

	// sending belongs to whoever put a token in, for one message.
	sending chan struct{}

	mu sync.Mutex
	// seq is the next bSeq. There is one counter for the reader, not one for each slot: there are readers that take no
	// two commands in a row with the same number, even for different slots.
	seq uint8
	// sent is the bSeq of the message that was sent last, previous of each slot's last command. Those are not free, though
	// nobody waits any more: a command may be sent long after it got its number, and an answer be repeated.
	sent     uint8
	previous map[uint8]uint8
	// calls are those that wait for an answer, by bSeq.
	calls   map[uint8]*call
	reading *reading
}

// call is a command from before it is sent until its answer is there, or nobody waits for that any more.
type call struct {
	command ccid.Command
	// secret keeps the answer's data out of the log.
	secret bool
	// answers has each time extension and, at last, the answer or why there is none.
	answers chan answer
	// left is closed when nobody takes from answers any more.
	left chan struct{}
}

type answer struct {
	resp ccid.Response
	err  error
}

// reading is the goroutine that reads.
type reading struct {
	stop    context.CancelFunc
	stopped bool // dispatcher.mu guards it
	done    chan struct{}
}

func newDispatcher(c carrier) *dispatcher {
	// The first number is 0: it is as if 255 had been sent.
	return &dispatcher{carrier: c, sending: make(chan struct{}, 1), sent: 0xFF, calls: map[uint8]*call{}, previous: map[uint8]uint8{}}
}

// register gives a command its bSeq. The caller leaves the call when it is over. There are at most maxCalls at once.
func (d *dispatcher) register(q request) *call {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := q.command
	c.Seq = d.numberFor(c.Slot)
	// Room for a time extension and an answer that come before the command is known to be sent.
	registered := &call{command: c, secret: q.secret, answers: make(chan answer, 4), left: make(chan struct{})}
	d.calls[c.Seq] = registered
	return registered
}

// numberFor returns the next bSeq that no command under way has, nor the message sent last, nor the slot's command before: a
// late answer to that would pass for one to the new command. mu is held.
func (d *dispatcher) numberFor(slot uint8) uint8 {
	previous, hasPrevious := d.previous[slot]
	for d.calls[d.seq] != nil || d.seq == d.sent || hasPrevious && d.seq == previous {
		d.seq++
	}
	n := d.seq
	d.previous[slot] = n
	d.seq++
	return n
}

// leave forgets a call. When nobody is left who waits, it returns only when nobody reads any more.
func (d *dispatcher) leave(c *call) {
	close(c.left)
	d.mu.Lock()
	if d.calls[c.command.Seq] == c {
		delete(d.calls, c.command.Seq)
	}
	last := d.reading
	if len(d.calls) > 0 {
		last = nil
	}
	if last != nil {
		last.stopped = true
		last.stop()
	}
	d.mu.Unlock()
	if last != nil {
		<-last.done
	}
}

// send hands a call's command to the reader and sees to it that somebody reads.
func (d *dispatcher) send(ctx context.Context, c *call) error {
	if err := d.exclusively(ctx, func() error { return d.sendNext(ctx, c.command) }); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls[c.command.Seq] != c || d.reading != nil && !d.reading.stopped {
		// Answered already, by somebody who reads for others; or about to be.
		return nil
	}
	d.startReading()
	return nil
}

// sendNext sends one message. Nobody else does.
func (d *dispatcher) sendNext(ctx context.Context, c ccid.Command) error {
	d.mu.Lock()
	d.sent = c.Seq
	d.mu.Unlock()
	return d.carrier.send(ctx, c)
}

// startReading makes a goroutine that reads when the one before, if any, no longer does. mu is held.
func (d *dispatcher) startReading() {
	ctx, stop := context.WithCancel(context.Background())
	before := d.reading
	d.reading = &reading{stop: stop, done: make(chan struct{})}
	go d.read(ctx, d.reading, before)
}

// clearHalts clears both ways while nobody uses them. Whoever waits for an answer goes on waiting.
func (d *dispatcher) clearHalts(ctx context.Context) error {
	return errors.Join(d.withoutReading(ctx, d.carrier.clearIn), d.exclusively(ctx, func() error { return d.carrier.clearOut(ctx) }))
}

// withoutReading runs f while nobody reads, between two messages.
func (d *dispatcher) withoutReading(ctx context.Context, f func(context.Context) error) error {
	pause := &reading{stop: func() {}, done: make(chan struct{})}
	defer close(pause.done)
	d.mu.Lock()
	before := d.reading
	d.reading = pause
	if before != nil {
		before.stopped = true
		before.stop()
	}
	d.mu.Unlock()
	if before != nil {
		<-before.done
	}
	err := f(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading == pause {
		d.reading = nil
		if len(d.calls) > 0 {
			d.startReading()
		}
	}
	return err
}

// exclusively runs f while nobody sends.
func (d *dispatcher) exclusively(ctx context.Context, f func() error) error {
	select {
	case d.sending <- struct{}{}:
	case <-ctx.Done():
		return usbtransport.ContextKind(ctx)
	}
	defer func() { <-d.sending }()
	return f()
}

// read gives messages to those who wait for them until nobody does, or it is stopped. before is the goroutine that read
// before, nil where there is none.
func (d *dispatcher) read(ctx context.Context, r, before *reading) {
	defer close(r.done)
	defer r.stop()
	if before != nil {
		<-before.done
	}
	for foreign, faults := 0, 0; d.wanted(ctx, r); {
		resp, err := d.carrier.receive(ctx)
		switch {
		case err != nil && !errors.Is(err, ccid.ErrMessage):
			if ctx.Err() != nil {
				continue
			}
			if faults++; faults > maxFaultsShared || !d.repair(err) {
				d.fail(err)
			}
		case d.deliver(resp, err):
			foreign, faults = 0, 0
		default:
			if foreign++; foreign > maxForeign {
				d.fail(fmt.Errorf("%w: %d messages that answer nothing", ccid.ErrMessage, foreign))
			}
		}
	}
}

// wanted reports whether to go on reading, and ends the goroutine's term where not.
func (d *dispatcher) wanted(ctx context.Context, r *reading) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() == nil && len(d.calls) > 0 {
		return true
	}
	if d.reading == r {
		d.reading = nil
	}
	return false
}

// deliver gives a message to whoever waits for it, and reports whether somebody does. err is what is wrong with it.
func (d *dispatcher) deliver(resp ccid.Response, err error) bool {
	d.mu.Lock()
	c := d.calls[resp.Seq]
	// The carrier's memory, which is used again for the next message, keeps nothing of this one.
	defer clear(resp.Data)
	if c == nil || resp.Check(c.command) != nil {
		d.mu.Unlock()
		d.log("dropped a message that answers nothing: %v slot %d seq %d (%v)", resp.Type, resp.Slot, resp.Seq, err)
		return false
	}
	if err != nil || resp.Status.Command() != ccid.CommandTimeExtension {
		delete(d.calls, resp.Seq)
	}
	d.mu.Unlock()
	if err == nil {
		d.trace(resp, c.secret)
		resp.Data = slices.Clone(resp.Data)
	}
	c.give(answer{resp, err})
	return true
}

func (c *call) give(a answer) {
	select {
	case c.answers <- a:
	case <-c.left:
	}
}

// repair brings the way in back after a fault while several slots wait: one lost answer is not to be the end of the others'.
// It reports whether to read on.
func (d *dispatcher) repair(err error) bool {
	d.mu.Lock()
	waiting := len(d.calls)
	d.mu.Unlock()
	if waiting < 2 || errors.Is(err, usbtransport.ErrRemoved) || errors.Is(err, usbtransport.ErrClosed) {
		return false
	}
	d.log("fault while %d slots wait: %v", waiting, err)
	return withTimeout(context.Background(), controlWait, d.carrier.clearIn) == nil
}

// fail ends all calls.
func (d *dispatcher) fail(err error) {
	d.mu.Lock()
	var waiting []*call
	for seq, c := range d.calls {
		waiting = append(waiting, c)
		delete(d.calls, seq)
	}
	d.mu.Unlock()
	for _, c := range waiting {
		c.give(answer{err: err})
	}
}
