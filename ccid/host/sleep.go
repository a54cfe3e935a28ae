package host

import (
	"sync"
	"time"
)

const (
	// leastSleep is what is taken for a sleep of the machine; what is less is the time between two looks at two clocks.
	leastSleep = 500 * time.Millisecond
	// sleepCheck is how often a Monitor looks. Readers look before each operation, too.
	sleepCheck = 2 * time.Second
)

// sleepWatch notices that the machine has slept. The zero value never does.
type sleepWatch struct {
	mu sync.Mutex
	// suspended is Options.Suspended.
	suspended func() time.Duration
	seen      time.Duration // what suspended returned last
}

func newSleepWatch(o Options) *sleepWatch {
	w := &sleepWatch{suspended: o.Suspended}
	if w.suspended == nil {
		w.suspended = newSleepClock().suspended
	}
	w.seen = w.suspended()
	return w
}

// slept reports whether the machine has slept since it was asked last.
func (w *sleepWatch) slept() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.suspended()
	slept := now-w.seen >= leastSleep
	w.seen = max(w.seen, now)
	return slept
}

// noticeSleep takes a sleep of the machine for what it is to the reader: ports may have lost their power, and come back as they
// were. The cards need a new PowerOn, which costs little where it was not so; a session that is used all the same would cost its
// commands. A reader that did not come back as it was is removed by the kernel, and arrives anew.
func (r *Reader) noticeSleep() {
	if !r.sleep.slept() {
		return
	}
	r.log.Debug("the machine has slept: cards count as reset")
	for _, s := range r.slots {
		s.reset()
	}
}
