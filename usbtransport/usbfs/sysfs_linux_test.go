package usbfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/usbtransport"
)

// tree is a /sys, a /dev and a /proc in a temporary folder.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) *tree {
	tr := &tree{t: t, root: t.TempDir()}
	for _, dir := range []string{"sys/bus/usb/devices", "dev/bus/usb/001", "proc"} {
		require.NoError(t, os.MkdirAll(filepath.Join(tr.root, dir), 0o755))
	}
	return tr
}

func (tr *tree) backend(k *kernel) *Backend {
	b := New(Options{SysRoot: filepath.Join(tr.root, "sys"), DevRoot: filepath.Join(tr.root, "dev"), ProcRoot: filepath.Join(tr.root, "proc")})
	b.openNode = func(string) (node, error) { return k, nil }
	return b
}

func (tr *tree) device(name string) string {
	return filepath.Join(tr.root, "sys/bus/usb/devices", name)
}

func (tr *tree) write(path, content string) {
	tr.t.Helper()
	require.NoError(tr.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(tr.t, os.WriteFile(path, []byte(content), 0o644))
}

var testDescriptors = []byte{
	18, 1, 0, 2, 0, 0, 0, 64, 0xE6, 0x08, 0x33, 0x44, 0x01, 0x02, 1, 2, 3, 2,
	9, 2, 18, 0, 1, 1, 0, 0x80, 50, 9, 4, 0, 0, 0, 0xFF, 0, 0, 0,
	9, 2, 32, 0, 1, 2, 0, 0x80, 50, 9, 4, 3, 0, 2, 0x0B, 0, 0, 0, 7, 5, 0x01, 2, 64, 0, 0, 7, 5, 0x82, 2, 64, 0, 0,
}

// plug puts a device there whose second configuration is active.
func (tr *tree) plug(name string, address int) {
	tr.t.Helper()
	dir := tr.device(name)
	bus, _, _ := strings.Cut(strings.TrimPrefix(name, "usb"), "-")
	tr.write(dir+"/busnum", bus+"\n")
	tr.write(dir+"/devnum", strconv.Itoa(address)+"\n")
	tr.write(dir+"/bConfigurationValue", "2\n")
	tr.write(dir+"/product", "Reader \x1b[31m\n")
	tr.write(dir+"/descriptors", string(testDescriptors))
}

// bind binds a driver to interface 3 of configuration 2.
func (tr *tree) bind(name, driver string) {
	tr.t.Helper()
	dir := tr.device(name) + "/" + name + ":2.3"
	require.NoError(tr.t, os.MkdirAll(dir, 0o755))
	require.NoError(tr.t, os.Symlink("../drivers/"+driver, dir+"/driver"))
}

func (tr *tree) unbind(name string) {
	tr.t.Helper()
	require.NoError(tr.t, os.Remove(tr.device(name)+"/"+name+":2.3/driver"))
}

func (tr *tree) unplug(name string) {
	tr.t.Helper()
	require.NoError(tr.t, os.RemoveAll(tr.device(name)))
}

func only(t *testing.T, b *Backend) usbtransport.DeviceInfo {
	t.Helper()
	devices, err := b.Devices(t.Context())
	require.NoError(t, err)
	require.Len(t, devices, 1)
	return devices[0]
}

func TestDevicesAreReadFromSysfs(t *testing.T) {
	tr := newTree(t)
	for i, name := range []string{"1-10", "1-2.10", "1-2", "usb2", "1-2.9", "usb1", "2-1"} {
		tr.plug(name, i+1)
	}
	for _, name := range []string{"1-2:1.0", "2-0:1.0", "..", "1-", "-1", "1-1x"} {
		if name != ".." {
			require.NoError(t, os.MkdirAll(tr.device(name), 0o755))
		}
	}
	tr.plug("1-3", 8)
	tr.write(tr.device("1-3")+"/busnum", "x") // says nothing sensible: left out
	tr.bind("1-2", "pn533_usb")
	devices, err := tr.backend(nil).Devices(t.Context())
	require.NoError(t, err)
	var names []string
	for _, d := range devices {
		names = append(names, d.PortPath)
	}
	require.Equal(t, []string{"usb1", "1-2", "1-2.9", "1-2.10", "1-10", "usb2", "2-1"}, names)
	d := devices[1]
	assert.Equal(t, "1-2 08e6:4433", d.String())
	assert.Equal(t, uint16(0x0201), d.BCDDevice)
	assert.Equal(t, "Reader  [31m", d.Product, "a device can't write on a terminal")
	assert.Equal(t, append(append([]byte(nil), testDescriptors[:18]...), testDescriptors[36:]...), d.Descriptors, "the active configuration")
	assert.Equal(t, map[uint8]string{3: "pn533_usb"}, d.Drivers)
}

func TestNoUSBIsNoDevices(t *testing.T) {
	devices, err := New(Options{SysRoot: t.TempDir()}).Devices(t.Context())
	require.NoError(t, err)
	require.Empty(t, devices)
}

func TestDevicesWithoutUsableDescriptorsAreListed(t *testing.T) {
	for name, spoil := range map[string]func(*tree){
		"unconfigured":          func(tr *tree) { tr.write(tr.device("1-1")+"/bConfigurationValue", "\n") },
		"no such configuration": func(tr *tree) { tr.write(tr.device("1-1")+"/bConfigurationValue", "9\n") },
		"empty":                 func(tr *tree) { tr.write(tr.device("1-1")+"/descriptors", "") },
		"another type":          func(tr *tree) { tr.write(tr.device("1-1")+"/descriptors", strings.Repeat("\xff", 18)) },
		"zero length": func(tr *tree) {
			tr.write(tr.device("1-1")+"/descriptors", string(testDescriptors[:18])+strings.Repeat("\x00", 99))
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			tr.plug("1-1", 2)
			spoil(tr)
			b := tr.backend(newKernel())
			d := only(t, b)
			require.Nil(t, d.Descriptors)
			require.Error(t, d.Unreadable)
			_, err := b.Open(t.Context(), d, 3)
			require.ErrorIs(t, err, usbtransport.ErrIO)
			require.ErrorContains(t, err, d.Unreadable.Error())
		})
	}
}

