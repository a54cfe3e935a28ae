package host_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/t0"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// A T=0 card can't be told to stop. Whatever it still sends after the host gave up must not answer the next command.
func TestT0SessionEndsWithACommandThatWasGivenUp(t *testing.T) {
	for _, level := range []ccid.ExchangeLevel{ccid.LevelCharacter, ccid.LevelTPDU} {
		bubble(t, level.String(), func(t *testing.T) {
			slow := true
			c := card.New(card.NewISO(), card.Options{Behave: func([]byte) card.Behaviour {
				if !slow {
					return card.Behaviour{}
				}
				return card.Behaviour{Delay: 10 * time.Second}
			}})
			r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{c}}, host.Options{})
			r.connect(t)
			challenge := []byte{0x00, 0x84, 0x00, 0x00, 0x08}
			_, err := r.slot.Transmit(timeout(t, time.Second), challenge)
			require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			slow = false
			_, err = r.slot.Transmit(t.Context(), challenge)
			require.ErrorIs(t, err, host.ErrNotPowered)
			r.connect(t)
			answer, err := r.slot.Transmit(t.Context(), challenge)
			require.NoError(t, err)
			require.Len(t, answer, 8+2)
		})
	}
}

func TestT0CommandThatIsNoneLeavesTheSessionAlone(t *testing.T) {
	level := ccid.LevelTPDU
	r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{card.NewT0()}}, host.Options{})
	r.connect(t)
	_, err := r.slot.Transmit(t.Context(), []byte{0x00, 0x64, 0x00, 0x00})
	require.ErrorIs(t, err, t0.ErrInstruction)
	_, err = r.slot.Transmit(t.Context(), []byte{0x00, 0xA4, 0x00, 0x0C})
	require.NoError(t, err)
}
