package capture

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// maxQueued bounds the packets that a device keeps for a host which reads none; then it takes no more commands. It leaves
// room for one answer of any length.
const maxQueued = 1 << 14

// replayFunction is an interface with its script and what waits in its IN endpoints. Replay.mu guards it.
type replayFunction struct {
	descriptor usbtransport.InterfaceDescriptor
	script     script
	begun      bool
	claimed    bool
	resets     int // a transfer under way ends when this changes
	queues     map[uint8][]queuedPacket
	changed    chan struct{} // closed and replaced when something has changed
}

// queuedPacket is one packet on its way to the host.
type queuedPacket struct {
	data    []byte
	failure error // instead of data
	ready   time.Time
}

func newReplayFunction(d usbtransport.InterfaceDescriptor, s script) *replayFunction {
	return &replayFunction{descriptor: d, script: s, queues: map[uint8][]queuedPacket{}, changed: make(chan struct{})}
}

func (f *replayFunction) broadcast() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// begin starts the script, once.
func (f *replayFunction) begin(pace Pace) {
	if f.begun {
		return
	}
	f.begun = true
	f.deliver(f.script.begin(), pace)
}

// deliver queues what the device sends, packet by packet. An answer is never ready before one that was queued earlier.
func (f *replayFunction) deliver(list []delivery, pace Pace) {
	now := time.Now()
	for _, d := range list {
		size := f.packetSize(d.endpoint)
		queue := f.queues[d.endpoint]
		ready := now.Add(pace(d.after))
		if n := len(queue); n > 0 && queue[n-1].ready.After(ready) {
			ready = queue[n-1].ready
		}
		data := d.data
		for ; len(data) >= size; data = data[size:] {
			queue = append(queue, queuedPacket{data: data[:size], ready: ready})
		}
		if len(data) > 0 || !d.open && d.failure == nil {
			queue = append(queue, queuedPacket{data: data, ready: ready})
		}
		if d.failure != nil {
			queue = append(queue, queuedPacket{failure: d.failure, ready: ready})
		}
		f.queues[d.endpoint] = queue
	}
	f.broadcast()
}

func (f *replayFunction) packetSize(endpoint uint8) int {
	if e := f.endpoint(endpoint); e != nil && e.MaxPacketSize > 0 {
		return e.MaxPacketSize
	}
	return 64
}

func (f *replayFunction) endpoint(address uint8) *usbtransport.EndpointDescriptor {
	for i := range f.descriptor.Endpoints {
		if e := &f.descriptor.Endpoints[i]; e.Address == address {
			return e
		}
	}
	return nil
}

// queued counts the packets in bulk IN endpoints. Those of interrupt endpoints are bounded by the recording.
func (f *replayFunction) queued() int {
	n := 0
	for _, e := range f.descriptor.Endpoints {
		if e.Type == usbtransport.TransferBulk {
			n += len(f.queues[e.Address])
		}
	}
	return n
}

// replayInterface implements usbtransport.Interface.
type replayInterface struct {
	replay   *Replay
	device   *replayDevice
	function *replayFunction
	info     usbtransport.DeviceInfo
	number   uint8

	once   sync.Once
	ending sync.Mutex // orders calls that begin and Close
	closed chan struct{}
	under  sync.WaitGroup // calls under way
	// released: the claim was given back. Replay.mu guards it.
	released bool
}

var _ usbtransport.Interface = (*replayInterface)(nil)

// Device implements usbtransport.Interface.
func (i *replayInterface) Device() usbtransport.DeviceInfo { return i.info }

// Number implements usbtransport.Interface.
func (i *replayInterface) Number() uint8 { return i.number }

// call is one operation under way.
type call struct {
	*replayInterface
	ctx      context.Context
	op       string
	endpoint uint8
}

func (i *replayInterface) call(ctx context.Context, op string, endpoint uint8) call {
	return call{i, ctx, op, endpoint}
}

func (c call) fail(kind, cause error) error {
	return &usbtransport.Error{Op: c.op, Device: c.info.PortPath, Endpoint: c.endpoint, Kind: kind, Cause: cause}
}

