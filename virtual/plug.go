package virtual

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/goccid/goccid/usbtransport"
)

// plug is one plug-in of a device.
type plug struct {
	bus    *Bus
	device Device
	info   usbtransport.DeviceInfo // set before anybody else knows of the plug, then constant

	mu         sync.Mutex
	gone       bool
	generation int           // port resets so far
	changed    chan struct{} // closed and replaced whenever something below changes
	endpoints  map[uint8]*endpoint
	claimed    map[uint8]*claim
}

// endpoint is one endpoint of a plugged device. plug.mu guards it.
type endpoint struct {
	descriptor usbtransport.EndpointDescriptor
	number     uint8 // of its interface
	halted     bool
	queue      []*delivery
	held       *delivery // kept back by Hold
}

// delivery is one transfer that an IN endpoint has to deliver.
type delivery struct {
	late  func() []byte
	bytes []byte // where late is nil or has been called
	begun bool   // some of it was delivered; what is left is less than a packet, or a whole number of them
}

func (d *delivery) data() []byte {
	if d.late != nil {
		d.bytes, d.late = d.late(), nil
	}
	return d.bytes
}

func newPlug(b *Bus, d Device, info usbtransport.DeviceInfo) (*plug, error) {
	interfaces, err := usbtransport.ParseInterfaces(info.Descriptors)
	if err != nil {
		return nil, fmt.Errorf("virtual: device to plug in: %w", err)
	}
	p := &plug{bus: b, device: d, info: info, changed: make(chan struct{}), endpoints: map[uint8]*endpoint{}, claimed: map[uint8]*claim{}}
	for _, i := range interfaces {
		p.claimed[i.Number] = nil
		for _, e := range i.Endpoints {
			p.endpoints[e.Address] = &endpoint{descriptor: e, number: i.Number}
		}
	}
	return p, nil
}

func (p *plug) describe() usbtransport.DeviceInfo {
	info := p.info
	info.Descriptors = slices.Clone(info.Descriptors)
	return info
}

// broadcast wakes everybody who waits; it wants mu held.
func (p *plug) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *plug) remove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	p.broadcast()
}

func (p *plug) queue(address uint8, d *delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.endpoints[address]
	if e == nil || p.gone || len(e.queue) >= maxQueued {
		return
	}
	if e.held != nil {
		e.queue, e.held = append(e.queue, e.held), nil
	}
	e.queue = append(e.queue, d)
	p.broadcast()
}

func (p *plug) setHalt(address uint8, halted bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.endpoints[address]
	if e == nil {
		return false
	}
	e.halted = halted
	p.broadcast()
	return true
}

// claim claims an interface.
func (p *plug) claim(number uint8) (i *claim, kind, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	holder, exists := p.claimed[number]
	switch {
	case p.gone:
		return nil, usbtransport.ErrRemoved, nil
	case !exists:
		return nil, usbtransport.ErrInvalid, fmt.Errorf("no interface %d", number)
	case holder != nil:
		return nil, usbtransport.ErrBusy, &usbtransport.BusyError{Holders: []usbtransport.Holder{{Driver: "usbfs", PID: os.Getpid(), Process: "virtual"}}}
	}
	i = &claim{plug: p, number: number, closed: make(chan struct{})}
	p.claimed[number] = i
	return i, nil, nil
}

// claim is a claimed interface of a plug.
type claim struct {
	plug   *plug
	number uint8
	once   sync.Once
	closed chan struct{}
	under  sync.WaitGroup // transfers under way
	ending sync.Mutex     // makes under.Add and Close exclude each other
}

var _ usbtransport.Interface = (*claim)(nil)

// Device implements usbtransport.Interface.
func (c *claim) Device() usbtransport.DeviceInfo { return c.plug.describe() }

// Number implements usbtransport.Interface.
func (c *claim) Number() uint8 { return c.number }

// transfer is one transfer of a host.
type transfer struct {
	*claim
	ctx        context.Context
	op         string
	address    uint8
	fault      Fault
	generation int
	on         *endpoint // nil for control transfers
}

func (t *transfer) fail(kind, cause error) error {
	return &usbtransport.Error{Op: t.op, Device: t.plug.info.PortPath, Endpoint: t.address, Kind: kind, Cause: cause}
}

// enter keeps Close from finishing until under.Done is called.
func (c *claim) enter() bool {
	c.ending.Lock()
	defer c.ending.Unlock()
	select {
	case <-c.closed:
		return false
	default:
	}
	c.under.Add(1)
	return true
}

