package t0

import "errors"

// The kinds of failure, to be tested with errors.Is. All of them end the exchange.
var (
	// ErrCommand: what Transmit was given is not a command that T=0 can carry. Nothing was sent.
	ErrCommand = errors.New("t0: invalid command")
	// ErrInstruction: INS is 6X or 9X, which T=0 can't tell from a status byte (ISO/IEC 7816-3:2006 §10.3.2).
	// Nothing was sent.
	ErrInstruction = errors.New("t0: instruction byte is invalid in T=0")
	// ErrNoExchange: Receive was called while nothing was expected.
	ErrNoExchange = errors.New("t0: no exchange is running")
	// ErrResponse: what was received can't be an answer to what was sent: wrong length or an impossible status.
	ErrResponse = errors.New("t0: invalid response")
	// ErrProcedureByte: the card sent a byte that is neither NULL, nor an acknowledgement, nor SW1
	// (ISO/IEC 7816-3:2006 §10.3.3).
	ErrProcedureByte = errors.New("t0: invalid procedure byte")
	// ErrTooManyNulls: the card sent more than MaxNulls procedure bytes that move nothing.
	ErrTooManyNulls = errors.New("t0: card only asks for more time")
	// ErrTooManyRounds: the card asked for more than MaxRounds TPDUs with 61xx or 6Cxx.
	ErrTooManyRounds = errors.New("t0: card never completes its response")
	// ErrPartialCommand: the card ended an ENVELOPE sequence before it had the whole command, with a status that
	// reads like success. The command was not executed as it was given.
	ErrPartialCommand = errors.New("t0: card answered before it had the whole command")
)
