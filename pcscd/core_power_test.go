package pcscd_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

func TestUnusedCardLosesItsPower(t *testing.T) {
	for _, tt := range []struct {
		grace, after time.Duration
		never        bool
	}{
		{grace: 0, after: 5 * time.Second},
		{grace: time.Millisecond, after: time.Millisecond},
		{grace: time.Minute, after: time.Minute},
		{grace: -1, after: 1000 * time.Hour, never: true},
	} {
		t.Run(tt.grace.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, card(), pcscd.Options{PowerOffGrace: tt.grace})
				c := w.client()
				h := c.open(wire.Shared)
				time.Sleep(2 * tt.after)
				synctest.Wait()
				require.True(t, w.driver.Powered(alphaLun), "in use")
				require.Equal(t, wire.Success, c.Disconnect(t.Context(), h, wire.LeaveCard))
				time.Sleep(tt.after - time.Nanosecond)
				synctest.Wait()
				require.True(t, w.driver.Powered(alphaLun), "in grace")
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.Equal(t, tt.never, w.driver.Powered(alphaLun))
				require.Equal(t, wire.State(0x34), w.state(alpha).State, "clients don't see it")
				require.Equal(t, atrBoth, w.state(alpha).ATR)
				c.open(wire.Shared)
				require.True(t, w.driver.Powered(alphaLun))
			})
		})
	}
}

func TestNewCardLosesItsPowerToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil, pcscd.Options{PowerOffGrace: time.Second})
		w.driver.Insert(alphaLun, card())
		w.untilState(alpha, 0x34)
		require.True(t, w.driver.Powered(alphaLun))
		time.Sleep(time.Second)
		synctest.Wait()
		require.False(t, w.driver.Powered(alphaLun))
	})
}

// TestExchangedCardLosesItsPower though a handle is open, until that is renewed.
func TestExchangedCardLosesItsPower(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{PowerOffGrace: time.Second})
		c := w.client()
		h := c.open(wire.Shared)
		w.driver.Insert(alphaLun, nil)
		w.untilState(alpha, wire.StateAbsent)
		w.driver.Insert(alphaLun, card())
		w.untilState(alpha, 0x34)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, w.driver.Powered(alphaLun))
		_, code := c.Reconnect(t.Context(), h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
		require.Equal(t, wire.Success, code)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.True(t, w.driver.Powered(alphaLun))
	})
}

// TestCardThatIsPulledOutWhileItIsPoweredUp was there: clients are told by the counter.
func TestCardThatIsPulledOutWhileItIsPoweredUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil, pcscd.Options{})
		w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
			if c.Function == "PowerICC" {
				time.Sleep(time.Second)
			}
			return nil
		})
		w.driver.Insert(alphaLun, card())
		time.Sleep(500 * time.Millisecond)
		require.Zero(t, w.state(alpha).EventCounter)
		w.driver.Insert(alphaLun, nil)
		w.until(alpha, func(s wire.ReaderState) bool { return s.EventCounter == 2 })
		require.Equal(t, wire.StateAbsent, w.state(alpha).State)
	})
}

// TestFailedConnectLeavesNoUse is the reference's fault: after it, the card kept its power for ever.
func TestFailedConnectLeavesNoUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &pcscdtest.Card{ATR: atrT0}, pcscd.Options{PowerOffGrace: time.Second})
		c := w.client()
		time.Sleep(2 * time.Second)
		_, _, code := c.Connect(t.Context(), c.hContext, alpha, wire.Shared, wire.ProtocolT1)
		require.Equal(t, wire.ErrProtoMismatch, code)
		require.True(t, w.driver.Powered(alphaLun), "was powered up to find out")
		time.Sleep(time.Second)
		synctest.Wait()
		require.False(t, w.driver.Powered(alphaLun))
	})
}

// TestReconnectPowersUp a card that lost its power while only a DIRECT handle was open.
func TestReconnectPowersUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{PowerOffGrace: time.Second})
		c := w.client()
		h := c.open(wire.Direct)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, w.driver.Powered(alphaLun), "DIRECT does not keep the power")
		active, code := c.Reconnect(t.Context(), h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
		require.Equal(t, wire.Success, code)
		require.Equal(t, wire.ProtocolT1, active)
		require.Equal(t, wire.Success, c.transmit(h, wire.ProtocolT1))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.True(t, w.driver.Powered(alphaLun))
	})
}

