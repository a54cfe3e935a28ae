//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/coreos/go-systemd/v22/activation"
)

// activated tells whether systemd started us for a client at its socket. A process that was started by such a one
// has the variables, too, but for another process's number.
func activated(getenv func(string) string) bool {
	return getenv("LISTEN_FDS") != "" && getenv("LISTEN_PID") == strconv.Itoa(os.Getpid())
}

// activatedListener is systemd's socket.
func activatedListener() (*net.UnixListener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("socket activation: %w", err)
	}
	if len(listeners) != 1 {
		for _, l := range listeners {
			if l != nil {
				l.Close()
			}
		}
		return nil, fmt.Errorf("socket activation: %d sockets were passed, one is needed", len(listeners))
	}
	l, ok := listeners[0].(*net.UnixListener)
	if !ok {
		return nil, errors.New("socket activation: what was passed is not a listening UNIX stream socket")
	}
	l.SetUnlinkOnClose(false) // it stays systemd's
	return l, nil
}

// listenUnix makes a socket of our own with these rights.
func listenUnix(path string, mode os.FileMode) (*net.UnixListener, error) {
	// Nobody may connect before the rights are set.
	restore := umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	restore()
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