func TestDescriptorsAreBounded(t *testing.T) {
	tr := newTree(t)
	tr.plug("1-1", 2)
	tr.write(tr.device("1-1")+"/descriptors", string(testDescriptors)+strings.Repeat("\x02\xff", 1<<20))
	require.LessOrEqual(t, len(only(t, tr.backend(nil)).Descriptors), maxDescriptors)
}

func FuzzFillDescriptors(f *testing.F) {
	f.Add(testDescriptors, "2")
	f.Add(testDescriptors[:30], "1")
	f.Fuzz(func(t *testing.T, raw []byte, active string) {
		var info usbtransport.DeviceInfo
		err := fillDescriptors(&info, raw, active)
		require.Equal(t, err == nil, info.Descriptors != nil)
		require.LessOrEqual(t, len(info.Descriptors), len(raw))
		if err == nil {
			value, err := strconv.Atoi(active)
			require.NoError(t, err)
			require.Equal(t, value, int(info.Descriptors[deviceDescriptorSize+5]), "bConfigurationValue")
		}
	})
}

func TestOpenSaysWhoHoldsTheInterface(t *testing.T) {
	tr := newTree(t)
	tr.plug("1-1", 7)
	node := filepath.Join(tr.root, "dev/bus/usb/001/007")
	for pid, name := range map[int]string{512: "pcscd", 513: "other"} {
		dir := filepath.Join(tr.root, "proc", strconv.Itoa(pid))
		tr.write(dir+"/comm", name+"\n")
		require.NoError(t, os.MkdirAll(dir+"/fd", 0o755))
		target := node
		if pid == 513 {
			target = "/dev/null"
		}
		require.NoError(t, os.Symlink(target, dir+"/fd/9"))
	}
	k := newKernel()
	k.claimErr, k.driverName = unix.EBUSY, usbfsDriver
	b := tr.backend(k)
	_, err := b.Open(t.Context(), only(t, b), 3)
	require.ErrorIs(t, err, usbtransport.ErrBusy)
	require.ErrorContains(t, err, "usb 1-1: open: interface is in use (held by process pcscd (PID 512))")
	require.True(t, k.closed, "a refused node is not left open")

	k = newKernel()
	k.claimErr, k.driverName = unix.EBUSY, "pn533_usb"
	b = tr.backend(k)
	_, err = b.Open(t.Context(), only(t, b), 3)
	require.ErrorContains(t, err, "held by kernel driver pn533_usb")

	require.NoError(t, os.RemoveAll(filepath.Join(tr.root, "proc/512")))
	k = newKernel()
	k.claimErr, k.driverName = unix.EBUSY, usbfsDriver
	b = tr.backend(k)
	_, err = b.Open(t.Context(), only(t, b), 3)
	require.ErrorContains(t, err, "held by another process")
}

