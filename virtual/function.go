package virtual

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual/card"
)

// function is one CCID interface of a reader: endpoints and slots.
type function struct {
	reader *Reader
	model  ModelInterface
	number uint8
	// announced is the class descriptor that the host sees, class the one that the slots work by.
	announced, class ccid.ClassDescriptor
	level            ccid.ExchangeLevel
	out, in          uint8
	// interrupt is 0 where the interface has no interrupt endpoint.
	interrupt uint8
	// token is what answers the control requests of ICCD, nil for a CCID, which has bulk endpoints.
	token token

	mu       sync.Mutex
	port     *Port // nil while unplugged
	slots    []*slot
	busy     int            // slots at work
	lastSeq  int            // bSeq of the last command, -1 before the first
	work     sync.WaitGroup // the slots' workers
	notified bool           // a notification is queued
}

func newFunction(r *Reader, position int, m ModelInterface) (*function, error) {
	class, err := m.ClassDescriptor()
	if err != nil {
		return nil, fmt.Errorf("virtual: %s: %w", r.model.Name, err)
	}
	c := r.config
	if c.Level != nil {
		class.DwFeatures = withLevel(class.DwFeatures, *c.Level)
	}
	if c.Slots > 0 && position == 0 {
		class.BMaxSlotIndex = uint8(c.Slots - 1)
	}
	if c.Override != nil {
		c.Override(class)
	}
	f := &function{reader: r, model: m, number: m.Number, announced: *class, class: *class, lastSeq: -1}
	if f.token = newToken(f); f.token != nil {
		if c.Slots > 1 {
			return nil, fmt.Errorf("virtual: %s is a token, which has one slot", r.model.Name)
		}
		f.class = tokenClass(*class, m.Protocol)
	} else {
		f.out, f.in = uint8(2*position+1), 0x80|uint8(2*position+2)
	}
	if f.hasInterrupt() {
		f.interrupt = 0x80 | uint8(2*position+1)
	}
	f.level = f.class.DwFeatures.ExchangeLevel()
	for i := range f.class.Slots() {
		f.slots = append(f.slots, &slot{function: f, index: uint8(i)})
	}
	return f, nil
}

// hasInterrupt reports whether there is an interrupt endpoint, beside the bulk endpoints or as the only one of a token.
func (f *function) hasInterrupt() bool {
	if f.token != nil {
		return f.model.Endpoints == 1
	}
	return f.model.Endpoints != 2
}

// withLevel replaces the exchange level. A reader that takes APDUs must set up the card by itself (CCID 1.1 §5.1), so it gets
// the features for that where it had none.
func withLevel(f ccid.Features, l ccid.ExchangeLevel) ccid.Features {
	f &^= ccid.FeatureLevelTPDU | ccid.FeatureLevelShortAPDU | ccid.FeatureLevelExtendedAPDU
	switch l {
	case ccid.LevelTPDU:
		return f | ccid.FeatureLevelTPDU
	case ccid.LevelShortAPDU:
		f |= ccid.FeatureLevelShortAPDU
	case ccid.LevelExtendedAPDU:
		f |= ccid.FeatureLevelExtendedAPDU
	default:
		return f
	}
	if f&(ccid.FeatureAutoParameters|ccid.FeatureAutoPPS) == 0 {
		f |= ccid.FeatureAutoATRConfig | ccid.FeatureAutoParameters
	}
	return f
}

// describe makes the interface, class and endpoint descriptors.
func (f *function) describe() []byte {
	endpoints := byte(0)
	if f.token == nil {
		endpoints = 2
	}
	if f.interrupt != 0 {
		endpoints++
	}
	b := []byte{9, usbtransport.DescriptorInterface, f.number, 0, endpoints, f.model.Class, f.model.SubClass, f.model.Protocol, 0}
	b, _ = f.announced.AppendBinary(b) // never fails
	if f.token == nil {
		b = append(b, 7, usbtransport.DescriptorEndpoint, f.out, byte(usbtransport.TransferBulk), maxPacketSize, 0, 0)
		b = append(b, 7, usbtransport.DescriptorEndpoint, f.in, byte(usbtransport.TransferBulk), maxPacketSize, 0, 0)
	}
	if f.interrupt != 0 {
		b = append(b, 7, usbtransport.DescriptorEndpoint, f.interrupt, byte(usbtransport.TransferInterrupt), interruptPacketSize, 0, 24)
	}
	return b
}

