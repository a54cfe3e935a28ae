package pcscd

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// aloneTime is for how long no two connections have asked in turn where there is no crowd.
const aloneTime = 100 * time.Millisecond

// crowd notices when several clients are at work at once. One after the other, each with all that it wants, as programs use
// contexts, is no crowd.
type crowd struct {
	// changed is told; there is no crowd where it is nil.
	changed func(crowded bool)

	last    atomic.Pointer[conn]      // who asked last
	inTurn  atomic.Pointer[time.Time] // when two last asked in turn
	crowded atomic.Bool

	mu sync.Mutex // while changed is told
}

// asks notes that a connection has a request.
func (w *crowd) asks(c *conn) {
	if w.changed == nil {
		return
	}
	now := time.Now()
	if w.last.Swap(c) != c && now.Sub(c.lastAsked) < aloneTime {
		w.inTurn.Store(&now)
	}
	c.lastAsked = now
	if w.isCrowded(now) != w.crowded.Load() {
		w.change(now)
	}
}

func (w *crowd) isCrowded(now time.Time) bool {
	inTurn := w.inTurn.Load()
	return inTurn != nil && now.Sub(*inTurn) < aloneTime
}

// change tells of a change, once.
func (w *crowd) change(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	crowded := w.isCrowded(now)
	if crowded != w.crowded.Swap(crowded) {
		w.changed(crowded)
	}
}

// forget is told of a connection that asks no more.
func (w *crowd) forget(c *conn) { w.last.CompareAndSwap(c, nil) }

// LimitProcessors is for programs that do nothing but serve clients, each request of which takes microseconds: to hand one
// client's from one processor to another costs more than it brings. It limits the process to one processor, and returns what
// ServerOptions.Crowd is to be: in a crowd there are two. It is nil if the process has only one now.
func LimitProcessors() (crowd func(crowded bool)) {
	if runtime.GOMAXPROCS(1) == 1 {
		return nil
	}
	return func(crowded bool) {
		if crowded {
			runtime.GOMAXPROCS(2)
		} else {
			runtime.GOMAXPROCS(1)
		}
	}
}
