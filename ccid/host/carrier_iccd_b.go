package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// iccdB is ICCD version B: APDUs, whole or in parts, and answers with a byte before them that says what they are (ICCD 1.0
// §6.2).
type iccdB struct{ *iccd }

var _ token = iccdB{}

func newICCDB(g gate, number uint8) iccdB {
	b := iccdB{newICCD(g, number)}
	b.token = b
	return b
}

// status answers GetSlotStatus.
func (b iccdB) status(ctx context.Context) (*ccid.Response, stage, error) {
	raw, err := b.in(ctx, ccid.ICCDSlotStatus, 3)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) < 2 {
		return nil, nil, fmt.Errorf("%w: slot status of %d bytes", ErrResponse, len(raw))
	}
	// bResponseType, which can be but ICCDStatus here, is not looked at: the reference driver does not, so tokens may err.
	return &ccid.Response{Status: ccid.NewStatus(ccid.Status(raw[1]).ICC(), ccid.CommandOK)}, nil, nil
}

func (b iccdB) powerOn(ctx context.Context) (*ccid.Response, stage, error) {
	b.open = true
	return nil, b.fetchATR, b.out(ctx, ccid.ICCDPowerOn, ccid.ICCDPowerOnValue, nil)
}

func (b iccdB) fetchATR(ctx context.Context) (*ccid.Response, stage, error) {
	block, err := b.fetch(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case block.Type == ccid.ICCDPolling:
		return b.again(block.Delay, b.fetchATR)
	case block.Type == ccid.ICCDStatus:
		return b.failed(block), nil, nil
	case block.Type != ccid.ICCDWhole:
		return nil, nil, fmt.Errorf("%w: answer to reset with bResponseType 0x%02X", ErrResponse, uint8(block.Type))
	}
	b.powered = true
	return b.answer(block.Data), nil, nil
}

func (b iccdB) xfrBlock(ctx context.Context) (*ccid.Response, stage, error) {
	level := b.command.LevelParameter()
	if level > 0xFF {
		return b.failure(ccid.ErrorBadLevelParameter), nil, nil
	}
	b.open = true
	err := b.out(ctx, ccid.ICCDXfrBlock, ccid.ICCDLevelValue(level), b.command.Data)
	if errors.Is(err, usbtransport.ErrStalled) {
		// It was not taken.
		b.open = false
	}
	return nil, b.fetchBlock, err
}

func (b iccdB) fetchBlock(ctx context.Context) (*ccid.Response, stage, error) {
	block, err := b.fetch(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case block.Type == ccid.ICCDPolling:
		return b.again(block.Delay, b.fetchBlock)
	case block.Type == ccid.ICCDStatus:
		return b.failed(block), nil, nil
	}
	resp := b.answer(block.Data)
	resp.Specific = uint8(block.Type)
	return resp, nil, nil
}

// fetch fetches what the token answers.
func (b iccdB) fetch(ctx context.Context) (ccid.ICCDBlock, error) {
	raw, err := b.in(ctx, ccid.ICCDDataBlock, ccid.ICCDMaxData)
	if err != nil {
		return ccid.ICCDBlock{}, err
	}
	block, err := ccid.ParseICCDBlock(raw)
	if err != nil {
		return ccid.ICCDBlock{}, fmt.Errorf("%w: %w", ErrResponse, err)
	}
	b.open = block.Type == ccid.ICCDPolling
	return block, nil
}

// failed is the response to a command that the token answers with a status alone: there are no data, so it has failed, whatever
// the status says of that.
func (b iccdB) failed(block ccid.ICCDBlock) *ccid.Response {
	return &ccid.Response{Status: ccid.NewStatus(block.Status.ICC(), ccid.CommandFailed), Error: block.Error}
}

// abandon fetches the answer that nobody waits for.
func (b iccdB) abandon(ctx context.Context) (*ccid.Response, stage, error) {
	block, err := b.fetch(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case block.Type == ccid.ICCDPolling:
		return b.again(block.Delay, b.abandon)
	}
	return nil, b.status, nil
}
