package virtual

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual/card"
)

// tokenHost makes control requests to a token.
type tokenHost struct {
	testing.TB
	usbtransport.Interface
	device *Reader
}

func newTokenHost(t testing.TB, c Config) *tokenHost {
	t.Helper()
	r, err := NewReader(c)
	require.NoError(t, err)
	bus := NewBus()
	info, err := bus.Plug(r)
	require.NoError(t, err)
	i, err := bus.Open(t.Context(), info, 0)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, i.Close())
		require.NoError(t, bus.Close())
		require.NoError(t, r.Close())
	})
	return &tokenHost{t, i, r}
}

func (h *tokenHost) request(kind, request uint8, value uint16, data []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	n, err := h.Control(ctx, usbtransport.Setup{RequestType: kind, Request: request, Value: value}, data)
	return data[:n], err
}

func (h *tokenHost) out(request uint8, value uint16, data ...byte) {
	h.Helper()
	_, err := h.request(ccid.RequestTypeOut, request, value, data)
	require.NoError(h, err)
}

func (h *tokenHost) in(request uint8, length int) []byte {
	h.Helper()
	b, err := h.request(ccid.RequestTypeIn, request, 0, make([]byte, length))
	require.NoError(h, err)
	return b
}

// stalls makes a request that must be refused as breaking a rule.
func (h *tokenHost) stalls(rule Rule, kind, request uint8, value uint16, data []byte) {
	h.Helper()
	h.device.ForgetViolations()
	_, err := h.request(kind, request, value, data)
	require.ErrorIs(h, err, usbtransport.ErrStalled)
	require.Len(h, h.device.Violations(), 1)
	require.Equal(h, rule, h.device.Violations()[0].Rule, h.device.Violations()[0].Detail)
	h.device.ForgetViolations()
}

func bubbled(t *testing.T, c Config, f func(h *tokenHost)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newTokenHost(t, c)
		f(h)
		require.Empty(t, h.device.Violations())
	})
}

func laggardCard(protocol uint8) card.Card {
	return card.New(card.NewISO(), card.Options{Protocol: protocol, Behave: func(command []byte) card.Behaviour {
		if command[1] == 0x84 {
			return card.Behaviour{Delay: 100 * time.Millisecond, Extensions: []byte{3}}
		}
		return card.Behaviour{}
	}})
}

func TestTokenOfVersionB(t *testing.T) {
	bubbled(t, Config{Model: "gemalto-pdt", Cards: []card.Card{laggardCard(1)}}, func(h *tokenHost) {
		require.Equal(t, []byte{0x40, 0x01, 0x00}, h.in(ccid.ICCDSlotStatus, 3), "inactive")
		h.out(ccid.ICCDPowerOn, ccid.ICCDPowerOnValue)
		atr := h.in(ccid.ICCDDataBlock, 64)
		require.Equal(t, []byte{0x00, 0x3B}, atr[:2])
		require.Equal(t, []byte{0x40, 0x00, 0x00}, h.in(ccid.ICCDSlotStatus, 4), "active")

		h.out(ccid.ICCDXfrBlock, 0, 0x00, 0xA4, 0x00, 0x0C)
		require.Equal(t, []byte{0x00, 0x90, 0x00}, h.in(ccid.ICCDDataBlock, 4096))

		h.out(ccid.ICCDXfrBlock, 0, 0x00, 0x84, 0x00, 0x00, 0x08)
		require.Equal(t, []byte{0x80, 3, 0}, h.in(ccid.ICCDDataBlock, 64), "the card's request for time")
		require.Equal(t, []byte{0x80, 0, 0}, h.in(ccid.ICCDDataBlock, 64), "at work")
		time.Sleep(200 * time.Millisecond)
		require.Len(t, h.in(ccid.ICCDDataBlock, 64), 1+8+2)

		h.out(ccid.ICCDXfrBlock, 0, 0x00, 0x84, 0x00, 0x00, 0x08)
		h.out(ccid.ICCDPowerOff, 0)
		require.Equal(t, []byte{0x40, 0x01, 0x00}, h.in(ccid.ICCDSlotStatus, 3), "power off ends everything")
		h.out(ccid.ICCDPowerOn, ccid.ICCDPowerOnValue)
		require.Equal(t, atr, h.in(ccid.ICCDDataBlock, 64))
	})
}

