package advice

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"

	"github.com/goccid/goccid/usbtransport"
)

var reader = usbtransport.DeviceInfo{Bus: 1, Address: 4, PortPath: "1-2", IDVendor: 0x08e6, IDProduct: 0x3437}

// desktop has USB and the reader's node.
func desktop() fstest.MapFS {
	return fstest.MapFS{"sys/bus/usb/devices": {Mode: fs.ModeDir}, "dev/bus/usb/001/004": {}}
}

func with(m fstest.MapFS, names ...string) fstest.MapFS {
	for _, name := range names {
		m[name] = &fstest.MapFile{}
	}
	return m
}

func busy(holders ...usbtransport.Holder) error {
	return &usbtransport.Error{Op: "open", Kind: usbtransport.ErrBusy, Cause: &usbtransport.BusyError{Holders: holders}}
}

func TestAdviceForAReaderThatCantBeOpened(t *testing.T) {
	tests := map[string]struct {
		files fstest.MapFS
		goos  string
		err   error
		want  []string
	}{
		"pcscd holds it":     {desktop(), "linux", busy(usbtransport.Holder{Driver: "usbfs", PID: 512, Process: "pcscd"}), []string{"PID 512", "systemctl stop pcscd.socket"}},
		"scdaemon holds it":  {desktop(), "linux", busy(usbtransport.Holder{Driver: "usbfs", PID: 9, Process: "scdaemon"}), []string{"gpgconf --kill scdaemon"}},
		"somebody holds it":  {desktop(), "linux", busy(usbtransport.Holder{Driver: "usbfs", PID: 77, Process: "qemu"}), []string{"qemu (PID 77)"}},
		"unknown holds it":   {desktop(), "linux", busy(usbtransport.Holder{Driver: "usbfs"}), []string{"run as root to see which"}},
		"kernel driver":      {desktop(), "linux", busy(usbtransport.Holder{Driver: "pn533_usb"}), []string{"modprobe -r pn533_usb", "blacklist pn533_usb"}},
		"busy without a why": {desktop(), "linux", &usbtransport.Error{Kind: usbtransport.ErrBusy}, []string{"fuser -v /dev/bus/usb/001/004"}},
		"permission": {
			desktop(), "linux", &usbtransport.Error{Kind: usbtransport.ErrPermission},
			[]string{"/dev/bus/usb/001/004", `ATTR{idVendor}=="08e6", ATTR{idProduct}=="3437"`, "udevadm control --reload"},
		},
		"permission elsewhere": {fstest.MapFS{}, "darwin", &usbtransport.Error{Kind: usbtransport.ErrPermission}, []string{"administrator"}},
		"node not in container": {
			fstest.MapFS{"sys/bus/usb/devices": {Mode: fs.ModeDir}, ".dockerenv": {}},
			"linux",
			&usbtransport.Error{Kind: usbtransport.ErrRemoved},
			[]string{"does not exist here", "This is a container"},
		},
		"no advice for the rest": {desktop(), "linux", errors.New("something else"), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(Machine{GOOS: tt.goos, Root: tt.files}.Open(reader, tt.err), "\n")
			for _, want := range tt.want {
				assert.Contains(t, got, want)
			}
			if tt.want == nil {
				assert.Empty(t, got)
			}
		})
	}
}

func TestAdviceWhereThereIsNoReader(t *testing.T) {
	hub := usbtransport.DeviceInfo{PortPath: "1", Descriptors: []byte{18, 1, 0, 2, 9, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}}
	keyboard := usbtransport.DeviceInfo{
		PortPath: "1-1", IDVendor: 0x046d, IDProduct: 0xc31c, Manufacturer: "Logitech", Product: "Keyboard\x1b[2J",
		Descriptors: []byte{9, 4, 0, 0, 0, 3, 1, 1, 0, 9, 4, 1, 0, 0, 3, 0, 0, 0},
	}
	unreadable := usbtransport.DeviceInfo{PortPath: "1-3", Unreadable: errors.New("short read")}
	imported := usbtransport.DeviceInfo{
		PortPath: "1-4", IDVendor: 0x08e6, IDProduct: 0x3437, Unreadable: &usbtransport.Error{Op: "read", Kind: usbtransport.ErrBusy},
	}
	many := make([]usbtransport.DeviceInfo, maxListed+3)
	tests := map[string]struct {
		goos   string
		files  fstest.MapFS
		search Search
		want   []string
	}{
		"not Linux":       {"darwin", fstest.MapFS{}, Search{Err: &usbtransport.Error{Kind: usbtransport.ErrNotSupported}}, []string{"-tags libusb", "--usb libusb"}},
		"can't list":      {"linux", desktop(), Search{Err: errors.New("sysfs is strange")}, []string{"sysfs is strange"}},
		"no USB":          {"linux", fstest.MapFS{}, Search{Backend: "usbfs"}, []string{"no USB at all", "virtual machine"}},
		"no USB, docker":  {"linux", with(fstest.MapFS{}, ".dockerenv"), Search{Backend: "usbfs"}, []string{"This is a container"}},
		"no USB, WSL":     {"linux", fstest.MapFS{"proc/version": {Data: []byte("Linux 5.15-Microsoft-WSL2")}}, Search{Backend: "usbfs"}, []string{"usbipd attach --wsl"}},
		"no device":       {"linux", desktop(), Search{Backend: "usbfs"}, []string{"not even a hub", "lsusb"}},
		"empty container": {"linux", with(desktop(), "run/.containerenv"), Search{Backend: "usbfs"}, []string{"not even a hub", "This is a container"}},
		"only hubs":       {"linux", desktop(), Search{Devices: []usbtransport.DeviceInfo{hub}}, []string{"hubs but no device", "plugged in"}},
		"other devices": {
			"linux", desktop(),
			Search{Devices: []usbtransport.DeviceInfo{hub, keyboard, unreadable}},
			[]string{`1-1 046d:c31c "Logitech Keyboard\x1b[2J" (class 0x03 keyboard, mouse or FIDO key)`, "1-3", "unreadable: short read", "maker's own protocol"},
		},
		"one that another USB/IP client has": {
			"linux", desktop(),
			Search{Backend: "usbip", Devices: []usbtransport.DeviceInfo{keyboard, imported}},
			[]string{"can't be told", "1-4 08e6:3437 (unreadable: usb: read: interface is in use)", "Another client of the USB/IP server", "usbip detach"},
		},
		"too many to list": {"linux", desktop(), Search{Devices: many}, []string{"and 3 more"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(Machine{GOOS: tt.goos, Root: tt.files}.NoReader(tt.search), "\n")
			for _, want := range tt.want {
				assert.Contains(t, got, want)
			}
			assert.Contains(t, got, TryVirtual)
			assert.NotContains(t, got, "\x1b", "a device's strings must not reach the terminal raw")
		})
	}
}
