package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
)

// PINSupport returns what the reader's PIN pad can do: bPINSupport, and nothing at character level, where there is nobody
// in the reader to run the card's protocol.
func (r *Reader) PINSupport() ccid.PINSupport {
	class := r.function.Class
	if class.DwFeatures.ExchangeLevel() == ccid.LevelCharacter {
		return 0
	}
	return class.BPINSupport
}

// VerifyPIN has the card's holder enter a PIN on the reader, and gives the card the command with it (CCID 1.1 §6.1.11). It
// returns the card's response; or, in place of it, the status words of PC/SC part 10 with which readers and this driver say
// that the card was given nothing: 6401 when the holder cancelled, 6400 when time ran out, and what else a reader has in
// 64xx and 6Bxx. BTeoPrologue is filled in here.
//
// It needs PowerOn and SetProtocol. The wait for a sign of life is bounded by BTimeOut, not by Limits.Silence; a reader that
// asks for more time gets that and Limits.Exchange in all. When ctx ends, the entry is aborted. Errors, in an *Error: ErrNoPINPad,
// ErrTooLong, ccid.ErrMessage for a structure that has no form, and those of Transmit. No trace has the message, nor what
// answers it.
func (s *Slot) VerifyPIN(ctx context.Context, p ccid.PINVerificationData) ([]byte, error) {
	return s.enterPIN(ctx, "verify PIN", pinEntry{
		needs: ccid.PINVerification, length: len(p.PINAPDU), wait: s.reader.deadlines.pin(p.BTimeOut, 1),
		encode: func(prologue [3]byte) ([]byte, error) {
			p.BTeoPrologue = prologue
			return s.verification(p).AppendBinary(nil)
		},
		prepare: func(ctx context.Context) error { return s.prepareEntry(ctx, p) },
	})
}

// ModifyPIN has the card's holder enter a new PIN on the reader, and the current one where BConfirmPIN says so, and gives
// the card the command with them (CCID 1.1 §6.1.11). It is like VerifyPIN otherwise; with BConfirmPIN, 6402 says that the
// new PIN was not repeated as it was.
func (s *Slot) ModifyPIN(ctx context.Context, p ccid.PINModificationData) ([]byte, error) {
	return s.enterPIN(ctx, "modify PIN", pinEntry{
		needs: ccid.PINModification, length: len(p.PINAPDU), wait: s.reader.deadlines.pin(p.BTimeOut, p.BConfirmPIN.Entries()),
		encode: func(prologue [3]byte) ([]byte, error) {
			p.BTeoPrologue = prologue
			return s.modification(p)
		},
		prepare: func(context.Context) error { return nil },
	})
}

// pinEntry is a PIN to be entered on the reader.
type pinEntry struct {
	needs  ccid.PINSupport
	length int // of abPINApdu
	wait   time.Duration
	// encode makes the data of the Secure message.
	encode func(prologue [3]byte) ([]byte, error)
	// prepare does what has to be done before that is sent.
	prepare func(ctx context.Context) error
}

// pinTransmitter is a transmitter that leaves it to the reader to complete a command.
type pinTransmitter interface {
	enterPIN(ctx context.Context, e pinEntry) ([]byte, error)
}

var (
	_ pinTransmitter = shortAPDU{}
	_ pinTransmitter = extendedAPDU{}
	_ pinTransmitter = (*transmitterT0)(nil)
	_ pinTransmitter = (*transmitterT1)(nil)
)

