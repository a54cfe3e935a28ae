package pcscd

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

func TestWhatDropsAConnection(t *testing.T) {
	body := func(size int) []byte { return make([]byte, size) }
	for name, send := range map[string]func(c *pcsctest.Client) error{
		"command 0":          func(c *pcsctest.Client) error { return c.Send(0, nil, nil) },
		"LIST_READERS":       func(c *pcsctest.Client) error { return c.Send(wire.CmdListReaders, nil, nil) },
		"GET_STATUS_CHANGE":  func(c *pcsctest.Client) error { return c.Send(wire.CmdGetStatusChange, nil, nil) },
		"CANCEL_TRANSACTION": func(c *pcsctest.Client) error { return c.Send(wire.CmdCancelTransaction, nil, nil) },
		"command 0x18":       func(c *pcsctest.Client) error { return c.Send(0x18, nil, nil) },
		"command 0xFFFFFFFF": func(c *pcsctest.Client) error { return c.Send(0xFFFFFFFF, nil, nil) },
		"body too long":      func(c *pcsctest.Client) error { return c.Send(wire.CmdStatus, body(9), nil) },
		"body too short":     func(c *pcsctest.Client) error { return c.Send(wire.CmdStatus, body(7), nil) },
		"no body":            func(c *pcsctest.Client) error { return c.Send(wire.CmdConnect, nil, nil) },
		"body of 4 GiB": func(c *pcsctest.Client) error {
			return sendHeader(c, wire.Header{Size: 0xFFFFFFFF, Command: wire.CmdConnect})
		},
		"transmit too long": sendOwn(func(card int32) (wire.Command, []byte) {
			return wire.CmdTransmit, wire.Transmit{Card: card, SendLength: wire.MaxPayload + 1}.Append(nil)
		}),
		"transmit of 4 GiB": sendOwn(func(card int32) (wire.Command, []byte) {
			return wire.CmdTransmit, wire.Transmit{Card: card, SendLength: 1<<32 - 1}.Append(nil)
		}),
		"control too long": sendOwn(func(card int32) (wire.Command, []byte) {
			return wire.CmdControl, wire.Control{Card: card, SendLength: wire.MaxPayload + 1}.Append(nil)
		}),
		"attribute to get": sendOwn(func(card int32) (wire.Command, []byte) {
			return wire.CmdGetAttrib, (&wire.Attribute{Card: card, Length: 265}).Append(nil)
		}),
		"attribute to set": sendOwn(func(card int32) (wire.Command, []byte) {
			return wire.CmdSetAttrib, (&wire.Attribute{Card: card, Length: 265}).Append(nil)
		}),
		"too many waits": func(c *pcsctest.Client) error { return sendOften(c, maxRegistrations+1) },
		"foreign handle": func(c *pcsctest.Client) error { return c.Send(wire.CmdStatus, wire.Status{Card: 77}.Append(nil), nil) },
		"foreign card, ending": func(c *pcsctest.Client) error {
			return c.Send(wire.CmdEndTransaction, wire.End{Card: 77}.Append(nil), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFakeResources("A 00 00")
			s := startServer(t, r, ServerOptions{Limits: Limits{Penalty: time.Millisecond}})
			c := s.open(t, wire.Minor6)
			if err := send(c); err != nil {
				require.ErrorIs(t, err, syscall.EPIPE, "dropped before all was sent")
			}
			closed(t, c)
			s.connected(t, 0)
			require.Zero(t, r.open(), "the session is closed")
		})
	}
}

func sendHeader(c *pcsctest.Client, h wire.Header) error {
	_, err := c.Conn.Write(h.Append(nil))
	return err
}

// sendOwn sends a request about a handle of the client's own.
func sendOwn(request func(card int32) (wire.Command, []byte)) func(c *pcsctest.Client) error {
	return func(c *pcsctest.Client) error {
		m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
		if err != nil {
			return err
		}
		command, body := request(m.Card)
		return c.Send(command, body, nil)
	}
}

func sendOften(c *pcsctest.Client, n int) error {
	for range n {
		if err := c.Register(); err != nil {
			return err
		}
	}
	return nil
}

