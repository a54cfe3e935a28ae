package pcscd

import (
	"context"
	"net"
	"syscall"
	"time"
)

// hangupDelay is how long a call may take before anybody looks whether its client is still there.
const hangupDelay = 20 * time.Millisecond

// hangup notices during a call that the client closed its socket, and then ends the connection's context. It reads
// nothing, so requests that the client has sent ahead stay where they are. A client that only closed its sending side
// is still there.
type hangup struct {
	conn   *net.UnixConn
	raw    syscall.RawConn
	cancel context.CancelFunc
	timer  *time.Timer
	done   chan struct{}
}

func newHangup(conn *net.UnixConn, cancel context.CancelFunc) *hangup {
	h := &hangup{conn: conn, cancel: cancel, done: make(chan struct{}, 1)}
	// Without a raw connection, which only a closed one has not, nothing is noticed.
	h.raw, _ = conn.SyscallConn()
	return h
}

// start begins to look, from hangupDelay on.
func (h *hangup) start() {
	if h.raw == nil {
		return
	}
	if h.timer == nil {
		h.timer = time.AfterFunc(hangupDelay, h.look)
		return
	}
	h.timer.Reset(hangupDelay)
}

// look waits for the hang-up. The runtime's poller wakes it for each change of the socket's state; RawConn.Read waits
// for the next one as long as the function returns false.
func (h *hangup) look() {
	if err := h.raw.Read(hungUp); err == nil {
		h.cancel()
	}
	h.done <- struct{}{}
}

// stop ends the looking. It tells whether it has changed the connection's read deadline, to none.
func (h *hangup) stop() (changed bool) {
	if h.raw == nil || h.timer.Stop() {
		return false
	}
	_ = h.conn.SetReadDeadline(time.Unix(1, 0))
	<-h.done
	_ = h.conn.SetReadDeadline(time.Time{})
	return true
}
