package ifdhandler

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/usbtransport"
)

// ReaderEventKind says what happened to a reader.
type ReaderEventKind uint8

// The kinds of a ReaderEvent.
const (
	// ReaderArrived: the reader is open, and its slots can be used by their Luns.
	ReaderArrived ReaderEventKind = iota + 1
	// ReaderRemoved: the reader is gone, and the driver knows it (TAG_IFD_DEVICE_REMOVED).
	ReaderRemoved
	// ReaderUnusable: a reader is there, but can't be opened, at least for now. It is reported once for each reason; the last one,
	// after any other, is usbtransport.ErrRemoved: it is not there any more.
	ReaderUnusable
)

// String returns "arrived", "removed" or "unusable".
func (k ReaderEventKind) String() string { return host.EventKind(k).String() }

// SlotName is a slot of a reader and its name.
type SlotName struct {
	Lun Lun
	// Name is the slot's name as pcsc-lite makes it, "Gemalto PC Twin Reader (70D7E2EE) 00 00".
	Name string
}

// ReaderEvent is one change of the readers of a HotPlug.
type ReaderEvent struct {
	Kind ReaderEventKind
	// Device says which device it is, for messages: port path and VID:PID.
	Device string
	// Slots are the reader's slots, in order; none for ReaderUnusable.
	Slots []SlotName
	// Err is why the reader is unusable.
	Err error
}

// HotPlug opens the readers of a Handler's backend as they come, side by side, and makes their slots known to the
// Handler. It closes them when they go and with Close. One goroutine at a time may call Next.
type HotPlug struct {
	handler *Handler
	monitor *host.Monitor
	log     logrus.FieldLogger

	// number was given to a reader last.
	number uint16
	// known are the readers whose arrival was returned, by their name.
	known map[string]arrived
	// held are arrivals of readers whose name was still taken when they came.
	held []host.Event

	// awaited are the readers that were there at the start, less those that events were returned of.
	awaited map[functionID]bool
	settled chan struct{} // closed when awaited is empty, and its last event has been dealt with
}

// arrived is a reader as its arrival told of it.
type arrived struct {
	reader *host.Reader
	event  ReaderEvent
}

// errNoBackend is what a Handler without a backend has for HotPlug.
var errNoBackend = errors.New("ifdhandler: no USB backend to watch")

// HotPlug starts to watch the Handler's backend. ctx bounds the start only.
//
// The numbers of the Luns are not those in the names: no number is given again while a channel of its last reader is
// open, so that a late call for a reader that went can't reach the one that came after it.
func (h *Handler) HotPlug(ctx context.Context) (*HotPlug, error) {
	if h.options.Backend == nil {
		return nil, errNoBackend
	}
	monitor, err := host.NewMonitor(ctx, h.options.Backend, h.options.Reader)
	if err != nil {
		return nil, err
	}
	// The watch comes first: what it is told meanwhile, a backend need not be asked again.
	awaited := usable(ctx, h.options.Backend)
	p := &HotPlug{
		handler: h, monitor: monitor, log: h.options.Reader.Logger, number: ^uint16(0), known: map[string]arrived{},
		awaited: awaited, settled: make(chan struct{}),
	}
	if p.log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		p.log = discard
	}
	return p, nil
}

// listTime bounds the question for the readers that are there at the start. The machine's own are listed in milliseconds, and those of
// a near USB/IP server in some more; for one that is slow, or hostile, nobody waits.
const listTime = 500 * time.Millisecond

// usable returns the readers that are there and look as if they could be used. What can't be listed in time is not waited for: whether
// it can be watched all the same, as a USB/IP server that is down, the watch knows.
func usable(ctx context.Context, backend usbtransport.Backend) map[functionID]bool {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	devices, _ := backend.Devices(ctx)
	found := map[functionID]bool{}
	for _, d := range devices {
		functions, _ := host.Functions(d) // a device without descriptors has none that could be used
		for _, f := range functions {
			if f.Unusable == nil {
				found[functionOf(f)] = true
			}
		}
	}
	return found
}

