package main

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/virtual/card"
)

// TestPassthruIsACardThatSpeaksT1 plays QEMU: it makes the card's place, and hands blocks through, twice over as after a reset.
func TestPassthruIsACardThatSpeaksT1(t *testing.T) {
	qemu, ended := startPassthru(t)
	for range 2 {
		require.NoError(t, writeVSC(qemu, vscInit, make([]byte, 12)))
		kind, answer, err := readVSC(qemu)
		require.NoError(t, err)
		require.Equal(t, vscATR, kind)
		require.Equal(t, []byte{1}, card.ReadATR(answer).Protocols)

		for _, blocks := range [][2][]byte{
			{{0x00, 0xC1, 0x01, 0xFE}, {0x00, 0xE1, 0x01, 0xFE}},                                           // IFS
			{{0x00, 0x00, 0x05, 0x80, 0xEE, 0x00, 0x02, 0x02}, {0x00, 0x00, 0x04, 0x00, 0x01, 0x90, 0x00}}, // two bytes of its pattern
		} {
			require.NoError(t, writeVSC(qemu, vscAPDU, append(blocks[0], card.EDC(blocks[0], false)...)))
			kind, block, err := readVSC(qemu)
			require.NoError(t, err)
			require.Equal(t, vscAPDU, kind)
			require.Equal(t, append(blocks[1], card.EDC(blocks[1], false)...), block)
		}
	}
	require.NoError(t, qemu.Close())
	require.NoError(t, <-ended)
}

func TestPassthruTakesNoMessageWithoutBound(t *testing.T) {
	qemu, ended := startPassthru(t)
	_, err := qemu.Write([]byte{0, 0, 0, 7, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF})
	require.NoError(t, err)
	require.ErrorContains(t, <-ended, "a message of 4294967295 bytes")
}

// startPassthru returns QEMU's end of the connection, and what comes of the other.
func startPassthru(t *testing.T) (net.Conn, <-chan error) {
	t.Helper()
	listener, err := listen(filepath.Join(t.TempDir(), "card"))
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- servePassthru(ctx, listener, card.NewT1()) }()
	conn, err := net.Dial("unix", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn, ended
}
