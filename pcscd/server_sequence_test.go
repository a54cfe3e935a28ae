package pcscd

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// quiet is how long tests listen for a message that must not come.
const quiet = 50 * time.Millisecond

func asNet[T error](err error, target *T) bool { return errors.As(err, target) }

// nothingComes demands that no message is on its way: what comes next is the reply to a request.
func nothingComes(t *testing.T, c *pcsctest.Client) {
	t.Helper()
	require.ErrorIs(t, c.Signal(quiet), os.ErrDeadlineExceeded)
}

// inStep demands that the connection has not lost step: a request with a reply of 8 bytes of a known value.
func inStep(t *testing.T, c *pcsctest.Client) {
	t.Helper()
	n, err := c.ReaderEvents()
	require.NoError(t, err)
	require.EqualValues(t, 7, n)
}

var minors = []int32{wire.Minor3, wire.Minor4, wire.Minor5, wire.Minor6}

func eachMinor(t *testing.T, test func(t *testing.T, minor int32)) {
	for _, minor := range minors {
		t.Run("4:"+string(rune('0'+minor)), func(t *testing.T) { test(t, minor) })
	}
}

func TestHandshakeAnswersInTheClientsVersion(t *testing.T) {
	s := startServer(t, newFakeResources(), ServerOptions{})
	for _, tc := range []struct {
		major, minor int32
		want         wire.Version
	}{
		{4, 2, wire.Version{Major: 4, Minor: 6, Code: wire.ErrServiceStopped}},
		{4, 3, wire.Version{Major: 4, Minor: 3}},
		{4, 4, wire.Version{Major: 4, Minor: 4}},
		{4, 5, wire.Version{Major: 4, Minor: 5}},
		{4, 6, wire.Version{Major: 4, Minor: 6}},
		{4, 7, wire.Version{Major: 4, Minor: 6, Code: wire.ErrServiceStopped}},
		{3, 4, wire.Version{Major: 4, Minor: 6, Code: wire.ErrServiceStopped}},
		{5, 0, wire.Version{Major: 4, Minor: 6, Code: wire.ErrServiceStopped}},
		{-1, -1, wire.Version{Major: 4, Minor: 6, Code: wire.ErrServiceStopped}},
	} {
		c := s.dial(t)
		got, _ := c.Handshake(tc.major, tc.minor)
		assert.Equal(t, tc.want, got, "%d:%d", tc.major, tc.minor)
		again, err := c.Handshake(4, 4)
		require.NoError(t, err, "the connection stays after %d:%d", tc.major, tc.minor)
		assert.Equal(t, wire.Version{Major: 4, Minor: 4}, again)
	}
}

func TestHandshakeIsOptional(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.dial(t)
	_, err := c.Establish(wire.ScopeSystem)
	require.NoError(t, err)
	table, err := c.Wait() // as 4:4
	require.NoError(t, err)
	require.Len(t, table, 1)
	require.NoError(t, c.Stop())
	require.NoError(t, c.Release())
}

func TestSignalComesOnceForEachWait(t *testing.T) {
	eachMinor(t, func(t *testing.T, minor int32) {
		r := newFakeResources("A 00 00")
		s := startServer(t, r, ServerOptions{})
		c := s.open(t, minor)
		for range 3 {
			_, err := c.Wait()
			require.NoError(t, err)
			nothingComes(t, c)
			r.change()
			r.change()
			require.NoError(t, c.Signal(pcsctest.Patience))
			r.change()
			nothingComes(t, c)
			require.NoError(t, c.Send(wire.CmdStopWaiting, c43Body(minor), nil))
			nothingComes(t, c)
			inStep(t, c)
		}
	})
}

// c43Body is the body of STOP and WAIT in 4:3.
func c43Body(minor int32) []byte {
	if minor == wire.Minor3 {
		return make([]byte, wire.SignalSize)
	}
	return nil
}

func TestStopGetsOneReply(t *testing.T) {
	eachMinor(t, func(t *testing.T, minor int32) {
		r := newFakeResources("A 00 00")
		s := startServer(t, r, ServerOptions{})
		c := s.open(t, minor)
		_, err := c.Wait()
		require.NoError(t, err)
		require.NoError(t, c.Stop())
		r.change()
		nothingComes(t, c)
		inStep(t, c)
	})
}

