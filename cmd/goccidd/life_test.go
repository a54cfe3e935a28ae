//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

func TestClientsReachTheCardInAReader(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard)
	c := h.client(t)
	require.Equal(t, []string{"Gemalto PC Twin Reader 00 00"}, names(t, c), "the first client sees the readers of the start")
	connected, err := c.Connect("Gemalto PC Twin Reader 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	response, _, err := c.Transmit(connected.Card, wire.ProtocolT1, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x2F, 0x00}, 258)
	require.NoError(t, err)
	assert.Equal(t, []byte{0x90, 0x00}, response)
	d.stop(t)
	assert.Empty(t, d.stdout.String(), "standard output is for nobody")
}

func TestTerminationTellsClientsAndLeavesNothingBehind(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard)
	for _, name := range []string{"pcscd.comm", "pcscd.pid", "pcscd.status"} {
		require.False(t, gone(h.path(name)), name)
	}
	c := h.client(t)
	_, err := c.Wait()
	require.NoError(t, err)
	d.signal(t, syscall.SIGTERM)
	require.ErrorIs(t, c.Signal(patience), wire.ErrServiceStopped, "a waiting client is told")
	require.Equal(t, "STOPPING=1", h.told(t))
	require.Zero(t, d.exit(t))
	for _, name := range []string{"pcscd.comm", "pcscd.pid", "pcscd.status"} {
		assert.True(t, gone(h.path(name)), name)
	}
}

func TestSocketsHaveTheRightsThatTheyNeed(t *testing.T) {
	h := newHome(t)
	h.start(t)
	for name, want := range map[string]os.FileMode{"pcscd.comm": 0o666, "pcscd.status": 0o600, "pcscd.pid": 0o644} {
		info, err := os.Stat(h.path(name))
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode().Perm(), name)
	}
}

func TestASecondDaemonIsRefusedAndTheFirstServesOn(t *testing.T) {
	h := newHome(t)
	first := h.start(t, "--virtual", oneCard)
	second := launch(t, h.command("--foreground", "--socket", h.socket(), "--usb", "none"))
	require.Equal(t, exitFailure, second.exit(t))
	require.Equal(t, 1, strings.Count(second.stderr.String(), "\n"), "it is told once")
	require.Contains(t, second.stderr.String(), fmt.Sprintf("another daemon (PID %d) serves %s already", first.cmd.Process.Pid, h.socket()))
	require.Len(t, names(t, h.client(t)), 1)
}

func TestALivePCSCDIsLeftAlone(t *testing.T) {
	h := newHome(t)
	// A daemon that knows nothing of our lock.
	l, err := net.Listen("unix", h.socket())
	require.NoError(t, err)
	defer l.Close()
	h.file(t, "pcscd.pid", "4711\n\x00")
	d := launch(t, h.command("--foreground", "--socket", h.socket(), "--usb", "none"))
	require.Equal(t, exitFailure, d.exit(t))
	require.Contains(t, d.stderr.String(), "serves "+h.socket()+" already")
	conn, err := net.Dial("unix", h.socket())
	require.NoError(t, err, "its socket is still there")
	conn.Close()
}

func TestWhatADeadDaemonLeftIsReplaced(t *testing.T) {
	h := newHome(t)
	first := h.start(t)
	first.signal(t, syscall.SIGKILL)
	first.exit(t)
	require.FileExists(t, h.path("pcscd.pid"))
	require.False(t, gone(h.socket()))
	require.False(t, gone(h.path("pcscd.status")))
	// The dead one's number may be anybody's by now.
	h.file(t, "pcscd.pid", strconv.Itoa(os.Getpid())+"\n")
	h.start(t)
	h.client(t)
	pid, err := readPID(h.path("pcscd.pid"))
	require.NoError(t, err)
	require.NotEqual(t, os.Getpid(), pid)
}

