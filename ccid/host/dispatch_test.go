package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// busySlots makes a reader announce bMaxCCIDBusySlots.
func busySlots(n int) func(*ccid.ClassDescriptor) {
	return func(d *ccid.ClassDescriptor) { d.BMaxCCIDBusySlots = uint8(n) }
}

// delayed is a T=1 card that takes its time for GET CHALLENGE, and none for anything else.
func delayed(d time.Duration) card.Card {
	return card.New(card.NewISO(), card.Options{Protocol: 1, Patience: -1, Behave: func(command []byte) card.Behaviour {
		if len(command) > 1 && command[1] == 0x84 {
			return card.Behaviour{Delay: d}
		}
		return card.Behaviour{}
	}})
}

var getChallenge = []byte{0x00, 0x84, 0x00, 0x00, 0x08}

// TestAsManySlotsAtWorkAsTheReaderAllows lets every slot do something that takes a second: how long that takes for all
// of them tells how many were at work at once.
func TestAsManySlotsAtWorkAsTheReaderAllows(t *testing.T) {
	for slots := 2; slots <= 8; slots++ {
		for _, busy := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 255} {
			bubble(t, fmt.Sprintf("%d slots, bMaxCCIDBusySlots %d", slots, busy), func(t *testing.T) {
				cards := make([]card.Card, slots)
				for i := range cards {
					cards[i] = delayed(time.Second)
				}
				r := newRig(t, virtual.Config{Slots: slots, Cards: cards, Override: busySlots(busy)}, host.Options{})
				for _, s := range r.reader.Slots() {
					_, err := s.Connect(t.Context())
					require.NoError(t, err)
				}
				begun := time.Now()
				var group sync.WaitGroup
				for _, s := range r.reader.Slots() {
					group.Go(func() {
						_, err := s.Transmit(t.Context(), getChallenge)
						assert.NoError(t, err)
					})
				}
				group.Wait()
				atOnce := max(1, min(busy, slots))
				require.Equal(t, time.Duration((slots+atOnce-1)/atOnce)*time.Second, time.Since(begun))
				r.requireNoViolations(t)
			})
		}
	}
}

// TestSlowSlotDelaysNoOther has one slot wait for its card for long, while all others do all that a slot can do.
func TestSlowSlotDelaysNoOther(t *testing.T) {
	const slow = 40 * time.Second
	for _, level := range levels {
		for _, slots := range []int{2, 5, 8} {
			bubble(t, fmt.Sprintf("%v, %d slots", level, slots), func(t *testing.T) {
				cards := []card.Card{delayed(slow)}
				for i := 1; i < slots; i++ {
					cards = append(cards, newCard(uint8(i%2)))
				}
				config := virtual.Config{Slots: slots, Level: &level, Cards: cards, Override: busySlots(slots), WaitingTime: time.Hour}
				r := newRig(t, config, host.Options{})
				r.connect(t)
				begun := time.Now()
				var group sync.WaitGroup
				group.Go(func() {
					// A reader that runs T=1 waits as long as it takes; the others give the card up at its waiting time.
					_, err := r.slot.Transmit(t.Context(), getChallenge)
					if level >= ccid.LevelShortAPDU {
						assert.NoError(t, err)
						assert.Equal(t, slow, time.Since(begun))
					} else {
						assert.ErrorIs(t, err, usbtransport.ErrTimedOut)
					}
				})
				for i, s := range r.reader.Slots()[1:] {
					group.Go(func() {
						begun := time.Now()
						_, err := s.Connect(t.Context())
						if !assert.NoError(t, err) {
							return
						}
						for n := 1; n < 250; n += 31 {
							got, err := s.Transmit(t.Context(), echo(t, n, n, false))
							assert.NoError(t, err)
							assert.Equal(t, append(pattern(n), 0x90, 0x00), got, "slot %d", i+1)
						}
						assert.NoError(t, s.PowerOff(t.Context()))
						assert.Less(t, time.Since(begun), time.Second)
					})
				}
				group.Wait()
				r.requireNoViolations(t)
			})
		}
	}
}

