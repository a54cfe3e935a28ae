package host_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// plugs is a bus with a Monitor on it, and readers to plug in.
type plugs struct {
	bus     *virtual.Bus
	monitor *host.Monitor
	log     *logtest.Hook
}

func newPlugs(t *testing.T, wrap func(*virtual.Bus) usbtransport.Backend) *plugs {
	t.Helper()
	logger, hook := logtest.NewNullLogger()
	p := &plugs{bus: virtual.NewBus(), log: hook}
	var backend usbtransport.Backend = p.bus
	if wrap != nil {
		backend = wrap(p.bus)
	}
	var err error
	p.monitor, err = host.NewMonitor(t.Context(), backend, host.Options{Logger: logger})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.monitor.Close())
		require.NoError(t, p.bus.Close())
	})
	return p
}

func newDevice(t *testing.T, product string) *virtual.Reader {
	t.Helper()
	d, err := virtual.NewReader(virtual.Config{Product: product, Cards: []card.Card{card.NewT1()}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func (p *plugs) plugAt(t *testing.T, d *virtual.Reader, port int) {
	t.Helper()
	_, err := p.bus.PlugAt(d, port)
	require.NoError(t, err)
}

// next waits for an event. It leaves nothing to t, whose end may be far.
func (p *plugs) next(t *testing.T) host.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := p.monitor.Next(ctx)
	require.NoError(t, err)
	return e
}

// arrival waits for a reader and uses it.
func (p *plugs) arrival(t *testing.T) *host.Reader {
	t.Helper()
	e := p.next(t)
	require.Equal(t, host.ReaderArrived, e.Kind, "%v", e.Err)
	_, err := e.Reader.Slot(0).Connect(t.Context())
	require.NoError(t, err)
	return e.Reader
}

func TestHotPlugInAnotherPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlugs(t, nil)
		d := newDevice(t, "")
		for port := 1; port < 10; port++ {
			begin := time.Now()
			p.plugAt(t, d, port)
			r := p.arrival(t)
			require.Equal(t, fmt.Sprintf("1-%d", port), r.Device().Info().PortPath)
			require.Equal(t, "Gemalto PC Twin Reader 00 00", r.Name(), "the same name in each port")
			require.Less(t, time.Since(begin), time.Second)
			p.bus.Unplug(d)
			e := p.next(t)
			require.Equal(t, host.ReaderRemoved, e.Kind)
			require.Same(t, r, e.Reader)
			require.Empty(t, p.monitor.Readers())
		}
		require.Len(t, p.log.AllEntries(), 9)
	})
}

func TestTenReadersAtOnce(t *testing.T) {
	const count = 10
	synctest.Test(t, func(t *testing.T) {
		p := newPlugs(t, nil)
		var devices []*virtual.Reader
		for range count {
			devices = append(devices, newDevice(t, ""))
		}
		for range 3 {
			for i, d := range devices {
				p.plugAt(t, d, i+1)
			}
			names := map[string]bool{}
			for range devices {
				names[p.arrival(t).Name()] = true
			}
			for i := range count {
				require.Contains(t, names, fmt.Sprintf("Gemalto PC Twin Reader %02d 00", i))
			}
			require.Len(t, p.monitor.Readers(), count)
			for _, d := range devices {
				p.bus.Unplug(d)
			}
			for range devices {
				require.Equal(t, host.ReaderRemoved, p.next(t).Kind)
			}
			require.Empty(t, p.monitor.Readers())
		}
	})
}

// TestPlugAgainWithinMilliseconds takes a reader out again before, while and after it is opened.
func TestPlugAgainWithinMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlugs(t, nil)
		d := newDevice(t, "")
		for out := range time.Duration(11) {
			p.plugAt(t, d, 1)
			time.Sleep(out * time.Millisecond)
			p.bus.Unplug(d)
			time.Sleep((10 - out) * time.Millisecond)
			p.plugAt(t, d, 1)
			// Whatever was seen of the short visit, the reader is there in the end, and only once.
			synctest.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
			readers := p.monitor.Readers()
			require.Len(t, readers, 1)
			require.False(t, readers[0].Removed())
			require.Equal(t, "Gemalto PC Twin Reader 00 00", readers[0].Name())
			_, err := readers[0].Slot(0).Connect(t.Context())
			require.NoError(t, err)
			p.bus.Unplug(d)
			synctest.Wait()
			require.Empty(t, p.monitor.Readers())
		}
	})
}