// attach begins a plug-in: nothing of the one before is left.
func (f *function) attach(p *Port) {
	f.mu.Lock()
	f.port, f.lastSeq, f.busy, f.notified = p, -1, 0, false
	for _, s := range f.slots {
		s.reset()
		s.changed = s.card != nil
	}
	f.mu.Unlock()
	f.resetToken()
	f.notify()
}

// resetToken forgets the state of a token, whose slot is not at work.
func (f *function) resetToken() {
	if f.token != nil {
		f.token.reset()
	}
}

// detach ends a plug-in: the cards lose their power.
func (f *function) detach() {
	f.mu.Lock()
	f.port = nil
	for _, s := range f.slots {
		s.cancel()
		s.stopWorker()
	}
	f.mu.Unlock()
	f.work.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slots {
		if s.card != nil {
			s.card.PowerOff()
		}
		s.reset()
	}
}

// exchangeCard puts another card into a slot, and returns the one that was there.
func (f *function) exchangeCard(s *slot, c card.Card) card.Card {
	f.mu.Lock()
	for s.running != nil {
		// The command under way ends: its card is being pulled.
		done := s.running.done
		s.pulled = true
		s.cancel()
		f.mu.Unlock()
		<-done
		f.mu.Lock()
	}
	old := s.card
	s.card = c
	if old != nil || c != nil {
		s.changed = true
	}
	s.cardLost()
	f.mu.Unlock()
	f.resetToken()
	if old != nil {
		old.PowerOff()
	}
	f.notify()
	return old
}

// notify sends RDR_to_PC_NotifySlotChange where a slot has changed (CCID 1.1 §6.3.1). A message that the host has not read
// yet is brought up to date, as the register of a real reader is.
func (f *function) notify() {
	f.mu.Lock()
	changed := false
	for _, s := range f.slots {
		changed = changed || s.changed
	}
	port := f.port
	send := f.interrupt != 0 && port != nil && changed && !f.notified
	f.notified = f.notified || send
	f.mu.Unlock()
	if send {
		port.SendLate(f.interrupt, f.notification)
	}
}

func (f *function) notification() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notified = false
	changes := make([]ccid.SlotChange, len(f.slots))
	for i, s := range f.slots {
		changes[i] = ccid.SlotChange{Slot: i, Present: s.card != nil, Changed: s.changed}
		s.changed = false
	}
	return ccid.AppendNotifySlotChange(nil, changes)
}

// send sends a transfer, if the reader is plugged in. It wants mu not held.
func (f *function) send(endpoint uint8, data []byte) {
	f.mu.Lock()
	port := f.port
	f.mu.Unlock()
	if port != nil && endpoint != 0 {
		port.Send(endpoint, data)
	}
}

// respond gives the host a response, or what becomes of it on a token.
func (f *function) respond(r ccid.Response) {
	if f.token != nil {
		f.token.take(r)
		return
	}
	b, _ := r.AppendBinary(nil) // never fails
	f.send(f.in, b)
}

// control answers the class requests (CCID 1.1 §5.3), or those of ICCD.
func (f *function) control(setup usbtransport.Setup, data []byte) (int, bool) {
	if f.token != nil {
		return f.token.control(setup, data)
	}
	switch {
	case setup.RequestType == ccid.RequestTypeOut && setup.Request == ccid.RequestAbort:
		if len(data) != 0 || int(setup.Value&0xFF) >= len(f.slots) {
			f.reader.violated(RuleRequest, uint8(setup.Value), uint8(setup.Value>>8), "ABORT with wValue %04X and %d bytes", setup.Value, len(data))
			return 0, false
		}
		f.slots[setup.Value&0xFF].abortRequested(uint8(setup.Value >> 8))
		return 0, true
	case setup.RequestType == ccid.RequestTypeIn && setup.Request == ccid.RequestGetClockFrequencies:
		return f.frequencies(setup, data, int(f.class.BNumClockSupported), f.model.ClockFrequencies)
	case setup.RequestType == ccid.RequestTypeIn && setup.Request == ccid.RequestGetDataRates:
		return f.frequencies(setup, data, int(f.class.BNumDataRatesSupported), f.model.DataRates)
	}
	return 0, false
}

