package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// wire is a carrier that delivers what the test puts on it.
type wire struct {
	carrier
	incoming chan delivered
	// readers counts those who receive, exclusive those whom nobody may read beside.
	readers, exclusive atomic.Int32
	// faults has what was wrong with the use of the wire.
	mu     sync.Mutex
	faults []string
	// clear is what becomes of clearIn, after clearTakes; cleared counts.
	clear      error
	clearTakes time.Duration
	cleared    int
}

// delivered is what one receive gives.
type delivered struct {
	resp ccid.Response
	err  error
	// rest is how long the rest of the message takes, which is waited for whatever the context says.
	rest time.Duration
}

func newWire() *wire { return &wire{incoming: make(chan delivered, 256)} }

func (w *wire) misused(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

func (w *wire) send(context.Context, ccid.Command) error { return nil }

func (w *wire) receive(ctx context.Context) (ccid.Response, error) {
	if n := w.readers.Add(1); n > 1 || w.exclusive.Load() > 0 {
		w.misused("%d read at once, %d exclude that", n, w.exclusive.Load())
	}
	defer w.readers.Add(-1)
	select {
	case d := <-w.incoming:
		time.Sleep(d.rest)
		return d.resp, d.err
	case <-ctx.Done():
		return ccid.Response{}, usbtransport.ContextKind(ctx)
	}
}

func (w *wire) clearIn(context.Context) error {
	if n := w.readers.Load(); n > 0 {
		w.misused("cleared while %d read", n)
	}
	w.cleared++
	time.Sleep(w.clearTakes)
	return w.clear
}

// put has the wire deliver a message to a call.
func (w *wire) put(c *call, status ccid.CommandStatus) { w.incoming <- delivered{resp: to(c, status)} }

func to(c *call, status ccid.CommandStatus) ccid.Response {
	return ccid.Response{Type: ccid.TypeSlotStatus, Slot: c.command.Slot, Seq: c.command.Seq, Status: ccid.NewStatus(ccid.ICCActive, status)}
}

// stray is a message that answers nothing.
var stray = delivered{resp: ccid.Response{Type: ccid.TypeSlotStatus, Slot: 99}}

// talk is a dispatcher on a wire, and those who wait for it.
type talk struct {
	*dispatcher
	wire    *wire
	waiting sync.WaitGroup
}

// result is how a wait ended.
type result struct {
	err   error
	after time.Duration
}

// talking runs f in a bubble, and sees to it that the wire was used well and that nobody uses it any more.
func talking(t *testing.T, f func(t *testing.T, d *talk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newTalk()
		f(t, d)
		d.waiting.Wait()
		require.NoError(t, d.misuse())
	})
}

func newTalk() *talk {
	w := newWire()
	d := &talk{dispatcher: newDispatcher(w), wire: w}
	d.log = func(string, ...any) {}
	d.trace = func(ccid.Response, bool) {}
	return d
}

// misuse tells what was wrong with the use of the wire, now that nobody waits any more.
func (d *talk) misuse() error {
	var list []error
	for _, fault := range d.wire.faults {
		list = append(list, errors.New(fault))
	}
	if n := d.wire.readers.Load(); n > 0 || len(d.reading) > 0 || len(d.calls) > 0 || d.pauses > 0 {
		list = append(list, fmt.Errorf("%d read, %d calls and %d pauses are left", n, len(d.calls), d.pauses))
	}
	return errors.Join(list...)
}

// wait begins a call of a slot, whose answer may take as long as limit each time.
func (d *talk) wait(ctx context.Context, slot uint8, limit time.Duration) (*call, <-chan result) {
	c := d.numbered(slot)
	ended := make(chan result, 1)
	begun := time.Now()
	d.waiting.Go(func() {
		defer d.leave(c)
		err := d.send(ctx, c)
		for err == nil {
			var resp ccid.Response
			if resp, err = d.next(ctx, c, limit); resp.Status.Command() != ccid.CommandTimeExtension {
				break
			}
		}
		ended <- result{err, time.Since(begun)}
	})
	synctest.Wait()
	return c, ended
}

