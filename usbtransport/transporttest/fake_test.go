package transporttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// fakeBus is a backend in memory with one loopback device, and the device. It obeys every rule, but for the one that its
// flaw names: a suite that passes with a flaw does not check the rule.
type fakeBus struct {
	flaw string

	// mu protects everything below and in the interfaces and watchers.
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced whenever something changes that somebody may wait for
	plugs    int
	plugged  bool
	claimed  *fakeInterface
	watchers []*fakeWatcher
	// out collects the packets of a transfer from the host; in and interrupts hold packets for it.
	out            []byte
	in, interrupts [][]byte
	halted         map[uint8]bool
	// toggles counts what only one side has reset: an odd packet would be dropped.
	outOfStep map[uint8]bool
	serial    chan struct{} // for the flaw that lets endpoints wait for each other
}

const (
	fakeOut, fakeIn, fakeInterruptIn = 0x01, 0x82, 0x83
	fakePacket                       = 64
	fakePath                         = "7-1.3"
)

func newFakeBus(flaw string) *fakeBus {
	b := &fakeBus{flaw: flaw, changed: make(chan struct{}), serial: make(chan struct{}, 1)}
	b.plug()
	return b
}

func (b *fakeBus) has(flaw string) bool { return b.flaw == flaw }

// notify wakes everybody who waits. mu is held.
func (b *fakeBus) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// await waits, with mu held, until condition returns true, or ctx ends.
func (b *fakeBus) await(ctx context.Context, condition func() bool) error {
	for !condition() {
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		b.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (b *fakeBus) Name() string { return "fake" }

func (b *fakeBus) info() usbtransport.DeviceInfo {
	raw := []byte{
		18, 1, 0x10, 1, 0, 0, 0, 64, 0x34, 0x12, 0x78, 0x56, 0x01, 0x02, 0, 0, 0, 1,
		9, 2, 39, 0, 1, 1, 0, 0x80, 50,
		9, 4, 0, 0, 3, 0xFF, 0, 0, 0,
		7, 5, fakeOut, 2, fakePacket, 0, 0,
		7, 5, fakeIn, 2, fakePacket, 0, 0,
		7, 5, fakeInterruptIn, 3, 8, 0, 10,
	}
	raw[20] = byte(len(raw) - 18)
	d := usbtransport.DeviceInfo{
		Key: fmt.Sprintf("%s#%d", fakePath, b.plugs), Bus: 7, Address: 1 + b.plugs%127, PortPath: fakePath,
		IDVendor: 0x1234, IDProduct: 0x5678, BCDDevice: 0x0201, Descriptors: raw,
	}
	if b.has("keys are used again") {
		d.Key = fakePath
	}
	if b.has("no descriptors") {
		d.Descriptors = nil
	}
	return d
}

// others are devices that stay.
func (b *fakeBus) others() []usbtransport.DeviceInfo {
	return []usbtransport.DeviceInfo{{Key: "usb7#0", Bus: 7, Address: 1, PortPath: "usb7"}, {Key: "usb8#0", Bus: 8, Address: 1, PortPath: "usb8"}}
}

func (b *fakeBus) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil && !b.has("Devices ignores its context") {
		return nil, &usbtransport.Error{Op: "devices", Kind: usbtransport.ContextKind(ctx)}
	}
	list := b.others()
	if b.plugged {
		list = slices.Insert(list, 1, b.info())
	}
	if b.has("the list has no order") {
		slices.Reverse(list)
	}
	return list, nil
}

func (b *fakeBus) plug() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plugs++
	b.plugged = true
	b.out, b.in, b.interrupts = nil, nil, nil
	b.halted, b.outOfStep = make(map[uint8]bool), make(map[uint8]bool)
	b.tell(usbtransport.Event{Kind: usbtransport.Arrived, Device: b.info()})
}

func (b *fakeBus) unplug() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plugged = false
	if b.claimed != nil {
		i := b.claimed
		b.claimed = nil
		switch {
		case b.has("removal is noticed late"):
			time.AfterFunc(150*time.Millisecond, func() {
				b.mu.Lock()
				defer b.mu.Unlock()
				i.gone = true
				b.notify()
			})
		case !b.has("removal leaves waiters"):
			i.gone = true
		}
	}
	b.tell(usbtransport.Event{Kind: usbtransport.Removed, Device: b.info()})
}