func TestOpenRefusals(t *testing.T) {
	tr := newTree(t)
	tr.plug("1-1", 7)
	k := newKernel()
	b := tr.backend(k)
	d := only(t, b)
	_, err := b.Open(t.Context(), d, 0)
	require.ErrorIs(t, err, usbtransport.ErrInvalid, "an interface of a configuration that is not active")

	for errno, kind := range map[unix.Errno]error{
		unix.EACCES: usbtransport.ErrPermission, unix.EPERM: usbtransport.ErrPermission, unix.ENOENT: usbtransport.ErrPermission,
		unix.ENODEV: usbtransport.ErrRemoved, unix.EMFILE: usbtransport.ErrIO,
	} {
		b.openNode = func(string) (node, error) { return nil, errno }
		_, err = b.Open(t.Context(), d, 3)
		require.ErrorIs(t, err, kind, "%v", errno)
		require.ErrorIs(t, err, errno)
	}
	tr.write(filepath.Join(tr.root, "dev/bus/usb/001/007"), "")
	b.openNode = func(string) (node, error) { return nil, unix.EACCES }
	_, err = b.Open(t.Context(), d, 3)
	require.ErrorContains(t, err, "001/007 (owner ")
	require.ErrorContains(t, err, ", mode 0644)")

	// The device is replaced while its node is opened.
	b.openNode = func(string) (node, error) {
		tr.unplug("1-1")
		tr.plug("1-1", 8)
		return k, nil
	}
	_, err = b.Open(t.Context(), d, 3)
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	require.Zero(t, k.claims)
	require.True(t, k.closed)
	_, err = b.Open(t.Context(), d, 3)
	require.ErrorIs(t, err, usbtransport.ErrRemoved, "the key of another plug-in")
	d.PortPath = "../../../../etc"
	_, err = b.Open(t.Context(), d, 3)
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
}

// newTestWatcher makes a watcher with a socket that nothing comes from; uevents are given to handle.
func newTestWatcher(t *testing.T, b *Backend) *watcher {
	t.Helper()
	b.subscribe = func() (*os.File, error) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { unix.Close(pair[1]) })
		return os.NewFile(uintptr(pair[0]), "uevents"), nil
	}
	opened, err := b.Watch(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { opened.Close() })
	return opened.(*watcher)
}

func kernelEvent(action, kind, path string, address int) []byte {
	return fmt.Appendf(nil, "%s@%s\x00ACTION=%s\x00DEVPATH=%s\x00SUBSYSTEM=usb\x00DEVTYPE=%s\x00PRODUCT=8e6/4433/100\x00BUSNUM=001\x00DEVNUM=%03d\x00",
		action, path, action, path, kind, address)
}

func udevEvent(properties string) []byte {
	header := make([]byte, udevHeaderSize)
	copy(header, udevPrefix)
	binary.BigEndian.PutUint32(header[8:], udevMagic)
	binary.NativeEndian.PutUint32(header[16:], udevHeaderSize)
	return append(header, properties...)
}

// taken returns and forgets what a watcher has to report, as "kind port key".
func (w *watcher) taken() []string {
	var all []string
	for _, e := range w.queue {
		all = append(all, fmt.Sprintf("%s %s %d", e.Kind, e.Device.PortPath, e.Device.Address))
	}
	w.queue = nil
	return all
}

func TestWatcherFollowsUevents(t *testing.T) {
	const path, bus = "/devices/pci0000:00/0000:00:05.0/usb1/1-1", "usb_device"
	tr := newTree(t)
	tr.plug("1-1", 2)
	w := newTestWatcher(t, tr.backend(nil))
	require.Equal(t, []string{"arrived 1-1 2"}, w.taken(), "present devices first")

	w.handle(kernelEvent("add", bus, path, 2))
	require.Empty(t, w.taken(), "an arrival that the list already had")
	w.handle(kernelEvent("remove", bus, path, 1))
	require.Empty(t, w.taken(), "the removal of an earlier plug-in")
	w.handle(kernelEvent("remove", bus, path, 2))
	require.Equal(t, []string{"removed 1-1 2"}, w.taken(), "at once, though sysfs still has the folder")
	w.handle(kernelEvent("bind", bus, path, 2))
	require.NoError(t, w.rescan(t.Context()))
	require.Empty(t, w.taken(), "what was removed does not come back")

	tr.unplug("1-1")
	tr.plug("1-1", 3)
	tr.write(tr.device("1-1")+"/bConfigurationValue", "\n")
	w.handle(kernelEvent("add", bus, path, 3))
	require.Empty(t, w.taken(), "the kernel has not configured it yet")
	tr.write(tr.device("1-1")+"/bConfigurationValue", "2\n")
	w.handle(kernelEvent("add", "usb_interface", path+"/1-1:2.3", 0))
	require.Equal(t, []string{"arrived 1-1 3"}, w.taken())

	tr.unplug("1-1")
	tr.plug("1-1", 4)
	w.handle(kernelEvent("add", bus, path, 4))
	require.Equal(t, []string{"removed 1-1 3", "arrived 1-1 4"}, w.taken(), "a removal whose event was lost")
	w.handle(udevEvent("ACTION=add\x00DEVPATH=" + path + "\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00ID_X=a=b\x00"))
	require.Equal(t, []string{"changed 1-1 4"}, w.taken(), "udev has set permissions")

	tr.unplug("1-1")
	tr.plug("1-2", 5)
	tr.write(tr.device("1-2")+"/bConfigurationValue", "\n")
	require.NoError(t, w.rescan(t.Context()))
	require.Equal(t, []string{"removed 1-1 4", "arrived 1-2 5"}, w.taken())
	tr.plug("1-3", 6)
	tr.write(tr.device("1-3")+"/bConfigurationValue", "\n")
	w.handle(kernelEvent("add", bus, "/devices/usb1/1-3", 6))
	w.handle(kernelEvent("bind", bus, "/devices/usb1/1-3", 6))
	require.Equal(t, []string{"arrived 1-3 6"}, w.taken(), "a device that stays unconfigured")
}

