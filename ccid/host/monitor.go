package host

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/usbtransport"
)

// EventKind says what happened to a reader.
type EventKind uint8

// The kinds of an Event.
const (
	// ReaderArrived: a reader was found and opened.
	ReaderArrived EventKind = iota + 1
	// ReaderRemoved: a reader is gone; it is closed.
	ReaderRemoved
	// ReaderUnusable: a reader was found, but can't be opened, at least for now. It is reported once for each reason; the last one,
	// after any other, is usbtransport.ErrRemoved: it is not there any more.
	ReaderUnusable
)

// String returns "arrived", "removed" or "unusable".
func (k EventKind) String() string {
	switch k {
	case ReaderArrived:
		return "arrived"
	case ReaderRemoved:
		return "removed"
	case ReaderUnusable:
		return "unusable"
	}
	return "unknown"
}

// Event is one change of the readers that a Monitor knows.
type Event struct {
	Kind EventKind
	// Reader is the reader that arrived or was removed, nil for ReaderUnusable.
	Reader *Reader
	// Function is the reader's interface.
	Function Function
	// Err is why the reader is unusable.
	Err error
}

// Monitor keeps every reader of a backend open: it opens those that are there and those that arrive, tries again where
// one is not accessible yet or busy, and closes those that are removed. A reader's Number is the lowest that no other
// reader of the Monitor has, but the one that it had before where it comes back to its port within 30 s.
type Monitor struct {
	backend usbtransport.Backend
	log     logrus.FieldLogger
	watcher usbtransport.Watcher

	// life ends when the Monitor is closed.
	life       context.Context
	end        context.CancelFunc
	background sync.WaitGroup

	// handling is held while a device's arrival, removal or change is dealt with. mu may be taken under it.
	handling sync.Mutex

	mu       sync.Mutex
	options  Options               // of readers that are opened from now on
	numbers  map[int]bool          // in use
	kept     map[identity]kept     // numbers of readers that have left
	readers  []*Reader             // open, in the order of arrival
	queue    []Event               // not yet taken by Next
	unusable map[string][]Function // what Next has said so of and not taken back, by device key
	queued   chan struct{}         // has a token while queue may not be empty
	attached map[string]*arrival   // by device key
}

// arrival is one plugged-in device.
type arrival struct {
	device *Device
	// numbers are those of its readers. They are given back when the backend reports the removal: the device's next
	// arrival comes after that, and is to get the same names.
	numbers map[identity]int
	retry   chan struct{} // closed and replaced when another try may succeed; Monitor.mu guards it
	// checking is held while the device's readers are asked whether they are still ours.
	checking sync.Mutex
	// serving counts the goroutines that hold its readers.
	serving sync.WaitGroup
}

// NewMonitor starts to watch the backend. ctx bounds the start only. options are those of each reader; its Number is not
// used.
func NewMonitor(ctx context.Context, backend usbtransport.Backend, options Options) (*Monitor, error) {
	watcher, err := backend.Watch(ctx)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	m := &Monitor{
		backend: backend, options: options, log: options.Logger, watcher: watcher, life: life, end: end,
		numbers: map[int]bool{}, kept: map[identity]kept{}, queued: make(chan struct{}, 1), unusable: map[string][]Function{}, attached: map[string]*arrival{},
	}
	if m.log == nil {
		m.log = discard()
	}
	m.background.Go(m.run)
	m.background.Go(m.watchSleep)
	return m, nil
}

// Next waits for the next event. Events of a reader that came and went before anybody asked are left out. Errors are
// those of usbtransport: ErrCancelled, ErrTimedOut, and ErrClosed after Close.
func (m *Monitor) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := m.take(); ok {
			return e, nil
		}
		select {
		case <-m.queued:
		case <-ctx.Done():
			return Event{}, &usbtransport.Error{Op: "watch", Kind: usbtransport.ContextKind(ctx)}
		case <-m.life.Done():
			return Event{}, &usbtransport.Error{Op: "watch", Kind: usbtransport.ErrClosed}
		}
	}
}

// Readers returns the readers that are open now, in the order of their arrival.
func (m *Monitor) Readers() []*Reader {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.readers)
}

// SetQuirks changes Options.Quirks for the readers that are opened from now on.
func (m *Monitor) SetQuirks(t *quirks.Table) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.options.Quirks = t
}

// Close ends the watch, closes all readers and waits for that. It may be called at any time, repeatedly.
func (m *Monitor) Close() error {
	m.end()
	err := m.watcher.Close()
	m.background.Wait()
	return err
}

func (m *Monitor) take() (Event, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		return Event{}, false
	}
	e := m.queue[0]
	m.queue = slices.Delete(m.queue, 0, 1)
	m.remember(e)
	return e, true
}

// remember keeps in mind which readers have been said to be unusable. m.mu is held.
func (m *Monitor) remember(e Event) {
	key := e.Function.Device.Key
	list := slices.DeleteFunc(m.unusable[key], func(f Function) bool { return f.Interface.Number == e.Function.Interface.Number })
	if e.Kind == ReaderUnusable && !errors.Is(e.Err, usbtransport.ErrRemoved) {
		list = append(list, e.Function)
	}
	if len(list) == 0 {
		delete(m.unusable, key)
		return
	}
	m.unusable[key] = list
}