func (b *fakeBus) tell(event usbtransport.Event) {
	for _, w := range b.watchers {
		if w.ghosts > 0 {
			w.ghosts--
			continue
		}
		w.events = append(w.events, event)
		if n := len(w.events); b.has("events are out of order") && n > 1 && event.Kind == usbtransport.Arrived {
			w.events[n-1], w.events[n-2] = w.events[n-2], w.events[n-1]
		}
	}
	if b.has("only one watcher is told") && len(b.watchers) > 1 {
		last := b.watchers[len(b.watchers)-1]
		last.events = last.events[:len(last.events)-1]
	}
	b.notify()
}

func (b *fakeBus) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fail := func(kind, cause error) (usbtransport.Interface, error) {
		return nil, &usbtransport.Error{Op: "open", Device: device.PortPath, Kind: kind, Cause: cause}
	}
	switch {
	case ctx.Err() != nil && !b.has("Open ignores its context"):
		return fail(usbtransport.ContextKind(ctx), nil)
	case device.PortPath != fakePath, !b.plugged, device.Key != b.info().Key && !b.has("Open takes any plug-in"):
		return fail(usbtransport.ErrRemoved, nil)
	case number != 0:
		return fail(usbtransport.ErrInvalid, nil)
	case b.claimed != nil && b.has("a busy interface has no holder"):
		return fail(usbtransport.ErrBusy, nil)
	case b.claimed != nil && !b.has("an interface is opened twice"):
		return fail(usbtransport.ErrBusy, &usbtransport.BusyError{Holders: []usbtransport.Holder{{PID: 1, Process: "fake"}}})
	}
	closing, stop := context.WithCancel(context.Background())
	i := &fakeInterface{bus: b, device: b.info(), closing: closing, stop: stop}
	b.claimed = i
	if b.has("a goroutine is left") {
		go func() { <-context.WithoutCancel(ctx).Done() }()
	}
	return i, nil
}

// firmware sends a transfer back, packet by packet.
func (b *fakeBus) firmware(data []byte, plug int) {
	for {
		packet := data[:min(len(data), fakePacket)]
		data = data[len(packet):]
		b.mu.Lock()
		if b.plugs != plug || !b.plugged {
			b.mu.Unlock()
			return
		}
		if !b.has("the device sends no empty packets") || len(packet) > 0 {
			b.in = append(b.in, slices.Clone(packet))
		}
		b.notify()
		b.mu.Unlock()
		if len(packet) < fakePacket {
			return
		}
		time.Sleep(time.Microsecond)
	}
}

type fakeInterface struct {
	bus     *fakeBus
	device  usbtransport.DeviceInfo
	closing context.Context
	stop    context.CancelFunc
	closed  bool
	gone    bool
	calls   sync.WaitGroup
}

func (i *fakeInterface) Device() usbtransport.DeviceInfo { return i.device }

func (i *fakeInterface) Number() uint8 { return 0 }

