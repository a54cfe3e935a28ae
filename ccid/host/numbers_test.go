package host

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/quirks"
)

// deafCarrier takes messages, and answers none.
type deafCarrier struct{ carrier }

func (deafCarrier) send(context.Context, ccid.Command) error { return nil }

func (deafCarrier) receive(ctx context.Context) (ccid.Response, error) {
	<-ctx.Done()
	return ccid.Response{}, ctx.Err()
}

// numbered registers a command of a slot.
func (d *dispatcher) numbered(slot uint8) *call {
	return d.register(request{command: ccid.GetSlotStatus(slot)})
}

// turn has n commands of a slot come and go.
func (d *dispatcher) turn(slot uint8, n int) {
	for range n {
		d.leave(d.numbered(slot))
	}
}

func TestNoSlotGetsTheNumberOfItsCommandBefore(t *testing.T) {
	for others := range 600 {
		d := newDispatcher(deafCarrier{})
		first := d.numbered(0)
		d.leave(first)
		d.turn(1, others)
		require.NotEqual(t, first.command.Seq, d.numbered(0).command.Seq, "%d commands of another slot between", others)
	}
}

// TestNoCommandGetsTheNumberOfTheMessageSentLast has a command sent long after it got its number.
func TestNoCommandGetsTheNumberOfTheMessageSentLast(t *testing.T) {
	for others := range 600 {
		d := newDispatcher(deafCarrier{})
		late := d.numbered(0)
		d.turn(1, others)
		require.NoError(t, d.send(t.Context(), late))
		d.leave(late)
		require.NotEqual(t, late.command.Seq, d.numbered(1).command.Seq, "%d commands of another slot between", others)
	}
}

// TestEachCallHasANumberOfItsOwn has as many commands under way as a reader may say that it takes, and then some more.
func TestEachCallHasANumberOfItsOwn(t *testing.T) {
	const most = 255
	d := newDispatcher(deafCarrier{})
	underWay := map[uint8]*call{}
	for slot := range uint8(busySlots(&ccid.ClassDescriptor{BMaxSlotIndex: most, BMaxCCIDBusySlots: most}, quirks.USB{})) {
		c := d.numbered(slot)
		require.NotContains(t, underWay, c.command.Seq)
		underWay[c.command.Seq] = c
	}
	for range 1000 {
		for n, c := range underWay {
			require.NoError(t, d.send(t.Context(), c))
			d.leave(c)
			delete(underWay, n)
			next := d.numbered(c.command.Slot)
			require.NotContains(t, underWay, next.command.Seq)
			require.NotEqual(t, n, next.command.Seq)
			underWay[next.command.Seq] = next
			break
		}
	}
	for _, c := range underWay {
		d.leave(c)
	}
}
