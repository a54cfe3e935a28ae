package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/usbtransport/usbip"
	"github.com/goccid/goccid/virtual"
)

// exported is a run of "virtual".
type exported struct {
	*world
	t       *testing.T
	input   *io.PipeWriter
	output  *bufio.Reader
	ended   chan exitCode
	address string
	readers []exportedReader
}

// export starts "ccid-probe virtual" with these arguments at a free port, and waits until it is there.
func export(t *testing.T, args ...string) *exported {
	t.Helper()
	stdin, input := io.Pipe()
	output, stdout := io.Pipe()
	x := &exported{world: newWorld(t), t: t, input: input, output: bufio.NewReader(output), ended: make(chan exitCode, 1)}
	x.stdin, x.stdout = stdin, stdout
	go func() {
		code := run(x.ctx, x.environment, append([]string{"virtual", "--listen", "127.0.0.1:0", "--json"}, args...))
		x.ended <- code
		_ = input.Close()
		_ = stdout.Close()
	}()
	line, err := x.output.ReadString('\n')
	require.NoError(t, err, &x.errOut)
	var start struct {
		Listen  string
		Readers []exportedReader
	}
	require.NoError(t, json.Unmarshal([]byte(line), &start), line)
	x.address, x.readers = start.Listen, start.Readers
	return x
}

// say sends a line and returns the answer to it.
func (x *exported) say(line string) string {
	x.t.Helper()
	_, err := io.WriteString(x.input, line+"\n")
	require.NoError(x.t, err)
	var b strings.Builder
	for {
		line, err := x.output.ReadString('\n')
		require.NoError(x.t, err)
		b.WriteString(line)
		if !strings.HasPrefix(line, " ") {
			return b.String()
		}
	}
}

// quit ends the run.
func (x *exported) quit() {
	x.t.Helper()
	require.Equal(x.t, "ok bye\n", x.say("quit"))
	require.Equal(x.t, exitOK, <-x.ended, &x.errOut)
	require.Empty(x.t, x.errOut.String(), "no warning, no broken rule")
}

func TestExportedReadersAreReadersHere(t *testing.T) {
	x := export(t, "--reader", "scr3310,slots=2", "--card", "t1", "--card", "t0", "--reader", "cherry-smartterminal-xx44", "--card", "none")
	require.Equal(t, []exportedReader{
		{Index: 0, Name: "scr3310", Model: "scr3310", VID: "04E6", PID: "5116", BusID: "1-1", Slots: []string{"t1", "t0"}},
		{Index: 1, Name: "cherry-smartterminal-xx44", Model: "cherry-smartterminal-xx44", VID: "046A", PID: "00A7", BusID: "1-2", Slots: []string{"none"}},
	}, x.readers)

	got := probe(t, "list", "--usbip", x.address)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Empty(t, got.stderr)
	require.Equal(t, `0  SCM Microsystems Inc. SCR 3310 00 00
   04e6:5116, port 1-1, TPDU level, usbip
   slot 0: card, ATR 3B 9C 96 81 31 FE 45 80 73 C0 01 C0 66 67 6F 63 63 69 64 90
   slot 1: card, ATR 3B 1C 94 80 73 C0 01 C0 66 67 6F 63 63 69 64
1  Cherry SmartTerminal XX44 01 00
   046a:00a7, port 1-2, short APDU level, usbip
   slot 0: no card
`, got.stdout)

	got = probe(t, "describe", "--usbip", x.address+"/1-2")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, "dwFeatures              0x000207B8")
	got = probe(t, "atr", "--usbip", x.address+"/1-1")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, "ATR 3B 9C 96")
	got = probe(t, "apdu", "--json", "--usbip", x.address+"/1-1", "--slot", "1", "00A4000C022F00", "00B0000000")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, `"response":"61124F08F0474F43434944015006676F63636964","sw":"9000"`)

	require.Equal(t, "ok slot 0 is empty\n", x.say("@0 remove"))
	got = probe(t, "atr", "--usbip", x.address+"/1-1", "--slot", "0")
	require.Equal(t, exitNoCard, got.code)
	require.Equal(t, "ok unplugged\n", x.say("@cherry unplug"))
	got = probe(t, "list", "--usbip", x.address+"/1-2")
	require.Equal(t, exitNoReader, got.code)
	require.Contains(t, got.stderr, "exports nothing that is free, or not under this bus ID")
	require.Equal(t, "ok plugged in at 1-2\n", x.say("@cherry plug"))
	got = probe(t, "list", "--usbip", x.address+"/1-2")
	require.Equal(t, exitOK, got.code, got.stderr)
	x.quit()
}

