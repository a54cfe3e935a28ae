package virtual

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/virtual/card"
)

// pinOrder is what a Secure message asks for (CCID 1.1 §6.1.11).
type pinOrder struct {
	layout    pinLayout
	timeOut   time.Duration
	size      ccid.PINSize
	condition ccid.PINCondition
	old       *int // insertion offset of the current PIN, nil when it is not entered
	new       int  // insertion offset of the PIN, or of the new one
	confirm   bool // the new PIN is entered twice
	prologue  [3]byte
	command   pinCommand
	template  int // length of abPINApdu
}

// secure answers Secure.
func (s *slot) secure(c ccid.Command) {
	f := s.function
	if !s.hasPINPad(c) {
		f.respond(s.failure(c, ccid.ErrorCommandNotSupported))
		return
	}
	if !s.isActive() {
		s.inactive(c)
		f.respond(s.failure(c, ccid.ErrorICCMute))
		return
	}
	order, code, fault := s.parseSecure(c)
	switch {
	case fault != "":
		s.violated(c, RulePIN, "%s", fault)
		f.respond(s.failure(c, code))
		return
	case c.LevelParameter() != 0:
		s.violated(c, RuleLevel, "%04X in a Secure message", c.LevelParameter())
	}
	s.checkBWI(c)
	f.begin(s, c, func(ctx context.Context) ccid.Response { return s.executePIN(ctx, c, order) })
}

// hasPINPad reports whether the reader can do what a Secure message asks for. At character level there is nobody to run
// the card's protocol.
func (s *slot) hasPINPad(c ccid.Command) bool {
	support := s.function.class.BPINSupport
	switch {
	case s.function.level == ccid.LevelCharacter:
		return false
	case len(c.Data) > 0 && ccid.PINOperation(c.Data[0]) == ccid.PINVerify:
		return support&ccid.PINVerification != 0
	case len(c.Data) > 0 && ccid.PINOperation(c.Data[0]) == ccid.PINModify:
		return support&ccid.PINModification != 0
	}
	return support != 0
}

// parseSecure judges a Secure message. fault says what is wrong, code is then what to answer.
func (s *slot) parseSecure(c ccid.Command) (order pinOrder, code ccid.ErrorCode, fault string) {
	if len(c.Data) == 0 {
		return order, ccid.ErrorBadLength, "no bPINOperation"
	}
	var err error
	var prologue [3]byte
	var apdu []byte
	switch operation := ccid.PINOperation(c.Data[0]); operation {
	case ccid.PINVerify:
		var p ccid.PINVerificationData
		if p, err = ccid.ParsePINVerificationData(c.Data); err == nil {
			order, fault = verificationOrder(p)
		}
		prologue, apdu = p.BTeoPrologue, p.PINAPDU
	case ccid.PINModify:
		var p ccid.PINModificationData
		if p, err = ccid.ParsePINModificationData(c.Data); err == nil {
			order, fault = modificationOrder(p)
		}
		prologue, apdu = p.BTeoPrologue, p.PINAPDU
	default:
		return order, ccid.OffsetPINOperation, fmt.Sprintf("bPINOperation %d", operation)
	}
	switch {
	case err != nil:
		return order, ccid.ErrorBadLength, err.Error()
	case fault != "":
		return order, ccid.OffsetPINFormatString, fault
	}
	order.prologue, order.template = prologue, len(apdu)
	var ok bool
	if order.command, ok = parsePINCommand(apdu); !ok {
		return order, ccid.ErrorBadLength, fmt.Sprintf("abPINApdu of %d bytes is no short APDU", len(apdu))
	}
	if fault := order.check(); fault != "" {
		return order, ccid.OffsetPINBlockString, fault
	}
	if fault := s.checkPrologue(order); fault != "" {
		return order, ccid.ErrorBadLength, fault
	}
	if order.timeOut == 0 {
		order.timeOut = s.function.reader.config.PINPad.TimeOut
	}
	return order, 0, ""
}

// Values of bNumberMessage of a PIN verification, besides 0 for none.
const (
	oneMessage     = 1
	readersMessage = 0xFF
)

func verificationOrder(p ccid.PINVerificationData) (pinOrder, string) {
	if p.BNumberMessage > oneMessage && p.BNumberMessage != readersMessage {
		return pinOrder{}, fmt.Sprintf("bNumberMessage %d", p.BNumberMessage)
	}
	return pinOrder{
		layout:  pinLayout{p.BmFormatString, p.BmPINBlockString, p.BmPINLengthFormat},
		timeOut: time.Duration(p.BTimeOut) * time.Second, size: p.WPINMaxExtraDigit, condition: p.BEntryValidationCondition,
	}, ""
}

func modificationOrder(p ccid.PINModificationData) (pinOrder, string) {
	if p.BConfirmPIN > ccid.PINConfirmNew|ccid.PINEnterOld {
		return pinOrder{}, fmt.Sprintf("bConfirmPIN %02X", uint8(p.BConfirmPIN))
	}
	o := pinOrder{
		layout:  pinLayout{p.BmFormatString, p.BmPINBlockString, p.BmPINLengthFormat},
		timeOut: time.Duration(p.BTimeOut) * time.Second, size: p.WPINMaxExtraDigit, condition: p.BEntryValidationCondition,
		new: int(p.BInsertionOffsetNew), confirm: p.BConfirmPIN&ccid.PINConfirmNew != 0,
	}
	if p.BConfirmPIN&ccid.PINEnterOld != 0 {
		old := int(p.BInsertionOffsetOld)
		o.old = &old
	}
	return o, ""
}

