//go:build libusb

package libusb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/google/gousb"
	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport"
)

// Backend is a usbtransport.Backend over libusb.
type Backend struct {
	log    logrus.FieldLogger
	system system

	// mu protects the fields below.
	mu sync.Mutex
	// current is the session in which devices are opened.
	current  *session
	isClosed bool
}

// system is what differs between operating systems: how devices are listed and watched. usbtransport.Backend has the rules.
type system interface {
	devices(ctx context.Context) ([]usbtransport.DeviceInfo, error)
	watch(ctx context.Context) (usbtransport.Watcher, error)
	// explain says more of why an interface can't be opened, if the system knows, and may notice who was refused. A nil
	// error says that it could be opened now.
	explain(ctx context.Context, device usbtransport.DeviceInfo, number uint8, err error) error
}

// session is a libusb context with its event goroutine. It ends when nobody uses it any more.
type session struct {
	context *gousb.Context
	users   int
}

var _ usbtransport.Backend = (*Backend)(nil)

// New initialises libusb. Errors are *usbtransport.Error values of the operation "init". The backend must be closed.
func New(options Options) (*Backend, error) {
	log := options.Logger
	if log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		log = discard
	}
	b := &Backend{log: log}
	b.system = newSystem(b, log)
	first, err := newSession()
	if err != nil {
		return nil, err
	}
	b.current = first
	return b, nil
}

// newSession starts libusb. gousb panics when libusb can't be initialised, which only says that this machine has no USB, or that
// this process may not have it.
func newSession() (s *session, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = &usbtransport.Error{Op: "init", Kind: usbtransport.ErrNotSupported, Cause: fmt.Errorf("libusb: %v", cause)}
		}
	}()
	return &session{context: gousb.NewContext(), users: 1}, nil
}

// Name returns "libusb".
func (b *Backend) Name() string { return "libusb" }

// Devices implements usbtransport.Backend. Where the system keeps descriptors from those who have not opened a device,
// each is opened for a moment.
func (b *Backend) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	if ctx.Err() != nil {
		return nil, &usbtransport.Error{Op: "devices", Kind: usbtransport.ContextKind(ctx)}
	}
	return b.system.devices(ctx)
}

// Watch implements usbtransport.Backend: with the kernel's uevents on Linux; elsewhere the list of devices is read
// twice a second.
func (b *Backend) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	if ctx.Err() != nil {
		return nil, &usbtransport.Error{Op: "watch", Kind: usbtransport.ContextKind(ctx)}
	}
	return b.system.watch(ctx)
}

// Open implements usbtransport.Backend. Kernel drivers are not detached.
func (b *Backend) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	if ctx.Err() != nil {
		return nil, openError(device, usbtransport.ContextKind(ctx), nil)
	}
	type result struct {
		opened *claimed
		err    error
	}
	results := make(chan result, 1)
	go func() {
		opened, err := b.open(ctx, device, number)
		results <- result{opened, err}
	}()
	select {
	case r := <-results:
		if r.err != nil {
			return nil, r.err
		}
		return r.opened, nil
	case <-ctx.Done():
		go func() {
			if r := <-results; r.opened != nil {
				r.opened.Close()
			}
		}()
		return nil, openError(device, usbtransport.ContextKind(ctx), nil)
	}
}

func (b *Backend) open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (*claimed, error) {
	if err := b.stillThere(ctx, device); err != nil {
		return nil, err
	}
	opened, err := b.openNow(device, number)
	if err == nil {
		if err := b.stillThere(ctx, device); err != nil {
			opened.Close()
			return nil, err
		}
		return opened, nil
	}
	if !errors.Is(err, usbtransport.ErrBusy) && !errors.Is(err, usbtransport.ErrPermission) {
		return nil, err
	}
	if explained := b.system.explain(ctx, device, number, err); explained != nil {
		return nil, explained
	}
	return b.openNow(device, number) // the holder has left meanwhile
}

// stillThere checks that the device is the plug-in that the caller means.
func (b *Backend) stillThere(ctx context.Context, device usbtransport.DeviceInfo) error {
	devices, err := b.system.devices(ctx)
	if err != nil {
		return openError(device, kindOf(err), err)
	}
	for _, d := range devices {
		if d.Key == device.Key && d.PortPath == device.PortPath {
			return nil
		}
	}
	return openError(device, usbtransport.ErrRemoved, nil)
}

