package explain

import (
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport/capture"
)

// StepKind says what a host did.
type StepKind uint8

// The kinds of steps.
const (
	StepStatus StepKind = iota + 1
	StepPowerOn
	StepPowerOff
	StepProtocol
	StepTransmit
	StepEscape
	StepPIN
	StepLists
)

// stepKinds are the messages that are a step each.
var stepKinds = map[ccid.MessageType]StepKind{
	ccid.TypeGetSlotStatus: StepStatus, ccid.TypeIccPowerOn: StepPowerOn, ccid.TypeIccPowerOff: StepPowerOff,
	ccid.TypeSetParameters: StepProtocol, ccid.TypeEscape: StepEscape, ccid.TypeSecure: StepPIN,
}

// Step is something that the host of a capture did with a slot, in the terms of a driver's caller.
type Step struct {
	Kind StepKind
	// Device is the index among the capture's devices, Interface and Slot are numbers.
	Device, Interface, Slot int
	// Packet is the first of the step, and Ordinal counts the messages that the host had sent to the interface before.
	Packet, Ordinal int
	// Protocol is the T of StepProtocol and StepTransmit; negative where it isn't known.
	Protocol int
	// Data is abData of the message.
	Data []byte

	exchange *exchange
	tpdu     int
}

// Exchange returns the command of a StepTransmit or StepPIN and the response that it got: an APDU, or a TPDU for T=0 with a
// reader that takes those. The response is nil where the capture has none.
func (s *Step) Exchange() (command, response []byte) {
	if s.exchange == nil {
		return nil, nil
	}
	if s.tpdu < len(s.exchange.TPDUs) {
		pair := s.exchange.TPDUs[s.tpdu]
		return pair[0], pair[1]
	}
	return s.exchange.raw, nil
}

// APDU is the number of the APDU that the step belongs to, 0 for none.
func (s *Step) APDU() int {
	if s.exchange == nil {
		return 0
	}
	return s.exchange.Number
}

// Plan returns what the host of a capture did, PINs included as far as the capture has them.
func Plan(c *capture.Capture) []Step {
	b := newBuilder(c, Options{IncludeSecrets: true})
	for _, m := range moments(c.Transfers) {
		b.add(m)
	}
	b.finish()
	return b.steps
}

// sent adds the step that an XfrBlock begins, if it does.
func (b *builder) sent(step Step, s *slot, p part) {
	step.Protocol = s.protocol
	switch {
	case p.sets:
		step.Kind = StepProtocol
	case p.sends:
		step.Kind, step.exchange = StepTransmit, p.exchange
		step.tpdu = max(0, len(p.exchange.TPDUs)-1)
	default:
		return
	}
	b.steps = append(b.steps, step)
}
