package t1

import (
	"fmt"
	"hash/crc32"
)

const (
	// DefaultIFS is the information field size of either side until it announces
	// another one, ISO/IEC 7816-3:2006 §11.4.2.
	DefaultIFS = 32
	// MaxResponse is the longest answer: 65,536 bytes of data and two of status.
	MaxResponse = 65536 + 2

	// maxRepeats is how often in succession a block is repeated or asked for
	// again before the exchange is resynchronised (rule 7.4.2), and maxResynch
	// how often S(RESYNCH request) is sent before only a reset remains (rule 6.4).
	maxRepeats = 3
	maxResynch = 3
	// maxWTX bounds S(WTX request) blocks without progress between them. With the
	// shortest BWT the standard allows (some 90 ms at 4 MHz), it leaves six minutes
	// to a card that always asks for one, as long as some need to make a key.
	maxWTX = 4096
	// maxStalls bounds other well-formed blocks without progress: S(IFS request)
	// and empty I-blocks that promise another one.
	maxStalls = 16

	reservedNAD = 0x88 // bits 8 and 4: formerly VPP control, now 0
)

// noPCB is a value that no block has.
const noPCB PCB = 0xFF

// Config holds what the engine has to know before the first block.
type Config struct {
	EDC  EDC  // error detection code, from the ATR
	IFSC int  // information field size of the card from the ATR, 1 to 254; 0 means 32
	IFSD int  // information field size of the reader to begin with, 1 to 254; 0 means 32
	NAD  byte // node address of every block sent: DAD << 4 | SAD, each 0 to 7
}

func (c Config) check() (Config, error) {
	if !c.EDC.valid() {
		return c, fmt.Errorf("%w: %s", ErrConfig, c.EDC)
	}
	if c.IFSC == 0 {
		c.IFSC = DefaultIFS
	}
	if c.IFSD == 0 {
		c.IFSD = DefaultIFS
	}
	if c.IFSC < 1 || c.IFSC > maxINF {
		return c, fmt.Errorf("%w: IFSC %d", ErrConfig, c.IFSC)
	}
	if c.IFSD < 1 || c.IFSD > maxINF {
		return c, fmt.Errorf("%w: IFSD %d", ErrConfig, c.IFSD)
	}
	// ISO/IEC 7816-3:2006 §11.3.2.1: equal addresses other than 0 are reserved.
	if c.NAD&reservedNAD != 0 || c.NAD != 0 && c.NAD>>4 == c.NAD&0x0F {
		return c, fmt.Errorf("%w: NAD %02X", ErrConfig, c.NAD)
	}

	return c, nil
}

// Step is what the caller does next.
type Step struct {
	// Send is the block to transmit, nil when Done. It is valid until the next
	// call of a method of the engine.
	Send []byte
	// WTX is the factor by which the block waiting time is extended for the one
	// wait that follows Send, 1 to 255 (rule 3); 0 when Done.
	WTX int
	// Done reports that the exchange has ended well.
	Done bool
	// Response is the answer of a Transmit or Delegate that is Done. It is valid
	// until the next call of a method of the engine; the caller may wipe it.
	Response []byte
}

// phase is what the engine waits for; doc.go has the diagram.
type phase byte

const (
	idle         phase = iota
	sending            // the acknowledgement of an I-block of ours
	receiving          // the next I-block of the card
	requesting         // the response to S(IFS request) or S(ABORT request)
	aborting           // the R-block that ends an abortion by the card
	resynching         // S(RESYNCH response)
	unresponsive       // nothing: the card must be reset
)

// Engine is the interface-device side of one T=1 session. Its zero value is not
// usable, see New. It must not be used by two goroutines at a time.
type Engine struct {
	cfg   Config // as at power-up
	ifsc  int    // largest information field the card takes
	ifsd  int    // largest information field the card may send
	ns    byte   // N(S) of the I-block under way, or of the next one
	nr    byte   // N(S) expected from the card, N(R) of our R-blocks
	phase phase

	command   []byte // what Transmit was given, nil for Delegate
	offset    int    // where in command the I-block under way begins
	chunk     int    // how many bytes it carries
	delegated bool   // the reader builds the I-block, not the engine
	delivered Delivery
	abort     bool // the caller wants the chain aborted

	response []byte

	// The I-block accepted last, to tell its repetition from another block with
	// the same number; accepted is noPCB while there is none. Of its information
	// field there is a sum, for the field itself may be secret.
	accepted    PCB
	acceptedSum uint32

	request Block   // the S(… request) in phase requesting
	value   [1]byte // information field of our S(IFS request)
	last    PCB     // PCB of the block sent last
	tx      [maxBlock]byte

	repeats int // of the block under way, in succession
	resynch int // S(RESYNCH request) blocks sent
	wtx     int // S(WTX request) blocks since the last progress
	stalls  int // other blocks without progress
	cause   error
}

