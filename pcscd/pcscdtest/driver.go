// Package pcscdtest has a card driver in memory for tests of the resource manager: readers, cards that come and go, and
// whatever goes wrong with them.
package pcscdtest

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
)

// Card is a card for a Driver. The zero value of each field but ATR is a useful one.
type Card struct {
	// ATR is what the card says at each power-up; without one it is mute.
	ATR []byte
	// Answer makes the response to a command; nil echoes it, with 9000 behind.
	Answer func(command []byte) []byte
}

// Call is one call of the driver.
type Call struct {
	Function string
	Lun      ifdhandler.Lun
	// Action is PowerICC's, Protocol SetProtocolParameters' and TransmitToICC's, Tag that of the capabilities, Code Control's.
	Action   ifdhandler.Action
	Protocol ifdhandler.Protocol
	Tag      ifdhandler.Tag
	Code     uint32
}

// Driver is a pcscd.Driver for readers that are nothing but memory. Its methods may be called at any time.
type Driver struct {
	mu    sync.Mutex
	slots map[ifdhandler.Lun]*slot
	hook  func(context.Context, Call) error
	calls []Call
}

var _ pcscd.Driver = (*Driver)(nil)

// slot is one open channel.
type slot struct {
	card     *Card
	events   int // insertions and removals
	powered  bool
	protocol ifdhandler.Protocol
	removed  bool
	// told is what ICCPresence said last.
	toldPresent bool
	toldEvents  int
	// changed is closed and replaced at every change.
	changed chan struct{}
}

// maxCalls bounds what Calls returns; the oldest go.
const maxCalls = 1000

// NewDriver makes a driver without readers.
func NewDriver() *Driver { return &Driver{slots: map[ifdhandler.Lun]*slot{}} }

// Open makes a channel, with a card in its slot or nil.
func (d *Driver) Open(lun ifdhandler.Lun, c *Card) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slots[lun] = &slot{card: c, changed: make(chan struct{})}
}

// Insert puts a card into a slot, in place of the one that is there; nil takes that out.
func (d *Driver) Insert(lun ifdhandler.Lun, c *Card) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slots[lun]
	if s == nil {
		return
	}
	s.card, s.powered, s.protocol = c, false, 0
	s.events++
	s.change()
}

// Unplug makes a reader vanish with all its slots: every call from now on fails with NoSuchDevice.
func (d *Driver) Unplug(number uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for lun, s := range d.slots {
		if lun.Reader() == number {
			s.removed = true
			s.change()
		}
	}
}

func (s *slot) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Hook sets what is asked before each call; its error is the call's. It may wait, as long as the context lasts. nil is
// none.
func (d *Driver) Hook(f func(context.Context, Call) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = f
}

// Calls returns the last calls in their order, without ICCPresence and WaitEvent.
func (d *Driver) Calls() []Call {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// ForgetCalls empties the list of calls.
func (d *Driver) ForgetCalls() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = nil
}

// Powered tells whether the card in a slot has power.
func (d *Driver) Powered(lun ifdhandler.Lun) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slots[lun]
	return s != nil && s.powered
}

// Channels is how many channels are open.
func (d *Driver) Channels() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.slots)
}

// enter is the beginning of a call.
func (d *Driver) enter(ctx context.Context, c Call) error {
	d.mu.Lock()
	hook := d.hook
	if c.Function != "ICCPresence" && c.Function != "WaitEvent" {
		d.calls = append(d.calls, c)
		if len(d.calls) > maxCalls {
			d.calls = slices.Delete(d.calls, 0, maxCalls/2)
		}
	}
	d.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, c)
}

// with runs f for a slot that is there, the driver's mutex held.
func (d *Driver) with(ctx context.Context, c Call, f func(*slot) error) error {
	if err := d.enter(ctx, c); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slots[c.Lun]
	if s == nil || s.removed {
		return fail(c, ifdhandler.NoSuchDevice)
	}
	return f(s)
}

func fail(c Call, code ifdhandler.Code) error {
	return &ifdhandler.Error{Function: c.Function, Lun: c.Lun, Code: code}
}

// PowerICC implements pcscd.Driver.
func (d *Driver) PowerICC(ctx context.Context, lun ifdhandler.Lun, action ifdhandler.Action) (atr []byte, err error) {
	c := Call{Function: "PowerICC", Lun: lun, Action: action}
	err = d.with(ctx, c, func(s *slot) error {
		s.powered, s.protocol = false, 0
		if action == ifdhandler.PowerDown {
			return nil
		}
		if s.card == nil || s.card.ATR == nil {
			return fail(c, ifdhandler.ErrorPowerAction)
		}
		s.powered = true
		atr = bytes.Clone(s.card.ATR)
		return nil
	})
	return atr, err
}

