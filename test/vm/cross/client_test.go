//go:build linux

package cross

import (
	"bufio"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

//go:embed client.py
var clientProgram string

// client is a PC/SC application, in a process of its own: client.py.
type client struct {
	in      io.Writer
	answers *bufio.Reader
	end     func()
}

func startClient(t *testing.T) *client {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", "-c", clientProgram)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &client{in: in, answers: bufio.NewReader(out)}
	ended := false
	c.end = func() {
		if ended {
			return
		}
		ended = true
		_ = in.Close()
		kill := time.AfterFunc(watchdog, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_ = cmd.Wait()
	}
	t.Cleanup(c.end)
	return c
}

// call has the client do something. The error is a *failure when PC/SC said so.
func (c *client) call(words ...string) (string, error) {
	if _, err := fmt.Fprintln(c.in, strings.Join(words, "\t")); err != nil {
		return "", err
	}
	line, err := c.answers.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the client ended in %s: %w", words[0], err)
	}
	word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if word != "ok" {
		return "", &failure{words[0], rest}
	}
	return rest, nil
}

// bytes is call for answers of bytes.
func (c *client) bytes(words ...string) ([]byte, error) {
	answer, err := c.call(words...)
	if err != nil {
		return nil, err
	}
	return hex.DecodeString(answer)
}

// readers waits until there are n readers, and returns their names.
func (c *client) readers(t *testing.T, n int) []string {
	t.Helper()
	var names []string
	await(t, "pcscd to list the readers", func() bool {
		answer, err := c.call("readers")
		require.NoError(t, err)
		names = strings.Split(answer, "|")
		return answer != "" && len(names) == n
	})
	return names
}

func (c *client) connect(name, protocol string) ([]byte, error) {
	if _, err := c.call("await", name, "present"); err != nil {
		return nil, err
	}
	return c.bytes("connect", name, protocol)
}

func (c *client) transmit(command []byte) ([]byte, error) {
	return c.bytes("transmit", hex.EncodeToString(command))
}

func (c *client) control(code uint32, data []byte) ([]byte, error) {
	return c.bytes("control", strconv.FormatUint(uint64(code), 10), hex.EncodeToString(data))
}

func (c *client) reset() error {
	_, err := c.call("reset")
	return err
}

func (c *client) disconnect() error {
	_, err := c.call("disconnect")
	return err
}
