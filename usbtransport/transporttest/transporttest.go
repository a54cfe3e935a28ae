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
// that need them are skipped. Hooks are called from the test's goroutine, one at a time.
type Fixture struct {
	// Backend is what is tested.
	Backend usbtransport.Backend
	// Match tells the device to use from others that are present.
	Match func(usbtransport.DeviceInfo) bool
	// Interface is the number of the interface to claim. It has a bulk OUT, a bulk IN and an interrupt IN endpoint.
	Interface uint8

	// Loopback says that the device is no CCID reader: it sends each transfer that it received on its bulk OUT
	// endpoint back on its bulk IN endpoint, as one transfer of the same bytes. A transfer ends with a packet
	// shorter than wMaxPacketSize, in both directions, so that 64 bytes in packets of 64 are followed by an empty
	// packet and 0 bytes are one empty packet. It takes transfers of up to 65,556 bytes, and refuses control
	// requests that USB 2.0 chapter 9 does not know.
	Loopback bool
	// AnonymousHolders says that the backend can't know who holds a busy interface.
	AnonymousHolders bool
	// RemovalTime is the longest time from the return of Unplug to the end of every waiting call; 0 means 50 ms.
	RemovalTime time.Duration
	// Patience is how long a call may take that should succeed soon, before it is said to hang; 0 means 10 s.
	Patience time.Duration

	// Unplug takes the device out, and returns when it is out.
	Unplug func() error
	// Plug puts it back in, into the same port, and returns when it can be opened.
	Plug func() error
	// Stall halts an endpoint of the device until the host clears the halt.
	Stall func(endpoint uint8) error
	// QueueInterrupt makes the device send data on its interrupt IN endpoint, once. Nothing else is sent there meanwhile.
	QueueInterrupt func(data []byte) error
}

// Factory makes a fixture for one case, with the device plugged in and its interface free, and registers what
// is to be undone with t.Cleanup.
type Factory func(t testing.TB) Fixture

// Run runs every case as a subtest.
func Run(t *testing.T, factory Factory) {
	t.Helper()
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) { c.run(t, factory) })
	}
}

// testCase is one rule, or a few that are checked with the same steps.
type testCase struct {
	name string
	// missing says what can't be shown with a fixture, "" when it has all that is needed.
	missing func(Fixture) string
	body    func(*env)
}

func (c testCase) run(t testing.TB, factory Factory) {
	t.Helper()
	fixture := factory(t)
	if fixture.RemovalTime == 0 {
		fixture.RemovalTime = 50 * time.Millisecond
	}
	if fixture.Patience == 0 {
		fixture.Patience = 10 * time.Second
	}
	if c.missing != nil {
		if why := c.missing(fixture); why != "" {
			t.Skip("not shown here: " + why)
		}
	}
	c.body(&env{TB: t, Fixture: fixture})
}

func cases() []testCase {
	return []testCase{
		{"Devices lists the device with its descriptors", nil, devicesListed},
		{"Devices keeps keys and order", nil, devicesStable},
		{"Devices ends with its context", nil, devicesCancelled},
		{"Open claims the interface", nil, openClaims},
		{"Open says who holds a busy interface", nil, openBusy},
		{"Open refuses another plug-in", nil, openStale},
		{"Open refuses an interface that is not there", nil, openUnknown},
		{"Control moves data and reports refusals", nil, controlRequests},
		{"Transfers move what was sent", nil, transfersMove},
		{"A host's exact multiple of packets is ended by an empty packet", nil, exactMultipleOut},
		{"Transfers of every length around packets keep their bounds", needLoopback, packetBounds},
		{"A full buffer ends a transfer and leaves the empty packet", needLoopback, fullBuffer},
		{"Arguments that break a rule are refused", nil, invalidArguments},
		{"A context that ended sends nothing", nil, endedContext},
		{"A deadline ends a waiting transfer", nil, deadlines},
		{"A cancelled read loses and repeats nothing", nil, cancelKeepsBytes},
		{"A read cancelled between packets keeps the bytes it had", needLoopback, cancelBetweenPackets},
		{"Endpoints do not wait for each other", nil, endpointsIndependent},
		{"ClearHalt keeps both sides in step", nil, clearHaltInStep},
		{"A stall is reported until it is cleared", needStall, stalls},
		{"Interrupts arrive in order", needInterrupt, interruptsInOrder},
		{"Reset keeps the interface", nil, resetKeeps},
		{"Close wakes every waiter and frees the interface", nil, closeWakes},
		{"Close may be called by anybody at any time", nil, closeRepeated},
		{"Removal ends every call", needReplug, removalEndsCalls},
		{"A device that is plugged in again is another one", needReplug, replugIsNew},
		{"Watch starts with what is present", nil, watchPresent},
		{"Watch keeps its events when a wait is cancelled", nil, watchCancelled},
		{"Watch ends with Close", nil, watchClosed},
		{"Watch reports removals and arrivals in order", needReplug, watchOrder},
		{"A wait that is cancelled while an event comes keeps it", needReplug, watchCancelRace},
		{"Nothing is left running", nil, nothingLeft},
	}
}

func needLoopback(f Fixture) string {
	if f.Loopback {
		return ""
	}
	return "a CCID reader sends no transfers of chosen lengths"
}

func needStall(f Fixture) string {
	if f.Stall != nil {
		return ""
	}
	return "this device can't be made to stall an endpoint"
}

func needInterrupt(f Fixture) string {
	if f.QueueInterrupt != nil {
		return ""
	}
	return "this device can't be made to send chosen interrupts"
}

func needReplug(f Fixture) string {
	if f.Unplug != nil && f.Plug != nil {
		return ""
	}
	return "this device can't be unplugged and plugged in by a program"
}
