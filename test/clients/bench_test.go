//go:build linux

package clients

import (
	"bufio"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// readers are virtual ones on a USB/IP server of their own, so that a test can pull them out while the daemon runs.
type readers struct {
	address string
	conn    net.Conn
	answers *bufio.Scanner
}

var exported = regexp.MustCompile(`Exported over USB/IP at (\S+)\.`)

// export starts the server; args are the readers: --reader, --card.
func export(t *testing.T, args ...string) *readers {
	t.Helper()
	control := filepath.Join(t.TempDir(), "control.sock")
	command := exec.Command(filepath.Join(bin, "ccid-probe"), append([]string{"virtual", "--listen", "127.0.0.1:0", "--control", control}, args...)...)
	printed := &output{}
	command.Stdout, command.Stderr = printed, printed
	require.NoError(t, command.Start())
	r := &readers{}
	t.Cleanup(func() {
		if r.conn != nil {
			r.conn.Close()
		}
		_ = command.Process.Kill()
		_ = command.Wait() // killed
		if t.Failed() {
			t.Logf("ccid-probe virtual printed:\n%s", printed)
		}
	})
	require.Eventually(t, func() bool {
		found := exported.FindStringSubmatch(printed.String())
		if found == nil {
			return false
		}
		r.address = found[1]
		return true
	}, patience, tick, "%s", printed)
	require.Eventually(t, func() (ok bool) {
		var err error
		r.conn, err = net.Dial("unix", control)
		return err == nil
	}, patience, tick)
	r.answers = bufio.NewScanner(r.conn)
	return r
}

// do gives a command, which has to work.
func (r *readers) do(t *testing.T, command string) {
	t.Helper()
	_, err := r.conn.Write([]byte(command + "\n"))
	require.NoError(t, err)
	for r.answers.Scan() {
		line := r.answers.Text()
		if strings.HasPrefix(line, "ok") {
			return
		}
		require.False(t, strings.HasPrefix(line, "error"), "%s: %s", command, line)
	}
	require.Fail(t, "no answer", "%s: %v", command, r.answers.Err())
}
