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

// hiddenExtension is what the name of a socket has in addition that clients are not to find any more.
const hiddenExtension = ".ending"

// hide has clients find no socket of ours, which to them says that there is no service, until show is called. It is renamed, not
// removed, as there is no way back from that.
func (d *daemon) hide() (show func()) {
	path := d.settings.Socket
	d.rename(path, path+hiddenExtension)
	d.listener.SetUnlinkOnClose(false) // what is at the path from now on is not ours
	return func() {
		d.rename(path+hiddenExtension, path)
		d.listener.SetUnlinkOnClose(true)
	}
}

// rename tells of what fails: somebody has removed the socket, and clients do not find it either way.
func (d *daemon) rename(from, to string) {
	if err := os.Rename(from, to); err != nil {
		d.log.Warnf("%v", err)
	}
}
