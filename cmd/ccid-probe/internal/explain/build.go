package explain

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/describe"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// MaxTransfers is how many transfers of readers a transcript has; those after them are counted. It bounds what a capture can
// make of the memory: a transfer of a few bytes takes some kilobytes when it is explained.
const MaxTransfers = 100_000

// Options are how a transcript is made.
type Options struct {
	// Name is what the capture is called.
	Name string
	// IncludeSecrets leaves PINs in the transcript that are in the capture. Otherwise they are hidden, whatever the capture
	// says of itself; the capture is changed.
	IncludeSecrets bool
}

// Build explains a capture.
func Build(c *capture.Capture, o Options) *Transcript {
	if !o.IncludeSecrets {
		c.HideSecrets()
	}
	b := newBuilder(c, o)
	for _, m := range moments(c.Transfers) {
		b.add(m)
	}
	return b.finish()
}

// moment is a transfer with the packet and the time of its effect.
type moment struct {
	transfer *capture.Transfer
	packet   int
	at       time.Time
}

// moments orders transfers by when they had an effect.
func moments(transfers []capture.Transfer) []moment {
	list := make([]moment, len(transfers))
	for i := range transfers {
		t := &transfers[i]
		m := moment{t, t.Packet(), t.Start}
		if t.In() && t.Type != usbtransport.TransferControl && t.Ended() {
			m.packet, m.at = t.Completed, t.End
		}
		if m.at.IsZero() {
			m.at = t.End
		}
		list[i] = m
	}
	slices.SortStableFunc(list, func(a, b moment) int { return cmp.Compare(a.packet, b.packet) })
	return list
}

// place is where a device is.
type place struct{ bus, address int }

// builder explains transfers one after the other.
type builder struct {
	transcript *Transcript
	devices    map[place]*device
	start, end time.Time
	exchanges  []*exchange
	steps      []Step
	omitted    int
}

// device is what is known of a device while its transfers are explained.
type device struct {
	*Device
	links map[int]*link // by interface number; unknownInterface for all endpoints of a device without descriptors
	// endpoints tells which interface an endpoint is of.
	endpoints map[uint8]int
}

const unknownInterface = -1

// link is the way to one reader interface.
type link struct {
	number int
	level  ccid.ExchangeLevel
	iccd   uint8 // bInterfaceProtocol
	nSlots int
	slots  map[uint8]*slot
	sent   map[uint8]sent // by bSeq
	// out and in are messages of which more transfers are to come.
	out, in []byte
	token   token
	// messages counts what the host has sent, as Step.Ordinal has it.
	messages int
}

// sent is a command on its way.
type sent struct {
	number int
	slot   uint8
	kind   ccid.MessageType
	at     time.Time
}

func newBuilder(c *capture.Capture, o Options) *builder {
	b := &builder{
		transcript: &Transcript{
			Schema:    Schema,
			Capture:   Header{Name: o.Name, Comment: c.Comment, Packets: c.Packets, Truncated: c.Truncated, PINsHidden: c.Redacted || !o.IncludeSecrets},
			Transfers: []Transfer{}, APDUs: []APDU{},
		},
		devices: map[place]*device{},
	}
	list := c.Devices()
	b.transcript.Devices = make([]Device, len(list))
	for i, d := range list {
		b.devices[place{d.Info.Bus, d.Info.Address}] = newDevice(&b.transcript.Devices[i], i, d)
	}
	b.start, b.end = span(c.Transfers)
	return b
}

// span returns the first and the last time of all, zero where none has a time.
func span(transfers []capture.Transfer) (start, end time.Time) {
	for i := range transfers {
		for _, t := range []time.Time{transfers[i].Start, transfers[i].End} {
			if t.IsZero() {
				continue
			}
			if start.IsZero() || t.Before(start) {
				start = t
			}
			if t.After(end) {
				end = t
			}
		}
	}
	return start, end
}

