package capture

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// Lenient lets another host than that of the recording use the device. It matches CCID messages by what they mean:
//
//   - bSeq is the host's own; answers get it. Transfers may be cut in other ways, and timing is free.
//   - PC_to_RDR_IccPowerOn, XfrBlock and Secure follow the recording: each is answered by the next recorded answer to
//     the same command (bPowerSelect and bBWI may differ), and those between are passed over. Where none follows, one
//     that was passed over is taken; a power-on without any left repeats the last.
//   - At TPDU and character level a command with data may have its Le or not: T=0 can't transmit it (ISO/IEC 7816-3:2006
//     §12.2.4), so some drivers cut it off, others leave that to the reader. Where the recorded host got data with such
//     an Le, a host that sends none gets 61xx, and the data with GET RESPONSE.
//   - GetSlotStatus is answered with the state that the slot has at that place of the recording.
//   - Commands that set, ask or end something (SetParameters, GetParameters, PowerOff, Abort, IccClock …) are answered as
//     recorded, where they were, and else as a plain reader does. A PC_to_RDR_Escape that was not recorded is refused.
//   - Class requests are answered as recorded; ABORT is taken, and others stall.
//   - Notifications come when no power-on, XfrBlock or Secure is left before them.
//   - Tokens of ICCD, which have no bulk endpoints, get their requests answered as recorded: what the host sends finds its place by the
//     same bytes, and what it asks for is answered as it was there, as often as it asks.
//
// Answers are paired with commands by bSeq, so a recording in which the host lost step with the reader is played as the
// reader meant it. Transfers that failed are passed over, and the device is never removed. PINs that are hidden in the recording are hidden in what the host sends before it is compared.
type Lenient struct{}

func (Lenient) script(r recording) script {
	s := &lenientScript{hide: newRedactor(), redacted: r.redacted, states: map[uint8]slotState{}, waiting: map[uint8][]byte{}, parameters: map[uint8]ccid.Response{}}
	for i := range r.transfers {
		if t := &r.transfers[i]; t.Type == usbtransport.TransferControl {
			s.requests = append(s.requests, t)
		}
	}
	for _, e := range r.descriptor.Endpoints {
		if e.In() && e.Type == usbtransport.TransferBulk && s.in == 0 {
			s.in = e.Address
		}
	}
	if s.in == 0 {
		return newTokenScript(s.requests, r.redacted)
	}
	s.tpdu = exchangeLevel(r.descriptor) < ccid.LevelShortAPDU
	s.steps = lenientSteps(timeline(r.transfers), s.in)
	return s
}

// exchangeLevel is the reader's; extended APDU where it has no class descriptor.
func exchangeLevel(d usbtransport.InterfaceDescriptor) ccid.ExchangeLevel {
	extras := [][]byte{d.Extra}
	for _, e := range d.Endpoints {
		extras = append(extras, e.Extra)
	}
	for _, extra := range extras {
		if class, err := ccid.FindClassDescriptor(extra); err == nil {
			return class.DwFeatures.ExchangeLevel()
		}
	}
	return ccid.LevelExtendedAPDU
}

// step is a command with its answers, or a message from the interrupt endpoint.
type step struct {
	packet  int
	command ccid.Command
	message []byte // the command as recorded
	shown   []byte // and with PINs hidden
	answers []answer
	at      time.Time
	used    bool

	notification *delivery
}

// answer is a message of the device's and how long it took.
type answer struct {
	response ccid.Response
	after    time.Duration
}

// leads reports whether the step decides how far the host is in the recording.
func (s *step) leads() bool {
	if s.notification != nil {
		return false
	}
	switch s.command.Type {
	case ccid.TypeIccPowerOn, ccid.TypeXfrBlock, ccid.TypeSecure:
		return true
	}
	return false
}

// slotState is what GetSlotStatus says.
type slotState struct {
	status ccid.Status
	code   ccid.ErrorCode
	clock  uint8
}

// lenientScript answers commands by their meaning.
type lenientScript struct {
	steps    []*step
	position int // all leading steps before it are used or passed over
	in       uint8
	requests []*Transfer
	hide     *redactor
	redacted bool
	tpdu     bool // the reader exchanges TPDUs or characters

	states     map[uint8]slotState
	waiting    map[uint8][]byte        // what the card has for GET RESPONSE, with SW1 SW2, by slot
	parameters map[uint8]ccid.Response // what the host has set, by slot
}

