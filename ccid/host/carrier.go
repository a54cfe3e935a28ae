package host

import (
	"context"

	"github.com/goccid/goccid/ccid"
)

// carrier moves CCID messages between the host and one reader. Whoever holds Reader.bus uses it; its methods are not
// called concurrently. Bulk endpoints are one way to carry messages, the control requests of ICCD another.
type carrier interface {
	// send hands one command message to the reader.
	send(ctx context.Context, c ccid.Command) error

	// receive waits for the next message, whatever it is. Its Data is valid until the next call. A message that is
	// cut off gives a *ccid.LengthError, and the fields of the header as far as they came.
	receive(ctx context.Context) (ccid.Response, error)

	// requestAbort is the control half of an abort (CCID 1.1 §5.3.1).
	requestAbort(ctx context.Context, slot, seq uint8) error

	// clear ends a halt of the endpoints and drops what is left of a half-received message.
	clear(ctx context.Context) error

	// reset resets the device's port.
	reset(ctx context.Context) error
}
