package pcscd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/wire"
)

// Options are what a Manager can be made with. The zero value of each field but Driver is a useful one.
type Options struct {
	Driver Driver
	// Logger gets events; nil is none. Nothing about a removal is logged above debug level: the driver logs its line.
	Logger logrus.FieldLogger
	// PowerOffGrace is how long a card that nobody uses keeps its power: 0 is 5 s, below 0 is for ever.
	PowerOffGrace time.Duration
	// StartTimeout bounds the wait for a new reader's first status, after which it counts as being in error: 0 is 5 s.
	StartTimeout time.Duration
	// MaxReaders is how many readers there may be: 0 is 256.
	MaxReaders int
	// MaxHandles is how many handles one client may have: 0 is 200.
	MaxHandles int
	// MaxReaderHandles is how many handles there may be on one reader: 0 is 1024, as many as Limits.Connections.
	MaxReaderHandles int
}

// setDefaults replaces zero values.
func (o *Options) setDefaults() {
	if o.Logger == nil {
		none := logrus.New()
		none.SetOutput(io.Discard)
		none.SetLevel(logrus.PanicLevel)
		o.Logger = none
	}
	defaultTo(&o.PowerOffGrace, 5*time.Second)
	defaultTo(&o.StartTimeout, 5*time.Second)
	defaultTo(&o.MaxReaders, 256)
	defaultTo(&o.MaxHandles, 200)
	defaultTo(&o.MaxReaderHandles, defaultConnections)
}

func defaultTo[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Reader is one slot as clients shall see it.
type Reader struct {
	// Name is the whole name, with its " XX YY"; 1 to 127 bytes, none of them 0. Clients see readers in the order of these
	// numbers.
	Name string
	// Lun is the driver's open channel for it. Slots of one reader share Lun.Reader().
	Lun ifdhandler.Lun
}

// Errors of AddReader, to be tested with errors.Is.
var (
	ErrDuplicateReader = errors.New("pcscd: reader name or logical unit is taken")
	ErrReaderName      = errors.New("pcscd: reader name has no or more than 127 bytes, or a NUL")
	ErrTooManyReaders  = errors.New("pcscd: too many readers")
	ErrManagerClosed   = errors.New("pcscd: resource manager is closed")
)

// closeTimeout bounds a driver's CloseChannel.
const closeTimeout = 5 * time.Second

// Manager is a PC/SC resource manager. Its methods may be called at any time.
type Manager struct {
	driver  Driver
	log     logrus.FieldLogger
	options Options

	table atomic.Pointer[table]

	// removing is held while the slots of a reader end, so that they end together: two of them may learn of it at once. It is
	// taken before any other lock.
	removing sync.Mutex

	mu sync.Mutex
	// readers are those that clients see, in the table's order, see place. states is what each has published.
	readers []*reader
	states  []wire.ReaderState
	// channels are all readers whose channel is not closed yet.
	channels map[ifdhandler.Lun]*reader
	events   uint32
	closed   bool
	// handles and contexts are the numbers in use.
	handles  map[int32]struct{}
	contexts map[int32]struct{}
	sessions int
	// toldOfMany: the log has a line about readers that old clients do not see.
	toldOfMany bool
}

// table is one generation of what clients see. It does not change.
type table struct {
	states     []wire.ReaderState
	generation uint64
	// outdated is closed when there is a newer generation.
	outdated chan struct{}
}

// NewManager makes a manager without readers.
func NewManager(o Options) *Manager {
	o.setDefaults()
	m := &Manager{
		driver: o.Driver, log: o.Logger, options: o, events: 1,
		channels: map[ifdhandler.Lun]*reader{}, handles: map[int32]struct{}{}, contexts: map[int32]struct{}{},
	}
	m.table.Store(&table{generation: 1, outdated: make(chan struct{})})
	return m
}

// AddReader makes a reader known to clients and starts to watch it; its first status comes later, see Ready. The
// channel, which the caller has opened, is the manager's to close from now on, when there is no error.
func (m *Manager) AddReader(r Reader) error {
	if n := len(r.Name); n == 0 || n >= wire.MaxReaderName || strings.IndexByte(r.Name, 0) >= 0 {
		return ErrReaderName
	}
	added, err := m.insert(r)
	if err != nil {
		return err
	}
	go added.follow()
	m.tellOfMany()
	return nil
}

// insert gives a reader its place in the table.
func (m *Manager) insert(r Reader) (*reader, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return nil, ErrManagerClosed
	case m.channels[r.Lun] != nil || m.find(r.Name) != nil:
		return nil, fmt.Errorf("%w: %q, %v", ErrDuplicateReader, r.Name, r.Lun)
	case len(m.readers) >= m.options.MaxReaders:
		return nil, ErrTooManyReaders
	}
	if !slices.ContainsFunc(m.readers, func(o *reader) bool { return o.lun.Reader() == r.Lun.Reader() }) {
		m.countEvent()
	}
	added := newReader(m, r)
	m.channels[r.Lun] = added
	i := m.place(r.Name)
	m.readers = slices.Insert(m.readers, i, added)
	m.states = slices.Insert(m.states, i, added.public)
	m.replaceTable(true)
	return added, nil
}

// place is where a reader with this name stands in the table: by the numbers at its end, so that readers that were opened
// side by side stand the same way at each start, and one that comes back stands where it stood. m.mu must be held.
func (m *Manager) place(name string) int {
	i := slices.IndexFunc(m.readers, func(o *reader) bool { return numbersIn(o.name) > numbersIn(name) })
	if i < 0 {
		return len(m.readers)
	}
	return i
}