// TestThousandPlugCyclesLeaveNothing compares what the process holds after 100 cycles and after 1,000 more.
func TestThousandPlugCyclesLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlugs(t, nil)
		d := newDevice(t, "")
		hundred := func() {
			for range 100 {
				p.plugAt(t, d, 1)
				p.arrival(t)
				p.bus.Unplug(d)
				require.Equal(t, host.ReaderRemoved, p.next(t).Kind)
			}
			synctest.Wait()
			require.Len(t, p.log.AllEntries(), 100, "one line for each removal")
			p.log.Reset()
		}
		hundred()
		before := takeStock()
		for range 10 {
			hundred()
		}
		after := takeStock()
		t.Logf("before %+v, after %+v", before, after)
		// The runtime has a goroutine or two of its own; a cycle that leaves anything leaves a thousand.
		assert.LessOrEqual(t, after.goroutines, before.goroutines+2)
		assert.LessOrEqual(t, after.descriptors, before.descriptors+2)
		assert.Less(t, after.heap, before.heap+256<<10, "bytes: less than 256 for each cycle")
	})
}

type stock struct{ heap, goroutines, descriptors int }

func takeStock() stock {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := stock{heap: int(m.HeapAlloc), goroutines: runtime.NumGoroutine()}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.descriptors = len(list)
	}
	return s
}

// guarded lets nobody open its devices as long as cause is set.
type guarded struct {
	*virtual.Bus
	cause atomic.Pointer[error]
	tries atomic.Int32
}

func (g *guarded) Open(ctx context.Context, info usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	g.tries.Add(1)
	if cause := g.cause.Load(); cause != nil {
		return nil, &usbtransport.Error{Op: "open", Device: info.PortPath, Kind: *cause}
	}
	return g.Bus.Open(ctx, info, number)
}

// TestNodeThatIsNotYetAccessible has the permissions come some time after the device: udev's rules are still running.
func TestNodeThatIsNotYetAccessible(t *testing.T) {
	for _, after := range []time.Duration{time.Millisecond, 150 * time.Millisecond, 3 * time.Second, time.Minute} {
		bubble(t, after.String(), func(t *testing.T) {
			var g *guarded
			p := newPlugs(t, func(b *virtual.Bus) usbtransport.Backend {
				g = &guarded{Bus: b}
				g.cause.Store(&usbtransport.ErrPermission)
				return g
			})
			p.plugAt(t, newDevice(t, ""), 1)
			e := p.next(t)
			require.Equal(t, host.ReaderUnusable, e.Kind)
			require.ErrorIs(t, e.Err, usbtransport.ErrPermission)
			time.Sleep(after)
			g.cause.Store(nil)
			begin := time.Now()
			p.arrival(t)
			require.LessOrEqual(t, time.Since(begin), 6*time.Second)
			require.Less(t, g.tries.Load(), int32(25), "tries")
			require.Empty(t, p.log.AllEntries())
		})
	}
}

func TestBusyReaderNamesItsHolderAndIsTakenWhenFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlugs(t, nil)
		d := newDevice(t, "")
		info, err := p.bus.PlugAt(d, 1)
		require.NoError(t, err)
		// Whoever is first has it: the Monitor. Another one gets it from then on.
		first := p.arrival(t)
		other, err := host.NewMonitor(t.Context(), p.bus, host.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, other.Close()) }()
		e := nextEvent(t, other)
		require.Equal(t, host.ReaderUnusable, e.Kind)
		require.Equal(t, info.Key, e.Function.Device.Key)
		require.ErrorIs(t, e.Err, usbtransport.ErrBusy)
		var busy *usbtransport.BusyError
		require.True(t, errors.As(e.Err, &busy))
		require.Equal(t, os.Getpid(), busy.Holders[0].PID)
		require.NotEmpty(t, busy.Holders[0].Process)
		// It stays busy for an hour, and is reported once.
		time.Sleep(time.Hour)
		synctest.Wait()
		require.NoError(t, first.Close())
		begin := time.Now()
		e = nextEvent(t, other)
		require.Equal(t, host.ReaderArrived, e.Kind)
		require.LessOrEqual(t, time.Since(begin), 6*time.Second)
		for _, entry := range p.log.AllEntries() {
			require.Greater(t, entry.Level, logrus.InfoLevel, entry.Message)
		}
	})
}
