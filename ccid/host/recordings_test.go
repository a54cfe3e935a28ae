package host_test

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/t0"
	"github.com/goccid/goccid/t1"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// recorded is a real reader's recorded exchange, played to the driver.
type recorded struct {
	bus    *virtual.Bus
	script *virtual.Script
	reader *host.Reader
	slot   *host.Slot
}

func hexBytes(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// play opens a reader that answers exactly as the recording of this name. What the excerpt leaves out is answered by a
// quiet reader with a card that has this ATR, takes any PPS and, for T=1, any IFSD, and answers its first command with
// 9000. A model replaces the recorded one.
func play(t *testing.T, name, atr string, o host.Options, model ...string) *recorded {
	t.Helper()
	files, err := filepath.Glob("../../testdata/frames/" + name + "-*.json")
	require.NoError(t, err)
	require.Len(t, files, 1)
	file, err := os.ReadFile(files[0])
	require.NoError(t, err)
	recording, err := virtual.ParseRecording(file)
	require.NoError(t, err)
	raw := hexBytes(t, atr)
	if len(model) > 0 {
		recording.Model = model[0]
	}
	powered := false
	script, err := recording.Script(virtual.ScriptConfig{Speed: 1, Other: func(c ccid.Command) (ccid.Response, bool) {
		switch {
		case c.Type == ccid.TypeGetSlotStatus && !powered:
			return ccid.Response{Type: ccid.TypeSlotStatus, Slot: c.Slot, Seq: c.Seq, Status: ccid.NewStatus(ccid.ICCAbsent, 0)}, true
		case c.Type == ccid.TypeIccPowerOn:
			powered = true
			return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Data: raw}, true
		case c.Type == ccid.TypeAbort:
			return ccid.Response{Type: ccid.TypeSlotStatus, Slot: c.Slot, Seq: c.Seq}, true
		case c.Type == ccid.TypeXfrBlock:
			return otherBlock(c)
		}
		return virtual.QuietReader(c)
	}})
	require.NoError(t, err)
	r := &recorded{bus: virtual.NewBus(), script: script}
	_, err = r.bus.Plug(script)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.bus.Close()) })
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.TraceLevel)
	o.Logger = logger
	r.reader, err = host.OpenFirst(t.Context(), r.bus, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, r.reader.Close())
		for _, e := range hook.AllEntries() {
			if t.Failed() {
				t.Log(e.Message)
			}
			require.Greater(t, e.Level, logrus.InfoLevel, e.Message)
		}
	})
	r.slot = r.reader.Slot(0)
	return r
}

// otherBlock answers PPS, S(IFS request) and the I-block I(0,0) of a T=1 card with LRC.
func otherBlock(c ccid.Command) (ccid.Response, bool) {
	if len(c.Data) > 0 && c.Data[0] == 0xFF {
		return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Data: c.Data}, true
	}
	b, err := t1.ParseBlock(c.Data, t1.LRC)
	if err != nil {
		return ccid.Response{}, false
	}
	switch b.PCB {
	case 0xC1:
		b.PCB = 0xE1
	case 0x00:
		b.INF = []byte{0x90, 0x00}
	default:
		return ccid.Response{}, false
	}
	data, err := t1.AppendBlock(nil, b, t1.LRC)
	return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Data: data}, err == nil
}

