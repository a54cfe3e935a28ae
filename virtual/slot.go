package virtual

import (
	"context"
	"encoding/binary"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/virtual/card"
)

// slot is one slot of an interface. function.mu guards it.
type slot struct {
	function *function
	index    uint8
	card     card.Card
	changed  bool // since the last notification
	pulled   bool // the card is being taken out
	running  *run
	latest   *run        // running, or the one before; its response may still be on its way
	work     chan func() // of the worker, nil for none. The one that runs may not have returned yet when the next one comes

	session
	aborting *abort
}

// session is what lasts from IccPowerOn to the loss of power.
type session struct {
	active     bool
	lost       bool // the card was taken out or exchanged since the host powered it
	atr        []byte
	parameters parameters
	configured bool // the host has set parameters
	clock      ccid.ClockStatus
	t0apdu     [2]byte // bClassGetResponse, bClassEnvelope
	chain      []byte  // of a command that has begun
	chaining   bool
	response   []byte // parts that the host has not fetched
	fetching   bool
}

// run is a command that a slot works on.
type run struct {
	command ccid.Command
	cancel  context.CancelFunc
	done    chan struct{}
}

// abort is an abort of which one half has come (CCID 1.1 §5.3.1).
type abort struct {
	seq             uint8
	requested, bulk bool
}

// reset forgets everything but the card. It wants mu held.
func (s *slot) reset() {
	s.session = session{}
	s.aborting, s.pulled, s.changed = nil, false, false
}

// cardLost ends a session because the card is not there any more. It wants mu held.
func (s *slot) cardLost() {
	lost := s.active || s.lost
	s.session = session{lost: lost}
	s.pulled = false
}

// cancel ends the work under way. It wants mu held.
func (s *slot) cancel() {
	if s.running != nil {
		s.running.cancel()
	}
}

// worker returns where to leave work for the slot's goroutine, which lives from the first command of a plug-in to its end. It wants
// mu held.
func (s *slot) worker() chan<- func() {
	if s.work == nil {
		work := make(chan func(), 1)
		s.work = work
		s.function.work.Go(func() {
			for f := range work {
				f()
			}
		})
	}
	return s.work
}

// stopWorker has the worker end with what it has been given. It wants mu held.
func (s *slot) stopWorker() {
	if s.work != nil {
		close(s.work)
		s.work = nil
	}
}

// icc is bmICCStatus. It wants mu held.
func (s *slot) icc() ccid.ICCStatus {
	switch {
	case s.card == nil || s.pulled:
		return ccid.ICCAbsent
	case s.active:
		return ccid.ICCActive
	}
	return ccid.ICCInactive
}

func (s *slot) violated(c ccid.Command, rule Rule, format string, args ...any) {
	s.function.reader.violated(rule, c.Slot, c.Seq, format, args...)
}

// answer makes the response to a command, in the slot's present state.
func (s *slot) answer(c ccid.Command, specific uint8, data []byte) ccid.Response {
	s.function.mu.Lock()
	defer s.function.mu.Unlock()
	kind, _ := c.Type.ResponseType()
	return ccid.Response{Type: kind, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(s.icc(), ccid.CommandOK), Specific: specific, Data: data}
}

// failure makes the response to a command that failed.
func (s *slot) failure(c ccid.Command, code ccid.ErrorCode) ccid.Response {
	r := s.answer(c, 0, nil)
	r.Status = ccid.NewStatus(r.Status.ICC(), ccid.CommandFailed)
	r.Error = code
	return r
}

// extension makes the response that asks the host for more time (CCID 1.1 §6.2.6).
func (s *slot) extension(c ccid.Command, multiplier byte) ccid.Response {
	r := s.answer(c, 0, nil)
	r.Status = ccid.NewStatus(r.Status.ICC(), ccid.CommandTimeExtension)
	r.Error = ccid.ErrorCode(multiplier)
	return r
}

// form is what a message must look like (CCID 1.1 §6.1).
type form struct {
	data     bool // it may carry data
	reserved int  // the first of the specific bytes 0..3 that is reserved
}

var forms = map[ccid.MessageType]form{
	ccid.TypeIccPowerOn: {false, 1}, ccid.TypeIccPowerOff: {false, 0}, ccid.TypeGetSlotStatus: {false, 0},
	ccid.TypeXfrBlock: {true, 3}, ccid.TypeGetParameters: {false, 0}, ccid.TypeResetParameters: {false, 0},
	ccid.TypeSetParameters: {true, 1}, ccid.TypeEscape: {true, 0}, ccid.TypeIccClock: {false, 1}, ccid.TypeT0APDU: {false, 3},
	ccid.TypeSecure: {true, 3}, ccid.TypeMechanical: {false, 1}, ccid.TypeAbort: {false, 0},
	ccid.TypeSetDataRateAndClockFrequency: {true, 0},
}