// New returns an engine for a card that has just been reset. It fails with
// ErrConfig if a value of c is out of range.
func New(c Config) (*Engine, error) {
	e := &Engine{}
	if err := e.Reset(c); err != nil {
		return nil, err
	}

	return e, nil
}

// Reset begins a new session: the card has been powered up or warm-reset and is
// described by c. An exchange under way is forgotten and wiped. It fails with ErrConfig if
// a value of c is out of range, and then leaves the engine as it was.
func (e *Engine) Reset(c Config) error {
	c, err := c.check()
	if err != nil {
		return err
	}
	clear(e.response)
	*e = Engine{cfg: c, response: e.response[:0]}
	e.initialise()

	return nil
}

// initialise sets the state that holds after an ATR and, by rule 6.3, after
// S(RESYNCH response).
func (e *Engine) initialise() {
	e.ns, e.nr = 0, 0
	e.accepted = noPCB
	e.ifsc, e.ifsd = e.cfg.IFSC, e.cfg.IFSD
}

// IFSC is the largest information field that the card takes now, 1 to 254 bytes.
func (e *Engine) IFSC() int { return e.ifsc }

// IFSD is the largest information field that the card may send now, 1 to 254
// bytes.
func (e *Engine) IFSD() int { return e.ifsd }

// Transmit begins an exchange: it returns the first block of the command, which
// may be of any length including 0 and must not change until the exchange ends.
// It fails with ErrBusy or ErrNeedReset.
func (e *Engine) Transmit(command []byte) (Step, error) {
	if err := e.begin(); err != nil {
		return Step{}, err
	}
	e.command = command
	e.phase = sending

	return e.sendChunk(), nil
}

// NegotiateIFSD begins an exchange that tells the card that the reader takes
// information fields of up to ifsd bytes, 1 to 254 (rule 4). The new size holds
// once the exchange is Done, and until Reset or a resynchronisation. It fails
// with ErrConfig, ErrBusy or ErrNeedReset.
func (e *Engine) NegotiateIFSD(ifsd int) (Step, error) {
	if ifsd < 1 || ifsd > maxINF {
		return Step{}, fmt.Errorf("%w: IFSD %d", ErrConfig, ifsd)
	}
	if err := e.begin(); err != nil {
		return Step{}, err
	}
	e.value[0] = byte(ifsd)

	return e.sendRequest(Block{PCB: IFSRequest, INF: e.value[:]}), nil
}

// Delegate begins an exchange whose command the reader completes by itself, as a
// reader with a PIN pad does: it returns the prologue NAD, PCB, LEN of the
// I-block that carries length bytes, 0 to IFSC, for the reader to use. What the
// card answers goes to Receive as usual, and from there on the caller carries the
// exchange on as after Transmit, including waiting time extensions, chained
// answers and errors. A block that is lost cannot be repeated, since the engine
// does not know it: if the card asks for that, the exchange ends with
// ErrInterrupted. It fails with ErrConfig if the block would exceed IFSC, with
// ErrBusy or ErrNeedReset.
//
// If the reader gives up before it sends the block (cancelled, timed out), the
// caller ends the exchange with Withdraw.
func (e *Engine) Delegate(length int) ([prologueLen]byte, error) {
	if length < 0 || length > e.ifsc {
		return [prologueLen]byte{}, fmt.Errorf("%w: block of %d bytes, IFSC %d", ErrConfig, length, e.ifsc)
	}
	if err := e.begin(); err != nil {
		return [prologueLen]byte{}, err
	}
	e.phase = sending
	e.delegated = true
	e.delivered = FullySent
	e.last = IPCB(e.ns, false)

	return [prologueLen]byte{e.cfg.NAD, byte(e.last), byte(length)}, nil
}

// Withdraw ends an exchange begun by Delegate of which the reader has sent
// nothing to the card; in any other state it does nothing. The sequence number is
// used again by the next command.
func (e *Engine) Withdraw() {
	if e.delegated && e.phase == sending {
		e.finish()
	}
}

