package virtual

import (
	"context"
	"slices"
	"sync"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual/card"
)

// tokenA is ICCD version A: T=0 with the procedure bytes kept to itself (ICCD 1.0 §6.2). The host sends the header of a TPDU,
// asks for the state until the token is not busy, sends or fetches the data where there are some, and fetches SW1 SW2.
type tokenA struct {
	function *function

	mu     sync.Mutex
	phase  ccid.ICCDState // when not at work
	nulls  int            // NULL bytes of the card that the host has not seen as busy
	beat   ccid.ICCDState // changes with each look at a busy token
	header [5]byte
	awaits bool   // data of the host
	asked  int    // how many of them the card has asked for
	data   []byte // for the host to fetch
	sw     []byte
	atr    []byte
}

var _ token = (*tokenA)(nil)

func (t *tokenA) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.nulls, t.awaits, t.data, t.sw, t.atr = ccid.ICCDReady, 0, false, nil, nil, nil
}

func (t *tokenA) control(setup usbtransport.Setup, data []byte) (int, bool) {
	in := setup.RequestType == ccid.RequestTypeIn
	switch {
	case setup.Value != 0:
		return t.function.badRequest(RuleRequest, setup, "wValue is 0 in version A")
	case in && setup.Request == ccid.ICCDPowerOn:
		return t.powerOn(setup, data)
	case !in && setup.Request == ccid.ICCDPowerOff && len(data) == 0:
		t.function.slots[0].cutPower()
		t.reset()
		return 0, true
	case !in && setup.Request == ccid.ICCDXfrBlock:
		return t.transfer(setup, data)
	case in && setup.Request == ccid.ICCDDataBlock:
		return t.fetch(setup, data)
	case in && setup.Request == ccid.ICCDGetStatus && len(data) == 1:
		data[0] = byte(t.state())
		return 1, true
	}
	return t.function.badRequest(RuleRequest, setup, "bmRequestType %02X, %d bytes: none of version A", setup.RequestType, len(data))
}

// state is what GET_ICC_STATUS answers. Each NULL byte of the card is a look at a busy token, at least.
func (t *tokenA) state() ccid.ICCDState {
	done := t.function.settle()
	t.mu.Lock()
	defer t.mu.Unlock()
	if done && t.nulls == 0 {
		return t.phase
	}
	t.nulls = max(0, t.nulls-1)
	t.beat ^= 1
	return ccid.ICCDBusy | t.beat
}

// powerOn resets the card and gives its answer to reset.
func (t *tokenA) powerOn(setup usbtransport.Setup, data []byte) (int, bool) {
	s := t.function.slots[0]
	s.cutPower()
	t.reset()
	s.powerOn(ccid.IccPowerOn(0, ccid.PowerAutomatic))
	if run := t.function.atWork(); run != nil {
		<-run.done
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == ccid.ICCDMute {
		return 0, false
	}
	if len(t.atr) > len(data) {
		return t.function.badRequest(RuleRequest, setup, "wLength %d for an ATR of %d bytes", len(data), len(t.atr))
	}
	return copy(data, t.atr), true
}

// take takes the slot's responses: an answer to reset, or that something has failed. The rest is noted where it comes up.
func (t *tokenA) take(r ccid.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case r.Status.Command() == ccid.CommandFailed:
		t.phase = ccid.ICCDMute
	case len(r.Data) > 0:
		t.atr = r.Data
	}
}

// transfer takes a header, or the data that go with it.
func (t *tokenA) transfer(setup usbtransport.Setup, data []byte) (int, bool) {
	s, c := t.function.slots[0], ccid.XfrBlock(0, 0, 0, slices.Clone(data))
	if !s.isActive() {
		s.inactive(c)
		return 0, false
	}
	if t.function.atWork() != nil {
		return t.function.badRequest(RuleBusySlot, setup, "the token is at work")
	}
	work := t.accept(c.Data)
	if work == nil {
		return t.function.badRequest(RuleTPDU, setup, "%d bytes are neither a header nor the data asked for", len(data))
	}
	t.function.begin(s, c, func(ctx context.Context) ccid.Response { return work(ctx, c) })
	return len(data), true
}

// accept returns what is to be done with what the host has sent, nil where it does not belong here.
func (t *tokenA) accept(data []byte) func(context.Context, ccid.Command) ccid.Response {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.awaits && len(data) == int(t.header[4]):
		t.awaits = false
		return t.takeData
	case t.phase == ccid.ICCDReady && len(data) == len(t.header):
		t.header = [5]byte(data)
		return t.takeHeader
	}
	return nil
}

