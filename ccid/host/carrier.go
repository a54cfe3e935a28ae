package host

import (
	"context"

	"github.com/goccid/goccid/ccid"
)

// carrier moves CCID messages between the host and one reader. The dispatcher uses it: send, receive, requestAbort and the
// clearing of the other direction may run at once, but none of them twice. Bulk endpoints are one way to carry messages, the
// control requests of ICCD another.
type carrier interface {
	// send hands one command message to the reader.
	send(ctx context.Context, c ccid.Command) error

	// receive waits for the next message, whatever it is. Its Data is valid until the next call. A message that is
	// cut off gives a *ccid.LengthError, and the fields of the header as far as they came. One that has begun when
	// ctx ends is read to its end.
	receive(ctx context.Context) (ccid.Response, error)

	// requestAbort is the control half of an abort (CCID 1.1 §5.3.1).
	requestAbort(ctx context.Context, slot, seq uint8) error

	// clearIn ends a halt of the way from the reader. Nobody receives.
	clearIn(ctx context.Context) error

	// clearOut ends a halt of the way to the reader. Nobody sends.
	clearOut(ctx context.Context) error

	// reset resets the device's port.
	reset(ctx context.Context) error
}