func TestWhoeverReadsTakesItsOwnAnswer(t *testing.T) {
	talking(t, func(t *testing.T, d *talk) {
		c, ended := d.wait(t.Context(), 0, time.Second)
		require.EqualValues(t, 1, d.wire.readers.Load())
		time.Sleep(900 * time.Millisecond)
		d.wire.put(c, ccid.CommandTimeExtension)
		time.Sleep(900 * time.Millisecond)
		d.wire.put(c, ccid.CommandOK)
		require.Equal(t, result{nil, 1800 * time.Millisecond}, <-ended)
	})
}

// TestReadingPassesOn has the one of two slots that reads leave, and the other one's answer come after that.
func TestReadingPassesOn(t *testing.T) {
	cancelled := func(after time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
		return func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(after, cancel)
			return ctx, cancel
		}
	}
	for name, test := range map[string]struct {
		limit   time.Duration
		context func(context.Context) (context.Context, context.CancelFunc)
		answer  bool
		want    error
	}{
		"deadline":  {limit: time.Second, want: usbtransport.ErrTimedOut},
		"cancelled": {limit: time.Hour, context: cancelled(time.Second), want: usbtransport.ErrCancelled},
		"the caller's limit": {limit: time.Hour, context: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, want: usbtransport.ErrTimedOut},
		"answered":            {limit: time.Hour, answer: true},
		"answered, cancelled": {limit: time.Hour, answer: true, context: cancelled(2 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			talking(t, func(t *testing.T, d *talk) {
				ctx := t.Context()
				if test.context != nil {
					var cancel context.CancelFunc
					ctx, cancel = test.context(ctx)
					defer cancel()
				}
				first, firstEnded := d.wait(ctx, 0, test.limit)
				second, secondEnded := d.wait(t.Context(), 1, time.Minute)
				third, thirdEnded := d.wait(t.Context(), 2, time.Minute)
				require.EqualValues(t, 1, d.wire.readers.Load())
				d.wire.put(third, ccid.CommandOK) // by the first
				require.Equal(t, result{}, <-thirdEnded)
				time.Sleep(time.Second)
				if test.answer {
					d.wire.put(first, ccid.CommandOK)
				}
				require.Equal(t, result{test.want, time.Second}, <-firstEnded)
				synctest.Wait()
				require.EqualValues(t, 1, d.wire.readers.Load())
				time.Sleep(30 * time.Second)
				d.wire.put(first, ccid.CommandOK) // late, to nobody
				d.wire.put(second, ccid.CommandOK)
				require.Equal(t, result{nil, 31 * time.Second}, <-secondEnded)
			})
		})
	}
}

// TestMessageThatHasBegunIsReadToItsEnd has the wait of whoever reads end in the middle of a message.
func TestMessageThatHasBegunIsReadToItsEnd(t *testing.T) {
	for slot := range 2 {
		t.Run(fmt.Sprintf("of slot %d", slot), func(t *testing.T) {
			talking(t, func(t *testing.T, d *talk) {
				first, firstEnded := d.wait(t.Context(), 0, time.Second)
				second, secondEnded := d.wait(t.Context(), 1, time.Minute)
				time.Sleep(900 * time.Millisecond)
				message := delivered{resp: to([]*call{first, second}[slot], ccid.CommandOK), rest: 200 * time.Millisecond}
				d.wire.incoming <- message
				want := []result{{nil, 1100 * time.Millisecond}, {usbtransport.ErrTimedOut, 1100 * time.Millisecond}}[slot]
				require.Equal(t, want, <-firstEnded)
				if slot == 0 {
					d.wire.put(second, ccid.CommandOK)
				}
				require.Equal(t, result{nil, 1100 * time.Millisecond}, <-secondEnded)
			})
		})
	}
}