// state tells why a transfer can't go on, or nil. It wants plug.mu held.
func (t *transfer) state() error {
	select {
	case <-t.closed:
		return t.fail(usbtransport.ErrClosed, nil)
	default:
	}
	switch {
	case t.plug.gone:
		return t.fail(usbtransport.ErrRemoved, nil)
	case t.plug.generation != t.generation:
		return t.fail(usbtransport.ErrIO, errReset)
	case t.on != nil && t.on.halted:
		return t.fail(usbtransport.ErrStalled, nil)
	}
	return nil
}

// await waits until ready says so. ready is called with plug.mu held.
func (t *transfer) await(ready func() bool) error {
	for {
		t.plug.mu.Lock()
		err := t.state()
		done := err == nil && ready()
		changed := t.plug.changed
		t.plug.mu.Unlock()
		if err != nil || done {
			return err
		}
		select {
		case <-changed:
		case <-t.closed:
		case <-t.ctx.Done():
			return t.fail(usbtransport.ContextKind(t.ctx), nil)
		}
	}
}

func never() bool { return false }

// pause waits for d.
func (t *transfer) pause(d time.Duration) error {
	passed := false
	timer := time.AfterFunc(d, func() {
		t.plug.mu.Lock()
		defer t.plug.mu.Unlock()
		passed = true
		t.plug.broadcast()
	})
	defer timer.Stop()
	return t.await(func() bool { return passed })
}

// transfer makes a transfer that has not begun.
func (c *claim) transfer(ctx context.Context, op string, address uint8) *transfer {
	c.plug.mu.Lock()
	defer c.plug.mu.Unlock()
	return &transfer{claim: c, ctx: ctx, op: op, address: address, generation: c.plug.generation}
}

// endpoint finds the transfer's endpoint, which must be one of the claimed interface and fit the kind.
func (t *transfer) endpoint(kind TransferKind) (*endpoint, error) {
	t.plug.mu.Lock()
	defer t.plug.mu.Unlock()
	e := t.plug.endpoints[t.address]
	switch {
	case t.plug.gone:
		return nil, t.fail(usbtransport.ErrRemoved, nil)
	case e == nil || e.number != t.number || !kind.fits(e.descriptor):
		return nil, t.fail(usbtransport.ErrInvalid, fmt.Errorf("interface %d has no such endpoint", t.number))
	}
	t.on = e
	return e, nil
}

// begin gives a transfer its number and makes those faults that come before it.
func (t *transfer) begin(kind TransferKind, setup usbtransport.Setup, data []byte) error {
	if kind := ended(t.ctx); kind != nil {
		return t.fail(kind, nil)
	}
	endpoint := t.address
	if kind == ControlTransfer {
		endpoint = 0
	}
	var begun bool
	t.fault, begun = t.plug.bus.judge(t.plug, Transfer{Kind: kind, Endpoint: endpoint, Setup: setup, Data: data})
	if !begun {
		return t.fail(usbtransport.ErrRemoved, nil)
	}
	switch t.fault.Kind {
	case RemoveBefore:
		t.plug.bus.unplug(t.plug)
		return t.fail(usbtransport.ErrRemoved, nil)
	case Stall:
		t.plug.setHalt(endpoint, true)
		return t.fail(usbtransport.ErrStalled, nil)
	case IOError:
		return t.fail(usbtransport.ErrIO, nil)
	case Timeout:
		return t.await(never)
	case Delay:
		return t.pause(t.fault.Delay)
	}
	return nil
}

func (k TransferKind) fits(e usbtransport.EndpointDescriptor) bool {
	switch k {
	case BulkOutTransfer:
		return e.Type == usbtransport.TransferBulk && !e.In()
	case BulkInTransfer:
		return e.Type == usbtransport.TransferBulk && e.In()
	case InterruptInTransfer:
		return e.Type == usbtransport.TransferInterrupt && e.In()
	}
	return false
}

// end makes those faults that come when a transfer has done its work.
func (t *transfer) end(n int) (int, error) {
	switch t.fault.Kind {
	case RemoveDuring:
		t.plug.bus.unplug(t.plug)
		return 0, t.fail(usbtransport.ErrRemoved, nil)
	case RemoveAfter:
		t.plug.bus.unplug(t.plug)
	}
	return n, nil
}

// closedError is what every call after Close returns.
func (c *claim) closedError(op string, address uint8) error {
	return &usbtransport.Error{Op: op, Device: c.plug.info.PortPath, Endpoint: address, Kind: usbtransport.ErrClosed}
}

// maxControl bounds wLength, as the interface's comment says.
const maxControl = 4096