// SetProtocolParameters implements pcscd.Driver.
func (d *Driver) SetProtocolParameters(ctx context.Context, lun ifdhandler.Lun, p ifdhandler.Protocol, _ byte, _ [3]byte) error {
	c := Call{Function: "SetProtocolParameters", Lun: lun, Protocol: p}
	return d.with(ctx, c, func(s *slot) error {
		if !s.powered {
			return fail(c, ifdhandler.CommunicationError)
		}
		s.protocol = p
		return nil
	})
}

// TransmitToICC implements pcscd.Driver.
func (d *Driver) TransmitToICC(ctx context.Context, lun ifdhandler.Lun, send ifdhandler.Protocol, command []byte) (response []byte, err error) {
	c := Call{Function: "TransmitToICC", Lun: lun, Protocol: send}
	err = d.with(ctx, c, func(s *slot) error {
		switch {
		case s.card == nil:
			return fail(c, ifdhandler.ICCNotPresent)
		case !s.powered:
			return fail(c, ifdhandler.CommunicationError)
		case send != ifdhandler.ProtocolRaw && send != s.protocol:
			return fail(c, ifdhandler.ProtocolNotSupported)
		case s.card.Answer != nil:
			response = s.card.Answer(command)
		default:
			response = append(bytes.Clone(command), 0x90, 0x00)
		}
		return nil
	})
	return response, err
}

// Control implements pcscd.Driver: code 0x42000001 echoes, others are not supported.
func (d *Driver) Control(ctx context.Context, lun ifdhandler.Lun, code uint32, in []byte) (out []byte, err error) {
	c := Call{Function: "Control", Lun: lun, Code: code}
	err = d.with(ctx, c, func(*slot) error {
		if code != ifdhandler.ControlEscape {
			return fail(c, ifdhandler.ErrorNotSupported)
		}
		out = bytes.Clone(in)
		return nil
	})
	return out, err
}

// GetCapabilities implements pcscd.Driver: there is the vendor's name and the ATR.
func (d *Driver) GetCapabilities(ctx context.Context, lun ifdhandler.Lun, tag ifdhandler.Tag) (value []byte, err error) {
	c := Call{Function: "GetCapabilities", Lun: lun, Tag: tag}
	err = d.with(ctx, c, func(s *slot) error {
		switch tag {
		case ifdhandler.AttrVendorName:
			value = []byte("goccid")
			return nil
		case ifdhandler.AttrATRString:
			if s.powered {
				value = bytes.Clone(s.card.ATR)
			}
			return nil
		}
		return fail(c, ifdhandler.ErrorTag)
	})
	return value, err
}

// SetCapabilities implements pcscd.Driver: TagDeviceRemoved makes the reader vanish, as Unplug.
func (d *Driver) SetCapabilities(lun ifdhandler.Lun, tag ifdhandler.Tag, _ []byte) error {
	c := Call{Function: "SetCapabilities", Lun: lun, Tag: tag}
	if err := d.enter(context.Background(), c); err != nil {
		return err
	}
	if tag != ifdhandler.TagDeviceRemoved {
		return fail(c, ifdhandler.ErrorTag)
	}
	d.Unplug(lun.Reader())
	return nil
}

// ICCPresence implements pcscd.Driver. A card that was exchanged for another is missed once.
func (d *Driver) ICCPresence(ctx context.Context, lun ifdhandler.Lun) (code ifdhandler.Code, err error) {
	err = d.with(ctx, Call{Function: "ICCPresence", Lun: lun}, func(s *slot) error {
		present := s.card != nil
		if present && s.toldPresent && s.events != s.toldEvents {
			present = false
		}
		s.toldPresent, s.toldEvents = present, s.events
		code = ifdhandler.ICCNotPresent
		if present {
			code = ifdhandler.ICCPresent
		}
		return nil
	})
	if err != nil {
		return ifdhandler.CodeOf(err), err
	}
	return code, nil
}

// WaitEvent implements pcscd.Driver.
func (d *Driver) WaitEvent(ctx context.Context, lun ifdhandler.Lun) error {
	for {
		var news bool
		var changed chan struct{}
		err := d.with(ctx, Call{Function: "WaitEvent", Lun: lun}, func(s *slot) error {
			news = (s.card != nil) != s.toldPresent || s.events != s.toldEvents
			changed = s.changed
			return nil
		})
		if err != nil || news {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// CloseChannel implements pcscd.Driver.
func (d *Driver) CloseChannel(ctx context.Context, lun ifdhandler.Lun) error {
	c := Call{Function: "CloseChannel", Lun: lun}
	if err := d.enter(ctx, c); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.slots[lun]
	if s == nil {
		return fail(c, ifdhandler.NoSuchDevice)
	}
	delete(d.slots, lun)
	s.change()
	return nil
}
