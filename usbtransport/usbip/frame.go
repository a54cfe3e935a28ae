package usbip

import (
	"bufio"
	"net"
	"time"
)

const (
	// restDeadline is how long the rest of a message may take once its first byte has come, and how long the other side may
	// take to accept one.
	restDeadline = 10 * time.Second
	// The probes that find out about a peer which is gone without a word, within half a minute.
	keepAliveIdle     = 10 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 4
)

// tune sets what a connection with small messages and long silence needs.
func tune(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	// A connection on which this fails is about to fail otherwise.
	_ = tcp.SetNoDelay(true)
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount})
}

// frames reads messages: headers, each with what follows it.
type frames struct {
	conn   net.Conn
	buffer *bufio.Reader
}

func newFrames(conn net.Conn) *frames {
	return &frames{conn: conn, buffer: bufio.NewReaderSize(conn, 1<<14)}
}

// header waits for the next header, for as long as it takes. From its first byte on, the message is bound to come soon.
func (f *frames) header() ([]byte, error) {
	if err := f.conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if _, err := f.buffer.Peek(1); err != nil {
		return nil, err
	}
	if err := f.conn.SetReadDeadline(time.Now().Add(restDeadline)); err != nil {
		return nil, err
	}
	return f.payload(headerSize)
}

// payload reads n bytes that belong to the message, and wipes them where they were buffered: they may be a PIN.
func (f *frames) payload(n int) ([]byte, error) {
	b := make([]byte, n)
	for read := 0; read < n; {
		part, err := f.buffer.Peek(min(n-read, max(f.buffer.Buffered(), 1)))
		if err != nil {
			return b, err
		}
		read += copy(b[read:], part)
		clear(part)
		_, _ = f.buffer.Discard(len(part)) // it is there
	}
	return b, nil
}