// Next waits for the next event. The removal of a reader comes before the arrival of the next one with the same name, and
// when it comes, every call to the reader ends without delay. Who takes the events has to close the channels of a reader
// that was removed (CloseChannel). Errors are those of usbtransport.Watcher.
func (p *HotPlug) Next(ctx context.Context) (ReaderEvent, error) {
	// Who asks for the next event has dealt with the last one.
	p.settle()
	for {
		e, ok := p.release()
		if !ok {
			var err error
			if e, err = p.monitor.Next(ctx); err != nil {
				return ReaderEvent{}, err
			}
		}
		delete(p.awaited, functionOf(e.Function))
		if event, ok := p.take(e); ok {
			return event, nil
		}
		p.settle()
	}
}

// settle closes settled when it is time.
func (p *HotPlug) settle() {
	if p.awaited != nil && len(p.awaited) == 0 {
		p.awaited = nil
		close(p.settled)
	}
}

// SetQuirks changes what is known of readers' peculiarities, for those that are opened from now on.
func (p *HotPlug) SetQuirks(t *quirks.Table) { p.monitor.SetQuirks(t) }

// Close ends the watch, closes all readers and waits for that. It may be called at any time, repeatedly.
func (p *HotPlug) Close() error { return p.monitor.Close() }

// release returns an arrival that was held and need not be any more.
func (p *HotPlug) release() (host.Event, bool) {
	for i, e := range p.held {
		if _, taken := p.known[e.Reader.Name()]; !taken {
			p.held = append(p.held[:i], p.held[i+1:]...)
			return e, true
		}
	}
	return host.Event{}, false
}

// take makes the Handler follow an event, and returns what is to be told of it.
func (p *HotPlug) take(e host.Event) (ReaderEvent, bool) {
	switch e.Kind {
	case host.ReaderArrived:
		return p.arrived(e)
	case host.ReaderRemoved:
		return p.removed(e.Reader)
	case host.ReaderUnusable:
		return ReaderEvent{Kind: ReaderUnusable, Device: e.Function.Device.String(), Err: e.Err}, true
	}
	return ReaderEvent{}, false
}

func (p *HotPlug) arrived(e host.Event) (ReaderEvent, bool) {
	name := e.Reader.Name()
	if _, taken := p.known[name]; taken {
		p.held = append(p.held, e)
		return ReaderEvent{}, false
	}
	lunNumber, err := p.attach(e.Reader)
	if err != nil {
		p.log.Errorf("reader %s is left out: %v", e.Reader.Name(), err)
		return ReaderEvent{}, false
	}
	event := ReaderEvent{Kind: ReaderArrived, Device: e.Function.Device.String()}
	for _, s := range e.Reader.Slots() {
		event.Slots = append(event.Slots, SlotName{Lun: NewLun(lunNumber, uint16(s.Index())), Name: s.Name()})
	}
	p.known[name] = arrived{reader: e.Reader, event: event}
	return event, true
}

// attach finds a number for the reader that no other has, the next after the last one if possible.
func (p *HotPlug) attach(r *host.Reader) (number uint16, err error) {
	for range 1 << 16 {
		p.number++
		if err = p.handler.Attach(p.number, r); err == nil {
			return p.number, nil
		}
	}
	return 0, err
}

func (p *HotPlug) removed(r *host.Reader) (ReaderEvent, bool) {
	for i, e := range p.held {
		if e.Reader == r {
			p.held = append(p.held[:i], p.held[i+1:]...)
			return ReaderEvent{}, false
		}
	}
	name := r.Name()
	a, ok := p.known[name]
	if !ok || a.reader != r {
		return ReaderEvent{}, false
	}
	delete(p.known, name)
	// The monitor knows of a removal in whatever way comes first; each of them has the reader in this state already, but
	// the tag is what reaches all readers of the device.
	if err := p.handler.SetCapabilities(a.event.Slots[0].Lun, TagDeviceRemoved, []byte{1}); err != nil {
		p.log.Debugf("reader %s: channels are closed already: %v", r.Name(), err)
	}
	event := a.event
	event.Kind = ReaderRemoved
	return event, true
}

// Settled waits until an event has told of each reader that was there when the HotPlug was made, and the next one was asked
// for; those that their backend could not list within half a second are not waited for. A reader that goes before it was opened is told of by none, so ctx should end the wait at some time; the error is
// that of ctx. It may be called at any time, from any goroutine.
func (p *HotPlug) Settled(ctx context.Context) error {
	select {
	case <-p.settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
