package card

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// VPCDPort is the TCP port on which the vpcd driver of the vsmartcard project waits for its first card.
const VPCDPort = 35963

// The one-byte messages of the vpcd protocol, from reader to card. All messages have their length before them, as 16 bits,
// big-endian; a message of another length is a command APDU. Only the ATR request and APDUs are answered.
const (
	vpcdOff   = 0
	vpcdOn    = 1
	vpcdReset = 2
	vpcdATR   = 4
)

const (
	// vpcdAnswer bounds how long a remote card may take for one command.
	vpcdAnswer = 60 * time.Second
	// vpcdWrite bounds how long a peer may refuse to read.
	vpcdWrite = 5 * time.Second
)

// ErrGone says that the connection to a remote card has ended: the card was taken out.
var ErrGone = errors.New("card: connection to the remote card has ended")

// Remote is a card at the other end of a TCP connection that speaks the vpcd protocol, such as vicc of the vsmartcard
// project. It is an Application that brings its own ATR: card.New puts it behind T=0 or T=1, as that ATR says.
//
// A Remote owns its connection and one goroutine that reads from it; Close ends both.
type Remote struct {
	conn    net.Conn
	answers chan []byte
	gone    chan struct{}
	once    sync.Once
	reader  sync.WaitGroup
}

var _ Application = (*Remote)(nil)

// NewRemote speaks vpcd over a connection, which it then owns.
func NewRemote(conn net.Conn) *Remote {
	if tcp, ok := conn.(*net.TCPConn); ok {
		// Messages are small and each waits for its answer. Without it the card is slower, not wrong.
		_ = tcp.SetNoDelay(true)
	}
	r := &Remote{conn: conn, answers: make(chan []byte), gone: make(chan struct{})}
	r.reader.Go(r.receive)
	return r
}

// DialVPCD connects to a card that waits for a reader ("vicc --reversed"). address is HOST:PORT.
func DialVPCD(ctx context.Context, address string) (*Remote, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("card: connect to the card at %s: %w", address, err)
	}
	return NewRemote(conn), nil
}

// AcceptVPCD waits for a card to connect ("vicc --hostname … --port …"). It returns when ctx ends; the listener stays
// the caller's, but has a deadline set then.
func AcceptVPCD(ctx context.Context, l *net.TCPListener) (*Remote, error) {
	if err := l.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("card: wait for a card: %w", err)
	}
	// A deadline in the past wakes Accept.
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := l.Accept()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("card: wait for a card: %w", err)
	}
	return NewRemote(conn), nil
}

// receive hands the messages of the card over, until the connection ends. A message that nobody waits for is dropped.
func (r *Remote) receive() {
	defer r.end()
	for {
		var length [2]byte
		if _, err := io.ReadFull(r.conn, length[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(r.conn, message); err != nil {
			return
		}
		select {
		case r.answers <- message:
		case <-r.gone:
			return
		}
	}
}

func (r *Remote) end() {
	r.once.Do(func() { close(r.gone) })
	// Nothing is left to be done about a connection that will not close.
	_ = r.conn.Close()
}

// Gone is closed when the connection has ended: the card was taken out.
func (r *Remote) Gone() <-chan struct{} { return r.gone }

// Close takes the card out and waits until the goroutine has ended. It may be called repeatedly.
func (r *Remote) Close() error {
	r.end()
	r.reader.Wait()
	return nil
}

// Reset implements Application: power on, reset, and the remote card's ATR.
func (r *Remote) Reset(ctx context.Context) ([]byte, error) {
	if err := r.send([]byte{vpcdOn}); err != nil {
		return nil, err
	}
	if err := r.send([]byte{vpcdReset}); err != nil {
		return nil, err
	}
	atr, err := r.ask(ctx, []byte{vpcdATR})
	if err != nil {
		return nil, err
	}
	if len(atr) < 2 || len(atr) > 33 {
		return nil, fmt.Errorf("card: remote card sent an ATR of %d bytes: %w", len(atr), ErrMute)
	}
	return atr, nil
}

// Off implements Application.
func (r *Remote) Off() {
	// A card that can't be told is gone, which its reader learns from Gone.
	_ = r.send([]byte{vpcdOff})
}

// Transmit implements Application. Commands that are one byte long can't be sent: they would be control messages.
func (r *Remote) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) < 4 || len(command) > 0xFFFF {
		return appendSW(nil, swWrongLength), nil
	}
	return r.ask(ctx, command)
}

// ask sends a message and waits for the answer. When ctx ends first, the connection is given up: an answer that comes
// later could be taken for that of the next command.
func (r *Remote) ask(ctx context.Context, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, vpcdAnswer)
	defer cancel()
	if err := r.send(message); err != nil {
		return nil, err
	}
	select {
	case answer := <-r.answers:
		return answer, nil
	case <-r.gone:
		return nil, ErrGone
	case <-ctx.Done():
		r.end()
		return nil, fmt.Errorf("card: remote card did not answer: %w", ctx.Err())
	}
}

func (r *Remote) send(message []byte) error {
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message)))
	if err := r.conn.SetWriteDeadline(time.Now().Add(vpcdWrite)); err != nil {
		return ErrGone
	}
	if _, err := r.conn.Write(append(frame, message...)); err != nil {
		r.end()
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}
