// Package virtual is a USB bus in memory with CCID readers on it, for tests, demonstrations and export over USB/IP: the
// device's side of CCID 1.1, written to be strict about what it receives.
//
//	bus := virtual.NewBus()
//	reader, err := virtual.NewReader(virtual.Config{Model: "gemalto-pc-twin", Cards: []card.Card{card.NewT1()}})
//	info, err := bus.Plug(reader)
//	// … drive it through bus, a usbtransport.Backend …
//	bus.Unplug(reader)
//	for _, v := range reader.Violations() { … } // rules of CCID that the host has broken
//
// Models without bulk endpoints are tokens: they are the device's side of ICCD 1.0, version A or B, with the card in them. The
// same cards, faults, Config.Answer (version B) and Violations work for them.
//
// Who owns what. A Bus owns the list of what is plugged in, and a plug-in its endpoints' queues, each behind its own
// mutex. A Reader owns its slots, behind the mutex of the interface that they belong to; a card belongs to the goroutine
// that works on a slot's command, of which there is one at a time and slot, started by Out and ended by Detach, which
// waits for it. Locks are taken in the order Bus, plug-in, interface of a reader; no lock is held while a card works.
package virtual

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual/card"
)

// Config says what reader to make. The zero value of each field leaves the model as it is.
type Config struct {
	// Model is the reader's name for FindModel; empty is "gemalto-pc-twin".
	Model string
	// Level replaces the exchange level in dwFeatures.
	Level *ccid.ExchangeLevel
	// Slots is how many slots the reader has, 1..8 (of its first interface).
	Slots int
	// Override, when set, may change the class descriptor of each interface, after Level and Slots.
	Override func(*ccid.ClassDescriptor)
	// Product replaces the product string, SerialNumber the serial number.
	Product, SerialNumber string
	// Cards are the cards in the slots, from slot 0 of the first interface on; nil is an empty slot.
	Cards []card.Card

	// WaitingTime is how long the reader waits for a card before it calls it mute; 0 is 5 s.
	WaitingTime time.Duration
	// Escape answers PC_to_RDR_Escape; nil sends the data back.
	Escape func(slot uint8, data []byte) ([]byte, ccid.ErrorCode, bool)
	// PINPad is the reader's PIN pad, which it has when bPINSupport says so.
	PINPad PINPad
	// Answer, when set, may answer a command in place of the reader, for readers that are peculiar. For a token of ICCD version B
	// a request that begins a command is the command; one of version A has no say.
	Answer func(ccid.Command) (ccid.Response, bool)
}

const (
	defaultModel       = "gemalto-pc-twin"
	defaultWaitingTime = 5 * time.Second
	maxSlots           = 8
	// maxPacketSize is that of a full-speed bulk endpoint.
	maxPacketSize = 64
	// interruptPacketSize holds the notification of 28 slots.
	interruptPacketSize = 8
)

// Reader is a CCID reader. It is a Device for a Bus. All methods may be called from several goroutines at once.
type Reader struct {
	config      Config
	model       *Model
	descriptors []byte
	functions   []*function
	pad         *pad

	mu         sync.Mutex
	violations []Violation
}

var _ Device = (*Reader)(nil)

// NewReader makes a reader.
func NewReader(c Config) (*Reader, error) {
	if c.Model == "" {
		c.Model = defaultModel
	}
	if c.WaitingTime == 0 {
		c.WaitingTime = defaultWaitingTime
	}
	model, err := FindModel(c.Model)
	if err != nil {
		return nil, err
	}
	if c.Slots < 0 || c.Slots > maxSlots {
		return nil, fmt.Errorf("virtual: %d slots: 1 to %d are possible", c.Slots, maxSlots)
	}
	if c.PINPad.TimeOut == 0 {
		c.PINPad.TimeOut = defaultPINTimeOut
	}
	r := &Reader{config: c, model: model, pad: newPad()}
	if err := r.pad.press(c.PINPad.Keys); err != nil {
		return nil, err
	}
	cards := c.Cards
	for i, description := range model.Interfaces {
		f, err := newFunction(r, i, description)
		if err != nil {
			return nil, err
		}
		for _, s := range f.slots {
			if len(cards) > 0 {
				s.card, cards = cards[0], cards[1:]
			}
		}
		r.functions = append(r.functions, f)
	}
	if len(cards) > 0 {
		return nil, fmt.Errorf("virtual: %d cards are more than %s has slots", len(c.Cards), model.Name)
	}
	r.descriptors = r.describe()
	return r, nil
}

