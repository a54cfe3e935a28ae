package host

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/t1"
	"github.com/goccid/goccid/usbtransport"
)

// Slot is one card slot of a Reader. All methods may be called from several goroutines at once; operations on one slot
// are done one after the other, in the order of the calls.
type Slot struct {
	reader *Reader
	index  int

	// ops belongs to whoever put a token in; it guards the card session and the ceiling.
	ops chan struct{}
	session
	// ceiling is that of the operation under way. When the reader is opened there is none, and each exchange has its own.
	ceiling ceiling
	// unsettled: a command was given up, and the reader may still be at it. It belongs to whoever is at an exchange for
	// this slot or, in a reader that works for one slot at a time, for any.
	unsettled bool

	mu sync.Mutex
	// card is what is known of the card; changed is closed and replaced when it changes.
	card  CardState
	known bool // the reader has been asked
	// afterReset: the reader was reset, and the card not powered since. A reader that comes back reports its cards as new.
	afterReset bool
	last       ccid.ICCStatus
	// mute: power on failed in a reader that reports a card whether there is one or not.
	mute    bool
	changed chan struct{}
	// hint is what the interrupt endpoint said since the reader was last asked; asked is the hint that made us ask.
	hint, asked *ccid.SlotChange
	// op is what is under way, for the log.
	op string
	// shown is of session what may be looked at while an operation is under way.
	shown struct {
		raw        []byte
		parameters Parameters
		set        bool
	}
}

// session is what lasts from one activation of a card to the next.
type session struct {
	raw   []byte   // the answer to reset
	atr   *atr.ATR // nil where raw is none
	power ccid.PowerSelect
	used  bool // something was sent to the card since the reset
	conditions
	parameters  Parameters
	edc         t1.EDC      // of T=1 blocks, once a protocol is set
	transmitter transmitter // nil before SetProtocol
	proven      bool        // an exchange has succeeded since SetProtocol
}

// conditions are what a slot works under: those of its reader, changed by what is known of the card in it.
type conditions struct {
	needs     quirks.Settings
	class     *ccid.ClassDescriptor // as corrected
	deadlines deadlines
}

// CardState is what is known of a slot's card.
type CardState struct {
	// Present: there is a card.
	Present bool
	// Powered: PowerOn succeeded, and nothing has taken the power away since.
	Powered bool
	// Events counts insertions and removals since the reader was opened. A card that was exchanged for another
	// between two looks counts as both.
	Events uint64
}

// Status is the state of a slot as PC_to_RDR_GetSlotStatus gives it.
type Status struct {
	// ICC is bmICCStatus.
	ICC ccid.ICCStatus
	// Clock is bClockStatus.
	Clock ccid.ClockStatus
}

func newSlot(r *Reader, index int) *Slot {
	return &Slot{reader: r, index: index, ops: make(chan struct{}, 1), session: r.withoutCard(), changed: make(chan struct{})}
}

// Reader returns the reader that the slot is part of.
func (s *Slot) Reader() *Reader { return s.reader }

// Index is the slot's number, from 0 (bSlot).
func (s *Slot) Index() int { return s.index }

// Name returns the slot's reader name, as pcsc-lite would call it: the reader's, with the slot's number at the end.
func (s *Slot) Name() string {
	n := s.reader.name
	n.Slot = s.index
	return n.String()
}

// State returns what is known of the card, without asking the reader.
func (s *Slot) State() CardState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.card
}

// Status asks the reader for the slot's state (CCID 1.1 §6.1.3).
func (s *Slot) Status(ctx context.Context) (Status, error) {
	var status Status
	err := s.do(ctx, "status", func(ctx context.Context) (err error) {
		status, err = s.status(ctx)
		return err
	})
	return status, err
}

func (s *Slot) status(ctx context.Context) (Status, error) {
	return s.statusWithin(ctx, s.reader.deadlines.slotStatus())
}