// TestRecordings plays what real readers were seen to answer. Each entry says what the outcome is, and why that one.
func TestRecordings(t *testing.T) {
	bubble(t, "003 PPS and T=1, an escape refused by its offset, an answer that is missing", func(t *testing.T) {
		r := play(t, "003", "3BFA1800008131FE454A546178436F72655631B2", host.Options{Limits: host.Limits{Silence: time.Second}})
		_, err := r.slot.Status(t.Context())
		require.NoError(t, err)
		_, err = r.slot.Escape(t.Context(), []byte{0x6A})
		require.ErrorIs(t, err, ccid.ErrorCode(0x0A), "the reader's own error reaches the caller")

		_, err = r.slot.Connect(t.Context())
		require.NoError(t, err)
		p, _ := r.slot.Parameters()
		require.Equal(t, host.Parameters{T: 1, FD: 0x18, PPS: true, IFSC: 254, IFSD: 254}, p, "the speed that the reader was recorded with")

		_, err = r.slot.Connect(t.Context()) // the next excerpt begins with a power-up, answered at once
		require.NoError(t, err)
		got, err := r.slot.Transmit(t.Context(), []byte{0, 0, 0, 0}) // makes N(S) what it was then
		require.NoError(t, err)
		require.Equal(t, []byte{0x90, 0x00}, got)
		got, err = r.slot.Transmit(t.Context(), hexBytes(t, "80FE00000101"))
		require.NoError(t, err)
		require.Equal(t, []byte{0x6D, 0x00}, got)
		_, err = r.slot.Transmit(t.Context(), []byte{0, 0, 0, 0})
		require.NoError(t, err)
		_, err = r.slot.Transmit(t.Context(), hexBytes(t, "801000004104A38B5A67B96222544719CCA6B9153A168580F0FA702A34DF707BE3FA423106F51E91EAA9673B3C892B5596A930955FC4DD52FDF170F68E0815130FF661DC8CE1"))
		require.ErrorIs(t, err, usbtransport.ErrTimedOut, "an answer that never comes is a time-out, not a hang")
		require.True(t, r.script.Done())
	})

	bubble(t, "005 a reader that takes APDUs at TPDU level refuses the protocol of one", func(t *testing.T) {
		r := play(t, "005", "", host.Options{})
		raw, err := r.slot.PowerOn(t.Context(), host.ColdReset)
		require.NoError(t, err)
		require.Equal(t, hexBytes(t, "3BDA18FF81B1FE751F030031C573C001400090000C"), raw)
		_, err = r.slot.Status(t.Context())
		require.NoError(t, err)
		got, err := r.slot.XfrBlock(t.Context(), hexBytes(t, "00CA004F00"), 0, 0)
		require.NoError(t, err)
		require.Equal(t, hexBytes(t, "D27600012401020000050000015B00009000"), got)
		got, err = r.slot.XfrBlock(t.Context(), hexBytes(t, "00CA5F5200"), 0, 0)
		require.NoError(t, err)
		require.Equal(t, hexBytes(t, "0031C573C001400590009000"), got)
		_, err = r.slot.XfrBlock(t.Context(), hexBytes(t, "00478100000002A400020F"), 0, 0)
		require.ErrorIs(t, err, ccid.ErrorICCProtocolNotSupported)
		require.True(t, r.script.Done())
	})

	bubble(t, "006 a T=1 card out of step ends in an error, not in a loop", func(t *testing.T) {
		r := play(t, "006", "3BFA1800008131FE454A546178436F72655631B2", host.Options{Limits: short}, "gempctwin")
		_, err := r.slot.Connect(t.Context())
		require.NoError(t, err)
		_, err = r.slot.Transmit(t.Context(), []byte{0, 0, 0, 0})
		require.NoError(t, err)
		_, err = r.slot.Transmit(t.Context(), hexBytes(t, "00A40400061122334455 66"))
		require.Error(t, err)
		require.True(t, r.script.Done(), "our R-block is the recorded one")
		_, err = r.slot.Transmit(t.Context(), []byte{0, 0, 0, 0})
		require.ErrorIs(t, err, host.ErrNotPowered, "the card needs a reset")
		_, err = r.slot.Connect(t.Context())
		require.NoError(t, err)
		_, err = r.slot.Transmit(t.Context(), []byte{0, 0, 0, 0})
		require.NoError(t, err, "and works after it")
	})

	bubble(t, "012 727 ms late is not too late, and two answers that never come are two time-outs", func(t *testing.T) {
		r := play(t, "012", "", host.Options{Limits: host.Limits{Silence: 1500 * time.Millisecond}})
		require.False(t, r.slot.State().Present, "status 42, error FE is a slot without a card, not a failure")
		before := time.Now()
		status, err := r.slot.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, host.Status{ICC: ccid.ICCAbsent, Clock: ccid.ClockStoppedLow}, status)
		require.GreaterOrEqual(t, time.Since(before), 700*time.Millisecond)
		for range 2 {
			_, err = r.slot.Status(t.Context())
			var silent *host.NoAnswerError
			require.ErrorAs(t, err, &silent)
			require.True(t, silent.Recovery.Recovered)
		}
		require.True(t, r.script.Done())
		_, err = r.slot.Status(t.Context())
		require.NoError(t, err, "the reader works again")
	})

	bubble(t, "013 an error byte set on success is no error", func(t *testing.T) {
		r := play(t, "013", "", host.Options{})
		status, err := r.slot.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, host.Status{ICC: ccid.ICCAbsent}, status)
		require.True(t, r.script.Done())
	})

	bubble(t, "014 the reader's status counts, not its notification, and an empty success is an error", func(t *testing.T) {
		r := play(t, "014", "3B8F8001804F0CA000000306030003000000000068", host.Options{Limits: short})
		_, err := r.slot.WaitChange(timeout(t, 50*time.Millisecond), r.slot.State())
		require.ErrorIs(t, err, usbtransport.ErrTimedOut, "the card that was notified is not there")
		require.False(t, r.slot.State().Present)
		_, err = r.slot.PowerOn(t.Context(), host.ColdReset)
		require.NoError(t, err)
		require.NoError(t, r.slot.SetProtocol(t.Context(), 0, host.Transparent))
		_, err = r.slot.Transmit(t.Context(), hexBytes(t, "A0A40000027F10"))
		require.ErrorIs(t, err, t0.ErrResponse)
		require.True(t, r.script.Done())
	})

	bubble(t, "015 a token with automatic voltage", func(t *testing.T) {
		r := play(t, "015", "", host.Options{})
		raw, err := r.slot.PowerOn(t.Context(), host.ColdReset)
		require.NoError(t, err)
		require.Equal(t, hexBytes(t, "3BFD1300008131FE158073C021C057597562694B657940"), raw)
		_, err = r.slot.Status(t.Context())
		require.NoError(t, err)
		require.True(t, r.script.Done())
	})

	bubble(t, "017 a card that the reader can't set parameters for is used with the default ones", func(t *testing.T) {
		r := play(t, "017", "3B7F12000044564E205445434820526576353376", host.Options{})
		_, err := r.slot.PowerOn(t.Context(), host.ColdReset)
		require.NoError(t, err)
		require.NoError(t, r.slot.SetProtocol(t.Context(), 0, host.MapAPDU))
		p, ok := r.slot.Parameters()
		require.True(t, ok)
		require.Equal(t, byte(0x11), p.FD)
		require.NoError(t, p.Refused, "the quiet reader takes the default parameters")
	})

	bubble(t, "019 a chained response is fetched until it ends, or the reader falls silent", func(t *testing.T) {
		r := play(t, "019", "3BFD1300008131FE158073C021C057597562694B657940", host.Options{Limits: short})
		_, err := r.slot.Connect(t.Context())
		require.NoError(t, err)
		_, err = r.slot.Transmit(t.Context(), hexBytes(t, "00CA006E00"))
		require.ErrorIs(t, err, usbtransport.ErrTimedOut, "the recording ends before the response does")
		require.True(t, r.script.Done(), "the second part, after 64 bytes and a zero-length packet, was asked for")
	})
}
