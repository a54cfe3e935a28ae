package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/cmd/ccid-probe/internal/explain"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/virtual"
)

const tracesFolder = "../../testdata/traces"

// kinds of virtual readers with a card, by name: each exchange level with each protocol, and the tokens.
func readerSpecs() map[string]string {
	specs := map[string]string{"token A": "reader=e-gate,card=t0", "token B": "reader=gemalto-pdt,card=t1"}
	for _, level := range []string{"character", "tpdu", "short", "extended"} {
		for _, card := range []string{"t0", "t1"} {
			specs[level+" "+card] = "reader=gemalto-pc-twin,level=" + level + ",card=" + card
		}
	}
	return specs
}

// recordSession records a command, and returns the file and what was printed.
func recordSession(t *testing.T, spec string, flags []string, command ...string) (file string, got result) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "session.pcapng")
	args := append([]string{"record", "-o", file, "--virtual", spec}, flags...)
	got = probe(t, append(append(args, "--"), command...)...)
	return file, got
}

// jsonTranscript is what explain says of a file.
func jsonTranscript(t *testing.T, file string, flags ...string) explain.Transcript {
	t.Helper()
	got := probe(t, append([]string{"explain", file, "--format", "json"}, flags...)...)
	require.Equal(t, exitOK, got.code, got.stderr)
	return decode[explain.Transcript](t, got.stdout)
}

// TestRecordedSessionsAreExplainedAndReplayed records APDUs of all lengths with every kind of reader. The transcript must have the
// commands and answers that the apdu command itself printed, and the driver must send the same bytes again.
func TestRecordedSessionsAreExplainedAndReplayed(t *testing.T) {
	commands := []string{"00A4000C022F00", "00B0000000", "00A40000", "80EE004040", "00D60000C8" + strings.Repeat("55", 0xC8)}
	for name, spec := range readerSpecs() {
		t.Run(name, func(t *testing.T) {
			file, got := recordSession(t, spec, []string{"--json"}, append([]string{"apdu"}, commands...)...)
			require.Equal(t, exitOK, got.code, got.stderr)
			assert.Contains(t, got.stderr, "ccid-probe explain "+quoted(file))

			transcript := jsonTranscript(t, file)
			assert.Equal(t, explain.Schema, transcript.Schema)
			assert.Zero(t, transcript.Capture.Problems)
			assert.True(t, transcript.Capture.PINsHidden)
			printed := strings.Split(strings.TrimSpace(got.stdout), "\n")
			require.Len(t, transcript.APDUs, len(printed))
			for i, line := range printed {
				want, apdu := decode[exchanged](t, line), transcript.APDUs[i]
				assert.Equal(t, want.SW, apdu.SW, want.Command)
				assert.Equal(t, want.Response, apdu.Response, want.Command)
				assert.Equal(t, want.Command[:8], apdu.Command[:8])
				assert.Positive(t, apdu.Latency)
			}

			strict := probe(t, "replay", file)
			assert.Equal(t, exitOK, strict.code, strict.stdout+strict.stderr)
			assert.Contains(t, strict.stdout, "driver and recording agree")
			lenient := probe(t, "replay", "--lenient", "--speed", "recorded", file)
			assert.Equal(t, exitOK, lenient.code, lenient.stdout+lenient.stderr)
		})
	}
}

func TestOtherCommandsAreRecordedToo(t *testing.T) {
	for _, command := range []string{"list", "atr", "describe"} {
		t.Run(command, func(t *testing.T) {
			want := probe(t, command, "--virtual", tpduT1)
			file, got := recordSession(t, tpduT1, nil, command)
			require.Equal(t, exitOK, got.code, got.stderr)
			assert.Equal(t, want.stdout, got.stdout, "recording changes nothing")
			replayed := probe(t, "replay", file)
			assert.Equal(t, exitOK, replayed.code, replayed.stdout+replayed.stderr)
		})
	}
}

func TestRecordedReadersOfSeveralSlotsAndDevices(t *testing.T) {
	file := filepath.Join(t.TempDir(), "session.pcapng")
	got := probe(t, "record", "-o", file, "--virtual", "slots=2,card=none+t0,level=tpdu", "--virtual", "card=t1,level=short", "--", "list")
	require.Equal(t, exitOK, got.code, got.stderr)
	transcript := jsonTranscript(t, file)
	require.Len(t, transcript.Devices, 2)
	assert.Equal(t, 2, transcript.Devices[0].Interfaces[0].Slots)
	assert.Equal(t, "short APDU", transcript.Devices[1].Interfaces[0].Level)
	text := probe(t, "explain", file).stdout
	assert.Contains(t, text, "device 1  bulk out")
	assert.Contains(t, text, "# present: ")
	assert.Equal(t, exitOK, probe(t, "replay", file).code)
}

