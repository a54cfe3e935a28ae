package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/test/vm/vmtest"
)

// APDUs for the emulated CAC card (GSC-IS 2.1 §5). Those without Le get 61xx from a T=0 card.
const (
	selectCAC          = "00A4040007A0000000790100"
	selectCACWithLe    = selectCAC + "00"
	selectUnknown      = "00A4040007A000000099999900"
	selectCCC          = "00A4040007A000000116DB0000"
	readCCCValues      = "0052000202013400" // READ BUFFER, value buffer from offset 2, 52 bytes
	readCertificate    = "005200020202C800" // READ BUFFER, 200 bytes of the certificate
	readOnlyTwoBytes   = "0052000002020200"
	fciOfCAC           = "6F0B8407A0000000790100A500"
	unknownInstruction = "00B0000004"
)

// APDUs for the card of virtual/card: 80 EE has it send as many bytes of its pattern as P1 and P2 say.
const (
	selectMF    = "00A4000C023F00"
	produce5    = "80EE000505"
	produce1000 = "80EE03E80003E8"
)

// listed is one entry of `list --json`.
type listed struct {
	Name  string       `json:"name"`
	VID   string       `json:"vid"`
	PID   string       `json:"pid"`
	Port  string       `json:"port"`
	Error string       `json:"error"`
	Slots []listedSlot `json:"slots"`
}

type listedSlot struct {
	Present bool   `json:"card_present"`
	ATR     string `json:"atr"`
}

// list returns the one reader that is plugged in.
func (p probe) list(t *testing.T) listed {
	t.Helper()
	var readers []listed
	p.succeed(t, &readers, "list")
	require.Len(t, readers, 1)
	return readers[0]
}

func TestVMList(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		reader := p.list(t)
		assert.Equal(t, "08E6", strings.ToUpper(reader.VID))
		assert.Equal(t, "4433", reader.PID)
		assert.Equal(t, "1-1", reader.Port)
		assert.NotEmpty(t, reader.Name)
		assert.Empty(t, reader.Error)
		require.Len(t, reader.Slots, 1)
		assert.Equal(t, listedSlot{Present: true, ATR: compact(vmtest.ATR)}, reader.Slots[0])
	})
}

func TestVMListWithoutCard(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		vmtest.RemoveCard(t)
		reader := p.list(t)
		require.Len(t, reader.Slots, 1)
		assert.Equal(t, listedSlot{}, reader.Slots[0])
		assert.Equal(t, exitNoCard, p.run(t, "atr", "--reader", "0").code)

		vmtest.InsertCard(t)
		assert.Equal(t, []listedSlot{{Present: true, ATR: compact(vmtest.ATR)}}, p.list(t).Slots)
	})
}

// TestVMDescribe compares with what `lsusb -v` prints of the reader.
func TestVMDescribe(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		var described struct {
			Class map[string]json.Number `json:"class"`
		}
		p.succeed(t, &described, "describe")
		want := map[string]json.Number{
			"bMaxSlotIndex": "0", "bVoltageSupport": "7", "dwProtocols": "1", "dwDefaultClock": "4000",
			"dwMaximumClock": "65536", "dwDataRate": "9600", "dwMaxDataRate": "115200", "dwMaxIFSD": "254",
			"dwFeatures": "66814", "dwMaxCCIDMessageLength": "65554", "bPINSupport": "1", "bMaxCCIDBusySlots": "1",
		}
		for field, value := range want {
			assert.Equal(t, value, described.Class[field], field)
		}
	})
}

func TestVMATR(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		var answer struct {
			ATR       string `json:"atr"`
			Valid     bool   `json:"valid"`
			Protocols []int  `json:"protocols"`
		}
		p.succeed(t, &answer, "atr", "--reader", "0")
		assert.Equal(t, compact(vmtest.ATR), answer.ATR)
		assert.True(t, answer.Valid)
		assert.Equal(t, []int{0}, answer.Protocols)
	})
}

// asItIs is a row for QEMU's reader with a card that speaks T=1. The reader hands blocks through as they are, and does not do by
// itself what it announces: it sets up neither the card nor its own IFSD, and announces T=0 alone.
const asItIs = `
[[quirk]]
id = "qemu-t1"
reader = ["08E6:4433"]
reason = "hands through what it is given"
set.descriptor.protocols = 3
set.descriptor.clear_features = 0x442
`

// TestVMReaderWithT1 has QEMU's reader with a card that speaks T=1, and a row that says so to the driver.
func TestVMReaderWithT1(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		vmtest.Unplug(t)
		vmtest.PlugT1(t)
		defer vmtest.Unplug(t)
		require.Eventually(t, func() bool { return p.run(t, "atr", "--reader", "0").code == 0 }, programDeadline, 100*time.Millisecond)

		refused := p.run(t, "apdu", "--reader", "0", selectMF)
		assert.NotZero(t, refused.code)
		assert.Contains(t, refused.stderr, "protocol is not supported", "without the row")

		folder := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(folder, "qemu.toml"), []byte(asItIs), 0o644))
		// 600 bytes there and back, which takes chains both ways.
		data := strings.Repeat("A5", 600)
		echo600 := "80EC0258" + "000258" + data + "0258"
		got := p.apduWith(t, []string{"--quirks-dir", folder}, selectMF, produce5, produce1000, echo600)
		assert.Equal(t, "9000", got[0].SW)
		assert.Equal(t, exchange{Command: produce5, Response: "0001020304", SW: "9000"}, got[1])
		assert.Len(t, got[2].Response, 2*1000)
		assert.Equal(t, exchange{Command: echo600, Response: data, SW: "9000"}, got[3])
	})
}

