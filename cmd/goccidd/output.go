//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

// output writes to standard output. The first error stays: whatever is written after it is dropped, and the run ends with it.
type output struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	if err != nil {
		o.err = fmt.Errorf("can't write the output: %w", err)
	}
	return n, o.err
}

// result is what a run ends with that returned err: the failure of its output comes first, unless nobody reads it any more, which
// is the reader's right.
func (o *output) result(err error) error {
	switch {
	case o.err == nil:
		return err
	case errors.Is(o.err, syscall.EPIPE):
		return nil
	}
	return o.err
}
