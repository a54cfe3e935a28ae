package usbip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport"
)

// Options says which server to use, and how.
type Options struct {
	// Address is the server's, as HOST:PORT; the port is 3240 where none is given.
	Address string
	// BusID restricts the backend to the device that the server has under this bus ID ("1-1.2"); empty is all devices.
	BusID string
	// PollInterval is how often watchers have the server list its devices; 0 is a second. After a failure it grows up to
	// 30 s, until the server answers again.
	PollInterval time.Duration
	// Timeout bounds one question to the server (connect, list, import, one descriptor), and the time that all looks at devices take
	// together before the rest of them is left for the next time; 0 is 5 s. Transfers on an open interface are bounded by their
	// contexts only.
	Timeout time.Duration
	// Logger is told of what goes wrong in the background; nil discards.
	Logger logrus.FieldLogger
	// Dial connects to the server; nil is a net.Dialer's DialContext.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultPollInterval = time.Second
	maxPollInterval     = 30 * time.Second
	defaultTimeout      = 5 * time.Second
	// settleTime is how long a server may need for a device that was given back. Linux resets it, meanwhile it
	// is refused, and perhaps not listed.
	settleTime = 3 * time.Second
	// busyInterval is how often an import is tried anew during that time.
	busyInterval = 50 * time.Millisecond
)

// Backend is a USB/IP client: a usbtransport.Backend for the devices that one server exports.
//
// Imports are exclusive, and a server tells little of a device that is not imported. So the backend imports each device that
// may be a reader (one with a smart card or vendor-specific interface, or no known ones) for a moment when it first sees it, to read its
// descriptors and strings; some devices at a time. One that it can't have is tried again, by the watch less and less often. All interfaces of a device that are open share one import.
//
// The protocol has no events. Removal of a device with an open interface is known at once, by the end of its connection;
// the loss of the connection is a removal too, since the server resets the device. The rest is known from polling: by Devices, and once per
// Options.PollInterval while there is a Watcher.
type Backend struct {
	address, busID string
	interval       time.Duration
	timeout        time.Duration
	log            logrus.FieldLogger
	dial           func(ctx context.Context, network, address string) (net.Conn, error)

	// turn is held by who asks the server for its list or for a device; a channel, so that a context ends the wait for it.
	turn chan struct{}

	// mu protects the fields below, and what is in the entries. It comes after turn.
	mu      sync.Mutex
	entries map[string]*entry // by bus ID
	keys    int               // Keys given so far
	// hides says whether the server leaves out devices that are imported; nil as long as that is not known.
	hides *bool
	// changed is closed, and replaced, when entries have changed.
	changed  chan struct{}
	watchers int
	poller   *poller
	// away says that the server did not answer the watch's last question.
	away bool
}

var _ usbtransport.Backend = (*Backend)(nil)

// entry is one plug-in of one device.
type entry struct {
	record deviceRecord
	info   usbtransport.DeviceInfo
	// revision counts the changes of info.
	revision int
	// attached is the import that the open interfaces share, nil while there are none. holders are their numbers.
	attached *attachment
	holders  map[uint8]bool
	// settled is when the server should have got over our last import.
	settled time.Time
	// retry is when to try again to read descriptors that could not be read, and delay what was waited for it.
	retry time.Time
	delay time.Duration
}

// New makes a client. It does not connect yet.
func New(o Options) *Backend {
	b := &Backend{
		address: withPort(o.Address), busID: o.BusID, interval: o.PollInterval, timeout: o.Timeout, log: o.Logger, dial: o.Dial,
		turn: make(chan struct{}, 1), entries: map[string]*entry{}, changed: make(chan struct{}),
	}
	if b.interval <= 0 {
		b.interval = defaultPollInterval
	}
	if b.timeout <= 0 {
		b.timeout = defaultTimeout
	}
	if b.dial == nil {
		b.dial = new(net.Dialer).DialContext
	}
	if b.log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		b.log = discard
	}
	return b
}