// Abort asks for an end of the chain under way, ours or the card's (rule 9):
// instead of its next part or acknowledgement the engine sends
// S(ABORT request), then resynchronises, and the exchange ends with an Error that
// is both ErrInterrupted and ErrAborted. An exchange that is complete before that
// ends as if Abort had not been called, so a command or answer of a single block
// cannot be aborted. Without an exchange, Abort does nothing.
func (e *Engine) Abort() {
	e.abort = e.phase == sending || e.phase == receiving
}

func (e *Engine) begin() error {
	switch e.phase {
	case idle:
	case unresponsive:
		return e.failure(ErrNeedReset)
	default:
		return ErrBusy
	}
	e.offset, e.chunk, e.delegated, e.abort = 0, 0, false, false
	e.delivered = NotSent
	clear(e.response)
	e.response = e.response[:0]
	e.repeats, e.resynch, e.wtx, e.stalls = 0, 0, 0, 0
	e.cause = nil

	return nil
}

// waiting fails unless a block, or the news that there is none, is due.
func (e *Engine) waiting() error {
	switch e.phase {
	case idle:
		return ErrIdle
	case unresponsive:
		return e.failure(ErrNeedReset)
	}

	return nil
}

// Receive takes a block as it arrived: prologue, information field and error
// detection code. The block is not retained. It fails with ErrIdle or, when the
// exchange has ended badly, with an *Error.
func (e *Engine) Receive(block []byte) (Step, error) {
	if err := e.waiting(); err != nil {
		return Step{}, err
	}
	b, err := ParseBlock(block, e.cfg.EDC)
	if err != nil {
		return e.fault(err)
	}
	// ISO/IEC 7816-3:2006 §11.3.2.1: the answer goes from the addressed node to
	// the addressing one, so the halves of NAD are exchanged.
	if b.NAD != e.cfg.NAD<<4|e.cfg.NAD>>4 {
		return e.fault(ErrNAD)
	}

	return e.accept(b)
}

// NoAnswer takes the news that the block waiting time, times Step.WTX, has
// elapsed. It fails with ErrIdle or, when the exchange has ended badly, with an
// *Error.
func (e *Engine) NoAnswer() (Step, error) {
	if err := e.waiting(); err != nil {
		return Step{}, err
	}

	return e.fault(ErrTimeout)
}

// BadParity takes the news that the reader saw a character parity or EDC error
// and so has no block to show. It fails with ErrIdle or, when the exchange has
// ended badly, with an *Error.
func (e *Engine) BadParity() (Step, error) {
	if err := e.waiting(); err != nil {
		return Step{}, err
	}

	return e.fault(ErrEDC)
}

func (e *Engine) accept(b Block) (Step, error) {
	switch e.phase {
	case aborting:
		return e.giveUp(ErrAborted), nil
	case resynching:
		return e.acceptResynch(b)
	}
	switch b.PCB.Kind() {
	case Information:
		return e.acceptInformation(b)
	case ReceiveReady:
		return e.acceptReceiveReady(b)
	}
	if b.PCB.Response() {
		return e.acceptResponse(b)
	}

	return e.acceptRequest(b)
}

// acceptInformation takes a part of the answer. The first part acknowledges the
// last block of the command (rule 2.1). An I-block before the command is complete
// acknowledges nothing (rule 2.2).
//
// A wrong N(S) is right for one block: the one accepted last, repeated because
// the card missed our acknowledgement; it is invalid (rules 7.1, 7.2). With any
// other block it means that the two sides no longer count alike. An R-block would
// then acknowledge by its number what it is meant to refuse, and the next part of
// a chain would pass for its first, so only a resynchronisation is left (rule 6).
func (e *Engine) acceptInformation(b Block) (Step, error) {
	switch {
	case e.phase == sending && !e.chaining(), e.phase == receiving:
	default:
		return e.fault(ErrUnexpected)
	}
	if b.PCB.NS() != e.nr {
		if e.repetition(b) {
			return e.fault(ErrSequence)
		}

		return e.giveUp(ErrSequence), nil
	}
	// Rule 4: the card must respect the size we announced.
	if len(b.INF) > e.ifsd {
		return e.fault(ErrLength)
	}
	if len(e.response)+len(b.INF) > MaxResponse {
		return e.giveUp(ErrTooLong), nil
	}
	if e.phase == sending {
		e.ns ^= 1
		e.phase = receiving
	}
	e.nr ^= 1
	e.repeats = 0
	e.accepted = b.PCB
	e.acceptedSum = crc32.ChecksumIEEE(b.INF)
	e.collect(b.INF)
	if !b.PCB.More() {
		e.finish()

		return Step{Done: true, Response: e.response}, nil
	}
	if len(b.INF) > 0 {
		e.wtx, e.stalls = 0, 0
	} else if e.stalled() {
		return e.giveUp(ErrStalled), nil
	}
	if e.abort {
		return e.sendRequest(Block{PCB: AbortRequest}), nil
	}

	return e.sendReceiveReady(RNoError), nil // rule 5: the next block, please
}