// newDevice fills in out and prepares to follow the device's transfers.
func newDevice(out *Device, index int, d capture.Device) *device {
	*out = Device{
		Index: index, Bus: d.Info.Bus, Address: d.Info.Address, VID: fmt.Sprintf("%04X", d.Info.IDVendor), PID: fmt.Sprintf("%04X", d.Info.IDProduct),
		Manufacturer: d.Info.Manufacturer, Product: d.Info.Product, Serial: d.Info.SerialNumber, Transfers: len(d.Transfers), Interfaces: []Interface{},
	}
	dev := &device{Device: out, links: map[int]*link{}, endpoints: map[uint8]int{}}
	if d.Info.Unreadable != nil {
		out.Problem = "the capture does not have the device's descriptors: it begins after the device was plugged in"
		if out.Reader = looksLikeReader(d.Transfers); out.Reader {
			dev.links[unknownInterface] = newLink(unknownInterface, nil)
		}
		return dev
	}
	functions, err := host.Functions(d.Info)
	if err != nil {
		out.Problem = err.Error()
	}
	for _, f := range functions {
		if f.Class == nil {
			out.Problem = fmt.Sprintf("interface %d: %v", f.Interface.Number, f.Unusable)
			continue
		}
		out.Reader = true
		out.Interfaces = append(out.Interfaces, Interface{
			Number: f.Interface.Number, Protocol: describe.InterfaceProtocol(f.Interface.Protocol), Level: f.Class.DwFeatures.ExchangeLevel().String(),
			Slots: f.Class.Slots(), Class: fieldsOf(describe.Class(f.Class)),
		})
		l := newLink(int(f.Interface.Number), f.Class)
		if f.Token() {
			l.iccd = f.Interface.Protocol
		}
		dev.links[l.number] = l
		for _, e := range f.Interface.Endpoints {
			dev.endpoints[e.Address] = l.number
		}
	}
	return dev
}

func newLink(number int, class *ccid.ClassDescriptor) *link {
	l := &link{number: number, level: ccid.LevelTPDU, nSlots: 256, slots: map[uint8]*slot{}, sent: map[uint8]sent{}}
	if class != nil {
		l.level, l.nSlots = class.DwFeatures.ExchangeLevel(), class.Slots()
	}
	return l
}

// looksLikeReader reports whether a device without descriptors was sent a CCID message.
func looksLikeReader(transfers []capture.Transfer) bool {
	return slices.ContainsFunc(transfers, func(t capture.Transfer) bool {
		if t.Type != usbtransport.TransferBulk || t.In() {
			return false
		}
		c, err := ccid.ParseCommand(t.Data)
		if err != nil {
			return false
		}
		_, ok := c.Type.ResponseType()
		return ok
	})
}

// link returns the way that an endpoint belongs to, nil for one that is no reader's.
func (d *device) link(endpoint uint8) *link {
	if l := d.links[unknownInterface]; l != nil {
		return l
	}
	number, ok := d.endpoints[endpoint]
	if !ok {
		return nil
	}
	return d.links[number]
}

func (l *link) slot(number uint8) *slot {
	s := l.slots[number]
	if s == nil {
		s = newSlot(l.level)
		l.slots[number] = s
	}
	return s
}

func (b *builder) add(m moment) {
	t := m.transfer
	dev := b.devices[place{t.Bus, t.Address}]
	if dev == nil || !dev.Reader {
		b.transcript.Capture.Other++
		return
	}
	if len(b.transcript.Transfers) == MaxTransfers {
		b.omitted++
		return
	}
	out := Transfer{
		Number: len(b.transcript.Transfers) + 1, Device: dev.Index, Submitted: t.Submitted, Completed: t.Completed,
		At: b.since(m.at), Duration: -1, Latency: -1, Type: transferType(t.Type), Direction: "out", Endpoint: hex8(t.Endpoint),
		Requested: t.Requested, Moved: t.Moved, Data: compact(t.Data), Missing: t.Missing, Error: failure(t), Comments: t.Comments,
		Slot: -1, Seq: -1, Fields: []Field{}, Layers: []Layer{}, Problems: []string{},
	}
	if out.Comments == nil {
		out.Comments = []string{}
	}
	if t.In() {
		out.Direction = "in"
	}
	if !t.Start.IsZero() && !t.End.IsZero() {
		out.Duration = microseconds(t.Latency())
	}
	if t.Missing > 0 {
		out.Problems = append(out.Problems, plural(t.Missing, "byte")+" of the transfer not in the file")
	}
	b.explain(dev, m, &out)
	b.transcript.Transfers = append(b.transcript.Transfers, out)
}

// since is a time in microseconds from the beginning.
func (b *builder) since(at time.Time) float64 {
	if at.IsZero() || b.start.IsZero() {
		return 0
	}
	return microseconds(max(0, at.Sub(b.start)))
}

func (b *builder) explain(dev *device, m moment, out *Transfer) {
	t := m.transfer
	switch {
	case t.Type == usbtransport.TransferControl:
		explainRequest(t, out)
		b.request(dev, m, out)
		return
	case len(t.Data) == 0:
		out.Name = "nothing"
		if t.Err == nil && t.Ended() {
			out.Name = "zero-length packet"
		}
		return
	}
	l := dev.link(t.Endpoint)
	if l != nil && t.Type == usbtransport.TransferBulk && !t.In() && !errors.Is(t.Err, usbtransport.ErrInvalid) {
		l.messages++
	}
	switch {
	case l == nil:
		out.Name = "of another interface"
	case t.Type == usbtransport.TransferInterrupt:
		l.notification(t.Data, out)
	case t.In():
		b.response(dev, l, m, out)
	default:
		b.command(dev, l, m, out)
	}
}

