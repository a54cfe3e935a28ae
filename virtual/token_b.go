package virtual

import (
	"slices"
	"sync"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// tokenB is ICCD version B: APDUs in, and answers that say what they are (ICCD 1.0 §6.2). One command at a time: its answer has
// to be fetched before the next, unless the power is switched off.
type tokenB struct {
	function *function

	mu      sync.Mutex
	owing   bool // a command was taken, and its answer not fetched yet
	answers []ccid.ICCDBlock
}

var _ token = (*tokenB)(nil)

// maxAnswers bounds what waits to be fetched: polling answers that stand for the card's requests for more time.
const maxAnswers = 64

func (t *tokenB) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.owing, t.answers = false, nil
}

func (t *tokenB) control(setup usbtransport.Setup, data []byte) (int, bool) {
	in := setup.RequestType == ccid.RequestTypeIn
	switch {
	case !in && setup.Request == ccid.ICCDPowerOn:
		if setup.Value != ccid.ICCDPowerOnValue || len(data) > 0 {
			return t.function.badRequest(RuleRequest, setup, "%d bytes", len(data))
		}
		return 0, t.begin(setup, ccid.IccPowerOn(0, ccid.PowerAutomatic))
	case !in && setup.Request == ccid.ICCDPowerOff:
		if setup.Value != 0 || len(data) > 0 {
			return t.function.badRequest(RuleRequest, setup, "%d bytes", len(data))
		}
		t.function.slots[0].cutPower()
		t.reset()
		return 0, true
	case !in && setup.Request == ccid.ICCDXfrBlock:
		return t.transfer(setup, data)
	case in && setup.Request == ccid.ICCDDataBlock:
		return t.fetch(setup, data)
	case in && setup.Request == ccid.ICCDSlotStatus:
		if setup.Value != 0 || len(data) < 3 {
			return t.function.badRequest(RuleRequest, setup, "wLength %d", len(data))
		}
		return t.give(data, ccid.ICCDBlock{Type: ccid.ICCDStatus, Status: t.function.tokenStatus()}), true
	}
	return t.function.badRequest(RuleRequest, setup, "bmRequestType %02X is none of version B", setup.RequestType)
}

// transfer takes an APDU, or a part of one.
func (t *tokenB) transfer(setup usbtransport.Setup, data []byte) (int, bool) {
	longest := int(min(t.function.announced.DwMaxCCIDMessageLength, ccid.ICCDMaxData))
	switch {
	case setup.Value&0xFF != 0:
		return t.function.badRequest(RuleRequest, setup, "%d bytes", len(data))
	case len(data) > longest:
		return t.function.badRequest(RuleTooLong, setup, "%d bytes, at most %d", len(data), longest)
	}
	return len(data), t.begin(setup, ccid.XfrBlock(0, 0, setup.Value>>8, slices.Clone(data)))
}

// begin gives a command to the slot.
func (t *tokenB) begin(setup usbtransport.Setup, c ccid.Command) bool {
	t.mu.Lock()
	owing := t.owing
	t.owing = true
	t.mu.Unlock()
	if owing {
		_, _ = t.function.badRequest(RuleBusySlot, setup, "the answer to the last command was not fetched")
		return false
	}
	if answer := t.function.reader.config.Answer; answer != nil {
		if r, ok := answer(c); ok {
			t.take(r)
			return true
		}
	}
	t.function.slots[0].take(c)
	return true
}

// take makes an answer of a response. A time extension's multiplier becomes the delay, in the unit of ICCD.
func (t *tokenB) take(r ccid.Response) {
	block := ccid.ICCDBlock{Type: ccid.ICCDBlockType(r.Specific), Data: r.Data}
	switch r.Status.Command() {
	case ccid.CommandTimeExtension:
		block = ccid.ICCDBlock{Type: ccid.ICCDPolling, Delay: time.Duration(r.Error) * 10 * time.Millisecond}
	case ccid.CommandFailed:
		block = ccid.ICCDBlock{Type: ccid.ICCDStatus, Status: r.Status, Error: r.Error}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owing && (len(t.answers) < maxAnswers || block.Type != ccid.ICCDPolling) {
		t.answers = append(t.answers, block)
	}
}

// fetch answers with what there is.
func (t *tokenB) fetch(setup usbtransport.Setup, data []byte) (int, bool) {
	if setup.Value != 0 || len(data) < 4 {
		return t.function.badRequest(RuleRequest, setup, "wLength %d", len(data))
	}
	t.function.settle()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.owing:
		return t.function.badRequest(RuleRequest, setup, "there is no answer to fetch")
	case len(t.answers) == 0:
		return t.give(data, ccid.ICCDBlock{Type: ccid.ICCDPolling}), true
	}
	block := t.answers[0]
	t.answers = t.answers[1:]
	t.owing = block.Type == ccid.ICCDPolling
	if len(block.Data) >= len(data) {
		block = ccid.ICCDBlock{Type: ccid.ICCDStatus, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: ccid.ErrorXfrOverrun}
	}
	return t.give(data, block), true
}

func (t *tokenB) give(data []byte, block ccid.ICCDBlock) int {
	b, _ := block.AppendBinary(nil) // never fails
	return copy(data, b)
}