func TestUnpowerDisposition(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		c := w.client()
		h := c.open(wire.Shared)
		require.Equal(t, wire.Success, c.Disconnect(t.Context(), h, wire.UnpowerCard))
		require.Equal(t, wire.StatePresent, w.state(alpha).State)
		require.NotEmpty(t, w.state(alpha).ATR, "each client sleeps when it sees a card without")
		require.False(t, w.driver.Powered(alphaLun))
		c.open(wire.Shared)
		require.Equal(t, wire.State(0x34), w.state(alpha).State)
	})
}

func TestMuteCard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &pcscdtest.Card{}, pcscd.Options{})
		require.Equal(t, wire.ReaderState{Name: alpha, Known: true, State: 0x0C}, w.state(alpha))
		c := w.client()
		for _, mode := range []wire.ShareMode{wire.Shared, wire.Exclusive} {
			_, _, code := c.Connect(t.Context(), c.hContext, alpha, mode, wire.ProtocolAny)
			require.Equal(t, wire.ErrUnpoweredCard, code)
		}
		h := c.open(wire.Direct)
		_, code := c.Reconnect(t.Context(), h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
		require.Equal(t, wire.ErrUnresponsiveCard, code)
		_, code = c.Reconnect(t.Context(), h, wire.Shared, wire.ProtocolAny, wire.ResetCard)
		require.Equal(t, wire.ErrUnresponsiveCard, code)
	})
}

// TestCardThatRecovers is mute at first and answers a later Connect.
func TestCardThatRecovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := &pcscdtest.Card{}
		w := newWorld(t, c, pcscd.Options{})
		c.ATR = atrT1
		_, generation := w.States()
		a := w.client()
		a.open(wire.Shared)
		require.Equal(t, wire.State(0x34), w.state(alpha).State)
		<-w.Changed(generation)
	})
}