// whole puts a message together of transfers: buffer has what came before. It returns nil while more is to come.
func whole(buffer *[]byte, data []byte) []byte {
	message := data
	if len(*buffer) > 0 {
		message = append(*buffer, data...)
	}
	*buffer = nil
	if len(message) >= 5 && len(message) < ccid.MaxMessageLength && int64(len(message)) < ccid.HeaderLength+int64(binary.LittleEndian.Uint32(message[1:])) {
		*buffer = slices.Clone(message)
		return nil
	}
	return message
}

// command explains a bulk OUT message.
func (b *builder) command(dev *device, l *link, m moment, out *Transfer) {
	data := m.transfer.Data
	l.in = nil
	// A message goes in one transfer (CCID 1.1 §3.1); but hosts cut a long one, and the capture shows the pieces.
	const cut = 512
	if len(l.out) > 0 || len(data)%cut == 0 {
		if data = whole(&l.out, data); data == nil {
			out.Name = "part of a message"
			return
		}
	}
	c, err := ccid.ParseCommand(data)
	if err != nil {
		out.Name = "no CCID message"
		out.Problems = append(out.Problems, err.Error())
		return
	}
	out.Name, out.Slot, out.Seq = c.Type.String(), int(c.Slot), int(c.Seq)
	out.Fields = commandFields(c, l.level)
	if _, ok := c.Type.ResponseType(); !ok {
		out.Problems = append(out.Problems, "not a message that a host sends")
		return
	}
	if int(c.Slot) >= l.nSlots {
		out.Problems = append(out.Problems, fmt.Sprintf("there is no slot %d", c.Slot))
	}
	l.sent[c.Seq] = sent{out.Number, c.Slot, c.Type, m.at}
	s := l.slot(c.Slot)
	step := Step{Device: dev.Index, Interface: l.number, Slot: int(c.Slot), Packet: m.packet, Ordinal: l.messages - 1, Data: c.Data}
	switch c.Type {
	case ccid.TypeIccPowerOn, ccid.TypeIccPowerOff:
		s.reset()
	case ccid.TypeSetParameters:
		s.protocol = int(c.Specific[0])
	case ccid.TypeXfrBlock:
		p := s.send(c.Data, c.LevelParameter())
		b.take(dev, l, p, m, out)
		b.sent(step, s, p)
		return
	case ccid.TypeSecure:
		p := s.pad(c.Data)
		b.take(dev, l, p, m, out)
		if p.exchange == nil {
			return
		}
		step.exchange = p.exchange
	}
	if kind, ok := stepKinds[c.Type]; ok {
		step.Kind, step.Protocol = kind, s.protocol
		b.steps = append(b.steps, step)
	}
}

// response explains a bulk IN message.
func (b *builder) response(dev *device, l *link, m moment, out *Transfer) {
	data := whole(&l.in, m.transfer.Data)
	if data == nil {
		out.Name = "part of a message"
		return
	}
	r, err := ccid.ParseResponse(data)
	if err != nil {
		out.Name = "no CCID message"
		out.Problems = append(out.Problems, err.Error())
		return
	}
	out.Name, out.Slot, out.Seq = r.Type.String(), int(r.Slot), int(r.Seq)
	out.Fields = responseFields(r, l.level)
	if r.Trailing > 0 {
		out.Problems = append(out.Problems, plural(r.Trailing, "byte")+" after the message")
	}
	command, ok := l.sent[r.Seq]
	if !ok || command.slot != r.Slot {
		out.Problems = append(out.Problems, fmt.Sprintf("answers nothing that was sent: bSlot %d, bSeq %d", r.Slot, r.Seq))
		return
	}
	out.answer(command.number, command.at, m.at)
	if want, _ := command.kind.ResponseType(); want != r.Type && r.Status.Command() != ccid.CommandFailed {
		out.Problems = append(out.Problems, fmt.Sprintf("%v is not the answer to %v", r.Type, command.kind))
		return
	}
	if r.Status.Command() != ccid.CommandTimeExtension {
		delete(l.sent, r.Seq)
	}
	b.take(dev, l, l.slot(r.Slot).answered(command.kind, r), m, out)
}

