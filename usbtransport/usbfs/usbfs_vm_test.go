//go:build linux

package usbfs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/test/vm/hotplug"
	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/transporttest"
	"github.com/goccid/goccid/usbtransport/usbfs"
)

// The endpoints of QEMU's reader.
const (
	vmBulkOut   = 0x03
	vmBulkIn    = 0x82
	vmInterrupt = 0x81
)

func vmFixture(t testing.TB) transporttest.Fixture {
	vmtest.Require(t)
	return transporttest.Fixture{
		Backend: usbfs.New(usbfs.Options{}),
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

// vmDevice finds QEMU's reader.
func vmDevice(t testing.TB, f transporttest.Fixture) usbtransport.DeviceInfo {
	t.Helper()
	devices, err := f.Backend.Devices(t.Context())
	require.NoError(t, err)
	i := slices.IndexFunc(devices, f.Match)
	require.GreaterOrEqual(t, i, 0, "QEMU's reader is not in the list")
	return devices[i]
}

func TestVMConformance(t *testing.T) {
	vmtest.Require(t)
	transporttest.Run(t, vmFixture)
}

// TestVMEmptyPacketRefused shows what a driver sees of QEMU's reader, which stalls the empty packet after an exact
// multiple of packets (CCID 1.1 §4.1 wants one): the stall, with all bytes counted as sent; the answer; and a reader that works on
// although it refuses to have the halt cleared.
func TestVMEmptyPacketRefused(t *testing.T) {
	f := vmFixture(t)
	opened, err := f.Backend.Open(t.Context(), vmDevice(t, f), 0)
	require.NoError(t, err)
	defer opened.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for sequence := range byte(5) {
		block := make([]byte, 64)
		block[0], block[1], block[6] = 0x6F, byte(len(block)-10), sequence
		n, err := opened.BulkOut(ctx, vmBulkOut, block)
		require.ErrorIs(t, err, usbtransport.ErrStalled)
		require.Equal(t, len(block), n)
		buf := make([]byte, 256)
		n, err = opened.BulkIn(ctx, vmBulkIn, buf)
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, 10)
		require.Equal(t, sequence, buf[6], "bSeq")
	}
	for _, endpoint := range []uint8{vmBulkOut, vmBulkIn, vmInterrupt} {
		require.ErrorIs(t, opened.ClearHalt(ctx, endpoint), usbtransport.ErrStalled)
	}
}

// otherProcess opens the device in another process, as a user, and returns its answer and what ends it.
func otherProcess(t *testing.T, device usbtransport.DeviceInfo, user *syscall.Credential) (answer string, process *os.Process, release func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), openEnv+"="+device.PortPath)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	ended := false
	release = func() {
		if !ended {
			ended = true
			stdin.Close()
			_, _ = io.Copy(io.Discard, stdout)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(release)
	return strings.TrimSpace(line), cmd.Process, release
}

func TestVMBusyWithAnotherProcess(t *testing.T) {
	f := vmFixture(t)
	device := vmDevice(t, f)
	watcher, err := f.Backend.Watch(t.Context())
	require.NoError(t, err)
	defer watcher.Close()
	answer, process, release := otherProcess(t, device, nil)
	require.Equal(t, "<nil>", answer)

	_, err = f.Backend.Open(t.Context(), device, 0)
	require.ErrorIs(t, err, usbtransport.ErrBusy)
	var busy *usbtransport.BusyError
	require.ErrorAs(t, err, &busy)
	require.Len(t, busy.Holders, 1)
	assert.Equal(t, process.Pid, busy.Holders[0].PID)
	assert.NotEmpty(t, busy.Holders[0].Process)
	t.Log(err)

	release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		event, err := watcher.Next(ctx)
		require.NoError(t, err, "a watcher reports that the interface is free")
		if event.Kind == usbtransport.Changed && event.Device.Key == device.Key {
			break
		}
	}
	opened, err := f.Backend.Open(ctx, device, 0)
	require.NoError(t, err)
	require.NoError(t, opened.Close())

	quiet, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for {
		event, err := watcher.Next(quiet)
		if err != nil {
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			return
		}
		require.False(t, event.Kind == usbtransport.Changed && event.Device.Key == device.Key, "our own release is no news")
	}
}

func TestVMPermissionDenied(t *testing.T) {
	f := vmFixture(t)
	answer, _, _ := otherProcess(t, vmDevice(t, f), &syscall.Credential{Uid: 65534, Gid: 65534})
	require.Contains(t, answer, "permission denied")
	require.Contains(t, answer, "/dev/bus/usb/")
	require.Contains(t, answer, "owner root, group root, mode 0")
	t.Log(answer)
}

// TestVMRemovalAtAnyMoment pulls the reader out at random moments of a busy exchange. It runs without a pause
// between transfers, so removals meet each of them.
func TestVMRemovalAtAnyMoment(t *testing.T) {
	f := vmFixture(t)
	before := openDescriptors(t)
	outcomes := map[string]int{}
	for range 20 {
		opened, err := f.Backend.Open(t.Context(), vmDevice(t, f), 0)
		require.NoError(t, err)
		unplugged := make(chan error, 1)
		go func() {
			time.Sleep(rand.N(100 * time.Millisecond))
			unplugged <- vmtest.Ask(hotplug.Request{Action: hotplug.Unplug})
		}()
		err = exchangeUntilError(t.Context(), opened)
		require.ErrorIs(t, err, usbtransport.ErrRemoved)
		var typed *usbtransport.Error
		require.ErrorAs(t, err, &typed)
		outcomes[typed.Op]++
		require.NoError(t, <-unplugged)
		require.NoError(t, opened.Close())
		awaitNoReader(t, f)
		vmtest.Plug(t)
	}
	t.Log("removals by what was under way:", outcomes)
	require.Equal(t, before, openDescriptors(t), "file descriptors")
}

