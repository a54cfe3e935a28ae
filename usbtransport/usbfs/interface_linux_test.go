package usbfs

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/usbtransport"
)

// kernel stands in for usbfs: it takes urbs and gives them back when a test says so.
type kernel struct {
	mu        sync.Mutex
	wake      chan struct{}
	submitted []*urb
	done      []finished
	gone      bool
	closed    bool
	claims    int
	releases  int
	// onSubmit is called with mu held; nil leaves the urb pending.
	onSubmit                            func(*urb) error
	claimErr, resetErr, haltErr, driven error
	driverName                          string
	// arrived is how many bytes a urb has received when it is discarded.
	arrived int
}

// finished is a urb with its outcome, which a kernel writes to the urb when it is reaped, and not before.
type finished struct {
	urb    *urb
	status unix.Errno
	actual int
}

func newKernel() *kernel { return &kernel{wake: make(chan struct{}, 1)} }

func (k *kernel) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// complete ends a pending urb. mu is held.
func (k *kernel) complete(u *urb, status unix.Errno, actual int) {
	for i, other := range k.submitted {
		if other == u {
			k.submitted = append(k.submitted[:i], k.submitted[i+1:]...)
			k.done = append(k.done, finished{u, status, actual})
			k.poke()
			return
		}
	}
}

func (k *kernel) submit(u *urb) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return unix.ENODEV
	}
	k.submitted = append(k.submitted, u)
	if k.onSubmit == nil {
		return nil
	}
	err := k.onSubmit(u)
	if err != nil {
		k.submitted = k.submitted[:len(k.submitted)-1]
	}
	return err
}

func (k *kernel) discard(u *urb) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return unix.ENODEV
	}
	before := len(k.done)
	k.complete(u, unix.ENOENT, k.arrived)
	if len(k.done) == before {
		return unix.EINVAL
	}
	return nil
}

func (k *kernel) reap() (uintptr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.done) > 0 {
		f := k.done[0]
		k.done = k.done[1:]
		f.urb.status, f.urb.actualLength = -int32(f.status), int32(f.actual)
		return f.urb.address(), nil
	}
	if k.gone {
		return 0, unix.ENODEV
	}
	return 0, unix.EAGAIN
}

func (k *kernel) await(step func() bool) error {
	for !step() {
		<-k.wake
		k.mu.Lock()
		closed := k.closed
		k.mu.Unlock()
		if closed {
			return os.ErrClosed
		}
	}
	return nil
}

func (k *kernel) unplug(tell bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	if tell {
		k.poke()
	}
}

func (k *kernel) connected() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return unix.ENODEV
	}
	return nil
}

func (k *kernel) claim(uint8) error   { k.claims++; return k.claimErr }
func (k *kernel) release(uint8) error { k.releases++; return nil }
func (k *kernel) driver(uint8) (string, error) {
	return k.driverName, k.driven
}
func (k *kernel) clearHalt(uint8) error { return k.haltErr }
func (k *kernel) reset() error          { return k.resetErr }
func (k *kernel) descriptor() int       { return -1 }
func (k *kernel) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.poke()
	return nil
}

