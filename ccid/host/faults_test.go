package host_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// short are limits for tests in which a reader says nothing: no test waits for longer than it has to.
var short = host.Limits{Silence: 300 * time.Millisecond, Exchange: 2 * time.Second, Poll: 5 * time.Millisecond}

// requireOneRemovedLine checks the whole log of a reader that was removed.
func (r *rig) requireOneRemovedLine(t testing.TB) logrus.Entry {
	t.Helper()
	var removed []logrus.Entry
	for _, e := range r.log.AllEntries() {
		if e.Level <= logrus.InfoLevel {
			removed = append(removed, *e)
		}
	}
	require.Len(t, removed, 1, "log lines above debug level")
	require.Equal(t, logrus.InfoLevel, removed[0].Level)
	require.Equal(t, "reader removed", removed[0].Message)
	require.Equal(t, r.reader.Name(), removed[0].Data["reader"])
	require.Equal(t, r.info.PortPath, removed[0].Data["port"])
	return removed[0]
}

func TestUnplugInTheMiddleOfAnExchange(t *testing.T) {
	slow := card.New(card.NewISO(), card.Options{Protocol: 1, Behave: func([]byte) card.Behaviour {
		return card.Behaviour{Delay: time.Minute}
	}})
	r := newRig(t, virtual.Config{Slots: 2, Cards: []card.Card{slow, card.NewT0()}}, host.Options{})
	r.connect(t)
	begun := make(chan struct{}, 1)
	r.bus.Inject(func(tr virtual.Transfer) virtual.Fault {
		if tr.Kind == virtual.BulkOutTransfer && ccid.MessageType(tr.Data[0]) == ccid.TypeXfrBlock {
			begun <- struct{}{}
		}
		return virtual.Fault{}
	})
	failed := make(chan error, 2)
	go func() {
		_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
		failed <- err
	}()
	go func() {
		_, err := r.reader.Slot(1).WaitChange(t.Context(), r.reader.Slot(1).State())
		failed <- err
	}()
	<-begun
	before := time.Now()
	r.bus.Unplug(r.device)
	for range 2 {
		err := <-failed
		require.ErrorIs(t, err, usbtransport.ErrRemoved)
		var e *host.Error
		require.ErrorAs(t, err, &e)
	}
	require.Less(t, time.Since(before), 500*time.Millisecond)
	require.True(t, r.reader.Removed())
	transfers := r.bus.Transfers()
	for _, call := range []func() error{
		func() error { _, err := r.slot.Status(t.Context()); return err },
		func() error { _, err := r.slot.PowerOn(t.Context(), host.ColdReset); return err },
		func() error { return r.slot.SetProtocol(t.Context(), 1, host.MapAPDU) },
		func() error { _, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C}); return err },
		func() error { _, err := r.slot.Escape(t.Context(), nil); return err },
		func() error { _, err := r.slot.WaitChange(t.Context(), r.slot.State()); return err },
		func() error { return r.slot.PowerOff(t.Context()) },
	} {
		require.ErrorIs(t, call(), usbtransport.ErrRemoved)
	}
	require.NoError(t, r.reader.Close())
	require.Equal(t, transfers, r.bus.Transfers(), "transfers to a device that is gone")
	line := r.requireOneRemovedLine(t)
	require.Equal(t, "transmit", line.Data["slot0"], "what was under way")
}

// TestRemovalIsAllThatClientsAreTold has three clients at one card at a random moment of whose commands the reader is removed. None
// may be told what the removal did to another one's command, such as that the card has no power.
func TestRemovalIsAllThatClientsAreTold(t *testing.T) {
	level := ccid.LevelTPDU
	command := echo(t, 8, 8, false)
	for range 500 {
		r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{newCard(0)}}, host.Options{})
		r.connect(t)
		var clients sync.WaitGroup
		for range 3 {
			clients.Go(func() {
				var err error
				for err == nil {
					_, err = r.slot.Transmit(t.Context(), command)
				}
				assert.ErrorIs(t, err, usbtransport.ErrRemoved)
			})
		}
		time.Sleep(rand.N(300 * time.Microsecond))
		go r.reader.SetRemoved()
		require.NoError(t, r.bus.Close())
		clients.Wait()
	}
}

