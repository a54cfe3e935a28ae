package host_test

import (
	"context"
	"errors"
	"fmt"
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

// TestWaitChangeSeesInsertionAndRemoval runs with the interrupt endpoint, and with one that is broken, so that the reader
// has to be asked.
func TestWaitChangeSeesInsertionAndRemoval(t *testing.T) {
	for name, fault := range map[string]virtual.FaultFunc{
		"notified": nil,
		"polled": func(tr virtual.Transfer) virtual.Fault {
			if tr.Kind == virtual.InterruptInTransfer {
				return virtual.Fault{Kind: virtual.Stall}
			}
			return virtual.Fault{}
		},
	} {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, virtual.Config{Slots: 3}, host.Options{Limits: host.Limits{Poll: 5 * time.Millisecond}})
			r.bus.Inject(fault)
			s := r.reader.Slot(1)
			state := s.State()
			require.Equal(t, host.CardState{}, state)
			for i := range uint64(3) {
				_, err := r.device.SetCard(1, card.NewT1())
				require.NoError(t, err)
				state, err = s.WaitChange(timeout(t, 10*time.Second), state)
				require.NoError(t, err)
				require.Equal(t, host.CardState{Present: true, Events: 2*i + 1}, state)
				_, err = s.Connect(t.Context())
				require.NoError(t, err)
				c, err := r.device.SetCard(1, nil)
				require.NoError(t, err)
				require.NoError(t, c.Close())
				state, err = s.WaitChange(timeout(t, 10*time.Second), state)
				require.NoError(t, err)
				require.Equal(t, host.CardState{Events: 2*i + 2}, state)
				_, err = s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0})
				require.ErrorIs(t, err, host.ErrNotPowered)
			}
			_, err := s.WaitChange(timeout(t, 20*time.Millisecond), state)
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
		})
	}
}

func TestWaitChangeSeesAnotherCard(t *testing.T) {
	r := newRig(t, virtual.Config{Cards: []card.Card{card.NewT1()}}, host.Options{})
	r.connect(t)
	state := r.slot.State()
	require.True(t, state.Powered)
	old, err := r.device.SetCard(0, card.NewT0())
	require.NoError(t, err)
	require.NoError(t, old.Close())
	state2, err := r.slot.WaitChange(timeout(t, 10*time.Second), state)
	require.NoError(t, err)
	require.Equal(t, host.CardState{Present: true, Events: state.Events + 2}, state2)
}

