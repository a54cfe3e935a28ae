package host_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// atrWith makes an answer to reset whose third software function table says what the card can do.
func atrWith(t uint8, functions byte) []byte {
	b := []byte{0x3B, 0x85, 0x80 | t, t, 0x80, 0x73, 0xC0, 0x01, functions}
	if t == 0 {
		return slices.Concat([]byte{0x3B, 0x05}, b[4:])
	}
	b = append(b, 0)
	for _, v := range b[1 : len(b)-1] {
		b[len(b)-1] ^= v
	}
	return b
}

// TestExtendedAPDUsThroughAReaderForShortOnes sends them in the ways that the card says it knows, and in no other.
func TestExtendedAPDUsThroughAReaderForShortOnes(t *testing.T) {
	const chaining, extendedLength = 0x80, 0x40
	level := ccid.LevelShortAPDU
	for _, test := range []struct {
		name      string
		protocol  uint8
		functions byte
		ins       byte // that the card sees, 0 where the command is refused
	}{
		{"T=0 card with chaining", 0, chaining, 0xEC},
		{"T=1 card with chaining", 1, chaining, 0xEC},
		{"T=0 card with both", 0, chaining | extendedLength, 0xEC},
		{"T=0 card with extended length", 0, extendedLength, 0xC2},
		{"T=1 card with extended length", 1, extendedLength, 0},
		{"T=0 card with neither", 0, 0, 0},
		{"T=1 card with neither", 1, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var first []byte
			c := card.New(card.NewISO(), card.Options{ATR: atrWith(test.protocol, test.functions), Behave: func(command []byte) card.Behaviour {
				if first == nil {
					first = slices.Clone(command)
				}
				return card.Behaviour{}
			}})
			r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{c}}, host.Options{})
			r.connect(t)
			for _, n := range []int{1, 255, 256, 257, 509, 510, 511, 2040, 32767, 65535} {
				first = nil
				got, err := r.slot.Transmit(t.Context(), echo(t, n, n, true))
				if n > 255 && test.ins == 0 {
					require.ErrorIs(t, err, host.ErrExtendedAPDU)
					require.ErrorIs(t, err, host.ErrTooLong)
					require.Nil(t, first, "nothing reaches the card")
					continue
				}
				require.NoError(t, err, "%d bytes", n)
				require.True(t, bytes.Equal(append(pattern(n), 0x90, 0x00), got), "%d bytes: got %d", n, len(got))
				if n > 255 {
					require.Equal(t, test.ins, first[1])
				}
			}
			for _, n := range []int{1, 256, 257, 65535} {
				got, err := r.slot.Transmit(t.Context(), produce(t, n, true))
				require.NoError(t, err)
				require.True(t, bytes.Equal(append(pattern(n), 0x90, 0x00), got), "%d bytes: got %d", n, len(got))
			}
			r.requireNoViolations(t)
		})
	}
}

// TestChainEndsWhereTheCardSaysSo returns the card's answer to a command in the middle, and sends no more of them.
func TestChainEndsWhereTheCardSaysSo(t *testing.T) {
	level := ccid.LevelShortAPDU
	r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{newCard(1)}, Answer: refuseChain()}, host.Options{})
	r.connect(t)
	got, err := r.slot.Transmit(t.Context(), update(t, 2000, true))
	require.NoError(t, err)
	require.Equal(t, []byte{0x68, 0x84}, got)
}

// refuseChain answers 6884 to the third command of a chain, and fails on a fourth.
func refuseChain() func(ccid.Command) (ccid.Response, bool) {
	chained := 0
	return func(c ccid.Command) (ccid.Response, bool) {
		if c.Type != ccid.TypeXfrBlock || len(c.Data) < 4 || c.Data[0] != 0x10 {
			return ccid.Response{}, false
		}
		sw := []byte{0x90, 0x00}
		switch chained++; chained {
		case 3:
			sw = []byte{0x68, 0x84}
		case 4:
			panic(fmt.Sprintf("a command after the end of the chain: % X", c.Data[:4]))
		}
		return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandOK), Data: sw}, true
	}
}
