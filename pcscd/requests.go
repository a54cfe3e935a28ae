package pcscd

import (
	"context"
	"fmt"

	"github.com/goccid/goccid/pcscd/wire"
)

// Why a client's connection ends without a reply. All are errDrop.
var (
	errIncomplete     = fmt.Errorf("%w: message not completed in time", errDrop)
	errTooLong        = fmt.Errorf("%w: payload too long", errDrop)
	errAttribute      = fmt.Errorf("%w: attribute too long", errDrop)
	errForeignHandle  = fmt.Errorf("%w: handle of somebody else", errDrop)
	errNoContext      = fmt.Errorf("%w: command without a context", errDrop)
	errRegistrations  = fmt.Errorf("%w: too many waits", errDrop)
	errNotAuthorized  = fmt.Errorf("%w: client not authorized", errDrop)
	errUnknownCommand = fmt.Errorf("%w: unknown command", errDrop)
	errBodySize       = fmt.Errorf("%w: body of the wrong size", errDrop)
)

// answer reads the rest of a request, does what it asks for and writes the reply. An error ends the connection.
func (c *conn) answer(h wire.Header) error {
	body, err := c.readBody(h)
	if err != nil {
		return err
	}
	switch h.Command {
	case wire.CmdVersion:
		return c.version(body)
	case wire.CmdCancel:
		return c.cancelContext(body)
	case wire.CmdEstablishContext:
		return c.establish(body)
	}
	if !c.authorize() {
		return errNotAuthorized
	}
	switch h.Command {
	case wire.CmdReleaseContext:
		return c.release(body)
	case wire.CmdConnect:
		return c.connect(body)
	case wire.CmdGetReadersState:
		return c.table(wire.OldTableLen)
	case wire.CmdWait:
		return c.wait()
	case wire.CmdStopWaiting:
		return c.stopWaiting()
	case wire.CmdGetReaderEvents:
		return c.write(wire.ReaderEvents{Count: c.server.resources.ReaderEvents()}.Append(c.out[:0]))
	case wire.CmdGetReadersStateSize:
		return c.tableSize()
	case wire.CmdGetReadersStateArray:
		return c.newTable()
	}
	return c.answerOnCard(h.Command, body)
}

// answerOnCard answers a request that is about a handle: only to the client that has it.
func (c *conn) answerOnCard(command wire.Command, body []byte) error {
	hCard, err := wire.ParseCard(body)
	if err != nil {
		return err
	}
	if err := c.own(hCard); err != nil {
		return err
	}
	switch command {
	case wire.CmdReconnect:
		return c.reconnect(body)
	case wire.CmdDisconnect:
		return c.disconnect(body)
	case wire.CmdBeginTransaction:
		return c.beginTransaction(body)
	case wire.CmdEndTransaction:
		return c.endTransaction(body)
	case wire.CmdTransmit:
		return c.transmit(body)
	case wire.CmdControl:
		return c.control(body)
	case wire.CmdStatus:
		return c.status(body)
	case wire.CmdGetAttrib:
		return c.getAttrib(body)
	case wire.CmdSetAttrib:
		return c.setAttrib(body)
	}
	return errUnknownCommand
}

// readBody reads a request's fixed body. Commands without a body ignore the size that their header tells, and it is
// not read, but for the two that had a body before 4:4.
func (c *conn) readBody(h wire.Header) ([]byte, error) {
	size, ok := h.Command.BodySize()
	if !ok {
		return nil, errUnknownCommand
	}
	if c.minor == wire.Minor3 && h.Size > 0 && (h.Command == wire.CmdWait || h.Command == wire.CmdStopWaiting) {
		size = wire.SignalSize
	}
	if size == 0 {
		return nil, nil
	}
	if uint64(h.Size) != uint64(size) {
		return nil, errBodySize
	}
	return c.read(c.body[:size])
}

// version answers a handshake in the client's own version, if it is one of ours; else with the newest, which a newer
// client may try then. The connection stays.
func (c *conn) version(body []byte) error {
	m, err := wire.ParseVersion(body)
	if err != nil {
		return err
	}
	if m.Major == wire.MajorVersion && m.Minor >= wire.Minor3 && m.Minor <= wire.Minor6 {
		c.minor = m.Minor
		m.Code = wire.Success
	} else {
		m = wire.Version{Major: wire.MajorVersion, Minor: wire.Minor6, Code: wire.ErrServiceStopped}
	}
	return c.write(m.Append(c.out[:0]))
}

// authorize asks, once, whether the client may use the service at all. That is done at the first command that tells or
// changes something, so the refusal fits into the protocol, and a connection that only cancels is not asked about.
func (c *conn) authorize() bool {
	if c.authorized || c.denied {
		return c.authorized
	}
	err := c.decide(func(ctx context.Context) error { return c.server.authorizer.Connection(ctx, c.client) })
	c.authorized, c.denied = err == nil, err != nil
	if err != nil {
		c.server.refusals.warn(c.client, "client refused: "+err.Error())
	}
	return c.authorized
}

