package pcscd_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

// bubble runs a test with a clock of its own.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// begin is SCardBeginTransaction as the client library does it.
func (c *client) begin(hCard int32) wire.Code {
	for {
		code := c.Begin(context.Background(), hCard)
		if code != wire.ErrSharingViolation {
			return code
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestBeginWaitsFor100ms(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		ha, hb := a.open(wire.Shared), b.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		start := time.Now()
		require.Equal(t, wire.ErrSharingViolation, b.Begin(t.Context(), hb))
		require.Equal(t, 100*time.Millisecond, time.Since(start))
	})
}

func TestBeginReturnsAsSoonAsTheLockIsFree(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		ha, hb := a.open(wire.Shared), b.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		go func() {
			time.Sleep(30 * time.Millisecond)
			a.End(context.Background(), ha, wire.LeaveCard)
		}()
		start := time.Now()
		require.Equal(t, wire.Success, b.Begin(t.Context(), hb))
		require.Equal(t, 30*time.Millisecond, time.Since(start))
	})
}

func TestBeginEndsWithItsClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		ha, hb := a.open(wire.Shared), b.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		require.Equal(t, wire.ErrCancelled, b.Begin(ctx, hb))
		require.Equal(t, 10*time.Millisecond, time.Since(start))
		require.Empty(t, w.Report().Readers[0].Queue)
	})
}

func TestWaitersGetTheLockInTheOrderOfTheirArrival(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		holder := w.client()
		h := holder.open(wire.Shared)
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		for i := range 8 {
			c := w.client()
			hc := c.open(wire.Shared)
			all.Go(func() {
				time.Sleep(time.Duration(i+1) * time.Millisecond)
				require.Equal(t, wire.Success, c.begin(hc))
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
				require.Equal(t, wire.Success, c.End(context.Background(), hc, wire.LeaveCard))
			})
		}
		require.Equal(t, wire.Success, holder.Begin(t.Context(), h))
		time.Sleep(50 * time.Millisecond)
		require.Len(t, w.Report().Readers[0].Queue, 8)
		require.Equal(t, wire.Success, holder.End(t.Context(), h, wire.LeaveCard))
		all.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7}, order)
	})
}

// TestSleepingWaiterKeepsItsPlace has a client that sleeps while the lock comes free, and another that is awake then and
// overtakes, so that the lock is not idle; but of two that are awake, the one that came first is served.
func TestSleepingWaiterKeepsItsPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b, c := w.client(), w.client(), w.client()
		ha, hb, hc := a.open(wire.Shared), b.open(wire.Shared), c.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		require.Equal(t, wire.ErrSharingViolation, b.Begin(t.Context(), hb))
		require.Equal(t, wire.Success, a.End(t.Context(), ha, wire.LeaveCard))
		require.Equal(t, wire.Success, c.Begin(t.Context(), hc), "overtakes the sleeper at once")
		got := make(chan string, 2)
		go func() { time.Sleep(10 * time.Millisecond); a.begin(ha); got <- "a" }()
		time.Sleep(50 * time.Millisecond)
		go func() { b.begin(hb); got <- "b" }()
		synctest.Wait()
		require.Equal(t, wire.Success, c.End(t.Context(), hc, wire.LeaveCard))
		require.Equal(t, "b", <-got, "came before a")
		require.Equal(t, wire.Success, b.End(t.Context(), hb, wire.LeaveCard))
		require.Equal(t, "a", <-got)
	})
}

