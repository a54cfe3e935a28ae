package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
)

// transmitterT1 speaks T=1 itself, for readers at TPDU and character level.
type transmitterT1 struct {
	slot   *Slot
	engine *t1.Engine
	config t1.Config
	port   portT1
	open   bool // an exchange was given up in the middle, see close
}

// portT1 exchanges one T=1 block. wtx multiplies the block waiting time, 1 for as it is.
type portT1 interface {
	exchange(ctx context.Context, block []byte, wtx int, secret bool) ([]byte, error)
}

func (s *Slot) newTransmitterT1() (*transmitterT1, error) {
	config := s.t1Config()
	if s.class.DwFeatures&ccid.FeatureAutoIFSD != 0 {
		config.IFSD = s.ifsd()
	}
	engine, err := t1.New(config)
	if err != nil {
		return nil, err
	}
	x := &transmitterT1{slot: s, engine: engine, config: config, port: tpduT1{s}}
	if s.level() == ccid.LevelCharacter {
		x.port = characterT1{s, config.EDC}
	}
	return x, nil
}

// negotiate offers the reader's information field size to the card, unless the reader has done so by itself (CCID 1.1
// §5.1, dwFeatures bit 0x400). A card that refuses is used with the default size. With CRC, of which there are two forms, it
// shows whether card and host have the same one, before a command is at stake: then it is done in any case.
func (x *transmitterT1) negotiate(ctx context.Context) error {
	defer x.publish()
	size := x.slot.ifsd()
	if x.slot.class.DwFeatures&ccid.FeatureAutoIFSD != 0 || size == 0 || size == x.engine.IFSD() {
		if x.config.EDC == t1.LRC {
			return nil
		}
		size = x.engine.IFSD()
	}
	step, err := x.engine.NegotiateIFSD(size)
	_, err = x.run(ctx, step, err, false)
	if errors.Is(err, t1.ErrInterrupted) {
		x.slot.reader.log.Debugf("slot %d: IFSD stays %d: %v", x.slot.index, x.engine.IFSD(), err)
		return nil
	}
	return err
}

// publish makes the sizes in use known.
func (x *transmitterT1) publish() {
	x.slot.parameters.IFSC, x.slot.parameters.IFSD = x.engine.IFSC(), x.engine.IFSD()
}

func (x *transmitterT1) transmit(ctx context.Context, command []byte) ([]byte, error) {
	defer x.publish()
	if err := x.close(ctx); err != nil {
		return nil, err
	}
	step, err := x.engine.Transmit(command)
	response, err := x.run(ctx, step, err, apdu.Sensitive(command))
	if err != nil {
		if !errors.Is(err, t1.ErrInterrupted) && !errors.Is(err, t1.ErrAborted) && !errors.Is(err, t1.ErrConfig) {
			// Card and engine no longer agree on where they are.
			x.slot.lose()
			x.forget()
		}
		return nil, err
	}
	return checkResponse(own(response))
}

// own takes the engine's answer out of its memory.
func own(response []byte) []byte { return move(nil, response) }

// forget wipes what the engine has of an exchange that will not go on.
func (x *transmitterT1) forget() {
	// The configuration has been checked.
	_ = x.engine.Reset(x.config)
}

// run moves blocks until the exchange that begins with step is done.
func (x *transmitterT1) run(ctx context.Context, step t1.Step, err error, secret bool) ([]byte, error) {
	for err == nil && !step.Done {
		var block []byte
		block, err = x.port.exchange(ctx, step.Send, step.WTX, secret)
		step, err = x.received(block, err)
		clear(block)
	}
	if err != nil {
		return nil, err
	}
	return step.Response, nil
}

// received gives the engine what came: a block, or an error that is the card's.
func (x *transmitterT1) received(block []byte, err error) (t1.Step, error) {
	switch {
	case errors.Is(err, ErrNoCard):
	case errors.Is(err, ccid.ErrorICCMute):
		return x.engine.NoAnswer()
	case errors.Is(err, ccid.ErrorXfrParity), errors.Is(err, ccid.ErrorXfrOverrun):
		return x.engine.BadParity()
	case err == nil:
		return x.engine.Receive(block)
	}
	return t1.Step{}, err
}

// bwi returns bBWI for a wait of wtx block waiting times (CCID 1.1 §6.1.4): 0 where it is not extended.
func bwi(wtx int) uint8 {
	if wtx <= 1 {
		return 0
	}
	return uint8(min(wtx, 255))
}

// tpduT1 is for readers that take a T=1 block in one message (CCID 1.1 §3.2.1).
type tpduT1 struct{ slot *Slot }

func (x tpduT1) exchange(ctx context.Context, block []byte, wtx int, secret bool) ([]byte, error) {
	wait := x.slot.waitingTimes().t1Block(len(block)+3+maxIFS+2, wtx)
	resp, err := x.slot.xfr(ctx, block, bwi(wtx), 0, secret, wait)
	return resp.Data, err
}

// characterT1 is for readers that move characters: prologue first, then as much as its LEN says.
type characterT1 struct {
	slot *Slot
	edc  t1.EDC
}

func (x characterT1) exchange(ctx context.Context, block []byte, wtx int, secret bool) ([]byte, error) {
	const prologue = 3
	w := x.slot.waitingTimes()
	head, err := x.slot.readBlock(ctx, block, prologue, bwi(wtx), secret, w.t1Block(len(block)+prologue, wtx))
	if err != nil {
		return nil, err
	}
	rest := int(head[2]) + x.edc.Len()
	tail, err := x.slot.readBlock(ctx, nil, rest, bwi(wtx), secret, w.t1Block(rest, wtx))
	if errors.Is(err, ccid.ErrorICCMute) && !errors.Is(err, ErrNoCard) {
		// The block is shorter than its LEN: that is a damaged block, not a silent card.
		return head, nil
	}
	return move(head, tail), err
}

// portion is how many of n characters to ask for at once: n, or 1 where the answer with its header would have a length
// that the reader does not bear.
func (s *Slot) portion(n int) int {
	if bad := int(s.needs.Exchange.AvoidMultipleOf); bad > 0 && (ccid.HeaderLength+n)%bad == 0 {
		return 1
	}
	return n
}

// readBlock sends characters at character level and returns exactly n of the card's, asking again for those that are
// missing. wLevelParameter is the number expected (CCID 1.1 §6.1.4).
func (s *Slot) readBlock(ctx context.Context, send []byte, n int, bwi uint8, secret bool, wait time.Duration) ([]byte, error) {
	got := make([]byte, 0, n)
	for len(got) < n {
		resp, err := s.xfr(ctx, send, bwi, uint16(s.portion(n-len(got))), secret, wait)
		if err != nil {
			return nil, err
		}
		if len(resp.Data) == 0 || len(resp.Data) > n-len(got) {
			return nil, fmt.Errorf("%w: %d characters, %d were asked for", ErrResponse, len(resp.Data), n-len(got))
		}
		got, send = move(got, resp.Data), nil
	}
	return got, nil
}