// TestTracesReplayLeniently runs the driver against each trace of the project: a new one has only to be put into the folder.
func TestTracesReplayLeniently(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(tracesFolder, "*.pcapng"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			got := probe(t, "replay", "--lenient", file)
			assert.Equal(t, exitOK, got.code, got.stdout+got.stderr)
		})
	}
}

func TestReplayTellsWhereDriverAndRecordingPart(t *testing.T) {
	got := probe(t, "replay", filepath.Join(tracesFolder, "qemu-ccid-libccid.pcapng"))
	assert.Equal(t, exitFailure, got.code)
	assert.Contains(t, got.stderr, "packet 35, bMessageType: the driver sends PC_to_RDR_")
	assert.Contains(t, got.stderr, "the recording has PC_to_RDR_GetSlotStatus")
	assert.Contains(t, got.stderr, "--lenient")

	got = probe(t, "replay", "--json", filepath.Join(tracesFolder, "qemu-ccid-libccid.pcapng"))
	assert.Equal(t, exitFailure, got.code)
	parsed := decode[struct {
		OK          bool `json:"ok"`
		Divergences []struct {
			Packet int    `json:"packet"`
			Field  string `json:"field"`
		} `json:"divergences"`
		Unused []int `json:"unused"`
	}](t, got.stdout)
	assert.False(t, parsed.OK)
	require.NotEmpty(t, parsed.Divergences)
	assert.Equal(t, 35, parsed.Divergences[0].Packet)
	assert.NotEmpty(t, parsed.Unused)
}

// secretPIN is in no other data of the tests below: neither its digits nor their BCD form.
const secretPIN = "73910264"

// formsOfPIN are the ways in which it could be found in a file or in text.
func formsOfPIN(t *testing.T) map[string][]byte {
	t.Helper()
	bcd, err := hex.DecodeString(secretPIN)
	require.NoError(t, err)
	block := append([]byte{0x28}, bcd...) // as in the blocks of ISO 9564 format 2
	return map[string][]byte{
		"ASCII, or BCD as hexadecimal": []byte(secretPIN), "BCD": bcd, "hexadecimal of ASCII": []byte(hex.EncodeToString([]byte(secretPIN))),
		"spaced hexadecimal of ASCII": fmt.Appendf(nil, "% X", secretPIN), "spaced BCD": fmt.Appendf(nil, "% X", bcd), "block": block,
		"half of it in hexadecimal": fmt.Appendf(nil, "% X", secretPIN[:4]),
	}
}

func findPIN(t *testing.T, where string, data []byte) {
	t.Helper()
	for form, digits := range formsOfPIN(t) {
		assert.False(t, bytes.Contains(bytes.ToUpper(data), bytes.ToUpper(digits)), "%s: %s", where, form)
	}
}

// pinCommands are commands with the PIN in them, ASCII and BCD, alone and in chains of APDUs.
func pinCommands(t *testing.T) []string {
	t.Helper()
	ascii := hex.EncodeToString([]byte(secretPIN))
	return []string{
		"0020000108" + ascii,
		"002000810828" + secretPIN + "FFFFFF",
		"0024000110" + ascii + ascii,
		"1024000108" + ascii, "0024000108" + ascii,
		"002C000110" + ascii + ascii,
	}
}

// longPINCommand takes several T=1 blocks, or several messages of a reader that takes short ones.
func longPINCommand() string {
	return "0020000100012C" + strings.Repeat(hex.EncodeToString([]byte(secretPIN)), 37) + "00000000"
}

