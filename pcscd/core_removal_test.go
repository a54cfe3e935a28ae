package pcscd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

// history collects every generation of a reader's state.
func (w *world) history(ctx context.Context, name string) (stop func() []wire.ReaderState) {
	var seen []wire.ReaderState
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	done.Go(func() {
		for {
			states, g := w.States()
			i := slices.IndexFunc(states, func(s wire.ReaderState) bool { return s.Name == name })
			if i < 0 {
				seen = append(seen, wire.ReaderState{})
			} else {
				seen = append(seen, states[i])
			}
			select {
			case <-w.Changed(g):
			case <-ctx.Done():
				return
			}
		}
	})
	return func() []wire.ReaderState {
		cancel()
		done.Wait()
		return seen
	}
}

// TestRemovalTellsTheDriverFirst has a client in each of the places where one can wait.
func TestRemovalTellsTheDriverFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		logger, hook := logtest.NewNullLogger()
		logger.SetLevel(logrus.DebugLevel)
		w := newWorld(t, card(), pcscd.Options{Logger: logger})
		holder, beginner, connecter, disconnecter, talker, queued := w.client(), w.client(), w.client(), w.client(), w.client(), w.client()
		hHolder, hBeginner, hDisconnecter, hTalker, hQueued := holder.open(wire.Shared), beginner.open(wire.Shared), disconnecter.open(wire.Shared), talker.open(wire.Shared), queued.open(wire.Shared)
		w.driver.Hook(func(ctx context.Context, c pcscdtest.Call) error {
			switch c.Function {
			case "TransmitToICC":
				<-ctx.Done() // until the reader is gone
			case "SetCapabilities":
				states, _ := w.States()
				require.Len(t, states, 1, "clients hear of it later")
			}
			return nil
		})
		got := make(chan string, 6)
		say := func(who string, code wire.Code) { got <- fmt.Sprintf("%s: %v", who, code.String()) }
		go func() { say("transmit", talker.transmit(hTalker, wire.ProtocolT1)) }()
		synctest.Wait()
		go func() { say("queued", queued.transmit(hQueued, wire.ProtocolT1)) }()
		synctest.Wait()
		require.Equal(t, wire.Success, holder.Begin(t.Context(), hHolder))
		go func() {
			_, _, code := connecter.Connect(context.Background(), connecter.hContext, alpha, wire.Shared, wire.ProtocolAny)
			say("connect", code)
		}()
		go func() {
			say("disconnect", disconnecter.Disconnect(context.Background(), hDisconnecter, wire.ResetCard))
		}()
		go func() { say("begin", beginner.Begin(context.Background(), hBeginner)) }()
		synctest.Wait()
		events, stop := w.ReaderEvents(), w.history(t.Context(), alpha)
		hook.Reset()
		start := time.Now()
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
		all := []string{<-got, <-got, <-got, <-got, <-got}
		require.Zero(t, time.Since(start))
		slices.Sort(all)
		require.Equal(t, []string{
			"begin: SCARD_E_INVALID_VALUE", "connect: SCARD_E_READER_UNAVAILABLE", "disconnect: SCARD_S_SUCCESS",
			"queued: SCARD_E_READER_UNAVAILABLE", "transmit: SCARD_E_READER_UNAVAILABLE",
		}, all)
		require.Equal(t, events+1, w.ReaderEvents())
		for _, s := range stop() {
			require.Zero(t, s.State&wire.StateAbsent, "a reader's removal is no card's removal")
		}
		for _, e := range hook.AllEntries() {
			require.GreaterOrEqual(t, e.Level, logrus.DebugLevel, e.Message)
		}
		for _, c := range []*client{holder, beginner, talker, queued} {
			require.Equal(t, wire.Success, c.Release(t.Context(), c.hContext))
		}
		require.Zero(t, w.driver.Channels())
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun), "again")
		require.Equal(t, events+1, w.ReaderEvents())
	})
}

// TestReaderThatSaysItIsGone is removed without hot plug.
func TestReaderThatSaysItIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		w.add("Alpha 00 01", alphaLun+1, nil)
		w.add(beta, betaLun, card())
		c := w.client()
		h := c.open(wire.Shared)
		events, stop := w.ReaderEvents(), w.history(t.Context(), alpha)
		synctest.Wait()
		w.driver.Unplug(0)
		synctest.Wait()
		states, _ := w.States()
		require.Len(t, states, 1)
		require.Equal(t, beta, states[0].Name)
		require.Equal(t, events+1, w.ReaderEvents(), "one reader, though of two slots")
		require.Len(t, stop(), 2, "there, gone")
		require.Equal(t, wire.ErrInvalidValue, c.Status(h))
		require.Equal(t, wire.Success, c.Disconnect(t.Context(), h, wire.ResetCard))
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
		require.Equal(t, events+1, w.ReaderEvents())
		w.add(alpha, alphaLun, card())
		require.Zero(t, w.state(alpha).EventCounter, "starts anew")
		require.Equal(t, events+2, w.ReaderEvents())
		c.open(wire.Shared)
	})
}

