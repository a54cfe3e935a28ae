// Package pcsctest has a small client of pcsc-lite's socket protocol for tests: one connection that speaks the version
// it is told to, sends what the libraries of that version send, and can send anything else.
package pcsctest

import (
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/goccid/goccid/pcscd/wire"
)

// Patience is how long a Client waits for a reply before it gives up, and the test with it.
const Patience = 30 * time.Second

// Client is one connection to a daemon. It is for one goroutine at a time.
//
// Methods return a wire.Code as error when the daemon answered with one, and another error when it did not answer.
type Client struct {
	// Conn is the connection, for tests that break the protocol.
	Conn *net.UnixConn
	// Minor is the version that WAIT and STOP are sent in; Handshake sets it.
	Minor int32
	// Context is the number that Establish got.
	Context uint32
}

// Dial connects to a socket. No handshake is made.
func Dial(path string) (*Client, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &Client{Conn: conn}, nil
}

// Open connects, makes the handshake and establishes a context, as a library of the version 4:minor does.
func Open(path string, minor int32) (*Client, error) {
	c, err := Dial(path)
	if err != nil {
		return nil, err
	}
	if err := c.open(minor); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) open(minor int32) error {
	v, err := c.Handshake(wire.MajorVersion, minor)
	if err != nil {
		return err
	}
	if v.Minor != minor {
		return fmt.Errorf("asked for 4:%d, got %d:%d", minor, v.Major, v.Minor)
	}
	_, err = c.Establish(wire.ScopeSystem)
	return err
}

// Close closes the connection.
func (c *Client) Close() error { return c.Conn.Close() }

