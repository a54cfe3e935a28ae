package pcscd_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
	"github.com/goccid/goccid/virtual"
	iso7816 "github.com/goccid/goccid/virtual/card"
)

// stack is a manager over the driver itself, with a virtual reader of two slots.
type stack struct {
	*pcscd.Manager
	bus     *virtual.Bus
	device  *virtual.Reader
	handler *ifdhandler.Handler
	log     *logtest.Hook
}

func newStack(t *testing.T) *stack {
	t.Helper()
	device, err := virtual.NewReader(virtual.Config{Slots: 2, Cards: []iso7816.Card{iso7816.NewT1(), nil}})
	require.NoError(t, err)
	s := &stack{bus: virtual.NewBus(), device: device}
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	s.log = hook
	s.handler = ifdhandler.New(ifdhandler.Options{Backend: s.bus, Reader: host.Options{Logger: logger}})
	s.Manager = pcscd.NewManager(pcscd.Options{Driver: s.handler, Logger: logger})
	t.Cleanup(func() {
		require.NoError(t, s.Close(context.Background()))
		require.NoError(t, s.bus.Close())
		require.NoError(t, device.Close())
		require.Empty(t, device.Violations())
	})
	s.plug(t)
	return s
}

// plug plugs the reader in and does what a daemon's hot plug does.
func (s *stack) plug(t *testing.T) {
	t.Helper()
	_, err := s.bus.Plug(s.device)
	require.NoError(t, err)
	for i, name := range []string{alpha, "Alpha 00 01"} {
		lun := alphaLun + ifdhandler.Lun(i)
		require.NoError(t, s.handler.CreateChannel(t.Context(), lun))
		require.NoError(t, s.AddReader(pcscd.Reader{Name: name, Lun: lun}))
	}
	require.NoError(t, s.Ready(t.Context()))
}

func (s *stack) until(t *testing.T, holds func([]wire.ReaderState) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		states, g := s.States()
		if holds(states) {
			return
		}
		select {
		case <-s.Changed(g):
		case <-deadline:
			require.Fail(t, "state did not come", "%+v", states)
		}
	}
}

func TestOverTheDriver(t *testing.T) {
	s := newStack(t)
	ctx := t.Context()
	states, _ := s.States()
	require.Equal(t, wire.State(0x34), states[0].State)
	require.Equal(t, wire.StateAbsent, states[1].State)

	a, b := s.NewSession(pcscd.Client{PID: 1}), s.NewSession(pcscd.Client{PID: 2})
	defer a.Close(ctx)
	defer b.Close(ctx)
	ca, _ := a.Establish(wire.ScopeSystem)
	cb, _ := b.Establish(wire.ScopeSystem)
	ha, active, code := a.Connect(ctx, ca, alpha, wire.Shared, wire.ProtocolAny)
	require.Equal(t, wire.Success, code)
	require.Equal(t, wire.ProtocolT1, active)
	hb, _, code := b.Connect(ctx, cb, alpha, wire.Shared, wire.ProtocolAny)
	require.Equal(t, wire.Success, code)

	selectMF := []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00}
	response, code := a.Transmit(ctx, ha, active, selectMF)
	require.Equal(t, wire.Success, code)
	require.Equal(t, []byte{0x90, 0x00}, response)
	features, code := a.Control(ctx, ha, ifdhandler.ControlGetFeatureRequest, nil)
	require.Equal(t, wire.Success, code)
	require.NotEmpty(t, features)
	name, code := a.GetAttrib(ctx, ha, wire.AttrDeviceFriendlyName, 264)
	require.Equal(t, wire.Success, code)
	require.Equal(t, alpha+"\x00", string(name))

	require.Equal(t, wire.Success, a.Begin(ctx, ha))
	require.Equal(t, wire.Success, a.End(ctx, ha, wire.ResetCard))
	require.Equal(t, wire.ErrResetCard, b.Status(hb))
	for _, d := range []wire.Disposition{wire.ResetCard, wire.UnpowerCard, wire.LeaveCard} {
		active, code = b.Reconnect(ctx, hb, wire.Shared, wire.ProtocolAny, d)
		require.Equal(t, wire.Success, code)
		_, code = b.Transmit(ctx, hb, active, selectMF)
		require.Equal(t, wire.Success, code)
	}

	mine, err := s.device.SetCard(0, nil)
	require.NoError(t, err)
	require.NoError(t, mine.Close())
	s.until(t, func(states []wire.ReaderState) bool { return states[0].State == wire.StateAbsent })
	require.Equal(t, wire.ErrRemovedCard, b.Status(hb))
	_, err = s.device.SetCard(0, iso7816.NewT0())
	require.NoError(t, err)
	s.until(t, func(states []wire.ReaderState) bool { return states[0].State == 0x34 && states[0].EventCounter == 2 })
	active, code = b.Reconnect(ctx, hb, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
	require.Equal(t, wire.Success, code)
	require.Equal(t, wire.ProtocolT0, active)
}

