package pcscd

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// socketPair returns the two ends of a connection.
func socketPair(t *testing.T) (server, client *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		conn, err := net.FileConn(f)
		f.Close()
		require.NoError(t, err)
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// lonelyConn is a connection that a server has admitted, but does not serve yet.
func lonelyConn(t *testing.T, s *Server, uid uint32) (_ *conn, client *net.UnixConn) {
	t.Helper()
	theirs, ours := socketPair(t)
	t.Cleanup(func() { theirs.Close(); ours.Close() })
	c := newConn(t.Context(), s, theirs, Client{UID: uid})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(c)
	return c, ours
}

// FuzzConnection feeds a connection with whatever bytes. It must end, with its session closed, without waiting for
// anything; what it writes must be bounded by what it was asked; and the server must know nothing of it any more.
func FuzzConnection(f *testing.F) {
	request := func(b []byte, command wire.Command, body []byte) []byte {
		return append(wire.Header{Size: uint32(len(body)), Command: command}.Append(b), body...)
	}
	hello := func(minor int32) []byte {
		b := request(nil, wire.CmdVersion, wire.Version{Major: 4, Minor: minor}.Append(nil))
		return request(b, wire.CmdEstablishContext, wire.Establish{Scope: wire.ScopeSystem}.Append(nil))
	}
	for _, minor := range minors {
		b := hello(minor)
		b = request(b, wire.CmdGetReadersState, nil)
		b = request(b, wire.CmdWait, c43Body(minor))
		b = request(b, wire.CmdGetReadersStateSize, nil)
		b = request(b, wire.CmdGetReadersStateArray, nil)
		b = request(b, wire.CmdCancel, wire.Cancel{Context: 1}.Append(nil))
		b = request(b, wire.CmdStopWaiting, c43Body(minor))
		f.Add(b)
		b = hello(minor)
		b = request(b, wire.CmdConnect, wire.Connect{Context: 1, Reader: "A 00 00", ShareMode: wire.Shared, PreferredProtocols: wire.ProtocolAny}.Append(nil))
		b = request(b, wire.CmdReconnect, wire.Reconnect{Card: 2}.Append(nil))
		b = request(b, wire.CmdBeginTransaction, wire.Begin{Card: 2}.Append(nil))
		b = append(request(b, wire.CmdTransmit, wire.Transmit{Card: 2, SendPCI: wire.PCI{Protocol: wire.ProtocolT1}, SendLength: 2, ReceiveLength: 9}.Append(nil)), 1, 2)
		b = append(request(b, wire.CmdControl, wire.Control{Card: 2, SendLength: 1, ReceiveLength: 9}.Append(nil)), 1)
		b = request(b, wire.CmdGetAttrib, (&wire.Attribute{Card: 2, ID: 3, Length: 264}).Append(nil))
		b = request(b, wire.CmdSetAttrib, (&wire.Attribute{Card: 2, ID: 3, Length: 4}).Append(nil))
		b = request(b, wire.CmdStatus, wire.Status{Card: 2}.Append(nil))
		b = request(b, wire.CmdEndTransaction, wire.End{Card: 2}.Append(nil))
		b = request(b, wire.CmdDisconnect, wire.Disconnect{Card: 2}.Append(nil))
		f.Add(request(b, wire.CmdReleaseContext, wire.Release{Context: 1}.Append(nil)))
	}
	f.Add([]byte{})
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, input []byte) {
		r := newFakeResources("A 00 00")
		s := newServer(r, ServerOptions{Limits: Limits{Penalty: time.Nanosecond}})
		s.generation.Store(1)
		c, ours := lonelyConn(t, s, 1000)
		ended := make(chan struct{})
		go func() { c.run(); close(ended) }()

		var written int
		var reading sync.WaitGroup
		reading.Go(func() {
			buffer := make([]byte, 65536)
			for {
				n, err := ours.Read(buffer)
				written += n
				if err != nil {
					return
				}
			}
		})
		_, _ = ours.Write(input) // fails when the server has dropped us
		_ = ours.CloseWrite()
		select {
		case <-ended:
		case <-time.After(pcsctest.Patience):
			t.Fatal("the connection does not end")
		}
		reading.Wait()
		ours.Close()
		require.Zero(t, r.open())
		require.Empty(t, s.conns)
		require.Empty(t, s.contexts)
		require.Empty(t, s.users)
		// The most that a header of 8 bytes can ask for is a table of 16 readers; a payload comes back doubled.
		require.LessOrEqual(t, written, len(input)/wire.HeaderSize*wire.OldTableLen*wire.ReaderStateSize+2*len(input))
	})
}