// TestNobodyReadsMeanwhile has one slot's recovery clear the way in while others wait, some of whom leave meanwhile.
func TestNobodyReadsMeanwhile(t *testing.T) {
	talking(t, func(t *testing.T, d *talk) {
		var calls []*call
		var ended []<-chan result
		for slot := range uint8(8) {
			c, e := d.wait(t.Context(), slot, time.Duration(slot+1)*time.Second)
			calls, ended = append(calls, c), append(ended, e)
		}
		time.Sleep(time.Millisecond)
		for range 3 {
			d.waiting.Go(func() {
				assert.NoError(t, d.withoutReading(t.Context(), func(context.Context) error {
					defer d.wire.exclusive.Add(-1)
					if d.wire.readers.Load() > 0 || d.wire.exclusive.Add(1) > 1 {
						d.wire.misused("not alone")
					}
					time.Sleep(1500 * time.Millisecond)
					return nil
				}))
			})
		}
		synctest.Wait()
		for _, c := range calls {
			d.wire.put(c, ccid.CommandOK)
		}
		for slot, e := range ended {
			want := result{nil, 4501 * time.Millisecond}
			if limit := time.Duration(slot+1) * time.Second; limit < want.after {
				want = result{usbtransport.ErrTimedOut, limit}
			}
			require.Equal(t, want, <-e, "slot %d", slot)
		}
	})
}

func TestWaitForNobodyToReadIsBounded(t *testing.T) {
	talking(t, func(t *testing.T, d *talk) {
		c, ended := d.wait(t.Context(), 0, time.Minute)
		d.wire.incoming <- delivered{resp: stray.resp, rest: 2 * time.Second}
		synctest.Wait()
		begun := time.Now()
		err := withTimeout(t.Context(), time.Second, func(ctx context.Context) error {
			return d.withoutReading(ctx, func(context.Context) error { return errors.New("alone") })
		})
		require.ErrorIs(t, err, usbtransport.ErrTimedOut)
		require.Equal(t, time.Second, time.Since(begun))
		time.Sleep(3 * time.Second)
		d.wire.put(c, ccid.CommandOK)
		require.Equal(t, result{nil, 4 * time.Second}, <-ended)
	})
}

// TestTimeExtensionsThatNobodyTakesHoldNobodyUp has them come for a slot whose command is still being sent.
func TestTimeExtensionsThatNobodyTakesHoldNobodyUp(t *testing.T) {
	talking(t, func(t *testing.T, d *talk) {
		c, ended := d.wait(t.Context(), 0, time.Second)
		busy := d.numbered(1)
		for range 100 {
			d.wire.put(busy, ccid.CommandTimeExtension)
		}
		d.wire.put(c, ccid.CommandOK)
		require.Equal(t, result{}, <-ended)
		resp, err := d.next(t.Context(), busy, time.Second)
		require.NoError(t, err)
		require.Equal(t, ccid.CommandTimeExtension, resp.Status.Command())
		d.wire.put(busy, ccid.CommandTimeExtension)
		d.wire.put(busy, ccid.CommandOK)
		for resp.Status.Command() == ccid.CommandTimeExtension {
			resp, err = d.next(t.Context(), busy, time.Second)
			require.NoError(t, err)
		}
		d.leave(busy)
	})
}

// TestStrayMessagesAreCountedWhoeverReads has as many come as are borne, some for each of those who read, and then one more.
func TestStrayMessagesAreCountedWhoeverReads(t *testing.T) {
	for more := range 2 {
		t.Run(fmt.Sprintf("%d more", more), func(t *testing.T) {
			talking(t, func(t *testing.T, d *talk) {
				_, first := d.wait(t.Context(), 0, time.Second)
				second, ended := d.wait(t.Context(), 1, time.Minute)
				for range maxForeign - 1 {
					d.wire.incoming <- stray
				}
				require.ErrorIs(t, (<-first).err, usbtransport.ErrTimedOut)
				for range 1 + more {
					d.wire.incoming <- stray
				}
				d.wire.put(second, ccid.CommandOK)
				if err := (<-ended).err; more > 0 {
					require.ErrorIs(t, err, ccid.ErrMessage)
				} else {
					require.NoError(t, err)
				}
			})
		})
	}
}

