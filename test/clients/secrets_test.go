//go:build linux

package clients

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// TestNoSecretStaysInMemory has clients give goccidd PINs, and then looks for them in all memory that goccidd can write. The
// card is in another process, so it may keep them.
func TestNoSecretStaysInMemory(t *testing.T) {
	for _, reader := range []struct {
		name, model, card string
		extended          bool // the card takes commands of any length through it
	}{
		{"T0Character", "gemalto-pc-twin,level=character", "t0", false},
		{"T0TPDU", "gemalto-pc-twin,level=tpdu", "t0", false},
		{"T0ShortAPDU", "gemalto-pc-twin,level=short", "t0", false},
		{"T1Character", "gemalto-pc-twin,level=character", "t1", true},
		{"T1TPDU", "gemalto-pc-twin,level=tpdu", "t1", true},
		{"T1ShortAPDU", "gemalto-pc-twin,level=short", "t1", true},
		{"T1ExtendedAPDU", "gemalto-pc-twin,level=extended", "t1", true},
		{"TokenA", "e-gate", "t0", false},
		{"TokenB", "gnd-starsigncardtoken550", "t1", true},
	} {
		for _, log := range []struct {
			name string
			args []string
		}{
			{"Quiet", nil},
			{"Trace", []string{"--apdu", "--log-level", "trace"}},
		} {
			t.Run(reader.name+log.name, func(t *testing.T) {
				d := goccidd(t, append(log.args, "--usbip", export(t, "--reader", reader.model, "--card", reader.card).address)...)
				s := newSecret(t)
				d.verifyAndLeave(t, s, reader.extended)
				if reader.extended && log.args == nil {
					d.echo(t, s)
				}
				d.leaveInTheMiddle(t, s)
				d.leaveBeforeTheAnswer(t, s)
				d.awaitNoClient(t)
				s.assertNotIn(t, "log", []byte(d.log.String()))
				s.assertNotInMemory(t, d.cmd.Process.Pid)
			})
		}
	}
}

// TestNoSecretOfAPINPadStaysInMemory: the structures that begin the entry of a PIN on the reader may have one, too.
func TestNoSecretOfAPINPadStaysInMemory(t *testing.T) {
	const spec = "gemalto-pc-twin,level=%s,pinpad=yes,keys=1234#1234#"
	for _, level := range []string{"tpdu", "short", "extended"} {
		for _, card := range []string{"t0", "t1"} {
			t.Run(level+card, func(t *testing.T) {
				d := goccidd(t, "--apdu", "--log-level", "trace", "--usbip", export(t, "--reader", fmt.Sprintf(spec, level), "--card", card).address)
				s := newSecret(t)
				c, h, _ := d.connect(t)
				const verifyPIN = 0x42330006
				_, _, err := c.Control(h, verifyPIN, pinVerify(s.command(0x20)), 300)
				require.NoError(t, err)
				require.NoError(t, c.Close())
				d.awaitNoClient(t)
				s.assertNotIn(t, "log", []byte(d.log.String()))
				s.assertNotInMemory(t, d.cmd.Process.Pid)
			})
		}
	}
}

// TestNoSecretOfAnEscapeStaysInMemory: nobody knows what is in a vendor's command.
func TestNoSecretOfAnEscapeStaysInMemory(t *testing.T) {
	config := filepath.Join(t.TempDir(), "goccidd.toml")
	require.NoError(t, os.WriteFile(config, []byte("[readers]\nallow-escape = true\n"), 0o600))
	d := goccidd(t, "--config", config, "--usbip", export(t, "--reader", "gemalto-pc-twin").address)
	s := newSecret(t)
	c, h, _ := d.connect(t)
	const escape = 0x42000001
	_, _, err := c.Control(h, escape, s.command(0x20), 300)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	d.awaitNoClient(t)
	s.assertNotInMemory(t, d.cmd.Process.Pid)
}

// pinVerify is PIN_VERIFY_STRUCTURE for ASCII digits in the place of those that are there.
func pinVerify(apdu []byte) []byte {
	b := []byte{30, 30, 0x82, 0x00, 0x00, 8, 4, 2, 1, 9, 4, 0, 0, 0, 0, byte(len(apdu)), 0, 0, 0}
	return append(b, apdu...)
}

// secret is a PIN in the forms that cards take.
type secret struct {
	ascii []byte // 12 digits
	block []byte // ISO 9564-1 format 2: 2C, two digits in a byte, FF
}

func newSecret(t *testing.T) secret {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1e12))
	require.NoError(t, err)
	digits := fmt.Sprintf("%012d", n)
	packed, err := hex.DecodeString(digits)
	require.NoError(t, err)
	return secret{ascii: []byte(digits), block: append(append([]byte{0x2C}, packed...), 0xFF)}
}

// command is a command with both forms as data.
func (s secret) command(ins byte) []byte {
	data := append(bytes.Clone(s.ascii), s.block...)
	return append([]byte{0x00, ins, 0x00, 0x01, byte(len(data))}, data...)
}

// long is a command with more data than a block or a short APDU has, all of them secret.
func (s secret) long(cla, ins, p2 byte) []byte {
	data := bytes.Repeat(s.ascii, 50)
	command := append([]byte{cla, ins, 0x00, p2, 0x00, byte(len(data) >> 8), byte(len(data))}, data...)
	return append(command, 0x00, 0x00)
}