func discardLog() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func testClaim(t *testing.T, k *kernel) *claimed {
	t.Helper()
	endpoints := map[uint8]usbtransport.EndpointDescriptor{
		0x01: {Address: 0x01, Type: usbtransport.TransferBulk, MaxPacketSize: 64},
		0x82: {Address: 0x82, Type: usbtransport.TransferBulk, MaxPacketSize: 64},
		0x83: {Address: 0x83, Type: usbtransport.TransferInterrupt, MaxPacketSize: 8},
		0x84: {Address: 0x84, Type: usbtransport.TransferBulk},
	}
	c := newClaimed(usbtransport.DeviceInfo{PortPath: "1-1"}, 0, endpoints, k, discardLog())
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

func TestKernelStructuresHaveTheLayoutOfTheHeader(t *testing.T) {
	var u urb
	offsets := []uintptr{
		unsafe.Offsetof(u.kind), unsafe.Offsetof(u.endpoint), unsafe.Offsetof(u.status), unsafe.Offsetof(u.flags), unsafe.Offsetof(u.buffer),
		unsafe.Offsetof(u.bufferLength), unsafe.Offsetof(u.actualLength), unsafe.Offsetof(u.startFrame), unsafe.Offsetof(u.packets),
		unsafe.Offsetof(u.errorCount), unsafe.Offsetof(u.signal), unsafe.Offsetof(u.userContext), unsafe.Sizeof(u),
	}
	want := map[uintptr][]uintptr{
		4: {0, 1, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44},
		8: {0, 1, 4, 8, 16, 24, 28, 32, 36, 40, 44, 48, 56},
	}
	assert.Equal(t, want[unsafe.Sizeof(uintptr(0))], offsets)
	assert.Equal(t, uintptr(260), unsafe.Sizeof(getDriver{}))
	assert.Equal(t, uintptr(8), unsafe.Sizeof(connectInfo{}))
}

func TestIoctlNumbers(t *testing.T) {
	word := uint64(unsafe.Sizeof(uintptr(0)))
	if ioRead != 0x80000000 {
		t.Skip("this architecture has other direction bits")
	}
	for name, pair := range map[string][2]uint64{
		"GETDRIVER":        {0x41045508, uint64(ioctlGetDriver)},
		"SUBMITURB":        {0x8000550A | map[uint64]uint64{4: 44, 8: 56}[word]<<16, uint64(ioctlSubmitURB)},
		"DISCARDURB":       {0x550B, uint64(ioctlDiscardURB)},
		"REAPURBNDELAY":    {0x4000550D | word<<16, uint64(ioctlReapURBNoDelay)},
		"CLAIMINTERFACE":   {0x8004550F, uint64(ioctlClaimInterface)},
		"RELEASEINTERFACE": {0x80045510, uint64(ioctlReleaseInterface)},
		"CONNECTINFO":      {0x40085511, uint64(ioctlConnectInfo)},
		"RESET":            {0x5514, uint64(ioctlReset)},
		"CLEAR_HALT":       {0x80045515, uint64(ioctlClearHalt)},
	} {
		assert.Equal(t, pair[0], pair[1], name)
	}
}

func TestOutTransfersAskForTheEmptyPacket(t *testing.T) {
	for length, flags := range map[int]uint32{0: 0, 1: 0, 63: 0, 64: urbZeroPacket, 65: 0, 128: urbZeroPacket, 65_536: urbZeroPacket} {
		k := newKernel()
		var seen urb
		k.onSubmit = func(u *urb) error {
			seen = *u
			k.complete(u, 0, int(u.bufferLength))
			return nil
		}
		n, err := testClaim(t, k).BulkOut(t.Context(), 0x01, make([]byte, length))
		require.NoError(t, err)
		require.Equal(t, length, n)
		assert.Equal(t, flags, seen.flags, "%d bytes", length)
		assert.Equal(t, [2]uint8{urbBulk, 0x01}, [2]uint8{seen.kind, seen.endpoint})
	}
}

func TestControlPutsSetupInFrontOfTheData(t *testing.T) {
	k := newKernel()
	c := testClaim(t, k)
	k.onSubmit = func(u *urb) error {
		packet := unsafe.Slice((*byte)(u.buffer), u.bufferLength)
		assert.Equal(t, []byte{0xA1, 3, 0x34, 0x12, 0x78, 0x56, 4, 0, 0, 0, 0, 0}, packet)
		copy(packet[8:], []byte{1, 2, 3})
		k.complete(u, 0, 3)
		return nil
	}
	data := []byte{9, 9, 9, 9}
	n, err := c.Control(t.Context(), usbtransport.Setup{RequestType: 0xA1, Request: 3, Value: 0x1234, Index: 0x5678}, data)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, []byte{1, 2, 3, 9}, data, "what was not received stays")

	k.onSubmit = func(u *urb) error {
		assert.Equal(t, []byte{0x21, 9, 0, 0, 0, 0, 2, 0, 7, 8}, unsafe.Slice((*byte)(u.buffer), u.bufferLength))
		k.complete(u, 0, 2)
		return nil
	}
	n, err = c.Control(t.Context(), usbtransport.Setup{RequestType: 0x21, Request: 9}, []byte{7, 8})
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func TestStatusOfATransferBecomesAKind(t *testing.T) {
	for status, kind := range map[unix.Errno]error{
		unix.EPIPE: usbtransport.ErrStalled, unix.EOVERFLOW: usbtransport.ErrOverflow, unix.EPROTO: usbtransport.ErrIO, unix.EILSEQ: usbtransport.ErrIO,
		unix.ETIME: usbtransport.ErrIO, unix.ENOENT: usbtransport.ErrIO, unix.ESHUTDOWN: usbtransport.ErrIO, unix.ENODEV: usbtransport.ErrRemoved,
	} {
		k := newKernel()
		k.onSubmit = func(u *urb) error {
			k.complete(u, status, 5)
			return nil
		}
		n, err := testClaim(t, k).BulkIn(t.Context(), 0x82, make([]byte, 64))
		require.ErrorIs(t, err, kind, "%v", status)
		require.ErrorIs(t, err, status, "the kernel's own error is kept")
		require.Equal(t, 5, n)
	}
}

func TestAnyFailureOfADeviceThatIsGoneIsARemoval(t *testing.T) {
	for _, status := range []unix.Errno{unix.EPROTO, unix.ESHUTDOWN, unix.ENOENT} {
		k := newKernel()
		c := testClaim(t, k)
		k.onSubmit = func(u *urb) error {
			k.complete(u, status, 0)
			time.AfterFunc(removalGrace/3, func() { k.unplug(false) })
			return nil
		}
		_, err := c.BulkIn(t.Context(), 0x82, make([]byte, 64))
		require.ErrorIs(t, err, usbtransport.ErrRemoved)
		_, err = c.BulkOut(t.Context(), 0x01, nil)
		require.ErrorIs(t, err, usbtransport.ErrRemoved)
	}
}

func TestRefusedSubmissions(t *testing.T) {
	for refusal, kind := range map[unix.Errno]error{
		unix.ENOMEM: usbtransport.ErrIO, unix.ENOENT: usbtransport.ErrRemoved, unix.ESRCH: usbtransport.ErrRemoved,
		unix.ENODEV: usbtransport.ErrRemoved, unix.EBUSY: usbtransport.ErrBusy,
	} {
		k := newKernel()
		k.onSubmit = func(*urb) error { return refusal }
		c := testClaim(t, k)
		_, err := c.BulkIn(t.Context(), 0x82, make([]byte, 64))
		require.ErrorIs(t, err, kind, "%v", refusal)
		require.Empty(t, c.pending)
	}
}

func TestAHostileLengthStaysInTheBuffer(t *testing.T) {
	for _, actual := range []int{-5, 65, 1 << 30} {
		k := newKernel()
		k.onSubmit = func(u *urb) error {
			k.complete(u, 0, actual)
			return nil
		}
		n, err := testClaim(t, k).BulkIn(t.Context(), 0x82, make([]byte, 64))
		require.NoError(t, err)
		require.Equal(t, min(max(actual, 0), 64), n)
	}
}

func TestACancelledTransferKeepsItsBytes(t *testing.T) {
	k := newKernel()
	c := testClaim(t, k)
	// Of 128 bytes: nothing; a packet; a short packet, which is the end of the transfer; all.
	for arrived, kind := range map[int]error{0: usbtransport.ErrCancelled, 64: usbtransport.ErrCancelled, 3: nil, 67: nil, 128: nil} {
		ctx, cancel := context.WithCancel(t.Context())
		k.arrived = arrived
		k.onSubmit = func(*urb) error {
			cancel()
			return nil
		}
		n, err := c.BulkIn(ctx, 0x82, make([]byte, 128))
		require.True(t, errors.Is(err, kind), "%d bytes: %v", arrived, err)
		require.Equal(t, arrived, n)
	}

	// It completes before it can be discarded: discard fails with EINVAL, and the transfer is a success.
	ctx, cancel := context.WithCancel(t.Context())
	k.onSubmit = func(u *urb) error {
		cancel()
		k.complete(u, 0, 10)
		return nil
	}
	n, err := c.BulkIn(ctx, 0x82, make([]byte, 64))
	require.NoError(t, err)
	require.Equal(t, 10, n)
}

func TestRemovalEndsTransfersThatTheKernelKeeps(t *testing.T) {
	for _, tell := range []bool{true, false} {
		k := newKernel()
		c := testClaim(t, k)
		errs := make(chan error, 2)
		for _, address := range []uint8{0x82, 0x83} {
			go func() {
				call := c.BulkIn
				if address == 0x83 {
					call = c.InterruptIn
				}
				_, err := call(context.Background(), address, make([]byte, 64))
				errs <- err
			}()
		}
		require.Eventually(t, func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return len(k.submitted) == 2
		}, time.Second, time.Millisecond)
		k.unplug(tell)
		if !tell { // the next call learns it
			_, err := c.BulkOut(t.Context(), 0x01, nil)
			require.ErrorIs(t, err, usbtransport.ErrRemoved)
		}
		for range 2 {
			select {
			case err := <-errs:
				require.ErrorIs(t, err, usbtransport.ErrRemoved)
			case <-time.After(time.Second):
				require.FailNow(t, "a transfer outlasts its device")
			}
		}
		require.ErrorIs(t, c.ClearHalt(t.Context(), 0x82), usbtransport.ErrRemoved)
		require.ErrorIs(t, c.Reset(t.Context()), usbtransport.ErrRemoved)
	}
}

