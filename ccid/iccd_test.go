package ccid

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestICCDBlocks(t *testing.T) {
	for _, test := range []struct {
		bytes []byte
		want  ICCDBlock
	}{
		{[]byte{0x00}, ICCDBlock{Data: []byte{}}},
		{[]byte{0x00, 0x90, 0x00}, ICCDBlock{Data: []byte{0x90, 0x00}}},
		{[]byte{0x01, 1}, ICCDBlock{Type: ICCDBegins, Data: []byte{1}}},
		{[]byte{0x02, 2}, ICCDBlock{Type: ICCDEnds, Data: []byte{2}}},
		{[]byte{0x03, 3}, ICCDBlock{Type: ICCDContinues, Data: []byte{3}}},
		{[]byte{0x10}, ICCDBlock{Type: ICCDAwaitsPart, Data: []byte{}}},
		{[]byte{0x40, 0x41, 0xFE}, ICCDBlock{Type: ICCDStatus, Status: NewStatus(ICCInactive, CommandFailed), Error: ErrorICCMute}},
		{[]byte{0x80, 0, 0}, ICCDBlock{Type: ICCDPolling}},
		{[]byte{0x80, 0x34, 0x12}, ICCDBlock{Type: ICCDPolling, Delay: 0x1234 * 10 * time.Millisecond}},
		{[]byte{0x80, 0xFF, 0xFF}, ICCDBlock{Type: ICCDPolling, Delay: 655350 * time.Millisecond}},
	} {
		got, err := ParseICCDBlock(test.bytes)
		require.NoError(t, err)
		require.Equal(t, test.want, got)
		b, err := got.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, test.bytes, b)
	}
	got, err := ParseICCDBlock([]byte{0x40, 0x01, 0x00, 0x77})
	require.NoError(t, err, "tokens answer with as many bytes as are asked for")
	require.Equal(t, ICCInactive, got.Status.ICC())
	b, err := ICCDBlock{Type: ICCDPolling, Delay: time.Hour}.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, []byte{0x80, 0xFF, 0xFF}, b)
}

func TestICCDBlocksThatAreMalformed(t *testing.T) {
	for _, b := range [][]byte{nil, {}, {0x04}, {0x11, 1}, {0x20}, {0x40}, {0x40, 0}, {0x80}, {0x80, 1}, {0xFF, 1, 2}} {
		_, err := ParseICCDBlock(b)
		require.ErrorIs(t, err, ErrMessage, "% X", b)
	}
}

func TestICCDStates(t *testing.T) {
	for state, want := range map[ICCDState]string{
		0x00: "ready", 0x01: "ready", 0x10: "data", 0x1F: "data", 0x20: "SW1 SW2", 0x40: "busy", 0x41: "busy", 0x80: "mute", 0xC0: "mute",
		0x30: "state 0x30", 0x51: "state 0x51",
	} {
		require.Equal(t, want, state.String())
	}
}

func FuzzParseICCDBlock(f *testing.F) {
	for _, b := range [][]byte{nil, {0}, {0, 0x90, 0}, {1, 2, 3}, {0x10}, {0x40, 0x42, 0xFE}, {0x40}, {0x80, 1, 0}, {0x80, 0xFF, 0xFF, 0}, {0xA5}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		block, err := ParseICCDBlock(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMessage)
			require.Equal(t, ICCDBlock{}, block)
			return
		}
		again, err := block.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, b[:len(again)], again)
	})
}
