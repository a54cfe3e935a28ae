package host

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf16"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/usbtransport"
)

// Options are what a reader can be opened with. The zero value is good for most uses.
type Options struct {
	// Logger takes the log; nil is none. Frames appear at trace level, with PINs hidden.
	Logger logrus.FieldLogger
	// Limits bound every wait.
	Limits Limits
	// Quirks has what readers need beside what their descriptors say; nil is nothing. What it says of a reader goes
	// before the other options.
	Quirks *quirks.Table
	// Speeds remembers which Fi/Di failed, for as long as the caller keeps it, for all readers that are opened with it.
	// nil is a memory of the reader's own.
	Speeds *SpeedMemory
	// FriendlyName stands at the beginning of the reader's name in place of FriendlyName's result.
	FriendlyName string
	// NoInterfaceName and NoSerial leave these parts out of the reader's name, as pcscd's -I and -S do.
	NoInterfaceName, NoSerial bool
	// NameExtension is put into the reader's name before the numbers, as pcscd's PCSCLITE_FILTER_EXTEND_READER_NAMES does.
	NameExtension string
	// Ignore tells whether a reader with this name, in which NameExtension and numbers are left out, is to be left alone; nil is
	// for none. A Monitor asks before it opens a reader, when the interface's part of the name is not known yet; if it does
	// not ignore that, the reader is opened for the whole name, and closed if that is ignored. It may be called from several
	// goroutines at once.
	Ignore func(name string) bool
	// Suspended returns for how long the machine has slept since it was started. When that grows, the cards of all readers
	// count as reset, see Device.PowerLost. It may be called from several goroutines at once. nil asks the system, which tells on
	// Linux only.
	Suspended func() time.Duration
	// Number is the first of the two numbers at the end of the reader's name (0..255).
	Number int
	// Voltage is tried first when a card is powered, where the reader has no automatic selection. The default is 5 V.
	Voltage ccid.PowerSelect
}

// Reader is an open CCID reader: one interface of a USB device with 1..256 slots. All methods may be called from several
// goroutines at once.
type Reader struct {
	device   *Device
	function Function // with the class descriptor as corrected
	options  Options
	// announced is the class descriptor as the reader has it; quirks is what the reader needs.
	announced *ccid.ClassDescriptor
	quirks    quirks.Settings
	// firmware is what the reader told of its PIN pad when it was opened, nil where it did not.
	firmware *pinFirmware

	name   Name
	log    logrus.FieldLogger
	naming sync.Mutex // guards log until the reader is open
	usb    usbtransport.Interface

	gate      gate
	deadlines deadlines
	// keepsParameters: it did not answer when it was asked for them.
	keepsParameters atomic.Bool
	maxMessage      int // bytes of a command message, header included
	dataRates       []int
	clocks          []int
	slots           []*Slot

	sleep *sleepWatch

	// life ends when the reader is closed or removed.
	life context.Context
	end  context.CancelFunc

	// bus has a token for each exchange under way: as many as the reader works on at once.
	bus        chan struct{}
	carrier    carrier
	dispatcher *dispatcher

	notifications notifications
	background    sync.WaitGroup
	closeOnce     sync.Once
	closeErr      error
}

// Open opens the CCID reader on interface number number of a device. Its Device is its own; use Device.Open for devices
// with several readers. It is NewDevice(backend, device).Open.
func Open(ctx context.Context, backend usbtransport.Backend, device usbtransport.DeviceInfo, number uint8, o Options) (*Reader, error) {
	return NewDevice(backend, device).Open(ctx, number, o)
}

// OpenFirst opens the first reader of the backend that can be opened. Without one, the error is ErrNoReader, or says for
// each reader why it can't be opened.
func OpenFirst(ctx context.Context, backend usbtransport.Backend, o Options) (*Reader, error) {
	devices, err := backend.Devices(ctx)
	if err != nil {
		return nil, err
	}
	reasons := []error{ErrNoReader}
	for _, info := range devices {
		functions, _ := Functions(info)
		device := NewDevice(backend, info)
		for _, f := range functions {
			r, err := device.Open(ctx, f.Interface.Number, o)
			if err == nil {
				return r, nil
			}
			reasons = append(reasons, err)
		}
	}
	return nil, errors.Join(reasons...)
}