func TestTokenOfVersionBChains(t *testing.T) {
	level := ccid.LevelExtendedAPDU
	bubbled(t, Config{Model: "gemalto-pdt", Level: &level, Cards: []card.Card{card.NewT1()}}, func(h *tokenHost) {
		h.out(ccid.ICCDPowerOn, ccid.ICCDPowerOnValue)
		h.in(ccid.ICCDDataBlock, 64)
		command := append([]byte{0x80, 0xEC, 300 >> 8, 300 & 0xFF, 0, 300 >> 8, 300 & 0xFF}, bytes.Repeat([]byte{7}, 300)...)
		command = append(command, 0, 0)
		h.out(ccid.ICCDXfrBlock, ccid.ICCDLevelValue(ccid.ChainBegin), command[:261]...)
		require.Equal(t, []byte{0x10}, h.in(ccid.ICCDDataBlock, 4096), "the next part")
		h.out(ccid.ICCDXfrBlock, ccid.ICCDLevelValue(ccid.ChainEnd), command[261:]...)
		first := h.in(ccid.ICCDDataBlock, 4096)
		require.Equal(t, byte(0x01), first[0])
		require.Len(t, first, 1+261)
		h.out(ccid.ICCDXfrBlock, ccid.ICCDLevelValue(ccid.ChainContinue))
		last := h.in(ccid.ICCDDataBlock, 4096)
		require.Equal(t, byte(0x02), last[0])
		require.Equal(t, append(bytes.Repeat([]byte{7}, 300), 0x90, 0x00), append(first[1:], last[1:]...))
	})
}

func TestTokenOfVersionBIsStrict(t *testing.T) {
	const in, out = ccid.RequestTypeIn, ccid.RequestTypeOut
	bubbled(t, Config{Model: "gemalto-pdt", Cards: []card.Card{laggardCard(1)}}, func(h *tokenHost) {
		h.stalls(RuleRequest, in, ccid.ICCDDataBlock, 0, make([]byte, 64))
		h.stalls(RuleRequest, out, ccid.ICCDPowerOn, 0, nil)
		h.stalls(RuleRequest, out, ccid.ICCDPowerOff, 0, []byte{1})
		h.stalls(RuleRequest, in, ccid.ICCDGetStatus, 0, make([]byte, 1))
		h.stalls(RuleRequest, in, ccid.ICCDSlotStatus, 0, make([]byte, 2))
		h.out(ccid.ICCDPowerOn, ccid.ICCDPowerOnValue)
		h.stalls(RuleBusySlot, out, ccid.ICCDXfrBlock, 0, []byte{0, 0xA4, 0, 0x0C})
		h.in(ccid.ICCDDataBlock, 64)
		h.stalls(RuleTooLong, out, ccid.ICCDXfrBlock, 0, make([]byte, 262))
		h.stalls(RuleRequest, out, ccid.ICCDXfrBlock, 1, []byte{0, 0xA4, 0, 0x0C})
		h.out(ccid.ICCDXfrBlock, ccid.ICCDLevelValue(ccid.ChainBegin), 0, 0xA4, 0, 0x0C)
		h.in(ccid.ICCDDataBlock, 64)
		require.Equal(t, RuleLevel, h.device.Violations()[0].Rule, "a token for short APDUs knows no parts")
		h.device.ForgetViolations()
		h.out(ccid.ICCDPowerOff, 0)
		h.out(ccid.ICCDXfrBlock, 0, 0, 0xA4, 0, 0x0C)
		require.Equal(t, []byte{0x40, 0x41, 0xFE}, h.in(ccid.ICCDDataBlock, 64), "no power")
		require.Equal(t, RuleInactive, h.device.Violations()[0].Rule)
		h.device.ForgetViolations()
	})
}

