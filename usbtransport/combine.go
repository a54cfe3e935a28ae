package usbtransport

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Combined is several backends as one. A device's Key is that of its backend behind the backend's index; Bus, Address
// and PortPath are what the backend says, so two devices of different backends can have the same.
//
// Each Watcher has one goroutine for each backend, which holds at most one event that nobody has read yet; they end with
// the Watcher's Close.
type Combined struct {
	backends []Backend

	mu       sync.Mutex
	watchers map[*combinedWatcher]struct{}
}

var _ Backend = (*Combined)(nil)

// Combine makes one backend of several; of none, too, and then it has no devices.
func Combine(backends ...Backend) *Combined {
	return &Combined{backends: slices.Clone(backends), watchers: map[*combinedWatcher]struct{}{}}
}

// Name returns the names of the backends, joined by "+".
func (c *Combined) Name() string {
	names := make([]string, len(c.backends))
	for i, b := range c.backends {
		names[i] = b.Name()
	}
	return strings.Join(names, "+")
}

// Devices implements Backend: the devices of all backends, by bus. When a backend fails, those of the others are returned
// beside the error.
func (c *Combined) Devices(ctx context.Context) ([]DeviceInfo, error) {
	found := make([][]DeviceInfo, len(c.backends))
	err := c.each(func(i int) (err error) {
		found[i], err = c.list(ctx, i)
		return err
	})
	devices := slices.Concat(found...)
	slices.SortStableFunc(devices, func(x, y DeviceInfo) int { return cmp.Compare(x.Bus, y.Bus) })
	return devices, err
}

// list asks one backend for its devices.
func (c *Combined) list(ctx context.Context, i int) ([]DeviceInfo, error) {
	if ctx.Err() != nil {
		return nil, &Error{Op: "enumerate", Kind: ContextKind(ctx)}
	}
	found, err := c.backends[i].Devices(ctx)
	if err != nil {
		return nil, err
	}
	devices := make([]DeviceInfo, len(found))
	for k, d := range found {
		devices[k] = outer(i, d)
	}
	return devices, nil
}

// each has f ask all backends, given by their index, side by side: one of them may be a server that does not answer.
func (c *Combined) each(f func(i int) error) error {
	errs := make([]error, len(c.backends))
	var asked sync.WaitGroup
	for i := range c.backends {
		asked.Go(func() { errs[i] = f(i) })
	}
	asked.Wait()
	return errors.Join(errs...)
}

// Open implements Backend.
func (c *Combined) Open(ctx context.Context, device DeviceInfo, number uint8) (Interface, error) {
	i, key, ok := innerKey(device.Key)
	if !ok || i >= len(c.backends) {
		return nil, &Error{Op: "open", Device: device.PortPath, Kind: ErrRemoved}
	}
	device.Key = key
	opened, err := c.backends[i].Open(ctx, device, number)
	if err != nil {
		return nil, err
	}
	return combinedInterface{Interface: opened, backend: i}, nil
}

// Watch implements Backend. When the watch of one backend ends with an error, that of the others goes on; Next returns the
// errors when none is left.
func (c *Combined) Watch(ctx context.Context) (Watcher, error) {
	if ctx.Err() != nil {
		return nil, &Error{Op: "watch", Kind: ContextKind(ctx)}
	}
	w := &combinedWatcher{
		of: c, events: make(chan Event), failed: make(chan struct{}), closed: make(chan struct{}),
		known: map[string]DeviceInfo{}, wake: make(chan struct{}),
	}
	for _, b := range c.backends {
		inner, err := b.Watch(ctx)
		if err != nil {
			return nil, errors.Join(err, w.closeInner())
		}
		w.inner = append(w.inner, inner)
	}
	w.start()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[w] = struct{}{}
	return w, nil
}

// Rescan asks all backends for their devices, for the case that a watch misses something, as in a container that gets
// no events from the kernel. Watchers report the difference to what they have reported, and Changed for each device that is there,
// so that what could not be opened is tried again; for each backend when it has answered. Nothing changes for the devices of a
// backend that fails.
func (c *Combined) Rescan(ctx context.Context) error {
	c.mu.Lock()
	watchers := make([]*combinedWatcher, 0, len(c.watchers))
	for w := range c.watchers {
		watchers = append(watchers, w)
	}
	c.mu.Unlock()
	var errs []error
	for _, w := range watchers {
		before := w.snapshot()
		errs = append(errs, c.each(func(i int) error {
			devices, err := c.list(ctx, i)
			if err == nil {
				w.found(i, of(i, before), devices)
			}
			return err
		}))
	}
	return errors.Join(errs...)
}

// of returns the devices of one backend.
func of(backend int, devices []DeviceInfo) []DeviceInfo {
	var list []DeviceInfo
	for _, d := range devices {
		if i, _, _ := innerKey(d.Key); i == backend {
			list = append(list, d)
		}
	}
	return list
}

// outer is a device of backend i as others see it.
func outer(i int, d DeviceInfo) DeviceInfo {
	d.Key = strconv.Itoa(i) + ":" + d.Key
	return d
}

// innerKey splits the Key of a device that outer has returned.
func innerKey(key string) (backend int, rest string, ok bool) {
	index, rest, _ := strings.Cut(key, ":")
	backend, err := strconv.Atoi(index)
	return backend, rest, err == nil && backend >= 0
}