func (s *Slot) statusWithin(ctx context.Context, wait time.Duration) (Status, error) {
	s.takeHint()
	s.reader.readInterruptFirst(ctx)
	resp, err := s.reader.exchange(ctx, request{command: ccid.GetSlotStatus(uint8(s.index)), wait: wait})
	if err != nil {
		return Status{}, err
	}
	// Readers also report an absent or mute card as a failure of this command; the state is told all the same.
	told := resp.Status.ICC() == ccid.ICCAbsent || resp.Error == ccid.ErrorICCMute
	if resp.Status.Command() != ccid.CommandOK && !told {
		return Status{}, &ccid.CommandError{Command: ccid.TypeGetSlotStatus, Slot: resp.Slot, Seq: resp.Seq, Status: resp.Status, Code: resp.Error}
	}
	return Status{ICC: resp.Status.ICC(), Clock: ccid.ClockStatus(resp.Specific)}, nil
}

// ATR returns the answer to reset of the card's last activation, nil while the card has no power. It may be invalid. It
// does not wait for an operation under way.
func (s *Slot) ATR() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.card.Powered {
		return nil
	}
	return slices.Clone(s.shown.raw)
}

// Transmit sends a command APDU to the card and returns its response APDU, data and SW1 SW2, whatever exchange level the
// reader has. It needs PowerOn and SetProtocol. Commands may be of any case, short or extended; through readers at
// short APDU level extended ones go in parts, or fail with ErrExtendedAPDU where the card does not say that it can put them
// together. With T=0 set transparently, command and response are TPDUs. It takes Limits.Exchange at most, or
// Limits.KeyGeneration, and the recovery after that.
//
// Errors, in an *Error: ErrNotPowered, ErrNoProtocol, ErrNoCard, ErrTooLong, *ccid.CommandError, *NoAnswerError, errors
// of t0 and t1, and those of usbtransport. After an error of T=1, or a recovery that took the card's power away, the
// card needs PowerOn and SetProtocol again, and Transmit returns ErrNotPowered until then.
func (s *Slot) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	var response []byte
	limit := func(l Limits) time.Duration { return l.forCommand(command) }
	err := s.doWithin(ctx, "transmit", limit, func(ctx context.Context) (err error) {
		if answer, ok := s.identity(command); ok {
			response = answer
			return nil
		}
		switch {
		case !s.State().Powered:
			return ErrNotPowered
		case s.transmitter == nil:
			return ErrNoProtocol
		}
		s.used = true
		response, err = s.transmitter.transmit(ctx, command)
		s.judgeSpeed(ctx, err)
		return err
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// XfrBlock sends abData as it is in one PC_to_RDR_XfrBlock and returns that of the answer (CCID 1.1 §6.1.4). bwi is
// bBWI, level wLevelParameter. It is for diagnosis; what it does to a T=1 session is not noticed. None of the data are logged:
// they may be the middle of a command with a PIN.
func (s *Slot) XfrBlock(ctx context.Context, data []byte, bwi uint8, level uint16) ([]byte, error) {
	var answer []byte
	err := s.do(ctx, "XfrBlock", func(ctx context.Context) error {
		if !s.State().Powered {
			return ErrNotPowered
		}
		s.used = true
		resp, err := s.xfr(ctx, data, bwi, level, true, s.deadlines.apdu(s.parameters.T))
		answer = resp.Data
		return err
	})
	return answer, err
}

// Escape sends a vendor's command to the reader and returns the answer (CCID 1.1 §6.1.8).
func (s *Slot) Escape(ctx context.Context, data []byte) ([]byte, error) {
	var answer []byte
	err := s.do(ctx, "escape", func(ctx context.Context) error {
		var err error
		answer, err = s.escape(ctx, data)
		return err
	})
	return answer, err
}

func (s *Slot) escape(ctx context.Context, data []byte) ([]byte, error) {
	return s.escapeWithin(ctx, data, s.reader.deadlines.escape())
}

// setUp sends an Escape command that needs no card and that the reader answers from what it has.
func (s *Slot) setUp(ctx context.Context, data []byte) ([]byte, error) {
	return s.escapeWithin(ctx, data, s.reader.deadlines.status())
}

func (s *Slot) escapeWithin(ctx context.Context, data []byte, wait time.Duration) ([]byte, error) {
	if len(data) > s.reader.MaxCommand() {
		return nil, ErrTooLong
	}
	resp, err := s.command(ctx, request{command: ccid.Escape(uint8(s.index), data), wait: wait})
	return resp.Data, err
}

// xfr runs one XfrBlock exchange.
func (s *Slot) xfr(ctx context.Context, data []byte, bwi uint8, level uint16, secret bool, wait time.Duration) (ccid.Response, error) {
	if len(data) > s.reader.MaxCommand() {
		return ccid.Response{}, ErrTooLong
	}
	return s.command(ctx, request{command: ccid.XfrBlock(uint8(s.index), bwi, level, data), wait: wait, secret: secret})
}

// command runs one exchange within the limits that hold for the card.
func (s *Slot) command(ctx context.Context, q request) (ccid.Response, error) {
	q.limits = s.deadlines.limits
	return s.reader.command(ctx, q)
}

// do runs one operation on the slot, within Limits.Exchange, and makes its error an *Error.
func (s *Slot) do(ctx context.Context, op string, f func(context.Context) error) error {
	return s.doWithin(ctx, op, Limits.usual, f)
}

// doWithin is do within what limit makes of the limits that hold for the card.
func (s *Slot) doWithin(ctx context.Context, op string, limit func(Limits) time.Duration, f func(context.Context) error) error {
	err := s.run(ctx, op, limit, f)
	if err == nil {
		return nil
	}
	return &Error{Op: op, Reader: s.Name(), Slot: s.index, Err: err}
}

func (s *Slot) run(ctx context.Context, op string, limit func(Limits) time.Duration, f func(context.Context) error) error {
	if err := s.reader.acquire(ctx, s.ops); err != nil {
		return err
	}
	defer func() { <-s.ops }()
	s.ceiling = newCeiling(limit(s.deadlines.limits))
	defer func() { s.ceiling = ceiling{} }()
	s.begin(op)
	defer s.finish()
	s.reader.noticeSleep()
	err := f(ctx)
	if gone := s.reader.gone(); err != nil && gone != nil && !errors.Is(err, usbtransport.ErrRemoved) {
		// Whatever the operation met on its way, such as the card without the power that it lost with the reader.
		return gone
	}
	return err
}

// begin notes what is under way, "" for nothing.
func (s *Slot) begin(op string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op = op
}

// finish ends an operation and shows what it made of the session.
func (s *Slot) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op = ""
	s.shown.raw, s.shown.parameters, s.shown.set = s.raw, s.parameters, s.transmitter != nil
}

// underWay returns the name of the operation under way, "" when there is none.
func (s *Slot) underWay() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.op
}