func TestTimeOutSequenceOfTheLibrary(t *testing.T) {
	eachMinor(t, func(t *testing.T, minor int32) {
		r := newFakeResources("A 00 00")
		s := startServer(t, r, ServerOptions{})
		c := s.open(t, minor)
		for range 2 { // SCardGetStatusChange: WAIT, time-out, STOP, WAIT, evaluate, STOP
			_, err := c.Wait()
			require.NoError(t, err)
			require.NoError(t, c.Stop())
			_, err = c.Wait()
			require.NoError(t, err)
			require.NoError(t, c.Stop())
		}
		inStep(t, c)
		require.NoError(t, c.Release())
	})
}

func TestSignalWaitsUntilTheNewTableIsFetched(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{})
	c := s.open(t, wire.Minor6)
	require.NoError(t, c.Register())
	r.set(named("A 00 00", "B 00 00"))
	nothingComes(t, c)
	n, err := c.TableSize()
	require.NoError(t, err)
	require.Equal(t, 16, n)
	r.set(named("A 00 00", "C 00 00"))
	nothingComes(t, c)
	table, err := c.Array(n)
	require.NoError(t, err)
	require.Equal(t, "C 00 00", table[1].Name)
	nothingComes(t, c) // the client has seen it all
	r.change()
	require.NoError(t, c.Signal(pcsctest.Patience))
	inStep(t, c)
}

func TestCancelBeforeTheNewTableIsFetchedComesAfterIt(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.open(t, wire.Minor6)
	require.NoError(t, c.Register())
	n, err := c.TableSize()
	require.NoError(t, err)
	require.NoError(t, s.dial(t).Cancel(c.Context))
	nothingComes(t, c)
	_, err = c.Array(n)
	require.NoError(t, err)
	require.ErrorIs(t, c.Signal(pcsctest.Patience), wire.ErrCancelled)
	inStep(t, c)
}

func TestChangesAreNotLostBetweenTheOldTableAndTheWait(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{})
	c := s.open(t, wire.Minor3)
	_, err := c.OldTable()
	require.NoError(t, err)
	r.change()
	require.NoError(t, c.Register())
	require.NoError(t, c.Signal(pcsctest.Patience))
	inStep(t, c)
}

func TestCancelEndsAWait(t *testing.T) {
	eachMinor(t, func(t *testing.T, minor int32) {
		r := newFakeResources("A 00 00")
		s := startServer(t, r, ServerOptions{})
		c := s.open(t, minor)
		_, err := c.Wait()
		require.NoError(t, err)
		inStep(t, c) // 4:3 gets no answer to a wait
		require.NoError(t, s.dial(t).Cancel(c.Context))
		require.ErrorIs(t, c.Signal(pcsctest.Patience), wire.ErrCancelled)
		r.change()
		nothingComes(t, c)
		inStep(t, c)
	})
}

func TestCancelOfAContextThatDoesNotWaitSucceeds(t *testing.T) {
	s := startServer(t, newFakeResources(), ServerOptions{})
	c := s.open(t, wire.Minor6)
	require.NoError(t, s.dial(t).Cancel(c.Context))
	require.ErrorIs(t, s.dial(t).Cancel(c.Context+1), wire.ErrInvalidHandle)
	_, err := c.Wait()
	require.NoError(t, err)
	nothingComes(t, c)
	require.NoError(t, c.Stop())
	require.NoError(t, c.Release())
	require.ErrorIs(t, s.dial(t).Cancel(c.Context), wire.ErrInvalidHandle)
}

func TestOnlyTheSameUserAndRootMayCancel(t *testing.T) {
	s := newServer(newFakeResources(), ServerOptions{})
	owner := &conn{server: s, client: Client{UID: 1000}}
	s.conns[owner] = struct{}{}
	s.setContext(owner, 42)
	for uid, want := range map[uint32]wire.Code{0: wire.Success, 1000: wire.Success, 1001: wire.ErrInvalidHandle} {
		assert.Equal(t, want, s.cancel(Client{UID: uid}, 42), "uid %d", uid)
	}
}

func TestRepliesComeInOnePiece(t *testing.T) {
	s := startServer(t, newFakeResources(many(16)...), ServerOptions{})
	c := s.dial(t)
	for _, tc := range []struct {
		command wire.Command
		body    []byte
		want    int
	}{
		{wire.CmdVersion, wire.Version{Major: 4, Minor: 4}.Append(nil), 12},
		{wire.CmdEstablishContext, wire.Establish{}.Append(nil), 12},
		{wire.CmdGetReadersState, nil, 2944},
		{wire.CmdWait, nil, 2944},
		{wire.CmdStopWaiting, nil, 8},
		{wire.CmdGetReadersStateArray, nil, 2944},
	} {
		require.NoError(t, c.Send(tc.command, tc.body, nil))
		b, err := c.ReadOnce(10000)
		require.NoError(t, err)
		assert.Len(t, b, tc.want, tc.command)
	}
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.Error(t, err) // Context was not set by Establish
	c.Context = 1
	m, err = c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	require.NoError(t, c.Send(wire.CmdTransmit, wire.Transmit{
		Card: m.Card, SendPCI: wire.PCI{Protocol: wire.ProtocolT1}, SendLength: 1000, ReceiveLength: 3000,
	}.Append(nil), make([]byte, 1000)))
	b, err := c.ReadOnce(10000)
	require.NoError(t, err)
	assert.Len(t, b, wire.TransmitSize+2000)
}

