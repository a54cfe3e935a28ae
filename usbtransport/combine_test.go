package usbtransport_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/transporttest"
	"github.com/goccid/goccid/virtual"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deaf is a bus whose watchers never tell of anything: a container without events from the kernel.
type deaf struct{ *virtual.Bus }

func (d deaf) Watch(ctx context.Context) (usbtransport.Watcher, error) {
	return virtual.NewBus().Watch(ctx)
}

// failing is a bus whose watchers end at once.
type failing struct{ *virtual.Bus }

type failedWatcher struct{}

func (failedWatcher) Close() error { return nil }
func (failedWatcher) Next(context.Context) (usbtransport.Event, error) {
	return usbtransport.Event{}, &usbtransport.Error{Op: "watch", Kind: usbtransport.ErrIO}
}

func (failing) Watch(context.Context) (usbtransport.Watcher, error) { return failedWatcher{}, nil }

// plugged makes a bus with one reader.
func plugged(t testing.TB) (*virtual.Bus, *virtual.Reader) {
	t.Helper()
	bus := virtual.NewBus()
	reader, err := virtual.NewReader(virtual.Config{})
	require.NoError(t, err)
	_, err = bus.Plug(reader)
	require.NoError(t, err)
	t.Cleanup(func() { _ = bus.Close() })
	return bus, reader
}

func watch(t testing.TB, b usbtransport.Backend) usbtransport.Watcher {
	t.Helper()
	w, err := b.Watch(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	return w
}

func next(t testing.TB, w usbtransport.Watcher) usbtransport.Event {
	t.Helper()
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	return e
}

func TestCombinedKeepsTheRulesOfUSBTransport(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		first, _ := plugged(t)
		second, _ := plugged(t)
		device := virtual.NewLoopback()
		_, err := second.Plug(device)
		require.NoError(t, err)
		id := device.Describe()
		return transporttest.Fixture{
			Backend:        usbtransport.Combine(first, second),
			Match:          func(d usbtransport.DeviceInfo) bool { return d.IDVendor == id.IDVendor && d.IDProduct == id.IDProduct },
			Loopback:       true,
			Unplug:         func() error { second.Unplug(device); return nil },
			Plug:           func() error { _, err := second.Plug(device); return err },
			Stall:          func(endpoint uint8) error { device.Stall(endpoint); return nil },
			QueueInterrupt: func(data []byte) error { device.Interrupt(data); return nil },
		}
	})
}

func TestCombinedKeepsBackendsApart(t *testing.T) {
	first, _ := plugged(t)
	second, _ := plugged(t)
	c := usbtransport.Combine(first, second)
	assert.Equal(t, "virtual+virtual", c.Name())
	devices, err := c.Devices(t.Context())
	require.NoError(t, err)
	require.Len(t, devices, 2)
	assert.NotEqual(t, devices[0].Key, devices[1].Key, "both backends have a device with the same Key")
	for _, d := range devices {
		i, err := c.Open(t.Context(), d, 0)
		require.NoError(t, err)
		assert.Equal(t, d.Key, i.Device().Key)
		defer i.Close()
	}
	for _, key := range []string{"", "virtual-1", "2:virtual-1", "-1:virtual-1", "1:virtual-9"} {
		_, err := c.Open(t.Context(), usbtransport.DeviceInfo{Key: key}, 0)
		assert.ErrorIs(t, err, usbtransport.ErrRemoved, key)
	}
}

