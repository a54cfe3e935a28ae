//go:build libusb

package libusb

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/gousb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/usbtransport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHandleOfGousb fails when an update of gousb moves the field that handle reads.
func TestHandleOfGousb(t *testing.T) {
	_, err := handle(&gousb.Device{})
	require.ErrorIs(t, err, errNoHandle)
	field, ok := reflect.TypeFor[gousb.Device]().FieldByName("handle")
	require.True(t, ok)
	require.Equal(t, "*gousb.libusbDevHandle", field.Type.String())
}

// TestWithoutDevices runs on any machine; where libusb can't be initialised at all, it must say so without a panic.
func TestWithoutDevices(t *testing.T) {
	b, err := New(Options{})
	if err != nil {
		require.ErrorIs(t, err, usbtransport.ErrNotSupported)
		return
	}
	_, err = b.Devices(t.Context())
	assert.NoError(t, err)
	_, err = newScanner(b).devices(t.Context())
	assert.NoError(t, err)
	gone := usbtransport.DeviceInfo{Key: "1-1/3/17", PortPath: "1-1", Bus: 1, Address: 3}
	_, err = b.Open(t.Context(), gone, 0)
	assert.ErrorIs(t, err, usbtransport.ErrRemoved)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	_, err = b.join()
	require.ErrorIs(t, err, usbtransport.ErrClosed)
}

func TestNarrowedHasTheInterfaceAtItsNumber(t *testing.T) {
	full := gousb.ConfigDesc{Number: 1, Interfaces: []gousb.InterfaceDesc{
		{Number: 5, AltSettings: []gousb.InterfaceSetting{{Number: 5, Alternate: 1}, {Number: 5, Alternate: 0}}},
		{Number: 2, AltSettings: []gousb.InterfaceSetting{{Number: 2}}},
	}}
	for _, number := range []int{2, 5} {
		got := narrowed(full, number)
		require.Len(t, got.Interfaces, number+1)
		require.Equal(t, number, got.Interfaces[number].Number)
		require.Equal(t, []gousb.InterfaceSetting{{Number: number}}, got.Interfaces[number].AltSettings)
	}
	require.Equal(t, -1, narrowed(full, 3).Interfaces[3].Number, "an interface that is not there")
	require.Len(t, full.Interfaces, 2, "the original stays")
}

func TestKindOf(t *testing.T) {
	for err, kind := range map[error]error{
		gousb.ErrorNoDevice: usbtransport.ErrRemoved, gousb.TransferNoDevice: usbtransport.ErrRemoved,
		gousb.TransferStall: usbtransport.ErrStalled, gousb.ErrorPipe: usbtransport.ErrStalled,
		gousb.TransferOverflow: usbtransport.ErrOverflow, gousb.TransferError: usbtransport.ErrIO,
		gousb.ErrorBusy: usbtransport.ErrBusy, gousb.ErrorAccess: usbtransport.ErrPermission,
		errors.New("anything"): usbtransport.ErrIO,
	} {
		assert.Equal(t, kind, kindOf(err), "%v", err)
	}
}

func TestScanWatcherReportsRemovalsBeforeArrivals(t *testing.T) {
	a := usbtransport.DeviceInfo{Key: "1-1/2/1", PortPath: "1-1"}
	b := usbtransport.DeviceInfo{Key: "1-1/3/2", PortPath: "1-1"}
	readable := b
	readable.Descriptors = []byte{18}
	lists := [][]usbtransport.DeviceInfo{{a}, {b}, {b}, {readable}, nil}
	w := &scanWatcher{closed: make(chan struct{}), turn: make(chan struct{}, 1)}
	w.list = func(context.Context) ([]usbtransport.DeviceInfo, error) {
		next := lists[0]
		lists = lists[1:]
		return next, nil
	}
	for len(lists) > 0 {
		require.NoError(t, w.scan(t.Context()))
	}
	for _, want := range []usbtransport.Event{
		{Kind: usbtransport.Arrived, Device: a},
		{Kind: usbtransport.Removed, Device: a},
		{Kind: usbtransport.Arrived, Device: b},
		{Kind: usbtransport.Changed, Device: readable},
		{Kind: usbtransport.Removed, Device: readable},
	} {
		event, err := w.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, event)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := w.Next(ctx)
	require.ErrorIs(t, err, usbtransport.ErrTimedOut)
	require.NoError(t, w.Close())
	_, err = w.Next(t.Context())
	require.ErrorIs(t, err, usbtransport.ErrClosed)
}