func TestOldClientsSeeTheFirstSixteenReaders(t *testing.T) {
	s := startServer(t, newFakeResources(many(20)...), ServerOptions{})
	for _, minor := range []int32{wire.Minor3, wire.Minor4, wire.Minor5} {
		table, err := s.open(t, minor).Wait()
		require.NoError(t, err)
		require.Len(t, table, 16)
		assert.Equal(t, "Reader 0F 00", table[15].Name)
	}
}

func TestNewTableGrowsInStepsAndNeverShrinks(t *testing.T) {
	r := newFakeResources()
	s := startServer(t, r, ServerOptions{})
	c := s.open(t, wire.Minor6)
	for _, step := range []struct{ readers, size int }{{0, 16}, {16, 16}, {17, 32}, {16, 32}, {33, 48}, {1, 48}, {100, 112}, {0, 112}} {
		r.set(named(many(step.readers)...))
		n, err := c.TableSize()
		require.NoError(t, err)
		require.Equal(t, step.size, n, "%d readers", step.readers)
		table, err := c.Array(n)
		require.NoError(t, err)
		require.Len(t, table, step.readers)
	}
	other := s.open(t, wire.Minor6)
	n, err := other.TableSize()
	require.NoError(t, err)
	assert.Equal(t, 112, n, "all contexts of a process share one array")
}

func TestNewTableHasTheAnnouncedLengthAlsoWhenReadersCame(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{})
	c := s.open(t, wire.Minor6)
	require.NoError(t, c.Register())
	n, err := c.TableSize()
	require.NoError(t, err)
	r.set(named(many(20)...))
	table, err := c.Array(n)
	require.NoError(t, err)
	require.Len(t, table, 16)
	// The client knows too little of this table, so it is told to come again.
	require.NoError(t, c.Signal(pcsctest.Patience))
	table, err = c.Wait()
	require.NoError(t, err)
	require.Len(t, table, 20)
	nothingComes(t, c)
	require.NoError(t, c.Stop())
	inStep(t, c)
}

func TestNewTableWithoutAnAnnouncementHasTheSmallestLength(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.open(t, wire.Minor6)
	table, err := c.Array(16)
	require.NoError(t, err)
	require.Len(t, table, 1)
	inStep(t, c)
}

func TestTableWaitsForTheFirstStatusOfReaders(t *testing.T) {
	r := newFakeResources()
	ready := make(chan struct{})
	r.setReady(ready)
	s := startServer(t, r, ServerOptions{})
	c := s.open(t, wire.Minor4)
	require.NoError(t, c.Register())
	nothingComes(t, c)
	r.set(named("A 00 00"))
	close(ready)
	b, err := c.Receive(wire.OldTableLen * wire.ReaderStateSize)
	require.NoError(t, err)
	table, err := wire.ParseTable(b)
	require.NoError(t, err)
	require.Equal(t, "A 00 00", table[0].Name)
}

func TestTableHasNoReaderWhoseStatusIsNotKnown(t *testing.T) {
	r := newFakeResources()
	r.set([]wire.ReaderState{{Name: "A 00 00"}, {Name: "B 00 00", Known: true}})
	s := startServer(t, r, ServerOptions{})
	eachMinor(t, func(t *testing.T, minor int32) {
		table, err := s.open(t, minor).Readers()
		require.NoError(t, err)
		require.Len(t, table, 1)
		require.Equal(t, "B 00 00", table[0].Name)
	})
}