// frequencies answers with a list of 32-bit numbers. A reader without a list refuses the request.
func (f *function) frequencies(setup usbtransport.Setup, data []byte, count int, list []uint32) (int, bool) {
	if setup.Value != 0 {
		f.reader.violated(RuleRequest, 0, 0, "request %02X with wValue %04X", setup.Request, setup.Value)
	}
	if len(list) == 0 || count == 0 {
		return 0, false
	}
	var b []byte
	for _, v := range list {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return copy(data, b), true
}

// receive takes one message of the host.
func (f *function) receive(b []byte) {
	if len(b) < ccid.HeaderLength {
		f.reader.violated(RuleLength, 0, 0, "message of %d bytes, a header has %d", len(b), ccid.HeaderLength)
		return
	}
	c := ccid.Command{Type: ccid.MessageType(b[0]), Slot: b[5], Seq: b[6], Specific: [3]byte(b[7:10]), Data: b[ccid.HeaderLength:]}
	if answer := f.reader.config.Answer; answer != nil {
		if r, ok := answer(c); ok {
			f.respond(r)
			return
		}
	}
	if uint64(len(b)) > uint64(f.class.DwMaxCCIDMessageLength) {
		f.reader.violated(RuleTooLong, c.Slot, c.Seq, "%d bytes, at most %d", len(b), f.class.DwMaxCCIDMessageLength)
		f.refuse(c, ccid.ErrorBadLength)
		return
	}
	if n := binary.LittleEndian.Uint32(b[1:]); uint64(n) != uint64(len(c.Data)) {
		f.reader.violated(RuleLength, c.Slot, c.Seq, "%v: dwLength %d, %d bytes follow", c.Type, n, len(c.Data))
		f.refuse(c, ccid.ErrorBadLength)
		return
	}
	if int(c.Slot) >= len(f.slots) {
		f.reader.violated(RuleSlot, c.Slot, c.Seq, "%v: the reader has %d slots", c.Type, len(f.slots))
		f.refuse(c, ccid.ErrorBadSlot)
		return
	}
	f.checkSequence(c)
	f.slots[c.Slot].take(c)
}

// checkSequence watches over bSeq. An abort repeats nobody's number, but has been given it by the control request.
func (f *function) checkSequence(c ccid.Command) {
	f.mu.Lock()
	last := f.lastSeq
	f.lastSeq = int(c.Seq)
	f.mu.Unlock()
	if last == int(c.Seq) {
		f.reader.violated(RuleSequence, c.Slot, c.Seq, "%v", c.Type)
	}
}

// refuse answers a command that can't be given to a slot.
func (f *function) refuse(c ccid.Command, code ccid.ErrorCode) {
	kind, ok := c.Type.ResponseType()
	if !ok {
		kind = ccid.TypeSlotStatus
	}
	icc := ccid.ICCAbsent
	if int(c.Slot) < len(f.slots) {
		f.mu.Lock()
		icc = f.slots[c.Slot].icc()
		f.mu.Unlock()
	}
	f.respond(ccid.Response{Type: kind, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(icc, ccid.CommandFailed), Error: code})
}

// begin gives a slot work for its worker.
func (f *function) begin(s *slot, c ccid.Command, work func(context.Context) ccid.Response) {
	f.mu.Lock()
	limit := max(1, int(f.class.BMaxCCIDBusySlots))
	switch {
	case f.port == nil:
		f.mu.Unlock()
		return
	case f.busy >= limit:
		f.mu.Unlock()
		f.reader.violated(RuleBusySlots, c.Slot, c.Seq, "%v: %d at work already", c.Type, limit)
		f.refuse(c, ccid.ErrorSlotBusy)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &run{command: c, cancel: cancel, done: make(chan struct{})}
	s.running, s.latest = run, run
	f.busy++
	s.worker() <- func() {
		defer cancel()
		r := work(ctx)
		s.finished(run, r)
		close(run.done)
	}
	f.mu.Unlock()
}