func TestAFileThatIsNoSocketIsNotDeleted(t *testing.T) {
	h := newHome(t)
	h.file(t, "pcscd.comm", "precious")
	d := launch(t, h.command("--foreground", "--socket", h.socket(), "--usb", "none"))
	require.Equal(t, exitFailure, d.exit(t))
	require.Contains(t, d.stderr.String(), "no socket")
	text, err := os.ReadFile(h.socket())
	require.NoError(t, err)
	require.Equal(t, "precious", string(text))
	require.True(t, gone(h.path("pcscd.pid")))
}

func TestReloadTakesTheNewSettings(t *testing.T) {
	h := newHome(t)
	config := h.file(t, "goccidd.toml", "[log]\nlevel = \"error\"\n")
	d := h.start(t, "--config", config)
	require.NotContains(t, d.stderr.String(), "serving")
	h.file(t, "goccidd.toml", "[log]\nlevel = \"info\"\n")
	d.signal(t, syscall.SIGHUP)
	require.Contains(t, h.told(t), "RELOADING=1\nMONOTONIC_USEC=")
	require.Equal(t, "READY=1", h.told(t))
	d.stderr.waitFor(t, "settings reloaded")
	require.NotContains(t, d.stderr.String(), "at the next start only")

	h.file(t, "goccidd.toml", "auto-exit = \"1h\"\n")
	d.signal(t, syscall.SIGHUP)
	d.stderr.waitFor(t, "what has changed here takes effect at the next start only: auto-exit\"")
	h.file(t, "goccidd.toml", "[limits]\nconnections = 7\n[readers]\nallow-escape = true\n[metrics]\nlisten = \"127.0.0.1:9\"\n")
	d.signal(t, syscall.SIGHUP)
	d.stderr.waitFor(t, "at the next start only: readers.allow-escape, limits.connections, metrics.listen\"")
}

func TestReloadOfABadFileKeepsTheOldSettings(t *testing.T) {
	h := newHome(t)
	config := h.file(t, "goccidd.toml", "[log]\nlevel = \"info\"\n")
	d := h.start(t, "--config", config)
	for text, want := range map[string]string{
		"[log]\nlevel = \"loud\"\n":              "goccidd.toml:2:9",
		"[access]\nusers = [\"no-such-user\"]\n": `goccidd.toml:2: access.users: there is no user \"no-such-user\""`,
	} {
		h.file(t, "goccidd.toml", text)
		d.signal(t, syscall.SIGHUP)
		require.Contains(t, h.told(t), "RELOADING=1")
		require.Equal(t, "READY=1", h.told(t))
		d.stderr.waitFor(t, want)
		require.Contains(t, d.stderr.String(), "the old settings stay")
	}
	require.NotContains(t, d.stderr.String(), "settings reloaded")
	h.client(t)
}

func TestHotplugHasTheRunningDaemonLookForReaders(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--log-level", "debug", "--virtual", oneCard)
	code, _, stderr := call(t, nil, "--hotplug", "--socket", h.socket())
	require.Zero(t, code, stderr)
	d.stderr.waitFor(t, "looking for readers")
	d.stop(t)
	code, _, stderr = call(t, nil, "-H", "--socket", h.socket())
	require.Equal(t, exitFailure, code)
	require.Equal(t, "goccidd: no daemon runs: there is no "+h.path("pcscd.pid")+"\n", stderr)
}

func TestAutoExitAlsoWhenNobodyEverCame(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--auto-exit=200ms")
	require.Zero(t, d.exit(t))
	require.Contains(t, d.stderr.String(), "no client for 200ms: exit")
	require.True(t, gone(h.socket()))
}

// servedOrTold connects, and tells whether it was served. Else it was told that there is no service.
func (h *home) servedOrTold(t *testing.T) (served bool) {
	t.Helper()
	c, err := pcsctest.Open(h.socket(), wire.Minor5)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return false
	}
	require.NoError(t, err, "neither served nor told that there is no service")
	require.NoError(t, c.Close())
	return true
}

func TestAClientAtTheMomentOfTheAutomaticExitIsServedOrToldThatThereIsNoService(t *testing.T) {
	const idle = 50 * time.Millisecond
	for round := range 8 {
		h := newHome(t)
		d := h.start(t, "--auto-exit="+idle.String(), "--virtual", oneCard)
		// Around the end of the time, from before it on, one client after the other.
		for try := 0; h.servedOrTold(t) && try < 40; try++ {
			time.Sleep(idle - 2*time.Millisecond + time.Duration(round*40+try)%16*400*time.Microsecond)
		}
		d.exit(t)
	}
}