// takeBack tells that unusable readers of a device that was removed are not there any more.
func (m *Monitor) takeBack(key string) {
	m.mu.Lock()
	list := m.unusable[key]
	delete(m.unusable, key)
	m.mu.Unlock()
	for _, f := range list {
		m.publish(Event{Kind: ReaderUnusable, Function: f, Err: usbtransport.ErrRemoved})
	}
}

// publish queues an event. A removal takes back what its reader's device still has in the queue, so the queue never
// holds more than the readers that are, and those that were when it was last read.
func (m *Monitor) publish(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enqueue(e)
}

// publishUnusable queues why a reader can't be used, unless its device has left meanwhile.
func (m *Monitor) publishUnusable(a *arrival, f Function, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attached[f.Device.Key] == a {
		m.enqueue(Event{Kind: ReaderUnusable, Function: f, Err: why})
	}
}

// enqueue is publish with m.mu held.
func (m *Monitor) enqueue(e Event) {
	if e.Kind == ReaderRemoved {
		before := len(m.queue)
		m.queue = slices.DeleteFunc(m.queue, func(q Event) bool { return q.Reader == e.Reader })
		if len(m.queue) < before {
			return
		}
	}
	m.queue = append(m.queue, e)
	select {
	case m.queued <- struct{}{}:
	default:
	}
}

// run follows the watcher. What takes time is done for each device apart.
func (m *Monitor) run() {
	for {
		e, err := m.watcher.Next(m.life)
		if err != nil {
			if m.life.Err() == nil {
				m.log.Debugf("watching devices ended: %v", err)
			}
			return
		}
		m.handle(e)
	}
}

func (m *Monitor) handle(e usbtransport.Event) {
	m.handling.Lock()
	defer m.handling.Unlock()
	switch e.Kind {
	case usbtransport.Arrived:
		m.arrived(e.Device)
	case usbtransport.Removed:
		m.left(e.Device.Key)
		m.takeBack(e.Device.Key)
	case usbtransport.Changed:
		m.changed(e.Device)
	}
}

func (m *Monitor) arrived(info usbtransport.DeviceInfo) {
	m.left(info.Key)
	a := &arrival{device: NewDevice(m.backend, info), numbers: map[identity]int{}, retry: make(chan struct{})}
	m.mu.Lock()
	m.attached[info.Key] = a
	m.mu.Unlock()
	functions, err := a.device.Functions()
	if err != nil {
		m.log.Debugf("device %v: %v", info, err)
	}
	for _, f := range functions {
		err := f.Unusable
		if err == nil {
			err = m.ignored(f)
		}
		if err != nil {
			m.publishUnusable(a, f, err)
			continue
		}
		// Numbers are given here, in the order of arrival.
		number := m.takeNumber(a, f)
		a.serving.Add(1)
		m.background.Go(func() {
			defer a.serving.Done()
			m.serve(a, f, number)
		})
	}
}

// ignored returns an ErrIgnored for a reader that is to be left alone, as far as its name is known before it is opened. It
// takes no number from others then.
func (m *Monitor) ignored(f Function) error {
	m.mu.Lock()
	o := m.options
	m.mu.Unlock()
	return o.ignored(baseName(f.Device, o, o.Quirks.Lookup(f.QuirkDevice()).Name))
}

func (m *Monitor) left(key string) {
	m.mu.Lock()
	a := m.attached[key]
	delete(m.attached, key)
	if a != nil {
		m.giveNumbers(a)
	}
	m.queue = slices.DeleteFunc(m.queue, func(q Event) bool {
		return q.Kind == ReaderUnusable && q.Function.Device.Key == key
	})
	m.mu.Unlock()
	if a != nil {
		a.device.SetRemoved()
	}
}

// changed has another try made to open what couldn't be. A device that is in the removed state although the backend still has it
// was withdrawn and is given back: the kernel took its authorization or its interfaces, or reset it. It arrives anew.
func (m *Monitor) changed(info usbtransport.DeviceInfo) {
	m.mu.Lock()
	a := m.attached[info.Key]
	if a != nil {
		close(a.retry)
		a.retry = make(chan struct{})
	}
	m.mu.Unlock()
	switch {
	case a == nil:
	case a.device.info.Descriptors == nil:
		m.learned(a, info)
	case info.Descriptors == nil:
		a.device.SetRemoved()
	case a.device.Removed():
		m.arrived(info)
	default:
		m.background.Go(func() { m.check(a) })
	}
}

// learned is told that of a device whose descriptors could not be read. It arrives anew where there is something new: they can be read
// by now, somebody else has given it back, or there is another reason why not.
func (m *Monitor) learned(a *arrival, info usbtransport.DeviceInfo) {
	before := a.device.info.Unreadable
	if info.Descriptors != nil || info.Unreadable != nil && (before == nil || info.Unreadable.Error() != before.Error()) {
		m.arrived(info)
	}
}

