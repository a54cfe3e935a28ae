package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

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

// dispatcher sends the commands of all slots, and gives each answer to whoever waits for it. One of those who wait reads, for all of
// them; its term ends with its own wait, and then another one reads. So nobody reads when nobody waits.
//
// An answer that is lost is missed at the deadline of its command and no sooner: slots answer in any order, so another slot's
// answer to a later command says nothing of it, and a slot has one command at a time.
type dispatcher struct {
	carrier carrier
	log     func(format string, args ...any)
	trace   func(resp ccid.Response, secret bool)

	// sending belongs to whoever put a token in, for one message. So does reading, between two messages.
	sending, reading chan struct{}

	mu sync.Mutex
	// seq is the next bSeq. There is one counter for the reader, not one for each slot: there are readers that take no
	// two commands in a row with the same number, even for different slots.
	seq uint8
	// sent is the bSeq of the message that was sent last, previous of each slot's last command. Those are not free, though
	// nobody waits any more: a command may be sent long after it got its number, and an answer be repeated.
	sent     uint8
	previous map[uint8]uint8
	// calls are those that wait for an answer, by bSeq.
	calls map[uint8]*call
	// foreign counts the messages in a row that answered nothing, faults the reads in a row that failed.
	foreign, faults int
	// pauses counts those who wait until nobody reads. interrupt ends the term of whoever does.
	pauses    int
	interrupt context.CancelFunc
}

// call is a command from before it is sent until its answer is there, or nobody waits for that any more.
type call struct {
	command ccid.Command
	// secret keeps the answer's data out of the log.
	secret bool
	// answers has at last the answer or why there is none, before that the last time extension that nobody has taken yet.
	answers chan answer
}

type answer struct {
	resp ccid.Response
	err  error
}

func newDispatcher(c carrier) *dispatcher {
	// The first number is 0: it is as if 255 had been sent.
	return &dispatcher{
		carrier: c, sending: make(chan struct{}, 1), reading: make(chan struct{}, 1), interrupt: func() {},
		sent: 0xFF, calls: map[uint8]*call{}, previous: map[uint8]uint8{},
	}
}

// register gives a command its bSeq. The caller leaves the call when it is over. There are at most maxCalls at once.
func (d *dispatcher) register(q request) *call {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := q.command
	c.Seq = d.numberFor(c.Slot)
	if len(d.calls) == 0 {
		d.foreign, d.faults = 0, 0
	}
	registered := &call{command: c, secret: q.secret, answers: make(chan answer, 1)}
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

// leave forgets a call.
func (d *dispatcher) leave(c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls[c.command.Seq] == c {
		delete(d.calls, c.command.Seq)
	}
}

// send hands a call's command to the reader.
func (d *dispatcher) send(ctx context.Context, c *call) error {
	return d.exclusively(ctx, func() error { return d.sendNext(ctx, c.command) })
}

// sendNext sends one message. Nobody else does.
func (d *dispatcher) sendNext(ctx context.Context, c ccid.Command) error {
	d.mu.Lock()
	d.sent = c.Seq
	d.mu.Unlock()
	return d.carrier.send(ctx, c)
}

// clearHalts clears both ways while nobody uses them. Whoever waits for an answer goes on waiting.
func (d *dispatcher) clearHalts(ctx context.Context) error {
	return errors.Join(d.withoutReading(ctx, d.carrier.clearIn), d.exclusively(ctx, func() error { return d.carrier.clearOut(ctx) }))
}

// withoutReading runs f while nobody reads, between two messages.
func (d *dispatcher) withoutReading(ctx context.Context, f func(context.Context) error) error {
	d.pause()
	err := take(ctx, d.reading)
	d.resume()
	if err != nil {
		return err
	}
	defer func() { <-d.reading }()
	return f(ctx)
}

// pause ends the term of whoever reads, and of each who begins one until resume.
func (d *dispatcher) pause() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pauses++
	d.interrupt()
}

func (d *dispatcher) resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pauses--
	d.foreign, d.faults = 0, 0
}

// exclusively runs f while nobody sends.
func (d *dispatcher) exclusively(ctx context.Context, f func() error) error {
	if err := take(ctx, d.sending); err != nil {
		return err
	}
	defer func() { <-d.sending }()
	return f()
}

