package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// Mode says how a host is compared with a recording. There are Strict and Lenient.
type Mode interface {
	// script makes what plays the device's side of one interface.
	script(recording) script
}

// Pace says how long an answer is held back that took the given time when it was recorded. AtOnce and AsRecorded are
// the usual ones.
type Pace func(recorded time.Duration) time.Duration

// AtOnce answers without delay.
func AtOnce(time.Duration) time.Duration { return 0 }

// maxDelay bounds what a file can make a host wait for one answer; it is longer than the longest waiting time.
const maxDelay = 10 * time.Minute

// AsRecorded takes the time that was recorded, 10 minutes at most.
func AsRecorded(recorded time.Duration) time.Duration { return min(max(0, recorded), maxDelay) }

// recording is what a capture has of one interface of a device.
type recording struct {
	descriptor usbtransport.InterfaceDescriptor
	transfers  []Transfer // over its endpoints, and the class and vendor requests to it
	redacted   bool       // PINs are hidden in it
}

// script plays the device's side of one interface. Its methods are called by one goroutine at a time.
type script interface {
	// begin returns what the device sends before it is asked for anything.
	begin() []delivery
	// out takes what the host sends to a bulk OUT endpoint. The error is a *Divergence, or a kind of usbtransport's that
	// was recorded.
	out(endpoint uint8, data []byte) ([]delivery, error)
	// control takes a class or vendor request to the interface, with the data for the device or the buffer for
	// its answer. The error is as for out.
	control(setup usbtransport.Setup, data []byte) (int, []delivery, error)
	// unused returns the packets that the host has not asked for.
	unused() []int
}

// delivery is one transfer that the device has for the host.
type delivery struct {
	endpoint uint8
	data     []byte
	// open: the transfer does not end with data of whole packets, so no empty packet follows.
	open bool
	// failure is how the transfer fails, nil when it doesn't. It comes after data.
	failure error
	// after is the time from what caused it.
	after time.Duration
}

// Replay is a usbtransport.Backend whose devices are those of a capture. What a device says goes on from where it was when
// an interface is closed and opened again. Standard requests are answered from the descriptors in the capture, whatever
// the mode: they are the operating system's business.
//
// A transfer that the recording has no place for fails with usbtransport.ErrStalled, as one does that a device does not
// understand, and its cause is a *Divergence.
type Replay struct {
	pace Pace

	mu          sync.Mutex
	devices     []*replayDevice
	watchers    map[*replayWatcher]struct{}
	divergences []error
}

var _ usbtransport.Backend = (*Replay)(nil)

// replayDevice is guarded by Replay.mu.
type replayDevice struct {
	info       usbtransport.DeviceInfo
	known      descriptors
	interfaces map[uint8]*replayFunction
	removed    bool
}

// NewReplay makes a backend of a capture. Devices whose descriptors the capture does not have are listed, but can't be
// opened. A capture without any device that can be opened is an error.
func NewReplay(c *Capture, mode Mode, pace Pace) (*Replay, error) {
	r := &Replay{pace: pace, watchers: map[*replayWatcher]struct{}{}}
	usable := false
	for _, d := range c.Devices() {
		r.devices = append(r.devices, newReplayDevice(d, c.Redacted, mode))
		usable = usable || d.Info.Descriptors != nil
	}
	if !usable {
		return nil, errors.New("replay: the capture has no device with its descriptors: it has to begin before the device is plugged in")
	}
	return r, nil
}

func newReplayDevice(d Device, redacted bool, mode Mode) *replayDevice {
	device := &replayDevice{info: d.Info, known: answeredDescriptors(d.Transfers), interfaces: map[uint8]*replayFunction{}}
	// Interfaces before a fault in the descriptors are good.
	descriptors, _ := usbtransport.ParseInterfaces(d.Info.Descriptors)
	for _, descriptor := range descriptors {
		if descriptor.AlternateSetting != 0 || device.interfaces[descriptor.Number] != nil {
			continue
		}
		own := recording{descriptor: descriptor, redacted: redacted}
		for _, t := range d.Transfers {
			if belongs(t, descriptor) {
				own.transfers = append(own.transfers, t)
			}
		}
		device.interfaces[descriptor.Number] = newReplayFunction(descriptor, mode.script(own))
	}
	return device
}

// belongs reports whether a transfer is one of an interface's.
func belongs(t Transfer, descriptor usbtransport.InterfaceDescriptor) bool {
	if t.Type == usbtransport.TransferControl {
		return t.HasSetup && t.Setup.RequestType&requestTypeMask != 0 &&
			t.Setup.RequestType&recipientMask == recipientInterface && uint8(t.Setup.Index) == descriptor.Number
	}
	return slices.ContainsFunc(descriptor.Endpoints, func(e usbtransport.EndpointDescriptor) bool {
		return e.Address == t.Endpoint && e.Type == t.Type
	})
}

