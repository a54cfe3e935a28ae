package virtual

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/goccid/goccid/usbtransport"
)

// Bus is a USB bus in memory: a usbtransport.Backend for devices that are software. All methods may be called from
// several goroutines at once.
type Bus struct {
	mu       sync.Mutex
	plugs    map[int]*plug  // by port
	ports    map[Device]int // where each device was plugged in last
	keys     int            // Keys given so far
	address  int            // the last Address given
	watchers map[*watcher]struct{}
	fault    FaultFunc
	count    int // transfers since Inject
}

var _ usbtransport.Backend = (*Bus)(nil)

const (
	busNumber  = 1
	maxAddress = 127
)

// NewBus makes a bus with nothing plugged in.
func NewBus() *Bus {
	return &Bus{plugs: map[int]*plug{}, ports: map[Device]int{}, watchers: map[*watcher]struct{}{}}
}

// Name implements usbtransport.Backend.
func (b *Bus) Name() string { return "virtual" }

// Plug plugs a device in: into the port it was in last, if that is free, else into the first free one. A device can be in
// one port at a time.
func (b *Bus) Plug(d Device) (usbtransport.DeviceInfo, error) {
	b.mu.Lock()
	port, known := b.ports[d]
	if _, taken := b.plugs[port]; !known || taken {
		port = b.freePort()
	}
	b.mu.Unlock()
	return b.PlugAt(d, port)
}

// freePort wants mu held.
func (b *Bus) freePort() int {
	for port := 1; ; port++ {
		if _, taken := b.plugs[port]; !taken {
			return port
		}
	}
}

