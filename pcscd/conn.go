package pcscd

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/pcscd/wire"
)

const (
	// readBuffer holds nearly every request with its payload, so that one read gets it.
	readBuffer = 512
	// keptBuffer is the largest buffer that a connection keeps between two requests.
	keptBuffer = 4096
)

// errDrop ends a connection whose client broke the protocol: replies have no header, so there is no way to tell it.
var errDrop = errors.New("pcscd: protocol violated")

// errStopping ends a connection because the server ends.
var errStopping = errors.New("pcscd: server ends")

// codeOf is the result of a call that waited until its context ended.
func codeOf(ctx context.Context) wire.Code {
	if errors.Is(context.Cause(ctx), errStopping) {
		return wire.ErrServiceStopped
	}
	return wire.ErrCancelled
}

// conn is one client's connection. Its goroutine (run) reads requests and answers them, one after the other; while it
// waits for the next one, whoever has a message for a waiting client writes it, under mu and without blocking.
type conn struct {
	server  *Server
	client  Client
	user    *user
	net     *net.UnixConn
	reader  *bufio.Reader
	log     logrus.FieldLogger
	session session

	// ctx ends when the client goes or the server stops.
	ctx    context.Context
	cancel context.CancelFunc
	hangup *hangup

	// The fields of this group belong to run.

	minor       int32 // of the negotiated version, 0 before
	announced   int   // entries of the 4:6 table, as last told; 0 before
	authorized  bool
	denied      bool
	hasDeadline bool      // for reading
	lastAsked   time.Time // see crowd
	linger      linger
	body        [wire.AttributeSize]byte
	in, out     []byte // reused

	// context is the number of the client's context, 0 without one. Server.mu guards it.
	context uint32

	mu sync.Mutex

	watch watch
	// busy says that a request is being answered: nothing else may be written then.
	busy bool
	// stopping says that the server ends.
	stopping bool
	// silent is when a client without a context was last heard of; zero with one.
	silent time.Time
}

func newConn(ctx context.Context, s *Server, nc *net.UnixConn, client Client) *conn {
	ctx, cancel := context.WithCancel(ctx)
	c := &conn{
		server:  s,
		client:  client,
		net:     nc,
		log:     clientLog(s.log, client),
		session: s.resources.session(client),
		ctx:     ctx,
		cancel:  cancel,
		silent:  time.Now(),
	}
	c.reader = bufio.NewReaderSize(input{c}, readBuffer)
	c.hangup = newHangup(nc, cancel)
	return c
}

// run serves the client until it goes or is dropped, then gives back what it had.
func (c *conn) run() {
	err := c.serve()
	c.cancel()
	c.net.Close()
	c.wipe()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), sessionCloseTime)
	defer cancel()
	c.session.Close(ctx)
	c.server.finished(c)
	if errors.Is(err, errDrop) {
		c.server.refusals.warn(c.client, err.Error())
		return
	}
	c.log.WithError(err).Debug("connection ended")
}

// serve answers requests until there is an error.
func (c *conn) serve() error {
	for {
		header, err := c.nextHeader()
		if err != nil {
			return err
		}
		c.begin()
		if err := c.answer(header); err != nil {
			return err
		}
		if err := c.settle(); err != nil {
			return err
		}
	}
}

// begin keeps messages back until the request is answered.
func (c *conn) begin() {
	c.server.crowd.asks(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = true
}

// settle writes the messages that became due while a request was answered. Its error says that the connection ends.
func (c *conn) settle() error {
	for {
		code, due, err := c.nextMessage()
		if !due {
			return err
		}
		if err := c.write(wire.Signal{Code: code}.Append(c.out[:0])); err != nil {
			return err
		}
	}
}

func (c *conn) nextMessage() (code wire.Code, due bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if code, due = c.dueLocked(); due {
		return code, true, nil
	}
	if c.stopping {
		return wire.Success, false, errStopping
	}
	c.busy = false
	c.silent = time.Time{}
	if !c.session.HasContext() {
		c.silent = time.Now()
	}
	return wire.Success, false, nil
}

// dueLocked takes the next message for a waiting client.
func (c *conn) dueLocked() (code wire.Code, due bool) {
	if code, due = c.watch.next(c.server.generation.Load()); due {
		return code, true
	}
	if c.stopping && c.watch.abandon() {
		return wire.ErrServiceStopped, true
	}
	return wire.Success, false
}

// tell writes the messages that are due, unless a request is being answered: then settle does it.
func (c *conn) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tellLocked()
}

func (c *conn) tellLocked() {
	if c.busy {
		return
	}
	for {
		code, due := c.dueLocked()
		if !due {
			return
		}
		c.send(code)
	}
}

// send writes a message without waiting. A client that has let its socket fill up is not one that waits for it.
func (c *conn) send(code wire.Code) {
	if err := writeNow(c.net, wire.Signal{Code: code}.Append(nil)); err != nil {
		c.drop()
	}
}