// Open claims interface number number of the device and makes its reader ready: announced data rates and clock
// frequencies are read, an old notification is dropped, and the reader has answered a PC_to_RDR_GetSlotStatus for its
// first slot. Errors, in an *Error: ErrNotAReader, usbtransport.ErrBusy, ErrPermission, ErrRemoved and so on,
// *NoAnswerError from a reader that says nothing, *RefusedError, ErrIgnored.
func (d *Device) Open(ctx context.Context, number uint8, o Options) (*Reader, error) {
	r, err := d.open(ctx, number, o)
	if err != nil {
		return nil, &Error{Op: "open", Reader: d.info.String(), Slot: NoSlot, Err: err}
	}
	return r, nil
}

func (d *Device) open(ctx context.Context, number uint8, o Options) (*Reader, error) {
	if d.Removed() {
		return nil, d.errRemoved("open")
	}
	f, err := function(d.info, number)
	if err != nil {
		return nil, err
	}
	if err := Refusal(f, o.Quirks); err != nil {
		return nil, err
	}
	usb, err := d.backend.Open(ctx, d.info, number)
	if err != nil {
		if errors.Is(err, usbtransport.ErrRemoved) {
			d.SetRemoved()
		}
		return nil, err
	}
	r := newReader(d, f, o, usb)
	if !d.attach(r, r.removed) {
		err = d.errRemoved("open")
	} else {
		err = r.prepare(ctx)
	}
	if err != nil {
		r.end()
		d.detach(r)
		return nil, errors.Join(err, usb.Close())
	}
	r.watch()
	r.log.Debugf("reader opened: %v, %v", f.Class.DwFeatures.ExchangeLevel(), f.Class.DwFeatures)
	return r, nil
}

func newReader(d *Device, f Function, o Options, usb usbtransport.Interface) *Reader {
	life, end := context.WithCancel(d.present)
	announced, needs := f.Class, o.Quirks.Lookup(f.QuirkDevice())
	corrected := needs.Correct(*announced)
	if f.Token() {
		asToken(&corrected, f.Interface.Protocol)
	}
	f.Class = &corrected
	if o.Speeds == nil {
		o.Speeds = &SpeedMemory{}
	}
	r := &Reader{
		device: d, function: f, options: o, announced: announced, quirks: needs, usb: usb, gate: gate{usb: usb, device: d}, sleep: newSleepWatch(o),
		deadlines: newDeadlines(o.Limits, f.Class, needs.Timing), maxMessage: maxMessage(f.Class.DwMaxCCIDMessageLength),
		life: life, end: end, bus: make(chan struct{}, busySlots(f.Class, needs.USB)), name: baseName(d.info, o, needs.Name),
	}
	r.carrier = r.newCarrier(f)
	r.dispatcher = newDispatcher(r.carrier)
	r.dispatcher.trace = r.traceResponse
	r.dispatcher.log = func(format string, args ...any) { r.log.Debugf(format, args...) }
	log := o.Logger
	if log == nil {
		log = discard()
	}
	r.setLog(log)
	for i := range f.Class.Slots() {
		r.slots = append(r.slots, newSlot(r, i))
	}
	return r
}

// busySlots returns how many slots the reader works on at once: bMaxCCIDBusySlots (CCID 1.1 §5.1) made plausible. Where
// something is read before each command, nobody else may be reading.
func busySlots(class *ccid.ClassDescriptor, needs quirks.USB) int {
	if needs.SwallowZLP > 0 {
		return 1
	}
	return max(1, min(int(class.BMaxCCIDBusySlots), class.Slots(), maxCalls))
}

// baseName returns the reader's name without that of its interface. friendly is the model's name by a quirk, "" for none.
func baseName(d usbtransport.DeviceInfo, o Options, friendly string) Name {
	n := Name{Friendly: cmp.Or(friendly, o.FriendlyName, FriendlyName(d)), Serial: d.SerialNumber, Extend: o.NameExtension, Number: o.Number}
	if o.NoSerial {
		n.Serial = ""
	}
	return n
}

func (r *Reader) setLog(log logrus.FieldLogger) {
	r.naming.Lock()
	defer r.naming.Unlock()
	r.log = log.WithFields(logrus.Fields{"reader": r.name.String(), "port": r.device.info.PortPath})
}

