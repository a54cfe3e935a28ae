//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// unreadInterval is how often the end of the context is looked for, in milliseconds; that a reader has gone is told at once.
const unreadInterval = 250

// untilUnread waits until nobody can read any more what is written to w, a pipe, and returns what a write would fail with. It is for
// who has nothing to write. Where w is something else it waits for the end of ctx only.
func untilUnread(ctx context.Context, w io.Writer) error {
	file, ok := w.(*os.File)
	if !ok {
		<-ctx.Done()
		return nil
	}
	info, err := file.Stat()
	if err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		<-ctx.Done()
		return nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		unread := false
		var failure error
		if err := raw.Control(func(fd uintptr) { unread, failure = hungUp(int32(fd)) }); err != nil || failure != nil {
			return errors.Join(err, failure)
		}
		if unread {
			return &os.PathError{Op: "write", Path: file.Name(), Err: syscall.EPIPE}
		}
	}
	return nil
}

// hungUp waits a while for the other end of a pipe to be closed.
func hungUp(fd int32) (bool, error) {
	fds := []unix.PollFd{{Fd: fd}} // without events it waits for those that can't be left out
	_, err := unix.Poll(fds, unreadInterval)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0, err
}