func TestCardRemovedDuringSession(t *testing.T) {
	r := newRig(t, virtual.Config{Cards: []card.Card{card.NewT1()}}, host.Options{})
	r.connect(t)
	c, err := r.device.SetCard(0, nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = r.slot.Transmit(t.Context(), []byte{0, 0xA4, 0, 0})
	require.ErrorIs(t, err, host.ErrNoCard)
	require.False(t, r.slot.State().Present, "known from the answer alone")
	require.False(t, r.reader.Removed())
}

func nextEvent(t *testing.T, m *host.Monitor) host.Event {
	t.Helper()
	e, err := m.Next(timeout(t, 10*time.Second))
	require.NoError(t, err)
	return e
}

func TestMonitorFollowsPlugAndUnplug(t *testing.T) {
	bus := virtual.NewBus()
	var devices []*virtual.Reader
	for range 2 {
		d, err := virtual.NewReader(virtual.Config{Cards: []card.Card{card.NewT1()}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		devices = append(devices, d)
	}
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	_, err := bus.Plug(devices[0])
	require.NoError(t, err)
	m, err := host.NewMonitor(t.Context(), bus, host.Options{})
	require.NoError(t, err)
	first := nextEvent(t, m)
	require.Equal(t, host.ReaderArrived, first.Kind)
	require.Equal(t, "Gemalto PC Twin Reader 00 00", first.Reader.Name())
	_, err = bus.Plug(devices[1])
	require.NoError(t, err)
	second := nextEvent(t, m)
	require.Equal(t, "Gemalto PC Twin Reader 01 00", second.Reader.Name())
	require.Len(t, m.Readers(), 2)
	for range 20 {
		bus.Unplug(devices[0])
		e := nextEvent(t, m)
		require.Equal(t, host.ReaderRemoved, e.Kind)
		require.Same(t, first.Reader, e.Reader)
		_, err = bus.Plug(devices[0])
		require.NoError(t, err)
		first = nextEvent(t, m)
		require.Equal(t, host.ReaderArrived, first.Kind)
		_, err = first.Reader.Slot(0).Connect(t.Context())
		require.NoError(t, err)
	}
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	_, err = m.Next(t.Context())
	require.ErrorIs(t, err, usbtransport.ErrClosed)
	_, err = second.Reader.Slot(0).Status(t.Context())
	require.ErrorIs(t, err, usbtransport.ErrClosed)
}

func TestMonitorTriesABusyReaderAgain(t *testing.T) {
	bus := virtual.NewBus()
	d, err := virtual.NewReader(virtual.Config{})
	require.NoError(t, err)
	info, err := bus.Plug(d)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	held, err := host.OpenFirst(t.Context(), bus, host.Options{})
	require.NoError(t, err)
	m, err := host.NewMonitor(t.Context(), bus, host.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	e := nextEvent(t, m)
	require.Equal(t, host.ReaderUnusable, e.Kind)
	require.ErrorIs(t, e.Err, usbtransport.ErrBusy)
	require.Equal(t, info.Key, e.Function.Device.Key)
	require.NoError(t, held.Close())
	require.Equal(t, host.ReaderArrived, nextEvent(t, m).Kind)
}

// TestReaderThatCannotBeUsedIsSaidToBeGone has one that is busy, and is pulled out; one that nobody was told of is not told of then either.
func TestReaderThatCannotBeUsedIsSaidToBeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device, err := virtual.NewReader(virtual.Config{})
		require.NoError(t, err)
		bus := virtual.NewBus()
		defer func() { require.NoError(t, bus.Close()) }()
		_, err = bus.Plug(device)
		require.NoError(t, err)
		held, err := host.OpenFirst(t.Context(), bus, host.Options{})
		require.NoError(t, err)
		m, err := host.NewMonitor(t.Context(), bus, host.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		e := nextEvent(t, m)
		require.Equal(t, host.ReaderUnusable, e.Kind)
		bus.Unplug(device)
		gone := nextEvent(t, m)
		require.Equal(t, host.ReaderUnusable, gone.Kind)
		require.ErrorIs(t, gone.Err, usbtransport.ErrRemoved)
		require.Equal(t, e.Function.Device.Key, gone.Function.Device.Key)
		require.NoError(t, held.Close())

		_, err = bus.Plug(device)
		require.NoError(t, err)
		bus.Unplug(device)
		synctest.Wait()
		_, err = m.Next(timeout(t, time.Hour))
		require.ErrorIs(t, err, usbtransport.ErrTimedOut, "what came and went before anybody asked")
	})
}

func TestReadersOfOneDeviceAreRemovedTogether(t *testing.T) {
	device, err := virtual.NewReader(virtual.Config{Model: "acs-walletmate-dual-reader"})
	require.NoError(t, err)
	bus := virtual.NewBus()
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	info, err := bus.Plug(device)
	require.NoError(t, err)
	d := host.NewDevice(bus, info)
	functions, err := d.Functions()
	require.NoError(t, err)
	require.Len(t, functions, 2)
	var readers []*host.Reader
	for _, f := range functions {
		r, err := d.Open(t.Context(), f.Interface.Number, host.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, r.Close()) })
		readers = append(readers, r)
	}
	readers[0].SetRemoved()
	_, err = readers[1].Slot(0).Status(t.Context())
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
}

// refusing is a reader that answers SetParameters with an error, as often as times says.
func refusing(code ccid.ErrorCode, times int) func(ccid.Command) (ccid.Response, bool) {
	return func(c ccid.Command) (ccid.Response, bool) {
		if c.Type != ccid.TypeSetParameters || times == 0 {
			return ccid.Response{}, false
		}
		times--
		return ccid.Response{Type: ccid.TypeParameters, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: code, Data: c.Data}, true
	}
}

func TestParametersRefused(t *testing.T) {
	level := ccid.LevelTPDU
	for name, test := range map[string]struct {
		code    ccid.ErrorCode
		times   int
		refused bool
		fd      byte
	}{
		"not supported is tolerated":                {ccid.ErrorCommandNotSupported, -1, true, 0x94},
		"an unchangeable value is tolerated":        {0x0A, -1, true, 0x94},
		"a failure leads to the next slower speed":  {ccid.ErrorICCMute, 1, false, 0x93},
		"nothing but failures leads to the default": {ccid.ErrorICCMute, -1, true, 0x11},
	} {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, virtual.Config{
				Level: &level, Cards: []card.Card{card.NewT0()}, Answer: refusing(test.code, test.times),
				Override: func(d *ccid.ClassDescriptor) { d.BNumDataRatesSupported, d.DwMaxDataRate = 0, 1_000_000 },
			}, host.Options{})
			r.connect(t)
			p, ok := r.slot.Parameters()
			require.True(t, ok)
			require.Equal(t, test.refused, p.Refused != nil, "%v", p.Refused)
			require.Equal(t, test.fd, p.FD)
			if test.fd == 0x11 {
				require.ErrorIs(t, p.Refused, ccid.ErrorICCMute)
			}
		})
	}
}