// prepare talks to the reader until it is ready for use.
func (r *Reader) prepare(ctx context.Context) error {
	r.slots[0].begin("open")
	defer r.slots[0].begin("")
	opened := time.Now()
	if err := r.pause(ctx, r.quirks.Timing.WarmUpDelay); err != nil {
		return err
	}
	if !r.options.NoInterfaceName && r.function.StringIndex != 0 {
		r.name.Interface = r.readString(ctx, r.function.StringIndex)
		base := r.options.Logger
		if base == nil {
			base = discard()
		}
		r.setLog(base)
	}
	if err := r.options.ignored(r.name); err != nil {
		return err
	}
	r.dataRates = r.readFrequencies(ctx, ccid.RequestGetDataRates, int(r.function.Class.BNumDataRatesSupported))
	r.clocks = r.readFrequencies(ctx, ccid.RequestGetClockFrequencies, int(r.function.Class.BNumClockSupported))
	if r.function.Interrupt != nil {
		r.dropNotification(ctx)
	}
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	if err := r.setUpPINPad(ctx, opened); err != nil {
		return err
	}
	return r.sendEscapes(ctx)
}

// warmUpTries is how often a reader is asked for its first slot's state before it is given up.
const warmUpTries = 3

// warmUp makes the first exchange, which resynchronises data toggles and finds readers that are still starting, and then
// asks for the state of every slot.
func (r *Reader) warmUp(ctx context.Context) error {
	var err error
	for range warmUpTries {
		if err = r.firstStatus(ctx, r.slots[0]); err == nil {
			break
		}
		if ctx.Err() != nil || r.gone() != nil {
			return err
		}
	}
	for _, s := range r.slots[1:] {
		if err != nil {
			break
		}
		err = r.firstStatus(ctx, s)
	}
	return err
}

// firstStatus asks for a slot's state; a failure that the reader reports is an answer too.
func (r *Reader) firstStatus(ctx context.Context, s *Slot) error {
	_, err := s.statusWithin(ctx, s.reader.deadlines.firstStatus())
	var failed *ccid.CommandError
	if errors.As(err, &failed) {
		return nil
	}
	return err
}

// maxFrequencies bounds the lists that are asked for: the count is a byte, but unreliable, so the most that it can say
// is asked for.
const maxFrequencies = 256

// readFrequencies returns the list that a class request gives, nil where none is announced or it can't be had: many
// readers stall these requests.
func (r *Reader) readFrequencies(ctx context.Context, request uint8, count int) []int {
	if count == 0 {
		return nil
	}
	buf := make([]byte, 4*maxFrequencies)
	n := 0
	err := withTimeout(ctx, controlWait, func(ctx context.Context) (err error) {
		n, err = r.gate.control(ctx, usbtransport.Setup{
			RequestType: ccid.RequestTypeIn, Request: request, Index: uint16(r.function.Interface.Number),
		}, buf[:4*count])
		return err
	})
	if err != nil {
		r.log.Debugf("class request 0x%02X: %v", request, err)
		return nil
	}
	var list []int
	for _, v := range ccid.ParseFrequencies(buf[:min(n, len(buf))]) {
		list = append(list, int(min(v, 1<<31-1)))
	}
	return list
}

// readString returns a string descriptor in the device's first language, "" where it can't be had (USB 2.0 §9.6.7).
func (r *Reader) readString(ctx context.Context, index uint8) string {
	languages := r.readStringDescriptor(ctx, 0, 0)
	if len(languages) < 1 {
		return ""
	}
	return string(utf16.Decode(r.readStringDescriptor(ctx, index, languages[0])))
}

func (r *Reader) readStringDescriptor(ctx context.Context, index uint8, language uint16) []uint16 {
	const getDescriptor, in, stringType = 0x06, 0x80, 0x03
	buf := make([]byte, 255)
	n := 0
	err := withTimeout(ctx, controlWait, func(ctx context.Context) (err error) {
		n, err = r.gate.control(ctx, usbtransport.Setup{RequestType: in, Request: getDescriptor, Value: stringType<<8 | uint16(index), Index: language}, buf)
		return err
	})
	if err != nil || n < 2 || buf[1] != stringType {
		return nil
	}
	var units []uint16
	for b := buf[2:max(2, min(n, int(buf[0])))]; len(b) >= 2; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return units
}

// Bounds of dwMaxCCIDMessageLength that make sense: less than the first can't carry a block, and stands in descriptors
// of readers that take messages of usual length.
const (
	leastMessage = 32
	usualMessage = ccid.HeaderLength + 261
)