// take takes one message for this slot, whose length and slot are right.
func (s *slot) take(c ccid.Command) {
	f := s.function
	want, known := forms[c.Type]
	if !known {
		s.violated(c, RuleMessageType, "0x%02X", uint8(c.Type))
		f.refuse(c, ccid.ErrorCommandNotSupported)
		return
	}
	for i := want.reserved; i < len(c.Specific); i++ {
		if c.Specific[i] != 0 {
			s.violated(c, RuleReserved, "%v: %02X at offset %d", c.Type, c.Specific[i], 7+i)
		}
	}
	if !want.data && len(c.Data) > 0 {
		s.violated(c, RuleDataLength, "%v: %d bytes", c.Type, len(c.Data))
		f.refuse(c, ccid.ErrorBadLength)
		return
	}
	if c.Type == ccid.TypeAbort {
		s.abortMessage(c)
		return
	}
	f.mu.Lock()
	running, aborting := s.running != nil, s.aborting != nil
	f.mu.Unlock()
	switch {
	case aborting:
		// §5.3.1: between the halves of an abort everything else fails.
		f.refuse(c, ccid.ErrorCommandAborted)
		return
	case running:
		s.violated(c, RuleBusySlot, "%v", c.Type)
		f.refuse(c, ccid.ErrorSlotBusy)
		return
	}
	s.dispatch(c)
}

func (s *slot) dispatch(c ccid.Command) {
	f := s.function
	switch c.Type {
	case ccid.TypeIccPowerOn:
		s.powerOn(c)
	case ccid.TypeIccPowerOff:
		f.begin(s, c, func(context.Context) ccid.Response { return s.powerOff(c) })
	case ccid.TypeGetSlotStatus:
		f.respond(s.status(c))
	case ccid.TypeXfrBlock:
		s.transfer(c)
	case ccid.TypeGetParameters:
		f.respond(s.getParameters(c))
	case ccid.TypeResetParameters:
		f.respond(s.resetParameters(c))
	case ccid.TypeSetParameters:
		f.begin(s, c, func(ctx context.Context) ccid.Response { return s.setParameters(ctx, c) })
	case ccid.TypeEscape:
		f.respond(s.escape(c))
	case ccid.TypeIccClock:
		f.respond(s.setClock(c))
	case ccid.TypeT0APDU:
		f.respond(s.setClasses(c))
	case ccid.TypeSetDataRateAndClockFrequency:
		f.respond(s.setRate(c))
	case ccid.TypeSecure:
		s.secure(c)
	default:
		// Mechanical: no motor.
		f.respond(s.failure(c, ccid.ErrorCommandNotSupported))
	}
}

// finished takes the result of a command that a goroutine has worked on.
func (s *slot) finished(r *run, response ccid.Response) {
	f := s.function
	f.mu.Lock()
	s.running = nil
	f.busy--
	var aborted *ccid.Response
	if a := s.aborting; a != nil {
		response.Status, response.Error, response.Data = ccid.NewStatus(s.icc(), ccid.CommandFailed), ccid.ErrorCommandAborted, nil
		aborted = s.completeAbort()
	} else if s.pulled {
		response.Status, response.Error, response.Data = ccid.NewStatus(ccid.ICCAbsent, ccid.CommandFailed), ccid.ErrorICCMute, nil
	}
	f.mu.Unlock()
	f.respond(response)
	if aborted != nil {
		f.respond(*aborted)
	}
}

// status answers GetSlotStatus.
func (s *slot) status(c ccid.Command) ccid.Response {
	s.function.mu.Lock()
	clock := s.clock
	if !s.active {
		clock = ccid.ClockStoppedLow
	}
	if s.card == nil || !s.active {
		// The host learns here that its session is over.
		s.lost = false
	}
	s.function.mu.Unlock()
	return s.answer(c, uint8(clock), nil)
}

// abortRequested takes the control half of an abort.
func (s *slot) abortRequested(seq uint8) {
	f := s.function
	f.mu.Lock()
	if s.aborting == nil || s.aborting.seq != seq {
		s.aborting = &abort{seq: seq}
	}
	s.aborting.requested = true
	var done *ccid.Response
	if s.running != nil {
		s.cancel()
	} else {
		done = s.completeAbort()
	}
	f.mu.Unlock()
	if done != nil {
		f.respond(*done)
	}
}

