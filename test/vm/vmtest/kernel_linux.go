package vmtest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel logs of the reader, for KernelLog.Await.
const (
	// KernelFound is logged once the reader's descriptors are read.
	KernelFound = "New USB device found, idVendor=08e6"
	// KernelDisconnect is logged when the kernel finds the port empty: before it ends any transfer of the device, unbinds its
	// interfaces and sends uevents about all that. Hubs and other devices have the same line.
	KernelDisconnect = "USB disconnect, device number"
)

// Now returns the time since boot as all processes see it (CLOCK_MONOTONIC).
func Now(t testing.TB) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// KernelLog reads the kernel's log for the moments at which the kernel itself noticed something.
type KernelLog struct {
	file  *os.File
	marks int
	// ahead is what has to be added to the stamps of the log to get what Now returns. The two clocks drift apart.
	ahead time.Duration
}

// OpenKernelLog opens the log at its end. It is closed with the test.
func OpenKernelLog(t testing.TB) *KernelLog {
	t.Helper()
	// The kernel would drop marks that come often.
	if err := os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile("/dev/kmsg", os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err := file.Seek(0, 2); err != nil {
		t.Fatal(err)
	}
	return &KernelLog{file: file}
}

// Mark skips what was logged until now, and sets the log's clock by writing to it and reading when that was.
func (k *KernelLog) Mark(t testing.TB) {
	t.Helper()
	k.marks++
	mark := fmt.Sprintf("goccid-vm: mark %d of process %d.", k.marks, os.Getpid())
	before := Now(t)
	if _, err := k.file.WriteString("<7>" + mark + "\n"); err != nil {
		t.Fatal(err)
	}
	after := Now(t)
	k.ahead = 0
	k.ahead = (before+after)/2 - k.Await(t, mark)
}

// Await waits for a line that contains text, after those read before, and returns when it was logged, as Now gives it.
func (k *KernelLog) Await(t testing.TB, text string) time.Duration {
	t.Helper()
	if err := k.file.SetReadDeadline(time.Now().Add(answerDeadline)); err != nil {
		t.Fatal(err)
	}
	record := make([]byte, 8192)
	for {
		n, err := k.file.Read(record) // one record at a time
		if errors.Is(err, unix.EPIPE) {
			continue // records that nobody read in time are gone
		}
		if err != nil {
			t.Fatalf("vmtest: wait for %q in the kernel's log: %v", text, err)
		}
		stamp, message, err := parseRecord(string(record[:n]))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(message, text) {
			return stamp + k.ahead
		}
	}
}

// parseRecord takes a record of /dev/kmsg apart: "level,sequence,microseconds,flags;message".
func parseRecord(record string) (stamp time.Duration, message string, err error) {
	head, message, _ := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	if len(fields) < 3 {
		return 0, "", fmt.Errorf("vmtest: %q is no record of the kernel's log", record)
	}
	microseconds, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return 0, "", fmt.Errorf("vmtest: %q is no record of the kernel's log: %w", record, err)
	}
	return time.Duration(microseconds) * time.Microsecond, message, nil
}

// StartUdevd runs udevd until the test ends, as ordinary machines do; the stock daemon sees no hot plug without it.
func StartUdevd(t testing.TB) {
	t.Helper()
	StartProcess(t, os.DevNull, "/lib/systemd/systemd-udevd")
	await(t, "udevd", func() bool {
		_, err := os.Stat("/run/udev/control")
		return err == nil
	})
}