// TestSlotsThatSayTogetherThatTheyAreGone both see the removal at the same moment; it is one all the same.
func TestSlotsThatSayTogetherThatTheyAreGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		w.add("Alpha 00 01", alphaLun+1, card())
		for range 200 {
			events := w.ReaderEvents()
			w.driver.Unplug(0)
			synctest.Wait()
			require.Equal(t, events+1, w.ReaderEvents())
			w.add(alpha, alphaLun, card())
			w.add("Alpha 00 01", alphaLun+1, card())
			require.Equal(t, events+2, w.ReaderEvents())
		}
	})
}

// TestCallThatARemovalEnds says that the reader is gone, whatever the driver made of the end of its context.
func TestCallThatARemovalEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		c := w.client()
		h := c.open(wire.Shared)
		w.driver.Hook(func(ctx context.Context, c pcscdtest.Call) error {
			if c.Function != "TransmitToICC" {
				return nil
			}
			<-ctx.Done()
			return &ifdhandler.Error{Function: c.Function, Code: ifdhandler.CommunicationError}
		})
		ended := make(chan wire.Code, 1)
		go func() { ended <- c.transmit(h, wire.ProtocolT1) }()
		synctest.Wait()
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
		require.Equal(t, wire.ErrReaderUnavailable, <-ended)
	})
}

func TestSlotsCountAsOneReader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil, pcscd.Options{})
		require.EqualValues(t, 2, w.ReaderEvents())
		w.add("Alpha 00 01", alphaLun+1, nil)
		require.EqualValues(t, 2, w.ReaderEvents())
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
		require.EqualValues(t, 3, w.ReaderEvents())
		states, _ := w.States()
		require.Empty(t, states)
	})
}

func TestReaderEventsWrap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil, pcscd.Options{})
		for w.ReaderEvents() != 0x7FFF {
			require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
			if w.ReaderEvents() == 0x7FFF {
				break
			}
			w.driver.Open(alphaLun, nil)
			require.NoError(t, w.AddReader(pcscd.Reader{Name: alpha, Lun: alphaLun}))
		}
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
		w.driver.Open(alphaLun, nil)
		require.NoError(t, w.AddReader(pcscd.Reader{Name: alpha, Lun: alphaLun}))
		require.LessOrEqual(t, w.ReaderEvents(), uint32(2))
		require.Positive(t, w.ReaderEvents(), "0 is no counter")
	})
}

func TestCardEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		require.Zero(t, w.state(alpha).EventCounter, "the first card does not count")
		c := w.client()
		h := c.open(wire.Shared)
		require.Equal(t, wire.Success, c.Begin(t.Context(), h))
		w.driver.Insert(alphaLun, nil)
		w.untilState(alpha, wire.StateAbsent)
		require.Equal(t, wire.ReaderState{Name: alpha, Known: true, State: 2, EventCounter: 1, Sharing: 1}, w.state(alpha))
		require.Equal(t, wire.ErrRemovedCard, c.Status(h))
		require.Nil(t, w.Report().Readers[0].Lock, "the lock goes with the card")
		w.driver.Insert(alphaLun, &pcscdtest.Card{ATR: atrT1})
		w.untilState(alpha, 0x34)
		require.EqualValues(t, 2, w.state(alpha).EventCounter)
		require.Equal(t, atrT1, w.state(alpha).ATR)
		require.Equal(t, wire.ErrRemovedCard, c.Status(h), "stays until Reconnect")
		_, code := c.Reconnect(t.Context(), h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
		require.Equal(t, wire.Success, code)
		require.Equal(t, wire.Success, c.Status(h))
		w.driver.Insert(alphaLun, card())
		w.until(alpha, func(s wire.ReaderState) bool { return s.EventCounter == 4 && s.State == 0x34 })
		require.Equal(t, wire.ErrRemovedCard, c.Status(h), "exchanged for another")
	})
}

// TestTransmitThatFindsNoCard is what a removal in the middle of a command looks like.
func TestTransmitThatFindsNoCard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		c := w.client()
		h := c.open(wire.Shared)
		once := true
		w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
			if c.Function == "TransmitToICC" && once {
				once = false
				return &ifdhandler.Error{Function: c.Function, Code: ifdhandler.ICCNotPresent}
			}
			return nil
		})
		_, generation := w.States()
		require.Equal(t, wire.ErrNoSmartcard, c.transmit(h, wire.ProtocolT1))
		<-w.Changed(generation)
		require.Equal(t, wire.ErrRemovedCard, c.Status(h))
		// It was there all the time: it is found again without an event of the driver.
		w.untilState(alpha, 0x34)
	})
}