// Control implements usbtransport.Interface.
func (c *claim) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	if !c.enter() {
		return 0, c.closedError("control", 0)
	}
	defer c.under.Done()
	t := c.transfer(ctx, "control", 0)
	if len(data) > maxControl {
		return 0, t.fail(usbtransport.ErrInvalid, fmt.Errorf("%d bytes, at most %d", len(data), maxControl))
	}
	if err := t.begin(ControlTransfer, setup, data); err != nil {
		return 0, err
	}
	if t.fault.Kind == Drop {
		return 0, t.await(never)
	}
	in := setup.RequestType&0x80 != 0
	if !in {
		data = t.fault.damage(slices.Clone(data))
	}
	n, ok := c.plug.control(setup, data)
	if !ok {
		return 0, t.fail(usbtransport.ErrStalled, nil)
	}
	if in {
		n = copy(data, t.fault.damage(data[:n]))
	}
	return t.end(n)
}

// BulkOut implements usbtransport.Interface.
func (c *claim) BulkOut(ctx context.Context, address uint8, data []byte) (int, error) {
	if !c.enter() {
		return 0, c.closedError("bulk out", address)
	}
	defer c.under.Done()
	t := c.transfer(ctx, "bulk out", address)
	if _, err := t.endpoint(BulkOutTransfer); err != nil {
		return 0, err
	}
	if err := t.begin(BulkOutTransfer, usbtransport.Setup{}, data); err != nil {
		return 0, err
	}
	if err := t.await(func() bool { return true }); err != nil {
		return 0, err
	}
	switch t.fault.Kind {
	case Drop:
		return len(data), nil
	case ZeroLength:
		c.plug.device.Out(address, nil)
	case Duplicate:
		c.plug.device.Out(address, slices.Clone(data))
	}
	c.plug.device.Out(address, t.fault.damage(data))
	return t.end(len(data))
}

// BulkIn implements usbtransport.Interface.
func (c *claim) BulkIn(ctx context.Context, address uint8, buf []byte) (int, error) {
	return c.in(ctx, BulkInTransfer, address, buf)
}

// InterruptIn implements usbtransport.Interface.
func (c *claim) InterruptIn(ctx context.Context, address uint8, buf []byte) (int, error) {
	return c.in(ctx, InterruptInTransfer, address, buf)
}

func (c *claim) in(ctx context.Context, kind TransferKind, address uint8, buf []byte) (int, error) {
	if !c.enter() {
		return 0, c.closedError(kind.String(), address)
	}
	defer c.under.Done()
	t := c.transfer(ctx, kind.String(), address)
	e, err := t.endpoint(kind)
	if err != nil {
		return 0, err
	}
	if size := e.descriptor.MaxPacketSize; len(buf) == 0 || size == 0 || len(buf)%size != 0 {
		return 0, t.fail(usbtransport.ErrInvalid, fmt.Errorf("buffer of %d bytes is no multiple of wMaxPacketSize %d", len(buf), size))
	}
	if err := t.begin(kind, usbtransport.Setup{}, nil); err != nil {
		return 0, err
	}
	if t.fault.Kind == RemoveDuring {
		return t.end(0)
	}
	n := 0
	if err := t.await(func() (ok bool) {
		n, ok = t.deliver(e, buf)
		return ok
	}); err != nil {
		return 0, err
	}
	if t.fault.Kind == Overflow {
		return 0, t.fail(usbtransport.ErrOverflow, nil)
	}
	return t.end(n)
}

// deliver takes the next transfer of an IN endpoint into buf, packet by packet: it ends with a packet that is not full,
// or with the buffer. It wants plug.mu held.
func (t *transfer) deliver(e *endpoint, buf []byte) (n int, ok bool) {
	if len(e.queue) == 0 {
		return 0, false
	}
	d := e.queue[0]
	if !d.begun {
		fault := t.fault
		switch fault.Kind {
		case Drop:
			d.data() // lost on its way: for the device it was sent
			e.queue = slices.Delete(e.queue, 0, 1)
			t.fault = Fault{}
			return 0, false
		case Hold:
			d.data() // the device has sent it
			e.held, e.queue = d, slices.Delete(e.queue, 0, 1)
			t.fault = Fault{}
			return 0, false
		case ZeroLength:
			return 0, true
		case Duplicate:
			b := d.data()
			e.queue = slices.Insert(e.queue, 1, &delivery{bytes: b})
		}
		d.bytes = fault.damage(d.data())
	}
	size := e.descriptor.MaxPacketSize
	short := len(d.bytes)%size != 0 || !d.begun && len(d.bytes) == 0
	n = copy(buf, d.bytes)
	d.bytes, d.begun = d.bytes[n:], true
	if len(d.bytes) == 0 && (short || n < len(buf)) {
		e.queue = slices.Delete(e.queue, 0, 1)
	}
	return n, true
}

