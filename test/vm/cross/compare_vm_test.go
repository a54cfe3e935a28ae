//go:build linux

package cross

import (
	"context"
	_ "embed"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport/usbfs"
	"github.com/goccid/goccid/virtual/card"
)

//go:embed differences.txt
var differencesTable string

// driver is what a session needs of a driver stack.
type driver interface {
	connect(name, protocol string) ([]byte, error)
	transmit(command []byte) ([]byte, error)
	reset() error
	disconnect() error
}

// session uses the card, and returns what the application got.
func session(t *testing.T, d driver, name string, k kind) [][]byte {
	t.Helper()
	atr, err := d.connect(name, k.protocol)
	require.NoError(t, err)
	answers := [][]byte{atr}
	commands := func() {
		for _, command := range script(k) {
			response, err := d.transmit(command)
			require.NoError(t, err, "% X", command)
			answers = append(answers, response)
		}
	}
	commands()
	require.NoError(t, d.reset())
	commands()
	require.NoError(t, d.disconnect())
	return answers
}

// script are the session's commands: all cases, of one packet and of several, of whole packets, refused ones, PINs.
func script(k kind) [][]byte {
	data := make([]byte, 300)
	for i := range data {
		data[i] = card.Pattern(i)
	}
	commands := [][]byte{
		withData([]byte{0x00, 0xA4, 0x04, 0x00}, card.AID()),
		{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00},
		{0x00, 0xB0, 0x82, 0x00, 0x10},
		{0x00, 0xB0, 0x82, 0x00, 0x00},
		{0x80, 0xEE, 0x00, 0x00, 52},
		{0x80, 0xEE, 0x00, 0x00, 116},
		withData([]byte{0x00, 0xD6, 0x81, 0x00}, data[:54]),
		withData([]byte{0x00, 0xD6, 0x81, 0x00}, data[:200]),
		withData([]byte{0x00, 0x20, 0x00, 0x01}, []byte(card.DefaultPIN)),
		withData([]byte{0x00, 0x20, 0x00, 0x01}, []byte("0000")),
		{0x00, 0xB2, 0x00, 0x00, 0x00},
		{0x00, 0x84, 0x00, 0x00, 0x08},
	}
	if !k.tpdu {
		commands = append(commands, withMaximum(withData([]byte{0x80, 0xEC, 0, 0}, data[:100])))
	}
	if !k.refusesExtended {
		commands = append(commands, withMaximum(withData([]byte{0x80, 0xEC, 0, 0}, data)))
	}
	return commands
}

// ours is goccid's driver, used as pcscd uses an IFD handler.
type ours struct {
	ctx      context.Context
	handler  *ifdhandler.Handler
	protocol ifdhandler.Protocol
}

const lun ifdhandler.Lun = 0

func (o *ours) connect(name, protocol string) ([]byte, error) {
	o.handler = ifdhandler.New(ifdhandler.Options{Backend: usbfs.New(usbfs.Options{})})
	o.protocol = map[string]ifdhandler.Protocol{"t0": ifdhandler.ProtocolT0, "t1": ifdhandler.ProtocolT1}[protocol]
	if err := o.handler.CreateChannelByName(o.ctx, lun, name); err != nil {
		return nil, err
	}
	atr, err := o.handler.PowerICC(o.ctx, lun, ifdhandler.PowerUp)
	if err != nil {
		return nil, err
	}
	return atr, o.setProtocol()
}

func (o *ours) setProtocol() error {
	return o.handler.SetProtocolParameters(o.ctx, lun, o.protocol, 0, [3]byte{})
}

func (o *ours) transmit(command []byte) ([]byte, error) {
	return o.handler.TransmitToICC(o.ctx, lun, o.protocol, command)
}

func (o *ours) reset() error {
	if _, err := o.handler.PowerICC(o.ctx, lun, ifdhandler.Reset); err != nil {
		return err
	}
	return o.setProtocol()
}

func (o *ours) disconnect() error {
	if _, err := o.handler.PowerICC(o.ctx, lun, ifdhandler.PowerDown); err != nil {
		return err
	}
	return o.handler.CloseChannel(o.ctx, lun)
}

// TestVMBothDriversSayTheSame runs the same session through libccid and through goccid on the same kind of virtual reader, over the same
// kernel. The application must get the same, and what the reader gets may differ only in what differences.txt lists.
func TestVMBothDriversSayTheSame(t *testing.T) {
	vmtest.Require(t)
	table, err := parseWanted(differencesTable)
	require.NoError(t, err)
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			var got [2][][]byte
			var sessions [2][]exchange
			t.Run("libccid", func(t *testing.T) {
				requireVM(t)
				e := plugIn(t, k.spec)
				end := startDaemon(t)
				c := startClient(t)
				got[0] = session(t, c, c.readers(t, 1)[0], k)
				c.end()
				end()
				logViolations(t, e)
				sessions[0] = e.exchanges(t)
				if k.simplify == nil { // goccid's driver has to be able to play it
					keepTrace(t, "virtual-"+k.name+"-libccid", e.recording.Bytes())
				}
			})
			t.Run("goccid", func(t *testing.T) {
				requireVM(t)
				e := plugIn(t, k.spec)
				ctx, cancel := context.WithTimeout(t.Context(), watchdog)
				defer cancel()
				got[1] = session(t, &ours{ctx: ctx}, e.channelName(), k)
				sessions[1] = e.exchanges(t)
				assert.Empty(t, e.Violations())
			})
			require.NotEmpty(t, sessions[0])
			require.NotEmpty(t, sessions[1])
			assert.Equal(t, got[0], got[1], "what the application got")
			for i := range sessions {
				for _, simplify := range k.simplify {
					sessions[i] = simplify(sessions[i])
				}
			}
			found := differences(sessions[0], sessions[1])
			var listed []string
			for _, w := range table {
				if w.kind == "*" && slices.Contains(found, w.difference) || w.kind == k.name {
					listed = append(listed, w.difference)
				}
			}
			slices.Sort(listed)
			assert.Equal(t, slices.Compact(listed), found, "differences: differences.txt has the first list")
		})
	}
}
