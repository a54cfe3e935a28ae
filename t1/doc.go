// Package t1 implements the interface-device side of the block protocol T=1,
// ISO/IEC 7816-3:2006 §11.
//
// The Engine is sans-I/O: it owns no clock, no goroutine and no connection. A
// caller hands it a command, sends the block of each Step to the card, and
// reports what came back with Receive, NoAnswer or BadParity until a Step is
// Done or an error ends the exchange:
//
//	step, err := engine.Transmit(command)
//	for err == nil && !step.Done {
//		block, ioErr := exchange(step.Send, step.WTX) // waits at most WTX × BWT
//		switch {
//		case errors.Is(ioErr, errMute):
//			step, err = engine.NoAnswer()
//		case errors.Is(ioErr, errParity):
//			step, err = engine.BadParity()
//		default:
//			step, err = engine.Receive(block)
//		}
//	}
//
// The waiting times BWT, CWT and BGT as durations belong to package atr; the
// engine only tells by which factor the wait after one block is extended.
//
// # States
//
//	              Transmit, Delegate            our last block acknowledged
//	idle ─────────────────────────────▶ sending ──────────────────────▶ receiving
//	 ▲│                                  │   │                           │  │  │
//	 ││                                  │   └──── S(ABORT request) ─────┘  │  │
//	 ││                                  │         of the card: aborting    │  │
//	 ││ NegotiateIFSD                    │ Abort            │               │  │
//	 │└───────────────▶ requesting ◀─────┴──────────────────┼───────────────┘  │
//	 │                   │      │                           │                  │
//	 ├── S(IFS response) ┘      └─ S(ABORT response) ─┐     │ any block        │
//	 │                                                ▼     ▼                  │
//	 ├── ErrInterrupted ◀── S(RESYNCH response) ──── resynching ◀── 3 repeats  │
//	 │                                                │      of a block in vain,
//	 │                               3 × in vain      │      from any state    │
//	 │                  unresponsive: ErrNeedReset ◀──┘                        │
//	 └── Done ◀────────────── last I-block of the answer ──────────────────────┘
//
// Comments name the rules of operation of ISO/IEC 7816-3:2006 §11.6: 1 who begins,
// 2 acknowledgement, 3 waiting time extension, 4 information field sizes,
// 5 chaining, 6 resynchronisation, 7 errors, 9 abortion. Where the standard leaves a
// choice, the engine takes the one after which a wrong count cannot go unnoticed; the
// model test walks it against a card and a line that do what they like.
//
// # What a resynchronisation means
//
// S(RESYNCH) brings both sequence numbers and both information field sizes back
// to their initial values, but neither side learns how far the other one came.
// The engine therefore never resumes a command, and never restarts one by
// itself either: a card may act on the blocks of a chain as they arrive, so even
// a command whose last block was never sent may have had an effect. The exchange
// ends with ErrInterrupted, and Error.Delivered says how much of the command the
// card may have seen, so that the caller can decide. The caller also negotiates
// IFSD anew, and drops any block of the card still on its way: its number would be
// taken for a new one.
package t1