// TestPINsAreInNoRecording sends PINs through every kind of reader, records that, and looks for the digits in all that comes of it.
func TestPINsAreInNoRecording(t *testing.T) {
	specs := readerSpecs()
	specs["chained messages"] = "reader=gemalto-pc-twin,level=extended,message=64,card=t1"
	for name, spec := range specs {
		t.Run(name, func(t *testing.T) {
			commands := pinCommands(t)
			if strings.Contains(spec, "card=t1") && name != "short t1" && name != "token B" {
				commands = append(commands, longPINCommand())
			}
			file, got := recordSession(t, spec, []string{"--log-level", "trace"}, append([]string{"apdu"}, commands...)...)
			require.Equal(t, exitOK, got.code, got.stderr)
			require.Equal(t, len(commands), strings.Count(got.stdout, "< SW"), "all were sent")
			findPIN(t, "output", []byte(got.stdout))
			findPIN(t, "log", []byte(got.stderr))
			recording, err := os.ReadFile(file)
			require.NoError(t, err)
			findPIN(t, "capture", recording)
			for _, format := range []string{"text", "json", "html"} {
				// Asking for secrets does not bring back what was not recorded.
				for _, flags := range [][]string{nil, {"--include-secrets"}} {
					got := probe(t, append([]string{"explain", file, "--format", format, "--log-level", "trace"}, flags...)...)
					require.Equal(t, exitOK, got.code)
					findPIN(t, format, []byte(got.stdout+got.stderr))
				}
			}
			assert.Len(t, jsonTranscript(t, file).APDUs, len(commands))
			replayed := probe(t, "replay", file, "--log-level", "trace")
			assert.Equal(t, exitOK, replayed.code, replayed.stdout+replayed.stderr)
			findPIN(t, "replay", []byte(replayed.stdout+replayed.stderr))
		})
	}
}

// TestPINsAreShownOnlyWhenAskedForTwice records with secrets.
func TestPINsAreShownOnlyWhenAskedForTwice(t *testing.T) {
	for name, spec := range readerSpecs() {
		t.Run(name, func(t *testing.T) {
			file, got := recordSession(t, spec, []string{"--include-secrets", "--log-level", "trace"}, append([]string{"apdu"}, pinCommands(t)...)...)
			require.Equal(t, exitOK, got.code, got.stderr)
			assert.Contains(t, got.stderr, "warning: PINs are recorded")
			findPIN(t, "log", []byte(got.stderr))
			recording, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Contains(t, string(recording), secretPIN)
			for _, format := range []string{"text", "json", "html"} {
				hidden := probe(t, "explain", file, "--format", format)
				require.Equal(t, exitOK, hidden.code)
				findPIN(t, format, []byte(hidden.stdout+hidden.stderr))
				shown := probe(t, "explain", file, "--format", format, "--include-secrets")
				plain := strings.ReplaceAll(strings.ToUpper(shown.stdout), " ", "")
				assert.Contains(t, plain, hex.EncodeToString([]byte(secretPIN)), format)
				assert.Contains(t, shown.stdout, map[string]string{"text": "PINs are NOT hidden", "html": "PINs are NOT hidden", "json": `"pins_hidden": false`}[format])
			}
			replayed := probe(t, "replay", file, "--log-level", "trace")
			assert.Equal(t, exitOK, replayed.code, replayed.stdout+replayed.stderr)
			findPIN(t, "replay", []byte(replayed.stdout+replayed.stderr))
		})
	}
}

func TestRecordingsKeepOffOtherFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "precious")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o644))
	for _, args := range [][]string{
		{"record", "-o", file, "--virtual", tpduT1, "--", "atr"},
		{"explain", filepath.Join(tracesFolder, "virtual-short-t1.pcapng"), "-o", file},
	} {
		got := probe(t, args...)
		assert.Equal(t, exitUsage, got.code)
		assert.Contains(t, got.stderr, "precious exists")
		assert.Contains(t, got.stderr, "--force")
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, "precious", string(content))
	}
	for _, args := range [][]string{
		{"record", "--force", "-o", file, "--virtual", tpduT1, "--", "atr"},
		{"explain", filepath.Join(tracesFolder, "virtual-short-t1.pcapng"), "-o", file, "--force"},
	} {
		got := probe(t, args...)
		assert.Equal(t, exitOK, got.code, got.stderr)
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.NotContains(t, string(content), "precious")
	}
}

