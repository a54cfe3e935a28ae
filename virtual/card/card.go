// Package card has software smart cards: the card's side of ISO/IEC 7816-3 (answer to reset, PPS, T=0 characters, T=1
// blocks) and an ISO/IEC 7816-4 application with a small file system.
//
// The link protocols are written for the card's side alone; nothing is shared with the host's engines in t0 and t1, so
// that a mistake in one can't hide in the other.
//
// A Card is used by one goroutine at a time: the reader's slot that it sits in. While it works on a command it runs one
// goroutine, which PowerOff and Close end.
package card

import (
	"context"
	"errors"
	"time"
)

// Class is a set of operating conditions, by supply voltage (ISO/IEC 7816-3:2006 §5.1.3).
type Class uint8

// The classes.
const (
	ClassA Class = 1 << iota // 5 V
	ClassB                   // 3 V
	ClassC                   // 1.8 V
)

// ErrMute is what a reader sees of a card that does not answer: the waiting time passes and nothing comes.
var ErrMute = errors.New("card: mute")

// Card is what a reader meets at its contacts.
type Card interface {
	// PowerOn activates the card with one of the classes and resets it cold; a card that has power is reset warm. It
	// returns the answer to reset, or ErrMute where the card does not work with that voltage.
	PowerOn(ctx context.Context, class Class) ([]byte, error)
	// PowerOff deactivates the card. What it was doing ends.
	PowerOff()
	// Write sends characters to the card. What the card had sent and nobody read is lost.
	Write(b []byte)
	// Read returns the next characters that the card sends, 1..n of them: fewer than n when the card then waits for
	// the reader. When it sends nothing the error is ErrMute, at once; a reader that wants to show a waiting time
	// lets it pass itself. When ctx ends while the card is working, the card goes on, and a later Read gets its answer.
	Read(ctx context.Context, n int) ([]byte, error)
	// Transmit exchanges one APDU, for readers that run the link protocol themselves. extend is called each time
	// the card asks for more time, with the multiplier that it asks for; it may be nil.
	Transmit(ctx context.Context, command []byte, extend func(multiplier byte)) ([]byte, error)
	// State tells what a reader must know to talk to the card.
	State() State
	// Close ends the card for good.
	Close() error
}

// State is what protocol a card speaks now, and how fast.
type State struct {
	// Protocol is the T of the protocol in use.
	Protocol byte
	// FD has the index of F in its high half and of D in its low half, as TA1 has.
	FD byte
	// Negotiable says that the card would still take a PPS: nothing but the ATR has passed.
	Negotiable bool
}

// Application is the card above its link protocol: command APDU in, response APDU out. It is called by one goroutine at
// a time.
type Application interface {
	// Reset begins a session. It returns the answer to reset, or nil to leave that to the card's Options.
	Reset(ctx context.Context) ([]byte, error)
	// Off ends a session: the card has lost its power.
	Off()
	// Transmit answers a command; the response has at least SW1 SW2. An error makes the card mute.
	Transmit(ctx context.Context, command []byte) ([]byte, error)
}

// Behaviour is how the link treats one command.
type Behaviour struct {
	// Delay is how long the application takes.
	Delay time.Duration
	// Extensions are requests for more time to make before the answer: multipliers of S(WTX request) for T=1 and of the
	// time extension at APDU level, one NULL each for T=0.
	Extensions []byte
	// IFSC, when not 0, makes a T=1 card announce it with S(IFS request) before the answer.
	IFSC byte
	// Abort makes a T=1 card answer with S(ABORT request), and then R, in place of the answer.
	Abort bool
	// Singly makes a T=0 card transfer data one byte at a time, each after the complement of INS.
	Singly bool
	// Mute makes the card take the command and never answer.
	Mute bool
}

// Options make one card differ from another. The zero value is a T=0 card.
type Options struct {
	// ATR is the answer to reset; nil makes one from the fields below.
	ATR []byte
	// Protocol is 0 or 1, for the ATR that is made.
	Protocol byte
	// TA1 is the offered Fi and Di, for the ATR that is made; 0 is 0x94 for T=0 and 0x96 for T=1.
	TA1 byte
	// IFSC is the card's information field size for the ATR that is made, 1..254; 0 is 254.
	IFSC byte
	// CRC selects CRC in place of LRC for T=1, for the ATR that is made.
	CRC bool
	// PlainCRC makes a T=1 card with CRC send it as cards in the field do that follow the widespread free T=1 code: not
	// complemented, high byte first. The standard's form is refused then.
	PlainCRC bool
	// Classes are the voltages that the card works with; 0 is all.
	Classes Class
	// Behave, when set, is asked how to treat each command: an APDU, or for T=0 the header of a TPDU.
	Behave func(command []byte) Behaviour
	// Patience is how long a T=1 or T=0 card lets the reader wait before it asks for more time by itself; 0 is 500 ms,
	// below 0 never.
	Patience time.Duration
	// Incoming tells whether a T=0 command brings data; nil is by INS, as ISO/IEC 7816-4 has them.
	Incoming func(header [5]byte) bool
}

// defaultPatience is well under the shortest waiting times in use: WWT is 1 s and BWT 1.6 s at default values.
const defaultPatience = 500 * time.Millisecond