func (e *Engine) repetition(b Block) bool {
	return b.PCB == e.accepted && crc32.ChecksumIEEE(b.INF) == e.acceptedSum
}

// collect adds to the answer. A buffer that becomes too small is wiped.
func (e *Engine) collect(inf []byte) {
	if need := len(e.response) + len(inf); need > cap(e.response) {
		larger := make([]byte, len(e.response), min(2*need, MaxResponse))
		copy(larger, e.response)
		clear(e.response)
		e.response = larger
	}
	e.response = append(e.response, inf...)
}

// acceptReceiveReady takes an acknowledgement. What N(R) says counts, whatever
// the error code: the card names the I-block it expects.
func (e *Engine) acceptReceiveReady(b Block) (Step, error) {
	if e.phase != sending {
		// In phase receiving the card has missed our R-block and says so: it is
		// repeated as after any block that is not the one it asks for (rule 7.2).
		return e.fault(ErrUnexpected)
	}
	if b.PCB.NR() == e.ns {
		return e.repeatChunk()
	}
	if !e.chaining() {
		// The card expects a block beyond the last one: it has taken ours and
		// missed what we sent after it.
		return e.fault(ErrSequence)
	}
	// Rules 2.2 and 5: the other number acknowledges a block with M=1.
	e.ns ^= 1
	e.offset += e.chunk
	e.repeats, e.wtx, e.stalls = 0, 0, 0
	if e.abort {
		return e.sendRequest(Block{PCB: AbortRequest}), nil
	}

	return e.sendChunk(), nil
}

// repeatChunk sends the I-block under way once more because the card has not
// received it (rule 7.1, seen from the card). It is the same block even if IFSC
// has shrunk since: the card may have taken the first copy after all, and would
// then drop the second one unread, so two copies must not differ.
func (e *Engine) repeatChunk() (Step, error) {
	if e.delegated {
		return e.giveUp(ErrUnknownContent), nil
	}
	e.repeats++
	if e.repeats > maxRepeats {
		return e.giveUp(ErrSequence), nil
	}

	return e.sendInformation(), nil
}

// acceptResponse takes the response to our request. It counts only if it is the
// very request turned into a response, information field included (rule 4); else
// the request is repeated (rule 7.3).
func (e *Engine) acceptResponse(b Block) (Step, error) {
	if e.phase != requesting || b.PCB != e.request.PCB|sResponse || string(b.INF) != string(e.request.INF) {
		return e.fault(ErrUnexpected)
	}
	if b.PCB == AbortResponse {
		return e.giveUp(ErrAborted), nil // see acceptAbort
	}
	e.finish()
	e.ifsd = int(b.INF[0])

	return Step{Done: true}, nil
}

// acceptRequest answers a request of the card.
func (e *Engine) acceptRequest(b Block) (Step, error) {
	switch b.PCB {
	case WTXRequest:
		e.wtx++
		if e.wtx > maxWTX {
			return e.giveUp(ErrStalled), nil
		}
		step := e.respond(b)
		step.WTX = int(b.INF[0]) // rule 3: for this wait only

		return step, nil
	case IFSRequest:
		if e.stalled() {
			return e.giveUp(ErrStalled), nil
		}
		e.ifsc = int(b.INF[0]) // rule 4: from the next I-block on

		return e.respond(b), nil
	case AbortRequest:
		return e.acceptAbort(b)
	}

	// Rule 6: S(RESYNCH request) is for the interface device alone.
	return e.fault(ErrUnexpected)
}