// abortMessage takes the bulk half of an abort.
func (s *slot) abortMessage(c ccid.Command) {
	f := s.function
	f.mu.Lock()
	matched := s.aborting != nil && s.aborting.seq == c.Seq
	if !matched {
		s.aborting = &abort{seq: c.Seq}
	}
	s.aborting.bulk = true
	var done *ccid.Response
	if s.running == nil {
		done = s.completeAbort()
	}
	f.mu.Unlock()
	if !matched {
		s.violated(c, RuleAbort, "no ABORT request with this bSeq came before")
	}
	if done != nil {
		f.respond(*done)
	}
}

// completeAbort returns the answer to an abort whose halves are both there. It wants mu held.
func (s *slot) completeAbort() *ccid.Response {
	a := s.aborting
	if a == nil || !a.requested || !a.bulk {
		return nil
	}
	s.aborting = nil
	s.chain, s.chaining, s.response, s.fetching = nil, false, nil, false
	return &ccid.Response{Type: ccid.TypeSlotStatus, Slot: s.index, Seq: a.seq, Status: ccid.NewStatus(s.icc(), ccid.CommandOK)}
}

// classOf gives the class of operating conditions for a voltage.
func classOf(p ccid.PowerSelect) card.Class {
	switch p {
	case ccid.Power5V:
		return card.ClassA
	case ccid.Power3V:
		return card.ClassB
	case ccid.Power18V:
		return card.ClassC
	}
	return 0
}

// powerOn answers IccPowerOn (CCID 1.1 §6.1.1).
func (s *slot) powerOn(c ccid.Command) {
	f := s.function
	power := ccid.PowerSelect(c.Specific[0])
	automatic := f.class.DwFeatures&ccid.FeatureAutoVoltage != 0
	// A reader that activates a card by itself has to choose a voltage by itself too.
	mayChoose := automatic || f.class.DwFeatures&ccid.FeatureAutoActivation != 0 || f.class.BVoltageSupport == 0
	supported := classes(f.class.BVoltageSupport)
	switch {
	case power > ccid.Power18V, power == ccid.PowerAutomatic && !mayChoose, power != ccid.PowerAutomatic && automatic:
		s.violated(c, RulePower, "%v, bVoltageSupport %v, automatic %t", power, f.class.BVoltageSupport, automatic)
		f.respond(s.failure(c, ccid.ErrorBadPowerSelect))
		return
	case power != ccid.PowerAutomatic && classOf(power)&supported == 0:
		s.violated(c, RulePower, "%v, bVoltageSupport %v", power, f.class.BVoltageSupport)
		f.respond(s.failure(c, ccid.ErrorBadPowerSelect))
		return
	}
	ladder := []card.Class{classOf(power)}
	if power == ccid.PowerAutomatic {
		ladder = nil
		for _, class := range []card.Class{card.ClassC, card.ClassB, card.ClassA} {
			if class&supported != 0 {
				ladder = append(ladder, class)
			}
		}
	}
	f.begin(s, c, func(ctx context.Context) ccid.Response { return s.activate(ctx, c, ladder) })
}

func classes(v ccid.VoltageSupport) card.Class {
	if v == 0 {
		return card.ClassA | card.ClassB | card.ClassC
	}
	var c card.Class
	for bit, class := range map[ccid.VoltageSupport]card.Class{ccid.Voltage5V: card.ClassA, ccid.Voltage3V: card.ClassB, ccid.Voltage18V: card.ClassC} {
		if v&bit != 0 {
			c |= class
		}
	}
	return c
}

// activate powers the card on with the first class that it takes.
func (s *slot) activate(ctx context.Context, c ccid.Command, ladder []card.Class) ccid.Response {
	icc := s.begun()
	if icc == nil {
		return s.failure(c, ccid.ErrorICCMute)
	}
	ctx, cancel := context.WithTimeout(ctx, s.function.reader.config.WaitingTime)
	defer cancel()
	for _, class := range ladder {
		atr, err := icc.PowerOn(ctx, class)
		if err != nil {
			continue
		}
		negotiated := s.negotiate(ctx, icc, atr)
		s.function.mu.Lock()
		s.session = session{active: true, atr: atr, parameters: negotiated, t0apdu: [2]byte{s.function.class.BClassGetResponse, s.function.class.BClassEnvelope}}
		s.function.mu.Unlock()
		return s.answer(c, 0, atr)
	}
	s.function.mu.Lock()
	s.session = session{}
	s.function.mu.Unlock()
	return s.failure(c, ccid.ErrorICCMute)
}

