package host_test

import (
	"fmt"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// BenchmarkTransmit has a virtual reader's card answer a short command, by each exchange level and protocol. What the reader and
// the card cost is part of it.
func BenchmarkTransmit(b *testing.B) {
	for _, level := range []ccid.ExchangeLevel{ccid.LevelExtendedAPDU, ccid.LevelTPDU} {
		for protocol := range uint8(2) {
			b.Run(fmt.Sprintf("%v,T=%d", level, protocol), func(b *testing.B) {
				quiet, _ := logtest.NewNullLogger()
				quiet.SetLevel(logrus.InfoLevel)
				r := newRig(b, virtual.Config{Level: &level, Cards: []card.Card{newCard(protocol)}}, host.Options{Logger: quiet})
				r.connect(b)
				command := echo(b, 8, 8, false)
				b.ReportAllocs()
				for b.Loop() {
					got, err := r.slot.Transmit(b.Context(), command)
					require.NoError(b, err)
					require.Len(b, got, 10)
				}
			})
		}
	}
}
