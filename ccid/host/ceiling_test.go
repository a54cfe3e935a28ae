package host_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

var (
	// generateKeyPair is GENERATE ASYMMETRIC KEY PAIR as for an OpenPGP card, odd and even INS. The virtual card does not know
	// it, but thinks about it for as long as the test wants.
	generateKeyPair = []byte{0x00, 0x47, 0x80, 0x00, 0x02, 0xB6, 0x00, 0x00}
	generateEvenINS = []byte{0x00, 0x46, 0x80, 0x00, 0x02, 0xB6, 0x00, 0x00}
	// unknown is the card's answer to a command that it does not know.
	unknown = []byte{0x6D, 0x00}
)

// thinker is a card that takes a time for each command, and asks for more time again and again: by NULL bytes with T=0, by
// S(WTX request) with T=1. Readers at APDU levels make time extensions of these, and all do of NULL bytes.
type thinker struct{ delay atomic.Int64 }

func (k *thinker) think(d time.Duration) { k.delay.Store(int64(d)) }

func (k *thinker) options(protocol uint8) card.Options {
	return card.Options{Protocol: protocol, Patience: 730 * time.Millisecond, Behave: func([]byte) card.Behaviour {
		return card.Behaviour{Delay: time.Duration(k.delay.Load())}
	}}
}

// eachThinker runs f in a bubble for each level and protocol, and for the tokens.
func eachThinker(t *testing.T, o host.Options, f func(t *testing.T, r *rig, k *thinker)) {
	t.Helper()
	for _, level := range levels {
		for protocol := range uint8(2) {
			bubble(t, fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) {
				k := &thinker{}
				r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{card.New(card.NewISO(), k.options(protocol))}}, o)
				r.connect(t)
				f(t, r, k)
			})
		}
	}
	for name, v := range iccdVersions {
		bubble(t, "token, "+name, func(t *testing.T) {
			k := &thinker{}
			r := newRig(t, v.config(k.options(v.protocol).Behave), o)
			r.connect(t)
			f(t, r, k)
		})
	}
}

// answers sends a command that the card answers after it has thought for d.
func (r *rig) answers(t *testing.T, k *thinker, d time.Duration, command, want []byte) {
	t.Helper()
	k.think(d)
	begun := time.Now()
	got, err := r.slot.Transmit(t.Context(), command)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.GreaterOrEqual(t, time.Since(begun), d)
	k.think(0)
}

// givesUp sends a command at which the card does not stop thinking. It is given up after limit, and the reader works again.
func (r *rig) givesUp(t *testing.T, k *thinker, limit time.Duration, command []byte) {
	t.Helper()
	k.think(10 * time.Hour)
	begun := time.Now()
	_, err := r.slot.Transmit(t.Context(), command)
	var none *host.NoAnswerError
	require.ErrorAs(t, err, &none)
	require.Equal(t, limit, none.Ceiling)
	require.ErrorContains(t, err, fmt.Sprintf("given up after %v in all", limit))
	require.True(t, none.Recovery.Recovered, "%v", none)
	require.GreaterOrEqual(t, time.Since(begun), limit)
	require.Less(t, time.Since(begun), limit+15*time.Second, "with the recovery")
	k.think(0)
	r.ready(t)
}

// TestMoreTimeForEverIsGivenUpAtTheCeiling has cards that ask for more time again and again.
func TestMoreTimeForEverIsGivenUpAtTheCeiling(t *testing.T) {
	eachThinker(t, host.Options{}, func(t *testing.T, r *rig, k *thinker) {
		k.think(50 * time.Second)
		got, err := r.slot.Transmit(t.Context(), getChallenge)
		require.NoError(t, err)
		require.Len(t, got, 10)
		r.givesUp(t, k, time.Minute, getChallenge)
	})
}

// TestKeyGenerationMayTakeMinutes has cards that take as long as real ones do for a long RSA key, and one command among
// them that may not.
func TestKeyGenerationMayTakeMinutes(t *testing.T) {
	eachThinker(t, host.Options{}, func(t *testing.T, r *rig, k *thinker) {
		r.answers(t, k, 4*time.Minute, generateKeyPair, unknown)
		r.givesUp(t, k, time.Minute, getChallenge)
		r.answers(t, k, 4*time.Minute, generateEvenINS, unknown)
		r.givesUp(t, k, 5*time.Minute, generateKeyPair)
	})
}