// maxMessage makes dwMaxCCIDMessageLength (CCID 1.1 §5.1) usable: 0..2^32-1 becomes 32..65,554.
func maxMessage(announced uint32) int {
	switch {
	case announced < leastMessage:
		return usualMessage
	case announced > ccid.MaxMessageLength:
		return ccid.MaxMessageLength
	}
	return int(announced)
}

// removed is called once, when the device is removed.
func (r *Reader) removed() {
	r.naming.Lock()
	log := r.log
	r.naming.Unlock()
	for _, s := range r.slots {
		if op := s.underWay(); op != "" {
			log = log.WithField(fmt.Sprintf("slot%d", s.index), op)
		}
	}
	log.Info("reader removed")
}

// Device returns the device that the reader is part of.
func (r *Reader) Device() *Device { return r.device }

// Function returns the USB interface and its descriptors, as the reader announces them. Class is never nil.
func (r *Reader) Function() Function {
	f := r.function
	f.Class = r.announced
	return f
}

// Class returns the class descriptor that the driver goes by: what the reader announces, with the corrections of
// Options.Quirks.
func (r *Reader) Class() ccid.ClassDescriptor { return *r.function.Class }

// Quirks returns what Options.Quirks says that the reader needs, whatever the card.
func (r *Reader) Quirks() quirks.Settings { return r.quirks }

// Name returns the name of the reader's first slot, as pcsc-lite would call it.
func (r *Reader) Name() string { return r.name.String() }

// Slots returns the reader's slots, in order.
func (r *Reader) Slots() []*Slot { return append([]*Slot(nil), r.slots...) }

// Slot returns slot index, nil where the reader has no such slot.
func (r *Reader) Slot(index int) *Slot {
	if index < 0 || index >= len(r.slots) {
		return nil
	}
	return r.slots[index]
}

// DataRates returns the data rates in bit/s that the reader announces (CCID 1.1 §5.3.3), nil for "any up to
// dwMaxDataRate" or where it doesn't say.
func (r *Reader) DataRates() []int { return append([]int(nil), r.dataRates...) }

// ClockFrequencies returns the clock frequencies in kHz that the reader announces (CCID 1.1 §5.3.2), nil for the default
// ones or where it doesn't say.
func (r *Reader) ClockFrequencies() []int { return append([]int(nil), r.clocks...) }

// MaxCommand is the longest abData of a command in bytes: dwMaxCCIDMessageLength, made plausible, without the header.
func (r *Reader) MaxCommand() int { return r.maxMessage - ccid.HeaderLength }

// SetRemoved puts the reader's device into the removed state, see Device.SetRemoved.
func (r *Reader) SetRemoved() { r.device.SetRemoved() }

// Removed reports whether the reader's device is in the removed state.
func (r *Reader) Removed() bool { return r.device.Removed() }

// Done is closed when the reader is closed or removed.
func (r *Reader) Done() <-chan struct{} { return r.life.Done() }

// Close ends what is under way with usbtransport.ErrClosed, takes the cards' power away, gives the interface back and
// waits for all of that. It may be called at any time, from any goroutine, repeatedly.
func (r *Reader) Close() error {
	r.closeOnce.Do(func() {
		r.end()
		r.powerDown()
		r.background.Wait()
		// Only now: a removal in the middle of all this is to be told as any other.
		r.device.detach(r)
		r.closeErr = r.usb.Close()
		if errors.Is(r.closeErr, usbtransport.ErrRemoved) {
			r.closeErr = nil
		}
	})
	return r.closeErr
}

// powerDown takes the power of every card that has it, unless the reader is gone or does not answer.
func (r *Reader) powerDown() {
	// Whoever was at the reader when its life ended leaves after one abort.
	for range cap(r.bus) {
		r.bus <- struct{}{}
		defer func() { <-r.bus }()
	}
	end := time.Now().Add(closeWait)
	for _, s := range r.slots {
		if !s.State().Powered || r.device.Removed() || time.Now().After(end) {
			continue
		}
		s.begin("close")
		err := r.probe(ccid.IccPowerOff(uint8(s.index)))
		s.begin("")
		if err != nil {
			r.log.Debugf("power off of slot %d at close: %v", s.index, err)
			return
		}
		s.lose()
	}
}

// withTimeout runs f with a context that ends after limit at the latest.
func withTimeout(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}
