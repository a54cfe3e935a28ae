package describe

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
)

// answering is a reader's interface that answers control requests as told.
type answering struct {
	usbtransport.Interface
	lists map[uint8][]uint32
	err   error
}

func (a answering) Number() uint8 { return 3 }

func (a answering) Control(_ context.Context, s usbtransport.Setup, data []byte) (int, error) {
	if s.RequestType != 0xA1 || s.Index != 3 || s.Value != 0 {
		return 0, &usbtransport.Error{Op: "control", Kind: usbtransport.ErrInvalid}
	}
	list, ok := a.lists[s.Request]
	if !ok {
		return 0, a.err
	}
	b := data[:0]
	for _, v := range list {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return len(b), nil
}

func TestAskLists(t *testing.T) {
	stalled := &usbtransport.Error{Op: "control", Kind: usbtransport.ErrStalled}
	removed := &usbtransport.Error{Op: "control", Kind: usbtransport.ErrRemoved}

	got, err := AskLists(t.Context(), answering{lists: map[uint8][]uint32{2: {4000, 8000}, 3: {9600}}})
	require.NoError(t, err)
	assert.Equal(t, Lists{ClockFrequencies: []uint32{4000, 8000}, DataRates: []uint32{9600}}, got)

	got, err = AskLists(t.Context(), answering{lists: map[uint8][]uint32{3: {9600}}, err: stalled})
	require.NoError(t, err, "a refusal is an answer")
	assert.Equal(t, Lists{DataRates: []uint32{9600}}, got)

	_, err = AskLists(t.Context(), answering{err: removed})
	require.ErrorIs(t, err, usbtransport.ErrRemoved)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = AskLists(ctx, answering{err: &usbtransport.Error{Kind: usbtransport.ErrCancelled}})
	require.ErrorIs(t, err, context.Canceled)
}

func TestListFindings(t *testing.T) {
	d := sound()
	d.BNumClockSupported, d.BNumDataRatesSupported = 2, 1
	assert.Empty(t, ListFindings(&d, Lists{ClockFrequencies: []uint32{4800, 8000}, DataRates: []uint32{12903}}))
	assert.Equal(t, []Finding{
		{Field: "bNumClockSupported", Text: "is 2, but the reader does not give the list"},
		{Field: "bNumDataRatesSupported", Text: "is 1, but the reader gives a list of 2"},
		{Field: "GET_DATA_RATES", Text: "1 of 2 entries are above dwMaxDataRate"},
	}, ListFindings(&d, Lists{DataRates: []uint32{12903, 2_000_000}}))
}