// forms are all byte strings that give the secret away, or most of it: as it is, and as a log would have it.
func (s secret) forms() map[string][]byte {
	const most = 8
	forms := map[string][]byte{"digits": s.ascii[:most], "last digits": s.ascii[len(s.ascii)-most:], "format 2": s.block[1 : len(s.block)-1]}
	for _, raw := range [][]byte{s.ascii[:most], s.block[1 : len(s.block)-1]} {
		for _, verb := range []string{"% X", "% x", "%X", "%x"} {
			forms[fmt.Sprintf(verb+" of %d bytes", verb, len(raw))] = fmt.Appendf(nil, verb, raw)
		}
	}
	return forms
}

func (s secret) assertNotIn(t *testing.T, where string, b []byte) {
	t.Helper()
	const around = 48
	for name, form := range s.forms() {
		if i := bytes.Index(b, form); i >= 0 {
			assert.Fail(t, "secret is still there", "%d times as %s in %s, first at offset %#x:\n%s", bytes.Count(b, form), name, where, i,
				hex.Dump(b[max(0, i-around):min(len(b), i+around)]))
		}
	}
}

// assertNotInMemory reads every mapping that the process can write.
func (s secret) assertNotInMemory(t *testing.T, pid int) {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	require.NoError(t, err)
	defer maps.Close()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	require.NoError(t, err)
	defer memory.Close()
	looked := 0
	for scanner := bufio.NewScanner(maps); scanner.Scan(); {
		var begin, end uint64
		var access string
		_, err := fmt.Sscanf(scanner.Text(), "%x-%x %s", &begin, &end, &access)
		require.NoError(t, err, scanner.Text())
		if !strings.HasPrefix(access, "rw") {
			continue
		}
		b := make([]byte, end-begin)
		n, err := memory.ReadAt(b, int64(begin))
		if errors.Is(err, syscall.EIO) || errors.Is(err, io.EOF) {
			err = nil // the mapping has changed since
		}
		require.NoError(t, err, scanner.Text())
		looked += n
		s.assertNotIn(t, scanner.Text(), b[:n])
	}
	require.Greater(t, looked, 1<<20, "the daemon's memory was read")
}

// verifyAndLeave is a client that does everything right.
func (d *daemon) verifyAndLeave(t *testing.T, s secret, extended bool) {
	t.Helper()
	c, h, protocol := d.connect(t)
	for _, ins := range []byte{0x20, 0x24, 0x2C, 0x20} { // after some of them the card refuses the others
		_, _, err := c.Transmit(h, protocol, s.command(ins), 300)
		require.NoError(t, err)
	}
	if extended {
		_, _, err := c.Transmit(h, protocol, s.long(0x00, 0x20, 0x01), 1000)
		require.NoError(t, err)
	}
	require.NoError(t, c.Disconnect(h, wire.LeaveCard))
	require.NoError(t, c.Close())
}

// echo is a client with a secret of which the log knows nothing; and the card gives it back.
func (d *daemon) echo(t *testing.T, s secret) {
	t.Helper()
	c, h, protocol := d.connect(t)
	response, _, err := c.Transmit(h, protocol, s.long(0x80, 0xEC, 0x00), 1000)
	require.NoError(t, err)
	require.Contains(t, string(response), string(s.ascii))
	require.NoError(t, c.Close())
}

// leaveInTheMiddle is a client that is killed while it sends the command.
func (d *daemon) leaveInTheMiddle(t *testing.T, s secret) {
	t.Helper()
	c, h, protocol := d.connect(t)
	command := s.command(0x20)
	require.NoError(t, c.Send(wire.CmdTransmit, transmitBody(h, protocol, len(command)+1), command))
	require.NoError(t, c.Close())
}

// leaveBeforeTheAnswer is a client that is killed while the card is at work.
func (d *daemon) leaveBeforeTheAnswer(t *testing.T, s secret) {
	t.Helper()
	c, h, protocol := d.connect(t)
	command := s.command(0x20)
	require.NoError(t, c.Send(wire.CmdTransmit, transmitBody(h, protocol, len(command)), command))
	require.NoError(t, c.Close())
}

func transmitBody(h int32, protocol wire.Protocol, length int) []byte {
	return wire.Transmit{
		Card: h, SendPCI: wire.PCI{Protocol: protocol, Length: 16}, SendLength: uint32(length),
		ReceivePCI: wire.PCI{Protocol: wire.ProtocolAny, Length: 16}, ReceiveLength: 300,
	}.Append(nil)
}

// connect is a client with a handle to the card in the only reader.
func (d *daemon) connect(t *testing.T) (c *pcsctest.Client, h int32, protocol wire.Protocol) {
	t.Helper()
	c, err := pcsctest.Open(d.socket, wire.Minor6)
	require.NoError(t, err)
	var readers []wire.ReaderState
	require.Eventually(t, func() bool {
		readers, err = c.Readers()
		return err == nil && len(readers) == 1 && readers[0].State&wire.StatePresent != 0
	}, patience, tick)
	m, err := c.Connect(readers[0].Name, wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	return c, m.Card, m.ActiveProtocol
}

// awaitNoClient waits until goccidd has done with all clients.
func (d *daemon) awaitNoClient(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		var status struct {
			Sessions int `json:"sessions"`
			Readers  []struct {
				Busy bool `json:"busy"`
			} `json:"readers"`
		}
		answer, err := exec.Command(filepath.Join(bin, "goccidd"), "status", "--json", "--socket", d.socket).Output()
		return err == nil && json.Unmarshal(answer, &status) == nil && status.Sessions == 0 && len(status.Readers) == 1 && !status.Readers[0].Busy
	}, patience, tick)
}