func TestNothingSharedWaitsForThePenalty(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{Limits: Limits{Penalty: time.Hour}})
	c := s.open(t, wire.Minor4)
	_, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	require.NoError(t, c.Send(wire.CmdStatus, wire.Status{Card: 4711}.Append(nil), nil))
	require.Eventually(t, func() bool { return r.open() == 0 }, pcsctest.Patience, time.Millisecond, "what the client had is given back at once")
	nothingComes(t, c)
	require.NoError(t, s.open(t, wire.Minor4).Release(), "others are served")
}

func TestWithoutAContextAHandleEndsTheConnectionAtOnce(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{Limits: Limits{Penalty: time.Hour}})
	c := s.dial(t)
	require.NoError(t, c.Send(wire.CmdStatus, wire.Status{Card: 1}.Append(nil), nil))
	closed(t, c)
	c = s.open(t, wire.Minor4)
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	require.NoError(t, c.Release())
	require.NoError(t, c.Send(wire.CmdStatus, wire.Status{Card: m.Card}.Append(nil), nil))
	closed(t, c)
}

func TestSilence(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{Limits: Limits{Silence: 500 * time.Millisecond}})
	withContext := s.open(t, wire.Minor4)
	silent := s.dial(t)
	closed(t, silent)
	released := s.open(t, wire.Minor4)
	require.NoError(t, released.Release())
	closed(t, released)
	nothingComes(t, withContext)
	require.NoError(t, withContext.Release(), "with a context a client may be silent for ever")
}

func TestAMessageMustBeCompletedInTime(t *testing.T) {
	limits := Limits{Message: 500 * time.Millisecond, Silence: time.Hour}
	for name, part := range map[string]func(card int32) []byte{
		"header": func(int32) []byte { return wire.Header{Size: 8, Command: wire.CmdStatus}.Append(nil)[:7] },
		"body":   func(int32) []byte { return wire.Header{Size: 8, Command: wire.CmdStatus}.Append(nil) },
		"payload": func(card int32) []byte {
			b := wire.Header{Size: wire.TransmitSize, Command: wire.CmdTransmit}.Append(nil)
			b = wire.Transmit{Card: card, SendPCI: wire.PCI{Protocol: wire.ProtocolT1}, SendLength: 10}.Append(b)
			return append(b, 1, 2, 3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, newFakeResources("A 00 00"), ServerOptions{Limits: limits})
			c := s.open(t, wire.Minor4)
			m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
			require.NoError(t, err)
			_, err = c.Conn.Write(part(m.Card))
			require.NoError(t, err)
			closed(t, c)
		})
	}
}

func TestLargeBuffersAreNotKept(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.open(t, wire.Minor4)
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	_, _, err = c.Transmit(m.Card, wire.ProtocolT1, make([]byte, 30000), 60000)
	require.NoError(t, err)
	var served *conn
	s.mu.Lock()
	for served = range s.conns {
	}
	s.mu.Unlock()
	require.NotNil(t, served)
	c.Close()
	s.connected(t, 0) // its goroutine has ended
	assert.LessOrEqual(t, cap(served.in)+cap(served.out), 2*keptBuffer)
}

func TestAMessageMayComeInPieces(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.open(t, wire.Minor4)
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	b := wire.Header{Size: wire.TransmitSize, Command: wire.CmdTransmit}.Append(nil)
	b = wire.Transmit{Card: m.Card, SendPCI: wire.PCI{Protocol: wire.ProtocolT1}, SendLength: 3, ReceiveLength: 10}.Append(b)
	for _, piece := range append(b, 1, 2, 3) {
		_, err := c.Conn.Write([]byte{piece})
		require.NoError(t, err)
	}
	reply, err := c.Receive(wire.TransmitSize + 6)
	require.NoError(t, err)
	assert.Equal(t, []byte{1, 2, 3, 1, 2, 3}, reply[wire.TransmitSize:])
	nothingComes(t, c)
	require.NoError(t, c.Release(), "the time for the message is over, not that for the next")
}

