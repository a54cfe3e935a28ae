package host_test

import (
	"fmt"
	"sync"
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
					// No require here: it takes longer to look who calls it than much of what is measured.
					if got, err := r.slot.Transmit(b.Context(), command); err != nil || len(got) != 10 {
						b.Fatalf("% X, %v", got, err)
					}
				}
			})
		}
	}
}

// BenchmarkSlots has that done by several slots of a reader at once; one operation is one command of one slot.
func BenchmarkSlots(b *testing.B) {
	for _, slots := range []int{2, 8} {
		b.Run(fmt.Sprint(slots), func(b *testing.B) {
			quiet, _ := logtest.NewNullLogger()
			cards := make([]card.Card, slots)
			for i := range cards {
				cards[i] = newCard(1)
			}
			level := ccid.LevelExtendedAPDU
			r := newRig(b, virtual.Config{Slots: slots, Level: &level, Cards: cards, Override: busySlots(slots)}, host.Options{Logger: quiet})
			command := echo(b, 8, 8, false)
			for _, s := range r.reader.Slots() {
				_, err := s.Connect(b.Context())
				require.NoError(b, err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for _, s := range r.reader.Slots() {
				group.Go(func() {
					for range (b.N + slots - 1) / slots {
						if got, err := s.Transmit(b.Context(), command); err != nil || len(got) != 10 {
							b.Errorf("% X, %v", got, err)
						}
					}
				})
			}
			group.Wait()
		})
	}
}