func TestSetRemovedIsFinalAndTouchesNothing(t *testing.T) {
	r := newRig(t, virtual.Config{Cards: []card.Card{card.NewT1()}}, host.Options{})
	r.connect(t)
	waiting := make(chan error, 1)
	go func() {
		_, err := r.slot.WaitChange(t.Context(), r.slot.State())
		waiting <- err
	}()
	r.reader.SetRemoved()
	r.reader.SetRemoved()
	require.ErrorIs(t, <-waiting, usbtransport.ErrRemoved)
	transfers := r.bus.Transfers()
	_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	require.NoError(t, r.reader.Close())
	require.Equal(t, transfers, r.bus.Transfers())
	r.requireOneRemovedLine(t)
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	slow := card.New(card.NewISO(), card.Options{Behave: func([]byte) card.Behaviour { return card.Behaviour{Delay: time.Minute} }})
	r := newRig(t, virtual.Config{Cards: []card.Card{slow}}, host.Options{})
	r.connect(t)
	begun := make(chan struct{}, 1)
	r.bus.Inject(func(tr virtual.Transfer) virtual.Fault {
		if tr.Kind == virtual.BulkOutTransfer && ccid.MessageType(tr.Data[0]) == ccid.TypeXfrBlock {
			begun <- struct{}{}
		}
		return virtual.Fault{}
	})
	failed := make(chan error, 1)
	go func() {
		_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
		failed <- err
	}()
	<-begun
	require.NoError(t, r.reader.Close())
	require.ErrorIs(t, <-failed, usbtransport.ErrClosed)
	_, err := r.slot.Status(t.Context())
	require.ErrorIs(t, err, usbtransport.ErrClosed)
	require.NoError(t, r.reader.Close())
}

func TestTimeExtensionsLengthenTheDeadline(t *testing.T) {
	for _, level := range levels {
		for protocol := range uint8(2) {
			bubble(t, fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) {
				waits := card.New(card.NewISO(), card.Options{Protocol: protocol, Behave: func([]byte) card.Behaviour {
					return card.Behaviour{Delay: 200 * time.Millisecond, Extensions: []byte{1, 2, 3}}
				}})
				r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{waits}}, host.Options{})
				r.connect(t)
				for range 3 {
					got, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
					require.NoError(t, err)
					require.Equal(t, []byte{0x90, 0x00}, got)
				}
				r.requireNoViolations(t)
			})
		}
	}
}

func TestEndlessTimeExtensionsEnd(t *testing.T) {
	level := ccid.LevelShortAPDU
	stuck := card.New(card.NewISO(), card.Options{Protocol: 1, Patience: time.Millisecond, Behave: func([]byte) card.Behaviour {
		return card.Behaviour{Delay: time.Hour}
	}})
	limits := short
	limits.Exchange = 600 * time.Millisecond
	r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{stuck}}, host.Options{Limits: limits})
	r.connect(t)
	before := time.Now()
	_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
	require.ErrorIs(t, err, usbtransport.ErrTimedOut)
	require.Less(t, time.Since(before), 5*time.Second)
}

// TestMuteReaderIsBroughtBack has a card that never answers in a reader that waits for it for longer than we do.
func TestMuteReaderIsBroughtBack(t *testing.T) {
	for name, limits := range map[string]host.Limits{"short": short, "default": {}} {
		for _, level := range levels {
			bubble(t, fmt.Sprintf("%v, %s limits", level, name), func(t *testing.T) { muteReaderIsBroughtBack(t, level, limits) })
		}
	}
}

func muteReaderIsBroughtBack(t *testing.T, level ccid.ExchangeLevel, limits host.Limits) {
	var first sync.Once
	c := card.New(card.NewISO(), card.Options{Protocol: 1, Patience: -1, Behave: func([]byte) card.Behaviour {
		var b card.Behaviour
		first.Do(func() { b.Delay = time.Hour })
		return b
	}})
	r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{c}, WaitingTime: time.Hour}, host.Options{Limits: limits})
	r.connect(t)
	_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
	var silent *host.NoAnswerError
	require.ErrorAs(t, err, &silent)
	require.ErrorIs(t, err, usbtransport.ErrTimedOut)
	require.True(t, silent.Recovery.Recovered, "%v", silent)
	require.Equal(t, host.StepAbort, silent.Recovery.Tried[0])
	r.connect(t)
	got, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
	require.NoError(t, err)
	require.Equal(t, []byte{0x90, 0x00}, got)
	r.requireNoViolations(t)
}

func TestMuteCardIsReportedAndWorksAfterReset(t *testing.T) {
	for _, level := range levels {
		for protocol := range uint8(2) {
			bubble(t, fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) {
				var once sync.Once
				c := card.New(card.NewISO(), card.Options{Protocol: protocol, Behave: func(command []byte) card.Behaviour {
					var b card.Behaviour
					once.Do(func() { b.Mute = true })
					return b
				}})
				r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{c}, WaitingTime: time.Millisecond}, host.Options{})
				r.connect(t)
				_, err := r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
				if err == nil {
					return // T=1 asks the card again
				}
				require.NotErrorIs(t, err, usbtransport.ErrTimedOut)
				r.connect(t)
				_, err = r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
				require.NoError(t, err)
				r.requireNoViolations(t)
			})
		}
	}
}