func TestAClientThatTakesNoRepliesIsDropped(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{Limits: Limits{Message: 500 * time.Millisecond}})
	c := s.open(t, wire.Minor4)
	// Written by a goroutine, since the server stops to read when it cannot write.
	go func() {
		for c.Send(wire.CmdGetReadersState, nil, nil) == nil {
		}
	}()
	s.connected(t, 0)
}

func TestAWaitingClientWithAFullSocketIsDroppedAndHoldsUpNobody(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{Limits: Limits{Message: time.Hour}})
	full := s.open(t, wire.Minor3)
	// One message after the other, none of which is read.
	ok := s.open(t, wire.Minor6)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for full.Register() == nil {
			r.change()
		}
	}()
	select {
	case <-gone:
	case <-time.After(pcsctest.Patience):
		t.Fatal("not dropped")
	}
	_, err := ok.Wait()
	require.NoError(t, err)
	r.change()
	require.NoError(t, ok.Signal(pcsctest.Patience))
}

func TestMoreThan300ClientsAreServed(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{})
	clients := make([]*pcsctest.Client, 350)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c, err := pcsctest.Open(s.path, wire.Minor6)
			if assert.NoError(t, err) {
				clients[i] = c
				_, err = c.Wait()
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	s.connected(t, len(clients))
	r.change()
	for _, c := range clients {
		require.NotNil(t, c)
		require.NoError(t, c.Signal(pcsctest.Patience))
		require.NoError(t, c.Release())
		c.Close()
	}
	s.connected(t, 0)
}

func TestTooManyConnectionsAreRefused(t *testing.T) {
	s := startServer(t, newFakeResources(), ServerOptions{Limits: Limits{Connections: 3, ConnectionsPerUser: 3}})
	var clients []*pcsctest.Client
	for range 3 {
		clients = append(clients, s.open(t, wire.Minor4))
	}
	closed(t, s.dial(t))
	_, served, refused := s.Clients()
	assert.EqualValues(t, 4, served)
	assert.EqualValues(t, 1, refused)
	clients[0].Close()
	s.connected(t, 2)
	require.NoError(t, s.open(t, wire.Minor4).Release())
}

func TestSilentConnectionsMakeRoom(t *testing.T) {
	s := startServer(t, newFakeResources(), ServerOptions{Limits: Limits{Connections: 5, ConnectionsPerUser: 5, Silence: time.Hour}})
	holder := s.open(t, wire.Minor4)
	var silent []*pcsctest.Client
	for i := range 4 {
		silent = append(silent, s.dial(t))
		s.connected(t, 2+i)
	}
	for range 4 {
		c := s.open(t, wire.Minor4)
		closed(t, silent[0]) // the one that has been silent longest
		silent = silent[1:]
		require.NoError(t, c.Release())
		c.Close()
		s.connected(t, 1+len(silent))
		silent = append(silent, s.dial(t))
		s.connected(t, 1+len(silent))
	}
	require.NoError(t, holder.Release(), "who has a context keeps it")
}

func TestOneUserDoesNotTakeAllConnections(t *testing.T) {
	s := newServer(newFakeResources(), ServerOptions{Limits: Limits{Connections: 8}})
	s.user(1000).connections = 6
	assert.False(t, s.makeRoom(1000))
	assert.True(t, s.makeRoom(1001))
	s.user(0).connections = 7
	assert.True(t, s.makeRoom(0), "root is not bounded")
}

func TestLimitsHaveDefaults(t *testing.T) {
	l := Limits{}.withDefaults()
	assert.Equal(t, Limits{
		Connections: 1024, ConnectionsPerUser: 768, Silence: time.Minute, Message: 10 * time.Second, Penalty: 2 * time.Second,
		Authorization: 2 * time.Minute,
	}, l)
	assert.Equal(t, 3, Limits{Connections: 3}.withDefaults().ConnectionsPerUser)
}