// TestProtocolChoice tries what cards offer against what clients want and what the reader can do.
func TestProtocolChoice(t *testing.T) {
	const (
		no606 = ifdhandler.ErrorNotSupported
		no607 = ifdhandler.ProtocolNotSupported
		no614 = ifdhandler.NotSupported
		no605 = ifdhandler.ErrorPTSFailure
		no617 = ifdhandler.NoSuchDevice
	)
	for _, tt := range []struct {
		name      string
		atr       string
		preferred wire.Protocol
		refuses   map[ifdhandler.Protocol]ifdhandler.Code
		active    wire.Protocol
		code      wire.Code
	}{
		{name: "T=0 only", atr: "3b00", preferred: 3, active: 1},
		{name: "T=0 only, T=1 wanted", atr: "3b00", preferred: 2, code: wire.ErrProtoMismatch},
		{name: "T=1 only", atr: "3b8001", preferred: 3, active: 2},
		{name: "T=1 only, T=0 wanted", atr: "3b8001", preferred: 1, code: wire.ErrProtoMismatch},
		{name: "bytes behind the end", atr: "3b800001", preferred: 3, active: 1},
		{name: "T=0 first, then T=1", atr: "3b808001", preferred: 3, active: 2},
		{name: "T=0 first, then T=1, T=0 wanted", atr: "3b808001", preferred: 1, active: 1},
		{name: "any in the old number", atr: "3b808001", preferred: 0x1000, active: 2},
		{name: "contactless", atr: "3b8f8001804f0ca000000306030001000000006a", preferred: 3, active: 2},
		{name: "specific mode T=0", atr: "3b801000", preferred: 3, active: 1},
		{name: "specific mode T=0, T=1 wanted", atr: "3b801000", preferred: 2, code: wire.ErrProtoMismatch},
		{name: "specific mode T=1 of a card with both", atr: "3b80900101", preferred: 3, active: 2},
		{name: "specific mode T=1 of a card with both, T=0 wanted", atr: "3b80900101", preferred: 1, code: wire.ErrProtoMismatch},
		{name: "specific mode of no known protocol", atr: "3b80900501", preferred: 3, code: wire.ErrProtoMismatch},
		{name: "T=15 first", atr: "3b8f", preferred: 3, code: wire.ErrProtoMismatch},
		{name: "T=2", atr: "3b8002", preferred: 3, code: wire.ErrProtoMismatch},
		{name: "not an ATR", atr: "0102", preferred: 3, code: wire.ErrProtoMismatch},
		{name: "cut short", atr: "3bff", preferred: 3, code: wire.ErrProtoMismatch},
		{name: "raw", atr: "3b00", preferred: 4, active: 4},
		{name: "raw wins", atr: "3b00", preferred: 7, active: 4},
		{name: "raw, not an ATR", atr: "0102", preferred: 4, active: 4},

		{name: "reader without T=1", atr: "3b808001", preferred: 3, refuses: map[ifdhandler.Protocol]ifdhandler.Code{2: no607}, active: 1},
		{name: "reader without T=1, 606", atr: "3b808001", preferred: 3, refuses: map[ifdhandler.Protocol]ifdhandler.Code{2: no606}, active: 1},
		{name: "reader without T=1, T=1 wanted", atr: "3b808001", preferred: 2, refuses: map[ifdhandler.Protocol]ifdhandler.Code{2: no607}, code: wire.ErrProtoMismatch},
		{name: "reader without both", atr: "3b808001", preferred: 3, refuses: map[ifdhandler.Protocol]ifdhandler.Code{1: no607, 2: no607}, code: wire.ErrUnresponsiveCard},
		{name: "reader that can't choose", atr: "3b808001", preferred: 3, refuses: map[ifdhandler.Protocol]ifdhandler.Code{2: no614}, active: 1},
		{name: "PPS fails", atr: "3b808001", preferred: 3, refuses: map[ifdhandler.Protocol]ifdhandler.Code{2: no605}, code: wire.ErrUnresponsiveCard},
		{name: "reader goes", atr: "3b808001", preferred: 3, refuses: map[ifdhandler.Protocol]ifdhandler.Code{2: no617}, code: wire.ErrReaderUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, &pcscdtest.Card{ATR: atrBytes(tt.atr)}, pcscd.Options{})
				w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
					if code := tt.refuses[c.Protocol]; c.Function == "SetProtocolParameters" && code != 0 {
						return &ifdhandler.Error{Function: c.Function, Lun: c.Lun, Code: code}
					}
					return nil
				})
				c := w.client()
				_, active, code := c.Connect(t.Context(), c.hContext, alpha, wire.Shared, tt.preferred)
				require.Equal(t, tt.code, code, "%v", code)
				require.Equal(t, tt.active, active)
				if code != wire.ErrReaderUnavailable {
					require.Equal(t, tt.active, w.state(alpha).Protocol)
				}
			})
		})
	}
}

func TestRawIsForEverybody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		ha := a.open(wire.Shared)
		_, active, code := b.Connect(t.Context(), b.hContext, alpha, wire.Direct, wire.ProtocolRaw)
		require.Equal(t, wire.Success, code)
		require.Equal(t, wire.ProtocolRaw, active)
		require.Equal(t, wire.ErrProtoMismatch, a.transmit(ha, wire.ProtocolT1))
		require.Equal(t, wire.Success, a.transmit(ha, wire.ProtocolAnyOld))
		_, _, code = b.Connect(t.Context(), b.hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.ErrProtoMismatch, code)
		_, code = a.Reconnect(t.Context(), ha, wire.Shared, wire.ProtocolAny, wire.ResetCard)
		require.Equal(t, wire.Success, code)
		require.Equal(t, wire.Success, a.transmit(ha, wire.ProtocolT1))
	})
}