func TestCloseGivesTheInterfaceBackOnce(t *testing.T) {
	k := newKernel()
	c := testClaim(t, k)
	waiting := make(chan error, 1)
	go func() {
		_, err := c.BulkIn(context.Background(), 0x82, make([]byte, 64))
		waiting <- err
	}()
	for range 3 {
		require.NoError(t, c.Close())
	}
	require.ErrorIs(t, <-waiting, usbtransport.ErrClosed)
	require.Equal(t, 1, k.releases)
	require.True(t, k.closed)
	require.Empty(t, c.pending)
}

func TestResetClaimsAgain(t *testing.T) {
	k := newKernel()
	c := testClaim(t, k)
	require.NoError(t, c.Reset(t.Context()))
	require.Equal(t, 1, k.claims)
	k.claimErr = unix.EBUSY
	require.Error(t, c.Reset(t.Context()))
	_, err := c.BulkOut(t.Context(), 0x01, nil)
	require.ErrorIs(t, err, usbtransport.ErrRemoved, "an interface that can't be claimed again is lost")
}

func TestArgumentsAreChecked(t *testing.T) {
	k := newKernel()
	c := testClaim(t, k)
	_, err := c.BulkIn(t.Context(), 0x84, make([]byte, 64))
	require.ErrorIs(t, err, usbtransport.ErrInvalid, "an endpoint whose wMaxPacketSize is 0")
	_, err = c.BulkOut(t.Context(), 0x01, make([]byte, usbtransport.MaxTransfer+1))
	require.ErrorIs(t, err, usbtransport.ErrInvalid)
	_, err = c.BulkIn(t.Context(), 0x82, make([]byte, usbtransport.MaxTransfer+64))
	require.ErrorIs(t, err, usbtransport.ErrInvalid)
	require.Empty(t, k.submitted)
}

// TestEveryTransferEndsOnce lets transfers complete, be cancelled and lose their device all at once.
func TestEveryTransferEndsOnce(t *testing.T) {
	for range 20 {
		k := newKernel()
		c := testClaim(t, k)
		k.onSubmit = func(u *urb) error {
			time.AfterFunc(rand.N(200*time.Microsecond), func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				k.complete(u, 0, 1)
			})
			return nil
		}
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				for range 50 {
					ctx, cancel := context.WithTimeout(context.Background(), rand.N(200*time.Microsecond))
					n, err := c.BulkIn(ctx, 0x82, make([]byte, 64))
					cancel()
					assert.Equal(t, err == nil, n == 1)
				}
			})
		}
		calls.Go(func() {
			time.Sleep(rand.N(5 * time.Millisecond))
			if rand.N(2) == 0 {
				k.unplug(true)
			} else {
				assert.NoError(t, c.Close())
			}
		})
		calls.Wait()
		require.Empty(t, c.pending)
	}
}