// TestNobodyStarves has a client whose sleeps always fall on the moments at which the lock comes free.
func TestNobodyStarves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		victim := w.client()
		hv := victim.open(wire.Shared)
		stop := make(chan struct{})
		var all sync.WaitGroup
		for i := range 2 {
			c := w.client()
			h := c.open(wire.Shared)
			all.Go(func() {
				time.Sleep(time.Duration(i) * 90 * time.Millisecond)
				for {
					select {
					case <-stop:
						return
					default:
					}
					require.Equal(t, wire.Success, c.begin(h))
					time.Sleep(200 * time.Millisecond)
					require.Equal(t, wire.Success, c.End(context.Background(), h, wire.LeaveCard))
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		start := time.Now()
		require.Equal(t, wire.Success, victim.begin(hv))
		require.Less(t, time.Since(start), 2*time.Second)
		require.Equal(t, wire.Success, victim.End(t.Context(), hv, wire.LeaveCard))
		close(stop)
		all.Wait()
	})
}

// TestLockIsKeptForASleeperOnlyForAWhile has one that waited for long and never comes back.
func TestLockIsKeptForASleeperOnlyForAWhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b, c := w.client(), w.client(), w.client()
		ha, hb, hc := a.open(wire.Shared), b.open(wire.Shared), c.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		for range 6 {
			require.Equal(t, wire.ErrSharingViolation, b.Begin(t.Context(), hb))
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, wire.ErrSharingViolation, b.Begin(t.Context(), hb))
		require.Equal(t, wire.Success, a.End(t.Context(), ha, wire.LeaveCard))
		start := time.Now()
		require.Equal(t, wire.Success, c.begin(hc))
		require.Greater(t, time.Since(start), 200*time.Millisecond, "the lock was kept for b")
		require.LessOrEqual(t, time.Since(start), 400*time.Millisecond, "c itself sleeps when that ends")
	})
}

func TestRecursiveTransaction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a := w.client()
		h := a.open(wire.Shared)
		for range 3 {
			require.Equal(t, wire.Success, a.Begin(t.Context(), h))
		}
		require.Equal(t, 3, w.Report().Readers[0].Lock.Depth)
		for range 3 {
			require.Equal(t, wire.Success, a.End(t.Context(), h, wire.LeaveCard))
		}
		require.Equal(t, wire.ErrNotTransacted, a.End(t.Context(), h, wire.LeaveCard))
	})
}

func TestWaitingBeginLearnsOfAReset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		ha, hb := a.open(wire.Shared), b.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		go func() {
			time.Sleep(20 * time.Millisecond)
			a.End(context.Background(), ha, wire.ResetCard)
		}()
		start := time.Now()
		require.Equal(t, wire.ErrResetCard, b.Begin(t.Context(), hb))
		require.Equal(t, 20*time.Millisecond, time.Since(start))
		require.Equal(t, wire.ErrResetCard, a.Status(ha), "its own reset too")
	})
}

// TestWaitingBeginLearnsOfAResetUnderALock that stays: there is no reason to wait any longer.
func TestWaitingBeginLearnsOfAResetUnderALock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		ha, hb := a.open(wire.Shared), b.open(wire.Shared)
		for range 2 {
			require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		}
		go func() {
			time.Sleep(20 * time.Millisecond)
			a.End(context.Background(), ha, wire.ResetCard)
		}()
		start := time.Now()
		require.Equal(t, wire.ErrResetCard, b.Begin(t.Context(), hb))
		require.Equal(t, 20*time.Millisecond, time.Since(start))
	})
}

// TestLockIsPassedOn whenever it comes free, not by End alone.
func TestLockIsPassedOn(t *testing.T) {
	for name, free := range map[string]func(*client, int32){
		"end":        func(c *client, h int32) { c.End(context.Background(), h, wire.LeaveCard) },
		"disconnect": func(c *client, h int32) { c.Disconnect(context.Background(), h, wire.LeaveCard) },
		"death":      func(c *client, _ int32) { c.Close(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, card(), pcscd.Options{})
				a, b := w.client(), w.client()
				ha, hb := a.open(wire.Shared), b.open(wire.Shared)
				require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
				got := make(chan wire.Code)
				go func() { got <- b.Begin(context.Background(), hb) }()
				synctest.Wait()
				start := time.Now()
				free(a, ha)
				code := <-got
				require.Zero(t, time.Since(start))
				if name != "death" {
					require.Equal(t, wire.Success, code)
				} else {
					require.Equal(t, wire.ErrResetCard, code)
				}
			})
		})
	}
}