// Send sends a request: header, body and payload in one write each, as the libraries do.
func (c *Client) Send(command wire.Command, body, payload []byte) error {
	parts := [][]byte{wire.Header{Size: uint32(len(body)), Command: command}.Append(nil), body, payload}
	for _, part := range parts {
		if len(part) == 0 {
			continue
		}
		if _, err := c.Conn.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// maxReply bounds what is read at once: a client that is out of step takes anything for a length.
const maxReply = 1 << 20

// Receive reads exactly n bytes, at most 1 MiB.
func (c *Client) Receive(n int) ([]byte, error) { return c.receiveWithin(n, Patience) }

func (c *Client) receiveWithin(n int, d time.Duration) ([]byte, error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return nil, err
	}
	if n < 0 || n > maxReply {
		return nil, fmt.Errorf("a reply of %d bytes is not read, only up to %d", n, maxReply)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(c.Conn, b)
	return b, err
}

// ReadOnce does one Read into n bytes, as clients do that rely on replies that come in one piece.
func (c *Client) ReadOnce(n int) ([]byte, error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	got, err := c.Conn.Read(b)
	return b[:got], err
}

// exchange sends a request and reads a reply of n bytes.
func (c *Client) exchange(command wire.Command, body []byte, n int) ([]byte, error) {
	if err := c.Send(command, body, nil); err != nil {
		return nil, err
	}
	return c.Receive(n)
}

// call is an exchange whose reply is as long as the request and is parsed.
func call[M any](c *Client, command wire.Command, body []byte, parse func([]byte) (M, error)) (M, error) {
	b, err := c.exchange(command, body, len(body))
	if err != nil {
		var none M
		return none, err
	}
	return parse(b)
}

// result is the error of a reply: that of the exchange, or the code.
func result(code wire.Code, err error) error {
	if err != nil {
		return err
	}
	return code.Err()
}

// Handshake tells the daemon a version and returns what it answered, also with an error code.
func (c *Client) Handshake(major, minor int32) (wire.Version, error) {
	m, err := call(c, wire.CmdVersion, wire.Version{Major: major, Minor: minor}.Append(nil), wire.ParseVersion)
	if err = result(m.Code, err); err == nil {
		c.Minor = m.Minor
	}
	return m, err
}

// Establish is SCardEstablishContext.
func (c *Client) Establish(scope wire.Scope) (uint32, error) {
	m, err := call(c, wire.CmdEstablishContext, wire.Establish{Scope: scope}.Append(nil), wire.ParseEstablish)
	if err = result(m.Code, err); err == nil {
		c.Context = m.Context
	}
	return m.Context, err
}

// Release is SCardReleaseContext for the client's own context.
func (c *Client) Release() error {
	m, err := call(c, wire.CmdReleaseContext, wire.Release{Context: c.Context}.Append(nil), wire.ParseRelease)
	return result(m.Code, err)
}

// Connect is SCardConnect; it returns the whole reply.
func (c *Client) Connect(reader string, mode wire.ShareMode, preferred wire.Protocol) (wire.Connect, error) {
	request := wire.Connect{Context: c.Context, Reader: reader, ShareMode: mode, PreferredProtocols: preferred}
	m, err := call(c, wire.CmdConnect, request.Append(nil), wire.ParseConnect)
	return m, result(m.Code, err)
}

// Reconnect is SCardReconnect.
func (c *Client) Reconnect(card int32, mode wire.ShareMode, preferred wire.Protocol, initialization wire.Disposition) (wire.Protocol, error) {
	request := wire.Reconnect{Card: card, ShareMode: mode, PreferredProtocols: preferred, Initialization: initialization}
	m, err := call(c, wire.CmdReconnect, request.Append(nil), wire.ParseReconnect)
	return m.ActiveProtocol, result(m.Code, err)
}

// Disconnect is SCardDisconnect.
func (c *Client) Disconnect(card int32, disposition wire.Disposition) error {
	m, err := call(c, wire.CmdDisconnect, wire.Disconnect{Card: card, Disposition: disposition}.Append(nil), wire.ParseDisconnect)
	return result(m.Code, err)
}

// Begin is one attempt of SCardBeginTransaction; the library repeats it while the answer is ErrSharingViolation.
func (c *Client) Begin(card int32) error {
	m, err := call(c, wire.CmdBeginTransaction, wire.Begin{Card: card}.Append(nil), wire.ParseBegin)
	return result(m.Code, err)
}

// End is SCardEndTransaction.
func (c *Client) End(card int32, disposition wire.Disposition) error {
	m, err := call(c, wire.CmdEndTransaction, wire.End{Card: card, Disposition: disposition}.Append(nil), wire.ParseEnd)
	return result(m.Code, err)
}

// Status is what SCardStatus asks the daemon.
func (c *Client) Status(card int32) error {
	m, err := call(c, wire.CmdStatus, wire.Status{Card: card}.Append(nil), wire.ParseStatus)
	return result(m.Code, err)
}

// Transmit is SCardTransmit with a buffer of room bytes for the answer. The reply comes also with a code as error.
func (c *Client) Transmit(card int32, protocol wire.Protocol, command []byte, room uint32) ([]byte, wire.Transmit, error) {
	request := wire.Transmit{
		Card: card, SendPCI: wire.PCI{Protocol: protocol, Length: 16}, SendLength: uint32(len(command)),
		ReceivePCI: wire.PCI{Protocol: wire.ProtocolAny, Length: 16}, ReceiveLength: room,
	}
	if err := c.Send(wire.CmdTransmit, request.Append(nil), command); err != nil {
		return nil, wire.Transmit{}, err
	}
	b, err := c.Receive(wire.TransmitSize)
	if err != nil {
		return nil, wire.Transmit{}, err
	}
	m, err := wire.ParseTransmit(b)
	if err = result(m.Code, err); err != nil {
		return nil, m, err
	}
	response, err := c.Receive(int(m.ReceiveLength))
	return response, m, err
}

// Control is SCardControl with a buffer of room bytes for the answer.
func (c *Client) Control(card int32, code uint32, in []byte, room uint32) ([]byte, wire.Control, error) {
	request := wire.Control{Card: card, ControlCode: code, SendLength: uint32(len(in)), ReceiveLength: room}
	if err := c.Send(wire.CmdControl, request.Append(nil), in); err != nil {
		return nil, wire.Control{}, err
	}
	b, err := c.Receive(wire.ControlSize)
	if err != nil {
		return nil, wire.Control{}, err
	}
	m, err := wire.ParseControl(b)
	if err = result(m.Code, err); err != nil {
		return nil, m, err
	}
	out, err := c.Receive(int(m.Returned))
	return out, m, err
}

// GetAttrib is SCardGetAttrib, as the library sends it: whatever buffer the application has, 264 bytes are asked for.
func (c *Client) GetAttrib(card int32, id uint32) ([]byte, *wire.Attribute, error) {
	request := &wire.Attribute{Card: card, ID: id, Length: wire.MaxAttribute, Code: wire.ErrNoService}
	m, err := call(c, wire.CmdGetAttrib, request.Append(nil), wire.ParseAttribute)
	if err != nil {
		return nil, nil, err
	}
	if m.Code != wire.Success {
		return nil, m, m.Code
	}
	return m.Data[:min(m.Length, wire.MaxAttribute)], m, nil
}

// SetAttrib is SCardSetAttrib, of 264 bytes at most.
func (c *Client) SetAttrib(card int32, id uint32, value []byte) error {
	request := &wire.Attribute{Card: card, ID: id, Length: uint32(len(value)), Code: wire.ErrNoService}
	copy(request.Data[:], value)
	m, err := call(c, wire.CmdSetAttrib, request.Append(nil), wire.ParseAttribute)
	if err != nil {
		return err
	}
	return m.Code.Err()
}

// Cancel is SCardCancel of a context. Libraries send it on a connection of its own without a handshake.
func (c *Client) Cancel(context uint32) error {
	m, err := call(c, wire.CmdCancel, wire.Cancel{Context: context}.Append(nil), wire.ParseCancel)
	return result(m.Code, err)
}

// ReaderEvents asks for the counter of readers that came and went (4:5).
func (c *Client) ReaderEvents() (uint32, error) {
	b, err := c.exchange(wire.CmdGetReaderEvents, nil, wire.ReaderEventsSize)
	if err != nil {
		return 0, err
	}
	m, err := wire.ParseReaderEvents(b)
	return m.Count, result(m.Code, err)
}

// OldTable asks for the table of 16 readers (until 4:5) and returns the used entries.
func (c *Client) OldTable() ([]wire.ReaderState, error) {
	b, err := c.exchange(wire.CmdGetReadersState, nil, wire.OldTableLen*wire.ReaderStateSize)
	if err != nil {
		return nil, err
	}
	return used(b)
}

// TableSize asks for the length of the table (4:6).
func (c *Client) TableSize() (int, error) {
	b, err := c.exchange(wire.CmdGetReadersStateSize, nil, wire.TableSizeSize)
	if err != nil {
		return 0, err
	}
	n, err := wire.ParseTableSize(b)
	return int(n), err
}

// Array asks for a table of a length that was announced (4:6) and returns the used entries.
func (c *Client) Array(entries int) ([]wire.ReaderState, error) {
	b, err := c.exchange(wire.CmdGetReadersStateArray, nil, entries*wire.ReaderStateSize)
	if err != nil {
		return nil, err
	}
	return used(b)
}

// Readers asks for the table as the library of the client's version does and returns the used entries.
func (c *Client) Readers() ([]wire.ReaderState, error) {
	if c.Minor < wire.Minor6 {
		return c.OldTable()
	}
	n, err := c.TableSize()
	if err != nil {
		return nil, err
	}
	return c.Array(n)
}

// Wait registers for the next change and returns the table, in the order of the client's version: with 4:3 the table
// first, with 4:4 and 4:5 as the reply, with 4:6 afterwards.
func (c *Client) Wait() ([]wire.ReaderState, error) {
	switch c.Minor {
	case wire.Minor3:
		table, err := c.OldTable()
		if err != nil {
			return nil, err
		}
		return table, c.Register()
	case wire.Minor6:
		if err := c.Register(); err != nil {
			return nil, err
		}
		return c.Readers()
	}
	if err := c.Register(); err != nil {
		return nil, err
	}
	b, err := c.Receive(wire.OldTableLen * wire.ReaderStateSize)
	if err != nil {
		return nil, err
	}
	return used(b)
}

// Register sends WAIT and reads nothing.
func (c *Client) Register() error { return c.Send(wire.CmdWait, c.oldBody(), nil) }

// Signal reads the message of a Wait: nil when the table changed, ErrCancelled after a cancel, and
// os.ErrDeadlineExceeded when nothing came within d.
func (c *Client) Signal(d time.Duration) error {
	b, err := c.receiveWithin(wire.SignalSize, d)
	if err != nil {
		return err
	}
	m, err := wire.ParseSignal(b)
	return result(m.Code, err)
}

// Stop ends a Wait: it reads the reply, or the message that crossed the request.
func (c *Client) Stop() error {
	if err := c.Send(wire.CmdStopWaiting, c.oldBody(), nil); err != nil {
		return err
	}
	return c.Signal(Patience)
}

// oldBody is the body that WAIT and STOP had in 4:3.
func (c *Client) oldBody() []byte {
	if c.Minor == wire.Minor3 {
		return wire.Signal{}.Append(nil)
	}
	return nil
}

// used parses a table and checks that it is compact: no empty entry stands before a used one.
func used(b []byte) ([]wire.ReaderState, error) {
	table, err := wire.ParseTable(b)
	if err != nil {
		return nil, err
	}
	empty := func(s wire.ReaderState) bool { return s.Name == "" }
	first := slices.IndexFunc(table, empty)
	if first < 0 {
		return table, nil
	}
	for _, s := range table[first:] {
		if !empty(s) {
			return nil, fmt.Errorf("reader %q stands behind an empty entry", s.Name)
		}
	}
	return table[:first], nil
}
