// Package t0 is the host side of the transmission protocol T=0, without any input or output: bytes in, the next bytes
// to send out (ISO/IEC 7816-3:2006 §10 and §12.2).
//
// It has two engines, one above the other; a reader's exchange level says which are needed (CCID 1.1 §3.2):
//
//   - [Engine] turns command APDUs into command TPDUs and response TPDUs into response APDUs. It is all that a reader
//     at TPDU level needs.
//   - [Character] turns one TPDU into characters: header, procedure bytes, data, status. A reader at character level
//     needs it below the Engine.
//
// Neither has a clock, a goroutine or a log. The caller sends [Step.Send], waits as the card's parameters demand, and
// gives what it received to Receive, until Done. After an error the exchange is over and the engine is ready for the
// next Transmit; whether the card is still in step is for the caller to judge, who can reset it.
//
// Everything that comes from the card or the reader is checked, and what a card may ask for is bounded: [MaxRounds]
// TPDUs for one APDU, [MaxNulls] procedure bytes that move nothing, the response never longer than the command allows.
//
// Commands may carry a PIN. The engines keep no more of one than the exchange needs: the buffers are zeroed when the
// exchange ends, by the next Transmit, and by Reset.
//
// An engine is for one card and one goroutine at a time. Its buffers are reused: in the steady state a TPDU costs no
// allocation.
package t0