func TestVoltagesAreTriedWithinWhatTheReaderGives(t *testing.T) {
	for name, test := range map[string]struct {
		support ccid.VoltageSupport
		first   ccid.PowerSelect
		want    []uint8
	}{
		"all":           {7, 0, []uint8{1, 2, 3}},
		"only 5 V":      {1, 0, []uint8{1}},
		"5 V and 1.8 V": {5, 0, []uint8{1, 3}},
		"1.8 V first":   {7, ccid.Power18V, []uint8{3, 1, 2}},
		"none claimed":  {0, 0, []uint8{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var tried []uint8
			r := newRig(t, virtual.Config{
				Override: func(d *ccid.ClassDescriptor) { d.BVoltageSupport = test.support; d.DwFeatures &^= 0x0C },
				Answer: func(c ccid.Command) (ccid.Response, bool) {
					if c.Type != ccid.TypeIccPowerOn {
						return ccid.Response{}, false
					}
					tried = append(tried, c.Specific[0])
					return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCInactive, ccid.CommandFailed), Error: ccid.ErrorICCMute}, true
				},
			}, host.Options{Voltage: test.first})
			_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
			require.ErrorIs(t, err, host.ErrMute)
			require.Equal(t, test.want, tried)
		})
	}
}

func TestHostileATRLengthsAreErrors(t *testing.T) {
	for _, n := range []int{0, 34, 1000} {
		r := newRig(t, virtual.Config{Answer: func(c ccid.Command) (ccid.Response, bool) {
			return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Data: make([]byte, n)}, c.Type == ccid.TypeIccPowerOn
		}}, host.Options{})
		_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
		require.ErrorIs(t, err, host.ErrBadATR)
		require.Nil(t, r.slot.ATR())
	}
}

func TestTransparentT0LeavesProcedureToTheCaller(t *testing.T) {
	level := ccid.LevelTPDU
	r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{card.NewT0()}}, host.Options{})
	_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
	require.NoError(t, err)
	require.NoError(t, r.slot.SetProtocol(t.Context(), 0, host.Transparent))
	got, err := r.slot.Transmit(t.Context(), echo(t, 4, 0, false)[:9])
	require.NoError(t, err)
	require.Equal(t, []byte{0x61, 4}, got)
	got, err = r.slot.Transmit(t.Context(), []byte{0x80, 0xC0, 0, 0, 4})
	require.NoError(t, err)
	require.Equal(t, append(pattern(4), 0x90, 0), got)
	require.NoError(t, r.slot.SetProtocol(t.Context(), 0, host.MapAPDU), "the mapping can be changed at any time")
	got, err = r.slot.Transmit(t.Context(), echo(t, 4, 4, false))
	require.NoError(t, err)
	require.Equal(t, append(pattern(4), 0x90, 0), got)
}

func TestProtocolsThatCannotBe(t *testing.T) {
	r := newRig(t, virtual.Config{Cards: []card.Card{card.NewT1()}}, host.Options{})
	require.ErrorIs(t, r.slot.SetProtocol(t.Context(), 1, host.MapAPDU), host.ErrNotPowered)
	_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
	require.NoError(t, err)
	_, err = r.slot.Transmit(t.Context(), []byte{0, 0, 0, 0})
	require.ErrorIs(t, err, host.ErrNoProtocol)
	require.ErrorIs(t, r.slot.SetProtocol(t.Context(), 0, host.MapAPDU), host.ErrProtocol)
	require.ErrorIs(t, r.slot.SetProtocol(t.Context(), 2, host.MapAPDU), host.ErrProtocol)
	require.NoError(t, r.slot.SetProtocol(t.Context(), 1, host.MapAPDU))
}

func TestOpenFirstSaysThatThereIsNone(t *testing.T) {
	_, err := host.OpenFirst(t.Context(), virtual.NewBus(), host.Options{})
	require.ErrorIs(t, err, host.ErrNoReader)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = host.OpenFirst(ctx, virtual.NewBus(), host.Options{})
	require.True(t, errors.Is(err, usbtransport.ErrCancelled))
}