// call runs one call, with mu held, under the rules that all calls have.
func (i *fakeInterface) call(ctx context.Context, op string, endpoint uint8, body func(context.Context) (int, error)) (int, error) {
	b := i.bus
	if b.has("endpoints wait for each other") {
		select {
		case b.serial <- struct{}{}:
			defer func() { <-b.serial }()
		case <-ctx.Done():
			return 0, &usbtransport.Error{Op: op, Device: fakePath, Endpoint: endpoint, Kind: usbtransport.ContextKind(ctx)}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := 0, i.state(ctx)
	if b.has("an ended context still sends") && op == "bulk out" && i.state(context.Background()) == nil {
		err = nil
	}
	if err == nil {
		i.calls.Add(1)
		either, cancel := context.WithCancel(ctx)
		if !b.has("Close leaves waiters") {
			defer context.AfterFunc(i.closing, cancel)()
		}
		if b.has("contexts are ignored") {
			either = i.closing
		}
		n, err = body(either)
		i.calls.Done()
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			err = i.state(ctx)
		}
		cancel()
	}
	switch {
	case err == nil:
		return n, nil
	case b.has("errors have no type"):
		return n, err
	case b.has("errors name no endpoint"):
		endpoint = 0
	}
	return n, &usbtransport.Error{Op: op, Device: fakePath, Endpoint: endpoint, Kind: err}
}

// state is the error of every call at this time, nil while the interface is in use.
func (i *fakeInterface) state(ctx context.Context) error {
	switch {
	case i.closed && i.bus.has("a closed interface is said to be removed"):
		return usbtransport.ErrRemoved
	case i.closed:
		return usbtransport.ErrClosed
	case i.gone && i.bus.has("removal is an I/O error"):
		return usbtransport.ErrIO
	case i.gone:
		return usbtransport.ErrRemoved
	case ctx.Err() != nil && i.bus.has("a deadline is said to be a cancellation"):
		return usbtransport.ErrCancelled
	case ctx.Err() != nil:
		return usbtransport.ContextKind(ctx)
	}
	return nil
}

func (i *fakeInterface) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	return i.call(ctx, "control", 0, func(context.Context) (int, error) {
		answer := []byte(nil)
		switch {
		case len(data) > 4096 && !i.bus.has("control transfers have any length"):
			return 0, usbtransport.ErrInvalid
		case setup.Request == 0:
			answer = []byte{0, 0}
		case setup.Request == 6 && setup.Value == 0x0100:
			answer = i.device.Descriptors[:18]
		case i.bus.has("a refused request is an I/O error"):
			return 0, usbtransport.ErrIO
		default:
			return 0, usbtransport.ErrStalled
		}
		n := copy(data, answer)
		if i.bus.has("short control transfers are counted in full") {
			n = len(data)
		}
		return n, nil
	})
}

func (i *fakeInterface) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	b := i.bus
	return i.call(ctx, "bulk out", endpoint, func(context.Context) (int, error) {
		switch {
		case endpoint != fakeOut:
			return 0, usbtransport.ErrInvalid
		case b.halted[fakeOut]:
			return 0, usbtransport.ErrStalled
		case b.outOfStep[fakeOut]:
			b.outOfStep[fakeOut] = false
			return len(data), nil // the device takes the packet for a repetition
		}
		b.out = append(b.out, data...)
		if len(data)%fakePacket == 0 && b.has("no empty packet follows an exact multiple") && len(data) > 0 {
			return len(data), nil
		}
		if len(data) == 0 && b.has("an empty transfer is not sent") {
			return 0, nil
		}
		go b.firmware(slices.Clone(b.out), b.plugs)
		b.out = nil
		return len(data), nil
	})
}

func (i *fakeInterface) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	b := i.bus
	return i.call(ctx, "bulk in", endpoint, func(ctx context.Context) (int, error) {
		if endpoint != fakeIn || (len(buf) == 0 || len(buf)%fakePacket != 0) && !b.has("reads take any buffer") {
			return 0, usbtransport.ErrInvalid
		}
		n := 0
		for {
			err := b.await(ctx, func() bool { return len(b.in) > 0 || b.halted[fakeIn] || i.gone })
			switch {
			case err != nil && b.has("a cancelled read loses its bytes"):
				return 0, err
			case err != nil && b.has("a cancelled read gives its bytes back") && n > 0:
				b.in = slices.Insert(b.in, 0, slices.Clone(buf[:n]))
				return n, err
			case err != nil && b.has("a cancelled read eats the next packet"):
				b.outOfStep[fakeIn] = true
				return n, err
			case err != nil:
				return n, err
			case i.gone:
				return n, i.state(context.Background())
			case b.halted[fakeIn] && b.has("a stall is not noticed"):
				b.halted[fakeIn] = false
				continue
			case b.halted[fakeIn]:
				if b.has("a stall is reported once") {
					b.halted[fakeIn] = false
				}
				return n, usbtransport.ErrStalled
			}
			packet := b.in[0]
			b.in = b.in[1:]
			if b.outOfStep[fakeIn] {
				b.outOfStep[fakeIn] = false
				continue
			}
			n += copy(buf[n:], packet)
			switch {
			case len(packet) == 0 && b.has("empty packets are skipped"):
				continue
			case len(packet) < fakePacket, n == len(buf):
				return n, nil
			case b.has("a full packet ends a read"):
				return n, nil
			}
		}
	})
}

