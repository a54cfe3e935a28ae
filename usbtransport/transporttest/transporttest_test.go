package transporttest

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
)

func fakeFactory(flaw string) Factory {
	return func(t testing.TB) Fixture {
		b := newFakeBus(flaw)
		return Fixture{
			Backend:  b,
			Match:    func(d usbtransport.DeviceInfo) bool { return d.PortPath == fakePath },
			Loopback: true,
			Unplug: func() error {
				b.unplug()
				return nil
			},
			Plug: func() error {
				b.plug()
				return nil
			},
			Stall: func(endpoint uint8) error {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.halted[endpoint] = true
				b.notify()
				return nil
			},
			QueueInterrupt: func(data []byte) error {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.interrupts = append(b.interrupts, data)
				b.notify()
				return nil
			},
		}
	}
}

// hasty has a suite give up early, for backends that hang.
func hasty(factory Factory) Factory {
	return func(t testing.TB) Fixture {
		f := factory(t)
		f.Patience = time.Second
		return f
	}
}

func TestSuitePassesABackendThatObeys(t *testing.T) { Run(t, fakeFactory("")) }

// TestSuiteCatchesEachFlaw lets the suite judge a backend that breaks one rule, for each rule and the cases that must notice.
func TestSuiteCatchesEachFlaw(t *testing.T) {
	for flaw, caught := range map[string]string{
		"no descriptors":                              "Devices lists",
		"the list has no order":                       "Devices keeps",
		"Devices ignores its context":                 "Devices ends",
		"Open ignores its context":                    "Devices ends",
		"keys are used again":                         "A device that is plugged in again",
		"Open takes any plug-in":                      "Open refuses another",
		"an interface is opened twice":                "Open says",
		"a busy interface has no holder":              "Open says",
		"errors have no type":                         "Control",
		"errors name no endpoint":                     "Arguments",
		"control transfers have any length":           "Control",
		"a refused request is an I/O error":           "Control",
		"short control transfers are counted in full": "Control",
		"no empty packet follows an exact multiple":   "A host's exact multiple",
		"an empty transfer is not sent":               "Transfers of every length",
		"the device sends no empty packets":           "Transfers of every length",
		"empty packets are skipped":                   "Transfers of every length",
		"a full packet ends a read":                   "Transfers of every length",
		"reads take any buffer":                       "Arguments",
		"an ended context still sends":                "A context that ended",
		"contexts are ignored":                        "A deadline",
		"a deadline is said to be a cancellation":     "A deadline",
		"a cancelled read loses its bytes":            "A read cancelled between",
		"a cancelled read gives its bytes back":       "A read cancelled between",
		"a cancelled read eats the next packet":       "A cancelled read",
		"endpoints wait for each other":               "Endpoints",
		"clear halt resets one side":                  "ClearHalt",
		"clear halt does nothing":                     "A stall",
		"a stall is not noticed":                      "A stall",
		"a stall is reported once":                    "A stall",
		"interrupts come twice":                       "Interrupts",
		"only the last interrupt is kept":             "Interrupts",
		"a reset loses the interface":                 "Reset",
		"a reset leaves transfers":                    "Reset",
		"Close leaves waiters":                        "Close wakes",
		"Close keeps the interface":                   "Close wakes",
		"a closed interface is said to be removed":    "Close wakes",
		"a second Close fails":                        "Close may",
		"removal leaves waiters":                      "Removal",
		"removal is noticed late":                     "Removal",
		"removal is an I/O error":                     "Removal",
		"a watch starts with nothing":                 "Watch starts",
		"a device arrives twice":                      "Watch starts",
		"a watcher's Close leaves waiters":            "Watch ends",
		"events are out of order":                     "Watch reports",
		"only one watcher is told":                    "Watch reports",
		"a cancelled wait loses an event":             "A wait that is cancelled",
		"a goroutine is left":                         "Nothing",
	} {
		t.Run(flaw, func(t *testing.T) {
			t.Parallel()
			ran := 0
			for _, c := range cases() {
				if strings.HasPrefix(c.name, caught) {
					ran++
					assert.True(t, fails(t, c, hasty(fakeFactory(flaw))), "%q passes a backend with the flaw", c.name)
				}
			}
			require.Positive(t, ran, "no case is named %q", caught)
		})
	}
}

// fails runs a case and reports whether it failed.
func fails(t *testing.T, c testCase, factory Factory) bool {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.cleanUp()
		c.run(r, factory)
	}()
	<-done
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// recorder is a testing.TB that keeps a verdict for itself.
type recorder struct {
	testing.TB

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

func (r *recorder) Errorf(string, ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) FailNow() {
	r.Errorf("")
	runtime.Goexit()
}

func (r *recorder) Skip(...any) { runtime.Goexit() }

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) cleanUp() {
	for _, f := range r.cleanups {
		f()
	}
}
