package host_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// unread is a device as a USB/IP server tells of it that does not give it.
func unread(info usbtransport.DeviceInfo, why error, classes ...uint8) usbtransport.DeviceInfo {
	info.Descriptors = nil
	info.Unreadable = &usbtransport.Error{Op: "read descriptors", Device: info.PortPath, Kind: why}
	info.Classes = classes
	return info
}

// watchScripted has a Monitor watch a bus with a reader, which it is told of as the test says.
func watchScripted(t *testing.T, c virtual.Config) (*host.Monitor, scripted, usbtransport.DeviceInfo) {
	t.Helper()
	bus := scripted{Bus: virtual.NewBus(), events: make(chan usbtransport.Event)}
	t.Cleanup(func() { require.NoError(t, bus.Bus.Close()) })
	device, err := virtual.NewReader(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, device.Close()) })
	info, err := bus.Plug(device)
	require.NoError(t, err)
	m, err := host.NewMonitor(t.Context(), bus, host.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, bus, info
}

func TestAReaderThatCannotBeReadIsUnusableUntilItCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, bus, info := watchScripted(t, virtual.Config{})

		busy := unread(info, usbtransport.ErrBusy, 3, ccid.InterfaceClass)
		bus.events <- usbtransport.Event{Kind: usbtransport.Arrived, Device: busy}
		e := nextEvent(t, m)
		require.Equal(t, host.ReaderUnusable, e.Kind)
		require.ErrorIs(t, e.Err, usbtransport.ErrBusy)
		require.Equal(t, info.String(), e.Function.Device.String())

		// A rescan that finds nothing new repeats nothing, another reason is told.
		bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: busy}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := m.Next(ctx)
		require.ErrorIs(t, err, usbtransport.ErrTimedOut)
		bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: unread(info, usbtransport.ErrIO, 3, ccid.InterfaceClass)}
		e = nextEvent(t, m)
		require.Equal(t, host.ReaderUnusable, e.Kind)
		require.ErrorIs(t, e.Err, usbtransport.ErrIO)

		bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: info}
		e = nextEvent(t, m)
		require.Equal(t, host.ReaderArrived, e.Kind, "%v", e.Err)
		_, err = e.Reader.Slot(0).Status(t.Context())
		require.NoError(t, err)
	})
}

// TestADeviceThatMayBeAReaderIsTakenWhenItCanBeRead has one of which nobody knows what it is before that.
func TestADeviceThatMayBeAReaderIsTakenWhenItCanBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, bus, info := watchScripted(t, virtual.Config{})
		bus.events <- usbtransport.Event{Kind: usbtransport.Arrived, Device: unread(info, usbtransport.ErrBusy, ccid.VendorInterfaceClass)}
		bus.events <- usbtransport.Event{Kind: usbtransport.Changed, Device: info}
		require.Equal(t, host.ReaderArrived, nextEvent(t, m).Kind, "it was not called an unusable reader before")
	})
}

func TestFunctionsOfADeviceThatCannotBeRead(t *testing.T) {
	why := errors.New("no access")
	for _, test := range []struct {
		name    string
		classes []uint8
		number  int // of the function's interface, -1 is none
	}{
		{"nothing is known", nil, -1},
		{"of other classes", []uint8{3, ccid.VendorInterfaceClass}, -1},
		{"a reader", []uint8{ccid.InterfaceClass}, 0},
		{"a keyboard with a reader", []uint8{3, ccid.InterfaceClass}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := host.Functions(usbtransport.DeviceInfo{Unreadable: why, Classes: test.classes})
			require.ErrorIs(t, err, why)
			if test.number < 0 {
				require.Empty(t, list)
				return
			}
			require.Len(t, list, 1)
			require.ErrorIs(t, list[0].Unusable, why)
			require.Equal(t, uint8(test.number), list[0].Interface.Number)
		})
	}
}