// Name implements usbtransport.Backend.
func (r *Replay) Name() string { return "replay" }

// Close says how the replay went: nil when all was asked for and nothing else; else an error that holds each *Divergence,
// and an *UnusedError. The interfaces stay as they are.
func (r *Replay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.divergences)
	var packets []int
	for _, d := range r.devices {
		for _, f := range d.interfaces {
			packets = append(packets, f.script.unused()...)
		}
	}
	if len(packets) > 0 {
		slices.Sort(packets)
		list = append(list, &UnusedError{Packets: packets})
	}
	return errors.Join(list...)
}

// maxDivergences bounds how many are kept: a host may try for ever.
const maxDivergences = 100

// diverged wants mu held.
func (r *Replay) diverged(err error) {
	if len(r.divergences) < maxDivergences {
		r.divergences = append(r.divergences, err)
	}
}

// Devices implements usbtransport.Backend.
func (r *Replay) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	if ctx.Err() != nil {
		return nil, &usbtransport.Error{Op: "enumerate", Kind: usbtransport.ContextKind(ctx)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.present(), nil
}

// present wants mu held.
func (r *Replay) present() []usbtransport.DeviceInfo {
	var list []usbtransport.DeviceInfo
	for _, d := range r.devices {
		if !d.removed {
			list = append(list, d.describe())
		}
	}
	return list
}

func (d *replayDevice) describe() usbtransport.DeviceInfo {
	info := d.info
	info.Descriptors = slices.Clone(info.Descriptors)
	return info
}

// Watch implements usbtransport.Backend. A device is removed where the recording says so.
func (r *Replay) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	if ctx.Err() != nil {
		return nil, &usbtransport.Error{Op: "watch", Kind: usbtransport.ContextKind(ctx)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &replayWatcher{replay: r, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	for _, info := range r.present() {
		w.events = append(w.events, usbtransport.Event{Kind: usbtransport.Arrived, Device: info})
	}
	r.watchers[w] = struct{}{}
	return w, nil
}

// remove takes a device out. It wants mu held.
func (r *Replay) remove(d *replayDevice) {
	if d.removed {
		return
	}
	d.removed = true
	for _, f := range d.interfaces {
		f.broadcast()
	}
	for w := range r.watchers {
		w.events = append(w.events, usbtransport.Event{Kind: usbtransport.Removed, Device: d.describe()})
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Open implements usbtransport.Backend.
func (r *Replay) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	fail := func(kind, cause error) (usbtransport.Interface, error) {
		return nil, &usbtransport.Error{Op: "open", Device: device.PortPath, Kind: kind, Cause: cause}
	}
	if ctx.Err() != nil {
		return fail(usbtransport.ContextKind(ctx), nil)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.devices, func(d *replayDevice) bool { return d.info.Key == device.Key && !d.removed })
	if i < 0 {
		return fail(usbtransport.ErrRemoved, nil)
	}
	d := r.devices[i]
	f := d.interfaces[number]
	switch {
	case d.info.Unreadable != nil:
		return fail(usbtransport.ErrNotSupported, d.info.Unreadable)
	case f == nil:
		return fail(usbtransport.ErrInvalid, fmt.Errorf("no interface %d", number))
	case f.claimed:
		holder := usbtransport.Holder{Driver: "replay", PID: os.Getpid(), Process: filepath.Base(os.Args[0])}
		return fail(usbtransport.ErrBusy, &usbtransport.BusyError{Holders: []usbtransport.Holder{holder}})
	}
	f.claimed = true
	f.begin(r.pace)
	return &replayInterface{replay: r, device: d, function: f, info: d.describe(), number: number, closed: make(chan struct{})}, nil
}

// replayWatcher implements usbtransport.Watcher. replay.mu guards events.
type replayWatcher struct {
	replay *Replay
	events []usbtransport.Event
	wake   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Next implements usbtransport.Watcher.
func (w *replayWatcher) Next(ctx context.Context) (usbtransport.Event, error) {
	for {
		select {
		case <-w.closed:
			return usbtransport.Event{}, &usbtransport.Error{Op: "watch", Kind: usbtransport.ErrClosed}
		default:
		}
		if ctx.Err() != nil {
			return usbtransport.Event{}, &usbtransport.Error{Op: "watch", Kind: usbtransport.ContextKind(ctx)}
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

func (w *replayWatcher) take() (usbtransport.Event, bool) {
	w.replay.mu.Lock()
	defer w.replay.mu.Unlock()
	if len(w.events) == 0 {
		return usbtransport.Event{}, false
	}
	e := w.events[0]
	w.events = w.events[1:]
	return e, true
}

// Close implements usbtransport.Watcher.
func (w *replayWatcher) Close() error {
	w.once.Do(func() {
		close(w.closed)
		w.replay.mu.Lock()
		delete(w.replay.watchers, w)
		w.replay.mu.Unlock()
	})
	return nil
}
