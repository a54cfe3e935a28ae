package host

import (
	"context"
	"errors"
	"sync"

	"github.com/goccid/goccid/usbtransport"
)

// Device is one plug-in of a USB device with one or more CCID functions, and holds what they share: the removed state.
// Readers of one device that are opened through one Device learn of its removal together.
type Device struct {
	backend usbtransport.Backend
	info    usbtransport.DeviceInfo

	// present ends, with cause usbtransport.ErrRemoved, when the device is removed. Every transfer hangs on it.
	present context.Context
	remove  context.CancelCauseFunc

	mu      sync.Mutex
	removed bool
	// onRemoved has what is to be done at removal, by reader.
	onRemoved map[*Reader]func()
}

// NewDevice returns the device described by info, which backend found. It does no I/O.
func NewDevice(backend usbtransport.Backend, info usbtransport.DeviceInfo) *Device {
	present, remove := context.WithCancelCause(context.Background())
	return &Device{backend: backend, info: info, present: present, remove: remove, onRemoved: map[*Reader]func(){}}
}

// Info returns what is known of the device.
func (d *Device) Info() usbtransport.DeviceInfo { return d.info }

// Functions returns the CCID functions of the device, see the function Functions.
func (d *Device) Functions() ([]Function, error) { return Functions(d.info) }

// SetRemoved puts the device into the removed state, which is final: from now on every call on its readers, waiting or
// new, returns an error that is usbtransport.ErrRemoved and touches USB no more. It returns at once and may be called
// at any time, repeatedly.
func (d *Device) SetRemoved() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return
	}
	d.removed = true
	for _, f := range d.onRemoved {
		f()
	}
	clear(d.onRemoved)
	d.remove(usbtransport.ErrRemoved)
}

// Removed reports whether the device is in the removed state.
func (d *Device) Removed() bool { return d.present.Err() != nil }

// Done is closed when the device is removed.
func (d *Device) Done() <-chan struct{} { return d.present.Done() }

// PowerLost says that the device's port was reset, or that it went without power and came back as it was, as after a resume:
// the cards of all readers opened through it need PowerOn again. They count as the same cards, not as taken out and put in.
// A recovery that resets the port calls it, and a transfer that somebody else's reset has ended; whoever else learns of such an
// event may. It returns at once.
func (d *Device) PowerLost() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for r := range d.onRemoved {
		for _, s := range r.slots {
			s.reset()
		}
	}
}

// attach makes f part of the removal, or reports that it is too late. f must not block.
func (d *Device) attach(r *Reader, f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return false
	}
	d.onRemoved[r] = f
	return true
}

func (d *Device) detach(r *Reader) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.onRemoved, r)
}

// gate is the one way from this package to a device. It lets nothing through to a device that is removed, ends what is
// under way when it is removed, learns of removals from every transfer, and gives one error for all of them.
type gate struct {
	usb    usbtransport.Interface
	device *Device
}

// errRemoved is what every call on a removed device returns.
func (d *Device) errRemoved(op string) error {
	return &usbtransport.Error{Op: op, Device: d.info.PortPath, Kind: usbtransport.ErrRemoved}
}

// bound is the key by which a context tells the device whose removal ends it.
type bound struct{}

// bind returns a context that ends with ctx, and with life, which ends at the device's removal at the latest.
func (d *Device) bind(ctx, life context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithValue(ctx, bound{}, d))
	stop := context.AfterFunc(life, cancel)
	return ctx, func() { stop(); cancel() }
}

// pass runs one operation on the device.
func (g gate) pass(ctx context.Context, op string, f func(context.Context) (int, error)) (int, error) {
	if g.device.Removed() {
		return 0, g.device.errRemoved(op)
	}
	if ctx.Value(bound{}) != g.device {
		var cancel context.CancelFunc
		ctx, cancel = g.device.bind(ctx, g.device.present)
		defer cancel()
	}
	n, err := f(ctx)
	if errors.Is(err, usbtransport.ErrRemoved) {
		g.device.SetRemoved()
	}
	if errors.Is(err, usbtransport.ErrReset) {
		g.device.PowerLost()
	}
	if g.device.Removed() {
		return 0, g.device.errRemoved(op)
	}
	return n, err
}

func (g gate) control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	return g.pass(ctx, "control", func(ctx context.Context) (int, error) { return g.usb.Control(ctx, setup, data) })
}

func (g gate) bulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	return g.pass(ctx, "bulk out", func(ctx context.Context) (int, error) { return g.usb.BulkOut(ctx, endpoint, data) })
}

func (g gate) bulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return g.pass(ctx, "bulk in", func(ctx context.Context) (int, error) { return g.usb.BulkIn(ctx, endpoint, buf) })
}

func (g gate) interruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return g.pass(ctx, "interrupt in", func(ctx context.Context) (int, error) { return g.usb.InterruptIn(ctx, endpoint, buf) })
}

func (g gate) clearHalt(ctx context.Context, endpoint uint8) error {
	_, err := g.pass(ctx, "clear halt", func(ctx context.Context) (int, error) { return 0, g.usb.ClearHalt(ctx, endpoint) })
	return err
}

func (g gate) reset(ctx context.Context) error {
	_, err := g.pass(ctx, "reset", func(ctx context.Context) (int, error) { return 0, g.usb.Reset(ctx) })
	return err
}