// combinedInterface is an interface of one of the backends.
type combinedInterface struct {
	Interface
	backend int
}

// Device returns what is known of the device, with the Key that Combined gives it.
func (i combinedInterface) Device() DeviceInfo { return outer(i.backend, i.Interface.Device()) }

// combinedWatcher merges the events of its backends' watchers. A rescan's events go the same way, and what they tell twice
// is left out when it is read.
type combinedWatcher struct {
	of     *Combined
	inner  []Watcher
	pumps  sync.WaitGroup
	events chan Event    // from the pumps
	failed chan struct{} // closed when the last pump has ended by itself
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	running int                   // pumps
	errs    []error               // of pumps that have ended by themselves
	rescan  []Event               // to be returned before those of the pumps
	known   map[string]DeviceInfo // reported as arrived and not as removed, by Key
	// gone has the keys that were reported as removed since the last snapshot: a rescan may still know them.
	gone map[string]bool
	// wake is closed, and replaced, when rescan has got something.
	wake chan struct{}
}

// start starts the pumps.
func (w *combinedWatcher) start() {
	w.running = len(w.inner)
	for i, inner := range w.inner {
		w.pumps.Go(func() { w.pump(i, inner) })
	}
}

// pump hands on the events of one backend. Close ends it.
func (w *combinedWatcher) pump(i int, inner Watcher) {
	for {
		e, err := inner.Next(context.Background())
		if err != nil {
			w.ended(err)
			return
		}
		e.Device = outer(i, e.Device)
		select {
		case w.events <- e:
		case <-w.closed:
			return
		}
	}
}

func (w *combinedWatcher) ended(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
	if w.running--; w.running == 0 {
		close(w.failed)
	}
}

// Next implements Watcher.
func (w *combinedWatcher) Next(ctx context.Context) (Event, error) {
	for {
		select {
		case <-w.closed:
			return Event{}, &Error{Op: "watch", Kind: ErrClosed}
		default:
		}
		if ctx.Err() != nil {
			return Event{}, &Error{Op: "watch", Kind: ContextKind(ctx)}
		}
		e, ok, wake := w.rescanned()
		if !ok {
			select {
			case e = <-w.events:
				ok = true
			case <-wake:
			case <-w.failed:
				return Event{}, w.failure()
			case <-w.closed:
			case <-ctx.Done():
			}
		}
		if ok && w.news(&e) {
			return e, nil
		}
	}
}

func (w *combinedWatcher) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.errs...)
}

// rescanned takes the next event of a rescan, or returns what to wait for.
func (w *combinedWatcher) rescanned() (e Event, ok bool, wake <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rescan) == 0 {
		return Event{}, false, w.wake
	}
	e = w.rescan[0]
	w.rescan = w.rescan[1:]
	return e, true, nil
}

// news keeps account of what is reported, and tells whether the event is worth it: an arrival that is known already becomes a
// change, a removal that is known already is left out.
func (w *combinedWatcher) news(e *Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := e.Device.Key
	_, known := w.known[key]
	switch {
	case e.Kind == Removed:
		delete(w.known, key)
		if w.gone != nil {
			w.gone[key] = true
		}
		return known
	case w.gone[key]:
		// Keys are never used again: this is a rescan that came too late.
		return false
	case known:
		e.Kind = Changed
	default:
		e.Kind = Arrived
	}
	w.known[key] = e.Device
	return true
}

// snapshot returns what is known now, and starts to note what goes.
func (w *combinedWatcher) snapshot() []DeviceInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = map[string]bool{}
	list := make([]DeviceInfo, 0, len(w.known))
	for _, d := range w.known {
		list = append(list, d)
	}
	slices.SortFunc(list, func(x, y DeviceInfo) int { return cmp.Compare(x.Key, y.Key) })
	return list
}

// found takes what a rescan that began with a snapshot has found at one backend. A device that was known before and is not there now
// is gone.
func (w *combinedWatcher) found(backend int, before, now []DeviceInfo) {
	present := map[string]bool{}
	for _, d := range now {
		present[d.Key] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// What an earlier rescan has found there is old.
	w.rescan = slices.DeleteFunc(w.rescan, func(e Event) bool {
		i, _, _ := innerKey(e.Device.Key)
		return i == backend
	})
	for _, d := range before {
		if !present[d.Key] {
			w.rescan = append(w.rescan, Event{Kind: Removed, Device: d})
		}
	}
	for _, d := range now {
		w.rescan = append(w.rescan, Event{Kind: Changed, Device: d})
	}
	close(w.wake)
	w.wake = make(chan struct{})
}

// Close implements Watcher.
func (w *combinedWatcher) Close() error {
	var err error
	w.once.Do(func() {
		w.of.mu.Lock()
		delete(w.of.watchers, w)
		w.of.mu.Unlock()
		close(w.closed)
		err = w.closeInner()
		w.pumps.Wait()
	})
	return err
}

func (w *combinedWatcher) closeInner() error {
	errs := make([]error, len(w.inner))
	for i, inner := range w.inner {
		errs[i] = inner.Close()
	}
	return errors.Join(errs...)
}