func TestConnectWaitsForTheEndOfATransaction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		h := a.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), h))
		go func() {
			time.Sleep(time.Minute)
			a.End(context.Background(), h, wire.LeaveCard)
		}()
		start := time.Now()
		b.open(wire.Shared)
		require.Equal(t, time.Minute, time.Since(start))
	})
}

// TestPermanentBlock is the reference's fault: a transaction, a second Connect of the same client, and its death.
func TestPermanentBlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b, other := w.client(), w.client(), w.client()
		h := a.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), h))
		_, _, code := a.Connect(t.Context(), a.hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.ErrSharingViolation, code, "nobody could end the transaction while this waits")
		ctx, die := context.WithCancel(t.Context())
		waiting := make(chan wire.Code)
		go func() {
			_, _, code := b.Connect(ctx, b.hContext, alpha, wire.Shared, wire.ProtocolAny)
			waiting <- code
		}()
		synctest.Wait()
		die()
		require.Equal(t, wire.ErrCancelled, <-waiting)
		b.Close(ctx)
		a.Close(ctx)
		start := time.Now()
		other.open(wire.Exclusive)
		require.Zero(t, time.Since(start))
	})
}

func TestResettingDisconnectWaitsForATransaction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b, c := w.client(), w.client(), w.client()
		ha, hb, hc := a.open(wire.Shared), b.open(wire.Shared), c.open(wire.Shared)
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		require.Equal(t, wire.Success, c.Disconnect(t.Context(), hc, wire.LeaveCard), "LEAVE never waits")
		ctx, die := context.WithTimeout(t.Context(), time.Second)
		defer die()
		require.Equal(t, wire.ErrCancelled, b.Disconnect(ctx, hb, wire.ResetCard))
		require.Equal(t, wire.Success, a.Status(ha), "no reset under a lock")
		go func() {
			time.Sleep(time.Second)
			a.End(context.Background(), ha, wire.LeaveCard)
		}()
		require.Equal(t, wire.Success, b.Disconnect(t.Context(), hb, wire.ResetCard))
		require.Equal(t, wire.ErrResetCard, a.Status(ha))
	})
}

// TestExclusiveToShared drops the exclusive level, and no other.
func TestExclusiveToShared(t *testing.T) {
	for _, levels := range []int{0, 1, 2} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, card(), pcscd.Options{})
			a, b := w.client(), w.client()
			h := a.open(wire.Exclusive)
			require.Equal(t, wire.SharingExclusive, w.state(alpha).Sharing)
			for range levels {
				require.Equal(t, wire.Success, a.Begin(t.Context(), h))
			}
			_, code := a.Reconnect(t.Context(), h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
			require.Equal(t, wire.Success, code)
			require.EqualValues(t, 1, w.state(alpha).Sharing)
			for range levels {
				ctx, lost := context.WithTimeout(t.Context(), time.Second)
				_, _, code := b.Connect(ctx, b.hContext, alpha, wire.Shared, wire.ProtocolAny)
				lost()
				require.Equal(t, wire.ErrCancelled, code, "the transaction goes on")
				require.Equal(t, wire.Success, a.End(t.Context(), h, wire.LeaveCard))
			}
			b.open(wire.Shared)
		})
	}
}

func TestExclusiveKeepsOthersOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		shared := a.open(wire.Shared)
		_, active, code := b.Connect(t.Context(), b.hContext, alpha, wire.Exclusive, wire.ProtocolAny)
		require.Equal(t, wire.ErrSharingViolation, code)
		require.Equal(t, wire.ProtocolT1, active, "is in the answer all the same")
		require.Equal(t, wire.Success, a.Disconnect(t.Context(), shared, wire.LeaveCard))
		h := b.open(wire.Exclusive)
		for _, mode := range modelModes {
			_, _, code := a.Connect(t.Context(), a.hContext, alpha, mode, wire.ProtocolAny)
			require.Equal(t, wire.ErrSharingViolation, code, "%v", mode)
		}
		require.Equal(t, wire.Success, b.transmit(h, wire.ProtocolT1))
		require.Equal(t, wire.ErrNotTransacted, b.End(t.Context(), h, wire.LeaveCard), "the exclusive level is none")
		require.True(t, w.Report().Readers[0].Lock.Exclusive)
	})
}

