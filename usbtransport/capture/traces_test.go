package capture_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

const traces = "../../testdata/traces"

var update = flag.Bool("update", false, "record the traces of virtual readers again")

// session is what a recorded host said to the card in slot 0 between two resets, and what came back. It is read from the
// file by a few lines of its own, so that it can judge the replay.
type session struct {
	atr       []byte
	exchanges [][2][]byte
}

// sessions also returns the packets of the XfrBlocks that got no answer.
func sessions(t testing.TB, c *capture.Capture) (list []session, unanswered []int) {
	t.Helper()
	commands := map[uint8]ccid.Command{}
	for _, transfer := range c.Transfers {
		if transfer.Type != usbtransport.TransferBulk || len(transfer.Data) == 0 {
			continue
		}
		if !transfer.In() {
			command, err := ccid.ParseCommand(transfer.Data)
			require.NoError(t, err, "packet %d", transfer.Packet())
			commands[command.Seq] = command
			if command.Type == ccid.TypeXfrBlock {
				unanswered = append(unanswered, transfer.Packet())
			}
			continue
		}
		r, err := ccid.ParseResponse(transfer.Data)
		require.NoError(t, err, "packet %d", transfer.Completed)
		if r.Status.Command() != ccid.CommandOK {
			continue
		}
		switch command := commands[r.Seq]; command.Type {
		case ccid.TypeIccPowerOn:
			list = append(list, session{atr: bytes.Clone(r.Data)})
		case ccid.TypeXfrBlock:
			require.NotEmpty(t, list, "packet %d: the card has no power", transfer.Completed)
			unanswered = unanswered[1:]
			last := &list[len(list)-1]
			last.exchanges = append(last.exchanges, [2][]byte{command.Data, bytes.Clone(r.Data)})
		}
	}
	return list, unanswered
}

func readTrace(t testing.TB, name string) *capture.Capture {
	t.Helper()
	c, err := capture.ReadFile(name)
	require.NoError(t, err)
	require.False(t, c.Truncated)
	return c
}

// openReplay opens the reader of a capture with goccid's driver.
func openReplay(t testing.TB, c *capture.Capture, mode capture.Mode) (*capture.Replay, *host.Reader) {
	t.Helper()
	replay, err := capture.NewReplay(c, mode, capture.AtOnce)
	require.NoError(t, err)
	reader, err := host.OpenFirst(t.Context(), replay, host.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reader.Close()) })
	return replay, reader
}

// TestDriverGetsWhatTheRecordedDriverGot plays the device's side of the recordings of pcscd and libccid against goccid's driver. It
// sends other commands besides, in another order, and must get the same ATR and the same answers. The zero-length
// recording is one in which libccid lost step with the reader.
func TestDriverGetsWhatTheRecordedDriverGot(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(traces, "qemu-ccid-libccid*.pcapng"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c := readTrace(t, file)
			recorded, unanswered := sessions(t, c)
			require.NotEmpty(t, recorded)
			replay, reader := openReplay(t, c, capture.Lenient{})
			require.Equal(t, "QEMU", reader.Function().Device.Manufacturer)
			slot := reader.Slot(0)
			exchanges := 0
			for i, s := range recorded {
				reset := host.ColdReset
				if i > 0 {
					reset = host.WarmReset
				}
				got, err := slot.PowerOn(t.Context(), reset)
				require.NoError(t, err)
				require.Equal(t, s.atr, got)
				require.NoError(t, slot.SetProtocol(t.Context(), 0, host.Transparent))
				for _, e := range s.exchanges {
					require.Equal(t, e[1], transmitAsRecorded(t, slot, e[0], e[1]), "% X", e[0])
					exchanges++
				}
			}
			require.GreaterOrEqual(t, exchanges, 4)
			err = replay.Close()
			if len(unanswered) == 0 {
				require.NoError(t, err, "everything was asked for, and nothing else")
				return
			}
			var unused *capture.UnusedError
			require.ErrorAs(t, err, &unused)
			require.NotErrorIs(t, err, capture.ErrDivergence)
			require.Equal(t, unanswered, unused.Packets)
		})
	}
}

// transmitAsRecorded sends a TPDU. libccid sends the Le after a command's data too, which T=0 has no place for, and
// QEMU's card answers it at once; goccid's driver asks with GET RESPONSE, as the standard has it.
func transmitAsRecorded(t testing.TB, slot *host.Slot, command, recorded []byte) []byte {
	t.Helper()
	answer, err := slot.Transmit(t.Context(), command)
	require.NoError(t, err, "% X", command)
	if len(answer) == 2 && answer[0] == 0x61 && len(recorded) > 2 {
		require.Len(t, recorded, int(answer[1])+2)
		answer, err = slot.Transmit(t.Context(), []byte{0x00, 0xC0, 0x00, 0x00, answer[1]})
		require.NoError(t, err)
	}
	return answer
}

// TestTracesOfVirtualReaders plays the recordings of virtual readers of each kind against the driver of today, which has to
// get what it gets from the readers themselves. With -update they are recorded first.
func TestTracesOfVirtualReaders(t *testing.T) {
	forEachReader(t, func(t *testing.T, level ccid.ExchangeLevel, protocol uint8) {
		kind, _, _ := strings.Cut(strings.ToLower(level.String()), " ")
		name := filepath.Join(traces, fmt.Sprintf("virtual-%s-t%d.pcapng", kind, protocol))
		if *update {
			recording, _ := record(t, level, protocol, commands(), capture.Options{})
			require.NoError(t, os.WriteFile(name, recording, 0o644))
		}
		bus, _ := plug(t, level, protocol)
		want := play(t, bus, commands(), nil)
		c := readTrace(t, name)
		require.True(t, c.Redacted)
		replay, err := capture.NewReplay(c, capture.Lenient{}, capture.AtOnce)
		require.NoError(t, err)
		require.Equal(t, want, play(t, replay, commands(), nil))
		require.NoError(t, replay.Close())
	})
}