// fetch gives data, and then SW1 SW2.
func (t *tokenA) fetch(setup usbtransport.Setup, data []byte) (int, bool) {
	if !t.function.settle() {
		return t.function.badRequest(RuleBusySlot, setup, "the token is at work")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.phase == ccid.ICCDData && len(t.data) > 0 && len(data) > 0:
		n := copy(data, t.data)
		if t.data = t.data[n:]; len(t.data) == 0 {
			t.phase = ccid.ICCDSW
		}
		return n, true
	case t.phase == ccid.ICCDSW && len(data) == len(t.sw):
		n := copy(data, t.sw)
		t.phase, t.sw = ccid.ICCDReady, nil
		return n, true
	}
	return t.function.badRequest(RuleRequest, setup, "wLength %d in state %v", len(data), t.phase)
}

// takeHeader gives the card a header.
func (t *tokenA) takeHeader(ctx context.Context, c ccid.Command) ccid.Response {
	s := t.function.slots[0]
	icc := s.activeCard()
	if icc == nil || icc.State().Protocol != 0 {
		return s.failure(c, ccid.ErrorICCMute)
	}
	icc.Write(c.Data)
	return t.proceed(ctx, c, icc, nil)
}

// takeData gives the card the data that it asked for.
func (t *tokenA) takeData(ctx context.Context, c ccid.Command) ccid.Response {
	s := t.function.slots[0]
	icc := s.activeCard()
	if icc == nil {
		return s.failure(c, ccid.ErrorICCMute)
	}
	t.mu.Lock()
	asked := min(t.asked, len(c.Data))
	t.mu.Unlock()
	icc.Write(c.Data[:asked])
	return t.proceed(ctx, c, icc, c.Data[asked:])
}

// proceed follows the card's procedure bytes until there is something for the host (ISO/IEC 7816-3:2006 §10.3.3). send is
// what the host has sent and the card not asked for.
func (t *tokenA) proceed(ctx context.Context, c ccid.Command, icc card.Card, send []byte) ccid.Response {
	s := t.function.slots[0]
	l := line{slot: s, card: icc, command: c}
	ins, p3 := t.header[1], int(t.header[4])
	expect := p3
	if p3 == 0 {
		expect = 256
	}
	var received []byte
	for {
		b, code := l.read(ctx, 1)
		if code != 0 {
			return s.failure(c, code)
		}
		n := 1
		switch b[0] {
		case 0x60:
			t.null()
			continue
		case ins:
			n = max(len(send), expect-len(received))
		case ^ins:
		default:
			return t.conclude(ctx, l, received, b[0])
		}
		if len(send) > 0 {
			n = min(n, len(send))
			icc.Write(send[:n])
			send = send[n:]
			continue
		}
		part, err := icc.Read(ctx, 1)
		switch {
		case err != nil && len(received) == 0 && p3 > 0:
			// It sends nothing, so it waits for data.
			t.await(n)
			return s.answer(c, 0, nil)
		case err != nil || len(received)+n > expect:
			return s.failure(c, ccid.ErrorProcedureByteConflict)
		}
		rest, code := l.read(ctx, n-1)
		if code != 0 {
			return s.failure(c, code)
		}
		received = slices.Concat(received, part, rest)
	}
}

// conclude reads the rest of what sw1 begins, SW1 SW2, and has the host fetch it after what the card has sent before.
func (t *tokenA) conclude(ctx context.Context, l line, received []byte, sw1 byte) ccid.Response {
	if sw1>>4 != 6 && sw1>>4 != 9 {
		return l.slot.failure(l.command, ccid.ErrorProcedureByteConflict)
	}
	sw2, code := l.read(ctx, 1)
	if code != 0 {
		return l.slot.failure(l.command, code)
	}
	t.offer(received, []byte{sw1, sw2[0]})
	return l.slot.answer(l.command, 0, nil)
}

// null notes a NULL byte of the card.
func (t *tokenA) null() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nulls++
}

// await tells the host that the card wants data, n bytes at first.
func (t *tokenA) await(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.awaits, t.asked = ccid.ICCDData, true, n
}

// offer tells the host that there are data, if any, and SW1 SW2.
func (t *tokenA) offer(data, sw []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data, t.sw, t.phase = data, sw, ccid.ICCDSW
	if len(data) > 0 {
		t.phase = ccid.ICCDData
	}
}
