//go:build !unix

package main

import (
	"context"
	"io"
)

// untilUnread waits for the end of ctx: that the reader of a pipe has gone is told by the next write only.
func untilUnread(ctx context.Context, _ io.Writer) error {
	<-ctx.Done()
	return nil
}