// openNow opens the device at the bus and address and claims the interface.
func (b *Backend) openNow(device usbtransport.DeviceInfo, number uint8) (*claimed, error) {
	opened, s, err := b.find(device)
	if err != nil {
		return nil, err
	}
	c, err := claimInterface(opened, device, number)
	if err != nil {
		opened.Close()
		b.leave(s)
		return nil, err
	}
	c.leave = func() { b.leave(s) }
	return c, nil
}

// find opens a device, in a new session if the current one does not know it: a libusb that was built to be told of
// devices by udevd knows only those that were there when it was initialised, where no udevd runs.
func (b *Backend) find(device usbtransport.DeviceInfo) (*gousb.Device, *session, error) {
	for range 2 {
		s, err := b.join()
		if err != nil {
			return nil, nil, err
		}
		opened, err := s.open(device)
		if opened != nil {
			return opened, s, nil
		}
		b.leave(s)
		if err != nil {
			return nil, nil, openError(device, kindOf(err), err)
		}
		if err := b.renew(s); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, openError(device, usbtransport.ErrRemoved, errors.New("libusb does not list it"))
}

// open opens the device with a bus and an address; nil where libusb has none there.
func (s *session) open(device usbtransport.DeviceInfo) (*gousb.Device, error) {
	found := false
	opened, err := openDevices(s.context, func(d *gousb.DeviceDesc) bool {
		match := !found && d.Bus == device.Bus && d.Address == device.Address && uint16(d.Vendor) == device.IDVendor && uint16(d.Product) == device.IDProduct
		found = found || match
		return match
	})
	if len(opened) > 0 {
		return opened[0], nil
	}
	if !found {
		return nil, nil // err may be about any device
	}
	return nil, err
}

// openDevices is gousb's OpenDevices without its panic on a device behind more hubs than USB allows.
func openDevices(c *gousb.Context, choose func(*gousb.DeviceDesc) bool) (opened []*gousb.Device, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("gousb: %v", cause)
		}
	}()
	return c.OpenDevices(choose)
}

// join returns the current session, to be left.
func (b *Backend) join() (*session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isClosed {
		return nil, &usbtransport.Error{Op: "open", Kind: usbtransport.ErrClosed}
	}
	b.current.users++
	return b.current, nil
}

// leave ends a session when its last user leaves. gousb takes up to 0.1 s for that.
func (b *Backend) leave(s *session) {
	b.mu.Lock()
	s.users--
	last := s.users == 0
	b.mu.Unlock()
	if last {
		if err := s.context.Close(); err != nil {
			b.log.WithError(err).Debug("libusb: context not closed")
		}
	}
}

// renew replaces the current session, if it still is the one that is stale.
func (b *Backend) renew(stale *session) error {
	fresh, err := newSession()
	if err != nil {
		return err
	}
	b.mu.Lock()
	unwanted := fresh
	if b.current == stale && !b.isClosed {
		b.current, unwanted = fresh, stale
	}
	b.mu.Unlock()
	b.leave(unwanted)
	return nil
}

// Close ends libusb's event handling, as soon as all interfaces are closed too. It may be called repeatedly.
func (b *Backend) Close() error {
	b.mu.Lock()
	first := !b.isClosed
	b.isClosed = true
	b.mu.Unlock()
	if first {
		b.leave(b.current)
	}
	return nil
}

func openError(device usbtransport.DeviceInfo, kind, cause error) error {
	return &usbtransport.Error{Op: "open", Device: device.PortPath, Kind: kind, Cause: cause}
}

// kindOf maps an error of libusb or gousb to a kind.
func kindOf(err error) error {
	for _, m := range []struct{ from, to error }{
		{gousb.ErrorNoDevice, usbtransport.ErrRemoved},
		{gousb.TransferNoDevice, usbtransport.ErrRemoved},
		{gousb.ErrorPipe, usbtransport.ErrStalled},
		{gousb.TransferStall, usbtransport.ErrStalled},
		{gousb.ErrorOverflow, usbtransport.ErrOverflow},
		{gousb.TransferOverflow, usbtransport.ErrOverflow},
		{gousb.ErrorBusy, usbtransport.ErrBusy},
		{gousb.ErrorAccess, usbtransport.ErrPermission},
		{gousb.ErrorNotSupported, usbtransport.ErrNotSupported},
		{gousb.ErrorInvalidParam, usbtransport.ErrInvalid},
	} {
		if errors.Is(err, m.from) {
			return m.to
		}
	}
	return usbtransport.ErrIO
}
