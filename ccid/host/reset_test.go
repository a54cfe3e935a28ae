package host_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// TestUSBResetIsToldToAllReadersOfTheDevice has one interface of a device fall silent until the port is reset.
func TestUSBResetIsToldToAllReadersOfTheDevice(t *testing.T) {
	bubble(t, "two interfaces", func(t *testing.T) {
		device, err := virtual.NewReader(virtual.Config{Model: "acs-walletmate-dual-reader", Cards: []card.Card{newCard(1), newCard(1)}})
		require.NoError(t, err)
		bus := virtual.NewBus()
		info, err := bus.Plug(device)
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, bus.Close())
			require.NoError(t, device.Close())
		})
		shared := host.NewDevice(bus, info)
		functions, err := shared.Functions()
		require.NoError(t, err)
		require.Len(t, functions, 2)
		var slots []*host.Slot
		for _, f := range functions {
			r, err := shared.Open(t.Context(), f.Interface.Number, host.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, r.Close()) })
			_, err = r.Slot(0).Connect(t.Context())
			require.NoError(t, err)
			slots = append(slots, r.Slot(0))
		}
		before := []host.CardState{slots[0].State(), slots[1].State()}
		var lost atomic.Int32
		bus.Inject(func(tr virtual.Transfer) virtual.Fault {
			// The command, and a command for each step of the recovery before the reset.
			if tr.Endpoint == functions[0].BulkOut.Address && lost.Add(1) <= 4 {
				return virtual.Fault{Kind: virtual.Drop}
			}
			return virtual.Fault{}
		})
		_, err = slots[0].Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
		var silent *host.NoAnswerError
		require.ErrorAs(t, err, &silent)
		require.True(t, silent.Recovery.Recovered)
		require.Equal(t, host.StepReset, silent.Recovery.Tried[len(silent.Recovery.Tried)-1])

		time.Sleep(time.Second) // of the bubble's clock: the notifications after the reset have come
		for i, s := range slots {
			require.False(t, s.State().Powered)
			_, err := s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
			require.ErrorIs(t, err, host.ErrNotPowered, "told that the card was reset")
			_, err = s.Status(t.Context())
			require.NoError(t, err)
			_, err = s.WaitChange(timeout(t, time.Second), before[i])
			require.ErrorIs(t, err, usbtransport.ErrTimedOut, "not told that it is gone")
			_, err = s.Connect(t.Context())
			require.NoError(t, err)
			_, err = s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0x0C})
			require.NoError(t, err)
		}
		// A card that is exchanged later counts again.
		state := slots[1].State()
		old, err := device.SetCard(1, newCard(0))
		require.NoError(t, err)
		require.NoError(t, old.Close())
		after, err := slots[1].WaitChange(timeout(t, time.Second), state)
		require.NoError(t, err)
		require.Equal(t, state.Events+2, after.Events)
		require.Empty(t, device.Violations())
	})
}

// shaken is a bus whose transfers end now and then with what somebody does to the device.
type shaken struct {
	*virtual.Bus
	cause atomic.Pointer[error]
}

type shakenInterface struct {
	usbtransport.Interface
	bus *shaken
}

func (s *shaken) Open(ctx context.Context, info usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	i, err := s.Bus.Open(ctx, info, number)
	return &shakenInterface{i, s}, err
}

func (s *shakenInterface) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	n, err := s.Interface.BulkIn(ctx, endpoint, buf)
	if cause := s.bus.cause.Swap(nil); cause != nil {
		return 0, &usbtransport.Error{Op: "bulk in", Kind: usbtransport.ErrIO, Cause: *cause}
	}
	return n, err
}

// TestResetBySomebodyElseIsNoExchangeOfTheCard has the card off afterwards, which without the reset says that it was exchanged.
func TestResetBySomebodyElseIsNoExchangeOfTheCard(t *testing.T) {
	for _, cause := range []error{usbtransport.ErrReset, usbtransport.ErrIO} {
		bubble(t, cause.Error(), func(t *testing.T) {
			off := false
			device, err := virtual.NewReader(virtual.Config{Cards: []card.Card{newCard(1)}, Answer: func(c ccid.Command) (ccid.Response, bool) {
				return ccid.Response{
					Type: ccid.TypeSlotStatus, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCInactive, ccid.CommandOK),
				}, off && c.Type == ccid.TypeGetSlotStatus
			}})
			require.NoError(t, err)
			bus := &shaken{Bus: virtual.NewBus()}
			defer func() {
				require.NoError(t, bus.Close())
				require.NoError(t, device.Close())
			}()
			info, err := bus.Plug(device)
			require.NoError(t, err)
			r, err := host.Open(t.Context(), bus, info, 0, host.Options{})
			require.NoError(t, err)
			defer func() { require.NoError(t, r.Close()) }()
			s := r.Slot(0)
			_, err = s.Connect(t.Context())
			require.NoError(t, err)
			before := s.State()

			off = true
			bus.cause.Store(&cause)
			_, err = s.Transmit(t.Context(), produce(t, 4, false))
			require.ErrorIs(t, err, usbtransport.ErrIO)
			require.False(t, s.State().Powered)
			require.True(t, s.State().Present)
			require.Equal(t, cause == usbtransport.ErrReset, s.State().Events == before.Events)
			_, err = s.Transmit(t.Context(), produce(t, 4, false))
			require.ErrorIs(t, err, host.ErrNotPowered)
			off = false
			_, err = s.Connect(t.Context())
			require.NoError(t, err)
			_, err = s.Transmit(t.Context(), produce(t, 4, false))
			require.NoError(t, err)
		})
	}
}
