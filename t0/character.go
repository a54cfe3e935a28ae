package t0

import (
	"fmt"

	"github.com/goccid/goccid/apdu"
)

// MaxNulls bounds the procedure bytes of one TPDU that move nothing: NULL, and acknowledgements after the last byte. A
// card that sends one NULL in each default waiting time (0.96 s) gets more than an hour.
const MaxNulls = 4096

const null = 0x60

// CharStep is what to do next at character level.
type CharStep struct {
	// Send is what to send now, before reading; it may be empty. Valid until the next call.
	Send []byte
	// Expect is the number of characters (1..256) to read next, 0 when Done. All of them come without the card waiting
	// for anything, each within the waiting time (ISO/IEC 7816-3:2006 §10.2).
	Expect int
	// Restart tells that the card sent NULL: it is at work, the time allowed for the answer starts anew.
	Restart bool
	// Done ends the exchange; Response is then the response TPDU, data and SW1 SW2, valid until the next call.
	Done     bool
	Response []byte
}

// characterState is what Character reads next.
type characterState uint8

const (
	characterIdle characterState = iota
	characterProcedure
	characterData
	characterSW2
)

// Character exchanges one TPDU at a time as characters (ISO/IEC 7816-3:2006 §10.3). After the header it waits for a
// procedure byte:
//
//	NULL (60)        wait for another procedure byte
//	INS              move all data that are left, then wait for another procedure byte
//	INS xor FF       move one byte of data, then wait for another procedure byte
//	61..6F, 90..9F   SW1: wait for SW2, then end
//	other            error
//
// The forms INS xor 01 and INS xor FE, which once switched a programming voltage, are gone from the standard and are
// errors.
type Character struct {
	state characterState
	ins   byte
	nulls int

	tpdu     [MaxTPDU]byte
	out      []byte // data of tpdu that the card did not take yet
	response [apdu.MaxShortNe + 2]byte
	got      int // bytes in response
	in       int // data bytes that the card did not send yet
	wanted   int // bytes of the acknowledged data still to read
}

// NewCharacter returns an engine that waits for its first TPDU.
func NewCharacter() *Character { return &Character{} }

// Reset gives up the running exchange, if any, and zeroes every buffer. What earlier CharSteps hold is gone.
func (c *Character) Reset() { *c = Character{} }

// Transmit begins an exchange, giving up one that may be running. The TPDU has one of the forms of Step.Send, in which
// P3=00 without data asks for 256 bytes. It is copied. Errors: ErrCommand, ErrInstruction.
func (c *Character) Transmit(tpdu []byte) (CharStep, error) {
	c.Reset()
	length, expect, err := tpduShape(tpdu)
	if err != nil {
		return CharStep{}, err
	}
	if length != len(tpdu) {
		return CharStep{}, fmt.Errorf("%w: a TPDU has no Le after its data", ErrCommand)
	}
	if err := checkInstruction(tpdu[1]); err != nil {
		return CharStep{}, err
	}
	copy(c.tpdu[:], tpdu)
	c.ins, c.in = tpdu[1], expect
	if length > apdu.HeaderLength+1 {
		c.out = c.tpdu[apdu.HeaderLength+1 : length]
	}
	c.state = characterProcedure
	// The array holds a zero where a header of four bytes has no P3.
	return CharStep{Send: c.tpdu[:apdu.HeaderLength+1], Expect: 1}, nil
}

// Receive takes the characters read: at least 1, at most the last CharStep.Expect; the rest is asked for again. Errors:
// ErrResponse, ErrProcedureByte, ErrTooManyNulls, ErrNoExchange.
func (c *Character) Receive(b []byte) (CharStep, error) {
	s, err := c.receive(b)
	if err != nil {
		c.Reset()
		return CharStep{}, err
	}
	return s, nil
}

func (c *Character) receive(b []byte) (CharStep, error) {
	if c.state == characterIdle {
		return CharStep{}, ErrNoExchange
	}
	if expect := c.expect(); len(b) < 1 || len(b) > expect {
		return CharStep{}, fmt.Errorf("%w: %d characters, expected 1 to %d", ErrResponse, len(b), expect)
	}
	switch c.state {
	case characterData:
		return c.data(b)
	case characterSW2:
		return c.status(b[0])
	}
	return c.procedure(b[0])
}

// expect returns how many characters the current state can take.
func (c *Character) expect() int {
	if c.state == characterData {
		return c.wanted
	}
	return 1
}

// procedure obeys a procedure byte (ISO/IEC 7816-3:2006 §10.3.3). No two cases overlap: INS is not 6X or 9X, so
// neither INS nor INS xor FF is a status byte or NULL.
func (c *Character) procedure(b byte) (CharStep, error) {
	switch {
	case b == null:
		return c.idle(CharStep{Expect: 1, Restart: true})
	case b == c.ins:
		return c.transfer(apdu.MaxShortNe)
	case b == c.ins^0xFF:
		return c.transfer(1)
	case isSW1(b):
		c.append(b)
		c.state = characterSW2
		return CharStep{Expect: 1}, nil
	}
	return CharStep{}, fmt.Errorf("%w %02X for INS %02X", ErrProcedureByte, b, c.ins)
}

// transfer moves the next data bytes, at most limit, in whichever direction the TPDU has. The standard lets a card
// acknowledge when none are left; then nothing moves.
func (c *Character) transfer(limit int) (CharStep, error) {
	switch {
	case len(c.out) > 0:
		n := min(limit, len(c.out))
		send := c.out[:n:n]
		c.out = c.out[n:]
		return CharStep{Send: send, Expect: 1}, nil
	case c.in > 0:
		c.wanted = min(limit, c.in)
		c.state = characterData
		return CharStep{Expect: c.wanted}, nil
	}
	return c.idle(CharStep{Expect: 1})
}

// idle goes on after a procedure byte that moved nothing.
func (c *Character) idle(s CharStep) (CharStep, error) {
	c.nulls++
	if c.nulls > MaxNulls {
		return CharStep{}, ErrTooManyNulls
	}
	return s, nil
}

func (c *Character) data(b []byte) (CharStep, error) {
	c.append(b...)
	c.in -= len(b)
	c.wanted -= len(b)
	if c.wanted > 0 {
		return CharStep{Expect: c.wanted}, nil
	}
	c.state = characterProcedure
	return CharStep{Expect: 1}, nil
}

// status ends the exchange. A card may end it before all data have moved; SW2 can have any value.
func (c *Character) status(sw2 byte) (CharStep, error) {
	c.append(sw2)
	c.state = characterIdle
	clear(c.tpdu[:])
	c.out = nil
	return CharStep{Done: true, Response: c.response[:c.got]}, nil
}

func (c *Character) append(b ...byte) { c.got += copy(c.response[c.got:], b) }

// isSW1 tells whether b can be the first status byte: 61..6F or 9X (ISO/IEC 7816-3:2006 §10.3.3).
func isSW1(b byte) bool { return b>>4 == 9 || b>>4 == 6 && b != null }

func checkInstruction(ins byte) error {
	if ins>>4 == 6 || ins>>4 == 9 {
		return fmt.Errorf("%w: INS %02X", ErrInstruction, ins)
	}
	return nil
}