// TestEmptyAnswerWhileTheCardIsTakenOut has a reader that ends a block with success and nothing in it, as some do when the card
// leaves in the middle.
func TestEmptyAnswerWhileTheCardIsTakenOut(t *testing.T) {
	for _, level := range levels {
		for protocol := range uint8(2) {
			for _, icc := range []ccid.ICCStatus{ccid.ICCAbsent, ccid.ICCActive} {
				bubble(t, fmt.Sprintf("%v T=%d %v", level, protocol, icc), func(t *testing.T) {
					leaving := false
					r := newRig(t, virtual.Config{
						Level: &level, Cards: []card.Card{newCard(protocol)}, Answer: func(c ccid.Command) (ccid.Response, bool) {
							return ccid.Response{
								Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(icc, ccid.CommandOK),
							}, leaving && c.Type == ccid.TypeXfrBlock
						},
					}, host.Options{})
					r.connect(t)
					leaving = true
					_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
					require.Error(t, err)
					require.Equal(t, icc == ccid.ICCAbsent, errors.Is(err, host.ErrNoCard), "%v", err)
				})
			}
		}
	}
}

// TestReaderThatLosesItsCardFirstIsRemoved has a reader that is pulled out, and says with its last answer that it has no card:
// nobody is to take that for a removal of the card.
func TestReaderThatLosesItsCardFirstIsRemoved(t *testing.T) {
	answers := map[string]ccid.Response{
		"empty answer": {Type: ccid.TypeDataBlock, Status: ccid.NewStatus(ccid.ICCAbsent, ccid.CommandOK)},
		"failure":      {Type: ccid.TypeDataBlock, Status: ccid.NewStatus(ccid.ICCAbsent, ccid.CommandFailed), Error: ccid.ErrorICCMute},
	}
	for name, answer := range answers {
		for _, level := range levels {
			bubble(t, fmt.Sprintf("%s, %v", name, level), func(t *testing.T) {
				var r *rig
				leaving := false
				r = newRig(t, virtual.Config{
					Level: &level, Cards: []card.Card{newCard(1)}, Answer: func(c ccid.Command) (ccid.Response, bool) {
						if leaving && c.Type == ccid.TypeGetSlotStatus {
							go r.bus.Unplug(r.device)
							return unheard(c), true
						}
						a := answer
						a.Slot, a.Seq = c.Slot, c.Seq
						return a, leaving
					},
				}, host.Options{})
				r.connect(t)
				before := r.slot.State()
				changed := make(chan error)
				go func() {
					_, err := r.slot.WaitChange(t.Context(), before)
					changed <- err
				}()
				synctest.Wait()

				leaving = true
				_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
				require.ErrorIs(t, err, usbtransport.ErrRemoved)
				require.NotErrorIs(t, err, host.ErrNoCard)
				require.ErrorIs(t, <-changed, usbtransport.ErrRemoved)
				require.Equal(t, before.Events, r.slot.State().Events)
			})
		}
	}
}

// unheard is an answer that nobody waits for.
func unheard(c ccid.Command) ccid.Response {
	return ccid.Response{Type: ccid.TypeSlotStatus, Slot: c.Slot + 1, Seq: c.Seq}
}

// TestCardThatIsSaidToBeGoneIsLookedFor has a reader that says so of a card with one answer, and is then asked.
func TestCardThatIsSaidToBeGoneIsLookedFor(t *testing.T) {
	for name, test := range map[string]struct {
		status ccid.Status // the answer to GetSlotStatus; 0xFF is none
		want   host.CardState
	}{
		"it is":                   {ccid.NewStatus(ccid.ICCAbsent, ccid.CommandOK), host.CardState{Events: 1}},
		"it was, and came back":   {ccid.NewStatus(ccid.ICCInactive, ccid.CommandOK), host.CardState{Present: true, Events: 2}},
		"it is not":               {ccid.NewStatus(ccid.ICCActive, ccid.CommandOK), host.CardState{Present: true}},
		"the reader does not say": {0xFF, host.CardState{Events: 1}},
	} {
		bubble(t, name, func(t *testing.T) {
			leaving := false
			r := newRig(t, virtual.Config{
				Cards: []card.Card{newCard(1)}, Answer: func(c ccid.Command) (ccid.Response, bool) {
					switch {
					case !leaving:
						return ccid.Response{}, false
					case c.Type == ccid.TypeXfrBlock:
						return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCAbsent, ccid.CommandOK)}, true
					case c.Type == ccid.TypeGetSlotStatus && test.status != 0xFF:
						return ccid.Response{Type: ccid.TypeSlotStatus, Slot: c.Slot, Seq: c.Seq, Status: test.status}, true
					}
					return unheard(c), c.Type == ccid.TypeGetSlotStatus
				},
			}, host.Options{})
			r.connect(t)
			leaving = true
			_, err := r.slot.Transmit(t.Context(), produce(t, 4, false))
			require.ErrorIs(t, err, host.ErrNoCard)
			require.Equal(t, test.want, r.slot.State())
		})
	}
}