func TestVMSelect(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		got := p.apdu(t, selectCAC, selectUnknown, selectCACWithLe, unknownInstruction, readOnlyTwoBytes)
		assert.Equal(t, exchange{Command: selectCAC, SW: "610D"}, got[0])
		assert.Equal(t, exchange{Command: selectUnknown, SW: "6A82"}, got[1])
		assert.Equal(t, exchange{Command: selectCACWithLe, Response: fciOfCAC, SW: "9000"}, got[2])
		assert.Equal(t, "6D00", got[3].SW)
		assert.Equal(t, "9000", got[4].SW)
		assert.Len(t, got[4].Response, 2*2)
	})
}

// TestVMAnswerOfSeveralPackets reads 200 bytes, which come in four packets.
func TestVMAnswerOfSeveralPackets(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		got := p.apdu(t, selectCACWithLe, readCertificate)
		assert.Equal(t, "9000", got[1].SW)
		assert.Len(t, got[1].Response, 2*200)
		assert.Contains(t, got[1].Response, "3082", "a certificate starts with a long SEQUENCE")
	})
}

// TestVMAnswerOfOneFullPacket gets a message of 64 bytes, which the reader ends with a zero-length packet: the answer
// to the next command must not be taken from there (the stock driver is out of step from here on; see testdata/traces).
func TestVMAnswerOfOneFullPacket(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		got := p.apdu(t, selectCCC, readCCCValues, selectCACWithLe, selectUnknown)
		assert.Equal(t, "9000", got[0].SW)
		assert.Equal(t, "9000", got[1].SW)
		assert.Len(t, got[1].Response, 2*52)
		assert.Equal(t, fciOfCAC, got[2].Response)
		assert.Equal(t, "6A82", got[3].SW)
	})
}

func TestVMReplugWhileIdle(t *testing.T) {
	onBothBackends(t, func(t *testing.T, p probe) {
		for range 3 {
			vmtest.Unplug(t)
			r := p.run(t, "list")
			assert.Equal(t, exitNoReader, r.code)
			var readers []listed
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &readers), r.stdout)
			assert.Empty(t, readers)
			assert.Equal(t, exitNoReader, p.run(t, "atr", "--reader", "0").code)

			vmtest.PlugAt(t, 2)
			reader := p.list(t)
			assert.Equal(t, "1-2", reader.Port)
			assert.Equal(t, []listedSlot{{Present: true, ATR: compact(vmtest.ATR)}}, reader.Slots)

			vmtest.Unplug(t)
			vmtest.Plug(t)
			assert.Equal(t, fciOfCAC, p.apdu(t, selectCACWithLe)[0].Response)
		}
	})
}

// TestVMUnplugUnderAPDUs pulls the reader out while APDUs run, at random moments: the probe says so with its exit code,
// within a second or so, after nothing but right answers, and logs one line about it.
func TestVMUnplugUnderAPDUs(t *testing.T) {
	const rounds = 10
	onBothBackends(t, func(t *testing.T, p probe) {
		for range rounds {
			p.unplugUnderAPDUs(t)
			vmtest.Plug(t)
			assert.Equal(t, fciOfCAC, p.apdu(t, selectCACWithLe)[0].Response)
		}
	})
}

func (p probe) unplugUnderAPDUs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), programDeadline)
	defer cancel()
	w := p.startWorking(ctx, t)
	time.Sleep(rand.N(20 * time.Millisecond)) // any moment will do

	vmtest.Unplug(t)
	unplugged := time.Now()
	for {
		e, err := w.next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		assert.Equal(t, exchange{Command: selectCAC, SW: "610D"}, e)
	}
	require.Error(t, w.cmd.Wait())
	assert.Less(t, time.Since(unplugged), 3*time.Second)
	assert.Equal(t, exitRemoved, w.cmd.ProcessState.ExitCode(), w.stderr.String())
	assert.Equal(t, 1, strings.Count(w.stderr.String(), "reader removed"), w.stderr.String())
	for _, level := range []string{"level=warning", "level=error", "level=fatal"} {
		assert.NotContains(t, w.stderr.String(), level)
	}
}

// working is a probe that exchanges APDUs.
type working struct {
	cmd     *exec.Cmd
	answers *bufio.Reader
	stderr  strings.Builder
}

// startWorking starts a probe with many APDUs, and returns once some are answered. It is started again where the card did not
// answer.
func (p probe) startWorking(ctx context.Context, t *testing.T) *working {
	t.Helper()
	commands := slices.Repeat([]string{selectCAC}, 5000)
	for tries := 0; ; tries++ {
		w := &working{cmd: p.command(ctx, append([]string{"--log-level", "info", "apdu", "--reader", "0"}, commands...)...)}
		w.cmd.Stderr = &w.stderr
		stdout, err := w.cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, w.cmd.Start())
		w.answers = bufio.NewReader(stdout)
		for n := 1 + rand.IntN(50); n > 0 && err == nil; n-- {
			_, err = w.next()
		}
		if err == nil {
			return w
		}
		_ = w.cmd.Wait() // its exit code says it
		silent := w.cmd.ProcessState.ExitCode() == exitTimedOut && tries < maxSilent
		require.True(t, silent, "%v: %v: %s", err, w.cmd.ProcessState, w.stderr.String())
		t.Logf("the emulated card did not answer: %s", w.stderr.String())
	}
}

// next reads one line of `apdu --json`; io.EOF is the end of the output.
func (w *working) next() (exchange, error) {
	var e exchange
	line, err := w.answers.ReadBytes('\n')
	if len(line) > 0 {
		err = json.Unmarshal(line, &e)
	}
	return e, err
}
