package host

import (
	"context"
	"time"

	"github.com/goccid/goccid/ccid"
)

// swallower reads for a zero-length packet that nobody asked for before each command, for readers that would not take the
// command otherwise.
type swallower struct {
	*bulk
	wait time.Duration
}

// swallowing returns the carrier with what the reader needs around it.
func (r *Reader) swallowing(b *bulk) carrier {
	if wait := r.quirks.USB.SwallowZLP; wait > 0 {
		return swallower{bulk: b, wait: wait}
	}
	return b
}

func (s swallower) send(ctx context.Context, c ccid.Command) error {
	_ = withTimeout(ctx, s.wait, func(ctx context.Context) error {
		_, err := s.gate.bulkIn(ctx, s.in, make([]byte, s.packet))
		return err
	})
	return s.bulk.send(ctx, c)
}