func TestCounterWraps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil, pcscd.Options{})
		c := &pcscdtest.Card{}
		time.Sleep(time.Second)
		for range 0x8000 {
			w.driver.Insert(alphaLun, c)
			synctest.Wait()
			w.driver.Insert(alphaLun, nil)
			synctest.Wait()
		}
		require.Zero(t, w.state(alpha).EventCounter)
		w.driver.Insert(alphaLun, c)
		synctest.Wait()
		require.EqualValues(t, 1, w.state(alpha).EventCounter)
	})
}

// TestFaultIsToldOnce has a reader whose status can't be told for an hour.
func TestFaultIsToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		logger, hook := logtest.NewNullLogger()
		logger.SetLevel(logrus.DebugLevel)
		w := newWorld(t, card(), pcscd.Options{Logger: logger, PowerOffGrace: -1})
		c := w.client()
		h := c.open(wire.Shared)
		stop := w.history(t.Context(), alpha)
		synctest.Wait()
		w.fail(alphaLun)
		time.Sleep(time.Hour)
		require.Equal(t, wire.ReaderState{Name: alpha, Known: true, State: 1, Sharing: 1}, w.state(alpha))
		require.Len(t, hook.AllEntries(), 1)
		require.Len(t, stop(), 2)
		require.Less(t, w.Report().Readers[0].Counters.DriverErrors, uint64(1000), "asked now and then")
		require.NotEmpty(t, w.Report().Readers[0].LastError.Text)
		w.driver.Hook(nil)
		w.untilState(alpha, 0x34)
		require.NotEqual(t, wire.Success, c.Status(h), "the card may be another")
		_, code := c.Reconnect(t.Context(), h, wire.Shared, wire.ProtocolAny, wire.LeaveCard)
		require.Equal(t, wire.Success, code)
	})
}

// TestFaultThatACallFindsEnds by itself, without an event of the driver; what has become of the card meanwhile nobody
// knows, so its clients are told that it was reset.
func TestFaultThatACallFindsEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{PowerOffGrace: time.Millisecond})
		c := w.client()
		h := c.open(wire.Direct)
		time.Sleep(time.Second)
		w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
			if c.Function == "ICCPresence" || c.Function == "PowerICC" {
				return &ifdhandler.Error{Function: c.Function, Code: ifdhandler.CommunicationError}
			}
			return nil
		})
		_, _, code := c.Connect(t.Context(), c.hContext, alpha, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.ErrUnpoweredCard, code)
		w.untilState(alpha, wire.StateUnknown)
		require.Equal(t, wire.ErrReaderUnavailable, c.Begin(t.Context(), h))
		w.driver.Hook(nil)
		w.untilState(alpha, 0x34)
		require.Equal(t, wire.ErrResetCard, c.Status(h))
	})
}

// TestOneFailedQuestionIsNoFault: a reader may fail once while it is being unplugged.
func TestOneFailedQuestionIsNoFault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		stop := w.history(t.Context(), alpha)
		once := true
		w.driver.Hook(func(_ context.Context, c pcscdtest.Call) error {
			if c.Function == "ICCPresence" && once {
				once = false
				w.driver.Unplug(0)
				return &ifdhandler.Error{Function: c.Function, Code: ifdhandler.CommunicationError}
			}
			return nil
		})
		w.driver.Insert(alphaLun, nil)
		time.Sleep(time.Minute)
		states := stop()
		require.Len(t, states, 2)
		require.Empty(t, states[1].Name)
	})
}

func TestReaderThatNeverTellsItsStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{StartTimeout: time.Second})
		w.driver.Hook(func(ctx context.Context, c pcscdtest.Call) error {
			if c.Lun == betaLun && c.Function == "ICCPresence" {
				<-ctx.Done()
			}
			return nil
		})
		w.driver.Open(betaLun, card())
		require.NoError(t, w.AddReader(pcscd.Reader{Name: beta, Lun: betaLun}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.Error(t, w.Ready(ctx))
		start := time.Now()
		c := w.client()
		_, _, code := c.Connect(t.Context(), c.hContext, beta, wire.Direct, 0)
		require.Equal(t, wire.ErrReaderUnavailable, code)
		require.NoError(t, w.Ready(t.Context()))
		require.LessOrEqual(t, time.Since(start), time.Second)
		require.Equal(t, wire.StateUnknown, w.state(beta).State)
		require.NoError(t, w.RemoveReader(t.Context(), betaLun))
	})
}