// TestStrayMessagesToEarlierCommandsDoNotCount has each of two commands meet as many as are borne.
func TestStrayMessagesToEarlierCommandsDoNotCount(t *testing.T) {
	talking(t, func(t *testing.T, d *talk) {
		for range 3 {
			_, ended := d.wait(t.Context(), 0, time.Second)
			for range maxForeign {
				d.wire.incoming <- stray
			}
			require.Equal(t, result{usbtransport.ErrTimedOut, time.Second}, <-ended)
		}
	})
}

// TestFaultsAreRepairedWhoeverReads has reads fail while slots wait: as often as that is borne, and once more.
func TestFaultsAreRepairedWhoeverReads(t *testing.T) {
	stall := delivered{err: usbtransport.ErrStalled}
	for more := range 2 {
		t.Run(fmt.Sprintf("%d more", more), func(t *testing.T) {
			talking(t, func(t *testing.T, d *talk) {
				d.wire.clearTakes = 100 * time.Millisecond
				first, firstEnded := d.wait(t.Context(), 0, time.Minute)
				second, secondEnded := d.wait(t.Context(), 1, time.Minute)
				third, thirdEnded := d.wait(t.Context(), 2, time.Minute)
				d.wire.incoming <- stall
				d.wire.put(first, ccid.CommandOK)
				require.Equal(t, result{nil, 100 * time.Millisecond}, <-firstEnded)
				for range maxFaultsShared + more {
					d.wire.incoming <- stall
				}
				d.wire.put(second, ccid.CommandOK)
				d.wire.put(third, ccid.CommandOK)
				for _, ended := range []<-chan result{secondEnded, thirdEnded} {
					if err := (<-ended).err; more > 0 {
						require.ErrorIs(t, err, usbtransport.ErrStalled)
					} else {
						require.NoError(t, err)
					}
				}
				require.Equal(t, 1+maxFaultsShared, d.wire.cleared)
				if more > 0 {
					d.wire.incoming = make(chan delivered)
				}
			})
		})
	}
}

// TestRepairIsNotCutShort has the wait of whoever reads end while the way in is being cleared.
func TestRepairIsNotCutShort(t *testing.T) {
	talking(t, func(t *testing.T, d *talk) {
		d.wire.clearTakes = 300 * time.Millisecond
		_, firstEnded := d.wait(t.Context(), 0, time.Second)
		second, secondEnded := d.wait(t.Context(), 1, time.Minute)
		time.Sleep(900 * time.Millisecond)
		d.wire.incoming <- delivered{err: usbtransport.ErrStalled}
		require.Equal(t, result{usbtransport.ErrTimedOut, 1200 * time.Millisecond}, <-firstEnded)
		d.wire.put(second, ccid.CommandOK)
		require.Equal(t, result{nil, 1200 * time.Millisecond}, <-secondEnded)
	})
}

// TestFaultEndsOneSlotsWait: one slot alone learns of the first.
func TestFaultEndsOneSlotsWait(t *testing.T) {
	talking(t, func(t *testing.T, d *talk) {
		_, ended := d.wait(t.Context(), 0, time.Second)
		d.wire.incoming <- delivered{err: usbtransport.ErrStalled}
		require.ErrorIs(t, (<-ended).err, usbtransport.ErrStalled)
		require.Zero(t, d.wire.cleared)
	})
}

// plan is what happens to one slot's command. Times are from the beginning of the plan.
type plan struct {
	begins, limit time.Duration
	cancelled     time.Duration   // 0 for never
	extensions    []time.Duration // when they come
	answered      time.Duration   // 0 for never
}

// pause is a time in which nobody may read.
type pause struct{ begins, ends time.Duration }