// cancelWait ends the wait that the client is in, if it is.
func (c *conn) cancelWait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watch.cancel()
	c.tellLocked()
}

// shutDown tells a waiting client that the service stops, and ends the connection: at once, or when the request is
// answered that is at work. Calls that wait end.
func (c *conn) shutDown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	c.cancel()
	if !c.busy {
		c.tellLocked()
		c.drop()
	}
}

// drop ends the connection from outside of run, which notices it.
func (c *conn) drop() {
	c.cancel()
	c.net.Close()
}

// silentSince returns since when a client without a context has said nothing.
func (c *conn) silentSince() (since time.Time, silent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent, !c.busy && !c.silent.IsZero()
}

// nextHeader waits for a request.
func (c *conn) nextHeader() (wire.Header, error) {
	if c.reader.Buffered() == 0 {
		if err := c.awaitRequest(); err != nil {
			return wire.Header{}, err
		}
	}
	if err := c.pace(); err != nil {
		return wire.Header{}, err
	}
	b, err := c.read(c.body[:wire.HeaderSize])
	if err != nil {
		return wire.Header{}, err
	}
	return wire.ParseHeader(b)
}

// awaitRequest waits for a request's first byte: for ever with a context.
func (c *conn) awaitRequest() error {
	switch {
	case !c.session.HasContext():
		c.setReadDeadline(c.server.limits.Silence)
	case c.hasDeadline:
		c.clearReadDeadline()
	}
	_, err := c.reader.Peek(1)
	if c.hasDeadline {
		c.clearReadDeadline()
	}
	return err
}

// pace waits until the user may make one more request.
func (c *conn) pace() error {
	if c.user.requests.Allow() {
		return nil
	}
	c.server.refusals.warn(c.client, "too many requests a second: client has to wait")
	var err error
	c.watched(func(ctx context.Context) { err = c.user.requests.Wait(ctx) })
	return err
}

// read fills b with bytes of a request that has begun, within the time for a message.
func (c *conn) read(b []byte) ([]byte, error) {
	if c.reader.Buffered() < len(b) && !c.hasDeadline {
		c.setReadDeadline(c.server.limits.Message)
	}
	err := c.fill(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errIncomplete
	}
	return b, err
}

// fill takes b out of the reader's buffer, and wipes it there: it may be a PIN.
func (c *conn) fill(b []byte) error {
	for len(b) > 0 {
		part, err := c.reader.Peek(min(len(b), max(c.reader.Buffered(), 1)))
		if err != nil {
			return err
		}
		b = b[copy(b, part):]
		clear(part)
		_, _ = c.reader.Discard(len(part)) // it is there
	}
	return nil
}

// wipe forgets what was not taken of the last requests.
func (c *conn) wipe() {
	rest, _ := c.reader.Peek(c.reader.Buffered())
	clear(rest)
	clear(c.in)
}

func (c *conn) setReadDeadline(d time.Duration) {
	// Errors of deadlines say that the connection is closed; the read that follows says it too.
	_ = c.net.SetReadDeadline(time.Now().Add(d))
	c.hasDeadline = true
}

func (c *conn) clearReadDeadline() {
	_ = c.net.SetReadDeadline(time.Time{})
	c.hasDeadline = false
}

// readPayload reads what follows a body. It takes memory as the bytes come, not as the client announces them.
func (c *conn) readPayload(length uint32) ([]byte, error) {
	if length > wire.MaxPayload {
		return nil, errTooLong
	}
	want := int(length)
	c.in = c.in[:0]
	for len(c.in) < want {
		have := len(c.in)
		n := min(want-have, max(have, keptBuffer))
		c.in = grow(c.in, n)[:have+n]
		if _, err := c.read(c.in[have:]); err != nil {
			return nil, err
		}
	}
	return c.in, nil
}

// grow returns b with room for n more bytes. Memory that becomes too small is wiped.
func grow(b []byte, n int) []byte {
	if n <= cap(b)-len(b) {
		return b
	}
	larger := append(make([]byte, 0, len(b)+n), b...)
	clear(b)
	return larger
}

// write sends a reply, in one write as some clients need it, within the time for a message.
func (c *conn) write(b []byte) error {
	if c.out = b; cap(b) > keptBuffer {
		c.out = nil
	}
	if cap(c.in) > keptBuffer {
		c.in = nil
	}
	_ = c.net.SetWriteDeadline(time.Now().Add(c.server.limits.Message))
	_, err := c.net.Write(b)
	clear(b)
	return err
}

// watched runs a call that may wait, with a context that ends when the client hangs up.
func (c *conn) watched(call func(ctx context.Context)) {
	c.hangup.start()
	defer func() {
		if c.hangup.stop() {
			c.hasDeadline = false
		}
	}()
	call(c.ctx)
}

// punish closes a connection late. What the client had is given back first.
func (c *conn) punish() {
	c.session.Close(c.ctx)
	sleep(c.ctx, c.server.limits.Penalty)
}