// TestOldAnyStandsForBothProtocolsWhereThereIsAChoice: the bit is none of those that a card can be set to.
func TestOldAnyStandsForBothProtocolsWhereThereIsAChoice(t *testing.T) {
	const old = wire.ProtocolAnyOld
	tests := []struct {
		name      string
		set       wire.Protocol // by another client before
		preferred wire.Protocol
		code      wire.Code
		active    wire.Protocol
	}{
		{name: "none is set", preferred: old, active: 2},
		{name: "none is set, T=0 beside it", preferred: old | 1, active: 2},
		{name: "T=1 is set", set: 2, preferred: old, code: wire.ErrProtoMismatch, active: 2},
		{name: "T=0 is set", set: 1, preferred: old, code: wire.ErrProtoMismatch, active: 1},
		{name: "T=1 is set, T=0 beside it", set: 2, preferred: old | 1, code: wire.ErrProtoMismatch, active: 2},
		{name: "T=1 is set, and beside it", set: 2, preferred: old | 2, active: 2},
		{name: "raw is set", set: 4, preferred: old, code: wire.ErrProtoMismatch, active: 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, card(), pcscd.Options{})
				a, b := w.client(), w.client()
				if tt.set != 0 {
					_, _, code := b.Connect(t.Context(), b.hContext, alpha, wire.Shared, tt.set)
					require.Equal(t, wire.Success, code)
				}
				hDirect := a.open(wire.Direct)
				_, active, code := a.Connect(t.Context(), a.hContext, alpha, wire.Shared, tt.preferred)
				require.Equal(t, tt.code, code)
				require.Equal(t, tt.active, active)
				active, code = a.Reconnect(t.Context(), hDirect, wire.Shared, tt.preferred, wire.LeaveCard)
				want := wire.Success
				if w.state(alpha).Protocol&tt.preferred == 0 {
					want = wire.ErrProtoMismatch
				}
				require.Equal(t, want, code, "Reconnect")
				require.Equal(t, tt.active, active)
			})
		})
	}
}

// TestWhatIsSentByWhichProtocol: the driver hears of a command whose protocol is the card's, raw or the old bit for any. None
// is the card's as long as none is set.
func TestWhatIsSentByWhichProtocol(t *testing.T) {
	const old = wire.ProtocolAnyOld
	tests := []struct {
		name   string
		set    wire.Protocol // of the card
		send   wire.Protocol // of the client's PCI
		code   wire.Code
		driver ifdhandler.Protocol
	}{
		{name: "none, none is set", set: 0, send: 0, driver: 0},
		{name: "old any, none is set", set: 0, send: old, driver: 0},
		{name: "raw, none is set", set: 0, send: 4, driver: 4},
		{name: "T=0, none is set", set: 0, send: 1, code: wire.ErrProtoMismatch},
		{name: "T=1, none is set", set: 0, send: 2, code: wire.ErrProtoMismatch},
		{name: "none, T=1 is set", set: 2, send: 0, code: wire.ErrProtoMismatch},
		{name: "T=1, T=1 is set", set: 2, send: 2, driver: 2},
		{name: "T=0, T=1 is set", set: 2, send: 1, code: wire.ErrProtoMismatch},
		{name: "old any, T=1 is set", set: 2, send: old, driver: 2},
		{name: "old any, T=0 is set", set: 1, send: old, driver: 1},
		{name: "raw, T=1 is set", set: 2, send: 4, driver: 4},
		{name: "old any, raw is set", set: 4, send: old, driver: 4},
		{name: "a bit that nobody knows", set: 2, send: 0x20, code: wire.ErrProtoMismatch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, card(), pcscd.Options{})
				c := w.client()
				mode := wire.Shared
				if tt.set == 0 {
					mode = wire.Direct
				}
				hCard, _, code := c.Connect(t.Context(), c.hContext, alpha, mode, tt.set)
				require.Equal(t, wire.Success, code)
				require.Equal(t, tt.code, c.transmit(hCard, tt.send))
				var sent []ifdhandler.Protocol
				for _, call := range w.driver.Calls() {
					if call.Function == "TransmitToICC" {
						sent = append(sent, call.Protocol)
					}
				}
				if tt.code != wire.Success {
					require.Empty(t, sent)
					return
				}
				require.Equal(t, []ifdhandler.Protocol{tt.driver}, sent)
			})
		})
	}
}