// lenientSteps puts messages together from transfers and pairs commands with answers.
func lenientSteps(moments []moment, in uint8) []*step {
	var steps []*step
	hide := newRedactor()
	var partial []byte
	var since time.Time // of the last command
	last := map[uint8]*step{}
	for _, m := range moments {
		t := m.transfer
		switch {
		case t.Type == usbtransport.TransferControl || len(t.Data) == 0 || t.Missing > 0:
		case !t.In():
			partial = nil
			c, err := ccid.ParseCommand(t.Data)
			if err != nil {
				continue // no host that works sends this
			}
			s := &step{packet: m.packet, command: c, message: t.Data, shown: hide.hide(t.Data), at: m.at}
			steps = append(steps, s)
			last[c.Seq] = s
			since = m.at
		case t.Type == usbtransport.TransferInterrupt:
			d := deliveryOf(m, since)
			d.failure, d.open = nil, false
			steps = append(steps, &step{packet: m.packet, at: m.at, notification: &d})
		case t.Endpoint == in:
			partial = append(partial, t.Data...)
			if !whole(partial) {
				continue
			}
			hide.learn(partial)
			pair(last, partial, m.at)
			partial = nil
		}
	}
	return steps
}

// whole reports whether a message has all the bytes that its dwLength announces.
func whole(message []byte) bool {
	return len(message) >= ccid.HeaderLength && int64(len(message)) >= ccid.HeaderLength+int64(binary.LittleEndian.Uint32(message[1:]))
}

// pair gives an answer to the last command with its bSeq, slot and type. Others answer nothing, and are dropped.
func pair(last map[uint8]*step, message []byte, at time.Time) {
	r, err := ccid.ParseResponse(message)
	if err != nil {
		return
	}
	s := last[r.Seq]
	if s == nil || s.command.Slot != r.Slot {
		return
	}
	// A reader may refuse an escape with a SlotStatus, as QEMU's does.
	if want, _ := s.command.Type.ResponseType(); r.Type != want && r.Status.Command() != ccid.CommandFailed {
		return
	}
	if n := len(s.answers); n > 0 && s.answers[n-1].response.Status.Command() != ccid.CommandTimeExtension {
		return
	}
	s.answers = append(s.answers, answer{r, at.Sub(s.at)})
}

func sortMoments(list []moment) {
	slices.SortStableFunc(list, func(a, b moment) int { return cmp.Compare(a.packet, b.packet) })
}

func (s *lenientScript) begin() []delivery { return s.advance() }

// advance passes over what does not lead, and returns the notifications among it.
func (s *lenientScript) advance() []delivery {
	var list []delivery
	for ; s.position < len(s.steps); s.position++ {
		step := s.steps[s.position]
		switch {
		case step.leads() && !step.used:
			return list
		case step.notification != nil && !step.used:
			step.used = true
			list = append(list, *step.notification)
			s.notice(step.notification.data)
		case step.notification == nil && !step.leads():
			s.observe(step)
		}
	}
	return list
}

// notice learns the slots' states from a notification.
func (s *lenientScript) notice(message []byte) {
	changes, err := ccid.ParseNotifySlotChange(message, 4*len(message))
	if err != nil {
		return
	}
	for _, c := range changes {
		state, known := s.states[uint8(c.Slot)]
		switch {
		case !c.Present && (known || c.Changed):
			state = slotState{status: ccid.NewStatus(ccid.ICCAbsent, ccid.CommandOK), clock: uint8(ccid.ClockStopped)}
		case c.Present && (!known || !state.status.ICC().Present() || c.Changed):
			state = slotState{status: ccid.NewStatus(ccid.ICCInactive, ccid.CommandOK), clock: uint8(ccid.ClockStopped)}
		default:
			continue
		}
		s.states[uint8(c.Slot)] = state
	}
}

// observe learns a slot's state from a recorded answer.
func (s *lenientScript) observe(step *step) {
	if len(step.answers) == 0 {
		return
	}
	r := step.answers[len(step.answers)-1].response
	state := s.states[r.Slot]
	if r.Type == ccid.TypeSlotStatus && step.command.Type == ccid.TypeGetSlotStatus {
		state = slotState{r.Status, r.Error, r.Specific}
	} else {
		state.status = ccid.NewStatus(r.Status.ICC(), ccid.CommandOK)
	}
	s.states[r.Slot] = state
}

func (s *lenientScript) out(_ uint8, data []byte) ([]delivery, error) {
	shown := s.hide.hide(data)
	c, err := ccid.ParseCommand(data)
	if err != nil {
		return nil, &Divergence{Field: "dwLength", Host: excerpt(shown, 0)}
	}
	probe := &step{command: c, message: data, shown: shown}
	if probe.leads() {
		return s.follow(probe)
	}
	return s.side(probe), nil
}

// follow answers a command that leads.
func (s *lenientScript) follow(host *step) ([]delivery, error) {
	if r, ok := s.getResponse(host.command); ok {
		return []delivery{s.reply(host.command, r, 0)}, nil
	}
	i := s.find(host)
	if i < 0 {
		return nil, s.divergence(host)
	}
	found := s.steps[i]
	found.used = true
	var list []delivery
	if i >= s.position {
		// Notifications that were passed over still come, before the answer.
		for ; s.position < i; s.position++ {
			if n := s.steps[s.position]; n.notification != nil && !n.used {
				n.used = true
				list = append(list, *n.notification)
				s.notice(n.notification.data)
			}
		}
	}
	s.observe(found)
	list = append(list, s.replies(host, found)...)
	return append(list, s.advance()...), nil
}