// PlugAt plugs a device into a port, numbered from 1.
func (b *Bus) PlugAt(d Device, port int) (usbtransport.DeviceInfo, error) {
	info := d.Describe()
	p, err := newPlug(b, d, info)
	if err != nil {
		return usbtransport.DeviceInfo{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case port < 1:
		return usbtransport.DeviceInfo{}, fmt.Errorf("virtual: port %d: ports count from 1", port)
	case b.plugs[port] != nil:
		return usbtransport.DeviceInfo{}, fmt.Errorf("virtual: port %d is taken", port)
	case len(b.plugs) == maxAddress:
		return usbtransport.DeviceInfo{}, fmt.Errorf("virtual: the bus has %d devices", maxAddress)
	}
	for other, q := range b.plugs {
		if q.device == d {
			return usbtransport.DeviceInfo{}, fmt.Errorf("virtual: the device is in port %d already", other)
		}
	}
	b.keys++
	p.info.Key = fmt.Sprintf("virtual-%d", b.keys)
	p.info.Bus, p.info.Address = busNumber, b.nextAddress()
	p.info.PortPath = fmt.Sprintf("%d-%d", busNumber, port)
	b.plugs[port], b.ports[d] = p, port
	// Attached before anybody can know of it; a device sends, and does not call the bus.
	d.Attach(&Port{plug: p})
	b.announce(usbtransport.Event{Kind: usbtransport.Arrived, Device: p.describe()})
	return p.describe(), nil
}

// nextAddress wants mu held.
func (b *Bus) nextAddress() int {
	for {
		b.address = b.address%maxAddress + 1
		taken := false
		for _, p := range b.plugs {
			taken = taken || p.info.Address == b.address
		}
		if !taken {
			return b.address
		}
	}
}

// Unplug takes a device out. When it returns, every call that waited for the device has been woken, and no goroutine of
// the device is left. A device that is not plugged in is left alone.
func (b *Bus) Unplug(d Device) {
	b.mu.Lock()
	for port, p := range b.plugs {
		if p.device == d {
			delete(b.plugs, port)
			b.mu.Unlock()
			b.remove(p)
			return
		}
	}
	b.mu.Unlock()
}

// unplug takes out one plug-in, if that is still in.
func (b *Bus) unplug(p *plug) {
	b.mu.Lock()
	for port, q := range b.plugs {
		if p == q {
			delete(b.plugs, port)
			b.mu.Unlock()
			b.remove(p)
			return
		}
	}
	b.mu.Unlock()
}

func (b *Bus) remove(p *plug) {
	p.remove()
	b.mu.Lock()
	b.announce(usbtransport.Event{Kind: usbtransport.Removed, Device: p.describe()})
	b.mu.Unlock()
	p.device.Detach()
}

// Inject sets what decides about faults from now on, and starts to count transfers from 0; nil ends all faults.
func (b *Bus) Inject(f FaultFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault, b.count = f, 0
}

// Transfers tells how many transfers have begun since the last Inject.
func (b *Bus) Transfers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// judge counts a transfer and asks for its fault, of whom the device and the data are copies. A transfer to a device that is not
// there any more never begins.
func (b *Bus) judge(p *plug, t Transfer) (fault Fault, begun bool) {
	b.mu.Lock()
	if !b.holds(p) {
		b.mu.Unlock()
		return Fault{}, false
	}
	f := b.fault
	t.Index = b.count
	b.count++
	b.mu.Unlock()
	if f == nil {
		return Fault{}, true
	}
	t.Device, t.Data = p.describe(), slices.Clone(t.Data)
	return f(t), true
}

// holds reports whether a plug-in is still in. It wants mu held.
func (b *Bus) holds(p *plug) bool {
	for _, q := range b.plugs {
		if p == q {
			return true
		}
	}
	return false
}

// Devices implements usbtransport.Backend.
func (b *Bus) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	if kind := ended(ctx); kind != nil {
		return nil, &usbtransport.Error{Op: "enumerate", Kind: kind}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.present(), nil
}

// present wants mu held.
func (b *Bus) present() []usbtransport.DeviceInfo {
	list := make([]usbtransport.DeviceInfo, 0, len(b.plugs))
	for _, port := range slices.Sorted(maps.Keys(b.plugs)) {
		list = append(list, b.plugs[port].describe())
	}
	return list
}

// Watch implements usbtransport.Backend.
func (b *Bus) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	if kind := ended(ctx); kind != nil {
		return nil, &usbtransport.Error{Op: "watch", Kind: kind}
	}
	w := &watcher{bus: b, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, info := range b.present() {
		w.events = append(w.events, usbtransport.Event{Kind: usbtransport.Arrived, Device: info})
	}
	b.watchers[w] = struct{}{}
	return w, nil
}

// announce wants mu held.
func (b *Bus) announce(e usbtransport.Event) {
	for w := range b.watchers {
		w.events = append(w.events, e)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// watcher implements usbtransport.Watcher. bus.mu guards events.
type watcher struct {
	bus    *Bus
	events []usbtransport.Event
	wake   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Next implements usbtransport.Watcher.
func (w *watcher) Next(ctx context.Context) (usbtransport.Event, error) {
	for {
		select {
		case <-w.closed:
			return usbtransport.Event{}, &usbtransport.Error{Op: "watch", Kind: usbtransport.ErrClosed}
		default:
		}
		if kind := ended(ctx); kind != nil {
			return usbtransport.Event{}, &usbtransport.Error{Op: "watch", Kind: kind}
		}
		if e, ok := w.take(); ok {
			return e, nil
		}
		select {
		case <-w.wake:
		case <-w.closed:
		case <-ctx.Done():
		}
	}
}

func (w *watcher) take() (usbtransport.Event, bool) {
	w.bus.mu.Lock()
	defer w.bus.mu.Unlock()
	if len(w.events) == 0 {
		return usbtransport.Event{}, false
	}
	e := w.events[0]
	w.events = w.events[1:]
	return e, true
}

// Close implements usbtransport.Watcher.
func (w *watcher) Close() error {
	w.once.Do(func() {
		close(w.closed)
		w.bus.mu.Lock()
		delete(w.bus.watchers, w)
		w.bus.mu.Unlock()
	})
	return nil
}

// Open implements usbtransport.Backend.
func (b *Bus) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	fail := func(kind, cause error) (usbtransport.Interface, error) {
		return nil, &usbtransport.Error{Op: "open", Device: device.PortPath, Kind: kind, Cause: cause}
	}
	if kind := ended(ctx); kind != nil {
		return fail(kind, nil)
	}
	b.mu.Lock()
	var p *plug
	for _, q := range b.plugs {
		if q.info.Key == device.Key {
			p = q
		}
	}
	b.mu.Unlock()
	if p == nil {
		return fail(usbtransport.ErrRemoved, nil)
	}
	i, kind, cause := p.claim(number)
	if kind != nil {
		return fail(kind, cause)
	}
	return i, nil
}

// Close unplugs everything and closes the watchers.
func (b *Bus) Close() error {
	b.mu.Lock()
	plugs := slices.Collect(maps.Values(b.plugs))
	watchers := slices.Collect(maps.Keys(b.watchers))
	b.mu.Unlock()
	slices.SortFunc(plugs, func(p, q *plug) int { return cmp.Compare(p.info.PortPath, q.info.PortPath) })
	for _, p := range plugs {
		b.unplug(p)
	}
	for _, w := range watchers {
		_ = w.Close() // never fails
	}
	return nil
}
