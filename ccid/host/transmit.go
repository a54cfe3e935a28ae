package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t0"
)

// transmitter carries a command APDU to the card and its response APDU back. There is one for each exchange level and
// protocol; SetProtocol chooses it. Slot.ops is held.
type transmitter interface {
	transmit(ctx context.Context, command []byte) ([]byte, error)
}

// newTransmitterT0 chooses how T=0 is spoken.
func (s *Slot) newTransmitterT0(mapping Mapping) (transmitter, error) {
	switch s.level() {
	case ccid.LevelShortAPDU:
		return s.newShortAPDU(), nil
	case ccid.LevelExtendedAPDU:
		return extendedAPDU{s}, nil
	}
	config := t0.Config{Mapping: t0.MapAPDU, ClassGetResponse: t0.EchoClass, ClassEnvelope: t0.EchoClass}
	if mapping == Transparent {
		config.Mapping = t0.Transparent
	}
	engine, err := t0.New(config)
	if err != nil {
		return nil, err
	}
	return &transmitterT0{slot: s, engine: engine, port: s.newPortT0()}, nil
}

// shortAPDU is for readers that take one short APDU in one block and do the rest (CCID 1.1 §3.2.2). Extended ones go in
// parts, where the card can do that (transmit_parts.go).
type shortAPDU struct {
	slot *Slot
	// collect makes a response APDU of the answer to a command.
	collect func(context.Context, ccid.Response) ([]byte, error)
}

// newShortAPDU: tokens answer in chains at this level too (ICCD 1.0 §6.2).
func (s *Slot) newShortAPDU() shortAPDU {
	if s.reader.function.Token() {
		return shortAPDU{s, extendedAPDU{s}.collect}
	}
	return shortAPDU{s, whole}
}

// whole takes the one block of an answer for the response.
func whole(_ context.Context, resp ccid.Response) ([]byte, error) { return resp.Data, nil }

func (x shortAPDU) transmit(ctx context.Context, command []byte) ([]byte, error) {
	if c, err := apdu.ParseCommand(command); err == nil && c.Extended {
		return x.inParts(ctx, c, command)
	}
	// Commands that are no APDUs at all, which readers take for their own purposes, pass.
	if len(command) > maxShortCommand {
		return nil, fmt.Errorf("%w: %d bytes", ErrExtendedAPDU, len(command))
	}
	return x.one(ctx, command, apdu.Sensitive(command))
}

// one exchanges one short APDU.
func (x shortAPDU) one(ctx context.Context, command []byte, secret bool) ([]byte, error) {
	resp, err := x.slot.xfr(ctx, command, 0, 0, secret, x.slot.deadlines.apdu(x.slot.parameters.T))
	if err != nil {
		return nil, err
	}
	response, err := x.collect(ctx, resp)
	if err != nil {
		return nil, err
	}
	return checkResponse(response)
}

// maxShortCommand is the longest short command APDU: header, Lc, 255 bytes, Le.
const maxShortCommand = 4 + 1 + 255 + 1

// checkResponse returns a response APDU that has at least a status word, whatever the reader says of its success.
func checkResponse(response []byte) ([]byte, error) {
	if len(response) < 2 {
		return nil, fmt.Errorf("%w: response of %d bytes", ErrResponse, len(response))
	}
	return response, nil
}

// extendedAPDU is for readers that take APDUs of any length, in blocks of the length of their messages (CCID 1.1
// §3.2.3, §6.1.4).
type extendedAPDU struct{ slot *Slot }

func (x extendedAPDU) transmit(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) > ccid.MaxMessageLength-ccid.HeaderLength {
		return nil, ErrTooLong
	}
	resp, err := x.send(ctx, command)
	if err != nil {
		return nil, err
	}
	response, err := x.collect(ctx, resp)
	if err != nil {
		return nil, err
	}
	return checkResponse(response)
}

// send sends the command in blocks and returns the answer to the last one, or the first that is a response already: a
// reader may know before the end that the command is wrong.
func (x extendedAPDU) send(ctx context.Context, command []byte) (ccid.Response, error) {
	secret, size := apdu.Sensitive(command), x.slot.reader.MaxCommand()
	for first := true; ; first = false {
		block := command[:min(len(command), size)]
		command = command[len(block):]
		resp, err := x.block(ctx, block, chainLevel(first, len(command) == 0), secret)
		if err != nil || len(command) == 0 || len(resp.Data) > 0 {
			return resp, err
		}
	}
}

// chainLevel returns wLevelParameter for a block of a command.
func chainLevel(first, last bool) uint16 {
	switch {
	case first && last:
		return ccid.ChainSingle
	case first:
		return ccid.ChainBegin
	case last:
		return ccid.ChainEnd
	}
	return ccid.ChainMiddle
}