// TestUnplugOverTheDriver pulls the reader out again and again, in the middle of a client's commands, by either way of
// learning it: the manager finds out by itself, or hot plug is told.
func TestUnplugOverTheDriver(t *testing.T) {
	s := newStack(t)
	ctx := t.Context()
	session := s.NewSession(pcscd.Client{PID: 1})
	defer session.Close(ctx)
	hContext, _ := session.Establish(wire.ScopeSystem)
	for round := range 10 {
		h, active, code := session.Connect(ctx, hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.Success, code)
		require.Equal(t, wire.Success, session.Begin(ctx, h))
		s.log.Reset()
		ended := make(chan wire.Code, 1)
		go func() {
			for {
				if _, code := session.Transmit(ctx, h, active, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00}); code != wire.Success {
					ended <- code
					return
				}
			}
		}()
		time.Sleep(time.Millisecond) // somewhere in the middle
		s.bus.Unplug(s.device)
		if round%2 == 0 {
			require.NoError(t, s.RemoveReader(ctx, alphaLun))
		}
		code = <-ended
		require.Contains(t, []wire.Code{wire.ErrReaderUnavailable, wire.ErrInvalidValue}, code)
		s.until(t, func(states []wire.ReaderState) bool { return len(states) == 0 })
		require.NoError(t, s.RemoveReader(ctx, alphaLun))
		require.Equal(t, wire.Success, session.Disconnect(ctx, h, wire.ResetCard))
		loud := 0
		for _, e := range s.log.AllEntries() {
			if e.Level <= logrus.InfoLevel {
				require.Equal(t, "reader removed", e.Message)
				loud++
			}
		}
		require.Equal(t, 1, loud, "one line for a removal")
		s.plug(t)
	}
	require.EqualValues(t, 1+1+20, s.ReaderEvents())
}

func TestStopTellsClientsThatWaitForATransaction(t *testing.T) {
	s := newStack(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	result := make(chan error, 1)
	server := pcscd.NewServer(pcscd.ServerOptions{Manager: s.Manager})
	go func() { result <- server.Serve(ctx, l) }()

	client := func() *pcsctest.Client {
		c, err := pcsctest.Open(path, wire.Minor6)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	card := func(c *pcsctest.Client) int32 {
		m, err := c.Connect(alpha, wire.Shared, wire.ProtocolAny)
		require.NoError(t, err)
		return m.Card
	}
	beginner, connecter, resetter := client(), client(), client()
	hBegin, hReset := card(beginner), card(resetter)
	// The holder is not one of the server's: its end would reset the card, and that would be the answer of some.
	holder := s.NewSession(pcscd.Client{})
	defer holder.Close(t.Context())
	hContext, _ := holder.Establish(wire.ScopeSystem)
	held, _, code := holder.Connect(t.Context(), hContext, alpha, wire.Shared, wire.ProtocolAny)
	require.Equal(t, wire.Success, code)
	require.Equal(t, wire.Success, holder.Begin(t.Context(), held))
	answers := make(chan error, 3)
	go func() { answers <- beginner.Begin(hBegin) }()
	go func() { answers <- resetter.Disconnect(hReset, wire.ResetCard) }()
	go func() {
		_, err := connecter.Connect(alpha, wire.Shared, wire.ProtocolAny)
		answers <- err
	}()
	require.Eventually(t, func() bool { return len(s.Report().Readers[0].Queue) == 3 }, 30*time.Second, time.Millisecond)
	stop()
	for range 3 {
		require.ErrorIs(t, <-answers, wire.ErrServiceStopped)
	}
	require.NoError(t, <-result)
}
