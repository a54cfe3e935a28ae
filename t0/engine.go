package t0

import (
	"fmt"

	"github.com/goccid/goccid/apdu"
)

const (
	// MaxTPDU is the longest command TPDU: header, P3 and 255 bytes.
	MaxTPDU = apdu.HeaderLength + 1 + apdu.MaxShortData
	// MaxRounds bounds the TPDUs that a card can cause with 61xx and 6Cxx for one APDU. The longest response needs 256
	// GET RESPONSE commands; four times that leaves room for cards with a small buffer.
	MaxRounds = 1024
)

// EchoClass as a class of Config stands for "the class of the command APDU" (CCID 1.1 table 5.1-1).
const EchoClass = 0xFF

// Mapping says who makes TPDUs out of APDUs.
type Mapping uint8

const (
	// Transparent: the application sends TPDUs and itself reacts to 61xx and 6Cxx, as PC/SC applications expect of
	// a reader at TPDU level.
	Transparent Mapping = iota
	// MapAPDU: the application sends APDUs, short or extended, and the engine does the rest
	// (ISO/IEC 7816-3:2006 §12.2).
	MapAPDU
)

// String returns "transparent" or "map APDUs".
func (m Mapping) String() string {
	switch m {
	case Transparent:
		return "transparent"
	case MapAPDU:
		return "map APDUs"
	}
	return fmt.Sprintf("Mapping(%d)", uint8(m))
}

// Config is what an Engine has to know. Its zero value is a transparent engine.
type Config struct {
	Mapping Mapping
	// ClassGetResponse and ClassEnvelope are the class bytes of the commands that MapAPDU adds: EchoClass to repeat
	// the command's own class (ISO/IEC 7816-4:2005 §5.1.3 asks for that, logical channels need it), any other value
	// as it is (EMV wants 00). They have the meaning of bClassGetResponse and bClassEnvelope, CCID 1.1 table 5.1-1.
	ClassGetResponse byte
	ClassEnvelope    byte
}

// Step is what to do next.
type Step struct {
	// Send is the command TPDU to transmit, nil when Done: CLA INS P1 P2 (case 1), CLA INS P1 P2 P3 (data expected)
	// or CLA INS P1 P2 P3 data, the three forms of CCID 1.1 §3.2.1. In the first one the reader, or Character, adds
	// P3=00. Valid until the next call.
	Send []byte
	// Expect is the largest number of data bytes (0..256) that the response TPDU can have before SW1 SW2.
	Expect int
	// Done ends the exchange; Response is then the response APDU, data and SW1 SW2, valid until the next call.
	Done     bool
	Response []byte
}

// mapping is the part of an Engine that depends on who makes the TPDUs.
type mapping interface {
	transmit(command []byte) (Step, error)
	receive(response []byte) (Step, error)
	reset()
}

// Engine exchanges APDUs, or TPDUs, with a T=0 card. See New.
type Engine struct {
	mapping mapping
}

// New makes an engine for one card. An unknown Mapping is an error.
func New(c Config) (*Engine, error) {
	switch c.Mapping {
	case Transparent:
		return &Engine{mapping: &transparent{}}, nil
	case MapAPDU:
		return &Engine{mapping: &mapper{classGetResponse: c.ClassGetResponse, classEnvelope: c.ClassEnvelope}}, nil
	}
	return nil, fmt.Errorf("t0: unknown mapping %d", c.Mapping)
}

// Transmit begins an exchange, giving up one that may be running, and returns the first TPDU. The command is copied; it
// must not be part of an earlier Step. Errors: ErrCommand, ErrInstruction.
func (e *Engine) Transmit(command []byte) (Step, error) {
	e.mapping.reset()
	return e.checked(e.mapping.transmit(command))
}

// Receive takes the response TPDU to the last Step.Send, data and SW1 SW2, and says how to go on. Errors: ErrResponse,
// ErrTooManyRounds, ErrPartialCommand, ErrNoExchange.
func (e *Engine) Receive(response []byte) (Step, error) {
	return e.checked(e.mapping.receive(response))
}

// Reset gives up the running exchange, if any, and zeroes every buffer. What earlier Steps hold is gone.
func (e *Engine) Reset() { e.mapping.reset() }

// checked makes an error the end of the exchange.
func (e *Engine) checked(s Step, err error) (Step, error) {
	if err != nil {
		e.mapping.reset()
		return Step{}, err
	}
	return s, nil
}

// splitResponse returns the data and the status of a response TPDU that can have at most expect bytes of data.
func splitResponse(response []byte, expect int) (data []byte, sw apdu.StatusWord, err error) {
	n := len(response) - 2
	if n < 0 || n > expect {
		return nil, 0, fmt.Errorf("%w: %d bytes, expected 2 to %d", ErrResponse, len(response), expect+2)
	}
	return response[:n], apdu.StatusWord(response[n])<<8 | apdu.StatusWord(response[n+1]), nil
}

// p3Length returns how many bytes P3 stands for when the card sends data: 00 is 256 (ISO/IEC 7816-3:2006 §10.3.2).
func p3Length(p3 byte) int {
	if p3 == 0 {
		return apdu.MaxShortNe
	}
	return int(p3)
}
