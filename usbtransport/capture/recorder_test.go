package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/usbtransport/transporttest"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

var levels = []ccid.ExchangeLevel{ccid.LevelCharacter, ccid.LevelTPDU, ccid.LevelShortAPDU, ccid.LevelExtendedAPDU}

func newCard(t uint8) card.Card {
	if t == 0 {
		return card.NewT0()
	}
	return card.NewT1()
}

// plug plugs a virtual reader with a card into a bus of its own.
func plug(t testing.TB, level ccid.ExchangeLevel, protocol uint8) (*virtual.Bus, *virtual.Reader) {
	t.Helper()
	return plugConfig(t, virtual.Config{Level: &level, Cards: []card.Card{newCard(protocol)}})
}

// plugConfig plugs in a virtual reader until the test ends.
func plugConfig(t testing.TB, c virtual.Config) (*virtual.Bus, *virtual.Reader) {
	t.Helper()
	reader, err := virtual.NewReader(c)
	require.NoError(t, err)
	bus := virtual.NewBus()
	_, err = bus.Plug(reader)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, bus.Close())
		require.NoError(t, reader.Close())
	})
	return bus, reader
}

// file is a file in memory that may be read while it is written.
type file struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (f *file) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.Write(b)
}

func (f *file) bytes() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Clone(f.b.Bytes())
}

// commands are those of a scripted session: two that say something, a PIN, a long one.
func commands() [][]byte {
	return [][]byte{
		{0x00, 0xA4, 0x00, 0x0C},
		{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x01, 0x02},
		append([]byte{0x00, 0x20, 0x00, 0x01, 0x08}, pin...),
		{0x80, 0xEE, 0x00, 0x40, 0x40},
		append([]byte{0x00, 0x24, 0x00, 0x01, 0x10}, pin+pin...),
		{0x80, 0xEE, 0x00, 0x80, 0x80},
		append([]byte{0x00, 0xD6, 0x00, 0x00, 0xC8}, bytes.Repeat([]byte{0x55}, 0xC8)...),
	}
}

const pin = "73910264"

// play opens the first reader of a backend with goccid's driver, sends commands, and returns ATR and answers.
func play(t testing.TB, backend usbtransport.Backend, commands [][]byte, each func(*host.Reader, []byte)) [][]byte {
	t.Helper()
	reader, err := host.OpenFirst(t.Context(), backend, host.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, reader.Close()) }()
	slot := reader.Slot(0)
	atr, err := slot.Connect(t.Context())
	require.NoError(t, err)
	answers := [][]byte{atr}
	for _, c := range commands {
		if each != nil {
			each(reader, c)
		}
		answer, err := slot.Transmit(t.Context(), c)
		require.NoError(t, err, "% X", c)
		answers = append(answers, answer)
	}
	return answers
}

// record plays a session on a virtual reader and records it.
func record(t testing.TB, level ccid.ExchangeLevel, protocol uint8, commands [][]byte, o capture.Options) (recording []byte, answers [][]byte) {
	t.Helper()
	bus, _ := plug(t, level, protocol)
	var f file
	recorder, err := capture.NewRecorder(bus, &f, o)
	require.NoError(t, err)
	answers = play(t, recorder, commands, func(r *host.Reader, c []byte) {
		recorder.CommentAPDU(r.Function().Device, 0, c)
	})
	require.NoError(t, recorder.Err())
	return f.bytes(), answers
}

func read(t testing.TB, b []byte) *capture.Capture {
	t.Helper()
	c, err := capture.Read(bytes.NewReader(b))
	require.NoError(t, err)
	require.False(t, c.Truncated)
	return c
}

// forEachReader runs a test at each exchange level with each protocol.
func forEachReader(t *testing.T, f func(t *testing.T, level ccid.ExchangeLevel, protocol uint8)) {
	for _, level := range levels {
		for protocol := range uint8(2) {
			t.Run(fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) { f(t, level, protocol) })
		}
	}
}

// TestRecordingReplays records a session and plays it back, strictly and leniently, with PINs and without.
func TestRecordingReplays(t *testing.T) {
	forEachReader(t, func(t *testing.T, level ccid.ExchangeLevel, protocol uint8) {
		for name, mode := range map[string]capture.Mode{"strict": capture.Strict{}, "lenient": capture.Lenient{}} {
			for _, secrets := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s secrets=%v", name, secrets), func(t *testing.T) {
					recording, want := record(t, level, protocol, commands(), capture.Options{IncludeSecrets: secrets})
					c := read(t, recording)
					require.Equal(t, !secrets, c.Redacted)
					replay, err := capture.NewReplay(c, mode, capture.AtOnce)
					require.NoError(t, err)
					require.Equal(t, want, play(t, replay, commands(), nil))
					require.NoError(t, replay.Close())
				})
			}
		}
	})
}

