package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// maxConnections is how many clients a Server talks to at once.
	maxConnections = 16
	// patience bounds what one request may wait for: a card outside, and a client that does not read.
	patience = 10 * time.Second
)

// Answer does what a line says and returns the answer to it, with a newline at the end. The error is ErrQuit or nil; what fails is an
// answer. An empty line asks for nothing: the answer is ok.
func (b *Bench) Answer(ctx context.Context, line string) (string, error) {
	if strings.TrimSpace(line) == "" {
		return "ok\n", nil
	}
	r, err := Parse(line)
	if err != nil {
		return failed(err), nil
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text, err := b.Do(bounded, r)
	switch {
	case errors.Is(err, ErrQuit):
		return "ok bye\n", ErrQuit
	case err != nil:
		return failed(err), nil
	}
	lines := strings.Split(text, "\n")
	last := len(lines) - 1
	for i := range last {
		lines[i] = " " + lines[i]
	}
	lines[last] = "ok " + lines[last]
	return strings.Join(lines, "\n") + "\n", nil
}

// failed is the answer that tells of an error, on one line.
func failed(err error) string {
	return "error " + strings.Join(strings.Fields(err.Error()), " ") + "\n"
}

// Converse answers the lines that come from a client until there are no more. The error is ErrQuit, or that of the client's
// connection.
func (b *Bench) Converse(ctx context.Context, client io.ReadWriter) error {
	lines := bufio.NewScanner(client)
	lines.Buffer(make([]byte, 0, 256), MaxLine)
	for lines.Scan() {
		answer, quit := b.Answer(ctx, lines.Text())
		if c, ok := client.(net.Conn); ok {
			if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
				return fmt.Errorf("control: %w", err)
			}
		}
		if _, err := io.WriteString(client, answer); err != nil {
			return errors.Join(quit, fmt.Errorf("control: %w", err))
		}
		if quit != nil {
			return quit
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// Serve talks to the clients of a listener until ctx ends or one of them says quit; it closes the listener. It returns when all
// connections are closed: nil, ErrQuit, or the error of the listener.
func (b *Bench) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	defer func() { _ = listener.Close() }()                 // if it has not failed before, Accept has said why
	context.AfterFunc(ctx, func() { _ = listener.Close() }) // ends Accept
	places := make(chan struct{}, maxConnections)
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close() // nobody will talk on it
			}
			if errors.Is(context.Cause(ctx), ErrQuit) {
				return ErrQuit
			}
			return nil
		case err != nil:
			return fmt.Errorf("control: accept: %w", err)
		}
		select {
		case places <- struct{}{}:
			running.Go(func() {
				defer func() { <-places }()
				defer func() { _ = conn.Close() }() // all was said
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				if errors.Is(b.Converse(ctx, conn), ErrQuit) {
					cancel(ErrQuit)
				}
			})
		default:
			_ = conn.Close() // too many
		}
	}
}
