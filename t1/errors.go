package t1

import (
	"errors"
	"fmt"
)

// How an exchange can fail. Each is the Err of an *Error.
var (
	// ErrNeedReset reports that the card answered none of three
	// S(RESYNCH request) blocks. Only a warm reset can help
	// (ISO/IEC 7816-3:2006 §11.6.3.2 rule 6.4); every call fails with it until
	// Engine.Reset.
	ErrNeedReset = errors.New("t1: card does not resynchronise, it needs a reset")
	// ErrInterrupted reports that the exchange could not be completed and that
	// card and engine are synchronised again. What was received is dropped. The
	// next command may be sent; both information field sizes are back at their
	// initial values.
	ErrInterrupted = errors.New("t1: exchange interrupted by a resynchronisation")
)

// ErrAborted reports, as the Cause of an Error, that the card, or the caller with
// Engine.Abort, ended a chain by S(ABORT request).
var ErrAborted = errors.New("t1: chain aborted")

// Misuse of the engine; none of them changes its state.
var (
	// ErrBusy reports a new exchange before the one under way has ended.
	ErrBusy = errors.New("t1: an exchange is under way")
	// ErrIdle reports a block, or the lack of one, that nobody waits for.
	ErrIdle = errors.New("t1: no exchange is under way")
	// ErrConfig reports a value that the protocol does not allow.
	ErrConfig = errors.New("t1: invalid parameter")
)

// More faults of a received block, those that need the state of the exchange.
var (
	// ErrTimeout reports that no block arrived within the block waiting time.
	ErrTimeout = errors.New("t1: no answer within the block waiting time")
	// ErrNAD reports a node address that is not the mirror image of ours.
	ErrNAD = errors.New("t1: wrong node address")
	// ErrSequence reports an I-block or R-block with the wrong number.
	ErrSequence = errors.New("t1: wrong sequence number")
	// ErrUnexpected reports a well-formed block of a type that has no place at
	// this point of the exchange.
	ErrUnexpected = errors.New("t1: unexpected block")
	// ErrStalled reports a card that asks for time, changes its information field
	// size or sends empty blocks again and again without any progress.
	ErrStalled = errors.New("t1: no progress")
	// ErrTooLong reports an answer of more than MaxResponse bytes.
	ErrTooLong = errors.New("t1: response too long")
	// ErrUnknownContent reports that the card asks for the repetition of a block
	// whose content only the reader knows, see Engine.Delegate.
	ErrUnknownContent = errors.New("t1: cannot repeat a block sent by the reader")
)

// Delivery tells how much of a command the card may have received.
type Delivery byte

// The degrees of delivery.
const (
	NotSent    Delivery = iota // no block of a command was given out to be sent
	PartlySent                 // blocks of the chain were, but not its last one
	FullySent                  // all blocks were: the card may have executed the command
)

// String names the degree.
func (d Delivery) String() string {
	switch d {
	case NotSent:
		return "not sent"
	case PartlySent:
		return "sent in part"
	case FullySent:
		return "sent completely"
	}

	return fmt.Sprintf("Delivery(%d)", byte(d))
}

// Error ends an exchange.
type Error struct {
	// Err is ErrNeedReset or ErrInterrupted.
	Err error
	// Cause is why: for ErrInterrupted, ErrAborted or the fault that ended the
	// repetitions; for ErrNeedReset, the last fault.
	Cause error
	// Delivered tells how much of the command the card may have seen. What the
	// card did with it is not known, not even for PartlySent: a card may act on
	// the blocks of a chain as they arrive.
	Delivered Delivery
}

// Error describes the failure in one line.
func (e *Error) Error() string {
	return fmt.Sprintf("%s (command %s): %s", e.Err, e.Delivered, e.Cause)
}

// Unwrap gives errors.Is both Err and Cause.
func (e *Error) Unwrap() []error { return []error{e.Err, e.Cause} }
