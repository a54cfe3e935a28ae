package pcscd_test

import (
	"context"
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

const (
	alpha = "Alpha 00 00"
	beta  = "Beta 01 00"

	alphaLun ifdhandler.Lun = 0x00000000
	betaLun  ifdhandler.Lun = 0x00010000
)

// ATRs by what they offer.
var (
	atrT0   = atrBytes("3b00")
	atrT1   = atrBytes("3b8001" + "81")
	atrBoth = atrBytes("3b80800101")
)

func atrBytes(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// world is a manager over a driver in memory, with the reader alpha.
type world struct {
	*testing.T
	*pcscd.Manager
	driver *pcscdtest.Driver
}

// newWorld makes a world whose reader alpha has this card, or none.
func newWorld(t *testing.T, c *pcscdtest.Card, o pcscd.Options) *world {
	t.Helper()
	w := &world{T: t, driver: pcscdtest.NewDriver()}
	o.Driver = w.driver
	w.Manager = pcscd.NewManager(o)
	w.add(alpha, alphaLun, c)
	t.Cleanup(func() { require.NoError(t, w.Close(context.Background())) })
	return w
}

func (w *world) add(name string, lun ifdhandler.Lun, c *pcscdtest.Card) {
	w.Helper()
	w.driver.Open(lun, c)
	require.NoError(w, w.AddReader(pcscd.Reader{Name: name, Lun: lun}))
	require.NoError(w, w.Ready(context.Background()))
}

// card is a card that can do T=0 and T=1.
func card() *pcscdtest.Card { return &pcscdtest.Card{ATR: atrBoth} }

// state is what clients see of a reader.
func (w *world) state(name string) wire.ReaderState {
	w.Helper()
	states, _ := w.States()
	for _, s := range states {
		if s.Name == name {
			return s
		}
	}
	return wire.ReaderState{}
}

// until waits for a state of a reader.
func (w *world) until(name string, holds func(wire.ReaderState) bool) {
	w.Helper()
	deadline := time.After(30 * time.Second)
	for {
		_, g := w.States()
		changed := w.Changed(g)
		if holds(w.state(name)) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			require.Fail(w, "state did not come", "%+v", w.state(name))
		}
	}
}

func (w *world) untilState(name string, want wire.State) {
	w.Helper()
	w.until(name, func(s wire.ReaderState) bool { return s.Known && s.State == want })
}

// client is a session with a context.
type client struct {
	*pcscd.Session
	w        *world
	hContext uint32
}

func (w *world) client() *client {
	w.Helper()
	s := w.NewSession(pcscd.Client{PID: 1})
	hContext, code := s.Establish(wire.ScopeSystem)
	require.Equal(w, wire.Success, code)
	c := &client{s, w, hContext}
	w.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// open connects to alpha and must succeed.
func (c *client) open(mode wire.ShareMode) int32 {
	c.w.Helper()
	hCard, _, code := c.Connect(context.Background(), c.hContext, alpha, mode, wire.ProtocolAny)
	require.Equal(c.w, wire.Success, code)
	return hCard
}

func (c *client) transmit(hCard int32, p wire.Protocol) wire.Code {
	c.w.Helper()
	answer, code := c.Transmit(context.Background(), hCard, p, []byte{1, 2, 3})
	if code == wire.Success {
		require.Equal(c.w, []byte{1, 2, 3, 0x90, 0x00}, answer)
	}
	return code
}

func TestConnectTransmitDisconnect(t *testing.T) {
	w := newWorld(t, card(), pcscd.Options{})
	require.Equal(t, wire.ReaderState{
		Name: alpha, State: 0x34, ATR: atrBoth, Known: true,
	}, w.state(alpha))
	c := w.client()
	hCard, active, code := c.Connect(t.Context(), c.hContext, alpha, wire.Shared, wire.ProtocolAny)
	require.Equal(t, wire.Success, code)
	require.Equal(t, wire.ProtocolT1, active, "T=1 is tried first")
	require.Positive(t, hCard)
	require.True(t, c.Owns(hCard))
	require.EqualValues(t, 1, w.state(alpha).Sharing)
	require.Equal(t, wire.ProtocolT1, w.state(alpha).Protocol)
	require.Equal(t, wire.Success, c.Begin(t.Context(), hCard))
	require.Equal(t, wire.Success, c.transmit(hCard, wire.ProtocolT1))
	require.Equal(t, wire.ErrProtoMismatch, c.transmit(hCard, wire.ProtocolT0))
	require.Equal(t, wire.Success, c.transmit(hCard, wire.ProtocolAnyOld))
	require.Equal(t, wire.Success, c.transmit(hCard, wire.ProtocolRaw))
	require.Equal(t, wire.Success, c.End(t.Context(), hCard, wire.LeaveCard))
	require.Equal(t, wire.ErrNotTransacted, c.End(t.Context(), hCard, wire.LeaveCard))
	require.Equal(t, wire.Success, c.Status(hCard))
	require.Equal(t, wire.Success, c.Disconnect(t.Context(), hCard, wire.ResetCard))
	require.False(t, c.Owns(hCard))
	require.Zero(t, w.state(alpha).Sharing)
	require.Equal(t, wire.ErrInvalidHandle, c.Status(hCard))
	require.Equal(t, wire.Success, c.Release(t.Context(), c.hContext))
	require.Equal(t, wire.ErrInvalidHandle, c.Release(t.Context(), c.hContext))
}