func TestTokenOfVersionBAnswersAsToldTo(t *testing.T) {
	bubbled(t, Config{Model: "gemalto-pdt", Cards: []card.Card{card.NewT1()}, Answer: func(c ccid.Command) (ccid.Response, bool) {
		return ccid.Response{Specific: 0x7F, Data: []byte{1, 2}}, c.Type == ccid.TypeXfrBlock
	}}, func(h *tokenHost) {
		h.out(ccid.ICCDPowerOn, ccid.ICCDPowerOnValue)
		h.in(ccid.ICCDDataBlock, 64)
		h.out(ccid.ICCDXfrBlock, 0, 0, 0xA4, 0, 0x0C)
		require.Equal(t, []byte{0x7F, 1, 2}, h.in(ccid.ICCDDataBlock, 64))
	})
}

func TestTokenOfVersionA(t *testing.T) {
	singly := card.New(card.NewISO(), card.Options{Behave: func(header []byte) card.Behaviour {
		return card.Behaviour{Singly: header[3] == 0x77}
	}})
	for name, c := range map[string]card.Card{"all at once": laggardCard(0), "byte by byte": singly} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, Config{Model: "e-gate", Cards: []card.Card{c}}, func(h *tokenHost) {
				state := func() byte { return h.in(ccid.ICCDGetStatus, 1)[0] }
				require.Equal(t, byte(0x3B), h.in(ccid.ICCDPowerOn, 64)[0])
				require.Zero(t, state())

				h.out(ccid.ICCDXfrBlock, 0, 0x00, 0xA4, 0x00, 0x0C, 0x02)
				require.Equal(t, byte(0x10), state(), "it wants data")
				h.out(ccid.ICCDXfrBlock, 0, 0x3F, 0x00)
				require.Equal(t, byte(0x20), state())
				require.Equal(t, []byte{0x90, 0x00}, h.in(ccid.ICCDDataBlock, 2))
				require.Zero(t, state())

				h.out(ccid.ICCDXfrBlock, 0, 0x80, 0xEE, 0x00, 0x05, 0x05)
				require.Equal(t, byte(0x10), state(), "it has data")
				require.Len(t, h.in(ccid.ICCDDataBlock, 3), 3)
				require.Equal(t, byte(0x10), state(), "more data")
				require.Len(t, h.in(ccid.ICCDDataBlock, 2), 2)
				require.Equal(t, byte(0x20), state())
				require.Equal(t, []byte{0x90, 0x00}, h.in(ccid.ICCDDataBlock, 2))

				h.out(ccid.ICCDXfrBlock, 0, 0x00, 0xA4, 0x00, 0x77, 0x02)
				require.Equal(t, byte(0x10), state())
				h.out(ccid.ICCDPowerOff, 0)
				require.Zero(t, state(), "power off ends everything")
			})
		})
	}
}

func TestTokenOfVersionAIsBusyWhileTheCardWorks(t *testing.T) {
	bubbled(t, Config{Model: "e-gate", Cards: []card.Card{laggardCard(0)}}, func(h *tokenHost) {
		h.in(ccid.ICCDPowerOn, 64)
		h.out(ccid.ICCDXfrBlock, 0, 0x00, 0x84, 0x00, 0x00, 0x08)
		first, second := h.in(ccid.ICCDGetStatus, 1)[0], h.in(ccid.ICCDGetStatus, 1)[0]
		require.Equal(t, ccid.ICCDBusy, ccid.ICCDState(first).Phase())
		require.Equal(t, ccid.ICCDBusy, ccid.ICCDState(second).Phase())
		require.NotEqual(t, first, second, "a sign of life")
		h.stalls(RuleBusySlot, ccid.RequestTypeIn, ccid.ICCDDataBlock, 0, make([]byte, 2))
		h.stalls(RuleBusySlot, ccid.RequestTypeOut, ccid.ICCDXfrBlock, 0, make([]byte, 5))
		time.Sleep(time.Second)
		require.Equal(t, byte(0x10), h.in(ccid.ICCDGetStatus, 1)[0])
		require.Len(t, h.in(ccid.ICCDDataBlock, 256), 8)
		require.Equal(t, []byte{0x90, 0x00}, h.in(ccid.ICCDDataBlock, 2))
	})
}