func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"), DefaultPort)
}

// Name implements usbtransport.Backend.
func (b *Backend) Name() string { return "usbip" }

// Devices implements usbtransport.Backend.
func (b *Backend) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	const op = "enumerate"
	if err := b.take(ctx); err != nil {
		return nil, fail(op, "", err, nil)
	}
	defer b.release()
	if err := b.refresh(ctx, true); err != nil {
		return nil, fail(op, "", kindOf(ctx), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []usbtransport.DeviceInfo
	for _, e := range b.sorted() {
		list = append(list, e.describe())
	}
	return list, nil
}

// sorted returns the entries by bus and port path. It wants mu held.
func (b *Backend) sorted() []*entry {
	return slices.SortedFunc(maps.Values(b.entries), func(x, y *entry) int {
		return cmp.Or(
			cmp.Compare(x.info.Bus, y.info.Bus),
			cmp.Compare(len(x.info.PortPath), len(y.info.PortPath)), // 1-2 comes before 1-10
			cmp.Compare(x.info.PortPath, y.info.PortPath),
		)
	})
}

func (e *entry) describe() usbtransport.DeviceInfo {
	info := e.info
	info.Descriptors = slices.Clone(info.Descriptors)
	return info
}

// take waits for the turn. The error is a kind.
func (b *Backend) take(ctx context.Context) error {
	if ctx.Err() != nil {
		return usbtransport.ContextKind(ctx)
	}
	select {
	case b.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return usbtransport.ContextKind(ctx)
	}
}

func (b *Backend) release() { <-b.turn }

// fail makes an Error.
func fail(op, device string, kind, cause error) error {
	return &usbtransport.Error{Op: op, Device: device, Kind: kind, Cause: cause}
}

// kindOf is the kind of a failed question to the server.
func kindOf(ctx context.Context) error {
	if ctx.Err() != nil {
		return usbtransport.ContextKind(ctx)
	}
	return usbtransport.ErrIO
}

// question connects to the server and runs ask on the connection, bounded by ctx and the backend's Timeout. It returns the
// connection for further use; who doesn't need that closes it.
func (b *Backend) question(ctx context.Context, ask func(net.Conn) error) (net.Conn, error) {
	bounded, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	conn, err := b.dial(bounded, "tcp", b.address)
	if err != nil {
		return nil, err
	}
	tune(conn)
	stop := context.AfterFunc(bounded, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = ask(conn)
	if !stop() && err == nil {
		err = context.Cause(bounded) // the deadline is set, or about to be
	}
	if err != nil {
		_ = conn.Close() // nothing was left to be written
		return nil, err
	}
	return conn, nil
}

// fetch has the server list its devices.
func (b *Backend) fetch(ctx context.Context) ([]listed, error) {
	var list []listed
	conn, err := b.question(ctx, func(conn net.Conn) error {
		_, err := conn.Write(opHeader{code: opRequestDevlist}.append(nil))
		if err == nil {
			list, err = readDevlist(conn)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	_ = conn.Close() // it has served
	return slices.DeleteFunc(list, func(d listed) bool { return b.busID != "" && d.busID != b.busID }), nil
}

// refresh brings the entries up to date. It wants the turn. Whatever the server does and however many devices it lists, it ends
// within twice the Timeout: one for the list, and one for the looks at all devices together. again has it look anew at each device
// whose descriptors could not be read, whenever the next try was to be.
func (b *Backend) refresh(ctx context.Context, again bool) error {
	list, err := b.fetch(ctx)
	if err != nil {
		if ctx.Err() == nil {
			b.keep(func(*entry) bool { return false }) // nobody could use what the server may yet have
		}
		return err
	}
	b.learn(list)
	b.keep(func(e *entry) bool { return b.stays(e, list) })
	looks := b.due(list, again)
	b.inspectAll(ctx, looks)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range looks {
		b.commit(l, ctx.Err() != nil)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// learn finds out from a list whether the server leaves out devices that are imported.
func (b *Backend) learn(list []listed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.attached != nil && e.attached.alive() {
			b.noteHiding(list, e.record)
			return
		}
	}
}

// noteHiding wants mu held, and a list made while the device was imported.
func (b *Backend) noteHiding(list []listed, record deviceRecord) {
	hides := !slices.ContainsFunc(list, func(d listed) bool { return d.sameDevice(record) })
	b.hides = &hides
}

// keep drops the entries that don't stay. Imported ones do: their connection says when they are gone.
func (b *Backend) keep(stays func(*entry) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.attached == nil && !stays(e) {
			b.drop(e)
		}
	}
}

// stays reports whether the plug-in is still there, going by a list. It wants mu held.
func (b *Backend) stays(e *entry, list []listed) bool {
	i := slices.IndexFunc(list, func(d listed) bool { return d.busID == e.record.busID })
	if i < 0 {
		return b.hides != nil && *b.hides && time.Now().Before(e.settled)
	}
	return list[i].sameDevice(e.record)
}

// drop removes an entry. It wants mu held.
func (b *Backend) drop(e *entry) {
	if b.entries[e.record.busID] == e {
		delete(b.entries, e.record.busID)
		b.broadcast()
	}
}

// broadcast wants mu held.
func (b *Backend) broadcast() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// errAnother says that the server has another device there by now.
var errAnother = errors.New("another device is there by now")

// importDevice imports a device. Where we had it ourselves a moment ago, the server may need some time to see that.
func (b *Backend) importDevice(ctx context.Context, record deviceRecord, settled time.Time, lost func(*attachment)) (*attachment, error) {
	for {
		conn, err := b.question(ctx, func(conn net.Conn) error {
			if _, err := conn.Write(appendImportRequest(nil, record.busID)); err != nil {
				return err
			}
			imported, err := readImportReply(conn)
			if err == nil && !imported.sameDevice(record) {
				err = errAnother
			}
			return err
		})
		if err == nil {
			return attach(conn, record, b.log.WithField("device", record.busID), lost), nil
		}
		var refused refusal
		if !errors.As(err, &refused) || refused == statusNoDevice || !time.Now().Before(settled) {
			return nil, err
		}
		select {
		case <-time.After(busyInterval):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Open implements usbtransport.Backend.
func (b *Backend) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	const op = "open"
	failed := func(kind, cause error) (usbtransport.Interface, error) {
		return nil, fail(op, device.PortPath, kind, cause)
	}
	if err := b.take(ctx); err != nil {
		return failed(err, nil)
	}
	defer b.release()
	e := b.find(device.Key)
	if e == nil {
		return failed(usbtransport.ErrRemoved, nil)
	}
	for {
		a, err := b.attachmentOf(ctx, e)
		if err != nil {
			return failed(b.openKind(ctx, e, err), err)
		}
		i, kind, cause := b.claim(e, a, number)
		switch {
		case kind == nil:
			return i, nil
		case errors.Is(kind, errDetached):
			continue // once: nobody else imports it now
		}
		b.detach(e, a)
		return failed(kind, cause)
	}
}

func (b *Backend) find(key string) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.info.Key == key {
			return e
		}
	}
	return nil
}

// openKind is the kind of a failed import. A device that can't be had although nobody else has it is gone.
func (b *Backend) openKind(ctx context.Context, e *entry, err error) error {
	if ctx.Err() != nil {
		return usbtransport.ContextKind(ctx)
	}
	if kind := importKind(err); kind != nil {
		return kind
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(e)
	return usbtransport.ErrRemoved
}

// importKind is the kind of a failed import where the server, or the device, said what is wrong; nil where it did not.
func importKind(err error) error {
	var refused refusal
	switch {
	case errors.Is(err, usbtransport.ErrIO), errors.Is(err, usbtransport.ErrStalled):
		return usbtransport.ErrIO
	case errors.As(err, &refused) && (refused == statusBusy || refused == statusNA):
		return usbtransport.ErrBusy
	case errors.As(err, &refused) && refused != statusNoDevice:
		return usbtransport.ErrIO
	}
	return nil
}

// errDetached says that the last user of an import has given it back meanwhile.
var errDetached = errors.New("the import has ended")

// attachmentOf returns the import of a device, which it makes if there is none.
func (b *Backend) attachmentOf(ctx context.Context, e *entry) (a *attachment, err error) {
	b.mu.Lock()
	a, settled, info := e.attached, e.settled, e.info
	b.mu.Unlock()
	if a != nil {
		return a, nil
	}
	if a, err = b.importDevice(ctx, e.record, settled, func(a *attachment) { b.lost(e, a) }); err != nil {
		return nil, err
	}
	info, err = b.prepare(ctx, a, info)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || !a.alive() {
		e.settled = time.Now().Add(settleTime)
		a.fail(errHungUp) // its reader can't be waited for with mu held
		if err == nil {
			err = a.why()
		}
		return nil, err
	}
	if e.info.Descriptors == nil {
		e.info = info
		e.revision++
		b.broadcast()
	}
	e.attached = a
	return a, nil
}

// prepare makes a device that was just imported ready for use. Nobody else has the import yet, so the end of ctx ends it without
// waiting for the server to give a transfer back.
func (b *Backend) prepare(ctx context.Context, a *attachment, info usbtransport.DeviceInfo) (usbtransport.DeviceInfo, error) {
	stop := context.AfterFunc(ctx, func() { a.fail(errHungUp) })
	bounded, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	var err error
	if info.Descriptors == nil {
		info, err = readInfo(bounded, a, info)
	}
	if err == nil {
		err = configure(bounded, a, info.Descriptors)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	return info, err
}

// claim makes an interface of an import.
func (b *Backend) claim(e *entry, a *attachment, number uint8) (i *claimed, kind, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	interfaces, _ := usbtransport.ParseInterfaces(e.info.Descriptors) // what can't be parsed has no interfaces
	index := slices.IndexFunc(interfaces, func(d usbtransport.InterfaceDescriptor) bool {
		return d.Number == number && d.AlternateSetting == 0
	})
	switch {
	case b.entries[e.record.busID] != e:
		return nil, usbtransport.ErrRemoved, a.why()
	case e.attached != a:
		return nil, errDetached, nil
	case index < 0:
		return nil, usbtransport.ErrInvalid, fmt.Errorf("no interface %d", number)
	case e.holders[number]:
		self := usbtransport.Holder{Driver: "usbip", PID: os.Getpid(), Process: filepath.Base(os.Args[0])}
		return nil, usbtransport.ErrBusy, &usbtransport.BusyError{Holders: []usbtransport.Holder{self}}
	}
	e.holders[number] = true
	return newClaimed(e.describe(), interfaces[index], a, func() { b.unclaim(e, a, number) }), nil, nil
}

// unclaim gives an interface back, and the device with its last one.
func (b *Backend) unclaim(e *entry, a *attachment, number uint8) {
	b.mu.Lock()
	delete(e.holders, number)
	last := len(e.holders) == 0
	b.mu.Unlock()
	if last {
		b.detach(e, a)
	}
}

// detach ends an import that nobody uses.
func (b *Backend) detach(e *entry, a *attachment) {
	b.mu.Lock()
	if e.attached == a && len(e.holders) == 0 && a.alive() {
		e.attached, e.settled = nil, time.Now().Add(settleTime)
	}
	unused := len(e.holders) == 0
	b.mu.Unlock()
	if unused {
		a.close()
	}
}

// lost is called when an import is over. If nobody here has ended it, the device is gone.
func (b *Backend) lost(e *entry, a *attachment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.attached == a {
		b.drop(e)
	}
}
