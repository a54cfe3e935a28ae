package host_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// machine is one that can sleep.
type machine struct{ slept atomic.Int64 }

func (m *machine) suspended() time.Duration { return time.Duration(m.slept.Load()) }

func (m *machine) sleep(d time.Duration) { m.slept.Add(int64(d)) }

// TestSleepOfTheMachineResetsEveryCard has a Monitor notice it while nobody uses the readers.
func TestSleepOfTheMachineResetsEveryCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m machine
		bus := virtual.NewBus()
		monitor, err := host.NewMonitor(t.Context(), bus, host.Options{Suspended: m.suspended})
		require.NoError(t, err)
		defer func() {
			require.NoError(t, monitor.Close())
			require.NoError(t, bus.Close())
		}()
		p := &plugs{bus: bus, monitor: monitor}
		var slots []*host.Slot
		for port := 1; port <= 2; port++ {
			p.plugAt(t, newDevice(t, ""), port)
			slots = append(slots, p.arrival(t).Slot(0))
		}
		time.Sleep(time.Minute)
		var before []host.CardState
		for _, s := range slots {
			before = append(before, s.State())
			require.True(t, s.State().Powered, "a minute is no sleep")
		}
		m.sleep(time.Hour)
		time.Sleep(2100 * time.Millisecond)
		synctest.Wait()
		for i, s := range slots {
			require.Equal(t, host.CardState{Present: true, Events: before[i].Events}, s.State(), "reset, not gone")
			_, err := s.Transmit(t.Context(), produce(t, 4, false))
			require.ErrorIs(t, err, host.ErrNotPowered)
			_, err = s.WaitChange(timeout(t, time.Second), before[i])
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			_, err = s.Connect(t.Context())
			require.NoError(t, err)
			_, err = s.Transmit(t.Context(), produce(t, 4, false))
			require.NoError(t, err)
		}
		require.Len(t, monitor.Readers(), 2)
	})
}

// TestSleepIsNoticedBeforeACommand has nobody but the reader itself to notice.
func TestSleepIsNoticedBeforeACommand(t *testing.T) {
	for d, want := range map[time.Duration]bool{400 * time.Millisecond: false, time.Second: true, -time.Second: false} {
		bubble(t, d.String(), func(t *testing.T) {
			var m machine
			r := newRig(t, virtual.Config{Cards: []card.Card{card.NewT1()}}, host.Options{Suspended: m.suspended})
			r.connect(t)
			m.sleep(d)
			_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
			if want {
				require.ErrorIs(t, err, host.ErrNotPowered)
				r.connect(t)
				_, err = r.slot.Transmit(t.Context(), produce(t, 4, false))
			}
			require.NoError(t, err)
			r.requireNoViolations(t)
		})
	}
}

// TestSleepDuringACommandIsNoExchangeOfTheCard has the reader come back with its card off.
func TestSleepDuringACommandIsNoExchangeOfTheCard(t *testing.T) {
	for _, slept := range []time.Duration{0, time.Hour} {
		bubble(t, slept.String(), func(t *testing.T) {
			var m machine
			off := false
			r := newRig(t, virtual.Config{Cards: []card.Card{card.NewT1()}, Answer: func(c ccid.Command) (ccid.Response, bool) {
				return ccid.Response{
					Type: ccid.TypeSlotStatus, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCInactive, ccid.CommandOK),
				}, off && c.Type == ccid.TypeGetSlotStatus
			}}, host.Options{Suspended: m.suspended})
			r.connect(t)
			before := r.slot.State()
			r.bus.Inject(func(transfer virtual.Transfer) virtual.Fault {
				if transfer.Kind == virtual.BulkOutTransfer {
					m.sleep(slept)
					off = true
				}
				return virtual.Fault{}
			})
			_, err := r.slot.Status(t.Context())
			require.NoError(t, err)
			require.False(t, r.slot.State().Powered)
			require.Equal(t, slept == 0, r.slot.State().Events != before.Events)
		})
	}
}

// TestReadersThatComeBackKeepTheirNumbers takes all away at once, as a reset of their hub does, and gives them back in another order.
func TestReadersThatComeBackKeepTheirNumbers(t *testing.T) {
	for away, kept := range map[time.Duration]bool{time.Millisecond: true, 20 * time.Second: true, time.Minute: false} {
		bubble(t, away.String(), func(t *testing.T) {
			p := newPlugs(t, nil)
			var devices []*virtual.Reader
			var names []string
			for i := range 3 {
				devices = append(devices, newDevice(t, ""))
				p.plugAt(t, devices[i], i+1)
				names = append(names, p.arrival(t).Name())
			}
			for _, d := range devices {
				p.bus.Unplug(d)
				require.Equal(t, host.ReaderRemoved, p.next(t).Kind)
			}
			time.Sleep(away)
			for i := len(devices) - 1; i >= 0; i-- {
				p.plugAt(t, devices[i], i+1)
				want := names[i]
				if !kept {
					want = names[len(names)-1-i]
				}
				require.Equal(t, want, p.arrival(t).Name())
			}
		})
	}
}
