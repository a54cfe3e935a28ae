package virtual

import (
	"context"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// host is a minimal driver: it sends messages and reads answers.
type host struct {
	testing.TB
	usbtransport.Interface
	in, out uint8
	seq     uint8
}

func newHost(t testing.TB, spec string) (*host, *Station, *Bus) {
	t.Helper()
	s, err := ParseSpec(spec)
	require.NoError(t, err)
	station, err := s.Start(t.Context())
	require.NoError(t, err)
	bus := NewBus()
	info, err := bus.Plug(station.Reader)
	require.NoError(t, err)
	i, err := bus.Open(t.Context(), info, station.functions[0].number)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, i.Close())
		require.NoError(t, bus.Close())
		require.NoError(t, station.Close())
	})
	return &host{TB: t, Interface: i, in: 0x82, out: 0x01}, station, bus
}

// send sends a command with the next bSeq.
func (h *host) send(c ccid.Command) ccid.Command {
	h.Helper()
	c.Seq = h.seq
	h.seq++
	b, err := c.AppendBinary(nil)
	require.NoError(h, err)
	h.raw(b)
	return c
}

func (h *host) raw(b []byte) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 5*time.Second)
	defer cancel()
	n, err := h.BulkOut(ctx, h.out, b)
	require.NoError(h, err)
	require.Equal(h, len(b), n)
}

// receive reads a response.
func (h *host) receive() ccid.Response {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 5*time.Second)
	defer cancel()
	buf := make([]byte, 1100*64)
	n, err := h.BulkIn(ctx, h.in, buf)
	require.NoError(h, err)
	r, err := ccid.ParseResponse(buf[:n])
	require.NoError(h, err, "% X", buf[:n])
	require.Zero(h, r.Trailing)
	return r
}

// exchange sends a command and returns its answer, whatever its status.
func (h *host) exchange(c ccid.Command) ccid.Response {
	h.Helper()
	c = h.send(c)
	r := h.receive()
	for r.Status.Command() == ccid.CommandTimeExtension {
		r = h.receive()
	}
	require.NoError(h, r.Check(c))
	return r
}

// succeed is exchange for a command that must work.
func (h *host) succeed(c ccid.Command) ccid.Response {
	h.Helper()
	r := h.exchange(c)
	require.Equal(h, ccid.CommandOK, r.Status.Command(), "%v: %v", c.Type, r.Error)
	return r
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func TestPowerOnAndSelectAtEachLevel(t *testing.T) {
	for _, level := range []string{"tpdu", "short", "extended"} {
		for _, protocol := range []string{"t0", "t1"} {
			t.Run(fmt.Sprintf("%s %s", level, protocol), func(t *testing.T) {
				h, station, _ := newHost(t, "reader=gemalto-pc-twin,level="+level+",card="+protocol)
				atr := h.succeed(ccid.IccPowerOn(0, ccid.Power5V)).Data
				require.Equal(t, byte(0x3B), atr[0])
				answer := ""
				switch {
				case level != "tpdu":
					answer = hex.EncodeToString(h.succeed(ccid.XfrBlock(0, 0, 0, unhex(t, "00a40000023f00"))).Data)
				case protocol == "t0":
					answer = hex.EncodeToString(h.succeed(ccid.XfrBlock(0, 0, 0, unhex(t, "00a4000c023f00"))).Data)
				default:
					h.succeed(ccid.SetParametersT1(0, ccid.ParametersT1{BmFindexDindex: 0x11, BmTCCKST1: 0x10, BmWaitingIntegersT1: 0x45, BIFSC: 254}))
					b := h.succeed(ccid.XfrBlock(0, 0, 0, unhex(t, "00000700a4000c023f00"+"92"))).Data
					answer = hex.EncodeToString(b[3 : len(b)-1])
				}
				require.Equal(t, "9000", answer)
				require.Empty(t, station.Violations())
			})
		}
	}
}
