//go:build libusb

package libusb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/gousb"

	"github.com/goccid/goccid/usbtransport"
)

// scanInterval is how often a watcher without the help of the system lists the devices.
const scanInterval = 500 * time.Millisecond

// errHub is why a hub has no Descriptors.
var errHub = errors.New("hubs are not opened")

// scanner lists and watches devices with nothing but libusb: the system for where we know no better.
type scanner struct {
	backend *Backend

	// mu protects the fields below, and is held while devices are listed.
	mu sync.Mutex
	// known holds what the last list had, by place. A device whose descriptors could be read is not opened again.
	known map[place]usbtransport.DeviceInfo
	// count numbers the plug-ins that were seen: an address alone comes back.
	count uint64
}

// place is what libusb tells devices apart by.
type place struct {
	bus, address    int
	vendor, product gousb.ID
	path            string
	version         gousb.BCD
}

func newScanner(b *Backend) *scanner {
	return &scanner{backend: b, known: make(map[place]usbtransport.DeviceInfo)}
}

func (s *scanner) devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.backend.join()
	if err != nil {
		return nil, &usbtransport.Error{Op: "devices", Kind: usbtransport.ErrClosed}
	}
	defer s.backend.leave(session)
	var present []*gousb.DeviceDesc
	// An error is about single devices, which are left out, unless there is nothing else.
	_, err = openDevices(session.context, func(d *gousb.DeviceDesc) bool {
		present = append(present, d)
		return false
	})
	if err != nil && len(present) == 0 {
		return nil, &usbtransport.Error{Op: "devices", Kind: kindOf(err), Cause: err}
	}

	known := make(map[place]usbtransport.DeviceInfo, len(present))
	devices := make([]usbtransport.DeviceInfo, 0, len(present))
	for _, d := range present {
		if ctx.Err() != nil {
			return nil, &usbtransport.Error{Op: "devices", Kind: usbtransport.ContextKind(ctx)}
		}
		at := place{bus: d.Bus, address: d.Address, vendor: d.Vendor, product: d.Product, path: portPath(d), version: d.Device}
		info, seen := s.known[at]
		if !seen {
			s.count++
			info = usbtransport.DeviceInfo{
				Key: fmt.Sprintf("%s/%d/%d", at.path, d.Address, s.count),
				Bus: d.Bus, Address: d.Address, PortPath: at.path,
				IDVendor: uint16(d.Vendor), IDProduct: uint16(d.Product), BCDDevice: uint16(d.Device),
			}
		}
		if info.Descriptors == nil {
			s.describe(session, d, &info)
		}
		known[at] = info
		devices = append(devices, info)
	}
	s.known = known
	slices.SortFunc(devices, func(a, b usbtransport.DeviceInfo) int {
		return cmp.Or(cmp.Compare(a.Bus, b.Bus), cmp.Compare(len(a.PortPath), len(b.PortPath)), strings.Compare(a.PortPath, b.PortPath))
	})
	return devices, nil
}

// describe opens a device to read its descriptors and strings.
func (s *scanner) describe(session *session, d *gousb.DeviceDesc, info *usbtransport.DeviceInfo) {
	if d.Class == gousb.ClassHub {
		info.Unreadable = errHub
		return
	}
	device, err := session.open(*info)
	if device == nil {
		info.Unreadable = openError(*info, kindOf(err), err)
		return
	}
	defer device.Close()
	device.ControlTimeout = requestTimeout
	active, err := device.ActiveConfigNum()
	if err == nil {
		info.Descriptors, err = readDescriptors(device, active)
	}
	info.Unreadable = nil
	if err != nil {
		info.Unreadable = openError(*info, kindOf(err), err)
		return
	}
	// A device without strings, or one that doesn't give them, is usable all the same.
	info.Manufacturer, _ = device.Manufacturer()
	info.Product, _ = device.Product()
	info.SerialNumber, _ = device.SerialNumber()
}