func TestExportedReaderThatIsPulledOutIsRemoved(t *testing.T) {
	x := export(t, "--reader", "gempctwin,level=tpdu")
	require.Equal(t, "ok ordered\n", x.say("fault remove-during bulk-in after=20"))
	got := probe(t, "apdu", "--usbip", x.address, "80EE1388000000")
	require.Equal(t, exitRemoved, got.code, got.stderr)
	x.quit()
}

func TestCommandsComeOverTheSocket(t *testing.T) {
	folder, err := os.MkdirTemp("", "ctl")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	path := filepath.Join(folder, "c")
	x := export(t, "--control", path, "--reader", "gempctwin", "--card", "none")
	require.NoError(t, x.input.Close(), "the end of standard input ends nothing")
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "insert t0\nquit\n")
	require.NoError(t, err)
	answers, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "ok slot 0 has t0\nok bye\n", string(answers))
	require.Equal(t, exitOK, <-x.ended)
	require.NoFileExists(t, path)
}

func TestModelsAreListed(t *testing.T) {
	models, err := virtual.Models()
	require.NoError(t, err)
	text := probe(t, "virtual", "--list-models")
	require.Equal(t, exitOK, text.code, text.stderr)
	require.Equal(t, len(models), strings.Count(text.stdout, "\n"))
	require.Contains(t, text.stdout, " (also gemalto-pc-twin, ")
	list := decode[[]listedModel](t, probe(t, "virtual", "--list-models", "--json").stdout)
	for i, m := range list {
		require.Equal(t, models[i].Name, m.Name)
		_, err := virtual.FindModel(m.Name)
		require.NoError(t, err)
	}
}

// TestExportEndsWhenNobodyReadsItsOutput, as in "ccid-probe virtual </dev/null | head -1".
func TestExportEndsWhenNobodyReadsItsOutput(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("told by the next write only")
	}
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer writer.Close() //nolint:errcheck // nobody reads it
	w := newWorld(t)
	w.stdin, w.stdout = strings.NewReader(""), writer
	ended := make(chan exitCode, 1)
	go func() { ended <- run(w.ctx, w.environment, []string{"virtual", "--listen", "127.0.0.1:0", "--json"}) }()
	_, err = bufio.NewReader(reader).ReadString('\n')
	require.NoError(t, err)
	select {
	case <-ended:
		t.Fatal("ended before its reader")
	case <-time.After(100 * time.Millisecond):
	}
	require.NoError(t, reader.Close())
	select {
	case code := <-ended:
		require.Equal(t, exitOK, code, &w.errOut)
		require.Empty(t, w.errOut.String())
	case <-time.After(10 * time.Second):
		t.Fatal("goes on without a reader")
	}
}

func TestExportEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(w.ctx)
	w.ctx = ctx
	w.stdin = strings.NewReader("list\n")
	stdout, write := io.Pipe()
	w.stdout = write
	go func() {
		defer cancel()
		lines := bufio.NewScanner(stdout)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "ok ") {
		}
		cancel()
		_, _ = io.Copy(io.Discard, stdout)
	}()
	require.Equal(t, exitOK, run(w.ctx, w.environment, []string{"virtual", "--listen", "127.0.0.1:0"}))
	_ = write.Close()
}

