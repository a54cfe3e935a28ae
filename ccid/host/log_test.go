package host_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/internal/pintest"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// TestPINsStayOutOfTheTrace sends a PIN at each level, also in the middle of chained T=1 blocks, and looks for it in
// everything that was logged.
func TestPINsStayOutOfTheTrace(t *testing.T) {
	verify := append([]byte{0x00, 0x20, 0x00, 0x01, 0x40}, []byte(strings.Repeat("1234", 16))...)
	disable := slices.Concat([]byte{0x00, 0x26}, verify[2:])
	for _, level := range levels {
		for protocol := range uint8(2) {
			logger, hook := logtest.NewNullLogger()
			logger.SetLevel(logrus.TraceLevel)
			c := card.New(card.NewISO(), card.Options{Protocol: protocol, IFSC: 20})
			r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{c}}, host.Options{Logger: logger})
			r.connect(t)
			for _, command := range [][]byte{verify, disable} {
				_, err := r.slot.Transmit(t.Context(), command)
				require.NoError(t, err)
			}
			_, err := r.slot.XfrBlock(t.Context(), verify, 0, 0)
			_ = err // not every level takes it; what counts is the log
			frames := 0
			for _, e := range hook.AllEntries() {
				if e.Level == logrus.TraceLevel {
					frames++
				}
				require.Empty(t, pintest.FindPIN([]byte(e.Message), "1234"), "%v T=%d: %s", level, protocol, e.Message)
			}
			require.NotZero(t, frames)
		}
	}
}

// TestNoFormOfAPINIsTraced sends PINs in all forms, as APDUs and as what goes to the card as it is.
func TestNoFormOfAPINIsTraced(t *testing.T) {
	for _, level := range levels {
		for protocol := range uint8(2) {
			t.Run(fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) {
				logger, hook := logtest.NewNullLogger()
				logger.SetLevel(logrus.TraceLevel)
				r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{newCard(protocol)}}, host.Options{Logger: logger})
				r.connect(t)
				for _, command := range pintest.Messages(pintest.Short(pintest.Instructions()...), pintest.Long(pintest.Instructions()...)) {
					_, err := r.slot.Transmit(t.Context(), command)
					_ = err // not every reader and card takes all; what counts is the log
				}
				for _, message := range pintest.Messages(pintest.Raw(), pintest.Characters()) {
					_, err := r.slot.XfrBlock(t.Context(), message, 0, 0)
					_ = err
				}
				frames := 0
				for _, e := range hook.AllEntries() {
					if e.Level == logrus.TraceLevel {
						frames++
					}
					require.Empty(t, pintest.Find([]byte(e.Message)), e.Message)
				}
				require.Greater(t, frames, 100)
			})
		}
	}
}