// numbersIn are the last bytes of a name, "XX YY": two of upper-case hexadecimal digits, which sort as text.
func numbersIn(name string) string { return name[max(0, len(name)-len("XX YY")):] }

// tellOfMany logs, once, that there are readers which clients of old do not see.
func (m *Manager) tellOfMany() {
	m.mu.Lock()
	tell := len(m.readers) > wire.OldTableLen && !m.toldOfMany
	m.toldOfMany = m.toldOfMany || tell
	m.mu.Unlock()
	if tell {
		m.log.Warnf("more than %d readers: programs with a libpcsclite before 2.5 see the first %d only", wire.OldTableLen, wire.OldTableLen)
	}
}

// RemoveReader takes a reader away, with all its slots, as hot plug tells it: the driver hears of it first
// (TAG_IFD_DEVICE_REMOVED), then clients. All calls and waits on it end. It waits until the channels are closed and the
// Lun may be used again; ctx bounds only that. A reader that is not, or no longer, there is no error: the manager also
// removes a reader by itself when the driver says that it is gone.
func (m *Manager) RemoveReader(ctx context.Context, lun ifdhandler.Lun) error {
	slots := m.slots(lun.Reader())
	for _, r := range slots {
		// A driver that does not know the tag learns of the removal by itself.
		_ = m.driver.SetCapabilities(r.lun, ifdhandler.TagDeviceRemoved, []byte{1})
	}
	m.remove(slots)
	return awaitClosed(ctx, slots)
}

// Close removes all readers, taking the cards' power away, and waits for the end of their goroutines or of ctx.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	var all []*reader
	for _, r := range m.channels {
		all = append(all, r)
	}
	m.mu.Unlock()
	m.remove(all)
	return awaitClosed(ctx, all)
}

func awaitClosed(ctx context.Context, readers []*reader) error {
	for _, r := range readers {
		select {
		case <-r.finished:
		case <-ctx.Done():
			return fmt.Errorf("pcscd: reader %s: driver is still at work: %w", r.name, context.Cause(ctx))
		}
	}
	return nil
}

// slots are the readers with this number whose channels are not closed yet.
func (m *Manager) slots(number uint16) []*reader {
	m.mu.Lock()
	defer m.mu.Unlock()
	var slots []*reader
	for lun, r := range m.channels {
		if lun.Reader() == number {
			slots = append(slots, r)
		}
	}
	return slots
}

// remove makes readers disappear, all in one generation of the table. Their goroutines close the channels.
func (m *Manager) remove(readers []*reader) {
	m.removing.Lock()
	defer m.removing.Unlock()
	gone := map[*reader]bool{}
	numbers := map[uint16]bool{}
	for _, r := range readers {
		if r.end() {
			gone[r] = true
			numbers[r.lun.Reader()] = true
		}
	}
	if len(gone) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []*reader
	var states []wire.ReaderState
	for i, r := range m.readers {
		if !gone[r] {
			left, states = append(left, r), append(states, m.states[i])
		}
	}
	m.readers, m.states = left, states
	for range numbers {
		m.countEvent()
	}
	m.replaceTable(true)
}

// forget is a reader's last word: its channel is closed.
func (m *Manager) forget(r *reader) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.channels, r.lun)
}

// publish replaces a reader's entry. Those who wait for a change are woken if signal is set. r.mu must be held.
func (m *Manager) publish(r *reader, signal bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.readers, r); i >= 0 {
		m.states[i] = r.public
		m.replaceTable(signal)
	}
}

// replaceTable publishes the states, and then signals if it shall. m.mu must be held.
func (m *Manager) replaceTable(signal bool) {
	old := m.table.Load()
	next := &table{states: slices.Clone(m.states), generation: old.generation, outdated: old.outdated}
	if !signal {
		m.table.Store(next)
		return
	}
	next.generation++
	next.outdated = make(chan struct{})
	m.table.Store(next)
	close(old.outdated)
}

// States returns the readers' table and its generation. The slice must not be changed. It never waits.
func (m *Manager) States() (states []wire.ReaderState, generation uint64) {
	t := m.table.Load()
	return t.states, t.generation
}

// Changed returns a channel that is closed as soon as the table is newer than this generation. It never waits.
func (m *Manager) Changed(generation uint64) <-chan struct{} {
	if t := m.table.Load(); t.generation == generation {
		return t.outdated
	}
	now := make(chan struct{})
	close(now)
	return now
}

// ReaderEvents counts readers that came and went, from 1; it wraps from 32767 to 1.
func (m *Manager) ReaderEvents() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.events
}

func (m *Manager) countEvent() {
	if m.events++; m.events > 0x7FFF {
		m.events = 1
	}
}

// Ready waits until the first status of every reader is known, or has failed, which takes StartTimeout at most.
func (m *Manager) Ready(ctx context.Context) error {
	for {
		t := m.table.Load()
		if !slices.ContainsFunc(t.states, func(s wire.ReaderState) bool { return !s.Known }) {
			return nil
		}
		select {
		case <-t.outdated:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// reader finds a reader by its exact name.
func (m *Manager) reader(name string) *reader {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(name)
}

func (m *Manager) find(name string) *reader {
	i := slices.IndexFunc(m.readers, func(r *reader) bool { return r.name == name })
	if i < 0 {
		return nil
	}
	return m.readers[i]
}

// number makes a number that is not in the set, and puts it there. The set is one of handles and contexts.
func (m *Manager) number(set map[int32]struct{}) int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := newNumber(func(n int32) bool { _, taken := set[n]; return taken })
	set[n] = struct{}{}
	return n
}

func (m *Manager) freeNumber(set map[int32]struct{}, n int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(set, n)
}