// awaitNoReader waits until the kernel is done with a removal.
func awaitNoReader(t *testing.T, f transporttest.Fixture) {
	t.Helper()
	require.Eventually(t, func() bool {
		devices, err := f.Backend.Devices(t.Context())
		return err == nil && !slices.ContainsFunc(devices, f.Match)
	}, 10*time.Second, 5*time.Millisecond)
}

func exchangeUntilError(ctx context.Context, opened usbtransport.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	buf := make([]byte, 256)
	for sequence := byte(0); ; sequence++ {
		if _, err := opened.BulkOut(ctx, vmBulkOut, []byte{0x65, 0, 0, 0, 0, 0, sequence, 0, 0, 0}); err != nil {
			return err
		}
		n, err := opened.BulkIn(ctx, vmBulkIn, buf)
		if err != nil {
			return err
		}
		if n != 10 || buf[6] != sequence {
			return errors.New("a wrong answer")
		}
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// TestVMDeauthorised takes the configuration away under an open interface and gives it back, as a lock screen may.
func TestVMDeauthorised(t *testing.T) {
	f := vmFixture(t)
	device := vmDevice(t, f)
	watcher, err := f.Backend.Watch(t.Context())
	require.NoError(t, err)
	defer watcher.Close()
	opened, err := f.Backend.Open(t.Context(), device, 0)
	require.NoError(t, err)
	defer opened.Close()
	waiting := make(chan error, 1)
	go func() {
		_, err := opened.BulkIn(context.Background(), vmBulkIn, make([]byte, 64))
		waiting <- err
	}()
	authorise := func(value string) {
		require.NoError(t, os.WriteFile("/sys/bus/usb/devices/"+device.PortPath+"/authorized", []byte(value), 0))
	}
	time.Sleep(20 * time.Millisecond)
	authorise("0")
	t.Cleanup(func() { authorise("1") })
	require.Error(t, <-waiting)
	_, err = opened.BulkOut(t.Context(), vmBulkOut, make([]byte, 10))
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	again := vmDevice(t, f)
	require.Nil(t, again.Descriptors)
	require.Error(t, again.Unreadable)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	authorise("1")
	for {
		event, err := watcher.Next(ctx)
		require.NoError(t, err, "a watcher reports that the device is usable again")
		if event.Kind == usbtransport.Changed && event.Device.Key == device.Key && event.Device.Descriptors != nil {
			break
		}
	}
	once, err := f.Backend.Open(ctx, device, 0)
	require.NoError(t, err)
	require.NoError(t, once.Close())
}

// TestVMCancelledReads cancels reads at the moment at which the answer comes, often enough to meet each way in which the
// host controller and the kernel can end such a transfer: done (to the kernel, or only to us, see ended), and taken back empty.
func TestVMCancelledReads(t *testing.T) {
	f := vmFixture(t)
	opened, err := f.Backend.Open(t.Context(), vmDevice(t, f), 0)
	require.NoError(t, err)
	defer opened.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	outcomes := map[string]int{}
	const reads = 2000
	for i := range reads {
		_, err := opened.BulkOut(ctx, vmBulkOut, []byte{0x65, 0, 0, 0, 0, 0, byte(i), 0, 0, 0})
		require.NoError(t, err)
		buf := make([]byte, 64)
		first, cancelFirst := context.WithTimeout(ctx, rand.N(3*time.Millisecond))
		n, err := opened.BulkIn(first, vmBulkIn, buf)
		cancelFirst()
		switch {
		case err == nil && first.Err() == nil:
			outcomes["completed in time"]++
		case err == nil:
			outcomes["completed when taken back"]++
		default:
			require.Zero(t, n)
			outcomes["cancelled empty"]++
			n, err = opened.BulkIn(ctx, vmBulkIn, buf)
			require.NoError(t, err, "the answer was lost: %v", outcomes)
		}
		require.Equal(t, 10, n)
		require.Equal(t, byte(i), buf[6], "bSeq")
	}
	t.Log(outcomes)
}

// TestVMResetBySomebodyElse has another holder of the device reset its port under an open interface: what was under way fails with
// that reason, and the interface works on.
func TestVMResetBySomebodyElse(t *testing.T) {
	f := vmFixture(t)
	device := vmDevice(t, f)
	opened, err := f.Backend.Open(t.Context(), device, 0)
	require.NoError(t, err)
	defer opened.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 5 {
		waiting := make(chan error, 1)
		go func() {
			_, err := opened.BulkIn(ctx, vmBulkIn, make([]byte, 64))
			waiting <- err
		}()
		time.Sleep(50 * time.Millisecond)
		node, err := os.OpenFile(fmt.Sprintf("/dev/bus/usb/%03d/%03d", device.Bus, device.Address), os.O_RDWR, 0)
		require.NoError(t, err)
		const reset = 'U'<<8 | 20 // USBDEVFS_RESET
		_, err = unix.IoctlRetInt(int(node.Fd()), reset)
		require.NoError(t, err)
		require.NoError(t, node.Close())
		err = <-waiting
		require.ErrorIs(t, err, usbtransport.ErrIO)
		require.ErrorIs(t, err, usbtransport.ErrReset)
		n, err := opened.BulkOut(ctx, vmBulkOut, []byte{0x65, 0, 0, 0, 0, 0, 7, 0, 0, 0})
		require.NoError(t, err)
		require.Equal(t, 10, n)
		buf := make([]byte, 64)
		n, err = opened.BulkIn(ctx, vmBulkIn, buf)
		require.NoError(t, err)
		require.Equal(t, 10, n)
		require.Equal(t, byte(7), buf[6], "bSeq")
	}
}