func TestReaderEventsAreAnsweredBeforeTheSignal(t *testing.T) {
	r := newFakeResources("A 00 00")
	s := startServer(t, r, ServerOptions{})
	c := s.open(t, wire.Minor5)
	_, err := c.Wait()
	require.NoError(t, err)
	inStep(t, c)
	r.change()
	require.NoError(t, c.Signal(pcsctest.Patience))
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.dial(t)
	var all []byte
	request := func(command wire.Command, body []byte) {
		all = append(wire.Header{Size: uint32(len(body)), Command: command}.Append(all), body...)
	}
	request(wire.CmdVersion, wire.Version{Major: 4, Minor: 6}.Append(nil))
	request(wire.CmdEstablishContext, wire.Establish{}.Append(nil))
	request(wire.CmdWait, nil)
	request(wire.CmdGetReadersStateSize, nil)
	request(wire.CmdGetReadersStateArray, nil)
	request(wire.CmdStopWaiting, nil)
	request(wire.CmdGetReaderEvents, nil)
	_, err := c.Conn.Write(all)
	require.NoError(t, err)
	b, err := c.Receive(12 + 12 + 4 + 16*wire.ReaderStateSize + 8 + 8)
	require.NoError(t, err)
	assert.Equal(t, wire.ReaderEvents{Count: 7}.Append(nil), b[len(b)-8:])
	assert.Equal(t, make([]byte, 8), b[len(b)-16:len(b)-8])
}

func TestWhatTheCardCallsCarry(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.open(t, wire.Minor4)
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	assert.Equal(t, wire.ProtocolT1, m.ActiveProtocol)
	require.ErrorIs(t, c.Status(m.Card), wire.ErrResetCard)
	active, err := c.Reconnect(m.Card, wire.Exclusive, wire.ProtocolT0, wire.ResetCard)
	require.NoError(t, err)
	assert.Equal(t, wire.ProtocolT0, active)
	require.NoError(t, c.Begin(m.Card))
	require.NoError(t, c.End(m.Card, wire.LeaveCard))
	require.ErrorIs(t, c.End(m.Card, wire.EjectCard), wire.ErrUnsupportedFeature)

	response, reply, err := c.Transmit(m.Card, wire.ProtocolT1, []byte{1, 2}, 258)
	require.NoError(t, err)
	assert.Equal(t, []byte{1, 2, 1, 2}, response)
	assert.Equal(t, wire.PCI{Protocol: wire.ProtocolAny, Length: 16}, reply.ReceivePCI, "echoed")
	_, reply, err = c.Transmit(m.Card, wire.ProtocolT1, []byte{1, 2}, 3)
	require.ErrorIs(t, err, wire.ErrInsufficientBuffer)
	assert.EqualValues(t, 4, reply.ReceiveLength, "the true length, without a payload")
	_, reply, err = c.Transmit(m.Card, wire.ProtocolT0, []byte{1, 2}, 258)
	require.ErrorIs(t, err, wire.ErrNotTransacted)
	assert.Zero(t, reply.ReceiveLength)
	response, _, err = c.Transmit(m.Card, wire.ProtocolT1, nil, 258)
	require.NoError(t, err)
	assert.Empty(t, response)
	half := make([]byte, wire.MaxPayload/2)
	response, _, err = c.Transmit(m.Card, wire.ProtocolT1, half, 1<<31)
	require.NoError(t, err)
	assert.Len(t, response, wire.MaxPayload)
	_, _, err = c.Transmit(m.Card, wire.ProtocolT1, make([]byte, wire.MaxPayload), 1<<31)
	require.ErrorIs(t, err, wire.ErrInternalError, "an answer too long for the protocol")

	out, control, err := c.Control(m.Card, 0x42000001, []byte{9}, 2)
	require.NoError(t, err)
	assert.Equal(t, []byte{9, 1}, out)
	assert.EqualValues(t, 2, control.Returned)
	_, control, err = c.Control(m.Card, 0x42000001, []byte{9}, 1)
	require.ErrorIs(t, err, wire.ErrInsufficientBuffer)
	assert.EqualValues(t, 2, control.Returned)

	value, attribute, err := c.GetAttrib(m.Card, 3)
	require.NoError(t, err)
	assert.Equal(t, []byte{1, 2, 3}, value)
	assert.Equal(t, make([]byte, 261), attribute.Data[3:])
	_, attribute, err = c.GetAttrib(m.Card, 265)
	require.ErrorIs(t, err, wire.ErrInsufficientBuffer)
	assert.EqualValues(t, 265, attribute.Length)
	_, _, err = c.GetAttrib(m.Card, 2000)
	require.ErrorIs(t, err, wire.ErrUnsupportedFeature)
	require.NoError(t, c.SetAttrib(m.Card, 3, []byte{1}))
	require.ErrorIs(t, c.SetAttrib(m.Card, 3, nil), wire.ErrInvalidParameter)

	require.NoError(t, c.Disconnect(m.Card, wire.LeaveCard))
	require.NoError(t, c.Release())
	require.ErrorIs(t, c.Release(), wire.ErrInvalidHandle)
	_, err = c.Establish(wire.ScopeUser)
	require.NoError(t, err, "the connection survives a release")
}
