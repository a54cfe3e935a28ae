package host_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// TestRefusalBySlotStatusEndsTheCommand has a reader refuse Escape as QEMU's does: by a message that is the answer to other
// commands. It is not to be waited for another one.
func TestRefusalBySlotStatusEndsTheCommand(t *testing.T) {
	bubble(t, "escape", func(t *testing.T) {
		refuse := func(c ccid.Command) (ccid.Response, bool) {
			return ccid.Response{Type: ccid.TypeSlotStatus, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed)},
				c.Type == ccid.TypeEscape
		}
		r := newRig(t, virtual.Config{Cards: []card.Card{newCard(1)}, Answer: refuse}, host.Options{})
		_, err := r.slot.Escape(t.Context(), []byte{0x6A})
		require.Error(t, err)
		var silent *host.NoAnswerError
		require.NotErrorAs(t, err, &silent)
	})
}
