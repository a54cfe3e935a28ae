package card

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeVICC is the other end of a vpcd connection. It returns what it was told until the connection ended.
func fakeVICC(conn net.Conn, answer func(message []byte) []byte) [][]byte {
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	var seen [][]byte
	for {
		var length [2]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return seen
		}
		message := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(r, message); err != nil {
			return seen
		}
		seen = append(seen, message)
		if b := answer(message); b != nil {
			_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
		}
	}
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func minicard(message []byte) []byte {
	switch {
	case len(message) > 1:
		return append(message[:4:4], 0x90, 0x00)
	case message[0] == vpcdATR:
		return []byte{0x3B, 0x00}
	}
	return nil
}

func TestVPCDBothWays(t *testing.T) {
	for _, way := range []string{"the card calls", "we call"} {
		t.Run(way, func(t *testing.T) {
			l := listen(t)
			seen := make(chan [][]byte, 1)
			var remote *Remote
			if way == "the card calls" {
				go func() {
					conn, err := net.Dial("tcp", l.Addr().String())
					assert.NoError(t, err)
					seen <- fakeVICC(conn, minicard)
				}()
				var err error
				remote, err = AcceptVPCD(t.Context(), l)
				require.NoError(t, err)
			} else {
				go func() {
					conn, err := l.Accept()
					assert.NoError(t, err)
					seen <- fakeVICC(conn, minicard)
				}()
				var err error
				remote, err = DialVPCD(t.Context(), l.Addr().String())
				require.NoError(t, err)
			}
			c := New(remote, Options{})
			atr, err := c.PowerOn(t.Context(), ClassA)
			require.NoError(t, err)
			require.Equal(t, []byte{0x3B, 0x00}, atr)
			data, sw := t0Exchange(t, c, unhex(t, "00CA006604"))
			require.Equal(t, unhex(t, "00CA0066"), data)
			require.Equal(t, uint16(swOK), sw)
			c.PowerOff()
			require.NoError(t, c.Close())
			require.Equal(t, [][]byte{{vpcdOn}, {vpcdReset}, {vpcdATR}, unhex(t, "00CA006604"), {vpcdOff}}, <-seen)
		})
	}
}

func TestVPCDRemoteCardThatMisbehaves(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer func([]byte) []byte
	}{
		{"ATR too long", func([]byte) []byte { return make([]byte, 34) }},
		{"ATR too short", func(m []byte) []byte {
			if m[0] == vpcdATR {
				return []byte{0x3B}
			}
			return nil
		}},
		{"silent", func([]byte) []byte { return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				fakeVICC(theirs, tc.answer)
			}()
			remote := NewRemote(ours)
			c := New(remote, Options{})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := c.PowerOn(ctx, ClassA)
			require.Error(t, err)
			require.NoError(t, c.Close())
			<-remote.Gone()
			<-done
		})
	}
}

func TestVPCDGoneInTheMiddle(t *testing.T) {
	ours, theirs := net.Pipe()
	remote := NewRemote(ours)
	go fakeVICC(theirs, func(m []byte) []byte {
		if len(m) > 1 {
			_ = theirs.Close()
			return nil
		}
		return minicard(m)
	})
	c := New(remote, Options{})
	_, err := c.PowerOn(t.Context(), ClassA)
	require.NoError(t, err)
	_, err = c.Transmit(t.Context(), unhex(t, "00CA0066"), nil)
	require.ErrorIs(t, err, ErrGone)
	<-remote.Gone()
	require.NoError(t, c.Close())
}

func TestVPCDAcceptEndsWithItsContext(t *testing.T) {
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err := AcceptVPCD(ctx, l)
	require.ErrorIs(t, err, context.Canceled)
	_, err = DialVPCD(ctx, l.Addr().String())
	require.ErrorIs(t, err, context.Canceled)
}

// runVICC starts the vicc script. Debian's Python has what it imports as Crypto under the name Cryptodome.
const runVICC = `
import importlib, runpy, sys
try:
    import Crypto
except ImportError:
    sys.modules["Crypto"] = importlib.import_module("Cryptodome")
script = sys.argv.pop(1)
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
`

// viccCommand finds vicc and a Python that can run it.
func viccCommand(t *testing.T) (python, script string, environment []string) {
	t.Helper()
	script, err := exec.LookPath("vicc")
	if err != nil {
		t.Skip("vicc is not installed (Debian package vsmartcard-vpicc): no foreign card was tried")
	}
	environment = append(os.Environ(), "PYTHONUNBUFFERED=1",
		"PYTHONPATH=/usr/lib/python3/site-packages/virtualsmartcard:/usr/lib/python3/site-packages:"+os.Getenv("PYTHONPATH"))
	python = "/usr/bin/python3" // not whatever is first in PATH: vicc's modules are the system's
	probe := exec.CommandContext(t.Context(), python, "-c", "import importlib.util as u, sys; sys.exit(not (u.find_spec('Crypto') or u.find_spec('Cryptodome')))")
	if err := probe.Run(); err != nil {
		t.Skip("vicc lacks the Python module Crypto (Debian package python3-pycryptodome): no foreign card was tried")
	}
	return python, script, environment
}

// TestVICC puts the card of the vsmartcard project into our reader, both ways.
func TestVICC(t *testing.T) {
	python, vicc, environment := viccCommand(t)
	for _, tc := range []struct {
		name     string
		reversed bool
	}{{"vicc calls", false}, {"we call", true}} {
		t.Run(tc.name, func(t *testing.T) {
			l := listen(t)
			port := l.Addr().(*net.TCPAddr).Port
			args := []string{"-c", runVICC, vicc, "--type", "iso7816", "--hostname", "127.0.0.1", "--port", strconv.Itoa(port)}
			if tc.reversed {
				require.NoError(t, l.Close())
				args = append(args, "--reversed")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			command := exec.CommandContext(ctx, python, args...)
			command.Env = environment
			output := &lockedBuffer{}
			command.Stdout, command.Stderr = output, output
			require.NoError(t, command.Start())
			defer func() {
				cancel()
				_ = command.Wait() // killed
				if t.Failed() {
					t.Log(output.String())
				}
			}()
			remote := reach(ctx, t, l, tc.reversed)
			c := New(remote, Options{})
			atr, err := c.PowerOn(ctx, ClassA)
			require.NoError(t, err)
			require.Contains(t, []byte{0x3B, 0x3F}, atr[0])
			t.Logf("ATR % X", atr)
			got, err := c.Transmit(ctx, unhex(t, "00A4000C023F00"), nil)
			require.NoError(t, err)
			require.Equal(t, []byte{0x90, 0x00}, got, "SELECT of the MF")
			require.NoError(t, c.Close())
		})
	}
}

// reach gets the connection to a vicc that is starting.
func reach(ctx context.Context, t *testing.T, l *net.TCPListener, reversed bool) *Remote {
	t.Helper()
	if !reversed {
		remote, err := AcceptVPCD(ctx, l)
		require.NoError(t, err)
		return remote
	}
	for {
		remote, err := DialVPCD(ctx, l.Addr().String())
		if err == nil {
			return remote
		}
		require.NoError(t, ctx.Err(), "vicc does not listen: %v", err)
		time.Sleep(50 * time.Millisecond)
	}
}
