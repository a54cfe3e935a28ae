package ifdhandler

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
)

// Lun is a logical unit number: the reader's number in the high and the slot's in the low half.
type Lun uint32

// NewLun puts a Lun together.
func NewLun(reader, slot uint16) Lun { return Lun(reader)<<16 | Lun(slot) }

// Reader and Slot are the halves of a Lun.
func (l Lun) Reader() uint16 { return uint16(l >> 16) }

// Slot is the slot's number.
func (l Lun) Slot() uint16 { return uint16(l) }

// String returns eight hexadecimal digits.
func (l Lun) String() string { return fmt.Sprintf("%08X", uint32(l)) }

// Policy decides what applications may do with a reader.
type Policy struct {
	// Escape tells whether an application may send this vendor command to the reader; nil is never. Where it is not nil, or
	// the reader's quirks allow all of them, applications are told that there is this feature. Escape commands
	// can do anything to a reader, such as change its firmware. Those that the reader's quirks allow are not asked for.
	Escape func(reader *host.Reader, command []byte) bool
}

// Options are what a Handler can be made with.
type Options struct {
	// Backend is where CreateChannelByName and CreateChannel look for readers; without it there is only Attach.
	Backend usbtransport.Backend
	// Reader has the options of the readers that are opened, their quirks among them; Number is taken from the Lun.
	Reader host.Options
	// Policy bounds what applications may do.
	Policy Policy
}

// Handler is an IFD handler: a driver as a PC/SC resource manager uses it.
type Handler struct {
	options Options

	mu       sync.Mutex
	channels map[Lun]*channel
	readers  map[uint16]*opened
	taken    map[functionID]bool // functions that a reader has, or is being opened for
}

// functionID identifies a CCID function of a plugged-in device.
type functionID struct {
	key    string
	number uint8
}

// opened is one reader with channels. It is closed with the last of them, unless it belongs to somebody else.
type opened struct {
	owned bool
	users int // Handler.mu guards it

	// mu is held while the reader is opened or closed. Handler.mu may be taken under it, not the other way round.
	mu     sync.Mutex
	reader *host.Reader
}

// channel is one slot that a resource manager has opened.
type channel struct {
	lun    Lun
	reader *host.Reader
	slot   *host.Slot

	mu sync.Mutex
	// told is the card's state as ICCPresence told it last.
	told host.CardState
}

// New makes a handler. It does no I/O.
func New(o Options) *Handler {
	return &Handler{options: o, channels: map[Lun]*channel{}, readers: map[uint16]*opened{}, taken: map[functionID]bool{}}
}

// Attach makes the slots of an open reader known under the Luns of this number, one for each slot. The reader stays the
// caller's to close. Codes: CommunicationError when the number is in use.
func (h *Handler) Attach(number uint16, r *host.Reader) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readers[number] != nil {
		return &Error{Function: "CreateChannel", Lun: NewLun(number, 0), Code: CommunicationError, Err: errInUse}
	}
	h.readers[number] = &opened{reader: r, users: len(r.Slots())}
	h.taken[functionOf(r.Function())] = true
	for _, s := range r.Slots() {
		lun := NewLun(number, uint16(s.Index()))
		h.channels[lun] = &channel{lun: lun, reader: r, slot: s}
	}
	return nil
}

func functionOf(f host.Function) functionID { return functionID{f.Device.Key, f.Interface.Number} }

var errInUse = errors.New("logical unit is in use")

// CreateChannelByName opens the slot lun.Slot() of a reader: "usb:08e6/3437", with an optional
// ":libudev:<interface>:/dev/bus/usb/<bus>/<address>" or ":libusb-1.0:<bus>:<address>:<interface>" behind it, numbers in
// decimal. The first slot of a reader number finds and opens the reader, the others belong to the same one. Codes:
// NoSuchDevice when there is no such reader, CommunicationError when the Lun is in use or the reader can't be opened.
func (h *Handler) CreateChannelByName(ctx context.Context, lun Lun, device string) error {
	name, err := parseDeviceName(device)
	if err != nil {
		return h.fail("CreateChannelByName", lun, &Error{Code: NoSuchDevice, Err: err})
	}
	return h.fail("CreateChannelByName", lun, h.create(ctx, lun, name))
}

// CreateChannel opens a slot of the first reader that nobody has opened yet, or, for further slots, of the reader that
// has this number already. Codes: as CreateChannelByName.
func (h *Handler) CreateChannel(ctx context.Context, lun Lun) error {
	return h.fail("CreateChannel", lun, h.create(ctx, lun, deviceName{}))
}