// find returns the index of the step that a leading command means, -1 for none.
func (s *lenientScript) find(host *step) int {
	fits := func(c *step) bool { return c.leads() && !c.used && s.equivalent(host, c) }
	if i := slices.IndexFunc(s.steps[s.position:], fits); i >= 0 {
		return s.position + i
	}
	if i := slices.IndexFunc(s.steps[:s.position], fits); i >= 0 {
		return i
	}
	if host.command.Type != ccid.TypeIccPowerOn {
		return -1
	}
	for i := len(s.steps) - 1; i >= 0; i-- {
		if c := s.steps[i]; c.leads() && s.equivalent(host, c) && len(c.answers) > 0 {
			return i
		}
	}
	return -1
}

// freeOffsets are those of a message that two equivalent commands need not share.
func freeOffsets(t ccid.MessageType) ignore {
	const seq, specific = 6, 7
	switch t {
	case ccid.TypeIccPowerOn:
		return ignore{seq, specific, specific + 1, specific + 2}
	case ccid.TypeXfrBlock, ccid.TypeSecure:
		return ignore{seq, specific}
	case ccid.TypeSetParameters, ccid.TypeIccClock, ccid.TypeT0APDU, ccid.TypeMechanical:
		return ignore{seq}
	}
	return ignore{seq, specific, specific + 1, specific + 2}
}

// compare returns the offset at which a command of the host's stops to mean what was recorded, -1 where it means the same.
func (s *lenientScript) compare(host, recorded *step) int {
	message := host.message
	if s.redacted {
		message = host.shown
	}
	return difference(s.meaning(message), s.meaning(recorded.message), freeOffsets(host.command.Type))
}

// meaning returns a message without what makes no difference to the card: the Le after the data of a T=0 command.
func (s *lenientScript) meaning(message []byte) []byte {
	if !s.tpdu || ccid.MessageType(message[0]) != ccid.TypeXfrBlock {
		return message
	}
	const p3 = ccid.HeaderLength + 4
	if len(message) <= p3 || message[p3] == 0 || len(message) != p3+1+int(message[p3])+1 {
		return message
	}
	short := bytes.Clone(message[:len(message)-1])
	binary.LittleEndian.PutUint32(short[1:], uint32(len(short)-ccid.HeaderLength))
	return short
}

func (s *lenientScript) equivalent(host, recorded *step) bool {
	return recorded.notification == nil && s.compare(host, recorded) < 0
}

// divergence compares a command that was not found with the one that is next.
func (s *lenientScript) divergence(host *step) *Divergence {
	for _, c := range s.steps[s.position:] {
		if c.leads() && !c.used {
			return diverge(c.packet, host.shown, c.shown, s.compare(host, c))
		}
	}
	return &Divergence{Host: excerpt(host.shown, 0)}
}

// replies makes the host's answers of those that were recorded.
func (s *lenientScript) replies(host, recorded *step) []delivery {
	var list []delivery
	for _, a := range recorded.answers {
		r := a.response
		if len(s.meaning(recorded.message)) < len(recorded.message) && len(s.meaning(host.message)) == len(host.message) {
			r = s.keep(host.command.Slot, r)
		}
		list = append(list, s.reply(host.command, r, a.after))
	}
	return list
}

// keep leaves the data of an answer to a command with Le for GET RESPONSE (ISO/IEC 7816-3:2006 §12.2.4), and returns what
// the command without Le gets.
func (s *lenientScript) keep(slot uint8, r ccid.Response) ccid.Response {
	n := len(r.Data) - 2
	if n < 1 || n > 256 || r.Status.Command() != ccid.CommandOK {
		return r
	}
	s.waiting[slot] = r.Data
	r.Data = []byte{0x61, byte(n)}
	return r
}

// getResponse answers a GET RESPONSE for data that keep has kept; any other command makes the card forget it.
func (s *lenientScript) getResponse(c ccid.Command) (ccid.Response, bool) {
	data := s.waiting[c.Slot]
	delete(s.waiting, c.Slot)
	const getResponse = 0xC0
	if data == nil || c.Type != ccid.TypeXfrBlock || len(c.Data) != 5 || c.Data[1] != getResponse {
		return ccid.Response{}, false
	}
	r := ccid.Response{Type: ccid.TypeDataBlock, Status: s.states[c.Slot].status, Data: data}
	if n := len(data) - 2; c.Data[4] != byte(n) {
		s.waiting[c.Slot] = data
		r.Data = []byte{0x6C, byte(n)}
	}
	return r, true
}