func TestAnEndThatWasAnnouncedIsToldToClientsAsNoService(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *process){
		"automatic":  func(*testing.T, *process) {},
		"terminated": func(t *testing.T, d *process) { d.signal(t, syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				h := newHome(t)
				d := h.start(t, "--auto-exit=300ms", "--virtual", oneCard, "--virtual", oneCard)
				end(t, d)
				require.Equal(t, "STOPPING=1", h.told(t))
				require.False(t, h.servedOrTold(t))
				require.Zero(t, d.exit(t))
				require.Empty(t, must(filepath.Glob(h.path("pcscd*"))))
			}
		})
	}
}

func TestAutoExitAfterTheLastClient(t *testing.T) {
	h := newHome(t)
	const idle = 2 * time.Second
	d := h.start(t, "--auto-exit="+idle.String(), "--virtual", oneCard, "--virtual-control", h.path("bench"))
	c := h.client(t)
	h.bench(t, "unplug")
	eventually(t, "the reader is gone", func() bool { return len(names(t, c)) == 0 })
	time.Sleep(idle + idle/2) // long enough to exit wrongly
	select {
	case <-d.ended:
		require.FailNow(t, "it ended under a client")
	default:
	}
	require.Empty(t, names(t, c))
	left := time.Now()
	require.NoError(t, c.Close())
	require.Zero(t, d.exit(t))
	require.GreaterOrEqual(t, time.Since(left), idle)
}

func TestReadersComeAndGoInOneContext(t *testing.T) {
	h := newHome(t)
	h.start(t, "--virtual", oneCard, "--virtual-control", h.path("bench"))
	c := h.client(t)
	for range 5 {
		h.bench(t, "unplug")
		eventually(t, "the reader is gone", func() bool { return len(names(t, c)) == 0 })
		h.bench(t, "plug")
		eventually(t, "the reader is back", func() bool { return len(names(t, c)) == 1 })
	}
}

// TestReadersStandByTheirNumbersAlsoWhenTheyComeBack: the second of these models is open before the first.
func TestReadersStandByTheirNumbersAlsoWhenTheyComeBack(t *testing.T) {
	h := newHome(t)
	h.start(t, "--virtual", "reader=scr3310,card=none", "--virtual", oneCard, "--virtual-control", h.path("bench"))
	c := h.client(t)
	both := names(t, c)
	require.Len(t, both, 2)
	require.True(t, strings.HasSuffix(both[0], "SCR 3310 00 00"), both[0])
	require.Equal(t, "Gemalto PC Twin Reader 01 00", both[1])
	h.bench(t, "@0 unplug")
	eventually(t, "the first is gone", func() bool { return slices.Equal(names(t, c), both[1:]) })
	h.bench(t, "@0 plug")
	eventually(t, "the first is back", func() bool { return len(names(t, c)) == 2 })
	require.Equal(t, both, names(t, c))
}

// TestConnectThatMeetsALimitIsLogged: the client only learns of an error that says little.
func TestConnectThatMeetsALimitIsLogged(t *testing.T) {
	const reader = "Gemalto PC Twin Reader 00 00"
	tests := map[string]struct {
		args []string
		code wire.Code
		line string
	}{
		"of the client":                         {[]string{"-s", "2"}, wire.ErrNoMemory, "too many handles of the client"},
		"on the reader":                         {[]string{"-r", "2"}, wire.ErrInternalError, "too many handles on the reader"},
		"on the reader, as many as connections": {[]string{"-t", "2"}, wire.ErrInternalError, "too many handles on the reader"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			d := h.start(t, append([]string{"--virtual", oneCard}, tt.args...)...)
			c := h.client(t)
			for range 2 {
				_, err := c.Connect(reader, wire.Shared, wire.ProtocolAny)
				require.NoError(t, err)
			}
			require.NotContains(t, d.stderr.String(), "refused")
			_, err := c.Connect(reader, wire.Shared, wire.ProtocolAny)
			require.ErrorIs(t, err, tt.code)
			d.stderr.waitFor(t, tt.line+": connect to "+reader+" refused")
		})
	}
}

