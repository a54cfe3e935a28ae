package virtual

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
)

// serveCard answers vpcd messages until the connection ends: an ATR with T=0, and 9000 to each command.
func serveCard(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		switch {
		case len(message) > 1:
			_, _ = conn.Write([]byte{0, 2, 0x90, 0x00})
		case message[0] == 4:
			_, _ = conn.Write([]byte{0, 2, 0x3B, 0x00})
		}
	}
}

// slotBecomes waits until a slot is in a state.
func (h *host) slotBecomes(slot uint8, want ccid.ICCStatus) {
	h.Helper()
	require.Eventually(h, func() bool { return h.exchange(ccid.GetSlotStatus(slot)).Status.ICC() == want }, 5*time.Second, time.Millisecond)
}

func TestCardsFromOutsideComeAndGo(t *testing.T) {
	h, station, _ := newHost(t, "reader=gempctwin,level=tpdu,card=vpcd-listen:0")
	require.Len(t, station.Listeners(), 1)
	for range 3 {
		h.slotBecomes(0, ccid.ICCAbsent)
		conn, err := net.Dial("tcp", station.Listeners()[0].String())
		require.NoError(t, err)
		served := make(chan struct{})
		go func() {
			defer close(served)
			serveCard(conn)
		}()
		h.slotBecomes(0, ccid.ICCInactive)
		require.Equal(t, []byte{0x3B, 0x00}, h.succeed(ccid.IccPowerOn(0, ccid.Power5V)).Data)
		require.Equal(t, []byte{0x90, 0x00}, h.succeed(ccid.XfrBlock(0, 0, 0, unhex(t, "00a40000023f00"))).Data)
		require.NoError(t, conn.Close())
		<-served
	}
	h.slotBecomes(0, ccid.ICCAbsent)
	require.Empty(t, station.Violations())
}

func TestCardsThatWeCall(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		assert.NoError(t, err)
		serveCard(conn)
	}()
	t.Run("reader", func(t *testing.T) {
		h, _, _ := newHost(t, "reader=gempctwin,level=short,card=vpcd:"+l.Addr().String())
		h.slotBecomes(0, ccid.ICCInactive)
		h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
		require.Equal(t, []byte{0x90, 0x00}, h.succeed(ccid.XfrBlock(0, 0, 0, unhex(t, "00a40000023f00"))).Data)
	})
	<-done
	require.NoError(t, l.Close())
	s, err := ParseSpec("card=vpcd:" + l.Addr().String())
	require.NoError(t, err)
	_, err = s.Start(t.Context())
	require.ErrorContains(t, err, "connect to the card at "+l.Addr().String())
}

func TestDevicesWithSeveralInterfaces(t *testing.T) {
	h, station, bus := newHost(t, "reader=acs-acr1581,card=t1+t0+none")
	require.Greater(t, len(station.functions), 1)
	second := station.functions[1]
	i, err := bus.Open(t.Context(), h.Device(), second.number)
	require.NoError(t, err)
	defer func() { require.NoError(t, i.Close()) }()
	h2 := &host{TB: t, Interface: i, in: second.in, out: second.out}
	for range 3 {
		require.Equal(t, ccid.ICCInactive, h.succeed(ccid.GetSlotStatus(0)).Status.ICC())
		require.Equal(t, ccid.ICCInactive, h2.succeed(ccid.GetSlotStatus(0)).Status.ICC())
	}
	require.Empty(t, station.Violations())
}
