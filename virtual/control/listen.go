package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Listen makes a Unix socket that only its owner can connect to (mode 0600), from the moment on at which it is there. A socket
// that a program has left behind is replaced; one that is in use and files of other kinds are not. Close removes it.
func Listen(path string) (net.Listener, error) {
	if err := free(path); err != nil {
		return nil, err
	}
	// A socket is there for all as soon as it is bound, whatever chmod does afterwards. So it begins in a folder of its own.
	private, err := os.MkdirTemp(filepath.Dir(path), ".ctl")
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	defer func() { _ = os.RemoveAll(private) }() // empty, or worth no error
	hidden := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(hidden, 0o600), os.Rename(hidden, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("control: %w", err), l.Close())
	}
	// Once, for then who closes it first has to be waited for.
	return &socket{UnixListener: l, path: path, close: sync.OnceValue(func() error { return errors.Join(l.Close(), os.Remove(path)) })}, nil
}

// free makes room for a socket, or says why there is none.
func free(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("control: %s is there, and is no socket", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close() // it was only to see
		return fmt.Errorf("control: %s is in use by another program", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// socket is a listener that removes its path.
type socket struct {
	*net.UnixListener
	path  string
	close func() error
}

// Addr implements net.Listener.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close implements net.Listener. It may be called repeatedly.
func (s *socket) Close() error { return s.close() }