// answer notes that the transfer has the answer, which came at end, to a command that was sent at start.
func (x *Transfer) answer(command int, start, end time.Time) {
	x.Answers = command
	if !start.IsZero() && !end.IsZero() {
		x.Latency = microseconds(max(0, end.Sub(start)))
	}
}

// answered takes the answer to a command of a kind.
func (s *slot) answered(kind ccid.MessageType, r ccid.Response) part {
	switch status := r.Status.Command(); {
	case status == ccid.CommandTimeExtension:
		return part{exchange: s.underWay()}
	case status != ccid.CommandOK:
		var p part
		if kind == ccid.TypeXfrBlock || kind == ccid.TypeSecure {
			p = s.refused(r.Error.String())
		}
		// Drivers try escapes to see what the reader knows.
		if kind != ccid.TypeEscape {
			p.problem("%v failed: %v", kind, r.Error)
		}
		return p
	case kind == ccid.TypeIccPowerOn:
		return s.atr(r.Data)
	case kind == ccid.TypeXfrBlock, kind == ccid.TypeSecure:
		return s.receive(r.Data, uint16(r.Specific))
	}
	return part{}
}

// take adds what a slot says of a message to the transfer, and the transfer to the APDU.
func (b *builder) take(dev *device, l *link, p part, m moment, out *Transfer) {
	out.Layers = append(out.Layers, p.layers...)
	out.Problems = append(out.Problems, p.problems...)
	x := p.exchange
	if x == nil {
		return
	}
	if p.begins {
		b.exchanges = append(b.exchanges, x)
		x.Number, x.Device, x.Interface, x.Slot, x.At, x.Latency = len(b.exchanges), dev.Index, l.number, max(0, out.Slot), b.since(m.at), -1
	}
	out.APDU = x.Number
	x.Transfers = append(x.Transfers, out.Number)
	if x.done {
		x.Latency = b.since(m.at) - x.At
	}
}

// notification explains a message of the interrupt endpoint (CCID 1.1 §6.3).
func (l *link) notification(data []byte, out *Transfer) {
	kind := ccid.MessageType(data[0])
	out.Name = kind.String()
	out.Fields = []Field{{Name: "bMessageType", Value: hex8(data[0]), Meaning: kind.String()}}
	switch kind {
	case ccid.TypeNotifySlotChange:
		out.Fields = append(out.Fields, Field{Name: "bmSlotICCState", Value: spaced(data[1:])})
		changes, err := ccid.ParseNotifySlotChange(data, min(l.nSlots, 4*len(data)))
		if err != nil {
			out.Problems = append(out.Problems, err.Error())
			return
		}
		layer := Layer{Protocol: "CCID", Name: "slots"}
		for _, c := range changes {
			layer.Notes = append(layer.Notes, changeText(c))
		}
		out.Layers = append(out.Layers, layer)
	case ccid.TypeHardwareError:
		e, err := ccid.ParseHardwareError(data)
		if err != nil {
			out.Problems = append(out.Problems, err.Error())
			return
		}
		out.Slot, out.Seq = int(e.Slot), int(e.Seq)
		meaning := "unknown"
		if e.Code == 1 {
			meaning = "overcurrent"
		}
		out.Fields = append(
			out.Fields, Field{Name: "bSlot", Value: fmt.Sprint(e.Slot)}, Field{Name: "bSeq", Value: fmt.Sprint(e.Seq)},
			Field{Name: "bHardwareErrorCode", Value: hex8(e.Code), Meaning: meaning},
		)
		out.Problems = append(out.Problems, "hardware error: "+meaning)
	default:
		out.Problems = append(out.Problems, "not a message that a reader sends there")
	}
}

func changeText(c ccid.SlotChange) string {
	text := fmt.Sprintf("slot %d: no card", c.Slot)
	if c.Present {
		text = fmt.Sprintf("slot %d: card", c.Slot)
	}
	if c.Changed {
		return text + ", changed"
	}
	return text
}

func (b *builder) finish() *Transcript {
	t := b.transcript
	for _, x := range b.exchanges {
		x.complete()
		t.APDUs = append(t.APDUs, *x.APDU)
		if x.Problem != "" {
			t.Capture.Problems++
		}
	}
	for i := range t.Transfers {
		t.Capture.Problems += len(t.Transfers[i].Problems)
	}
	t.Capture.Omitted = b.omitted
	if !b.start.IsZero() {
		t.Capture.Start = b.start.UTC().Format("2006-01-02T15:04:05.000000Z")
		t.Capture.Microseconds = b.end.Sub(b.start).Microseconds()
	}
	return t
}