// CloseChannel takes the card's power away and forgets the Lun; with the last slot of a reader that was opened by
// CreateChannelByName or CreateChannel, the reader is closed. Codes: NoSuchDevice for an unknown Lun.
func (h *Handler) CloseChannel(ctx context.Context, lun Lun) error {
	c, err := h.channel("CloseChannel", lun)
	if err != nil {
		return err
	}
	if c.slot.State().Powered {
		// Whether or not it works, the channel is closed.
		_ = c.slot.PowerOff(ctx)
	}
	h.mu.Lock()
	known := h.channels[lun] == c
	if known {
		delete(h.channels, lun)
	}
	h.mu.Unlock()
	if !known {
		return nil
	}
	return h.fail("CloseChannel", lun, h.leave(lun))
}

// create opens a slot. Readers are opened side by side; slots of one reader wait for its first one.
func (h *Handler) create(ctx context.Context, lun Lun, name deviceName) error {
	o, err := h.enter(lun)
	if err != nil {
		return err
	}
	slot, err := h.slot(ctx, o, lun, name)
	if err == nil {
		err = h.know(lun, slot)
	}
	if err != nil {
		return errors.Join(err, h.leave(lun))
	}
	return nil
}

// enter makes the caller a user of the reader with this number, open or yet to be opened.
func (h *Handler) enter(lun Lun) (*opened, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.channels[lun] != nil {
		return nil, &Error{Code: CommunicationError, Err: errInUse}
	}
	o := h.readers[lun.Reader()]
	if o == nil {
		o = &opened{owned: true}
		h.readers[lun.Reader()] = o
	}
	o.users++
	return o, nil
}

// leave is the reverse of enter. The last user closes the reader.
func (h *Handler) leave(lun Lun) error {
	h.mu.Lock()
	o := h.readers[lun.Reader()]
	if o == nil {
		h.mu.Unlock()
		return nil
	}
	if o.users--; o.users > 0 {
		h.mu.Unlock()
		return nil
	}
	delete(h.readers, lun.Reader())
	h.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reader == nil {
		return nil
	}
	h.give(o.reader.Function())
	if !o.owned {
		return nil
	}
	return o.reader.Close()
}

// slot returns the slot for the Lun, of a reader that is opened if need be.
func (h *Handler) slot(ctx context.Context, o *opened, lun Lun, name deviceName) (*host.Slot, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reader == nil {
		reader, err := h.open(ctx, lun, name)
		if err != nil {
			return nil, err
		}
		o.reader = reader
	}
	if s := o.reader.Slot(int(lun.Slot())); s != nil {
		return s, nil
	}
	return nil, &Error{Code: NoSuchDevice, Err: fmt.Errorf("reader has %d slots", len(o.reader.Slots()))}
}

func (h *Handler) know(lun Lun, s *host.Slot) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.channels[lun] != nil {
		return &Error{Code: CommunicationError, Err: errInUse}
	}
	h.channels[lun] = &channel{lun: lun, reader: s.Reader(), slot: s}
	return nil
}

// open finds and opens a reader that no Lun has.
func (h *Handler) open(ctx context.Context, lun Lun, name deviceName) (*host.Reader, error) {
	if h.options.Backend == nil {
		return nil, &Error{Code: NoSuchDevice, Err: errors.New("no USB backend")}
	}
	devices, err := h.options.Backend.Devices(ctx)
	if err != nil {
		return nil, err
	}
	options := h.options.Reader
	options.Number = int(lun.Reader())
	reasons := []error{host.ErrNoReader}
	for _, d := range devices {
		functions, _ := host.Functions(d)
		for _, f := range functions {
			if !name.matches(f) || !h.take(f) {
				continue
			}
			r, err := host.Open(ctx, h.options.Backend, d, f.Interface.Number, options)
			if err == nil {
				return r, nil
			}
			h.give(f)
			reasons = append(reasons, err)
		}
	}
	if len(reasons) == 1 {
		return nil, &Error{Code: NoSuchDevice, Err: host.ErrNoReader}
	}
	return nil, &Error{Code: CommunicationError, Err: errors.Join(reasons...)}
}

// take makes a function this caller's, if it is nobody's.
func (h *Handler) take(f host.Function) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken[functionOf(f)] {
		return false
	}
	h.taken[functionOf(f)] = true
	return true
}

func (h *Handler) give(f host.Function) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.taken, functionOf(f))
}

func (h *Handler) channel(function string, lun Lun) (*channel, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.channels[lun]; c != nil {
		return c, nil
	}
	return nil, &Error{Function: function, Lun: lun, Code: NoSuchDevice, Err: errors.New("no such logical unit")}
}

// fail makes an error an *Error with this function and Lun.
func (h *Handler) fail(function string, lun Lun, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return &Error{Function: function, Lun: lun, Code: e.Code, Err: e.Err}
	}
	return &Error{Function: function, Lun: lun, Code: CodeOf(err), Err: err}
}