// randomMessage returns a request that is right, wrong somewhere, or cut off.
func randomMessage(r *rand.Rand) []byte {
	command := wire.Command(r.IntN(0x1A))
	size, _ := command.BodySize()
	b := wire.Header{Size: uint32(size), Command: command}.Append(nil)
	body := make([]byte, size)
	for i := range body {
		if r.IntN(4) == 0 {
			body[i] = byte(r.Uint32())
		}
	}
	if (command == wire.CmdTransmit || command == wire.CmdControl) && r.IntN(2) == 0 {
		binary.LittleEndian.PutUint32(body[12:], uint32(r.IntN(300)))
	}
	b = append(b, body...)
	switch r.IntN(4) {
	case 0:
		b[r.IntN(len(b))] ^= byte(1 << r.IntN(8))
	case 1:
		b = b[:r.IntN(len(b))]
	}
	return b
}

// flood sends random messages on many connections and returns how many connections it made.
func flood(t *testing.T, path string, connections, messages int, seed uint64) (made uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	for range connections {
		made++
		c, err := pcsctest.Dial(path)
		require.NoError(t, err)
		if r.IntN(2) == 0 {
			_, _ = c.Handshake(4, int32(3+r.IntN(4)))
			_, _ = c.Establish(wire.ScopeSystem)
		}
		for range messages {
			if _, err := c.Conn.Write(randomMessage(r)); err != nil {
				// The server has dropped us: the rest goes to a new connection.
				c.Close()
				made++
				c, err = pcsctest.Dial(path)
				require.NoError(t, err)
			}
		}
		c.Close()
	}
	return made
}

// cameAndWent waits until the server has seen this many clients come and go.
func (s *testServer) cameAndWent(t *testing.T, n uint64) {
	t.Helper()
	require.Eventually(t, func() bool {
		connected, served, _ := s.Clients()
		return connected == 0 && served == n
	}, pcsctest.Patience, time.Millisecond)
}

// heap returns the bytes in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func TestAFloodOfRandomMessagesLeavesTheServerServing(t *testing.T) {
	connections, messages := 5000, 20
	if testing.Short() {
		connections = 500
	}
	r := newFakeResources("A 00 00")
	s := startServer(t, countingResources{r}, ServerOptions{Limits: Limits{Penalty: time.Millisecond, Silence: time.Second}})
	var made atomic.Uint64
	made.Add(flood(t, s.path, 100, messages, 1)) // warm up
	s.cameAndWent(t, made.Load())
	before := heap()
	const floods = 4
	var all sync.WaitGroup
	for seed := range uint64(floods) {
		all.Go(func() { made.Add(flood(t, s.path, connections/floods, messages, seed+2)) })
	}
	all.Wait()
	s.cameAndWent(t, made.Load())
	after := heap()
	assert.Less(t, after, before+4<<20, "memory stays flat")
	s.mu.Lock()
	assert.Empty(t, s.contexts)
	assert.Empty(t, s.users)
	s.mu.Unlock()

	c := s.open(t, wire.Minor6)
	table, err := c.Wait()
	require.NoError(t, err)
	require.Len(t, table, 1)
	r.change()
	require.NoError(t, c.Signal(pcsctest.Patience))
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	_, _, err = c.Transmit(m.Card, wire.ProtocolT1, []byte{1, 2, 3}, 258)
	require.NoError(t, err)
	require.NoError(t, c.Release())
}

// countingResources keeps no sessions.
type countingResources struct{ *fakeResources }

func (r countingResources) session(c Client) session {
	return &fakeSession{resources: r.fakeResources, client: c, handles: map[int32]bool{}, ended: make(chan struct{})}
}
