package pcscd

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// exchange is a request and the length of its reply, 0 for none.
type exchange struct {
	command wire.Command
	body    []byte
	reply   int
}

// play sends requests as a library does and demands that each reply has its length, and that nothing else comes.
func play(t *testing.T, c *pcsctest.Client, sequence []exchange) {
	t.Helper()
	for i, e := range sequence {
		require.NoError(t, c.Send(e.command, e.body, nil), "%d: %v", i, e.command)
		_, err := c.Receive(e.reply)
		require.NoError(t, err, "%d: %v", i, e.command)
	}
	nothingComes(t, c)
	require.NoError(t, c.Release(), "still in step")
}

// The sequences that strace showed of the libraries (opensc-tool -l, pcsc_scan), with the lengths of their replies.
func TestSequencesOfTheLibraries(t *testing.T) {
	const oldTable = wire.OldTableLen * wire.ReaderStateSize
	table := exchange{wire.CmdGetReadersState, nil, oldTable}
	oldBody := wire.Signal{}.Append(nil)
	for name, tc := range map[string]struct {
		minor    int32
		sequence func(card int32) []exchange
	}{
		"1.8.23": {wire.Minor3, func(int32) []exchange {
			return []exchange{
				table, table,
				table,
				{wire.CmdWait, oldBody, 0},
				{wire.CmdStopWaiting, oldBody, 8},
				table,
				{wire.CmdWait, oldBody, 0},
				{wire.CmdStopWaiting, oldBody, 8},
			}
		}},
		"1.9.9": {wire.Minor4, func(card int32) []exchange {
			return []exchange{
				table, table,
				{wire.CmdWait, nil, oldTable},
				{wire.CmdStopWaiting, nil, 8},
				{wire.CmdControl, wire.Control{Card: card, ControlCode: wire.ControlGetFeatureRequest, ReceiveLength: 1}.Append(nil), wire.ControlSize + 1},
				{wire.CmdDisconnect, wire.Disconnect{Card: card}.Append(nil), 12},
				{wire.CmdWait, nil, oldTable},
				{wire.CmdStopWaiting, nil, 8},
				{wire.CmdWait, nil, oldTable},
				{wire.CmdStopWaiting, nil, 8},
			}
		}},
		"2.3.3": {wire.Minor5, func(int32) []exchange {
			return []exchange{
				{wire.CmdWait, nil, oldTable},
				{wire.CmdGetReaderEvents, nil, 8},
				{wire.CmdStopWaiting, nil, 8},
				{wire.CmdWait, nil, oldTable},
				{wire.CmdGetReaderEvents, nil, 8},
				{wire.CmdStopWaiting, nil, 8},
			}
		}},
		"2.5.1": {wire.Minor6, func(int32) []exchange {
			round := []exchange{
				{wire.CmdWait, nil, 0},
				{wire.CmdGetReadersStateSize, nil, 4},
				{wire.CmdGetReadersStateArray, nil, oldTable},
				{wire.CmdGetReaderEvents, nil, 8},
				{wire.CmdStopWaiting, nil, 8},
			}
			return append(append([]exchange{{wire.CmdGetReadersStateSize, nil, 4}, {wire.CmdGetReadersStateArray, nil, oldTable}}, round...), round...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, newFakeResources("A 00 00", "B 00 00"), ServerOptions{})
			c := s.open(t, tc.minor)
			m, err := c.Connect("A 00 00", wire.Direct, wire.ProtocolUndefined)
			require.NoError(t, err)
			play(t, c, tc.sequence(m.Card))
		})
	}
}

// github.com/gballet/go-libpcsclite (go-ethereum, Status): tries 4:3 first and takes only a reply of the same minor;
// reads replies by a single Read; sends always protocol 2 with a PCI of 8 bytes.
func TestGoLibpcscliteClient(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00", "B 00 00"), ServerOptions{})
	c := s.dial(t)
	once := func(command wire.Command, body []byte, n int) []byte {
		require.NoError(t, c.Send(command, body, nil))
		b, err := c.ReadOnce(n)
		require.NoError(t, err)
		require.Len(t, b, n)
		return b
	}
	version := wire.Version{Major: 4, Minor: 3}.Append(nil)
	require.Equal(t, version, once(wire.CmdVersion, version, wire.VersionSize))
	established, err := wire.ParseEstablish(once(wire.CmdEstablishContext, wire.Establish{Scope: wire.ScopeSystem}.Append(nil), wire.EstablishSize))
	require.NoError(t, err)
	table, err := wire.ParseTable(once(wire.CmdGetReadersState, nil, wire.OldTableLen*wire.ReaderStateSize))
	require.NoError(t, err)
	assert.Equal(t, "A 00 00", table[0].Name)
	assert.Equal(t, "B 00 00", table[1].Name)
	assert.Empty(t, table[2].Name)
	connected, err := wire.ParseConnect(once(wire.CmdConnect, wire.Connect{
		Context: established.Context, Reader: "A 00 00", ShareMode: wire.Shared, PreferredProtocols: wire.ProtocolAny,
	}.Append(nil), wire.ConnectSize))
	require.NoError(t, err)
	require.NoError(t, c.Send(wire.CmdTransmit, wire.Transmit{
		Card: connected.Card, SendPCI: wire.PCI{Protocol: wire.ProtocolT1, Length: 8}, SendLength: 2,
		ReceivePCI: wire.PCI{Protocol: wire.ProtocolT1, Length: 8}, ReceiveLength: 1024,
	}.Append(nil), []byte{0x80, 0xF2}))
	b, err := c.Receive(wire.TransmitSize + 4)
	require.NoError(t, err)
	assert.Equal(t, []byte{0x80, 0xF2, 0x80, 0xF2}, b[wire.TransmitSize:])
}

// github.com/sf1/go-card: no handshake, the table in a single Read again and again, disconnects with a reset.
func TestGoCardClient(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{})
	c := s.dial(t)
	_, err := c.Establish(wire.ScopeUser)
	require.NoError(t, err)
	for range 5 {
		require.NoError(t, c.Send(wire.CmdGetReadersState, nil, nil))
		b, err := c.ReadOnce(1 << 16)
		require.NoError(t, err)
		require.Len(t, b, 2944)
	}
	m, err := c.Connect("A 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	require.NoError(t, c.Disconnect(m.Card, wire.ResetCard))
	require.NoError(t, c.Release())
}

// paepckehh/pcscid adapts to the version that it is answered, and closes in whatever state it is.
func TestClientThatLeavesInTheMiddleOfAWait(t *testing.T) {
	eachMinor(t, func(t *testing.T, minor int32) {
		r := newFakeResources("A 00 00")
		s := startServer(t, r, ServerOptions{})
		c := s.open(t, minor)
		_, err := c.Wait()
		require.NoError(t, err)
		c.Close()
		s.connected(t, 0)
		r.change()
		require.Zero(t, r.open())
	})
}