// TestMistakesLeaveNoRecording: a recording begins when readers are looked for.
func TestMistakesLeaveNoRecording(t *testing.T) {
	file := filepath.Join(t.TempDir(), "session.pcapng")
	tests := map[string]struct {
		args []string
		want string
	}{
		"no file":              {[]string{"record", "--", "atr"}, "no file given"},
		"no command":           {[]string{"record", "-o", file}, "no command to record given"},
		"not to be recorded":   {[]string{"record", "-o", file, "--", "demo"}, `"demo" is no command that can be recorded`},
		"recording in itself":  {[]string{"record", "-o", file, "--", "record", "-o", file, "--", "atr"}, `"record" is no command`},
		"APDU of no form":      {[]string{"record", "-o", file, "--virtual", tpduT1, "--", "apdu", "00A4"}, "at least 4"},
		"unknown flag":         {[]string{"record", "-o", file, "--virtual", tpduT1, "--", "atr", "--fast"}, "unknown flag: --fast"},
		"two kinds of USB":     {[]string{"record", "-o", file, "--virtual", tpduT1, "--usb", "usbfs", "--", "list"}, "one kind of USB"},
		"no such folder":       {[]string{"record", "-o", filepath.Join(file, "x"), "--virtual", tpduT1, "--", "atr"}, "no such file"},
		"replay: no such file": {[]string{"replay", file}, "no such file"},
		"replay: no speed":     {[]string{"replay", "--speed", "fast", file}, `"fast" is none`},
		"explain: nothing":     {[]string{"explain"}, "wants one capture file, not 0"},
		"explain: no format":   {[]string{"explain", "--format", "pdf", file}, `"pdf" is none`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := probe(t, tt.args...)
			assert.Equal(t, exitUsage, got.code)
			assert.Contains(t, got.stderr, tt.want)
			assert.NoFileExists(t, file)
		})
	}
}

func TestFilesThatAreNoCapturesAreRefused(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(tracesFolder, "virtual-short-t1.pcapng"))
	require.NoError(t, err)
	ethernet := append([]byte{0xD4, 0xC3, 0xB2, 0xA1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0}, make([]byte, 16)...)
	ethernet = append(ethernet[:24], 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4)
	damaged := bytes.Clone(good)
	const packetBlock, toData, toEventType = "\x06\x00\x00\x00", 28, 8
	damaged[bytes.Index(good, []byte(packetBlock))+toData+toEventType] = 0
	tests := map[string]struct {
		content []byte
		want    string
	}{
		"empty":    {nil, "not a valid capture file"},
		"text":     {[]byte("this is no capture at all"), "it begins with 74 68 69 73"},
		"ethernet": {ethernet, "link type 1"},
		"damaged":  {damaged, "packet 1: usbmon event type 0x00"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.pcapng")
			require.NoError(t, os.WriteFile(file, tt.content, 0o644))
			for _, command := range []string{"explain", "replay"} {
				got := probe(t, command, file)
				assert.Equal(t, exitUsage, got.code, got.stdout)
				assert.Contains(t, got.stderr, tt.want)
				assert.Empty(t, got.stdout)
			}
		})
	}
}

// TestWhatACrashLeavesCanBeExplained cuts a recording at each of its bytes.
func TestWhatACrashLeavesCanBeExplained(t *testing.T) {
	file, got := recordSession(t, tpduT1, nil, "apdu", "00A4000C022F00")
	require.Equal(t, exitOK, got.code, got.stderr)
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	transfers := 0
	for end := 400; end <= len(whole); end += 37 {
		c, err := capture.Read(bytes.NewReader(whole[:end]))
		require.NoError(t, err, "%d of %d bytes", end, len(whole))
		transcript := explain.Build(c, explain.Options{})
		assert.GreaterOrEqual(t, len(transcript.Transfers), transfers)
		transfers = len(transcript.Transfers)
	}
	assert.NotZero(t, transfers)
}

// TestReplayTellsThatTheRecordingIsCutOff, and does not wait as long for what is missing as for a reader.
func TestReplayTellsThatTheRecordingIsCutOff(t *testing.T) {
	file, got := recordSession(t, tpduT1, nil, "apdu", "00A4000C022F00", "00B0000000")
	require.Equal(t, exitOK, got.code, got.stderr)
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	at := bytes.Index(whole, []byte("slot 0: APDU 00 B0"))
	require.Positive(t, at)
	require.NoError(t, os.WriteFile(file, whole[:at+150], 0o600)) // the command is in it, its answer is not
	start := time.Now()
	got = probe(t, "replay", file)
	assert.Equal(t, exitFailure, got.code, got.stdout)
	assert.Contains(t, got.stdout, "The file ends in the middle of a packet")
	assert.Contains(t, got.stdout, "driver and recording part here")
	assert.Less(t, time.Since(start), 10*time.Second)
	inJSON := decode[map[string]any](t, probe(t, "replay", "--json", file).stdout)
	assert.Equal(t, true, inJSON["truncated"])
}