// take waits until there is room for a token, and puts it in.
func take(ctx context.Context, token chan<- struct{}) error {
	select {
	case token <- struct{}{}:
		return nil
	case <-ctx.Done():
		return usbtransport.ContextKind(ctx)
	}
}

// next waits for the next message to a call, for as long as wait.
func (d *dispatcher) next(ctx context.Context, c *call, wait time.Duration) (ccid.Response, error) {
	for end := time.Now().Add(wait); ; {
		if a, ok := d.nextInTerm(ctx, c, end); ok {
			return a.resp, a.err
		}
	}
}

// nextInTerm waits for the next message to a call until end, and reads meanwhile when nobody else does. It reports false if that was
// interrupted.
func (d *dispatcher) nextInTerm(ctx context.Context, c *call, end time.Time) (answer, bool) {
	term, stop := context.WithDeadline(ctx, end)
	defer stop()
	select {
	case a := <-c.answers:
		return a, true
	case <-term.Done():
	case d.reading <- struct{}{}:
		d.begin(stop)
		for len(c.answers) == 0 && term.Err() == nil {
			d.read(term)
		}
		<-d.reading
	}
	select {
	case a := <-c.answers:
		return a, true
	default:
		interrupted := ctx.Err() == nil && !errors.Is(term.Err(), context.DeadlineExceeded)
		return answer{err: usbtransport.ContextKind(term)}, !interrupted
	}
}

// begin notes how to end a term of reading, which ends at once where somebody wants nobody to read.
func (d *dispatcher) begin(stop context.CancelFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.interrupt = stop
	if d.pauses > 0 {
		stop()
	}
}

// read takes one message. Nobody else does.
func (d *dispatcher) read(term context.Context) {
	resp, err := d.carrier.receive(term)
	switch {
	case err == nil, errors.Is(err, ccid.ErrMessage):
		d.deliver(resp, err)
	case term.Err() == nil:
		d.repair(err)
	}
}

// deliver gives a message to whoever waits for it. err is what is wrong with it.
func (d *dispatcher) deliver(resp ccid.Response, err error) {
	// The carrier's memory, which is used again for the next message, keeps nothing of this one.
	defer clear(resp.Data)
	c, foreign := d.callFor(resp, err)
	if c == nil {
		d.log("dropped a message that answers nothing: %v slot %d seq %d (%v)", resp.Type, resp.Slot, resp.Seq, err)
		if foreign > maxForeign {
			d.fail(fmt.Errorf("%w: %d messages that answer nothing", ccid.ErrMessage, foreign))
		}
		return
	}
	if err == nil {
		d.trace(resp, c.secret)
		resp.Data = slices.Clone(resp.Data)
	}
	c.give(answer{resp, err})
}

// callFor returns the call that a message is for, and forgets it if that is the end of it; or nil, and how many messages in a row
// have been for none.
func (d *dispatcher) callFor(resp ccid.Response, err error) (c *call, foreign int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c = d.calls[resp.Seq]
	if c == nil || resp.Check(c.command) != nil {
		d.foreign++
		return nil, d.foreign
	}
	d.foreign, d.faults = 0, 0
	if err != nil || resp.Status.Command() != ccid.CommandTimeExtension {
		delete(d.calls, resp.Seq)
	}
	return c, 0
}

// give does not wait: what nobody has taken yet is a time extension, which counts from when it is taken, as does the next one.
// Nobody else gives.
func (c *call) give(a answer) {
	for {
		select {
		case c.answers <- a:
			return
		case <-c.answers:
		}
	}
}

// repair brings the way in back after a fault while several slots wait: one lost answer is not to be the end of the others'.
// Otherwise all calls end. Once begun it is not cut short, whoever's term ends: the next one would read meanwhile.
func (d *dispatcher) repair(err error) {
	d.mu.Lock()
	d.faults++
	waiting, faults := len(d.calls), d.faults
	d.mu.Unlock()
	final := errors.Is(err, usbtransport.ErrRemoved) || errors.Is(err, usbtransport.ErrClosed)
	if waiting < 2 || faults > maxFaultsShared || final {
		d.fail(err)
		return
	}
	d.log("fault while %d slots wait: %v", waiting, err)
	if withTimeout(context.Background(), controlWait, d.carrier.clearIn) != nil {
		d.fail(err)
	}
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