// begun returns the card for the work under way.
func (s *slot) begun() card.Card {
	s.function.mu.Lock()
	defer s.function.mu.Unlock()
	return s.card
}

// activeCard returns the card for the work under way, nil when it has been exchanged since the command was taken.
func (s *slot) activeCard() card.Card {
	s.function.mu.Lock()
	defer s.function.mu.Unlock()
	if !s.active {
		return nil
	}
	return s.card
}

func (s *slot) powerOff(c ccid.Command) ccid.Response {
	if icc := s.begun(); icc != nil {
		icc.PowerOff()
	}
	s.function.mu.Lock()
	s.session = session{}
	s.function.mu.Unlock()
	return s.answer(c, uint8(ccid.ClockStoppedLow), nil)
}

func (s *slot) escape(c ccid.Command) ccid.Response {
	hook := s.function.reader.config.Escape
	if hook == nil {
		return s.answer(c, 0, c.Data)
	}
	data, code, ok := hook(c.Slot, c.Data)
	if !ok {
		return s.failure(c, code)
	}
	return s.answer(c, 0, data)
}

// setClock answers IccClock (CCID 1.1 §6.1.9).
func (s *slot) setClock(c ccid.Command) ccid.Response {
	if c.Specific[0] > uint8(ccid.ClockStop) {
		s.violated(c, RuleField, "bClockCommand %d", c.Specific[0])
		return s.failure(c, ccid.ErrorBadPowerSelect)
	}
	if s.function.class.DwFeatures&ccid.FeatureClockStop == 0 {
		return s.failure(c, ccid.ErrorCommandNotSupported)
	}
	if !s.isActive() {
		return s.failure(c, ccid.ErrorICCMute)
	}
	status := ccid.ClockRunning
	if ccid.ClockCommand(c.Specific[0]) == ccid.ClockStop {
		status = ccid.ClockStoppedLow
	}
	s.function.mu.Lock()
	s.clock = status
	s.function.mu.Unlock()
	return s.answer(c, uint8(status), nil)
}

func (s *slot) isActive() bool {
	s.function.mu.Lock()
	defer s.function.mu.Unlock()
	return s.icc() == ccid.ICCActive
}

// setClasses answers T0APDU (CCID 1.1 §6.1.10).
func (s *slot) setClasses(c ccid.Command) ccid.Response {
	if c.Specific[0] > 3 {
		s.violated(c, RuleReserved, "bmChanges %02X", c.Specific[0])
	}
	if s.function.level < ccid.LevelShortAPDU {
		return s.failure(c, ccid.ErrorCommandNotSupported)
	}
	s.function.mu.Lock()
	for bit := range s.t0apdu {
		if c.Specific[0]>>bit&1 != 0 {
			s.t0apdu[bit] = c.Specific[1+bit]
		}
	}
	s.function.mu.Unlock()
	return s.answer(c, 0, nil)
}

// setRate answers SetDataRateAndClockFrequency (CCID 1.1 §6.1.14): with the nearest that the reader has.
func (s *slot) setRate(c ccid.Command) ccid.Response {
	const length = 8
	if len(c.Data) != length {
		s.violated(c, RuleDataLength, "%v: %d bytes", c.Type, len(c.Data))
		return s.failure(c, ccid.ErrorBadLength)
	}
	class, model := s.function.class, s.function.model
	clock := nearest(binary.LittleEndian.Uint32(c.Data), class.DwDefaultClock, class.DwMaximumClock, model.ClockFrequencies)
	rate := nearest(binary.LittleEndian.Uint32(c.Data[4:]), class.DwDataRate, class.DwMaxDataRate, model.DataRates)
	data := binary.LittleEndian.AppendUint32(nil, clock)
	return s.answer(c, 0, binary.LittleEndian.AppendUint32(data, rate))
}

// nearest is the highest value that a reader has and that is not above the wanted one; else the lowest.
func nearest(wanted, lowest, highest uint32, list []uint32) uint32 {
	if len(list) == 0 {
		return min(max(wanted, min(lowest, highest)), max(lowest, highest))
	}
	best := lowest
	for _, v := range list {
		if v <= wanted && v > best {
			best = v
		}
	}
	return best
}