// TestWaitingForTheBusIsInTheOrderOfAsking has eight slots of a reader that works for one at a time.
func TestWaitingForTheBusIsInTheOrderOfAsking(t *testing.T) {
	bubble(t, "8 slots", func(t *testing.T) {
		cards := make([]card.Card, 8)
		for i := range cards {
			cards[i] = delayed(time.Second)
		}
		r := newRig(t, virtual.Config{Slots: 8, Cards: cards, Override: busySlots(1)}, host.Options{})
		for _, s := range r.reader.Slots() {
			_, err := s.Connect(t.Context())
			require.NoError(t, err)
		}
		var mu sync.Mutex
		var order []int
		var group sync.WaitGroup
		for _, i := range []int{3, 0, 7, 2, 6, 1, 5, 4} {
			group.Go(func() {
				_, err := r.reader.Slot(i).Transmit(t.Context(), getChallenge)
				assert.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			time.Sleep(time.Millisecond) // of the bubble's clock: the next one asks later
		}
		group.Wait()
		require.Equal(t, []int{3, 0, 7, 2, 6, 1, 5, 4}, order)
		r.requireNoViolations(t)
	})
}

// TestRecoveryOfOneSlotLeavesTheOthersAlone has a slot that must be aborted again and again, beside one that works.
func TestRecoveryOfOneSlotLeavesTheOthersAlone(t *testing.T) {
	for _, level := range levels {
		bubble(t, level.String(), func(t *testing.T) {
			stuck := delayed(24 * time.Hour)
			config := virtual.Config{
				Slots: 2, Level: &level, Cards: []card.Card{stuck, delayed(250 * time.Millisecond)}, Override: busySlots(2), WaitingTime: 24 * time.Hour,
			}
			r := newRig(t, config, host.Options{Limits: short})
			r.connect(t)
			_, err := r.reader.Slot(1).Connect(t.Context())
			require.NoError(t, err)
			done := make(chan struct{})
			var group sync.WaitGroup
			group.Go(func() {
				defer close(done)
				for range 3 {
					_, err := r.slot.Transmit(t.Context(), getChallenge)
					var silent *host.NoAnswerError
					if assert.ErrorAs(t, err, &silent) {
						assert.True(t, silent.Recovery.Recovered, "%v", silent)
						assert.Equal(t, []host.RecoveryStep{host.StepAbort}, silent.Recovery.Tried)
					}
					_, err = r.slot.Connect(t.Context())
					assert.NoError(t, err)
				}
			})
			for going := true; going; {
				select {
				case <-done:
					going = false
				default:
				}
				got, err := r.reader.Slot(1).Transmit(t.Context(), getChallenge)
				require.NoError(t, err)
				require.Len(t, got, 10)
			}
			group.Wait()
			r.requireNoViolations(t)
		})
	}
}

// TestFaultAtEachTransferOfTwoSlots repeats a session on two slots at once with a fault at each of its transfers. Whatever
// happens, both sessions end, and the next ones work.
func TestFaultAtEachTransferOfTwoSlots(t *testing.T) {
	session := func(ctx context.Context, s *host.Slot) error {
		if _, err := s.Connect(ctx); err != nil {
			return err
		}
		for _, n := range []int{1, 200} {
			got, err := s.Transmit(ctx, produce(t, n, false))
			if err != nil {
				return err
			}
			if !bytes.Equal(got, append(pattern(n), 0x90, 0x00)) {
				return fmt.Errorf("wrong response % X", got)
			}
		}
		return nil
	}
	for _, kind := range []virtual.FaultKind{
		virtual.Stall, virtual.IOError, virtual.Overflow, virtual.Duplicate, virtual.ZeroLength, virtual.Drop, virtual.Timeout,
		virtual.Hold, virtual.Garble, virtual.WrongSeq, virtual.WrongSlot, virtual.Truncate,
	} {
		for _, level := range []ccid.ExchangeLevel{ccid.LevelTPDU, ccid.LevelExtendedAPDU} {
			bubble(t, fmt.Sprintf("%v at %v level", kind, level), func(t *testing.T) {
				cards := []card.Card{newCard(1), newCard(0)}
				r := newRig(t, virtual.Config{Slots: 2, Level: &level, Cards: cards, Override: busySlots(2)}, host.Options{})
				both := func() error {
					var group sync.WaitGroup
					var list [2]error
					for i, s := range r.reader.Slots() {
						group.Go(func() { list[i] = session(t.Context(), s) })
					}
					group.Wait()
					return errors.Join(list[:]...)
				}
				r.bus.Inject(nil)
				require.NoError(t, both())
				r.requireNoViolations(t)
				for k := range r.bus.Transfers() {
					r.bus.Inject(virtual.FaultAt(k, virtual.Fault{Kind: kind, Length: 11}))
					err := both()
					require.NotErrorIs(t, err, usbtransport.ErrRemoved)
					r.bus.Inject(nil)
					require.NoError(t, both(), "the session after %v at transfer %d, which gave: %v", kind, k, err)
				}
			})
		}
	}
}

func TestNoChangeOfAnySlotIsLost(t *testing.T) {
	bubble(t, "8 slots", func(t *testing.T) {
		r := newRig(t, virtual.Config{Slots: 8, Override: busySlots(8)}, host.Options{})
		for round := range 4 {
			present := round%2 == 0
			var group sync.WaitGroup
			for _, s := range r.reader.Slots() {
				before := s.State()
				group.Go(func() {
					// Nobody waits yet when the changes come, and all at once.
					time.Sleep(time.Second)
					state, err := s.WaitChange(t.Context(), before)
					assert.NoError(t, err)
					assert.Equal(t, present, state.Present, "slot %d", s.Index())
				})
			}
			for i := range r.reader.Slots() {
				var c card.Card
				if present {
					c = newCard(0)
				}
				old, err := r.device.SetCard(i, c)
				require.NoError(t, err)
				if old != nil {
					require.NoError(t, old.Close())
				}
			}
			group.Wait()
		}
		r.requireNoViolations(t)
	})
}