// TestHungDriver has one reader's driver hang in a command: nobody else notices, and what waits for it ends with its
// client.
func TestHungDriver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		w.add(beta, betaLun, card())
		a, b := w.client(), w.client()
		ha, hb := a.open(wire.Shared), b.open(wire.Shared)
		w.driver.Hook(func(ctx context.Context, c pcscdtest.Call) error {
			if c.Lun == alphaLun && c.Function == "TransmitToICC" {
				<-ctx.Done()
			}
			return nil
		})
		go a.transmit(ha, wire.ProtocolT1)
		synctest.Wait()
		start := time.Now()
		_, generation := w.States()
		h, _, code := b.Connect(t.Context(), b.hContext, beta, wire.Shared, wire.ProtocolAny)
		require.Equal(t, wire.Success, code)
		require.Equal(t, wire.Success, b.transmit(h, wire.ProtocolT1))
		<-w.Changed(generation)
		require.True(t, w.Report().Readers[0].Busy)
		require.Equal(t, wire.Success, b.Status(hb))
		require.Zero(t, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, code = b.Transmit(ctx, hb, wire.ProtocolT1, nil)
		require.Equal(t, wire.ErrCancelled, code)
		require.Equal(t, time.Minute, time.Since(start))
		require.NoError(t, w.RemoveReader(t.Context(), alphaLun))
	})
}

func TestControlEndsWithItsClientAndTransmitDoesNot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		c := w.client()
		h := c.open(wire.Shared)
		w.driver.Hook(func(ctx context.Context, c pcscdtest.Call) error {
			select {
			case <-ctx.Done():
				return &ifdhandler.Error{Function: c.Function, Code: ifdhandler.CommunicationError}
			case <-time.After(time.Minute):
				return nil
			}
		})
		for name, call := range map[string]func(context.Context) wire.Code{
			"Control": func(ctx context.Context) wire.Code {
				_, code := c.Control(ctx, h, ifdhandler.ControlEscape, nil)
				return code
			},
			"Transmit": func(ctx context.Context) wire.Code {
				_, code := c.Transmit(ctx, h, wire.ProtocolT1, nil)
				return code
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start := time.Now()
			code := call(ctx)
			cancel()
			if name == "Control" {
				require.Equal(t, wire.ErrNotTransacted, code)
				require.Equal(t, time.Second, time.Since(start))
			} else {
				require.Equal(t, wire.Success, code)
				require.Equal(t, time.Minute, time.Since(start))
			}
		}
	})
}

// TestCloseWaitsForTheDriverWithinItsContext and reports a driver that does not come back.
func TestCloseWaitsForTheDriverWithinItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := pcscdtest.NewDriver()
		m := pcscd.NewManager(pcscd.Options{Driver: d})
		d.Open(alphaLun, card())
		release := make(chan struct{})
		d.Hook(func(_ context.Context, c pcscdtest.Call) error {
			if c.Function == "CloseChannel" {
				<-release // whatever the context
			}
			return nil
		})
		require.NoError(t, m.AddReader(pcscd.Reader{Name: alpha, Lun: alphaLun}))
		require.NoError(t, m.Ready(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := m.Close(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, strings.Contains(err.Error(), alpha))
		states, _ := m.States()
		require.Empty(t, states)
		require.ErrorIs(t, m.AddReader(pcscd.Reader{Name: alpha, Lun: alphaLun}), pcscd.ErrManagerClosed)
		close(release)
		require.NoError(t, m.Close(t.Context()))
	})
}

// TestStreamOfEmptyEventsIsBounded has a driver whose WaitEvent always returns at once.
func TestStreamOfEmptyEventsIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{})
		asked := 0
		var mu sync.Mutex
		d := eager{w.driver, func() { mu.Lock(); asked++; mu.Unlock() }}
		m := pcscd.NewManager(pcscd.Options{Driver: d})
		w.driver.Open(betaLun, nil)
		require.NoError(t, m.AddReader(pcscd.Reader{Name: beta, Lun: betaLun}))
		time.Sleep(time.Minute)
		mu.Lock()
		require.Less(t, asked, 200)
		mu.Unlock()
		w.driver.Insert(betaLun, card())
		time.Sleep(time.Second)
		states, _ := m.States()
		require.Equal(t, wire.State(0x34), states[0].State)
		require.NoError(t, m.Close(t.Context()))
	})
}

type eager struct {
	pcscd.Driver
	asked func()
}

func (e eager) WaitEvent(context.Context, ifdhandler.Lun) error { e.asked(); return nil }