func TestCombinedOfNothingHasNoDevices(t *testing.T) {
	c := usbtransport.Combine()
	devices, err := c.Devices(t.Context())
	require.NoError(t, err)
	assert.Empty(t, devices)
	w := watch(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = w.Next(ctx)
	assert.ErrorIs(t, err, usbtransport.ErrCancelled)
}

func TestRescanFindsWhatTheWatchMissed(t *testing.T) {
	bus, reader := plugged(t)
	c := usbtransport.Combine(deaf{bus})
	w := watch(t, c)
	require.NoError(t, c.Rescan(t.Context()))
	arrived := next(t, w)
	assert.Equal(t, usbtransport.Arrived, arrived.Kind)

	require.NoError(t, c.Rescan(t.Context()))
	again := next(t, w)
	assert.Equal(t, usbtransport.Changed, again.Kind, "it is there: worth another try, not another arrival")
	assert.Equal(t, arrived.Device.Key, again.Device.Key)

	bus.Unplug(reader)
	require.NoError(t, c.Rescan(t.Context()))
	removed := next(t, w)
	assert.Equal(t, usbtransport.Removed, removed.Kind)
	assert.Equal(t, arrived.Device.Key, removed.Device.Key)
}

func TestRescanRepeatsNothingThatTheWatchTells(t *testing.T) {
	bus, reader := plugged(t)
	bus2 := virtual.NewBus()
	c := usbtransport.Combine(bus, bus2)
	w := watch(t, c)
	// Nobody has read the arrival yet: the rescan's and the watch's are two of one device.
	require.NoError(t, c.Rescan(t.Context()))
	assert.Equal(t, usbtransport.Arrived, next(t, w).Kind)
	assert.Equal(t, usbtransport.Changed, next(t, w).Kind)

	bus.Unplug(reader)
	require.NoError(t, c.Rescan(t.Context()))
	assert.Equal(t, usbtransport.Removed, next(t, w).Kind)
	other, err := virtual.NewReader(virtual.Config{})
	require.NoError(t, err)
	_, err = bus2.Plug(other)
	require.NoError(t, err)
	t.Cleanup(func() { _ = bus2.Close() })
	assert.Equal(t, usbtransport.Arrived, next(t, w).Kind, "the second removal is left out")
}

func TestOneBackendWithoutAWatchLeavesTheOthersTheirs(t *testing.T) {
	bus, reader := plugged(t)
	broken, _ := plugged(t)
	w := watch(t, usbtransport.Combine(failing{broken}, bus))
	assert.Equal(t, usbtransport.Arrived, next(t, w).Kind)
	bus.Unplug(reader)
	assert.Equal(t, usbtransport.Removed, next(t, w).Kind)

	w = watch(t, usbtransport.Combine(failing{broken}))
	_, err := w.Next(t.Context())
	assert.ErrorIs(t, err, usbtransport.ErrIO)
}

// flaky is a bus that can't list its devices while down, like a USB/IP server that is switched off.
type flaky struct {
	*virtual.Bus
	down bool
}

func (f *flaky) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	if f.down {
		return nil, &usbtransport.Error{Op: "enumerate", Kind: usbtransport.ErrIO}
	}
	return f.Bus.Devices(ctx)
}

func TestOneBackendThatFailsLeavesTheOthersTheirDevices(t *testing.T) {
	bus, reader := plugged(t)
	far, _ := plugged(t)
	remote := &flaky{Bus: far, down: true}
	c := usbtransport.Combine(remote, deaf{bus})
	devices, err := c.Devices(t.Context())
	require.ErrorIs(t, err, usbtransport.ErrIO)
	require.Len(t, devices, 1)
	assert.Equal(t, "1:", devices[0].Key[:2])

	remote.down = false
	w := watch(t, c)
	require.NoError(t, c.Rescan(t.Context()))
	for range 3 { // one of them is told twice, by the watch and by the rescan
		next(t, w)
	}
	remote.down = true
	bus.Unplug(reader)
	require.ErrorIs(t, c.Rescan(t.Context()), usbtransport.ErrIO)
	removed := next(t, w)
	assert.Equal(t, usbtransport.Removed, removed.Kind)
	assert.Equal(t, devices[0].Key, removed.Device.Key, "what the failed backend has stays")
	require.ErrorIs(t, c.Rescan(t.Context()), usbtransport.ErrIO)
	remote.down = false
	require.NoError(t, c.Rescan(t.Context()))
	changed := next(t, w)
	assert.Equal(t, usbtransport.Changed, changed.Kind)
	assert.Equal(t, "0:", changed.Device.Key[:2])
}

// mute is a bus behind a server that does not answer: its Devices ends with the caller's patience.
type mute struct{ *virtual.Bus }

func (mute) Devices(ctx context.Context) ([]usbtransport.DeviceInfo, error) {
	<-ctx.Done()
	return nil, &usbtransport.Error{Op: "enumerate", Kind: usbtransport.ContextKind(ctx)}
}

func TestBackendsThatDoNotAnswerTakeNoTimeFromTheOthers(t *testing.T) {
	bus, reader := plugged(t)
	silent, _ := plugged(t)
	c := usbtransport.Combine(mute{silent}, deaf{bus}, mute{silent})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	devices, err := c.Devices(ctx)
	require.ErrorIs(t, err, usbtransport.ErrTimedOut)
	require.Len(t, devices, 1)
	assert.Equal(t, "1:", devices[0].Key[:2])

	w := watch(t, c)
	for range 2 { // those of the silent ones, which have a watch
		assert.NotEqual(t, "1:", next(t, w).Device.Key[:2])
	}
	// A rescan tells of what the others have found while it still waits.
	ctx, cancel = context.WithCancel(t.Context())
	rescanned := make(chan error, 1)
	go func() { rescanned <- c.Rescan(ctx) }()
	assert.Equal(t, devices[0].Key, next(t, w).Device.Key)
	cancel()
	require.ErrorIs(t, <-rescanned, usbtransport.ErrCancelled)

	bus.Unplug(reader)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { rescanned <- c.Rescan(ctx) }()
	removed := next(t, w)
	assert.Equal(t, usbtransport.Removed, removed.Kind)
	assert.Equal(t, devices[0].Key, removed.Device.Key)
	cancel()
	require.Error(t, <-rescanned)
}
