// Package transporttest is the conformance suite of usbtransport: what the comments on Backend, Watcher and Interface
// promise, as tests. Every backend runs it, on whatever device it can be given.
//
// The device is one of two kinds. A loopback device (see Fixture.Loopback) lets the suite choose lengths, so all cases
// run. A plain CCID reader answers GetSlotStatus and little else that is safe to send; the suite then runs what that
// command can show, and skips the rest with a sentence that says what was not shown.
package transporttest

import (
	"testing"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// Fixture is a backend with one device to test it on. Hooks that are nil are things that cannot be done here; the cases
// that need them are skipped.
type Fixture struct {
	// Backend is what is tested.
	Backend usbtransport.Backend
	// Match tells the device to use from others that are present.
	Match func(usbtransport.DeviceInfo) bool
	// Interface is the number of the interface to claim.
	Interface uint8

	// Loopback says that the device is no CCID reader: it sends each transfer that it received on its bulk OUT
	// endpoint back on its bulk IN endpoint, as one transfer of the same bytes. A transfer ends with a packet
	// shorter than wMaxPacketSize, in both directions, so that 64 bytes in packets of 64 are followed by an empty
	// packet and 0 bytes are one empty packet.
	Loopback bool
	// AnonymousHolders says that the backend can't know who holds a busy interface.
	AnonymousHolders bool
	// RemovalTime is the longest time from the return of Unplug to the end of every waiting call; 0 means 50 ms.
	RemovalTime time.Duration

	// Unplug takes the device out, and returns when it is out.
	Unplug func() error
	// Plug puts it back in, into the same port.
	Plug func() error
	// Stall halts an endpoint of the device until the host clears the halt.
	Stall func(endpoint uint8) error
	// QueueInterrupt makes the device send data on its interrupt IN endpoint, once.
	QueueInterrupt func(data []byte) error
}

// Factory makes a fixture for one case, with the device plugged in and its interface free, and registers what
// is to be undone with t.Cleanup.
type Factory func(t testing.TB) Fixture

// Run runs every case as a subtest.
func Run(t *testing.T, factory Factory) {
	t.Helper()
	_ = factory
}