// TestPINsAreNowhere enters a PIN at a PIN pad and verifies one by APDU, and looks for them in everything that is written.
func TestPINsAreNowhere(t *testing.T) {
	const pressed, sent = "90817263", "71829304"
	sentHex := "3731383239333034"
	file := filepath.Join(t.TempDir(), "session.pcapng")
	x := export(t, "-vvvv", "--record", file, "--reader", "gempctwin,level=tpdu,pinpad=yes")
	require.Equal(t, "ok pressed\n", x.say("press "+pressed+"#"))
	x.say("@nobody press " + pressed)
	x.say("press " + pressed + "X")
	got := probe(t, "apdu", "-vvvv", "--usbip", x.address, "0020000108"+sentHex)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "ok bye\n", x.say("quit"))
	require.Equal(t, exitOK, <-x.ended)
	recorded, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, text := range map[string]string{"log": x.errOut.String(), "client": got.stdout + got.stderr, "recording": string(recorded)} {
		assert.NotContains(t, text, pressed, name)
		assert.NotContains(t, text, sent, name)
		assert.NotContains(t, text, sentHex, name)
		assert.NotContains(t, text, "37 31 38 32 39 33 30 34", name)
	}
	c, err := capture.ReadFile(file)
	require.NoError(t, err)
	require.True(t, c.Redacted)
	require.NotEmpty(t, c.Transfers)
}

func TestExportWritesOverARecordingOnlyWhereItIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "session.pcapng")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	export := func(args ...string) result {
		w := newWorld(t)
		w.stdin = strings.NewReader("quit\n")
		return w.run(append([]string{"virtual", "--listen", "127.0.0.1:0", "--record", file}, args...)...)
	}
	got := export()
	require.Equal(t, exitUsage, got.code, got.stdout+got.stderr)
	require.Contains(t, got.stderr, "--record: "+file+" exists\n  Another name, or --force")
	kept, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "precious", string(kept))
	got = export("--force")
	require.Equal(t, exitOK, got.code, got.stderr)
	_, err = capture.ReadFile(file)
	require.NoError(t, err)
}

func TestExportRefuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close() //nolint:errcheck // only its port was wanted
	tests := map[string]struct {
		args []string
		code exitCode
		want string
	}{
		"other machines":    {[]string{"--listen", "0.0.0.0:0"}, exitUsage, "--listen 0.0.0.0:0: other machines could reach that\n  USB/IP has no authentication"},
		"all addresses":     {[]string{"--listen", ":0"}, exitUsage, "other machines could reach that"},
		"all, IPv6":         {[]string{"--listen", "[::]:0"}, exitUsage, "other machines could reach that"},
		"no address":        {[]string{"--listen", "here"}, exitUsage, "--listen here"},
		"port in use":       {[]string{"--listen", busy.Addr().String()}, exitFailure, "address already in use"},
		"unknown reader":    {[]string{"--reader", "scr33100"}, exitUsage, "did you mean scr3310?"},
		"unknown card":      {[]string{"--card", "t7"}, exitUsage, "t0, t1, none, vpcd"},
		"too many cards":    {[]string{"--card", "t0", "--card", "t1"}, exitUsage, "2 cards"},
		"--virtual":         {[]string{"--virtual", "card=t0"}, exitUsage, "not for this command"},
		"--usbip":           {[]string{"--usbip", "127.0.0.1"}, exitUsage, "not for this command"},
		"arguments":         {[]string{"scr3310"}, exitUsage, "takes no arguments"},
		"file elsewhere":    {[]string{"--record", "/nowhere/at/all"}, exitUsage, "--record"},
		"socket elsewhere":  {[]string{"--control", "/nowhere/at/all"}, exitFailure, "/nowhere/at"},
		"a card not there":  {[]string{"--card", "vpcd:" + busy.Addr().String(), "--timeout", "1ns"}, exitTimedOut, "connect to the card"},
		"file as a control": {[]string{"--control", "export_test.go"}, exitFailure, "is no socket"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"virtual"}, tt.args...)
			if !strings.Contains(strings.Join(tt.args, " "), "--listen") {
				args = append(args, "--listen", "127.0.0.1:0")
			}
			w := newWorld(t)
			w.stdin = strings.NewReader("quit\n") // for one that is not refused
			got := w.run(args...)
			require.Equal(t, tt.code, got.code, got.stdout+got.stderr)
			require.Contains(t, got.stderr, tt.want)
			require.Empty(t, got.stdout)
		})
	}
}

