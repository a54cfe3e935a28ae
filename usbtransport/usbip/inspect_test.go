package usbip

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
)

// crowd is a list of n devices, 1-1 and so on.
func crowd(n int) []listed {
	var list []listed
	for k := range n {
		d := testDevice()
		d.busID = fmt.Sprintf("1-%d", k+1)
		list = append(list, d)
	}
	return list
}

// giver makes a server that lists n devices, and answers the import of the last one only.
func giver(t testing.TB, n int) (f *fakeServer, asked func() map[string]int) {
	var mu sync.Mutex
	imports := map[string]int{}
	f = newFake(t)
	f.list = func() []listed { return crowd(n) }
	last := crowd(n)[n-1]
	f.raw = func(conn net.Conn) {
		header, err := readOpHeader(conn)
		if err != nil {
			return
		}
		if header.code == opRequestDevlist {
			_, _ = conn.Write(appendDevlist(nil, f.list()))
			return
		}
		busID, err := readImportRequest(conn)
		if err != nil {
			return
		}
		mu.Lock()
		imports[busID]++
		mu.Unlock()
		if busID != last.busID {
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		_, _ = conn.Write(last.append(opHeader{code: opReplyImport}.append(nil)))
		f.serveCommands(conn)
	}
	return f, func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		copied := map[string]int{}
		for busID, n := range imports {
			copied[busID] = n
		}
		return copied
	}
}

func TestAQuestionForDevicesIsBoundedHoweverManyThereAre(t *testing.T) {
	for _, n := range []int{1, 20, maxDevices - 1} {
		synctest.Test(t, func(t *testing.T) {
			f, _ := giver(t, n+1)
			start := time.Now()
			devices, err := f.backend().Devices(t.Context())
			require.NoError(t, err)
			assert.LessOrEqual(t, time.Since(start), 2*defaultTimeout)
			require.Len(t, devices, n+1, "what could not be looked at is listed all the same")
			for _, d := range devices[:n] {
				assert.ErrorIs(t, d.Unreadable, usbtransport.ErrIO)
				assert.Equal(t, []uint8{0x0B, 0x0B}, d.Classes)
			}
			f.hangUp()
		})
	}
}

func TestADeviceIsLookedAtHoweverManyDoNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const silent = 3 * maxLooks
		f, asked := giver(t, silent+1)
		w, err := f.backend().Watch(t.Context())
		require.NoError(t, err)
		start := time.Now()
		for {
			event, news := next(t, w, time.Minute)
			require.True(t, news, "it is not looked at")
			if event.Device.Descriptors != nil {
				require.Equal(t, "1-25", event.Device.PortPath)
				break
			}
		}
		assert.LessOrEqual(t, time.Since(start), 4*(defaultTimeout+defaultPollInterval), "each has its turn")
		assert.Len(t, asked(), silent+1)
		start = time.Now()
		require.NoError(t, w.Close())
		assert.Zero(t, time.Since(start), "Close waits for no server")
		f.hangUp()
	})
}

func TestWatchWaitsForNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.raw = func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
		b := f.backend()
		start := time.Now()
		w, err := b.Watch(t.Context())
		require.NoError(t, err)
		assert.Zero(t, time.Since(start))
		synctest.Wait() // its question is on the way
		require.NoError(t, w.Close())
		assert.Zero(t, time.Since(start))
		f.hangUp()
	})
}

// TestTheEndOfACallerWaitsForNoDevice has a server that gives the device, and then neither answers nor takes transfers back.
func TestTheEndOfACallerWaitsForNoDevice(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Backend, usbtransport.DeviceInfo) error{
		"Open": func(ctx context.Context, b *Backend, d usbtransport.DeviceInfo) error {
			_, err := b.Open(ctx, d, 0)
			return err
		},
		"Devices": func(ctx context.Context, b *Backend, _ usbtransport.DeviceInfo) error {
			_, err := b.Devices(ctx)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.refuse = func(string) uint32 { return statusBusy }
				b := f.backend()
				devices, err := b.Devices(t.Context())
				require.NoError(t, err)
				f.refuse = func(string) uint32 { return statusOK }
				f.answer = func(command, []byte) []byte { return nil }
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				require.ErrorIs(t, call(ctx, b, devices[0]), usbtransport.ErrTimedOut)
				assert.Equal(t, time.Second, time.Since(start))
				synctest.Wait()
				assert.Zero(t, f.count(&f.inUse), "it is given back")
			})
		})
	}
}

func TestDevicesAsksAnewForWhatCouldNotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		status := uint32(statusBusy)
		f.refuse = func(string) uint32 { return status }
		b := f.backend()
		for range 10 { // its next try is some time off by now
			devices, err := b.Devices(t.Context())
			require.NoError(t, err)
			assert.ErrorIs(t, devices[0].Unreadable, usbtransport.ErrBusy)
		}
		status = statusOK
		devices, err := b.Devices(t.Context())
		require.NoError(t, err)
		assert.NoError(t, devices[0].Unreadable)
		assert.NotNil(t, devices[0].Descriptors)
	})
}

func TestABusyDeviceIsTriedEveryFewSecondsByTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		status := uint32(statusBusy)
		tries := 0
		var mu sync.Mutex
		f.refuse = func(string) uint32 {
			mu.Lock()
			defer mu.Unlock()
			tries++
			return status
		}
		w, err := f.backend().Watch(t.Context())
		require.NoError(t, err)
		event, _ := next(t, w, time.Second)
		assert.ErrorIs(t, event.Device.Unreadable, usbtransport.ErrBusy)
		_, news := next(t, w, time.Hour)
		require.False(t, news, "it is reported once")
		mu.Lock()
		assert.InDelta(t, time.Hour/(maxBusyDelay+defaultPollInterval/2), tries, 100)
		status = statusDeviceErr
		mu.Unlock()
		event, news = next(t, w, time.Minute)
		require.True(t, news, "another reason is news")
		assert.Equal(t, usbtransport.Changed, event.Kind)
		assert.ErrorIs(t, event.Device.Unreadable, usbtransport.ErrIO)
		require.NoError(t, w.Close())
	})
}

func TestABusIDThatIsListedTwiceIsOneDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.list = func() []listed { return []listed{testDevice(), testDevice()} }
		devices, err := f.backend().Devices(t.Context())
		require.NoError(t, err)
		assert.Len(t, devices, 1)
	})
}
