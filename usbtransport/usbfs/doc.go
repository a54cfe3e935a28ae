// Package usbfs reaches USB devices through Linux's own interface: sysfs to enumerate, /dev/bus/usb to open, the kernel's
// uevents to watch. No cgo, no library, no daemon.
//
// On other systems the package builds, and every method returns usbtransport.ErrNotSupported.
//
// Goroutines: one per open interface, the reaper, which collects the transfers that the kernel has finished and waits
// for more in Go's poller, so that no transfer and no watcher costs a thread. It ends with Close. Calls that the
// kernel can't take back (open, claim, clear halt, reset) run in a goroutine of their own, so that their caller's
// context is kept; the kernel bounds them to some seconds. A watcher has no goroutine: Next reads the socket itself.
package usbfs

import "github.com/sirupsen/logrus"

// Options configures a Backend. The zero value is what programs want.
type Options struct {
	// Logger receives debug messages; nil discards them.
	Logger logrus.FieldLogger
	// SysRoot, DevRoot and ProcRoot replace /sys, /dev and /proc, for tests.
	SysRoot, DevRoot, ProcRoot string
}