// TestReplayDoesNotWaitForAnAnswerThatIsDamaged: the driver waits half a minute for the ATR of a reader.
func TestReplayDoesNotWaitForAnAnswerThatIsDamaged(t *testing.T) {
	file, got := recordSession(t, tpduT1, nil, "atr")
	require.Equal(t, exitOK, got.code, got.stderr)
	damaged, err := os.ReadFile(file)
	require.NoError(t, err)
	const dataBlock, toSeq = "\x80\x14\x00\x00\x00", 6
	at := bytes.Index(damaged, []byte(dataBlock))
	require.Positive(t, at)
	damaged[at+toSeq] ^= 0x55
	require.NoError(t, os.WriteFile(file, damaged, 0o600))
	start := time.Now()
	got = probe(t, "replay", file)
	assert.Equal(t, exitFailure, got.code, got.stdout)
	assert.Contains(t, got.stdout, "power on: ! driver and recording part here")
	assert.Less(t, time.Since(start), 15*time.Second)
}

func TestACaptureThatIsTooLongIsToldSo(t *testing.T) {
	err := captureProblem(t.Context(), "long.pcap", &capture.PacketError{Packet: 7, Kind: capture.ErrTooLarge, Cause: errors.New("at most so many")})
	var p *problem
	require.ErrorAs(t, err, &p)
	assert.Equal(t, exitUsage, p.code)
	assert.Contains(t, p.Error(), "long.pcap: capture: file is too large")
	assert.Equal(t, []string{"Cut the part out of it that matters: Wireshark and editcap do that."}, p.advice)
}

// TestAFullDiskIsTold: the command goes on, and the exit code says that the recording is not whole.
func TestAFullDiskIsTold(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("needs /dev/full, which Linux has")
	}
	got := probe(t, "record", "--force", "-o", "/dev/full", "--virtual", tpduT1, "--", "atr")
	assert.NotEqual(t, exitOK, got.code)
	assert.Contains(t, got.stderr, "no space left")
}

// TestWiresharkDecodesWhatRecordWrites asks the judge that users have.
func TestWiresharkDecodesWhatRecordWrites(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("needs tshark: apt-get install tshark")
	}
	specs := readerSpecs()
	for _, name := range []string{"tpdu t0", "tpdu t1", "extended t1", "token A"} {
		t.Run(name, func(t *testing.T) {
			file, got := recordSession(t, specs[name], nil, append([]string{"apdu", "00B0000000"}, pinCommands(t)...)...)
			require.Equal(t, exitOK, got.code, got.stderr)
			command := exec.CommandContext(newWorld(t).ctx, tshark, "-r", file, "-T", "fields", "-E", "separator=;", "-e", "_ws.malformed", "-e", "usbccid.bMessageType")
			var errOut bytes.Buffer
			command.Stderr = &errOut
			out, err := command.Output()
			require.NoError(t, err, errOut.String())
			messages := 0
			for i, line := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
				malformed, kind, _ := strings.Cut(line, ";")
				assert.Empty(t, malformed, "packet %d", i+1)
				if kind != "" {
					messages++
				}
			}
			if name != "token A" {
				assert.GreaterOrEqual(t, messages, 2*len(pinCommands(t)))
			}
		})
	}
}

// TestUnplugIsInTheRecording pulls the reader out while it is used.
func TestUnplugIsInTheRecording(t *testing.T) {
	bus, readers := plugged(t, virtual.Config{})
	w := newWorld(t)
	w.use(unplugging{bus, func() { bus.Unplug(readers[0]) }})
	file := filepath.Join(t.TempDir(), "session.pcapng")
	got := w.run("record", "-o", file, "--", "atr", "--reader", "0")
	assert.NotEqual(t, exitOK, got.code)
	text := probe(t, "explain", file).stdout
	assert.Contains(t, text, "# device removed")
	assert.Contains(t, text, ", device removed\n", "the transfer's own end")
}

// unplugging is a bus from which a device is pulled with the first command of its host.
type unplugging struct {
	usbtransport.Backend
	unplug func()
}

func (u unplugging) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	i, err := u.Backend.Open(ctx, device, number)
	return unpluggedInterface{i, u.unplug}, err
}

type unpluggedInterface struct {
	usbtransport.Interface
	unplug func()
}

func (u unpluggedInterface) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	u.unplug()
	return u.Interface.BulkOut(ctx, endpoint, data)
}
