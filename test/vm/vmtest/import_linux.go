package vmtest

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/usbip"
)

// usbipAddress is where usbip looks for a server.
const usbipAddress = "127.0.0.1:3240"

// Export serves a backend's devices over USB/IP until the test ends, for Import.
func Export(t testing.TB, backend usbtransport.Backend) {
	t.Helper()
	if said, err := exec.Command("modprobe", "vhci-hcd").CombinedOutput(); err != nil {
		t.Fatalf("vmtest: modprobe vhci-hcd: %v: %s", err, said)
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetLevel(logrus.WarnLevel)
	listener, err := net.Listen("tcp", usbipAddress)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- (&usbip.Server{Backend: backend, Logger: log}).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// Import has the guest's kernel import an exported device, and returns its name there ("3-1") once it is configured. Nothing else is
// imported.
func Import(t testing.TB, busID string) string {
	t.Helper()
	await(t, "usbip to attach "+busID, func() bool {
		said, err := exec.Command("usbip", "attach", "--remote=127.0.0.1", "--busid="+busID).CombinedOutput()
		if err != nil {
			// The server may be about to be ready.
			t.Logf("usbip attach: %v: %s", err, said)
			time.Sleep(100 * time.Millisecond)
		}
		return err == nil
	})
	await(t, "the kernel to configure "+busID, func() bool { return len(imported(t)) == 1 })
	return imported(t)[0]
}

// AwaitNoImport returns once the kernel has let go of what it had imported.
func AwaitNoImport(t testing.TB) {
	t.Helper()
	await(t, "the kernel to let go of what it had imported", func() bool { return len(imported(t)) == 0 })
}

// imported returns the names of the configured devices that vhci_hcd has.
func imported(t testing.TB) []string {
	t.Helper()
	interfaces, err := filepath.Glob("/sys/devices/platform/vhci_hcd.*/usb*/*-*/*-*:*/bInterfaceClass")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range interfaces {
		name := filepath.Base(filepath.Dir(filepath.Dir(file)))
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	return names
}
