package host

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// TestReaderThatWentMeanwhileIsWhatAnOperationTells has an operation that meets what the removal did to the card, as one does that
// waited for another one to end.
func TestReaderThatWentMeanwhileIsWhatAnOperationTells(t *testing.T) {
	device, err := virtual.NewReader(virtual.Config{})
	require.NoError(t, err)
	bus := virtual.NewBus()
	_, err = bus.Plug(device)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, bus.Close())
		require.NoError(t, device.Close())
	}()
	r, err := OpenFirst(t.Context(), bus, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()

	err = r.Slot(0).do(t.Context(), "transmit", func(context.Context) error {
		r.SetRemoved()
		return ErrNotPowered
	})
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	require.NotErrorIs(t, err, ErrNotPowered)
}

// TestRemovalIsToldWhileItGoesOn has somebody ask between the two steps of a removal: it is noted, but the reader's life has not
// yet ended.
func TestRemovalIsToldWhileItGoesOn(t *testing.T) {
	d := NewDevice(virtual.NewBus(), usbtransport.DeviceInfo{})
	r := &Reader{device: d, life: context.Background()}
	require.NoError(t, r.gone())
	d.SetRemoved()
	require.ErrorIs(t, r.gone(), usbtransport.ErrRemoved)
}
