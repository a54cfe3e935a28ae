package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// maxEmptyTransfers bounds the zero-length packets that are skipped before and within one message.
const maxEmptyTransfers = 16

// bulk carries messages over a bulk OUT and a bulk IN endpoint (CCID 1.1 §4.1).
//
// A message ends where its dwLength says. So the first read is for one packet, which has the header, and a second one
// for exactly the packets that are still to come: a read for more would never end with those readers that send no
// zero-length packet after a message of whole packets. With those that do, it is skipped before the next message.
type bulk struct {
	gate       gate
	number     uint8         // of the interface, for wIndex
	out, in    uint8         // endpoint addresses
	packet     int           // wMaxPacketSize of in
	rest       time.Duration // how long to wait for the next part of a message
	end        time.Time     // of the wait for all parts of the message that has begun
	outMessage []byte
	inMessage  []byte
}

var _ carrier = (*bulk)(nil)

func newBulk(g gate, f Function, rest time.Duration) *bulk {
	return &bulk{
		gate: g, number: f.Interface.Number, rest: rest,
		out: f.BulkOut.Address, in: f.BulkIn.Address, packet: f.BulkIn.MaxPacketSize,
	}
}

func (b *bulk) send(ctx context.Context, c ccid.Command) error {
	b.outMessage, _ = c.AppendBinary(b.outMessage[:0])
	// What is sent may hold a PIN; the buffer lives as long as the reader.
	defer clear(b.outMessage)
	n, err := b.gate.bulkOut(ctx, b.out, b.outMessage)
	if n == len(b.outMessage) && errors.Is(err, usbtransport.ErrStalled) {
		// The reader has the message and refuses the zero-length packet after it. Whether that halted the endpoint
		// is for clear halt to see to; readers that refuse this too (QEMU's) go on without.
		_ = b.gate.clearHalt(ctx, b.out)
		err = nil
	}
	if err != nil {
		return err
	}
	if n != len(b.outMessage) {
		return fmt.Errorf("%w: %d of %d bytes of %v sent", usbtransport.ErrIO, n, len(b.outMessage), c.Type)
	}
	return nil
}

func (b *bulk) receive(ctx context.Context) (ccid.Response, error) {
	clear(b.inMessage)
	b.inMessage = b.inMessage[:0]
	if err := b.fill(ctx, ccid.HeaderLength); err != nil {
		return b.partial(), err
	}
	length := binary.LittleEndian.Uint32(b.inMessage[1:])
	if length > ccid.MaxMessageLength-ccid.HeaderLength {
		return b.partial(), fmt.Errorf("%w: %v: dwLength is %d, at most %d is taken",
			ccid.ErrMessage, ccid.MessageType(b.inMessage[0]), length, ccid.MaxMessageLength-ccid.HeaderLength)
	}
	if err := b.fill(ctx, ccid.HeaderLength+int(length)); err != nil {
		return b.partial(), err
	}
	return ccid.ParseResponse(b.inMessage)
}

// fill reads until at least needed bytes of the message are there. A transfer that ends early is followed by another
// one, for a little while: some readers send header and data apart. All of them have messageWait.
func (b *bulk) fill(ctx context.Context, needed int) error {
	for empty := 0; len(b.inMessage) < needed; {
		begun := len(b.inMessage)
		n, err := b.read(ctx, needed-begun)
		switch {
		case n == 0 && err == nil:
			if empty++; empty > maxEmptyTransfers {
				return fmt.Errorf("%w: only zero-length packets", ccid.ErrMessage)
			}
		case errors.Is(err, errNoRest):
			return b.truncated(needed)
		case err != nil:
			return err
		}
	}
	return nil
}

// errNoRest says that the rest of a message did not follow its beginning.
var errNoRest = errors.New("message is cut off")

// read appends one transfer of at least want bytes, in whole packets, to the message.
func (b *bulk) read(ctx context.Context, want int) (int, error) {
	begun := len(b.inMessage)
	size := (want + b.packet - 1) / b.packet * b.packet
	b.inMessage = grow(b.inMessage, size)
	waiting := ctx
	if begun > 0 {
		var cancel context.CancelFunc
		// Not under ctx: what is left of a message would be taken for the next one, which may be for another slot.
		waiting, cancel = context.WithTimeout(context.Background(), min(b.rest, time.Until(b.end)))
		defer cancel()
	}
	n, err := b.gate.bulkIn(waiting, b.in, b.inMessage[begun:begun+size])
	if begun == 0 {
		b.end = time.Now().Add(messageWait)
	}
	if n < 0 || n > size {
		return 0, fmt.Errorf("%w: transfer of %d bytes into %d", usbtransport.ErrOverflow, n, size)
	}
	b.inMessage = b.inMessage[:begun+n]
	switch {
	case n > 0 && (errors.Is(err, usbtransport.ErrTimedOut) || errors.Is(err, usbtransport.ErrCancelled)):
		// It came at the last moment; what is missing is for the next read to find.
		return n, nil
	case begun > 0 && errors.Is(err, usbtransport.ErrTimedOut):
		return 0, errNoRest
	}
	return n, err
}

func (b *bulk) truncated(needed int) error {
	e := &ccid.LengthError{Received: len(b.inMessage), Needed: needed}
	if len(b.inMessage) > 0 {
		e.Type = ccid.MessageType(b.inMessage[0])
	}
	return e
}

// partial returns the header of a message that is not whole, as far as it came.
func (b *bulk) partial() ccid.Response {
	var header [ccid.HeaderLength]byte
	copy(header[:], b.inMessage)
	return ccid.Response{
		Type: ccid.MessageType(header[0]), Slot: header[5], Seq: header[6],
		Status: ccid.Status(header[7]), Error: ccid.ErrorCode(header[8]), Specific: header[9],
	}
}

func (b *bulk) requestAbort(ctx context.Context, slot, seq uint8) error {
	_, err := b.gate.control(ctx, usbtransport.Setup{
		RequestType: ccid.RequestTypeOut, Request: ccid.RequestAbort, Value: ccid.AbortValue(slot, seq), Index: uint16(b.number),
	}, nil)
	return err
}

func (b *bulk) clearIn(ctx context.Context) error { return b.gate.clearHalt(ctx, b.in) }

func (b *bulk) clearOut(ctx context.Context) error { return b.gate.clearHalt(ctx, b.out) }

func (b *bulk) reset(ctx context.Context) error { return b.gate.reset(ctx) }
