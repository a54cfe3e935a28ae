package vmtest

import (
	"bytes"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// KernelEvents notes when the kernel's own events (uevents) of removals come to a bystander: nobody outside of the kernel learns of one
// sooner, but for those whose transfers it ends.
type KernelEvents struct{ removals chan time.Duration }

// OpenKernelEvents listens until the test ends.
func OpenKernelEvents(t testing.TB) *KernelEvents {
	t.Helper()
	const kernelGroup = 1
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "uevents")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		t.Fatal(err)
	}
	k := &KernelEvents{removals: make(chan time.Duration, 16)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.listen(t, socket)
	}()
	t.Cleanup(func() {
		socket.Close()
		<-ended
	})
	return k
}

func (k *KernelEvents) listen(t testing.TB, socket *os.File) {
	message := make([]byte, 8192)
	for {
		n, err := socket.Read(message)
		if err != nil {
			return // closed; or Removed says what is missing
		}
		at := Now(t)
		if bytes.HasPrefix(message[:n], []byte("remove@")) && bytes.Contains(message[:n], []byte("\x00DEVTYPE=usb_interface\x00")) {
			select {
			case k.removals <- at:
			default:
			}
		}
	}
}

// Skip forgets what was told until now.
func (k *KernelEvents) Skip() {
	for len(k.removals) > 0 {
		<-k.removals
	}
}

// Removed waits for the next removal of an interface, and returns when that was told, as Now gives it.
func (k *KernelEvents) Removed(t testing.TB) time.Duration {
	t.Helper()
	select {
	case at := <-k.removals:
		return at
	case <-time.After(answerDeadline):
		t.Fatal("vmtest: the kernel sends no event of a removal")
		return 0
	}
}