// TestCeilingsCanBeSet has limits of the caller's, of which none is less than what it has to hold.
func TestCeilingsCanBeSet(t *testing.T) {
	for _, test := range []struct {
		name               string
		limits             host.Limits
		quirk              string
		any, keyGeneration time.Duration
	}{
		{"both", host.Limits{Exchange: 2 * time.Minute, KeyGeneration: 3 * time.Minute}, "", 2 * time.Minute, 3 * time.Minute},
		{"the one that holds the other", host.Limits{Exchange: 10 * time.Minute}, "", 10 * time.Minute, 10 * time.Minute},
		{"silence, which both hold", host.Limits{Silence: 8 * time.Minute}, "", 8 * time.Minute, 8 * time.Minute},
		{"all to one", host.Limits{Silence: 30 * time.Second, Exchange: 30 * time.Second, KeyGeneration: 30 * time.Second}, "", 30 * time.Second, 30 * time.Second},
		{"by a quirk", host.Limits{}, `set.timing.exchange = "2m"`, 2 * time.Minute, 5 * time.Minute},
		{"by a quirk, to more than key generation has", host.Limits{}, `set.timing.exchange = "7m"`, 7 * time.Minute, 7 * time.Minute},
		{"by a quirk, to less", host.Limits{Silence: 10 * time.Second}, `set.timing.exchange = "30s"`, 30 * time.Second, 5 * time.Minute},
		{"by the allowance of T=1", host.Limits{}, `set.timing.t1_allowance = "5m"`, 6 * time.Minute, 10 * time.Minute},
	} {
		bubble(t, test.name, func(t *testing.T) {
			var table *quirks.Table
			if test.quirk != "" {
				var err error
				table, err = table.Extend("test.toml", []byte("[[quirk]]\nid = \"test\"\nreader = [\"*:*\"]\n"+test.quirk))
				require.NoError(t, err)
			}
			k, level := &thinker{}, ccid.LevelTPDU
			r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{card.New(card.NewISO(), k.options(1))}}, host.Options{Limits: test.limits, Quirks: table})
			r.connect(t)
			r.givesUp(t, k, test.any, getChallenge)
			r.givesUp(t, k, test.keyGeneration, generateKeyPair)
		})
	}
}

// TestTimeThatOtherSlotsTakeIsNotTheOperations has a reader that works for one slot at a time, and makes a key in the other.
func TestTimeThatOtherSlotsTakeIsNotTheOperations(t *testing.T) {
	bubble(t, "one busy slot", func(t *testing.T) {
		k, level := &thinker{}, ccid.LevelShortAPDU
		r := newRig(t, virtual.Config{
			Level: &level, Slots: 2, Cards: []card.Card{card.New(card.NewISO(), k.options(1)), card.NewT1()},
			Override: func(d *ccid.ClassDescriptor) { d.BMaxCCIDBusySlots = 1 },
		}, host.Options{})
		other := r.reader.Slot(1)
		for _, s := range r.reader.Slots() {
			_, err := s.Connect(t.Context())
			require.NoError(t, err)
		}
		k.think(4 * time.Minute)
		made := make(chan error, 1)
		go func() {
			_, err := r.slot.Transmit(t.Context(), generateKeyPair)
			made <- err
		}()
		time.Sleep(time.Second)
		begun := time.Now()
		got, err := other.Transmit(t.Context(), getChallenge)
		require.NoError(t, err)
		require.Len(t, got, 10)
		require.Greater(t, time.Since(begun), 3*time.Minute)
		require.NoError(t, <-made)
	})
}

// TestSpeedsThatTakeTooLongAreNotTriedAgain has a card with a long block waiting time that is deaf at its first speed: to find
// that out takes longer than an operation may. The next one goes on with what is left.
func TestSpeedsThatTakeTooLongAreNotTriedAgain(t *testing.T) {
	bubble(t, "BWI 7", func(t *testing.T) {
		const bwt = 11430 * time.Millisecond // 2^7·960·372 clocks at 4 MHz
		reader := &deafAt{fd: 0x96, late: true}
		slow := card.New(card.NewISO(), card.Options{ATR: []byte{0x3B, 0x90, 0x96, 0x81, 0x21, 0x75, 0xD3}})
		c := hostDoesAll(withCards(ccid.LevelTPDU, slow), func(d *ccid.ClassDescriptor) { d.DwDefaultClock = 4000 })
		deaf := false
		c.Answer = func(c ccid.Command) (resp ccid.Response, mute bool) {
			resp, mute = reader.answer(c)
			deaf = mute
			return resp, mute
		}
		r := newRig(t, c, host.Options{})
		r.bus.Inject(func(tr virtual.Transfer) virtual.Fault {
			if tr.Kind == virtual.BulkInTransfer && deaf {
				return virtual.Fault{Kind: virtual.Delay, Delay: bwt}
			}
			return virtual.Fault{}
		})
		_, err := r.slot.Connect(t.Context())
		var none *host.NoAnswerError
		require.ErrorAs(t, err, &none)
		require.Equal(t, time.Minute, none.Ceiling)
		require.Equal(t, []byte{0x96}, reader.speeds())
		r.connect(t)
		require.NotContains(t, reader.speeds(), byte(0x96))
	})
}

// TestNothingIsSentAfterTheCeiling has a slot that says that it is busy, again and again: where no command is under way when
// the time is over there is nothing to recover from.
func TestNothingIsSentAfterTheCeiling(t *testing.T) {
	bubble(t, "busy slot", func(t *testing.T) {
		blocks, busy := 0, failing(ccid.TypeXfrBlock, ccid.ErrorSlotBusy, ccid.ICCActive)()
		c := withCards(ccid.LevelShortAPDU, card.NewT1())
		c.Answer = func(c ccid.Command) (ccid.Response, bool) {
			if c.Type == ccid.TypeXfrBlock {
				blocks++
			}
			return busy(c)
		}
		const limit = 475 * time.Millisecond
		r := newRig(t, c, host.Options{Limits: host.Limits{Silence: limit, Exchange: limit}})
		r.connect(t)
		_, err := r.slot.Transmit(t.Context(), getChallenge)
		var none *host.NoAnswerError
		require.ErrorAs(t, err, &none)
		require.Equal(t, limit, none.Ceiling)
		require.Empty(t, none.Recovery.Tried)
		require.Equal(t, 10, blocks, "one each 50 ms")
	})
}