// ClearHalt implements usbtransport.Interface.
func (c *claim) ClearHalt(ctx context.Context, address uint8) error {
	if !c.enter() {
		return c.closedError("clear halt", address)
	}
	defer c.under.Done()
	setup := usbtransport.Setup{RequestType: 0x02, Request: 1, Index: uint16(address)}
	t := c.transfer(ctx, "clear halt", address)
	if err := t.begin(ControlTransfer, setup, nil); err != nil {
		return err
	}
	if _, ok := c.plug.control(setup, nil); !ok {
		return t.fail(usbtransport.ErrInvalid, errors.New("no such endpoint"))
	}
	_, err := t.end(0)
	return err
}

// Reset implements usbtransport.Interface.
func (c *claim) Reset(ctx context.Context) error {
	if !c.enter() {
		return c.closedError("reset", 0)
	}
	defer c.under.Done()
	t := c.transfer(ctx, "reset", 0)
	if kind := ended(ctx); kind != nil {
		return t.fail(kind, nil)
	}
	p := c.plug
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return t.fail(usbtransport.ErrRemoved, nil)
	}
	p.generation++
	for _, e := range p.endpoints {
		e.halted, e.queue, e.held = false, nil, nil
	}
	p.broadcast()
	p.mu.Unlock()
	p.device.Detach()
	p.mu.Lock()
	gone := p.gone
	for _, e := range p.endpoints {
		e.queue, e.held = nil, nil
	}
	p.mu.Unlock()
	if gone {
		return t.fail(usbtransport.ErrRemoved, nil)
	}
	p.device.Attach(&Port{plug: p})
	return nil
}

// Close implements usbtransport.Interface.
func (c *claim) Close() error {
	c.once.Do(func() {
		c.ending.Lock()
		close(c.closed)
		c.ending.Unlock()
	})
	c.under.Wait()
	c.plug.mu.Lock()
	defer c.plug.mu.Unlock()
	if c.plug.claimed[c.number] == c {
		c.plug.claimed[c.number] = nil
	}
	return nil
}

// Standard requests (USB 2.0 §9.4).
const (
	requestGetStatus        = 0
	requestClearFeature     = 1
	requestSetFeature       = 3
	requestGetDescriptor    = 6
	requestGetConfiguration = 8
	requestSetConfiguration = 9
	requestSetInterface     = 11

	descriptorString = 3
	featureHalt      = 0
)

// control answers a request: standard ones here, others by the device.
func (p *plug) control(setup usbtransport.Setup, data []byte) (n int, ok bool) {
	if setup.RequestType&0x60 != 0 {
		return p.device.Control(setup, data)
	}
	switch setup.Request {
	case requestGetDescriptor:
		b := p.descriptor(uint8(setup.Value>>8), uint8(setup.Value))
		return copy(data, b), b != nil
	case requestGetStatus:
		return copy(data, []byte{0, 0}), true
	case requestGetConfiguration:
		return copy(data, []byte{1}), true
	case requestSetConfiguration, requestSetInterface:
		return 0, true
	case requestClearFeature, requestSetFeature:
		if setup.RequestType&0x1F != 2 || setup.Value != featureHalt {
			return 0, false
		}
		return 0, p.setHalt(uint8(setup.Index), setup.Request == requestSetFeature)
	}
	return 0, false
}

// Indexes of the string descriptors.
const (
	stringManufacturer = 1
	stringProduct      = 2
	stringSerial       = 3
)

const deviceDescriptorLength = 18

func (p *plug) descriptor(kind, index uint8) []byte {
	raw := p.info.Descriptors
	switch {
	case kind == usbtransport.DescriptorDevice && len(raw) >= deviceDescriptorLength:
		return raw[:deviceDescriptorLength]
	case kind == usbtransport.DescriptorConfiguration && index == 0 && len(raw) > deviceDescriptorLength:
		return raw[deviceDescriptorLength:]
	case kind == descriptorString:
		return p.stringDescriptor(index)
	}
	return nil
}

func (p *plug) stringDescriptor(index uint8) []byte {
	text := ""
	switch index {
	case 0:
		return []byte{4, descriptorString, 0x09, 0x04} // one language: English (United States)
	case stringManufacturer:
		text = p.info.Manufacturer
	case stringProduct:
		text = p.info.Product
	case stringSerial:
		text = p.info.SerialNumber
	}
	if text == "" {
		return nil
	}
	b := []byte{0, descriptorString}
	for _, unit := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	b = b[:min(len(b), 254)]
	b[0] = byte(len(b))
	return b
}
