package host

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// What can go wrong above USB and CCID, to be tested with errors.Is. Below them an error is also one of usbtransport's
// (ErrRemoved, ErrTimedOut, ErrCancelled, ErrClosed …), a *ccid.CommandError or ccid.ErrorCode, or one of t0's or t1's.
var (
	// ErrNoCard: there is no card in the slot, or it was taken out during the operation.
	ErrNoCard = errors.New("no card in the slot")
	// ErrNotPowered: the card has no power, or lost its session to an error, a recovery or another card: PowerOn and
	// SetProtocol make a new one.
	ErrNotPowered = errors.New("card is not powered")
	// ErrNoProtocol: SetProtocol has not been called since the card was powered.
	ErrNoProtocol = errors.New("no protocol is set")
	// ErrMute: the card did not answer to reset, at none of the voltages tried.
	ErrMute = errors.New("card does not answer to reset")
	// ErrBadATR: the answer to reset is none by ISO/IEC 7816-3:2006 §8, or the reader sent none with its success.
	ErrBadATR = errors.New("answer to reset is invalid")
	// ErrProtocol: the card does not offer this protocol, or the reader can't speak it.
	ErrProtocol = errors.New("protocol is not supported")
	// ErrParameters: the reader or the card takes none of the parameter sets, from the fastest to the default one.
	ErrParameters = errors.New("reader and card agree on no parameters")
	// ErrTooLong: the command is longer than the reader can take.
	ErrTooLong = errors.New("command is too long for the reader")
	// ErrExtendedAPDU: an extended APDU, but the reader exchanges short APDUs only, and the card does not say that it
	// takes one in parts. It is an ErrTooLong.
	ErrExtendedAPDU = fmt.Errorf("reader takes no extended APDUs: %w", ErrTooLong)
	// ErrNoPINPad: the reader has no PIN pad, or none that can do what is asked for.
	ErrNoPINPad = errors.New("reader has no PIN pad for this")
	// ErrResponse: the reader's answer breaks the rules of its exchange level.
	ErrResponse = errors.New("reader answers against the rules")
	// ErrIgnored: Options.Ignore has the reader left alone.
	ErrIgnored = errors.New("left alone for its name")
	// ErrNotAReader: the interface can't be driven; Function.Unusable says why.
	ErrNotAReader = errors.New("interface is not a usable reader")
	// ErrNoReader: no device of the backend has a usable reader.
	ErrNoReader = errors.New("no reader found")
)

// NoSlot is Error.Slot where an operation is about the whole reader.
const NoSlot = -1

// Error is a failed operation on a reader or a slot.
type Error struct {
	// Op is the operation: "open", "status", "power on", "power off", "set protocol", "transmit", "escape" …
	Op string
	// Reader is the reader's name (the slot's, where there is a slot), or the device where it has no name yet.
	Reader string
	// Slot is the slot's number, NoSlot where there is none.
	Slot int
	// Err is why.
	Err error
}

// Error returns "Gemalto PC Twin Reader (70D7E2EE) 00 00: transmit: no card in the slot".
func (e *Error) Error() string { return e.Reader + ": " + e.Op + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether a deadline passed, the caller's or ours, as net.Error does.
func (e *Error) Timeout() bool { return errors.Is(e.Err, usbtransport.ErrTimedOut) }

// NoAnswerError says that the reader sent no answer in time, or that the time for the whole operation was over. It is a
// usbtransport.ErrTimedOut.
type NoAnswerError struct {
	// Command is what was sent.
	Command ccid.MessageType
	// Waited is how long the answer was waited for, with all time extensions.
	Waited time.Duration
	// Ceiling is how long the operation might take in all (Limits.Exchange, Limits.KeyGeneration) where that was over, 0 where it
	// was not.
	Ceiling time.Duration
	// Recovery is what was then done to the reader, and with what result.
	Recovery Recovery
}

// Error returns "no answer to PC_to_RDR_XfrBlock within 3s; reader answers again after abort" or, at the ceiling, "no answer to
// PC_to_RDR_XfrBlock, given up after 1m0s in all; reader answers again after abort".
func (e *NoAnswerError) Error() string {
	if e.Ceiling > 0 {
		return fmt.Sprintf("no answer to %v, given up after %v in all; %v", e.Command, e.Ceiling, e.Recovery)
	}
	return fmt.Sprintf("no answer to %v within %v; %v", e.Command, e.Waited.Round(time.Millisecond), e.Recovery)
}

// Unwrap returns usbtransport.ErrTimedOut.
func (e *NoAnswerError) Unwrap() error { return usbtransport.ErrTimedOut }

// RecoveryStep is a means by which a reader that stopped answering is brought back, in the order in which they are
// tried.
type RecoveryStep uint8

// The steps of a recovery.
const (
	// StepAbort is the ABORT request with the PC_to_RDR_Abort message (CCID 1.1 §5.3.1).
	StepAbort RecoveryStep = iota
	// StepClearHalt clears both bulk endpoints (USB 2.0 §9.4.5).
	StepClearHalt
	// StepPowerOff takes the card's power away.
	StepPowerOff
	// StepReset resets the device's port. All cards of the reader lose their power.
	StepReset
)

// String returns "abort", "clear halt", "card power off" or "USB reset".
func (s RecoveryStep) String() string {
	switch s {
	case StepAbort:
		return "abort"
	case StepClearHalt:
		return "clear halt"
	case StepPowerOff:
		return "card power off"
	case StepReset:
		return "USB reset"
	}
	return fmt.Sprintf("step %d", uint8(s))
}

// Recovery tells how a reader was brought back.
type Recovery struct {
	// Tried are the steps taken, in order.
	Tried []RecoveryStep
	// Recovered: the reader answered after the last of them.
	Recovered bool
}

// String returns "reader answers again after clear halt", "reader still does not answer after abort, clear halt", or
// "no recovery tried".
func (r Recovery) String() string {
	if len(r.Tried) == 0 {
		return "no recovery tried"
	}
	if r.Recovered {
		return fmt.Sprintf("reader answers again after %v", r.Tried[len(r.Tried)-1])
	}
	names := make([]string, len(r.Tried))
	for i, s := range r.Tried {
		names[i] = s.String()
	}
	return "reader still does not answer after " + strings.Join(names, ", ")
}
