//go:build !linux

package pcscd

import (
	"errors"
	"net"
	"runtime"
	"time"
)

// hungUp cannot tell: a client's death is noticed when its call is over.
func hungUp(uintptr) bool { return false }

// readNow reads nothing, which is left to the runtime's poller.
func readNow(uintptr, []byte) (n int, over bool) { return 0, true }

// awaitInput waits for nothing, since readNow does not read.
func awaitInput(uintptr, time.Duration) {}

// giveWay lets other goroutines have the processor.
func giveWay() { runtime.Gosched() }

// writeNow writes a message, and waits for room in the socket for a moment at most.
func writeNow(conn *net.UnixConn, message []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		return err
	}
	_, err := conn.Write(message)
	return err
}

// peer cannot tell who a client is, so none is served: only Linux's way of asking is known here.
func peer(*net.UnixConn) (Client, error) { return Client{}, errors.ErrUnsupported }

// supplementaryGroups are not known.
func supplementaryGroups(Client) []uint32 { return nil }