// expect tells how the command ends: what comes in a pause is read at its end.
func (p plan) expect(pauses []pause) result {
	until, ended := p.begins+p.limit, usbtransport.ErrTimedOut
	readAt := func(t time.Duration) time.Duration {
		for _, pause := range pauses {
			if t > pause.begins && t < pause.ends {
				return pause.ends
			}
		}
		return t
	}
	for _, t := range p.extensions {
		if t = readAt(t); t < until {
			until = t + p.limit
		}
	}
	if t := readAt(p.answered); p.answered > 0 && t < until {
		until, ended = t, nil
	}
	if p.cancelled > 0 && p.cancelled < until {
		until, ended = p.cancelled, usbtransport.ErrCancelled
	}
	return result{ended, until - p.begins}
}

// TestEachWaitEndsInItsOwnTime has slots begin, be answered, be given up and pause in any order, and each wait end as if there were no
// other.
func TestEachWaitEndsInItsOwnTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		events := 0
		seconds := func(least, most int, label string) time.Duration {
			return time.Duration(rapid.IntRange(least, most).Draw(rt, label)) * time.Second
		}
		// after gives a time after another one. No two things happen at once: each has its millisecond, limits are whole seconds.
		after := func(t time.Duration, most int, label string) time.Duration {
			events++
			return t.Truncate(time.Second) + seconds(0, most, label) + time.Duration(events)*time.Millisecond
		}
		var pauses []pause
		var last time.Duration
		for range rapid.IntRange(0, 3).Draw(rt, "pauses") {
			begins := after(last, 10, "pause begins")
			last = after(begins, 5, "pause ends")
			pauses = append(pauses, pause{begins, last})
		}
		plans := make([]plan, rapid.IntRange(1, 8).Draw(rt, "slots"))
		for i := range plans {
			p := plan{begins: after(0, 5, "begins"), limit: seconds(1, 10, "limit")}
			last := p.begins
			for range rapid.IntRange(0, 3).Draw(rt, "extensions") {
				last = after(last, 5, "extension")
				p.extensions = append(p.extensions, last)
			}
			if rapid.Bool().Draw(rt, "is answered") {
				p.answered = after(last, 5, "answered")
			}
			if rapid.Bool().Draw(rt, "is cancelled") {
				p.cancelled = after(p.begins, 20, "cancelled")
			}
			plans[i] = p
		}
		var got []result
		var misuse error
		synctest.Test(t, func(t *testing.T) { got, misuse = carryOut(t, plans, pauses) })
		require.NoError(rt, misuse)
		for i, p := range plans {
			require.Equal(rt, p.expect(pauses), got[i], "slot %d: %+v, pauses %+v", i, p, pauses)
		}
	})
}

// carryOut does what the plans say, and tells how each ended.
func carryOut(t *testing.T, plans []plan, pauses []pause) ([]result, error) {
	d := newTalk()
	got := make([]result, len(plans))
	at := func(when time.Duration, f func()) { d.waiting.Go(func() { time.Sleep(when); f() }) }
	for i, p := range plans {
		at(p.begins, func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if p.cancelled > 0 {
				time.AfterFunc(p.cancelled-p.begins, cancel)
			}
			c, ended := d.wait(ctx, uint8(i), p.limit)
			for _, when := range p.extensions {
				at(when-p.begins, func() { d.wire.put(c, ccid.CommandTimeExtension) })
			}
			if p.answered > 0 {
				at(p.answered-p.begins, func() { d.wire.put(c, ccid.CommandOK) })
			}
			got[i] = <-ended
		})
	}
	for _, p := range pauses {
		at(p.begins, func() {
			begun := time.Now()
			_ = d.withoutReading(t.Context(), func(context.Context) error {
				d.wire.exclusive.Add(1)
				defer d.wire.exclusive.Add(-1)
				if waited := time.Since(begun); waited > 0 {
					d.wire.misused("a pause began %v late", waited)
				}
				time.Sleep(p.ends - p.begins)
				return nil
			})
		})
	}
	d.waiting.Wait()
	return got, d.misuse()
}