// decide asks an authorizer, within the time for it.
func (c *conn) decide(ask func(ctx context.Context) error) (err error) {
	c.watched(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, c.server.limits.Authorization)
		defer cancel()
		err = ask(ctx)
	})
	return err
}

func (c *conn) establish(body []byte) error {
	m, err := wire.ParseEstablish(body)
	if err != nil {
		return err
	}
	if c.authorize() {
		m.Context, m.Code = c.session.Establish(m.Scope)
	} else {
		m.Context, m.Code = 0, wire.ErrSecurityViolation
	}
	if m.Code == wire.Success {
		c.server.setContext(c, m.Context)
	}
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) release(body []byte) error {
	m, err := wire.ParseRelease(body)
	if err != nil {
		return err
	}
	c.watched(func(ctx context.Context) { m.Code = c.session.Release(ctx, m.Context) })
	if !c.session.HasContext() {
		c.server.setContext(c, 0)
	}
	return c.write(m.Append(c.out[:0]))
}

// cancelContext ends the wait of another connection.
func (c *conn) cancelContext(body []byte) error {
	m, err := wire.ParseCancel(body)
	if err != nil {
		return err
	}
	m.Code = c.server.cancel(c.client, m.Context)
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) connect(body []byte) error {
	m, err := wire.ParseConnect(body)
	if err != nil {
		return err
	}
	denial := c.decide(func(ctx context.Context) error { return c.server.authorizer.CardAccess(ctx, c.client, m.Reader) })
	if denial != nil {
		c.server.refusals.warn(c.client, "card access refused: "+denial.Error())
		// As pcsc-lite fills the two fields then.
		m.Card, m.ActiveProtocol, m.Code = -1, ^wire.Protocol(0), wire.ErrSecurityViolation
		return c.write(m.Append(c.out[:0]))
	}
	c.watched(func(ctx context.Context) {
		m.Card, m.ActiveProtocol, m.Code = c.session.Connect(ctx, m.Context, m.Reader, m.ShareMode, m.PreferredProtocols)
	})
	if limit := handleLimit(m.Code); limit != "" {
		c.server.refusals.warn(c.client, limit+": connect to "+m.Reader+" refused")
	}
	return c.write(m.Append(c.out[:0]))
}

// own checks that a handle is this client's. If not, its connection ends: at once without a context, else late, so that
// handles cannot be guessed.
func (c *conn) own(hCard int32) error {
	switch {
	case c.session.Owns(hCard):
		return nil
	case !c.session.HasContext():
		return errNoContext
	}
	c.punish()
	return errForeignHandle
}

func (c *conn) reconnect(body []byte) error {
	m, err := wire.ParseReconnect(body)
	if err != nil {
		return err
	}
	c.watched(func(ctx context.Context) {
		m.ActiveProtocol, m.Code = c.session.Reconnect(ctx, m.Card, m.ShareMode, m.PreferredProtocols, m.Initialization)
	})
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) disconnect(body []byte) error {
	m, err := wire.ParseDisconnect(body)
	if err != nil {
		return err
	}
	c.watched(func(ctx context.Context) { m.Code = c.session.Disconnect(ctx, m.Card, m.Disposition) })
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) beginTransaction(body []byte) error {
	m, err := wire.ParseBegin(body)
	if err != nil {
		return err
	}
	c.watched(func(ctx context.Context) { m.Code = c.session.Begin(ctx, m.Card) })
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) endTransaction(body []byte) error {
	m, err := wire.ParseEnd(body)
	if err != nil {
		return err
	}
	c.watched(func(ctx context.Context) { m.Code = c.session.End(ctx, m.Card, m.Disposition) })
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) status(body []byte) error {
	m, err := wire.ParseStatus(body)
	if err != nil {
		return err
	}
	m.Code = c.session.Status(m.Card)
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) transmit(body []byte) error {
	m, err := wire.ParseTransmit(body)
	if err != nil {
		return err
	}
	command, err := c.readPayload(m.SendLength)
	if err != nil {
		return err
	}
	var response []byte
	c.watched(func(ctx context.Context) {
		response, m.Code = c.session.Transmit(ctx, m.Card, m.SendPCI.Protocol, command)
	})
	clear(command)
	defer clear(response)
	response, m.ReceiveLength, m.Code = fit(response, m.ReceiveLength, m.Code)
	return c.write(append(m.Append(c.out[:0]), response...))
}

func (c *conn) control(body []byte) error {
	m, err := wire.ParseControl(body)
	if err != nil {
		return err
	}
	in, err := c.readPayload(m.SendLength)
	if err != nil {
		return err
	}
	var out []byte
	c.watched(func(ctx context.Context) { out, m.Code = c.session.Control(ctx, m.Card, m.ControlCode, in) })
	clear(in)
	defer clear(out)
	out, m.Returned, m.Code = fit(out, m.ReceiveLength, m.Code)
	return c.write(append(m.Append(c.out[:0]), out...))
}