func (s *lenientScript) reply(c ccid.Command, r ccid.Response, after time.Duration) delivery {
	r.Slot, r.Seq = c.Slot, c.Seq
	b, _ := r.AppendBinary(nil) // it never fails
	s.hide.learn(b)
	return delivery{endpoint: s.in, data: b, after: after}
}

// side answers a command that does not lead.
func (s *lenientScript) side(host *step) []delivery {
	c := host.command
	if c.Type == ccid.TypeGetSlotStatus {
		state, known := s.states[c.Slot]
		if !known {
			state = slotState{status: ccid.NewStatus(ccid.ICCAbsent, ccid.CommandOK), clock: uint8(ccid.ClockStopped)}
		}
		r := ccid.Response{Type: ccid.TypeSlotStatus, Status: state.status, Error: state.code, Specific: state.clock}
		return []delivery{s.reply(c, r, s.usual(c.Type))}
	}
	if found := s.recorded(host); found != nil {
		found.used = true
		s.remember(c, found.answers[len(found.answers)-1].response)
		return s.replies(host, found)
	}
	r := s.plain(c)
	s.remember(c, r)
	return []delivery{s.reply(c, r, s.usual(c.Type))}
}

// usual is how long the first answer to a command of this type took in the recording.
func (s *lenientScript) usual(t ccid.MessageType) time.Duration {
	for _, c := range s.steps {
		if c.notification == nil && c.command.Type == t && len(c.answers) > 0 {
			return c.answers[0].after
		}
	}
	return 0
}

// recorded returns the step with the answer to a command that does not lead: the next one that was not used, else the
// last one that was.
func (s *lenientScript) recorded(host *step) *step {
	var found *step
	for _, c := range s.steps {
		if c.notification != nil || len(c.answers) == 0 || !s.equivalent(host, c) {
			continue
		}
		found = c
		if !c.used {
			break
		}
	}
	return found
}

// plain answers as a reader does that has nothing special.
func (s *lenientScript) plain(c ccid.Command) ccid.Response {
	icc := ccid.ICCAbsent
	if state, known := s.states[c.Slot]; known {
		icc = state.status.ICC()
	}
	r := ccid.Response{Status: ccid.NewStatus(icc, ccid.CommandOK)}
	r.Type, _ = c.Type.ResponseType()
	switch c.Type {
	case ccid.TypeIccPowerOff:
		if icc.Present() {
			r.Status = ccid.NewStatus(ccid.ICCInactive, ccid.CommandOK)
		}
		r.Specific = uint8(ccid.ClockStopped)
	case ccid.TypeSetParameters:
		r.Specific, r.Data = c.Specific[0], bytes.Clone(c.Data)
	case ccid.TypeGetParameters, ccid.TypeResetParameters:
		if set, ok := s.parameters[c.Slot]; ok && c.Type == ccid.TypeGetParameters {
			return set
		}
		r.Data = ccid.ParametersT0{BmFindexDindex: 0x11, BWaitingIntegerT0: 10}.Bytes()
	case ccid.TypeSetDataRateAndClockFrequency:
		r.Data = bytes.Clone(c.Data)
	case ccid.TypeIccClock, ccid.TypeT0APDU, ccid.TypeAbort:
	default:
		if r.Type == 0 {
			r.Type = ccid.TypeSlotStatus
		}
		r.Status, r.Error = ccid.NewStatus(icc, ccid.CommandFailed), ccid.ErrorCommandNotSupported
	}
	return r
}

// remember keeps what a command has changed.
func (s *lenientScript) remember(c ccid.Command, r ccid.Response) {
	if r.Status.Command() != ccid.CommandOK {
		return
	}
	switch c.Type {
	case ccid.TypeSetParameters, ccid.TypeResetParameters:
		s.parameters[c.Slot] = r
	case ccid.TypeIccPowerOff:
		s.states[c.Slot] = slotState{status: r.Status, clock: r.Specific}
	}
}

func (s *lenientScript) control(setup usbtransport.Setup, data []byte) (int, []delivery, error) {
	for _, t := range s.requests {
		if setupDifference(setup, t.Setup) != "" {
			continue
		}
		if t.Err != nil {
			return 0, nil, t.Err
		}
		if t.In() {
			return copy(data, t.Data), nil, nil
		}
		return len(data), nil, nil
	}
	if setup.RequestType == ccid.RequestTypeOut && setup.Request == ccid.RequestAbort {
		return 0, nil, nil
	}
	return 0, nil, usbtransport.ErrStalled
}

func (s *lenientScript) unused() []int {
	var list []int
	for _, c := range s.steps {
		if c.leads() && !c.used {
			list = append(list, c.packet)
		}
	}
	return list
}