func TestDirect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil, pcscd.Options{})
		c := w.client()
		hCard, active, code := c.Connect(t.Context(), c.hContext, alpha, wire.Direct, 0)
		require.Equal(t, wire.Success, code, "needs neither card nor protocol")
		require.Zero(t, active)
		require.EqualValues(t, 1, w.state(alpha).Sharing, "counts as a sharer")
		out, code := c.Control(t.Context(), hCard, ifdhandler.ControlEscape, []byte{7})
		require.Equal(t, wire.Success, code)
		require.Equal(t, []byte{7}, out)
		require.Equal(t, wire.ErrNoSmartcard, c.transmit(hCard, wire.ProtocolT1))
		require.Equal(t, wire.ErrNoSmartcard, c.transmit(hCard, wire.ProtocolRaw), "the driver's word")
		w.driver.Insert(alphaLun, card())
		w.untilState(alpha, 0x34)
		require.Equal(t, wire.ErrProtoMismatch, c.transmit(hCard, wire.ProtocolT1))
		require.Equal(t, wire.Success, c.transmit(hCard, wire.ProtocolRaw))
	})
}

func TestReadersStartSideBySide(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := pcscdtest.NewDriver()
		d.Hook(func(_ context.Context, c pcscdtest.Call) error {
			if c.Function == "PowerICC" {
				time.Sleep(300 * time.Millisecond)
			}
			return nil
		})
		m := pcscd.NewManager(pcscd.Options{Driver: d})
		start := time.Now()
		for i := range uint16(16) {
			lun := ifdhandler.NewLun(i, 0)
			d.Open(lun, card())
			require.NoError(t, m.AddReader(pcscd.Reader{Name: fmt.Sprintf("Reader %02X 00", i), Lun: lun}))
		}
		states, _ := m.States()
		require.Len(t, states, 16)
		require.False(t, states[7].Known, "a status that is not known yet is not told")
		require.NoError(t, m.Ready(t.Context()))
		require.Equal(t, 300*time.Millisecond, time.Since(start))
		require.NoError(t, m.Close(t.Context()))
	})
}

// TestCardThatLostItsPowerCountsAsReset has the driver say that the card has no power, as after a reset of the reader.
func TestCardThatLostItsPowerCountsAsReset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		one, other := w.client(), w.client()
		h, hOther := one.open(wire.Shared), other.open(wire.Shared)
		lost, ups := true, 0
		w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
			switch {
			case c.Function == "PowerICC":
				lost = false
				ups++
			case c.Function == "TransmitToICC" && lost:
				return &ifdhandler.Error{Function: c.Function, Code: ifdhandler.CommunicationError, Err: ifdhandler.ErrCardReset}
			}
			return nil
		})
		before := w.state(alpha)
		require.Equal(t, wire.ErrResetCard, one.transmit(h, wire.ProtocolT1))
		require.Equal(t, wire.ErrResetCard, one.transmit(h, wire.ProtocolT1), "until it says that it knows")
		require.Equal(t, wire.ErrResetCard, other.transmit(hOther, wire.ProtocolT1))
		require.Equal(t, before, w.state(alpha), "the card is still there")
		require.Zero(t, ups)
		for _, c := range []struct {
			*client
			h int32
		}{{one, h}, {other, hOther}} {
			_, code := c.Reconnect(t.Context(), c.h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
			require.Equal(t, wire.Success, code)
			require.Equal(t, wire.Success, c.transmit(c.h, wire.ProtocolT1))
		}
		require.Equal(t, 1, ups)
	})
}

// TestConnectToACardThatLostItsPower has nobody notice it before.
func TestConnectToACardThatLostItsPower(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		c := w.client()
		lost := true
		w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
			switch {
			case c.Function == "PowerICC":
				lost = false
			case c.Function == "SetProtocolParameters" && lost:
				return &ifdhandler.Error{Function: c.Function, Code: ifdhandler.CommunicationError, Err: ifdhandler.ErrCardReset}
			}
			return nil
		})
		h := c.open(wire.Shared)
		require.False(t, lost)
		require.Equal(t, wire.Success, c.transmit(h, wire.ProtocolT1))
	})
}