func (s *Slot) enterPIN(ctx context.Context, op string, e pinEntry) ([]byte, error) {
	var response []byte
	limit := func(l Limits) time.Duration { return l.Exchange + e.wait }
	err := s.doWithin(ctx, op, limit, func(ctx context.Context) (err error) {
		pad, ok := s.transmitter.(pinTransmitter)
		switch {
		case s.reader.PINSupport()&e.needs == 0:
			return ErrNoPINPad
		case !s.State().Powered:
			return ErrNotPowered
		case !ok:
			return ErrNoProtocol
		}
		if err := e.prepare(ctx); err != nil {
			return err
		}
		s.used = true
		response, err = pad.enterPIN(ctx, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// secureCommand makes the Secure message.
func (s *Slot) secureCommand(e pinEntry, prologue [3]byte) (request, error) {
	data, err := e.encode(prologue)
	if err == nil && len(data) > s.reader.MaxCommand() {
		err = ErrTooLong
	}
	return request{command: ccid.Secure(uint8(s.index), 0, 0, data), wait: e.wait, secret: true}, err
}

// secure sends a Secure message. An entry that the holder ended is no error: notEntered is the status word for it then.
func (s *Slot) secure(ctx context.Context, q request) (resp ccid.Response, notEntered []byte, err error) {
	resp, err = s.command(ctx, q)
	// What the reader is to complete may have parts of a PIN.
	clear(q.command.Data)
	switch {
	case errors.Is(err, ErrNoCard):
	case errors.Is(err, ccid.ErrorPINCancelled):
		return resp, []byte{0x64, 0x01}, nil
	case errors.Is(err, ccid.ErrorPINTimeout):
		return resp, []byte{0x64, 0x00}, nil
	}
	return resp, nil, err
}

func (x shortAPDU) enterPIN(ctx context.Context, e pinEntry) ([]byte, error) {
	q, err := x.slot.secureCommand(e, [3]byte{})
	if err != nil {
		return nil, err
	}
	return x.slot.enterAPDU(ctx, q)
}

// enterPIN ends the card's session when the reader has not told what became of the command: a card that is still at it
// would answer the next one with its response.
func (x *transmitterT0) enterPIN(ctx context.Context, e pinEntry) ([]byte, error) {
	q, err := x.slot.secureCommand(e, [3]byte{})
	if err != nil {
		return nil, err
	}
	response, err := x.slot.enterAPDU(ctx, q)
	var failed *ccid.CommandError
	if err != nil && !errors.As(err, &failed) {
		x.slot.lose()
	}
	return response, err
}

// enterAPDU is for readers that answer with the response in one message.
func (s *Slot) enterAPDU(ctx context.Context, q request) ([]byte, error) {
	resp, notEntered, err := s.secure(ctx, q)
	if err != nil || notEntered != nil {
		return notEntered, err
	}
	return checkResponse(resp.Data)
}

func (x extendedAPDU) enterPIN(ctx context.Context, e pinEntry) ([]byte, error) {
	q, err := x.slot.secureCommand(e, [3]byte{})
	if err != nil {
		return nil, err
	}
	resp, notEntered, err := x.slot.secure(ctx, q)
	if err != nil || notEntered != nil {
		return notEntered, err
	}
	response, err := x.collect(ctx, resp)
	if err != nil {
		return nil, err
	}
	return checkResponse(response)
}

// enterPIN gives the reader the prologue of the block to complete. The card's answer comes as a block, or the reader's own
// as a status word; the reader computes the error detection code, LRC or CRC, and this end checks that of the answer.
func (x *transmitterT1) enterPIN(ctx context.Context, e pinEntry) ([]byte, error) {
	defer x.publish()
	if err := x.close(ctx); err != nil {
		return nil, err
	}
	prologue, err := x.engine.Delegate(e.length)
	if errors.Is(err, t1.ErrConfig) {
		return nil, fmt.Errorf("%w: %d bytes do not fit a block of the card's", ErrTooLong, e.length)
	}
	if err != nil {
		return nil, err
	}
	q, err := x.slot.secureCommand(e, prologue)
	if err != nil {
		x.engine.Withdraw()
		return nil, err
	}
	resp, notEntered, err := x.slot.secure(ctx, q)
	switch {
	case notEntered != nil || refused(err):
		x.engine.Withdraw()
		return notEntered, err
	case err == nil && isStatusWord(resp.Data):
		x.engine.Withdraw()
		return resp.Data, nil
	}
	step, err := x.received(resp.Data, err)
	clear(resp.Data)
	response, err := x.run(ctx, step, err, true)
	if err != nil {
		x.open = true
		return nil, err
	}
	answer, err := checkResponse(own(response))
	if err != nil {
		// That was no card's answer, and so its number counts for nothing.
		x.slot.lose()
	}
	return answer, err
}

// refused reports whether a reader has refused a Secure message, so that the card has not seen anything of it.
func refused(err error) bool {
	var failed *ccid.CommandError
	if !errors.As(err, &failed) {
		return false
	}
	_, offset := failed.Code.Offset()
	return offset || failed.Code == ccid.ErrorCommandNotSupported || failed.Code == ccid.ErrorSlotBusy
}

// isStatusWord reports whether the answer of a reader that should give a block is a status word of its own (PC/SC part 10
// §2.5). A block has four bytes at least.
func isStatusWord(answer []byte) bool {
	return len(answer) == 2 && (answer[0] == 0x64 || answer[0] == 0x6B)
}

// close ends an exchange that a PIN entry has left open. Nobody knows then whether the reader has sent the card its block.
// With the wrong guess the card would take the next command for a repetition, and repeat the answer to the one before; so
// it is asked, which ends with its answer or with a resynchronisation.
func (x *transmitterT1) close(ctx context.Context) error {
	if !x.open {
		return nil
	}
	x.open = false
	step, err := x.engine.NoAnswer()
	if errors.Is(err, t1.ErrIdle) {
		return nil
	}
	if _, err = x.run(ctx, step, err, true); err == nil || errors.Is(err, t1.ErrInterrupted) {
		err = x.negotiate(ctx)
	}
	if err != nil {
		x.slot.lose()
	}
	return err
}