// checkWait bounds the question to a reader whether it is still ours.
const checkWait = 5 * time.Second

// check has the readers of a device that do not notify of anything make an exchange, which shows whether the interface was
// withdrawn: those that read an interrupt endpoint know. What was withdrawn is opened anew.
func (m *Monitor) check(a *arrival) {
	if !a.checking.TryLock() {
		return
	}
	defer a.checking.Unlock()
	for _, r := range m.Readers() {
		if r.device != a.device || r.function.Interrupt != nil {
			continue
		}
		_ = withTimeout(m.life, checkWait, func(ctx context.Context) error {
			_, err := r.slots[0].Status(ctx)
			return err
		})
	}
	if !a.device.Removed() {
		return
	}
	// Their removal is told first, and their interfaces are free then.
	a.serving.Wait()
	m.handling.Lock()
	defer m.handling.Unlock()
	m.mu.Lock()
	still := m.attached[a.device.info.Key] == a
	m.mu.Unlock()
	if still && m.life.Err() == nil {
		m.arrived(a.device.info)
	}
}

// serve opens one reader, holds it until it is removed, and closes it.
func (m *Monitor) serve(a *arrival, f Function, number int) {
	r := m.open(a, f, number)
	if r == nil {
		return
	}
	m.mu.Lock()
	m.readers = append(m.readers, r)
	m.mu.Unlock()
	m.publish(Event{Kind: ReaderArrived, Reader: r, Function: f})
	select {
	case <-r.Done():
	case <-m.life.Done():
	}
	m.mu.Lock()
	m.readers = slices.DeleteFunc(m.readers, func(other *Reader) bool { return other == r })
	m.mu.Unlock()
	if m.life.Err() == nil {
		m.publish(Event{Kind: ReaderRemoved, Reader: r, Function: f})
	}
	if err := r.Close(); err != nil {
		m.log.Debugf("closing reader: %v", err)
	}
}

// Pauses between tries to open a reader that is not accessible or busy, unless the backend reports a change before.
const (
	leastRetry = 100 * time.Millisecond
	mostRetry  = 5 * time.Second
)

// open opens a reader, trying again as long as that can help. It returns nil when the reader is not to be had.
func (m *Monitor) open(a *arrival, f Function, number int) *Reader {
	reported := ""
	for wait := leastRetry; ; wait = min(2*wait, mostRetry) {
		retry, options := m.retryOf(a)
		options.Number = number
		r, err := a.device.Open(m.life, f.Interface.Number, options)
		if err == nil {
			return r
		}
		if a.device.Removed() || m.life.Err() != nil {
			return nil
		}
		if reason := err.Error(); reason != reported {
			reported = reason
			m.publishUnusable(a, f, err)
		}
		if errors.Is(err, ErrIgnored) || !m.await(a.device, retry, wait) {
			return nil
		}
	}
}

// await waits until another try may help, and reports whether there is still somebody to try.
func (m *Monitor) await(d *Device, retry <-chan struct{}, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-retry:
	case <-d.Done():
		return false
	case <-m.life.Done():
		return false
	}
	return true
}

// retryOf returns what tells that another try is worth it, and the options for this one.
func (m *Monitor) retryOf(a *arrival) (<-chan struct{}, Options) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return a.retry, m.options
}

// identity says which reader it is that comes back: the same model at the same port.
type identity struct {
	port, serial        string
	idVendor, idProduct uint16
	number              uint8 // bInterfaceNumber
}

func identityOf(f Function) identity {
	d := f.Device
	return identity{d.PortPath, d.SerialNumber, d.IDVendor, d.IDProduct, f.Interface.Number}
}

// kept is the number of a reader that has left.
type kept struct {
	number int
	until  time.Time
}

// A reader that comes back within keepNumber gets the number that it had, if that is free: a reset of a hub, or a sleep of the
// machine, takes all readers away and gives them back in any order. maxKept bounds how many numbers are kept.
const (
	keepNumber = 30 * time.Second
	maxKept    = 256
)

func (m *Monitor) takeNumber(a *arrival, f Function) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, n := identityOf(f), 0
	if before, ok := m.kept[id]; ok && !m.numbers[before.number] && time.Now().Before(before.until) {
		n = before.number
	}
	for m.numbers[n] {
		n++
	}
	delete(m.kept, id)
	m.numbers[n] = true
	a.numbers[id] = n
	return n
}

// giveNumbers gives back those of a device that has left. m.mu is held.
func (m *Monitor) giveNumbers(a *arrival) {
	now := time.Now()
	maps.DeleteFunc(m.kept, func(_ identity, k kept) bool { return now.After(k.until) })
	for id, n := range a.numbers {
		delete(m.numbers, n)
		if len(m.kept) < maxKept {
			m.kept[id] = kept{n, now.Add(keepNumber)}
		}
	}
}

// watchSleep has the readers that nobody uses notice that the machine has slept.
func (m *Monitor) watchSleep() {
	tick := time.NewTicker(sleepCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.life.Done():
			return
		}
		for _, r := range m.Readers() {
			r.noticeSleep()
		}
	}
}
