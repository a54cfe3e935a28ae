package card

import (
	"context"
	"slices"
	"time"
)

// ICC is a card with contacts: an Application behind T=0 or T=1, whichever its ATR offers.
type ICC struct {
	application Application
	options     Options

	powered  bool
	traits   Traits
	state    State
	dialogue dialogue
	link     link
	job      *job
	in, out  []byte
}

var _ Card = (*ICC)(nil)

// link is the card's side of a transmission protocol.
type link interface {
	// step takes what it can of the characters that arrived, and works on. It reports whether it got anywhere: false
	// means that the card waits for the reader.
	step(ctx context.Context, c *ICC) (bool, error)
}

// maxInput bounds what a card keeps of characters that it has not looked at yet: the longest extended APDU, and more
// than any block.
const maxInput = 1 << 17

// New makes a card around an application.
func New(a Application, o Options) *ICC {
	if o.ATR == nil {
		o.ATR = makeATR(o)
	}
	if o.Classes == 0 {
		o.Classes = ClassA | ClassB | ClassC
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	if o.Incoming == nil {
		o.Incoming = incoming
	}
	if o.Behave == nil {
		o.Behave = func([]byte) Behaviour { return Behaviour{} }
	}
	return &ICC{application: a, options: o}
}

// NewT0 makes a T=0 card with a fresh file system.
func NewT0() *ICC { return New(NewISO(), Options{Protocol: 0}) }

// NewT1 makes a T=1 card with a fresh file system.
func NewT1() *ICC { return New(NewISO(), Options{Protocol: 1}) }

// PowerOn implements Card.
func (c *ICC) PowerOn(ctx context.Context, class Class) ([]byte, error) {
	c.stop()
	if class&c.options.Classes == 0 {
		c.PowerOff()
		return nil, ErrMute
	}
	atr, err := c.application.Reset(ctx)
	if err != nil {
		c.powered = false
		return nil, err
	}
	if atr == nil {
		atr = c.options.ATR
	}
	c.powered = true
	c.in, c.out = nil, nil
	c.traits = ReadATR(atr)
	c.state = State{Protocol: c.traits.Protocols[0], FD: 0x11, Negotiable: true}
	if c.traits.Specific {
		c.state = State{Protocol: c.traits.SpecificProtocol, FD: c.traits.TA1}
	}
	c.dialogue = dialogue{application: c.application}
	c.link = c.newLink()
	return slices.Clone(atr), nil
}

func (c *ICC) newLink() link {
	if c.state.Protocol == 1 {
		l := newT1Link(c.traits)
		l.plainCRC = c.options.PlainCRC
		return l
	}
	return &t0Link{}
}

// PowerOff implements Card.
func (c *ICC) PowerOff() {
	c.stop()
	if c.powered {
		c.application.Off()
	}
	c.powered = false
	c.in, c.out = nil, nil
}

// Close implements Card. An application that can be closed is closed too.
func (c *ICC) Close() error {
	c.PowerOff()
	if closer, ok := c.application.(interface{ Close() error }); ok {
		return closer.Close()
	}
	return nil
}

// State implements Card.
func (c *ICC) State() State { return c.state }

// Write implements Card.
func (c *ICC) Write(b []byte) {
	c.out = nil
	if c.powered && len(c.in)+len(b) <= maxInput {
		c.in = append(c.in, b...)
	}
}

// Read implements Card.
func (c *ICC) Read(ctx context.Context, n int) ([]byte, error) {
	for c.powered && len(c.out) < n {
		// What is there already is not held back while the card works on: a NULL must be seen in time.
		if len(c.out) > 0 && c.job != nil {
			break
		}
		moved, err := c.step(ctx)
		if err != nil {
			return nil, err
		}
		if !moved {
			break
		}
	}
	if len(c.out) == 0 || n <= 0 {
		return nil, ErrMute
	}
	n = min(n, len(c.out))
	b := c.out[:n:n]
	c.out = c.out[n:]
	return b, nil
}

func (c *ICC) step(ctx context.Context) (bool, error) {
	if c.state.Negotiable && len(c.in) > 0 {
		if c.in[0] == 0xFF {
			return c.pps(), nil
		}
		c.state.Negotiable = false
	}
	return c.link.step(ctx, c)
}

// pps answers a PPS request (ISO/IEC 7816-3:2006 §9). A request that is wrong, or asks for what the ATR does not offer, is
// left without an answer, and the card waits for a reset, as §9.3 allows.
func (c *ICC) pps() bool {
	length := 3
	for bit := byte(0x10); len(c.in) > 1 && bit <= 0x40; bit <<= 1 {
		if c.in[1]&bit != 0 {
			length++
		}
	}
	if len(c.in) < length {
		return false
	}
	request := slices.Clone(c.in[:length])
	c.in = c.in[length:]
	var pck byte
	for _, b := range request {
		pck ^= b
	}
	t := request[1] & 15
	fd := byte(0x11)
	if request[1]&0x10 != 0 {
		fd = request[2]
	}
	if pck != 0 || !slices.Contains(c.traits.Protocols, t) || !c.offers(fd) || request[1]&0xE0 != 0 {
		c.powered = false
		return false
	}
	c.state = State{Protocol: t, FD: fd}
	c.link = c.newLink()
	c.out = append(c.out, request...)
	return true
}

// offers reports whether F and D lie between the defaults and those of TA1 (§9.2).
func (c *ICC) offers(fd byte) bool {
	f, d := fd>>4, fd&15
	return (f == c.traits.TA1>>4 || f == 1) && d >= 1 && (d <= c.traits.TA1&15 || d == 1)
}

// Transmit implements Card.
func (c *ICC) Transmit(ctx context.Context, command []byte, extend func(byte)) ([]byte, error) {
	if !c.powered {
		return nil, ErrMute
	}
	c.state.Negotiable = false
	b := c.options.Behave(command)
	if extend == nil {
		extend = func(byte) {}
	}
	for _, multiplier := range b.Extensions {
		extend(multiplier)
	}
	if b.Mute {
		return nil, ErrMute
	}
	c.begin(b, func(ctx context.Context) ([]byte, error) { return c.dialogue.transmit(ctx, command) })
	for {
		response, done, err := c.await(ctx)
		if ctx.Err() != nil {
			c.stop()
			return nil, err
		}
		if done {
			return response, err
		}
		extend(1)
	}
}

// job is a command that the application works on.
type job struct {
	cancel   context.CancelFunc
	done     chan struct{}
	response []byte
	err      error
}

// begin starts work; the result comes by await.
func (c *ICC) begin(b Behaviour, work func(context.Context) ([]byte, error)) {
	c.stop()
	ctx, cancel := context.WithCancel(context.Background())
	j := &job{cancel: cancel, done: make(chan struct{})}
	c.job = j
	go func() {
		defer close(j.done)
		if b.Delay > 0 {
			timer := time.NewTimer(b.Delay)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				j.err = ctx.Err()
				return
			}
		}
		j.response, j.err = work(ctx)
	}()
}

// await waits for the job as long as the card's patience lasts. Without a result and without an error the card should
// ask for more time.
func (c *ICC) await(ctx context.Context) (response []byte, done bool, err error) {
	var impatient <-chan time.Time
	if c.options.Patience > 0 {
		timer := time.NewTimer(c.options.Patience)
		defer timer.Stop()
		impatient = timer.C
	}
	select {
	case <-c.job.done:
		response, err = c.job.response, c.job.err
		c.job.cancel()
		c.job = nil
		if err != nil {
			return nil, true, err
		}
		return response, true, nil
	case <-impatient:
		return nil, false, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// stop ends the job and waits until its goroutine is gone.
func (c *ICC) stop() {
	if c.job == nil {
		return
	}
	c.job.cancel()
	<-c.job.done
	c.job = nil
}