func TestHangUpEndsACallThatWaits(t *testing.T) {
	r := newFakeResources("A 00 00")
	r.block = make(chan struct{})
	s := startServer(t, r, ServerOptions{})
	for _, pipelined := range []bool{false, true} {
		c := s.open(t, wire.Minor4)
		request := wire.Connect{Context: c.Context, Reader: "A 00 00", ShareMode: wire.Shared, PreferredProtocols: wire.ProtocolAny}
		require.NoError(t, c.Send(wire.CmdConnect, request.Append(nil), nil))
		if pipelined {
			require.NoError(t, c.Send(wire.CmdStatus, nil, nil))
		}
		nothingComes(t, c) // long enough for the server to look
		require.NoError(t, c.Close())
		select {
		case <-r.last().ended:
		case <-time.After(pcsctest.Patience):
			t.Fatal("the call goes on without its client")
		}
	}
	s.connected(t, 0)
}

func TestRequestsSentDuringACallAreNotLost(t *testing.T) {
	r := newFakeResources("A 00 00")
	block := make(chan struct{})
	r.block = block
	s := startServer(t, r, ServerOptions{})
	c := s.open(t, wire.Minor4)
	request := wire.Connect{Context: c.Context, Reader: "A 00 00", ShareMode: wire.Shared, PreferredProtocols: wire.ProtocolAny}
	require.NoError(t, c.Send(wire.CmdConnect, request.Append(nil), nil))
	nothingComes(t, c)
	require.NoError(t, c.Send(wire.CmdGetReaderEvents, nil, nil))
	nothingComes(t, c)
	require.NoError(t, c.Conn.CloseWrite(), "a client that only stops sending is still there")
	nothingComes(t, c)
	close(block)
	b, err := c.Receive(wire.ConnectSize + wire.ReaderEventsSize)
	require.NoError(t, err)
	m, err := wire.ParseConnect(b[:wire.ConnectSize])
	require.NoError(t, err)
	assert.Equal(t, wire.Success, m.Code)
	assert.Equal(t, wire.ReaderEvents{Count: 7}.Append(nil), b[wire.ConnectSize:])
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	now := time.Unix(1000, 0)
	r := newRefusals(log, func() time.Time { return now })
	for range 1000 {
		r.warn(Client{PID: 7}, "refused")
	}
	assert.Equal(t, refusalBurst, bytes.Count(out.Bytes(), []byte("\n")))
	out.Reset()
	now = now.Add(refusalInterval)
	r.warn(Client{PID: 7, Executable: "/bin/flood"}, "refused")
	assert.Contains(t, out.String(), "not_logged=990")
	assert.Contains(t, out.String(), "executable=/bin/flood")
}

func TestShutDownTellsWaitingClients(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{})
	waiting, idle := s.open(t, wire.Minor6), s.open(t, wire.Minor4)
	_, err := waiting.Wait()
	require.NoError(t, err)
	s.stop()
	require.ErrorIs(t, waiting.Signal(pcsctest.Patience), wire.ErrServiceStopped)
	closed(t, waiting)
	closed(t, idle)
	err = <-s.result
	s.result <- err
	require.NoError(t, err)
	assert.Zero(t, r.open(), "all sessions are closed when Serve returns")
}

func TestShutDownEndsCallsAndPenalties(t *testing.T) {
	r := newFakeResources("A 00 00")
	r.block = make(chan struct{})
	s := startServer(t, r, ServerOptions{Limits: Limits{Penalty: time.Hour}})
	c := s.open(t, wire.Minor4)
	request := wire.Connect{Context: c.Context, Reader: "A 00 00", ShareMode: wire.Shared, PreferredProtocols: wire.ProtocolAny}
	require.NoError(t, c.Send(wire.CmdConnect, request.Append(nil), nil))
	punished := s.open(t, wire.Minor4)
	require.NoError(t, punished.Send(wire.CmdStatus, wire.Status{Card: 4711}.Append(nil), nil))
	s.stop()
	require.NoError(t, <-s.result)
	s.result <- nil
}

func TestServeTakesOnlyUNIXSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	require.ErrorContains(t, newServer(newFakeResources(), ServerOptions{}).Serve(t.Context(), l), "UNIX socket")
}

func TestAutoExitWhenNobodyEverCame(t *testing.T) {
	s := startServer(t, newFakeResources(), ServerOptions{AutoExit: 20 * time.Millisecond})
	err := <-s.result
	s.result <- err
	require.ErrorIs(t, err, ErrIdle)
}

