//go:build linux

package clients

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
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

	"github.com/goccid/goccid/virtual/card"
)

// bin has what TestMain builds.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// clientEnv tells the test binary that it is a client itself: see scard_test.go.
const clientEnv = "GOCCID_TEST_CLIENT"

func run(m *testing.M) int {
	switch {
	case os.Getenv(clientEnv) != "":
		return m.Run()
	case os.Getenv(instantEnv) != "":
		return serveInstant(os.Getenv(instantEnv))
	}
	dir, err := os.MkdirTemp("", "goccid-clients-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", dir, "../../cmd/goccidd", "../../cmd/ccid-probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		panic(string(output))
	}
	return m.Run()
}

// need skips the test when a file that a Debian package brings is missing. The gate has them all: there it fails.
func need(t testing.TB, pkg, file string) {
	t.Helper()
	found := false
	if strings.Contains(file, "/") {
		_, err := os.Stat(file)
		found = err == nil
	} else {
		_, err := exec.LookPath(file)
		found = err == nil
	}
	if found {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing (Debian package %s)", file, pkg)
	}
	t.Skipf("%s is missing (Debian package %s): not tried", file, pkg)
}

// output collects what a program prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// daemon is a resource manager that runs: ours or the reference.
type daemon struct {
	dir    string
	socket string
	log    *output
	cmd    *exec.Cmd
	ended  chan error
}

const (
	patience = 60 * time.Second // for what takes well under a second on an idle machine
	tick     = 20 * time.Millisecond
)

// launch runs a resource manager until the test ends. It has to end by SIGTERM, without a fault.
func launch(t testing.TB, dir, socket string, program string, args ...string) *daemon {
	t.Helper()
	d := &daemon{dir: dir, socket: socket, log: &output{}, ended: make(chan error, 1)}
	d.cmd = exec.Command(program, args...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	require.NoError(t, d.cmd.Start())
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(program), d.log)
		}
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, patience, tick, "%s does not listen: %s", program, d.log)
	return d
}

// stop ends the daemon as an administrator does.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		require.NoError(t, err, "end by SIGTERM")
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		t.Errorf("does not end by SIGTERM: %s", d.log)
	}
	d.cmd = nil
}

// goccidd starts our daemon with these arguments besides the usual ones.
func goccidd(t testing.TB, args ...string) *daemon {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "pcscd.comm")
	all := append([]string{"--foreground", "--socket", socket, "--usb", "none", "--disable-polkit"}, args...)
	return launch(t, dir, socket, filepath.Join(bin, "goccidd"), all...)
}

// referenceWithCard starts Debian's pcscd with the vpcd driver and a card in it.
func referenceWithCard(t *testing.T, application card.Application, atr []byte) *daemon {
	t.Helper()
	need(t, "vsmartcard-vpcd", "/etc/reader.conf.d/vpcd")
	d := reference(t)
	serveCard(t, "127.0.0.1:35963", application, atr)
	return d
}

// reference starts Debian's pcscd. Its socket's path is fixed: it sees our folder there.
func reference(t testing.TB, args ...string) *daemon {
	t.Helper()
	need(t, "pcscd", "/usr/sbin/pcscd")
	need(t, "util-linux", "unshare")
	if os.Geteuid() != 0 {
		t.Skip("pcscd's socket has a fixed path; only root can give it another folder there: not tried")
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.MkdirAll("/run/pcscd", 0o755))
	const script = `mount --bind "$0" /run/pcscd && exec /usr/sbin/pcscd --foreground "$@"`
	return launch(t, dir, filepath.Join(dir, "pcscd.comm"), "unshare", append([]string{"--mount", "sh", "-c", script, dir}, args...)...)
}

// serveCard is a card in the reader that waits for one at this address, until the test ends.
func serveCard(t *testing.T, address string, application card.Application, atr []byte) {
	t.Helper()
	var conn net.Conn
	require.Eventually(t, func() (ok bool) {
		var err error
		conn, err = net.Dial("tcp", address)
		return err == nil
	}, patience, tick)
	done := make(chan error, 1)
	go func() { done <- vpcdCard(t.Context(), conn, application, atr) }()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
}

// vpcdCard answers a vpcd: messages have their length before them; those of one byte are control codes.
func vpcdCard(ctx context.Context, conn net.Conn, application card.Application, atr []byte) error {
	const off, on, reset, getATR = 0, 1, 2, 4
	send := func(b []byte) error {
		_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
		return err
	}
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return err
		}
		message := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, message); err != nil {
			return err
		}
		var err error
		switch {
		case len(message) == 0:
			err = errors.New("empty message")
		case len(message) > 1:
			var response []byte
			if response, err = application.Transmit(ctx, message); err == nil {
				err = send(response)
			}
		case message[0] == off:
			application.Off()
		case message[0] == on, message[0] == reset:
			_, err = application.Reset(ctx)
		case message[0] == getATR:
			err = send(atr)
		}
		if err != nil {
			return err
		}
	}
}

// client prepares a program that finds this daemon.
func (d *daemon) client(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "PCSCLITE_CSOCK_NAME="+d.socket, "LC_ALL=C.UTF-8")
	c.WaitDelay = time.Second
	return c
}

// run runs a client to its end and returns what it printed.
func (d *daemon) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := d.client(ctx, name, args...)
	printed, err := c.CombinedOutput()
	require.NoError(t, err, "%s: %s", c, printed)
	return string(printed)
}