func TestExportToOtherMachinesIsPossible(t *testing.T) {
	x := export(t, "--listen", "0.0.0.0:0", "--allow-remote")
	host, _, err := net.SplitHostPort(x.address)
	require.NoError(t, err)
	require.True(t, net.ParseIP(host).IsUnspecified(), host)
	x.quit()
}

func TestUSBIPServersAreNamedRightly(t *testing.T) {
	for _, server := range []string{"", "/", "/1-1", ":", "host/"} {
		got := probe(t, "list", "--usbip", server)
		require.Equal(t, exitUsage, got.code, server)
		require.Contains(t, got.stderr, "is needed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	got := probe(t, "list", "--usbip", l.Addr().String())
	require.Equal(t, exitNoReader, got.code)
	require.Contains(t, got.stderr, "The USB/IP server does not answer")
}

func TestAReaderThatAnotherClientHasIsBusy(t *testing.T) {
	x := export(t, "--reader", "gempctwin")
	other := usbip.New(usbip.Options{Address: x.address})
	devices, err := other.Devices(t.Context())
	require.NoError(t, err)
	i, err := other.Open(t.Context(), devices[0], 0)
	require.NoError(t, err)
	for _, command := range [][]string{{"list"}, {"list", "--json"}, {"describe"}, {"atr"}, {"apdu", "00A4040000"}} {
		got := probe(t, append(command, "--usbip", x.address)...)
		require.Equal(t, exitNoAccess, got.code, command)
		require.Contains(t, got.stderr, "another USB/IP client has the device", command)
		require.Contains(t, got.stdout+got.stderr, "It is one client's at a time", command)
		require.NotContains(t, got.stdout+got.stderr, "mode switch", command)
	}
	var listed []listedReader
	require.NoError(t, json.Unmarshal([]byte(probe(t, "list", "--json", "--usbip", x.address).stdout), &listed))
	require.Len(t, listed, 1)
	require.Equal(t, "3437", listed[0].PID)
	require.Contains(t, listed[0].Error, "another USB/IP client has the device")
	require.NotEmpty(t, listed[0].Advice)
	require.NoError(t, i.Close())
	got := probe(t, "atr", "--usbip", x.address)
	require.Equal(t, exitOK, got.code, got.stderr)
	x.quit()
}

// TestReadersOverUSBIPComeBack ends the server, which is the loss of its connections, and starts it again at the same port.
func TestReadersOverUSBIPComeBack(t *testing.T) {
	x := export(t, "--reader", "gempctwin,level=tpdu")
	log := newRecorder()
	backend := usbip.New(usbip.Options{Address: x.address, PollInterval: 20 * time.Millisecond})
	monitor, err := host.NewMonitor(t.Context(), backend, host.Options{Logger: log.logger})
	require.NoError(t, err)
	defer func() { require.NoError(t, monitor.Close()) }()
	for round := range 3 {
		event, err := monitor.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, host.ReaderArrived, event.Kind, event.Err)
		slot := event.Reader.Slot(0)
		_, err = slot.Connect(t.Context())
		require.NoError(t, err)
		response, err := slot.Transmit(t.Context(), []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x2F, 0x00})
		require.NoError(t, err)
		require.Equal(t, []byte{0x90, 0x00}, response)
		switch round {
		case 0:
			require.Equal(t, "ok unplugged\n", x.say("unplug"))
		default:
			x.quit()
		}
		event, err = monitor.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, host.ReaderRemoved, event.Kind)
		_, err = slot.Transmit(t.Context(), []byte{0x00, 0xA4, 0x00, 0x00})
		require.ErrorIs(t, err, usbtransport.ErrRemoved)
		switch round {
		case 0:
			require.Equal(t, "ok plugged in at 1-1\n", x.say("plug"))
		case 1:
			x = export(t, "--listen", x.address, "--reader", "gempctwin,level=tpdu")
		}
	}
	removed, errorLines := log.count()
	require.Equal(t, 3, removed)
	require.Zero(t, errorLines, log.text())
}