// Values of bChainParameter (CCID 1.1 §6.2.1).
const (
	chainWhole   = 0x00
	chainBegins  = 0x01
	chainEnds    = 0x02
	chainMiddle  = 0x03
	chainCommand = 0x10 // empty: the next part of the command is expected
)

// maxEmptyBlocks bounds the blocks of a response that bring nothing and promise more.
const maxEmptyBlocks = 16

// collect puts the response together, whose first block is resp.
func (x extendedAPDU) collect(ctx context.Context, resp ccid.Response) ([]byte, error) {
	var response []byte
	for empty := 0; ; {
		if len(response)+len(resp.Data) > apdu.MaxResponseLength {
			return nil, fmt.Errorf("%w: response of more than %d bytes", ErrResponse, apdu.MaxResponseLength)
		}
		response = move(response, resp.Data)
		switch resp.Specific {
		case chainBegins, chainMiddle, chainCommand:
		case chainWhole, chainEnds:
			return response, nil
		default:
			return nil, fmt.Errorf("%w: bChainParameter is 0x%02X", ErrResponse, resp.Specific)
		}
		if len(resp.Data) == 0 {
			if empty++; empty > maxEmptyBlocks {
				return nil, fmt.Errorf("%w: %d empty blocks", ErrResponse, empty)
			}
		}
		var err error
		if resp, err = x.block(ctx, nil, ccid.ChainContinue, false); err != nil {
			return nil, err
		}
	}
}

func (x extendedAPDU) block(ctx context.Context, data []byte, level uint16, secret bool) (ccid.Response, error) {
	return x.slot.xfr(ctx, data, 0, level, secret, x.slot.deadlines.apdu(x.slot.parameters.T))
}

// transmitterT0 maps APDUs to T=0 TPDUs, for readers at TPDU and character level.
type transmitterT0 struct {
	slot   *Slot
	engine *t0.Engine
	port   portT0
}

// portT0 exchanges one T=0 TPDU.
type portT0 interface {
	exchange(ctx context.Context, tpdu []byte, expect int, secret bool) ([]byte, error)
}

func (s *Slot) newPortT0() portT0 {
	if s.level() == ccid.LevelCharacter {
		return &characterT0{slot: s, engine: t0.NewCharacter()}
	}
	return tpduT0{s}
}

func (x *transmitterT0) transmit(ctx context.Context, command []byte) ([]byte, error) {
	defer x.engine.Reset()
	secret := apdu.Sensitive(command)
	step, err := x.engine.Transmit(command)
	for err == nil && !step.Done {
		var response []byte
		if response, err = x.port.exchange(ctx, step.Send, step.Expect, secret); err == nil {
			step, err = x.engine.Receive(response)
			clear(response) // the engine has a copy, which it wipes
		}
	}
	if err != nil {
		if !turnedDown(err) {
			// The card may be in the middle of the command: what it still says would pass for the next one's answer.
			x.slot.lose()
		}
		return nil, err
	}
	return append([]byte(nil), step.Response...), nil
}

// turnedDown reports whether the command was refused as a whole, by the driver or by the reader.
func turnedDown(err error) bool {
	var failed *ccid.CommandError
	return errors.As(err, &failed) || errors.Is(err, ErrTooLong) ||
		errors.Is(err, t0.ErrCommand) || errors.Is(err, t0.ErrInstruction)
}

// tpduT0 is for readers that take a T=0 TPDU in one block (CCID 1.1 §3.2.1).
type tpduT0 struct{ slot *Slot }

func (x tpduT0) exchange(ctx context.Context, tpdu []byte, expect int, secret bool) ([]byte, error) {
	resp, err := x.slot.xfr(ctx, tpdu, 0, 0, secret, x.slot.waitingTimes().t0(len(tpdu)+expect+2))
	return resp.Data, err
}

// characterT0 is for readers that move characters and leave T=0 to the host (CCID 1.1 §3.2).
type characterT0 struct {
	slot   *Slot
	engine *t0.Character
}

func (x *characterT0) exchange(ctx context.Context, tpdu []byte, _ int, secret bool) ([]byte, error) {
	defer x.engine.Reset()
	step, err := x.engine.Transmit(tpdu)
	for err == nil && !step.Done {
		var b []byte
		if b, err = x.read(ctx, step, secret); err == nil {
			step, err = x.engine.Receive(b)
			clear(b)
		}
	}
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), step.Response...), nil
}

func (x *characterT0) read(ctx context.Context, step t0.CharStep, secret bool) ([]byte, error) {
	resp, err := x.slot.xfr(ctx, step.Send, 0, uint16(x.slot.portion(step.Expect)), secret, x.slot.waitingTimes().t0(len(step.Send)+step.Expect))
	return resp.Data, err
}