// acceptAbort takes the end of a chain, of which nothing is kept (rule 9). Our
// response, and the R-block by which the card hands back the right to send, are
// followed by a resynchronisation; so is an abortion that we asked for.
//
// The standard does not ask for that. But an abortion leaves the count of I-blocks
// to good faith: nobody can tell whether the other side counts one that got lost
// before it, nor whether the block that ends it is the repetition of an older one.
// Two sides that count differently take a refusal for an acknowledgement, and then
// the second part of a chain for the first.
func (e *Engine) acceptAbort(b Block) (Step, error) {
	if e.phase == requesting {
		return e.fault(ErrUnexpected)
	}
	e.phase = aborting

	return e.respond(b), nil
}

func (e *Engine) stalled() bool {
	e.stalls++

	return e.stalls > maxStalls
}

// acceptResynch waits for S(RESYNCH response) and hears nothing else.
func (e *Engine) acceptResynch(b Block) (Step, error) {
	if b.PCB != ResynchResponse {
		return e.fault(ErrUnexpected)
	}
	e.initialise() // rule 6.3
	e.finish()

	return Step{}, e.failure(ErrInterrupted)
}

// fault reacts to a block that is invalid or did not come.
func (e *Engine) fault(cause error) (Step, error) {
	switch e.phase {
	case aborting:
		return e.giveUp(ErrAborted), nil
	case resynching:
		return e.sendResynch(cause)
	}
	e.repeats++
	if e.repeats > maxRepeats {
		return e.giveUp(cause), nil // rule 7.4.2
	}
	switch {
	case e.phase == requesting:
		return e.sendRequest(e.request), nil // rule 7.3, first half
	case e.last.Kind() == ReceiveReady:
		return e.send(Block{PCB: e.last}), nil // rule 7.2: the same R-block again
	case cause == ErrEDC:
		return e.sendReceiveReady(REDCError), nil // rules 7.1 and 7.3, second half
	}

	return e.sendReceiveReady(ROtherError), nil
}

// giveUp leaves the exchange for a resynchronisation, rules 6.2 and 7.4.2.
func (e *Engine) giveUp(cause error) Step {
	e.cause = cause
	e.phase = resynching
	e.resynch = 1

	return e.send(Block{PCB: ResynchRequest})
}

// sendResynch tries again to synchronise. The Cause of a final failure is the last
// fault: that it began with an abortion matters no longer.
func (e *Engine) sendResynch(cause error) (Step, error) {
	if e.resynch == maxResynch {
		e.cause = cause
		e.finish()
		e.phase = unresponsive // rule 6.4

		return Step{}, e.failure(ErrNeedReset)
	}
	e.resynch++

	return e.send(Block{PCB: ResynchRequest}), nil
}

// finish ends the exchange. The copy of the last block sent is wiped: it may hold
// a PIN, and the engine lives as long as the session.
func (e *Engine) finish() {
	e.phase = idle
	e.command = nil
	e.delegated = false
	e.abort = false
	clear(e.tx[:])
}

// failure ends the exchange without an answer, so what came of it is wiped.
func (e *Engine) failure(err error) error {
	clear(e.response)

	return &Error{Err: err, Cause: e.cause, Delivered: e.delivered}
}

// chaining reports whether the I-block under way has the more-data bit.
func (e *Engine) chaining() bool { return e.offset+e.chunk < len(e.command) }

// sendChunk takes as much of the command as the card can take in one block.
func (e *Engine) sendChunk() Step {
	e.chunk = min(len(e.command)-e.offset, e.ifsc)
	e.delivered = FullySent
	if e.chaining() {
		e.delivered = PartlySent
	}

	return e.sendInformation()
}

func (e *Engine) sendInformation() Step {
	return e.send(Block{PCB: IPCB(e.ns, e.chaining()), INF: e.command[e.offset : e.offset+e.chunk]})
}

func (e *Engine) sendReceiveReady(code RCode) Step {
	return e.send(Block{PCB: RPCB(e.nr, code)})
}

func (e *Engine) sendRequest(b Block) Step {
	e.request = b
	e.phase = requesting

	return e.send(b)
}

// respond turns a request of the card into the response. The block we sent was
// received, or else the card had not come to its request.
func (e *Engine) respond(b Block) Step {
	e.repeats = 0

	return e.send(Block{PCB: b.PCB | sResponse, INF: b.INF})
}

func (e *Engine) send(b Block) Step {
	e.last = b.PCB
	b.NAD = e.cfg.NAD

	return Step{Send: appendBlock(e.tx[:0], b, e.cfg.EDC), WTX: 1}
}