func (i *fakeInterface) InterruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	b := i.bus
	return i.call(ctx, "interrupt in", endpoint, func(ctx context.Context) (int, error) {
		if endpoint != fakeInterruptIn || len(buf) == 0 || len(buf)%8 != 0 {
			return 0, usbtransport.ErrInvalid
		}
		if err := b.await(ctx, func() bool { return len(b.interrupts) > 0 || i.gone }); err != nil {
			return 0, err
		}
		if i.gone {
			return 0, i.state(context.Background())
		}
		n := copy(buf, b.interrupts[0])
		switch {
		case b.has("interrupts come twice") && buf[1]%2 == 1:
			buf[1]--
		case b.has("only the last interrupt is kept"):
			n = copy(buf, b.interrupts[len(b.interrupts)-1])
		}
		b.interrupts = b.interrupts[1:]
		return n, nil
	})
}

func (i *fakeInterface) ClearHalt(ctx context.Context, endpoint uint8) error {
	_, err := i.call(ctx, "clear halt", endpoint, func(context.Context) (int, error) {
		b := i.bus
		if endpoint != fakeOut && endpoint != fakeIn && endpoint != fakeInterruptIn {
			return 0, usbtransport.ErrInvalid
		}
		if b.has("clear halt resets one side") {
			b.outOfStep[endpoint] = true
		}
		if !b.has("clear halt does nothing") {
			b.halted[endpoint] = false
		}
		return 0, nil
	})
	return err
}

func (i *fakeInterface) Reset(ctx context.Context) error {
	_, err := i.call(ctx, "reset", 0, func(context.Context) (int, error) {
		b := i.bus
		if b.has("a reset loses the interface") {
			b.claimed, i.gone = nil, true
		}
		if !b.has("a reset leaves transfers") {
			// Whoever waits is ended as by a halt, which does not outlast the reset.
			b.halted[fakeIn] = true
			b.notify()
			b.mu.Unlock()
			time.Sleep(5 * time.Millisecond)
			b.mu.Lock()
			b.halted[fakeIn] = false
		}
		return 0, nil
	})
	return err
}

func (i *fakeInterface) Close() error {
	b := i.bus
	b.mu.Lock()
	first := !i.closed
	i.closed = true
	if b.claimed == i && !b.has("Close keeps the interface") {
		b.claimed = nil
	}
	b.notify()
	b.mu.Unlock()
	i.stop()
	if !b.has("Close leaves waiters") && !b.has("contexts are ignored") {
		i.calls.Wait()
	}
	if !first && b.has("a second Close fails") {
		return usbtransport.ErrClosed
	}
	return nil
}

func (b *fakeBus) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return nil, &usbtransport.Error{Op: "watch", Kind: usbtransport.ContextKind(ctx)}
	}
	w := &fakeWatcher{bus: b}
	present := b.others()
	if b.plugged && !b.has("a watch starts with nothing") {
		present = append(present, b.info())
	}
	for _, d := range present {
		w.events = append(w.events, usbtransport.Event{Kind: usbtransport.Arrived, Device: d})
	}
	if b.has("a device arrives twice") {
		w.events = append(w.events, w.events...)
	}
	b.watchers = append(b.watchers, w)
	return w, nil
}

type fakeWatcher struct {
	bus    *fakeBus
	events []usbtransport.Event
	ghosts int // cancelled waits that take an event all the same
	closed bool
}

func (w *fakeWatcher) Next(ctx context.Context) (usbtransport.Event, error) {
	b := w.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	fail := func(kind error) (usbtransport.Event, error) {
		return usbtransport.Event{}, &usbtransport.Error{Op: "watch", Kind: kind}
	}
	if w.closed {
		return fail(usbtransport.ErrClosed)
	}
	if ctx.Err() != nil {
		return fail(usbtransport.ContextKind(ctx))
	}
	err := b.await(ctx, func() bool { return len(w.events) > 0 || w.closed && !b.has("a watcher's Close leaves waiters") })
	switch {
	case w.closed:
		return fail(usbtransport.ErrClosed)
	case err != nil:
		if b.has("a cancelled wait loses an event") {
			w.ghosts = 1
		}
		return fail(usbtransport.ContextKind(ctx))
	}
	event := w.events[0]
	w.events = w.events[1:]
	return event, nil
}

func (w *fakeWatcher) Close() error {
	b := w.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	w.closed = true
	b.watchers = slices.DeleteFunc(b.watchers, func(other *fakeWatcher) bool { return other == w })
	b.notify()
	return nil
}