// SetProtocolParameters makes the card ready for TransmitToICC with T=0 or T=1. flags and pts are the API's way to
// dictate PPS; the driver chooses the best parameters itself and takes only 0. T=0 is transparent, as PC/SC
// applications expect: they send TPDUs to readers at TPDU and character level. Codes: ErrorNotSupported for flags,
// ProtocolNotSupported, ErrorPTSFailure, and those of the driver.
func (h *Handler) SetProtocolParameters(ctx context.Context, lun Lun, p Protocol, flags byte, _ [3]byte) error {
	const function = "SetProtocolParameters"
	c, err := h.channel(function, lun)
	if err != nil {
		return err
	}
	t, ok := p.t()
	switch {
	case !ok:
		return &Error{Function: function, Lun: lun, Code: ProtocolNotSupported, Err: fmt.Errorf("protocol 0x%X", uint32(p))}
	case flags != 0:
		return &Error{Function: function, Lun: lun, Code: ErrorNotSupported, Err: fmt.Errorf("flags 0x%02X", flags)}
	}
	return h.fail(function, lun, c.slot.SetProtocol(ctx, t, host.Transparent))
}

// PowerICC powers the card up (cold reset), powers it down, or resets it (warm where that works), and returns the answer
// to reset, nil for PowerDown. Codes: ErrorPowerAction, NoSuchDevice, NotSupported for another action.
func (h *Handler) PowerICC(ctx context.Context, lun Lun, action Action) ([]byte, error) {
	const function = "PowerICC"
	c, err := h.channel(function, lun)
	if err != nil {
		return nil, err
	}
	var atr []byte
	switch action {
	case PowerUp:
		atr, err = c.slot.PowerOn(ctx, host.ColdReset)
	case Reset:
		atr, err = c.slot.PowerOn(ctx, host.WarmReset)
	case PowerDown:
		err = c.slot.PowerOff(ctx)
	default:
		return nil, &Error{Function: function, Lun: lun, Code: NotSupported, Err: fmt.Errorf("action %d", uint32(action))}
	}
	if err != nil && CodeOf(err) != NoSuchDevice {
		return nil, &Error{Function: function, Lun: lun, Code: ErrorPowerAction, Err: err}
	}
	return atr, h.fail(function, lun, err)
}

// TransmitToICC sends a command to the card by the protocol of SendPci, which must be the one that was set, and returns
// the response. ProtocolRaw sends the bytes as one block, whatever the protocol. Codes: ProtocolNotSupported,
// ICCNotPresent, NoSuchDevice, ResponseTimeout, NotSupported for an extended APDU to a short APDU reader,
// CommunicationError.
func (h *Handler) TransmitToICC(ctx context.Context, lun Lun, send Protocol, command []byte) ([]byte, error) {
	const function = "TransmitToICC"
	c, err := h.channel(function, lun)
	if err != nil {
		return nil, err
	}
	if send == ProtocolRaw {
		response, err := c.slot.XfrBlock(ctx, command, 0, ccid.ChainSingle)
		return response, h.fail(function, lun, err)
	}
	t, ok := send.t()
	if p, set := c.slot.Parameters(); !ok || set && p.T != t {
		return nil, &Error{Function: function, Lun: lun, Code: ProtocolNotSupported, Err: fmt.Errorf("protocol 0x%X", uint32(send))}
	}
	response, err := c.slot.Transmit(ctx, command)
	return response, h.fail(function, lun, err)
}

// ICCPresence returns ICCPresent or ICCNotPresent. A card that was exchanged for another between two calls is reported
// as not present once. Errors: NoSuchDevice for a reader that is gone, never ICCNotPresent; ResponseTimeout,
// CommunicationError.
func (h *Handler) ICCPresence(ctx context.Context, lun Lun) (Code, error) {
	const function = "ICCPresence"
	c, err := h.channel(function, lun)
	if err != nil {
		return NoSuchDevice, err
	}
	if _, err := c.slot.Status(ctx); err != nil {
		err := h.fail(function, lun, err)
		return CodeOf(err), err
	}
	return c.presence(), nil
}

// presence compares the card's state with the one that was told last.
func (c *channel) presence() Code {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.slot.State()
	exchanged := c.told.Present && now.Present && now.Events != c.told.Events
	c.told = now
	if exchanged {
		c.told.Present = false
	}
	if !c.told.Present {
		return ICCNotPresent
	}
	return ICCPresent
}

// WaitEvent waits until ICCPresence has something new to tell. It stands for the function that
// TAG_IFD_POLLING_THREAD_WITH_TIMEOUT gives; ending ctx stands for TAG_IFD_STOP_POLLING_THREAD and is no error. Codes:
// NoSuchDevice when the reader is gone, CommunicationError.
func (h *Handler) WaitEvent(ctx context.Context, lun Lun) error {
	c, err := h.channel("WaitEvent", lun)
	if err != nil {
		return err
	}
	c.mu.Lock()
	told := c.told
	c.mu.Unlock()
	if _, err = c.slot.WaitChange(ctx, told); ctx.Err() != nil && CodeOf(err) != NoSuchDevice {
		return nil
	}
	return h.fail("WaitEvent", lun, err)
}
