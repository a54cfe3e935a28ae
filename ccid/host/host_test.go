package host_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is one virtual reader that is plugged in and opened.
type rig struct {
	bus    *virtual.Bus
	device *virtual.Reader
	info   usbtransport.DeviceInfo
	reader *host.Reader
	slot   *host.Slot
	log    *logtest.Hook
}

// newRig plugs in a virtual reader and opens it. At the end it is closed, and must have no rule of CCID to complain of.
func newRig(t testing.TB, c virtual.Config, o host.Options) *rig {
	t.Helper()
	device, err := virtual.NewReader(c)
	require.NoError(t, err)
	r := &rig{bus: virtual.NewBus(), device: device}
	r.info, err = r.bus.Plug(device)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, r.bus.Close())
		require.NoError(t, device.Close())
	})
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	r.log = hook
	if o.Logger == nil {
		o.Logger = logger
	}
	r.reader, err = host.OpenFirst(t.Context(), r.bus, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.reader.Close()) })
	r.slot = r.reader.Slot(0)
	return r
}

func (r *rig) requireNoViolations(t testing.TB) {
	t.Helper()
	require.Empty(t, r.device.Violations(), "rules of CCID that the host has broken")
}

func (r *rig) connect(t testing.TB) {
	t.Helper()
	_, err := r.slot.Connect(t.Context())
	require.NoError(t, err)
}

// echo has the card send back n bytes, of which it is given as many as fit a command.
func echo(t testing.TB, send, want int, extended bool) []byte {
	t.Helper()
	c := apdu.Command{CLA: 0x80, INS: 0xEC, P1: byte(want >> 8), P2: byte(want), Data: pattern(send), Ne: want, Extended: extended}
	b, err := c.Bytes()
	require.NoError(t, err)
	return b
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = card.Pattern(i)
	}
	return b
}

// produce has the card send n bytes of its pattern, 1..65,536.
func produce(t testing.TB, n int, extended bool) []byte {
	t.Helper()
	b, err := apdu.Command{CLA: 0x80, INS: 0xEE, P1: byte(n >> 8), P2: byte(n), Ne: n, Extended: extended}.Bytes()
	require.NoError(t, err)
	return b
}

// update writes n bytes to the file that is selected: a command without response data.
func update(t testing.TB, n int, extended bool) []byte {
	t.Helper()
	b, err := apdu.Command{INS: 0xD6, Data: pattern(n), Extended: extended}.Bytes()
	require.NoError(t, err)
	return b
}

var levels = []ccid.ExchangeLevel{ccid.LevelCharacter, ccid.LevelTPDU, ccid.LevelShortAPDU, ccid.LevelExtendedAPDU}

func newCard(t uint8) card.Card {
	if t == 0 {
		return card.NewT0()
	}
	return card.NewT1()
}

// TestTransmitAtEachLevel exchanges APDUs of all cases and lengths with both kinds of card at all exchange levels.
func TestTransmitAtEachLevel(t *testing.T) {
	for _, level := range levels {
		for protocol := range uint8(2) {
			bubble(t, fmt.Sprintf("%v T=%d", level, protocol), func(t *testing.T) {
				r := newRig(t, virtual.Config{Level: &level, Cards: []card.Card{newCard(protocol)}}, host.Options{})
				r.connect(t)
				p, ok := r.slot.Parameters()
				require.True(t, ok)
				require.Equal(t, protocol, p.T)

				transmit := func(command, want []byte) {
					t.Helper()
					got, err := r.slot.Transmit(t.Context(), command)
					require.NoError(t, err, "% X", command[:min(len(command), 8)])
					require.True(t, bytes.Equal(append(want, 0x90, 0x00), got), "% X…: got %d bytes", command[:min(len(command), 8)], len(got))
				}
				transmit([]byte{0x00, 0xA4, 0x00, 0x0C}, nil)                   // case 1: SELECT the root
				transmit([]byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x01, 0x02}, nil) // case 3: SELECT the large file
				for _, n := range []int{1, 2, 54, 55, 63, 64, 65, 127, 128, 253, 254, 255, 256} {
					transmit(produce(t, n, false), pattern(n)) // case 2
				}
				for _, n := range []int{1, 31, 32, 54, 119, 127, 128, 254, 255} {
					transmit(update(t, n, false), nil)         // case 3
					transmit(echo(t, n, n, false), pattern(n)) // case 4
				}
				lengths := []int{1, 255, 256, 257, 261, 507, 4096, 65535}
				for _, n := range lengths {
					transmit(update(t, n, true), nil)
					transmit(echo(t, n, n, true), pattern(n))
				}
				if level == ccid.LevelExtendedAPDU || level != ccid.LevelShortAPDU && protocol == 1 {
					// T=0 can't tell the card that 65,536 bytes are asked for, not 256.
					transmit(produce(t, 65536, true), pattern(65536))
				}
				r.requireNoViolations(t)
			})
		}
	}
}

// bubble runs a parallel subtest in a bubble with a clock of its own: waiting costs nothing, and a loaded machine is never
// too slow.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, f)
	})
}

func timeout(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