// fit decides what of an answer goes to the client: all of it, with its length; nothing but the length when the client's
// buffer is too small, although the card has executed the command; or nothing after an error.
func fit(answer []byte, room uint32, code wire.Code) (payload []byte, length uint32, _ wire.Code) {
	switch {
	case code != wire.Success:
		return nil, 0, code
	case len(answer) > wire.MaxPayload:
		return nil, 0, wire.ErrInternalError
	case uint64(len(answer)) > uint64(room):
		return nil, uint32(len(answer)), wire.ErrInsufficientBuffer
	}
	return answer, uint32(len(answer)), wire.Success
}

func (c *conn) getAttrib(body []byte) error {
	m, err := wire.ParseAttribute(body)
	if err != nil {
		return err
	}
	if m.Length > wire.MaxAttribute {
		return errAttribute
	}
	var value []byte
	c.watched(func(ctx context.Context) {
		value, m.Code = c.session.GetAttrib(ctx, m.Card, m.ID, int(m.Length))
	})
	m.Data = [wire.MaxAttribute]byte{}
	switch {
	case m.Code == wire.Success && len(value) <= int(m.Length):
		copy(m.Data[:], value)
		m.Length = uint32(len(value))
	case m.Code == wire.Success || m.Code == wire.ErrInsufficientBuffer:
		m.Code = wire.ErrInsufficientBuffer
		m.Length = uint32(len(value))
	}
	return c.write(m.Append(c.out[:0]))
}

func (c *conn) setAttrib(body []byte) error {
	m, err := wire.ParseAttribute(body)
	if err != nil {
		return err
	}
	if m.Length > wire.MaxAttribute {
		return errAttribute
	}
	c.watched(func(ctx context.Context) {
		m.Code = c.session.SetAttrib(ctx, m.Card, m.ID, m.Data[:m.Length])
	})
	return c.write(m.Append(c.out[:0]))
}

// states returns the table that clients may see, after the first status of each reader is known or has failed. A reader
// that came meanwhile and is not known yet is not in it: clients cannot use such an entry.
func (c *conn) states() ([]wire.ReaderState, uint64) {
	// The error is that the client went or the server stops, which the next read or write tells.
	c.watched(func(ctx context.Context) { _ = c.server.resources.Ready(ctx) })
	states, generation := c.server.resources.States()
	for i := range states {
		if !states[i].Known {
			return withoutUnknown(states), generation
		}
	}
	return states, generation
}

func withoutUnknown(states []wire.ReaderState) []wire.ReaderState {
	var known []wire.ReaderState
	for _, s := range states {
		if s.Known {
			known = append(known, s)
		}
	}
	return known
}

// table writes the reader table with this many entries; readers beyond them are not told.
func (c *conn) table(entries int) error {
	states, generation := c.states()
	c.mu.Lock()
	if c.watch.registrations == 0 || c.watch.owed {
		c.watch.sawTable(generation)
	}
	c.mu.Unlock()
	return c.write(wire.AppendTable(c.out[:0], states, entries))
}

// tableSize announces the length of the table since 4:6.
func (c *conn) tableSize() error {
	states, _ := c.states()
	c.announced = c.server.tableLen(len(states))
	return c.write(wire.TableSize(c.announced).Append(c.out[:0]))
}

// newTable writes the table of 4:6, with as many entries as were announced: a client that knows too little of it is told
// at once that there is more.
func (c *conn) newTable() error {
	if c.announced == 0 {
		c.announced = c.server.tableLen(0)
	}
	states, generation := c.states()
	if len(states) > c.announced && generation > 0 {
		generation--
	}
	c.mu.Lock()
	c.watch.sawTable(generation)
	c.mu.Unlock()
	return c.write(wire.AppendTable(c.out[:0], states, c.announced))
}

// wait registers the client for the next change of the table. With 4:4 and 4:5, and without a handshake, the reply is
// the table; with 4:6 the client fetches it then; with 4:3 it has done so before.
func (c *conn) wait() error {
	if c.minor == wire.Minor6 {
		return c.register(func() bool { return c.watch.waitThenFetch() })
	}
	states, generation := c.states()
	if c.minor == wire.Minor3 {
		return c.register(func() bool { return c.watch.wait(generation) })
	}
	err := c.register(func() bool {
		c.watch.sawTable(generation)
		return c.watch.wait(generation)
	})
	if err != nil {
		return err
	}
	return c.write(wire.AppendTable(c.out[:0], states, wire.OldTableLen))
}

func (c *conn) register(register func() bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !register() {
		return errRegistrations
	}
	return nil
}

// stopWaiting ends a wait. There is no reply when the wait has had its message.
func (c *conn) stopWaiting() error {
	c.mu.Lock()
	code, reply := c.watch.stop()
	c.mu.Unlock()
	if !reply {
		return nil
	}
	return c.write(wire.Signal{Code: code}.Append(c.out[:0]))
}