func TestAutoExitAfterTheLastClient(t *testing.T) {
	const delay = 300 * time.Millisecond
	s := startServer(t, newFakeResources(), ServerOptions{AutoExit: delay})
	first, second := s.open(t, wire.Minor4), s.open(t, wire.Minor4)
	first.Close()
	s.connected(t, 1)
	assert.Zero(t, s.Idle())
	select {
	case <-s.result:
		t.Fatal("exit under a client")
	case <-time.After(2 * delay):
	}
	second.Close()
	closedAt := time.Now()
	err := <-s.result
	s.result <- err
	require.ErrorIs(t, err, ErrIdle)
	assert.GreaterOrEqual(t, time.Since(closedAt), delay)
	assert.GreaterOrEqual(t, s.Idle(), delay)
}

// A client either is served, or stays in the queue of the listener for the next daemon; here the next Serve is that.
func TestAutoExitLosesNoClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int)
	go func() {
		exits := 0
		for ctx.Err() == nil {
			if newServer(newFakeResources(), ServerOptions{AutoExit: time.Millisecond}).Serve(ctx, l) != nil {
				exits++
			}
		}
		ended <- exits
	}()
	for i := range 300 {
		c, err := pcsctest.Open(path, wire.Minor6)
		require.NoError(t, err, "client %d", i)
		require.NoError(t, c.Release())
		c.Close()
		time.Sleep(time.Duration(i%5) * 500 * time.Microsecond) // lands the next client around the decision
	}
	cancel()
	assert.NotZero(t, <-ended)
}

// hidden are a listener's options whose Hide has a client connect just before, at its first call.
func hidden(t *testing.T, path string, o ServerOptions) (_ ServerOptions, hides, shows *atomic.Int32, late chan *pcsctest.Client) {
	t.Helper()
	hides, shows, late = new(atomic.Int32), new(atomic.Int32), make(chan *pcsctest.Client, 1)
	o.Hide = func() func() {
		if hides.Add(1) == 1 {
			c, err := pcsctest.Dial(path)
			assert.NoError(t, err)
			late <- c
		}
		return func() { shows.Add(1) }
	}
	return o, hides, shows, late
}

func TestAClientThatWasFasterThanHidePutsTheAutomaticExitOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	o, hides, shows, late := hidden(t, path, ServerOptions{AutoExit: 20 * time.Millisecond})
	ended := make(chan error, 1)
	go func() { ended <- newServer(newFakeResources(), o).Serve(t.Context(), l) }()
	c := <-late
	_, err = c.Handshake(wire.MajorVersion, wire.Minor5)
	require.NoError(t, err, "it is served")
	require.Eventually(t, func() bool { return shows.Load() == 1 }, pcsctest.Patience, time.Millisecond, "and others find the socket again")
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-ended, ErrIdle)
	require.EqualValues(t, 2, hides.Load())
	require.EqualValues(t, 1, shows.Load())
}

func TestNobodyIsLeftInTheQueueOfAHiddenSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	o, _, shows, late := hidden(t, path, ServerOptions{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- newServer(newFakeResources(), o).Serve(ctx, l) }()
	stop()
	c := <-late
	defer c.Close()
	require.NoError(t, <-ended)
	require.NoError(t, c.Conn.SetReadDeadline(time.Now().Add(pcsctest.Patience)))
	_, err = c.Conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "its connection ends while the listener is still open")
	require.Zero(t, shows.Load())
}

// BenchmarkTransmitOverTheSocket is the server's share of an exchange: a card that answers at once.
func BenchmarkTransmitOverTheSocket(b *testing.B) {
	s := startServer(b, newFakeResources("A 00 00"), ServerOptions{})
	c := s.open(b, wire.Minor6)
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(b, err)
	command := []byte{0, 0xB0, 0, 0, 4}
	for b.Loop() {
		if _, _, err := c.Transmit(m.Card, wire.ProtocolT1, command, 258); err != nil {
			b.Fatal(err)
		}
	}
}
