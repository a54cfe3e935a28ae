//go:build libusb && linux

package libusb_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/libusb"
	"github.com/goccid/goccid/usbtransport/transporttest"
)

func vmFixture(t testing.TB) transporttest.Fixture {
	vmtest.Require(t)
	backend, err := libusb.New(libusb.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, backend.Close()) })
	return transporttest.Fixture{
		Backend: backend,
		Match: func(d usbtransport.DeviceInfo) bool {
			return d.IDVendor == vmtest.IDVendor && d.IDProduct == vmtest.IDProduct
		},
		// The machine is emulated, on a host that has other work: 50 ms of ours may be many of its.
		RemovalTime: 500 * time.Millisecond,
		Unplug: func() error {
			vmtest.Unplug(t)
			return nil
		},
		Plug: func() error {
			vmtest.Plug(t)
			return nil
		},
	}
}

func TestVMConformance(t *testing.T) {
	vmtest.Require(t)
	transporttest.Run(t, vmFixture)
}

// TestVMResetBySomebodyElse has another holder of the device reset its port under an open interface: what was under way fails, and
// the interface works on.
func TestVMResetBySomebodyElse(t *testing.T) {
	const bulkOut, bulkIn = 0x03, 0x82
	f := vmFixture(t)
	devices, err := f.Backend.Devices(t.Context())
	require.NoError(t, err)
	i := slices.IndexFunc(devices, f.Match)
	require.GreaterOrEqual(t, i, 0, "QEMU's reader is not in the list")
	device := devices[i]
	opened, err := f.Backend.Open(t.Context(), device, 0)
	require.NoError(t, err)
	defer opened.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	status := func(sequence byte) error {
		if _, err := opened.BulkOut(ctx, bulkOut, []byte{0x65, 0, 0, 0, 0, 0, sequence, 0, 0, 0}); err != nil {
			return err
		}
		buf := make([]byte, 64)
		n, err := opened.BulkIn(ctx, bulkIn, buf)
		if err == nil && (n != 10 || buf[6] != sequence) {
			return fmt.Errorf("% X is no answer", buf[:n])
		}
		return err
	}
	require.NoError(t, status(1))
	for round := range byte(5) {
		waiting := make(chan error, 1)
		go func() {
			_, err := opened.BulkIn(ctx, bulkIn, make([]byte, 64))
			waiting <- err
		}()
		time.Sleep(50 * time.Millisecond)
		resetPort(t, device)
		err := <-waiting
		require.Error(t, err)
		require.NotErrorIs(t, err, usbtransport.ErrRemoved)
		require.ErrorIs(t, err, usbtransport.ErrReset)
		t.Log(err)
		require.Eventually(t, func() bool { return status(2+round) == nil }, 10*time.Second, 100*time.Millisecond)
	}
}

// resetPort resets a device's port through a file of its own.
func resetPort(t *testing.T, d usbtransport.DeviceInfo) {
	t.Helper()
	const reset = 'U'<<8 | 20 // USBDEVFS_RESET
	node, err := os.OpenFile(fmt.Sprintf("/dev/bus/usb/%03d/%03d", d.Bus, d.Address), os.O_RDWR, 0)
	require.NoError(t, err)
	defer node.Close()
	_, err = unix.IoctlRetInt(int(node.Fd()), reset)
	require.NoError(t, err)
}