// failure makes an error of what a script returns.
func (c call) failure(err error) error {
	var d *Divergence
	if errors.As(err, &d) {
		return c.fail(usbtransport.ErrStalled, d)
	}
	return c.fail(err, nil)
}

// run runs f with Replay.mu held, as soon as ready says so, unless the context, the interface or the device ends before.
// ready returns when to look again, zero for "when something has changed".
func (c call) run(ready func() (ok bool, again time.Time), f func() (int, error)) (int, error) {
	c.ending.Lock()
	select {
	case <-c.closed:
		c.ending.Unlock()
		return 0, c.fail(usbtransport.ErrClosed, nil)
	default:
	}
	c.under.Add(1)
	c.ending.Unlock()
	defer c.under.Done()
	c.replay.mu.Lock()
	resets := c.function.resets
	c.replay.mu.Unlock()
	for {
		c.replay.mu.Lock()
		switch {
		case c.function.resets != resets:
			c.replay.mu.Unlock()
			return 0, c.fail(usbtransport.ErrIO, errors.New("the port was reset"))
		case c.device.removed:
			c.replay.mu.Unlock()
			return 0, c.fail(usbtransport.ErrRemoved, nil)
		case c.ctx.Err() != nil:
			c.replay.mu.Unlock()
			return 0, c.fail(usbtransport.ContextKind(c.ctx), nil)
		}
		ok, again := ready()
		if ok {
			defer c.replay.mu.Unlock()
			return f()
		}
		changed := c.function.changed
		c.replay.mu.Unlock()
		if err := c.wait(changed, again); err != nil {
			return 0, err
		}
	}
}

// wait waits for a change or a time. The end of the context is for the caller to see.
func (c call) wait(changed <-chan struct{}, again time.Time) error {
	var clock <-chan time.Time
	if !again.IsZero() {
		timer := time.NewTimer(time.Until(again))
		defer timer.Stop()
		clock = timer.C
	}
	select {
	case <-changed:
	case <-clock:
	case <-c.ctx.Done():
	case <-c.closed:
		return c.fail(usbtransport.ErrClosed, nil)
	}
	return nil
}

// atOnce is a ready for what needs not wait.
func atOnce() (bool, time.Time) { return true, time.Time{} }

// hasRoom is a ready for what makes the device send.
func (i *replayInterface) hasRoom() (bool, time.Time) {
	return i.function.queued() < maxQueued, time.Time{}
}

// settle does what is to be done after a script had its turn. It wants Replay.mu held.
func (c call) settle(list []delivery, err error) error {
	c.function.deliver(list, c.replay.pace)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrDivergence) {
		c.replay.diverged(err)
	}
	if errors.Is(err, usbtransport.ErrRemoved) {
		c.replay.remove(c.device)
	}
	return c.failure(err)
}

// Control implements usbtransport.Interface.
func (i *replayInterface) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	c := i.call(ctx, "control", 0)
	return c.run(i.hasRoom, func() (int, error) {
		if err := usbtransport.CheckControl(len(data)); err != nil {
			return 0, c.fail(usbtransport.ErrInvalid, err)
		}
		if setup.RequestType&requestTypeMask == 0 {
			n, ok := i.standard(setup, data)
			if !ok {
				return 0, c.fail(usbtransport.ErrStalled, nil)
			}
			return n, nil
		}
		n, list, err := i.function.script.control(setup, data)
		return n, c.settle(list, err)
	})
}

// standard answers a standard request from the descriptors; others have no effect.
func (i *replayInterface) standard(setup usbtransport.Setup, data []byte) (int, bool) {
	switch setup.Request {
	case requestGetDescriptor:
		kind, index := uint8(setup.Value>>8), uint8(setup.Value)
		answer := i.device.known[descriptorKey{kind, index, setup.Index}]
		if kind == descriptorString && index != 0 && answer == nil {
			answer = i.device.known[descriptorKey{kind, index, englishUS}]
		}
		return copy(data, answer), answer != nil
	case requestGetStatus:
		return copy(data, []byte{0, 0}), setup.RequestType&0x80 != 0
	}
	return 0, setup.RequestType&0x80 == 0
}

