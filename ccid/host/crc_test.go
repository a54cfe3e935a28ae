package host_test

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// TestBothFormsOfCRC finds out which one a card has, and remembers it.
func TestBothFormsOfCRC(t *testing.T) {
	for _, level := range []ccid.ExchangeLevel{ccid.LevelCharacter, ccid.LevelTPDU} {
		for _, plain := range []bool{false, true} {
			for _, features := range []ccid.Features{0, ccid.FeatureAutoIFSD} {
				bubble(t, fmt.Sprintf("%v plain %t features %X", level, plain, uint32(features)), func(t *testing.T) {
					var powered atomic.Int32
					r := newRig(t, virtual.Config{
						Level: &level, Cards: []card.Card{card.New(card.NewISO(), card.Options{Protocol: 1, CRC: true, PlainCRC: plain})},
						Override: func(d *ccid.ClassDescriptor) { d.DwFeatures |= features },
						Answer: func(c ccid.Command) (ccid.Response, bool) {
							if c.Type == ccid.TypeIccPowerOn {
								powered.Add(1)
							}
							return ccid.Response{}, false
						},
					}, host.Options{})
					activations := func() int32 {
						powered.Store(0)
						r.connect(t)
						for _, n := range []int{1, 254, 3000} {
							got, err := r.slot.Transmit(t.Context(), echo(t, n, n, true))
							require.NoError(t, err)
							require.True(t, bytes.Equal(append(pattern(n), 0x90, 0x00), got))
						}
						return powered.Load()
					}
					first := int32(1)
					if plain {
						first = 2
					}
					require.Equal(t, first, activations(), "one more for the other form")
					require.Equal(t, int32(1), activations(), "the form is known")
					r.requireNoViolations(t)
				})
			}
		}
	}
}

// TestRefusedSpeedIsNoReasonForTheOtherCRC has a card that does not answer to its fastest PPS.
func TestRefusedSpeedIsNoReasonForTheOtherCRC(t *testing.T) {
	reader := &deafAt{fd: 0x96}
	c := card.New(card.NewISO(), card.Options{Protocol: 1, CRC: true})
	r := newRig(t, virtual.Config{Level: &tpduLevel, Cards: []card.Card{c}, Answer: reader.answer}, host.Options{})
	r.connect(t)
	tried := reader.speeds()
	require.Len(t, tried, 2, "each speed once: % X", tried)
	require.NotEqual(t, tried[0], tried[1])
}
