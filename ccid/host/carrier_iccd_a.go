package host

import (
	"context"
	"fmt"

	"github.com/goccid/goccid/ccid"
)

// iccdA is ICCD version A: TPDUs of T=0 without procedure bytes (ICCD 1.0 §6.2). The token's state says what is next: data,
// SW1 SW2, or a wait.
type iccdA struct {
	*iccd
	tpdu tpdu
}

var _ token = (*iccdA)(nil)

// tpdu is what is left of one: data to send, or to fetch.
type tpdu struct {
	header   [headerT0]byte
	send     []byte
	want     int // bytes to fetch at most
	received []byte
}

// headerT0 is the length of CLA INS P1 P2 P3 (ISO/IEC 7816-3:2006 §10.3.2).
const headerT0 = 5

func newICCDA(g gate, number uint8) *iccdA {
	a := &iccdA{iccd: newICCD(g, number)}
	a.token = a
	return a
}

// parseTPDU takes a T=0 TPDU apart, with P3 added where it is missing. ok is false for bytes that are none.
func parseTPDU(b []byte) (t tpdu, ok bool) {
	if len(b) < headerT0-1 {
		return tpdu{}, false
	}
	rest := b[copy(t.header[:], b):]
	p3 := int(t.header[headerT0-1])
	switch {
	case len(rest) > 0 && len(rest) != p3:
		return tpdu{}, false
	case len(rest) > 0:
		t.send = rest
	case p3 == 0:
		t.want = 256
	default:
		t.want = p3
	}
	return t, true
}

// state asks the token for its state.
func (a *iccdA) state(ctx context.Context) (ccid.ICCDState, error) {
	b, err := a.in(ctx, ccid.ICCDGetStatus, 1)
	if err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return 0, fmt.Errorf("%w: state of no bytes", ErrResponse)
	}
	return ccid.ICCDState(b[0]).Phase(), nil
}

// status answers GetSlotStatus. What the token says of a card without power counts for nothing; one that has power and does not
// respond has lost its session.
func (a *iccdA) status(ctx context.Context) (*ccid.Response, stage, error) {
	state, err := a.state(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case state == ccid.ICCDMute:
		a.powered = false
	case state == ccid.ICCDBusy:
		return a.again(0, a.status)
	}
	return a.answer(nil), nil, nil
}

// powerOn waits until the token can take the request; the answer to reset comes with it.
func (a *iccdA) powerOn(ctx context.Context) (*ccid.Response, stage, error) {
	state, err := a.state(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case state == ccid.ICCDBusy:
		return a.again(0, a.powerOn)
	}
	return nil, a.fetchATR, nil
}

// roomForATR is more than an answer to reset can have, so that one which is too long is seen to be.
const roomForATR = 64

func (a *iccdA) fetchATR(ctx context.Context) (*ccid.Response, stage, error) {
	b, err := a.in(ctx, ccid.ICCDPowerOn, roomForATR)
	if err != nil {
		return nil, nil, err
	}
	a.powered = true
	return a.answer(b), nil, nil
}

func (a *iccdA) xfrBlock(ctx context.Context) (*ccid.Response, stage, error) {
	t, ok := parseTPDU(a.command.Data)
	if !ok {
		return a.failure(ccid.ErrorBadLength), nil, nil
	}
	a.tpdu = t
	return a.sendBytes(ctx, a.tpdu.header[:])
}

// sendBytes sends the header, or all the data.
func (a *iccdA) sendBytes(ctx context.Context, b []byte) (*ccid.Response, stage, error) {
	a.open = true
	return nil, a.proceed, a.out(ctx, ccid.ICCDXfrBlock, 0, b)
}

// proceed does what the token is ready for.
func (a *iccdA) proceed(ctx context.Context) (*ccid.Response, stage, error) {
	state, err := a.state(ctx)
	if err != nil {
		return nil, nil, err
	}
	switch state {
	case ccid.ICCDBusy:
		return a.again(0, a.proceed)
	case ccid.ICCDMute:
		a.open, a.powered = false, false
		return a.failure(ccid.ErrorICCMute), nil, nil
	case ccid.ICCDSW:
		return nil, a.fetchSW, nil
	case ccid.ICCDData:
		if len(a.tpdu.send) > 0 {
			return nil, a.sendData, nil
		}
		if a.tpdu.want > len(a.tpdu.received) {
			return nil, a.fetchData, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: token is in state %v, with %d bytes to send and %d of %d received",
		ErrResponse, state, len(a.tpdu.send), len(a.tpdu.received), a.tpdu.want)
}

func (a *iccdA) sendData(ctx context.Context) (*ccid.Response, stage, error) {
	b := a.tpdu.send
	a.tpdu.send = nil
	return a.sendBytes(ctx, b)
}

func (a *iccdA) fetchData(ctx context.Context) (*ccid.Response, stage, error) {
	b, err := a.in(ctx, ccid.ICCDDataBlock, a.tpdu.want-len(a.tpdu.received))
	if err != nil {
		return nil, nil, err
	}
	if len(b) == 0 {
		return nil, nil, fmt.Errorf("%w: token has data, and gives none", ErrResponse)
	}
	a.tpdu.received = move(a.tpdu.received, b)
	return nil, a.proceed, nil
}

// lengthSW is SW1 SW2.
const lengthSW = 2

func (a *iccdA) fetchSW(ctx context.Context) (*ccid.Response, stage, error) {
	b, err := a.in(ctx, ccid.ICCDDataBlock, lengthSW)
	if err != nil {
		return nil, nil, err
	}
	if len(b) != lengthSW {
		return nil, nil, fmt.Errorf("%w: SW1 SW2 of %d bytes", ErrResponse, len(b))
	}
	a.open = false
	response := move(a.tpdu.received, b)
	a.tpdu = tpdu{}
	return a.answer(response), nil, nil
}

// abandon takes SW1 SW2 away. A token that waits for data or has some is in the middle of a command; only power off ends that.
func (a *iccdA) abandon(ctx context.Context) (*ccid.Response, stage, error) {
	state, err := a.state(ctx)
	if err != nil {
		return nil, nil, err
	}
	a.tpdu = tpdu{}
	switch state {
	case ccid.ICCDBusy:
		return a.again(0, a.abandon)
	case ccid.ICCDSW:
		return nil, a.dropSW, nil
	case ccid.ICCDReady:
		a.open = false
		return a.answer(nil), nil, nil
	case ccid.ICCDMute:
		a.open, a.powered = false, false
		return a.answer(nil), nil, nil
	}
	return a.failure(ccid.ErrorSlotBusy), nil, nil
}

func (a *iccdA) dropSW(ctx context.Context) (*ccid.Response, stage, error) {
	_, next, err := a.fetchSW(ctx)
	if err != nil {
		return nil, nil, err
	}
	return a.answer(nil), next, nil
}
