//go:build linux

package removal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
)

// sysfs returns a file of the reader's device in sysfs.
func sysfs(r *host.Reader, name string) string {
	return filepath.Join("/sys/bus/usb/devices", r.Device().Info().PortPath, name)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, []byte(text), 0))
}

// withdraw takes the reader away under clients and gives it back: it must look like a removal and an arrival.
func withdraw(t *testing.T, d *driver, take, giveBack func()) {
	t.Helper()
	r := d.arriveQuietly(t)
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	clients := startClients(ctx, t, r.Slot(0))
	time.Sleep(longestWork / 2)
	take()
	for _, o := range clients.end() {
		require.ErrorIs(t, o.err, usbtransport.ErrRemoved, o.call)
	}
	require.Empty(t, clients.before, "what clients were told before")
	require.Same(t, r, d.next(t, host.ReaderRemoved))
	lines, _ := d.log.take()
	requireOneRemoval(t, lines, r)
	giveBack()
	d.arriveQuietly(t)
}

// arriveQuietly waits for a reader that works, without a line above debug.
func (d *driver) arriveQuietly(t *testing.T) *host.Reader {
	t.Helper()
	r := d.arrive(t)
	lines, _ := d.log.take()
	require.Empty(t, lines, "log lines above debug")
	return r
}

// path returns what a link in sysfs points to, to be used when the link itself is gone.
func path(t *testing.T, link string) string {
	t.Helper()
	target, err := filepath.EvalSymlinks(link)
	require.NoError(t, err)
	return target
}

// The first bus of the VM's only USB controller, where the reader is plugged in.
const (
	bus    = "/sys/bus/usb/devices/usb1"
	device = "/sys/bus/usb/devices/1-1"
)

// TestVMAuthorized takes the authorization away, as programs do that lock a machine's ports, and gives it back.
func TestVMAuthorized(t *testing.T) {
	onBothBackends(t, func(t *testing.T, d *driver) {
		withdraw(t, d, func() { write(t, device+"/authorized", "0") }, func() { write(t, device+"/authorized", "1") })
	})
}

// TestVMPortPower switches the port off and on again.
func TestVMPortPower(t *testing.T) {
	onBothBackends(t, func(t *testing.T, d *driver) {
		port := path(t, device+"/port") + "/disable"
		withdraw(t, d, func() { write(t, port, "1") }, func() { switchOn(t, port) })
	})
}

// switchOn gives a port its power back. QEMU's controller reports nothing of what is plugged into a port that has been off for
// too short a time.
func switchOn(t *testing.T, port string) {
	t.Helper()
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		write(t, port, "0")
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			if _, err := os.Stat(device); err == nil {
				return
			}
		}
		write(t, port, "1")
	}
	t.Fatal("nothing is found in the port again")
}

// TestVMController unbinds the driver of the USB controller, so that the whole bus is gone, and binds it again.
func TestVMController(t *testing.T) {
	onBothBackends(t, func(t *testing.T, d *driver) {
		controller := filepath.Dir(path(t, bus))
		driver := path(t, controller+"/driver")
		withdraw(t, d,
			func() { write(t, driver+"/unbind", filepath.Base(controller)) },
			func() { write(t, driver+"/bind", filepath.Base(controller)) })
	})
}

// TestVMReset resets the device through the interface that claims it, between two exchanges.
func TestVMReset(t *testing.T) {
	onBothBackends(t, func(t *testing.T, d *driver) {
		r := d.arriveQuietly(t)
		info := r.Device().Info()
		require.NoError(t, d.monitor.Close())
		ctx, cancel := context.WithTimeout(t.Context(), watchdog)
		defer cancel()
		for range 5 {
			usb, err := d.backend.Open(ctx, info, 0)
			require.NoError(t, err)
			require.NoError(t, usb.Reset(ctx))
			require.NoError(t, usb.Close())
			reader, err := host.Open(ctx, d.backend, info, 0, host.Options{Logger: d.log.logger})
			require.NoError(t, err)
			d.connect(t, reader.Slot(0))
			d.use(t, reader.Slot(0))
			require.NoError(t, reader.Close())
		}
		lines, _ := d.log.take()
		require.Empty(t, lines, "log lines above debug")
	})
}

// TestVMResetByOthers has somebody else reset the device under an idle reader. The kernel takes the interface and the
// card's session away for that; the reader gets over it, and stays.
func TestVMResetByOthers(t *testing.T) {
	onBothBackends(t, func(t *testing.T, d *driver) {
		r := d.arriveQuietly(t)
		info := r.Device().Info()
		node, err := os.OpenFile(fmt.Sprintf("/dev/bus/usb/%03d/%03d", info.Bus, info.Address), os.O_RDWR, 0)
		require.NoError(t, err)
		defer node.Close()
		for range 5 {
			const usbdevfsReset = 'U'<<8 | 20
			require.NoError(t, unix.IoctlSetInt(int(node.Fd()), usbdevfsReset, 0))
			d.workAfterReset(t, r.Slot(0))
		}
		lines, _ := d.log.take()
		require.Empty(t, lines, "log lines above debug")
	})
}

// workAfterReset has the reader work. The news of the reset, which comes by the interrupt endpoint, may come at any time meanwhile, and
// takes the card's session away once more.
func (d *driver) workAfterReset(t *testing.T, slot *host.Slot) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	_, err := slot.Connect(ctx)
	if err == nil {
		_, err = slot.Transmit(ctx, selectCAC)
	}
	if err != nil && !unanswered(err) {
		require.ErrorIs(t, err, host.ErrNotPowered)
	}
	d.connect(t, slot)
	d.use(t, slot)
}

// TestVMRuntimeSuspend lets the kernel suspend the device when nobody uses it. A reader that is open keeps it awake; one
// that is opened wakes it up.
func TestVMRuntimeSuspend(t *testing.T) {
	t.Log("not tested: suspend of the whole machine (/sys/power/state). The guest's files come over virtio-9p, whose driver " +
		"can't be suspended: the guest hangs, even when the kernel only tests its devices (/sys/power/pm_test)")
	onBothBackends(t, func(t *testing.T, d *driver) {
		r := d.arriveQuietly(t)
		write(t, sysfs(r, "power/autosuspend_delay_ms"), "0")
		write(t, sysfs(r, "power/control"), "auto")
		t.Cleanup(func() { _ = os.WriteFile(device+"/power/control", []byte("on"), 0) })
		time.Sleep(300 * time.Millisecond) // it would be suspended at once
		assert.Equal(t, "active", read(t, sysfs(r, "power/runtime_status")), "while the reader is open")
		d.use(t, r.Slot(0))

		require.NoError(t, d.monitor.Close())
		require.Eventually(t, func() bool { return read(t, sysfs(r, "power/runtime_status")) == "suspended" },
			watchdog, 10*time.Millisecond, "after the reader is closed")
		ctx, cancel := context.WithTimeout(t.Context(), watchdog)
		defer cancel()
		reader, err := host.Open(ctx, d.backend, r.Device().Info(), 0, host.Options{Logger: d.log.logger})
		require.NoError(t, err)
		d.connect(t, reader.Slot(0))
		d.use(t, reader.Slot(0))
		assert.Equal(t, "active", read(t, sysfs(r, "power/runtime_status")), "while the reader is open again")
		require.NoError(t, reader.Close())
		lines, _ := d.log.take()
		require.Empty(t, lines, "log lines above debug")
	})
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}