func TestCancelledExchangeLeavesAReaderThatWorks(t *testing.T) {
	for _, level := range levels {
		bubble(t, level.String(), func(t *testing.T) {
			c := card.New(card.NewISO(), card.Options{Protocol: 1, Behave: func(command []byte) card.Behaviour {
				if len(command) > 1 && command[1] == 0x84 {
					return card.Behaviour{Delay: time.Hour}
				}
				return card.Behaviour{}
			}})
			r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{c}, WaitingTime: time.Hour}, host.Options{})
			r.connect(t)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(30*time.Millisecond, cancel)
			_, err := r.slot.Transmit(ctx, []byte{0, 0x84, 0, 0, 8})
			require.ErrorIs(t, err, usbtransport.ErrCancelled)
			require.ErrorIs(t, err, context.Canceled)
			_, err = r.slot.Transmit(timeout(t, 0), []byte{0, 0xA4, 0, 0x0C})
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			r.connect(t)
			_, err = r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
			require.NoError(t, err)
			r.requireNoViolations(t)
		})
	}
}

// TestFaultAtEachTransfer repeats a session with a fault at each of its transfers. Whatever happens, the session ends,
// and the next one on the same reader works.
func TestFaultAtEachTransfer(t *testing.T) {
	faults := []virtual.Fault{
		{Kind: virtual.Stall},
		{Kind: virtual.IOError},
		{Kind: virtual.Overflow},
		{Kind: virtual.Duplicate},
		{Kind: virtual.ZeroLength},
		{Kind: virtual.Delay, Delay: time.Second},
		{Kind: virtual.Drop},
		{Kind: virtual.Timeout},
		{Kind: virtual.Hold},
		{Kind: virtual.Garble},
		{Kind: virtual.WrongSeq},
		{Kind: virtual.WrongSlot},
		{Kind: virtual.Truncate, Length: 0},
		{Kind: virtual.Truncate, Length: 4},
		{Kind: virtual.Truncate, Length: 11},
	}
	session := func(ctx context.Context, r *rig) error {
		if _, err := r.slot.Connect(ctx); err != nil {
			return err
		}
		for _, n := range []int{1, 200} {
			got, err := r.slot.Transmit(ctx, produce(t, n, false))
			if err != nil {
				return err
			}
			if string(got) != string(append(pattern(n), 0x90, 0x00)) {
				return fmt.Errorf("wrong response % X", got)
			}
		}
		return nil
	}
	for _, level := range levels {
		for protocol := range uint8(2) {
			bubble(t, fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) {
				r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{newCard(protocol)}}, host.Options{})
				r.bus.Inject(nil)
				require.NoError(t, session(t.Context(), r))
				transfers := r.bus.Transfers()
				for _, fault := range faults {
					for k := range transfers {
						r.bus.Inject(virtual.FaultAt(k, fault))
						err := session(t.Context(), r)
						assert.NotErrorIs(t, err, usbtransport.ErrRemoved)
						r.bus.Inject(nil)
						if err := session(t.Context(), r); err != nil {
							t.Fatalf("%v at transfer %d: the next session: %v", fault.Kind, k, err)
						}
					}
				}
				for _, e := range r.log.AllEntries() {
					assert.Greater(t, e.Level, logrus.InfoLevel, e.Message)
				}
			})
		}
	}
}

func TestSlotsInParallel(t *testing.T) {
	cards := make([]card.Card, 8)
	for i := range cards {
		cards[i] = newCard(uint8(i % 2))
	}
	r := newRig(t, virtual.Config{Slots: 8, Cards: cards}, host.Options{})
	var group sync.WaitGroup
	for i, s := range r.reader.Slots() {
		group.Go(func() {
			for range 5 {
				_, err := s.Connect(t.Context())
				if !assert.NoError(t, err) {
					return
				}
				for n := 1; n < 250; n += 31 {
					got, err := s.Transmit(t.Context(), echo(t, n, n, false))
					assert.NoError(t, err)
					assert.Equal(t, append(pattern(n), 0x90, 0x00), got, "slot %d", i)
				}
			}
			assert.NoError(t, s.PowerOff(t.Context()))
		})
	}
	group.Wait()
	r.requireNoViolations(t)
}

func TestErrorsNameReaderAndOperation(t *testing.T) {
	r := newRig(t, virtual.Config{}, host.Options{})
	_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
	require.ErrorIs(t, err, host.ErrNoCard)
	require.ErrorIs(t, err, ccid.ErrorICCMute)
	require.ErrorContains(t, err, r.reader.Name()+": power on: ")
	var e *host.Error
	require.True(t, errors.As(err, &e))
	require.Equal(t, 0, e.Slot)
	_, err = r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0})
	require.ErrorIs(t, err, host.ErrNotPowered)
}
