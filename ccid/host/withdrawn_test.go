package host_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// scripted is a bus on which the test says what the watcher reports.
type scripted struct {
	*virtual.Bus
	events chan usbtransport.Event
}

func (s scripted) Watch(context.Context) (usbtransport.Watcher, error) { return s, nil }

func (s scripted) Next(ctx context.Context) (usbtransport.Event, error) {
	select {
	case e := <-s.events:
		return e, nil
	case <-ctx.Done():
		return usbtransport.Event{}, &usbtransport.Error{Op: "watch", Kind: usbtransport.ContextKind(ctx)}
	}
}

// Close leaves the bus to the test.
func (s scripted) Close() error { return nil }

// TestMonitorReopensAWithdrawnReader has the kernel take a device's interfaces away and give them back: its transfers
// fail as if it were removed, but it never leaves the list.
func TestMonitorReopensAWithdrawnReader(t *testing.T) {
	m, bus, info := watchScripted(t, virtual.Config{Cards: []card.Card{card.NewT1()}})
	bus.events <- usbtransport.Event{Kind: usbtransport.Arrived, Device: info}
	first := nextEvent(t, m)
	require.Equal(t, host.ReaderArrived, first.Kind)

	first.Reader.SetRemoved()
	e := nextEvent(t, m)
	require.Equal(t, host.ReaderRemoved, e.Kind)
	require.NoError(t, first.Reader.Close()) // waits for the Monitor's own, so that the interface is free
	withdrawn := info
	withdrawn.Descriptors = nil
	for _, d := range []usbtransport.DeviceInfo{withdrawn, info} {
		bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: d}
	}
	again := nextEvent(t, m)
	require.Equal(t, host.ReaderArrived, again.Kind, "%v", again.Err)
	require.NotSame(t, first.Reader, again.Reader)
	require.Equal(t, first.Reader.Name(), again.Reader.Name())
	_, err := again.Reader.Slot(0).Connect(t.Context())
	require.NoError(t, err)
}

// claims is a bus whose interfaces can be withdrawn from whoever has them.
type claims struct {
	scripted
	withdrawn atomic.Int32 // those opened so far
	opened    atomic.Int32
}

type claim struct {
	usbtransport.Interface
	bus    *claims
	number int32
}

func (c *claims) Open(ctx context.Context, info usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	i, err := c.Bus.Open(ctx, info, number)
	if err != nil {
		return nil, err
	}
	return &claim{Interface: i, bus: c, number: c.opened.Add(1)}, nil
}

func (c *claim) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	if c.number <= c.bus.withdrawn.Load() {
		return 0, &usbtransport.Error{Op: "bulk out", Kind: usbtransport.ErrRemoved}
	}
	return c.Interface.BulkOut(ctx, endpoint, data)
}

// TestWithdrawnReaderWithoutNotificationsIsNoticed has nobody use the reader while it is withdrawn and given back.
func TestWithdrawnReaderWithoutNotificationsIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &claims{scripted: scripted{Bus: virtual.NewBus(), events: make(chan usbtransport.Event)}}
		defer func() { require.NoError(t, bus.Bus.Close()) }()
		device, err := virtual.NewReader(virtual.Config{Model: "aktiv-rutoken-ecp", Cards: []card.Card{card.NewT1()}})
		require.NoError(t, err)
		defer func() { require.NoError(t, device.Close()) }()
		info, err := bus.Plug(device)
		require.NoError(t, err)
		m, err := host.NewMonitor(t.Context(), bus, host.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		bus.events <- usbtransport.Event{Kind: usbtransport.Arrived, Device: info}
		first := nextEvent(t, m)
		require.Equal(t, host.ReaderArrived, first.Kind, "%v", first.Err)
		require.Nil(t, first.Reader.Function().Interrupt)

		// Events that change nothing.
		for range 3 {
			bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: info}
		}
		synctest.Wait()
		require.Equal(t, []*host.Reader{first.Reader}, m.Readers())

		bus.withdrawn.Store(bus.opened.Load())
		bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: info}
		e := nextEvent(t, m)
		require.Equal(t, host.ReaderRemoved, e.Kind)
		again := nextEvent(t, m)
		require.Equal(t, host.ReaderArrived, again.Kind, "%v", again.Err)
		require.Equal(t, first.Reader.Name(), again.Reader.Name())
		_, err = again.Reader.Slot(0).Connect(t.Context())
		require.NoError(t, err)

		// A device that lost its configuration is gone at once.
		withdrawn := info
		withdrawn.Descriptors = nil
		bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: withdrawn}
		e = nextEvent(t, m)
		require.Equal(t, host.ReaderRemoved, e.Kind, "%v", e.Err)
	})
}