// describe puts the device descriptor and the configuration together.
func (r *Reader) describe() []byte {
	configuration := make([]byte, 9, 256)
	for _, f := range r.functions {
		configuration = append(configuration, f.describe()...)
	}
	copy(configuration, []byte{9, usbtransport.DescriptorConfiguration, 0, 0, byte(len(r.functions)), 1, 0, 0x80, 50})
	binary.LittleEndian.PutUint16(configuration[2:], uint16(len(configuration)))
	manufacturer, product, serial := r.strings()
	device := []byte{
		deviceDescriptorLength, usbtransport.DescriptorDevice, 0x00, 0x02, 0, 0, 0, maxPacketSize, 0, 0, 0, 0, 0, 0,
		index(manufacturer, stringManufacturer), index(product, stringProduct), index(serial, stringSerial), 1,
	}
	binary.LittleEndian.PutUint16(device[8:], r.model.IDVendor)
	binary.LittleEndian.PutUint16(device[10:], r.model.IDProduct)
	binary.LittleEndian.PutUint16(device[12:], r.model.BCDDevice)
	return append(device, configuration...)
}

// index is a string's index in the device descriptor, 0 for a string that is not there.
func index(s string, i byte) byte {
	if s == "" {
		return 0
	}
	return i
}

func (r *Reader) strings() (manufacturer, product, serial string) {
	product = r.model.Product
	if r.config.Product != "" {
		product = r.config.Product
	}
	return r.model.Manufacturer, product, r.config.SerialNumber
}

// Describe implements Device.
func (r *Reader) Describe() usbtransport.DeviceInfo {
	manufacturer, product, serial := r.strings()
	return usbtransport.DeviceInfo{
		IDVendor: r.model.IDVendor, IDProduct: r.model.IDProduct, BCDDevice: r.model.BCDDevice,
		Manufacturer: manufacturer, Product: product, SerialNumber: serial, Descriptors: slices.Clone(r.descriptors),
	}
}

// Model is the reader's model.
func (r *Reader) Model() Model { return *r.model }

// ClassDescriptor returns the class descriptor that the reader's interface announces; interfaces count from 0 in the order of
// the model.
func (r *Reader) ClassDescriptor(i int) ccid.ClassDescriptor { return r.functions[i].announced }

// Attach implements Device.
func (r *Reader) Attach(p *Port) {
	for _, f := range r.functions {
		f.attach(p)
	}
}

// Detach implements Device.
func (r *Reader) Detach() {
	for _, f := range r.functions {
		f.detach()
	}
}

// Close takes the cards out and ends them. A reader that is plugged in has to be unplugged first.
func (r *Reader) Close() error {
	var list []error
	for _, f := range r.functions {
		for _, s := range f.slots {
			if c := f.exchangeCard(s, nil); c != nil {
				list = append(list, c.Close())
			}
		}
	}
	return errors.Join(list...)
}

// SetCard puts a card into a slot in place of what is there, which it returns: its power is off, and it is the caller's
// to close. nil leaves the slot empty. Slots count over all interfaces of the reader, from 0.
func (r *Reader) SetCard(slot int, c card.Card) (card.Card, error) {
	for _, f := range r.functions {
		if slot >= 0 && slot < len(f.slots) {
			return f.exchangeCard(f.slots[slot], c), nil
		}
		slot -= len(f.slots)
	}
	return nil, ErrNoSlot
}

// Slots is the number of slots of all interfaces.
func (r *Reader) Slots() int {
	n := 0
	for _, f := range r.functions {
		n += len(f.slots)
	}
	return n
}

// Violations lists the rules that the host has broken, in the order in which it did, since the reader was made or
// ForgetViolations. At most 1,000 are kept.
func (r *Reader) Violations() []Violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.violations)
}

// ForgetViolations empties the list of violations.
func (r *Reader) ForgetViolations() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = nil
}

func (r *Reader) violated(rule Rule, slot, seq uint8, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.violations) < maxViolations {
		r.violations = append(r.violations, Violation{Rule: rule, Slot: slot, Seq: seq, Detail: fmt.Sprintf(format, args...)})
	}
}

// NotifyHardwareError sends RDR_to_PC_HardwareError on the first interface's interrupt endpoint (CCID 1.1 §6.3.2).
func (r *Reader) NotifyHardwareError(slot, seq, code uint8) {
	r.functions[0].send(r.functions[0].interrupt, []byte{uint8(ccid.TypeHardwareError), slot, seq, code})
}

// Control implements Device.
func (r *Reader) Control(setup usbtransport.Setup, data []byte) (int, bool) {
	for _, f := range r.functions {
		if setup.RequestType&0x7F == ccid.RequestTypeOut && uint16(f.number) == setup.Index {
			return f.control(setup, data)
		}
	}
	return 0, false
}

// Out implements Device.
func (r *Reader) Out(endpoint uint8, data []byte) {
	for _, f := range r.functions {
		if f.out == endpoint {
			f.receive(slices.Clone(data))
		}
	}
}