func TestDeathResetsTheCard(t *testing.T) {
	for _, tt := range []struct {
		name   string
		then   func(*client, int32)
		resets bool
	}{
		{name: "transaction", then: func(c *client, h int32) { c.Begin(context.Background(), h) }, resets: true},
		{name: "nothing", then: func(*client, int32) {}},
		{
			name: "transaction whose card was reset",
			then: func(c *client, h int32) {
				c.Begin(context.Background(), h)
				c.Begin(context.Background(), h)
				c.End(context.Background(), h, wire.ResetCard)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, card(), pcscd.Options{})
				a, b := w.client(), w.client()
				ha, hb := a.open(wire.Shared), b.open(wire.Shared)
				tt.then(a, ha)
				w.driver.ForgetCalls()
				a.Close(t.Context())
				reset := slices.ContainsFunc(w.driver.Calls(), func(c pcscdtest.Call) bool { return c.Action == ifdhandler.Reset })
				require.Equal(t, tt.resets, reset)
				if tt.resets {
					require.Equal(t, wire.ErrResetCard, b.Status(hb))
				}
				require.Nil(t, w.Report().Readers[0].Lock)
			})
		})
	}
}

func TestDeathInExclusiveModeResetsTheCard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		a.open(wire.Exclusive)
		require.Equal(t, wire.Success, a.Release(t.Context(), a.hContext))
		require.EqualValues(t, 1, w.Report().Readers[0].Counters.Resets)
		b.open(wire.Exclusive)
	})
}

// TestDeathDoesNotWaitForABusyCard has a client die while the card works for another: everybody is told at once, and the
// card is reset before its next use.
func TestDeathDoesNotWaitForABusyCard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		a, b := w.client(), w.client()
		ha, hb := a.open(wire.Shared), b.open(wire.Shared)
		w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
			if c.Function == "TransmitToICC" {
				time.Sleep(time.Minute)
			}
			return nil
		})
		done := make(chan wire.Code)
		go func() { done <- b.transmit(hb, wire.ProtocolT1) }()
		synctest.Wait()
		require.Equal(t, wire.Success, a.Begin(t.Context(), ha))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		a.Close(ctx)
		require.Equal(t, time.Second, time.Since(start))
		require.Nil(t, w.Report().Readers[0].Lock)
		require.Equal(t, wire.Success, <-done)
		require.Equal(t, wire.ErrResetCard, b.Status(hb))
		w.driver.ForgetCalls()
		_, code := b.Reconnect(t.Context(), hb, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
		require.Equal(t, wire.Success, code)
		require.Equal(t, ifdhandler.PowerUp, w.driver.Calls()[0].Action)
	})
}

func TestReportSaysWhoHasTheCard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		s := w.NewSession(pcscd.Client{PID: 42, UID: 1000, Executable: "/usr/bin/opensc-tool"})
		defer s.Close(t.Context())
		hContext, _ := s.Establish(wire.ScopeUser)
		h, _, code := s.Connect(t.Context(), hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.Success, code)
		since := time.Now()
		require.Equal(t, wire.Success, s.Begin(t.Context(), h))
		time.Sleep(time.Minute)
		report := w.Report()
		require.Equal(t, 1, report.Handles)
		lock := report.Readers[0].Lock
		require.Equal(t, &pcscd.LockReport{Client: s.Client(), Since: since, Depth: 1}, lock)
		require.Equal(t, "shared", report.Readers[0].Handles[0].Mode)
	})
}