// TestReadersAreLeftAloneForTheirNames also at the start, which does not wait for them.
func TestReadersAreLeftAloneForTheirNames(t *testing.T) {
	h := newHome(t)
	config := h.file(t, "goccidd.toml", "[readers]\nignore-names = [\"SCR 3310\"]\n")
	begin := time.Now()
	d := h.start(t, "--config", config, "--virtual", "reader=scr3310,card=none", "--virtual", oneCard)
	require.Less(t, time.Since(begin), settleTime)
	require.Equal(t, []string{"Gemalto PC Twin Reader 00 00"}, names(t, h.client(t)))
	const leftAlone = "is not used: left alone for its name, SCM Microsystems Inc. SCR 3310"
	d.stderr.waitFor(t, leftAlone)
	require.Equal(t, 1, strings.Count(d.stderr.String(), leftAlone), d.stderr.String())
	require.NotContains(t, d.stderr.String(), "level=warning")
	_, status, _ := call(t, nil, "status", "--socket", h.socket())
	require.Contains(t, status, "1 reader")
	require.NotContains(t, status, "can't be used")
}

func TestRemovalOfAReaderIsOneLine(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard, "--virtual-control", h.path("bench"))
	c := h.client(t)
	_, err := c.Connect(names(t, c)[0], wire.Shared, wire.ProtocolT1)
	require.NoError(t, err)
	before := len(d.stderr.String())
	h.bench(t, "unplug")
	eventually(t, "the reader is gone", func() bool { return len(names(t, c)) == 0 })
	d.stop(t)
	var lines []string
	for line := range strings.Lines(d.stderr.String()[before:]) {
		if !strings.Contains(line, "terminated") {
			lines = append(lines, line)
		}
	}
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], `msg="reader removed"`)
}

// activate starts a daemon as systemd does for a client at its socket.
func (h *home) activate(t *testing.T, args ...string) (*process, *net.UnixListener) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket(), Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { _ = l.Close() })
	file, err := l.File()
	require.NoError(t, err)
	defer file.Close()
	self := h.command(append([]string{"--usb", "none", "--disable-polkit"}, args...)...)
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, self.Args...)...)
	cmd.Env = append(self.Env, "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{file}
	return launch(t, cmd), l
}

func TestSystemdsSocketIsServedAndLeftInPlace(t *testing.T) {
	h := newHome(t)
	d, _ := h.activate(t, "--auto-exit=300ms", "--virtual", oneCard)
	c := h.client(t) // waits in the socket's queue as long as the daemon starts
	require.Equal(t, "READY=1", h.told(t))
	require.Len(t, names(t, c), 1)
	require.FileExists(t, h.path("pcscd.pid"), "beside systemd's socket, whatever --socket says")
	require.NoError(t, c.Close())
	require.Equal(t, "STOPPING=1", h.told(t))
	require.Zero(t, d.exit(t))
	require.False(t, gone(h.socket()))
}

func TestSeveralSocketsOfSystemdAreRefused(t *testing.T) {
	h := newHome(t)
	self := h.command("--usb", "none")
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, self.Args...)...)
	cmd.Env = append(self.Env, "LISTEN_FDS=2")
	for i := range 2 {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path(fmt.Sprint(i)), Net: "unix"})
		require.NoError(t, err)
		defer l.Close()
		file, err := l.File()
		require.NoError(t, err)
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	d := launch(t, cmd)
	require.Equal(t, exitFailure, d.exit(t))
	require.Contains(t, d.stderr.String(), "2 sockets were passed")
}