// reset notes that the reader was reset. What it then says of the slot is news to the reader, not to us.
func (s *Slot) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.card.Powered = false
	s.afterReset = true
}

// lose notes that the card has no power any more.
func (s *Slot) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.card.Powered = false
}

func (s *Slot) setPowered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.card.Powered, s.afterReset = true, false
}

// observe takes the card's state from an answer; every answer has it (CCID 1.1 §6.2.6).
func (s *Slot) observe(status ccid.Status, to ccid.MessageType) {
	s.mu.Lock()
	defer s.mu.Unlock()
	icc := status.ICC()
	if icc == ccid.ICCReserved {
		return
	}
	s.last = icc
	present := icc.Present() && !s.mute
	asked := s.asked
	if to == ccid.TypeGetSlotStatus {
		s.asked = nil
	}
	switch {
	case !s.known:
		s.known = true
		s.card.Present = present
	case present != s.card.Present:
		s.card.Present = present
		s.card.Powered = s.card.Powered && present
		s.announce(1)
	case to != ccid.TypeGetSlotStatus || !present:
	case icc == ccid.ICCInactive && s.card.Powered, asked != nil && asked.Changed && !s.card.Powered && !s.afterReset:
		// The card was taken out and one put in since the last look. A notification alone does not prove that for
		// a card that still has the power we gave it: some readers notify without need.
		s.card.Powered = false
		s.announce(2)
	}
}

// takeHint is called before the reader is asked: a notification that comes later makes us ask again.
func (s *Slot) takeHint() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hint != nil {
		s.asked, s.hint = s.hint, nil
	}
}

// announce counts events and wakes whoever waits for them. s.mu is held.
func (s *Slot) announce(events uint64) {
	s.card.Events += events
	close(s.changed)
	s.changed = make(chan struct{})
}

// isFinal reports whether an error leaves nothing to try: reader or card are gone, or the caller has, or the time is over.
func (s *Slot) isFinal(ctx context.Context, err error) bool {
	return ctx.Err() != nil || s.reader.gone() != nil || errors.Is(err, ErrNoCard) || s.ceiling.passed() > 0
}
