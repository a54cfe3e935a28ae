//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// runMain has this test program be goccidd: it is the whole program, with what the test was built with.
const runMain = "GOCCIDD_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what should come at once.
const patience = 30 * time.Second

// oneCard is a reader with a card.
const oneCard = "reader=gemalto-pc-twin,card=t1"

// home is a folder for a daemon's files, and what it tells its service manager.
type home struct {
	dir    string
	notify *net.UnixConn
}

func newHome(t *testing.T) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "goccidd")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = notify.Close() })
	return &home{dir: dir, notify: notify}
}

func (h *home) path(name string) string { return filepath.Join(h.dir, name) }
func (h *home) socket() string          { return h.path("pcscd.comm") }

// file writes a file and returns its path.
func (h *home) file(t *testing.T, name, text string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(h.path(name), []byte(text), 0o600))
	return h.path(name)
}

// told waits for the next word to the service manager.
func (h *home) told(t *testing.T) string {
	t.Helper()
	require.NoError(t, h.notify.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 1024)
	n, err := h.notify.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

// transcript is what a process writes.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// waitFor waits until a text is in the transcript.
func (s *transcript) waitFor(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.more:
		case <-deadline:
			require.FailNow(t, "it does not say "+text, s.String())
		}
	}
}

// process is a running goccidd.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *transcript
	ended          chan struct{}
}

// command makes a command that is this program as goccidd.
func (h *home) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), runMain+"=1", "NOTIFY_SOCKET="+h.path("notify"))
	return cmd
}

// launch starts a command.
func launch(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, stdout: &transcript{more: make(chan struct{}, 1)}, stderr: &transcript{more: make(chan struct{}, 1)}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	require.NoError(t, cmd.Start())
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("goccidd %s wrote:\n%s", strings.Join(cmd.Args[1:], " "), p.stderr)
		}
	})
	return p
}

// start starts a daemon in the foreground and waits until it serves.
func (h *home) start(t *testing.T, args ...string) *process {
	t.Helper()
	p := launch(t, h.command(append([]string{"--foreground", "--socket", h.socket(), "--usb", "none", "--disable-polkit"}, args...)...))
	require.Equal(t, "READY=1", h.told(t))
	return p
}

// exit waits for the end and returns the exit code.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		require.FailNow(t, "it does not end", p.stderr.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

// stop ends a daemon as a service manager does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	require.Zero(t, p.exit(t), p.stderr.String())
}

// client connects to a daemon with a context.
func (h *home) client(t *testing.T) *pcsctest.Client {
	t.Helper()
	c, err := pcsctest.Open(h.socket(), wire.Minor5)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// call runs goccidd to its end in this process.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = run(t.Context(), environment{stdout: &out, stderr: &errOut, getenv: func(name string) string { return env[name] }}, args)
	return code, out.String(), errOut.String()
}

// bench sends a request to the virtual readers.
func (h *home) bench(t *testing.T, request string) {
	t.Helper()
	var d net.Dialer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := d.DialContext(ctx, "unix", h.path("bench"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintln(conn, request)
	require.NoError(t, err)
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(b[:n]), "ok"), string(b[:n]))
}

// names are the readers that a client sees.
func names(t *testing.T, c *pcsctest.Client) []string {
	t.Helper()
	states, err := c.OldTable()
	require.NoError(t, err)
	var list []string
	for _, s := range states {
		list = append(list, s.Name)
	}
	return list
}

// eventually waits until a condition holds that nobody tells of.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, patience, 5*time.Millisecond, what)
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}
