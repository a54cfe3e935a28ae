//go:build linux

package cross

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/usbtransport/usbfs"
)

// TestVMRecordedSessionReplays records goccid's driver at work on QEMU's reader, and plays the recording to it: it must get
// the same answers. The emulated card sometimes doesn't answer; then the session is recorded anew.
func TestVMRecordedSessionReplays(t *testing.T) {
	vmtest.Require(t)
	const tries = 3
	for try := 1; ; try++ {
		var recording bytes.Buffer
		recorder, err := capture.NewRecorder(usbfs.New(usbfs.Options{}), &recording, capture.Options{})
		require.NoError(t, err)
		want, err := useCAC(t, recorder)
		var silence *host.NoAnswerError
		if errors.As(err, &silence) && try < tries {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, recorder.Err())

		c, err := capture.Read(bytes.NewReader(recording.Bytes()))
		require.NoError(t, err)
		replay, err := capture.NewReplay(c, capture.Lenient{}, capture.AtOnce)
		require.NoError(t, err)
		got, err := useCAC(t, replay)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.NoError(t, replay.Close())
		keepTrace(t, "qemu-ccid-goccid", recording.Bytes())
		return
	}
}

// useCAC sends the emulated CAC card what record.sh has the stock driver send it, and returns the answers.
func useCAC(t *testing.T, backend usbtransport.Backend) ([][]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	reader, err := host.OpenFirst(ctx, backend, host.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, reader.Close()) }()
	slot := reader.Slot(0)
	atr, err := slot.PowerOn(ctx, host.ColdReset)
	if err != nil {
		return nil, err
	}
	answers := [][]byte{atr}
	if err := slot.SetProtocol(ctx, 0, host.Transparent); err != nil {
		return nil, err
	}
	selectApplet := func(aid ...byte) []byte { return withData([]byte{0x00, 0xA4, 0x04, 0x00}, aid) }
	for _, command := range [][]byte{
		selectApplet(0xA0, 0, 0, 0, 0x79, 1, 0),
		{0x00, 0xC0, 0x00, 0x00, 0x0D},
		{0x00, 0x52, 0x00, 0x00, 0x02, 0x02, 0x02},
		{0x00, 0xC0, 0x00, 0x00, 0x02},
		{0x00, 0x52, 0x00, 0x02, 0x02, 0x02, 0xC8},
		{0x00, 0xC0, 0x00, 0x00, 0xC8},
		selectApplet(0xA0, 0, 0, 0, 0x99, 0x99, 0x99),
		// An answer of exactly one full packet, which a zero-length packet ends.
		selectApplet(0xA0, 0, 0, 1, 0x16, 0xDB, 0x00),
		{0x00, 0x52, 0x00, 0x02, 0x02, 0x01, 0x34},
		{0x00, 0xC0, 0x00, 0x00, 0x34},
		{0x00, 0xB0, 0x00, 0x00, 0x04},
		{0x00, 0x84, 0x00, 0x00, 0x08},
	} {
		answer, err := slot.Transmit(ctx, command)
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer)
	}
	return answers, slot.PowerOff(ctx)
}