// check judges the fields that both structures have. It returns what is wrong with them.
func (o pinOrder) check() string {
	const reserved = 0xE0
	switch {
	case o.layout.format.Format() > ccid.PINASCII:
		return fmt.Sprintf("bmFormatString %02X: no such type of digits", uint8(o.layout.format))
	case o.layout.length&reserved != 0:
		return fmt.Sprintf("bmPINLengthFormat %02X: reserved bits", uint8(o.layout.length))
	case o.size.Min() > o.size.Max() || o.size.Max() == 0:
		return fmt.Sprintf("wPINMaxExtraDigit %04X: %d to %d digits", uint16(o.size), o.size.Min(), o.size.Max())
	case !o.condition.Valid():
		return fmt.Sprintf("bEntryValidationCondition %02X", uint8(o.condition))
	}
	for _, offset := range o.offsets() {
		digits, ok := o.command.room(o.layout, offset)
		switch {
		case !ok:
			return fmt.Sprintf("bmFormatString %02X, bmPINBlockString %02X, bmPINLengthFormat %02X at offset %d: beyond the %d bytes of data",
				uint8(o.layout.format), uint8(o.layout.block), uint8(o.layout.length), offset, len(o.command.data))
		case digits < o.size.Max():
			return fmt.Sprintf("wPINMaxExtraDigit %04X: there is room for %d digits", uint16(o.size), digits)
		}
	}
	return ""
}

func (o pinOrder) offsets() []int {
	if o.old != nil {
		return []int{*o.old, o.new}
	}
	return []int{o.new}
}

// completesBlocks reports whether the host leaves the beginning of a T=1 block to the reader to complete.
func (s *slot) completesBlocks() bool {
	s.function.mu.Lock()
	defer s.function.mu.Unlock()
	return s.function.level == ccid.LevelTPDU && s.parameters.protocol == 1
}

// checkPrologue judges bTeoPrologue, which counts for T=1 at TPDU level only: an I-block of the whole command.
func (s *slot) checkPrologue(o pinOrder) string {
	const iBlock, sequence = 0x00, 0x40
	if !s.completesBlocks() {
		return ""
	}
	if o.prologue[1]&^byte(sequence) != iBlock {
		return fmt.Sprintf("bTeoPrologue % X: PCB is not of an unchained I-block", o.prologue)
	}
	if int(o.prologue[2]) != o.template {
		return fmt.Sprintf("bTeoPrologue % X: LEN is not %d", o.prologue, o.template)
	}
	return ""
}

// executePIN has the holder enter the PINs, and gives the card the command with them.
func (s *slot) executePIN(ctx context.Context, c ccid.Command, o pinOrder) ccid.Response {
	pad := s.function.reader.pad
	if !pad.take() {
		// Another slot's holder is at the keys.
		return s.failure(c, ccid.ErrorSlotBusy)
	}
	end := s.enter(ctx, c, &o)
	pad.give()
	switch end {
	case pinCancelled:
		return s.noPIN(c, ccid.ErrorPINCancelled, 0x6401)
	case pinTimedOut:
		return s.noPIN(c, ccid.ErrorPINTimeout, 0x6400)
	case pinMismatch:
		return s.answer(c, 0, []byte{0x64, 0x02})
	case pinAborted:
		return s.failure(c, ccid.ErrorCommandAborted)
	}
	command := o.command.bytes()
	l := line{slot: s, card: s.activeCard(), command: c}
	if l.card == nil {
		return s.failure(c, ccid.ErrorICCMute)
	}
	if s.function.level != ccid.LevelTPDU {
		b, code := s.exchangeAPDU(ctx, c, command)
		if code == 0 && s.function.level == ccid.LevelExtendedAPDU {
			s.function.mu.Lock()
			s.response, s.fetching = b, false
			s.function.mu.Unlock()
			return s.nextPart(c)
		}
		return s.result(c, b, code)
	}
	if code := l.ready(command[0]); code != 0 {
		return s.failure(c, code)
	}
	if !s.completesBlocks() {
		b, code := l.t0(ctx, command)
		return s.result(c, b, code)
	}
	s.function.mu.Lock()
	crc := s.parameters.t1.BmTCCKST1&ccid.TCCKSTCRC != 0
	s.function.mu.Unlock()
	block := append([]byte{o.prologue[0], o.prologue[1], byte(len(command))}, command...)
	b, code := l.block(ctx, append(block, card.EDC(block, crc)...))
	return s.result(c, b, code)
}

// noPIN answers that there is none, in the way of this reader.
func (s *slot) noPIN(c ccid.Command, code ccid.ErrorCode, sw uint16) ccid.Response {
	if s.function.reader.config.PINPad.Answers == PINStatusWords {
		return s.answer(c, 0, []byte{byte(sw >> 8), byte(sw)})
	}
	return s.failure(c, code)
}

// enter reads the PINs from the pad, and writes them into the order's command.
func (s *slot) enter(ctx context.Context, c ccid.Command, o *pinOrder) outcome {
	e := entry{
		pad: s.function.reader.pad, timeOut: o.timeOut, min: o.size.Min(), max: o.size.Max(),
		atMax: o.condition&ccid.PINMaxSizeReached != 0, atKey: o.condition&ccid.PINKeyPressed != 0, atTimeOut: o.condition&ccid.PINTimeOccurred != 0,
		extend: func() { s.function.respond(s.extension(c, 1)) },
	}
	var last []byte
	for _, offset := range o.offsets() {
		digits, end := e.read(ctx)
		if end != pinEntered {
			return end
		}
		o.command.write(o.layout, offset, digits)
		last = digits
	}
	if !o.confirm {
		return pinEntered
	}
	again, end := e.read(ctx)
	if end == pinEntered && !slices.Equal(last, again) {
		return pinMismatch
	}
	return end
}