// TestPINsAreNotWritten looks for the digits, in any form that a message could have them in.
func TestPINsAreNotWritten(t *testing.T) {
	forEachReader(t, func(t *testing.T, level ccid.ExchangeLevel, protocol uint8) {
		t.Run("hidden", func(t *testing.T) {
			recording, _ := record(t, level, protocol, commands(), capture.Options{})
			for n := 4; n <= len(pin); n++ {
				requireAbsent(t, recording, []byte(pin[:n]))
				requireAbsent(t, recording, []byte(pin[len(pin)-n:]))
			}
			requireAbsent(t, recording, fmt.Appendf(nil, "% X", pin[:4]))
			require.NotContains(t, strings.Join(comments(read(t, recording)), "\n"), pin)
		})
		t.Run("included", func(t *testing.T) {
			recording, _ := record(t, level, protocol, commands(), capture.Options{IncludeSecrets: true})
			require.Contains(t, string(recording), pin)
			require.Contains(t, read(t, recording).Comment, "PINs included")
		})
	})
}

func requireAbsent(t testing.TB, recording, secret []byte) {
	t.Helper()
	i := bytes.Index(recording, secret)
	require.Negative(t, i, "%q stands at offset %d", secret, i)
}

func comments(c *capture.Capture) []string {
	var list []string
	for _, transfer := range c.Transfers {
		list = append(list, transfer.Comments...)
	}
	return list
}

func TestRecorderKeepsTheRulesOfBackends(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		bus, device := virtual.NewBus(), virtual.NewLoopback()
		_, err := bus.Plug(device)
		require.NoError(t, err)
		recorder, err := capture.NewRecorder(bus, &file{}, capture.Options{})
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, bus.Close())
			require.NoError(t, recorder.Err())
		})
		return transporttest.Fixture{
			Backend:  recorder,
			Match:    func(d usbtransport.DeviceInfo) bool { return d.IDVendor == virtual.LoopbackVendor },
			Loopback: true,
			Unplug:   func() error { bus.Unplug(device); return nil },
			Plug:     func() error { _, err := bus.Plug(device); return err },
			Stall:    func(endpoint uint8) error { device.Stall(endpoint); return nil },
			QueueInterrupt: func(data []byte) error {
				device.Interrupt(data)
				return nil
			},
		}
	})
}

func TestWiresharkDecodesRecordings(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("tshark is not installed: whether Wireshark decodes our recordings was not looked at")
	}
	forEachReader(t, func(t *testing.T, level ccid.ExchangeLevel, protocol uint8) {
		recording, _ := record(t, level, protocol, commands(), capture.Options{})
		name := filepath.Join(t.TempDir(), "recording.pcapng")
		require.NoError(t, os.WriteFile(name, recording, 0o600))
		run := func(arguments ...string) string {
			t.Helper()
			var stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), tshark, append([]string{"-r", name}, arguments...)...)
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			require.NoError(t, err, stderr.String())
			return string(out)
		}
		const comment = "1048576" // Wireshark's severity of a packet with a comment
		var types, comments []string
		for line := range strings.Lines(run("-T", "fields", "-e", "_ws.malformed", "-e", "_ws.expert.severity", "-e", "usbccid.bMessageType", "-e", "frame.comment")) {
			fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			require.Len(t, fields, 4)
			require.Empty(t, fields[0], "malformed packet")
			require.Empty(t, strings.Trim(strings.ReplaceAll(fields[1], comment, ""), ","), "a warning or an error")
			types = append(types, fields[2])
			comments = append(comments, fields[3])
		}
		require.Subset(t, types, []string{"0x62", "0x65", "0x6f", "0x80", "0x81"})
		require.Contains(t, strings.Join(comments, "\n"), "APDU 00 A4 00 0C")
	})
}

// TestWhatWasWrittenCanBeReadAtAnyTime cuts a recording at each byte, as a crash does.
func TestWhatWasWrittenCanBeReadAtAnyTime(t *testing.T) {
	recording, _ := record(t, ccid.LevelTPDU, 1, commands()[:2], capture.Options{})
	whole := read(t, recording)
	require.NotEmpty(t, whole.Transfers)
	begun := false
	packets := 0
	for n := range len(recording) {
		c, err := capture.Read(bytes.NewReader(recording[:n]))
		if err != nil {
			require.False(t, begun, "cut at %d: %v", n, err)
			require.ErrorIs(t, err, capture.ErrFormat)
			continue
		}
		begun = true
		require.GreaterOrEqual(t, c.Packets, packets, "cut at %d", n)
		packets = c.Packets
	}
	require.Equal(t, whole.Packets-1, packets)
}