func TestWithoutForegroundItReturnsWhenItServes(t *testing.T) {
	h := newHome(t)
	p := launch(t, h.command("--socket", h.socket(), "--usb", "none", "--disable-polkit", "--virtual", oneCard))
	require.Zero(t, p.exit(t), p.stderr.String())
	pid, err := readPID(h.path("pcscd.pid"))
	require.NoError(t, err)
	require.NotEqual(t, p.cmd.Process.Pid, pid)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	require.Len(t, names(t, h.client(t)), 1, "it serves already")
	session, err := syscall.Getpgid(pid)
	require.NoError(t, err)
	require.Equal(t, pid, session, "a session of its own")
	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	eventually(t, "it ends", func() bool { return gone(h.path("pcscd.pid")) })
	require.Empty(t, p.stdout.String()+p.stderr.String())
}

func TestWithoutForegroundTheReasonOfAFailureIsTold(t *testing.T) {
	h := newHome(t)
	h.file(t, "pcscd.comm", "precious")
	p := launch(t, h.command("--socket", h.socket(), "--usb", "none"))
	require.Equal(t, exitFailure, p.exit(t))
	require.Equal(t, 1, strings.Count(p.stderr.String(), "no socket"), p.stderr.String())
}

func TestMissingFolderOfTheSocketIsMade(t *testing.T) {
	h := newHome(t)
	p := launch(t, h.command("--foreground", "--socket", h.path("run/pcscd.comm"), "--usb", "none"))
	require.Equal(t, "READY=1", h.told(t))
	info, err := os.Stat(h.path("run"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	p.stop(t)
}

func TestPIDFileOfAnEndedDaemonIsNotMistakenForOurs(t *testing.T) {
	h := newHome(t)
	first, err := createPIDFile(h.path("pid"), "socket")
	require.NoError(t, err)
	_, err = createPIDFile(h.path("pid"), "socket")
	var running *runningError
	require.ErrorAs(t, err, &running)
	require.Equal(t, os.Getpid(), running.pid)
	require.NoError(t, first.remove())
	require.False(t, first.stillThere())
	second, err := createPIDFile(h.path("pid"), "socket")
	require.NoError(t, err)
	require.NoError(t, second.remove())
}

func TestPIDFilesOfPCSCDAreRead(t *testing.T) {
	h := newHome(t)
	for text, want := range map[string]int{"123\n\x00": 123, "77\n": 77, "": 0, "x\n": 0, "-5\n": 0, "1\n": 0, "0\n": 0} {
		pid, err := readPID(h.file(t, "pid", text))
		require.Equal(t, want, pid, "%q", text)
		require.Equal(t, want == 0, err != nil, "%q", text)
	}
}

func TestClientInTheMiddleOfStoppingIsNotLeftHanging(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard)
	var clients []*pcsctest.Client
	for range 20 {
		c := h.client(t)
		clients = append(clients, c)
		_, err := c.Connect(names(t, c)[0], wire.Shared, wire.ProtocolT1)
		require.NoError(t, err)
	}
	d.stop(t)
	for _, c := range clients {
		_, err := c.OldTable()
		require.Error(t, err)
	}
	require.Empty(t, must(filepath.Glob(h.path("pcscd*"))))
}

func TestACardAtWorkDoesNotPutOffTheEnd(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard, "--virtual-control", h.path("bench"))
	c := h.client(t)
	connected, err := c.Connect(names(t, c)[0], wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	h.bench(t, "fault delay=1h bulk-in always")
	answered := make(chan error, 1)
	go func() {
		_, _, err := c.Transmit(connected.Card, wire.ProtocolT1, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x2F, 0x00}, 258)
		answered <- err
	}()
	eventually(t, "the card is at work", func() bool {
		_, stdout, _ := call(t, nil, "status", "--socket", h.socket())
		return strings.Contains(stdout, ", at work")
	})
	asked := time.Now()
	d.signal(t, syscall.SIGTERM)
	eventually(t, "the socket is gone", func() bool { return gone(h.socket()) })
	require.False(t, h.servedOrTold(t), "new clients are not kept waiting")
	require.Less(t, time.Since(asked), finishTime)
	d.exit(t)
	require.Less(t, time.Since(asked), finishTime+closeTime+5*time.Second)
	require.Error(t, <-answered)
	require.True(t, gone(h.socket()))
}

func must(list []string, err error) []string {
	if err != nil {
		panic(err)
	}
	return list
}
