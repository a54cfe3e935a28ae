package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/goccid/goccid/virtual/card"
)

// The messages that QEMU's ccid-card-passthru exchanges with whoever has the card: the type, the reader's number and the length of
// what follows, 32 bits each, in network order (QEMU's docs/ccid.txt).
const (
	vscInit uint32 = 1
	vscATR  uint32 = 5
	vscAPDU uint32 = 7

	vscHeader = 12
	// vscLongest is more than QEMU's reader takes from its host at once.
	vscLongest = 1 << 17
)

// servePassthru is a software card in QEMU's reader, for as long as QEMU runs.
func servePassthru(ctx context.Context, listener *net.UnixListener, c card.Card) error {
	conn, err := listener.Accept()
	if err != nil {
		return nil // QEMU ended before it connected, and says itself why
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		kind, data, err := readVSC(conn)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("the card's connection: %w", err)
		}
		switch kind {
		case vscInit:
			// The card's place was made; insert it.
			answer, err := c.PowerOn(ctx, card.ClassA)
			if err != nil {
				return err
			}
			err = writeVSC(conn, vscATR, answer)
			if err != nil {
				return err
			}
		case vscAPDU:
			if err := exchange(ctx, conn, c, data); err != nil {
				return err
			}
		}
	}
}

// exchange has the card answer one block of T=1.
func exchange(ctx context.Context, conn io.Writer, c card.Card, block []byte) error {
	const pcb, requestIFS = 1, 0xC1
	if len(block) > pcb && block[pcb] == requestIFS {
		// QEMU doesn't tell when it resets the card; a host that is in its senses sends this first then, and at no other time.
		if _, err := c.PowerOn(ctx, card.ClassA); err != nil {
			return err
		}
	}
	c.Write(block)
	answer, err := readBlock(ctx, c)
	if errors.Is(err, card.ErrMute) {
		return nil // what the reader makes of it is the reader's business
	}
	if err != nil {
		return err
	}
	return writeVSC(conn, vscAPDU, answer)
}

// readBlock reads one block of T=1, with an EDC of one byte.
func readBlock(ctx context.Context, c card.Card) ([]byte, error) {
	const prologue, lenOffset = 3, 2
	var block []byte
	for needed := prologue; len(block) < needed; {
		part, err := c.Read(ctx, needed-len(block))
		if err != nil {
			return nil, err
		}
		if block = append(block, part...); len(block) == prologue {
			needed = prologue + int(block[lenOffset]) + 1
		}
	}
	return block, nil
}

func readVSC(r io.Reader) (kind uint32, data []byte, err error) {
	var header [vscHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[8:])
	if length > vscLongest {
		return 0, nil, fmt.Errorf("a message of %d bytes", length)
	}
	data = make([]byte, length)
	_, err = io.ReadFull(r, data)
	return binary.BigEndian.Uint32(header[:]), data, err
}

func writeVSC(w io.Writer, kind uint32, data []byte) error {
	message := binary.BigEndian.AppendUint32(nil, kind)
	message = binary.BigEndian.AppendUint32(message, 0) // the reader's number: there is one
	message = binary.BigEndian.AppendUint32(message, uint32(len(data)))
	_, err := w.Write(append(message, data...))
	return err
}
