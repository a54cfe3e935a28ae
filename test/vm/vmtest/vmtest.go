// Package vmtest is for tests that run inside the VM of test/vm: it tells whether they do, and plugs and unplugs the
// emulated reader under them.
package vmtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccid/goccid/test/vm/hotplug"
)

// What the guest's reader (QEMU's usb-ccid with its emulated CAC card) announces.
const (
	IDVendor  = 0x08e6
	IDProduct = 0x4433
	// ATR is the card's answer to reset.
	ATR = "3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34"
)

// answerDeadline bounds the wait for the host, which acts within milliseconds.
const answerDeadline = 20 * time.Second

// Require skips the test unless it runs inside the VM, and has the reader plugged in when an earlier test left it unplugged.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv("GOCCID_VM") != "1" {
		t.Skip("needs the VM's reader: run it with test/vm/run")
	}
	if len(readers(t)) == 0 {
		Plug(t)
	}
}

// Unplug pulls the reader out, and returns once the guest's kernel has noticed.
func Unplug(t testing.TB) {
	t.Helper()
	mustAsk(t, hotplug.Request{Action: hotplug.Unplug})
	await(t, "the reader's removal", func() bool { return len(readers(t)) == 0 })
}

// Plug plugs the reader in where it is at the start of a run, and returns once the guest's kernel has configured it.
func Plug(t testing.TB) {
	t.Helper()
	PlugAt(t, 1)
}

// PlugAt plugs the reader into a port (1..4) of the root hub, and returns once the guest's kernel has configured it.
func PlugAt(t testing.TB, port int) {
	t.Helper()
	plug(t, hotplug.Request{Port: port})
}

// PlugT1 plugs the reader in with a card that speaks T=1, a T=1 card of virtual/card that QEMU's reader hands blocks through to. It
// returns once the guest's kernel has configured the reader; the card comes a moment later.
func PlugT1(t testing.TB) {
	t.Helper()
	plug(t, hotplug.Request{Port: 1, T1: true})
}

func plug(t testing.TB, request hotplug.Request) {
	t.Helper()
	request.Action = hotplug.Plug
	mustAsk(t, request)
	await(t, "the reader's arrival", func() bool { return len(readers(t)) == 1 })
}

// RemoveCard takes the card out of the reader. It must be back by the end of the test.
func RemoveCard(t testing.TB) {
	t.Helper()
	mustAsk(t, hotplug.Request{Action: hotplug.Remove})
}

// InsertCard puts the card back into the reader.
func InsertCard(t testing.TB) {
	t.Helper()
	mustAsk(t, hotplug.Request{Action: hotplug.Insert})
}

// Ask has the host carry out one action, for other goroutines than the test's own, one at a time. It returns when
// QEMU has done it, which may be before the guest's kernel has noticed.
func Ask(request hotplug.Request) error {
	port, err := openHost()
	if err != nil {
		return fmt.Errorf("vmtest: %w", err)
	}
	defer port.Close()

	if err := port.SetDeadline(time.Now().Add(answerDeadline)); err != nil {
		return fmt.Errorf("vmtest: %w", err)
	}
	request.ID = time.Now().UnixNano()
	if err := hotplug.Do(port, request); err != nil {
		return fmt.Errorf("vmtest: %w", err)
	}
	return nil
}

func mustAsk(t testing.TB, request hotplug.Request) {
	t.Helper()
	if err := Ask(request); err != nil {
		t.Fatal(err)
	}
}

// seedVariable has a run repeat the random numbers of an earlier one.
const seedVariable = "GOCCID_VM_SEED"

// Seed returns a seed for random numbers, and prints it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	return seed
}

// host is a line to the host.
type host interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// controlVariable names the socket by which tests outside of the guest talk to the host.
const controlVariable = "GOCCID_VM_CONTROL"

func openHost() (host, error) {
	if socket := os.Getenv(controlVariable); socket != "" {
		return net.Dial("unix", socket)
	}
	return openPort()
}

// Outside skips the test unless it runs outside of a guest that exports its reader over USB/IP, and returns the address of
// that server. The reader is to be plugged in at the end.
func Outside(t testing.TB) (address string) {
	t.Helper()
	address = os.Getenv("GOCCID_VM_USBIP")
	if address == "" {
		t.Skip("needs the VM's reader: run it with test/vm/run")
	}
	return address
}

// openPort opens the serial port to the host. No udevd has made a link to it, so it is found by its name in sysfs.
func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(content)) == hotplug.PortName {
			return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(name))), os.O_RDWR, 0)
		}
	}
	return nil, errors.New("the serial port to the host is missing")
}

// readers returns the sysfs folders of the configured interfaces of class smart card (0x0B).
func readers(t testing.TB) []string {
	t.Helper()
	classes, err := filepath.Glob("/sys/bus/usb/devices/*/bInterfaceClass")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, class := range classes {
		content, err := os.ReadFile(class)
		if err == nil && strings.TrimSpace(string(content)) == "0b" {
			found = append(found, filepath.Dir(class))
		}
	}
	return found
}

func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(answerDeadline); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("vmtest: waited %s for %s", answerDeadline, what)
		}
	}
}