// TestTransfersAreWrittenAsTheyHappen has a reader of the file see each packet as soon as the call returns.
func TestTransfersAreWrittenAsTheyHappen(t *testing.T) {
	bus, _ := plug(t, ccid.LevelTPDU, 0)
	var f file
	recorder, err := capture.NewRecorder(bus, &f, capture.Options{})
	require.NoError(t, err)
	i := openFirst(t, recorder)
	before := len(read(t, f.bytes()).Transfers)
	_, err = i.BulkOut(t.Context(), 0x01, []byte{0x65, 0, 0, 0, 0, 0, 1, 0, 0, 0})
	require.NoError(t, err)
	buf := make([]byte, 64)
	n, err := i.BulkIn(t.Context(), 0x82, buf)
	require.NoError(t, err)
	c := read(t, f.bytes())
	require.Len(t, c.Transfers, before+2)
	out, in := c.Transfers[before], c.Transfers[before+1]
	require.Equal(t, []byte{0x65, 0, 0, 0, 0, 0, 1, 0, 0, 0}, out.Data)
	require.Equal(t, 10, out.Moved)
	require.Equal(t, buf[:n], in.Data)
	require.Equal(t, 64, in.Requested)
	require.True(t, in.Ended())
	require.NoError(t, in.Err)
	require.NotZero(t, in.Latency())
	require.Equal(t, in.Submitted+1, in.Completed)

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = i.BulkIn(ctx, 0x82, buf)
	require.ErrorIs(t, err, usbtransport.ErrTimedOut)
	_, err = i.BulkIn(t.Context(), 0x82, buf[:1])
	require.ErrorIs(t, err, usbtransport.ErrInvalid)
	require.NoError(t, i.ClearHalt(t.Context(), 0x82))
	require.NoError(t, i.Reset(t.Context()))
	c = read(t, f.bytes())
	list := c.Transfers[before+2:]
	require.Len(t, list, 4)
	require.Equal(t, usbtransport.ErrTimedOut, list[0].Err)
	require.Equal(t, usbtransport.ErrInvalid, list[1].Err)
	require.Equal(t, usbtransport.Setup{RequestType: 2, Request: 1, Index: 0x82}, list[2].Setup)
	require.Equal(t, []string{"port reset"}, list[3].Comments)
}

func openFirst(t testing.TB, backend usbtransport.Backend) usbtransport.Interface {
	t.Helper()
	devices, err := backend.Devices(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, devices)
	interfaces, err := usbtransport.ParseInterfaces(devices[0].Descriptors)
	require.NoError(t, err)
	i, err := backend.Open(t.Context(), devices[0], interfaces[0].Number)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, i.Close()) })
	return i
}

func TestPlugAndUnplugAreRecorded(t *testing.T) {
	bus, device := plug(t, ccid.LevelTPDU, 0)
	var f file
	recorder, err := capture.NewRecorder(bus, &f, capture.Options{})
	require.NoError(t, err)
	w, err := recorder.Watch(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	bus.Unplug(device)
	_, err = w.Next(t.Context())
	require.NoError(t, err)
	c := read(t, f.bytes())
	list := comments(c)
	require.Len(t, list, 2)
	require.Contains(t, list[0], "plugged in: "+e.Device.String())
	require.Contains(t, list[1], "unplugged: "+e.Device.String())
	last := c.Transfers[len(c.Transfers)-1]
	require.Equal(t, usbtransport.ErrRemoved, last.Err)
	devices := c.Devices()
	require.Len(t, devices, 1)
	require.Equal(t, e.Device.Descriptors, devices[0].Info.Descriptors)
	require.Equal(t, e.Device.Product, devices[0].Info.Product)
	require.Equal(t, e.Device.SerialNumber, devices[0].Info.SerialNumber)
}

// full is a disk with room for n bytes.
type full struct{ n int }

var errFull = errors.New("no space left on device")

func (f *full) Write(b []byte) (int, error) {
	if len(b) > f.n {
		return 0, errFull
	}
	f.n -= len(b)
	return len(b), nil
}

func TestAFullDiskDoesNotDisturbTheSession(t *testing.T) {
	tests := map[string]struct {
		w     *full
		limit int64
		want  error
	}{
		"disk":  {&full{2000}, 0, errFull},
		"limit": {&full{1 << 20}, 2000, capture.ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bus, _ := plug(t, ccid.LevelExtendedAPDU, 0)
			reports := 0
			recorder, err := capture.NewRecorder(bus, tt.w, capture.Options{
				MaxBytes: tt.limit,
				Failed:   func(err error) { reports++; assert.ErrorIs(t, err, tt.want) },
			})
			require.NoError(t, err)
			answers := play(t, recorder, commands(), nil)
			require.Len(t, answers, len(commands())+1)
			require.ErrorIs(t, recorder.Err(), tt.want)
			require.Equal(t, 1, reports)
		})
	}
	bus, _ := plug(t, ccid.LevelExtendedAPDU, 0)
	_, err := capture.NewRecorder(bus, &full{10}, capture.Options{})
	require.ErrorIs(t, err, errFull)
}