func TestWatcherTellsWhenARefusedInterfaceIsFree(t *testing.T) {
	tr := newTree(t)
	tr.plug("1-1", 2)
	tr.bind("1-1", usbfsDriver)
	k := newKernel()
	k.claimErr, k.driverName = unix.EBUSY, usbfsDriver
	b := tr.backend(k)
	w, other := newTestWatcher(t, b), newTestWatcher(t, b)
	for _, w := range []*watcher{w, other} {
		_, err := w.Next(t.Context())
		require.NoError(t, err)
	}
	events := make(chan error, 2)
	for _, w := range []*watcher{w, other} {
		go func() {
			event, err := w.Next(t.Context())
			if err == nil && event.Kind != usbtransport.Changed {
				err = fmt.Errorf("%s", event.Kind)
			}
			events <- err
		}()
	}
	_, err := b.Open(t.Context(), only(t, b), 3)
	require.ErrorIs(t, err, usbtransport.ErrBusy)
	select {
	case err := <-events:
		require.FailNow(t, "told while it is held", "%v", err)
	case <-time.After(refusalInterval + refusalInterval/2):
	}
	tr.unbind("1-1")
	for range 2 {
		select {
		case err := <-events:
			require.NoError(t, err)
		case <-time.After(10 * refusalInterval):
			require.FailNow(t, "a watcher is not told")
		}
	}
	require.Empty(t, b.refusals.standing)
}

func TestTrustedSenders(t *testing.T) {
	root, user := unix.UnixCredentials(&unix.Ucred{Pid: 300}), unix.UnixCredentials(&unix.Ucred{Pid: 300, Uid: 1000})
	for name, c := range map[string]struct {
		from unix.Sockaddr
		oob  []byte
		want bool
	}{
		"the kernel":                {&unix.SockaddrNetlink{Groups: groupKernel}, root, true},
		"a process as the kernel":   {&unix.SockaddrNetlink{Groups: groupKernel, Pid: 300}, root, false},
		"udevd":                     {&unix.SockaddrNetlink{Groups: groupUdev, Pid: 300}, root, true},
		"a user as udevd":           {&unix.SockaddrNetlink{Groups: groupUdev, Pid: 300}, user, false},
		"udevd without credentials": {&unix.SockaddrNetlink{Groups: groupUdev, Pid: 300}, nil, false},
		"a message to us alone":     {&unix.SockaddrNetlink{Pid: 300}, root, false},
		"another family":            {&unix.SockaddrUnix{}, root, false},
	} {
		assert.Equal(t, c.want, trusted(c.from, c.oob), name)
	}
}

func FuzzUevent(f *testing.F) {
	f.Add(kernelEvent("add", "usb_device", "/devices/usb1/1-1", 2))
	f.Add(kernelEvent("unbind", "usb_interface", "/devices/usb1/1-1/1-1:1.0", 0))
	f.Add(udevEvent("ACTION=add\x00DEVPATH=/devices/usb1/1-1\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00"))
	f.Add([]byte("add@/x"))
	f.Add([]byte(udevPrefix))
	f.Fuzz(func(t *testing.T, message []byte) {
		event, err := parseUevent(message)
		if err != nil {
			require.Zero(t, event)
			return
		}
		name, ok := event.device()
		require.False(t, ok && !isDeviceName(name))
		require.False(t, ok && strings.ContainsAny(name, "/\x00"), "a name stays in its folder")
	})
}