func TestTokenOfVersionAIsStrict(t *testing.T) {
	const in, out = ccid.RequestTypeIn, ccid.RequestTypeOut
	bubbled(t, Config{Model: "e-gate", Cards: []card.Card{card.NewT0()}}, func(h *tokenHost) {
		h.stalls(RuleInactive, out, ccid.ICCDXfrBlock, 0, make([]byte, 5))
		h.stalls(RuleRequest, in, ccid.ICCDSlotStatus, 0, make([]byte, 3))
		h.stalls(RuleRequest, in, ccid.ICCDPowerOn, 0, make([]byte, 4))
		h.in(ccid.ICCDPowerOn, 64)
		h.stalls(RuleRequest, in, ccid.ICCDDataBlock, 0, make([]byte, 2))
		h.stalls(RuleRequest, in, ccid.ICCDGetStatus, 1, make([]byte, 1))
		h.stalls(RuleTPDU, out, ccid.ICCDXfrBlock, 0, []byte{0, 0xA4, 0, 0x0C})
		h.out(ccid.ICCDXfrBlock, 0, 0x00, 0xA4, 0x00, 0x0C, 0x02)
		h.in(ccid.ICCDGetStatus, 1)
		h.stalls(RuleTPDU, out, ccid.ICCDXfrBlock, 0, []byte{0x3F})
		h.out(ccid.ICCDXfrBlock, 0, 0x3F, 0x00)
		require.Equal(t, byte(0x20), h.in(ccid.ICCDGetStatus, 1)[0])
		h.stalls(RuleRequest, in, ccid.ICCDDataBlock, 0, make([]byte, 1))
		require.Equal(t, []byte{0x90, 0x00}, h.in(ccid.ICCDDataBlock, 2))
	})
}

func TestTokenWithoutACardThatAnswersIsMute(t *testing.T) {
	bubbled(t, Config{Model: "e-gate", Cards: []card.Card{card.NewT1()}}, func(h *tokenHost) {
		h.in(ccid.ICCDPowerOn, 64)
		h.out(ccid.ICCDXfrBlock, 0, 0x00, 0xA4, 0x00, 0x0C, 0x00)
		require.Equal(t, byte(0x80), h.in(ccid.ICCDGetStatus, 1)[0], "version A speaks T=0")
	})
	bubbled(t, Config{Model: "e-gate"}, func(h *tokenHost) {
		_, err := h.request(ccid.RequestTypeIn, ccid.ICCDPowerOn, 0, make([]byte, 64))
		require.ErrorIs(t, err, usbtransport.ErrStalled)
	})
	bubbled(t, Config{Model: "gemalto-pdt"}, func(h *tokenHost) {
		h.out(ccid.ICCDPowerOn, ccid.ICCDPowerOnValue)
		require.Equal(t, []byte{0x40, 0x42, 0xFE}, h.in(ccid.ICCDDataBlock, 64))
	})
}

func TestSpecOfATokenHasACardThatFits(t *testing.T) {
	for model, want := range map[string]CardKind{"e-gate": CardT0, "bifit-ibank2key": CardT0, "jcop41v221": CardT1, "activcardv2": CardT1} {
		s, err := ParseSpec("reader=" + model)
		require.NoError(t, err)
		require.Equal(t, []CardSpec{{Kind: want}}, s.Cards, model)
	}
}