// BulkOut implements usbtransport.Interface. An empty transfer has no effect.
func (i *replayInterface) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	c := i.call(ctx, "bulk out", endpoint)
	return c.run(i.hasRoom, func() (int, error) {
		if e := i.function.endpoint(endpoint); e == nil || e.In() || e.Type != usbtransport.TransferBulk {
			return 0, c.fail(usbtransport.ErrInvalid, errors.New("no such bulk OUT endpoint"))
		}
		if len(data) == 0 {
			return 0, nil
		}
		list, err := i.function.script.out(endpoint, data)
		if err = c.settle(list, err); err != nil {
			return 0, err
		}
		return len(data), nil
	})
}

// BulkIn implements usbtransport.Interface.
func (i *replayInterface) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return i.in(i.call(ctx, "bulk in", endpoint), usbtransport.TransferBulk, buf)
}

// InterruptIn implements usbtransport.Interface.
func (i *replayInterface) InterruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return i.in(i.call(ctx, "interrupt in", endpoint), usbtransport.TransferInterrupt, buf)
}

func (i *replayInterface) in(c call, kind usbtransport.TransferType, buf []byte) (int, error) {
	e := i.function.endpoint(c.endpoint)
	valid := e != nil && e.In() && e.Type == kind && e.MaxPacketSize > 0 && len(buf) > 0 && len(buf)%e.MaxPacketSize == 0
	n, done := 0, false
	for !done {
		if _, err := c.run(
			func() (bool, time.Time) { return !valid || i.ready(c.endpoint), i.readyAt(c.endpoint) },
			func() (int, error) {
				if !valid {
					return 0, c.fail(usbtransport.ErrInvalid, errors.New("no such IN endpoint, or the buffer is no multiple of wMaxPacketSize"))
				}
				p := i.function.queues[c.endpoint][0]
				i.function.queues[c.endpoint] = i.function.queues[c.endpoint][1:]
				i.function.broadcast()
				if errors.Is(p.failure, usbtransport.ErrRemoved) {
					i.replay.remove(i.device)
				}
				if p.failure != nil {
					return 0, c.fail(p.failure, nil)
				}
				n += copy(buf[n:], p.data)
				done = len(p.data) < e.MaxPacketSize || n == len(buf)
				return 0, nil
			}); err != nil {
			return n, err
		}
	}
	return n, nil
}

// ready and readyAt tell whether and when there is a packet. They want Replay.mu held.
func (i *replayInterface) ready(endpoint uint8) bool {
	queue := i.function.queues[endpoint]
	return len(queue) > 0 && !queue[0].ready.After(time.Now())
}

func (i *replayInterface) readyAt(endpoint uint8) time.Time {
	if queue := i.function.queues[endpoint]; len(queue) > 0 {
		return queue[0].ready
	}
	return time.Time{}
}

// ClearHalt implements usbtransport.Interface. No endpoint stays halted in a replay.
func (i *replayInterface) ClearHalt(ctx context.Context, endpoint uint8) error {
	c := i.call(ctx, "clear halt", endpoint)
	_, err := c.run(atOnce, func() (int, error) {
		if i.function.endpoint(endpoint) == nil {
			return 0, c.fail(usbtransport.ErrInvalid, errors.New("no such endpoint"))
		}
		return 0, nil
	})
	return err
}

// Reset implements usbtransport.Interface: what waits to be read is dropped, the script goes on.
func (i *replayInterface) Reset(ctx context.Context) error {
	c := i.call(ctx, "reset", 0)
	_, err := c.run(atOnce, func() (int, error) {
		clear(i.function.queues)
		i.function.resets++
		i.function.broadcast()
		return 0, nil
	})
	return err
}

// Close implements usbtransport.Interface.
func (i *replayInterface) Close() error {
	i.once.Do(func() {
		i.ending.Lock()
		close(i.closed)
		i.ending.Unlock()
	})
	i.under.Wait()
	i.replay.mu.Lock()
	defer i.replay.mu.Unlock()
	if !i.released {
		i.released = true
		i.function.claimed = false
	}
	return nil
}