func portPath(d *gousb.DeviceDesc) string {
	if len(d.Path) == 0 {
		return "usb" + strconv.Itoa(d.Bus)
	}
	ports := make([]string, len(d.Path))
	for i, p := range d.Path {
		ports[i] = strconv.Itoa(p)
	}
	return strconv.Itoa(d.Bus) + "-" + strings.Join(ports, ".")
}

func (s *scanner) explain(_ context.Context, _ usbtransport.DeviceInfo, _ uint8, err error) error {
	return err
}

func (s *scanner) watch(ctx context.Context) (usbtransport.Watcher, error) {
	w := &scanWatcher{list: s.devices, closed: make(chan struct{}), turn: make(chan struct{}, 1)}
	if err := w.scan(ctx); err != nil {
		return nil, &usbtransport.Error{Op: "watch", Kind: kindOf(err), Cause: err}
	}
	return w, nil
}

// scanWatcher is a usbtransport.Watcher that compares one list of devices with the next. It has no goroutine: Next waits and looks.
type scanWatcher struct {
	list   func(context.Context) ([]usbtransport.DeviceInfo, error)
	closed chan struct{}
	once   sync.Once

	// turn is held by the Next that looks; a channel, so that a context ends the wait for it.
	turn chan struct{}
	// known and queue belong to who has the turn.
	known []usbtransport.DeviceInfo
	queue []usbtransport.Event
}

// scan compares what is known with what is there.
func (w *scanWatcher) scan(ctx context.Context) error {
	present, err := w.list(ctx)
	if err != nil {
		return err
	}
	for _, old := range w.known {
		if !slices.ContainsFunc(present, func(d usbtransport.DeviceInfo) bool { return d.Key == old.Key }) {
			w.queue = append(w.queue, usbtransport.Event{Kind: usbtransport.Removed, Device: old})
		}
	}
	for _, d := range present {
		i := slices.IndexFunc(w.known, func(old usbtransport.DeviceInfo) bool { return d.Key == old.Key })
		switch {
		case i < 0:
			w.queue = append(w.queue, usbtransport.Event{Kind: usbtransport.Arrived, Device: d})
		case w.known[i].Descriptors == nil && d.Descriptors != nil:
			w.queue = append(w.queue, usbtransport.Event{Kind: usbtransport.Changed, Device: d})
		}
	}
	w.known = present
	return nil
}

func (w *scanWatcher) Next(ctx context.Context) (usbtransport.Event, error) {
	if w.isClosed() {
		return usbtransport.Event{}, watchError(usbtransport.ErrClosed, nil)
	}
	if ctx.Err() != nil {
		return usbtransport.Event{}, watchError(usbtransport.ContextKind(ctx), nil)
	}
	select {
	case w.turn <- struct{}{}:
	case <-w.closed:
		return usbtransport.Event{}, watchError(usbtransport.ErrClosed, nil)
	case <-ctx.Done():
		return usbtransport.Event{}, watchError(usbtransport.ContextKind(ctx), nil)
	}
	defer func() { <-w.turn }()
	for len(w.queue) == 0 {
		tick := time.NewTimer(scanInterval)
		select {
		case <-w.closed:
			tick.Stop()
			return usbtransport.Event{}, watchError(usbtransport.ErrClosed, nil)
		case <-ctx.Done():
			tick.Stop()
			return usbtransport.Event{}, watchError(usbtransport.ContextKind(ctx), nil)
		case <-tick.C:
		}
		if err := w.scan(ctx); err != nil && ctx.Err() == nil {
			return usbtransport.Event{}, watchError(kindOf(err), err)
		}
	}
	event := w.queue[0]
	w.queue = slices.Delete(w.queue, 0, 1)
	return event, nil
}

func (w *scanWatcher) isClosed() bool {
	select {
	case <-w.closed:
		return true
	default:
		return false
	}
}

func (w *scanWatcher) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

func watchError(kind, cause error) error {
	return &usbtransport.Error{Op: "watch", Kind: kind, Cause: cause}
}
