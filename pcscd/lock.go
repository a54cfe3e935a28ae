package pcscd

import (
	"slices"
	"time"
)

// The rules of the queue for a reader's lock.
//
// A waiting Connect or Disconnect waits inside the daemon until it is its turn. A waiting Begin can't: its client has one
// connection, which another thread may need to end the very transaction that Begin waits for. So Begin answers
// SHARING_VIOLATION after beginWait, the client library sleeps for 100 ms and asks again. In that time it keeps its
// place. If the lock comes free while the one in front sleeps, the first one who does not sleep overtakes it, so that the
// lock is not idle. Overtaking is bounded: after overtakeFor in the queue, a sleeper in front gets the lock kept for
// it until it is back, at most for placeKept. A sleeper that does not come back within placeKept has lost its place.
//
// So nobody waits longer than those in front of it need, and overtakeFor more; and the lock is idle with a queue for at
// most placeKept for each sleeper that has waited for overtakeFor.
const (
	beginWait   = 100 * time.Millisecond
	placeKept   = 300 * time.Millisecond
	overtakeFor = time.Second
)

// lock is who has a reader's card for itself for a while: a transaction, or somebody who passes, that is, works on the
// card in a way that does not agree with the start of a transaction but leaves everybody else alone. It knows nothing of
// exclusive handles. The mutex of the reader that it belongs to guards it.
type lock struct {
	owner   *handle // who has the transaction
	depth   int     // its levels
	since   time.Time
	passing bool

	queue []*waiter
	// recheck calls advance when a place that is kept expires.
	recheck *time.Timer
}

// purpose is what somebody waits for the lock for.
type purpose string

const (
	toBegin      purpose = "transaction"
	toConnect    purpose = "connect"
	toDisconnect purpose = "disconnect"
)

// waiter is a place in the queue.
type waiter struct {
	h     *handle
	what  purpose
	since time.Time
	// called is closed when the wait is over, successfully or not; nil while the waiter sleeps.
	called  chan struct{}
	granted bool
	// kept is until when a sleeper keeps its place.
	kept time.Time
}

func (l *lock) free() bool { return l.owner == nil && !l.passing }

// join goes to the end of the queue, or awakes in the place that a Begin of this handle still has.
func (l *lock) join(h *handle, what purpose, now time.Time) *waiter {
	i := slices.IndexFunc(l.queue, func(w *waiter) bool { return w.h == h && w.what == what && w.called == nil })
	if i >= 0 {
		l.queue[i].called = make(chan struct{})
		return l.queue[i]
	}
	w := &waiter{h: h, what: what, since: now, called: make(chan struct{})}
	l.queue = append(l.queue, w)
	return w
}

// sleep lets the waiter go away for a while.
func (l *lock) sleep(w *waiter, now time.Time) {
	w.called = nil
	w.kept = now.Add(placeKept)
}

// leave takes the waiter out of the queue.
func (l *lock) leave(w *waiter) {
	if i := slices.Index(l.queue, w); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
}

// dismiss ends the waits of these handles without success.
func (l *lock) dismiss(of func(*waiter) bool) {
	l.queue = slices.DeleteFunc(l.queue, func(w *waiter) bool {
		if !of(w) {
			return false
		}
		if w.called != nil {
			close(w.called)
		}
		return true
	})
}

// begin makes h the owner, or goes a level deeper.
func (l *lock) begin(h *handle, now time.Time) {
	if l.owner == nil {
		l.since = now
	}
	l.owner = h
	l.depth++
}

// advance gives a free lock to whoever is next. It must be called after every change; again is when it has to be called
// once more even without one, zero for never.
func (l *lock) advance(now time.Time) (again time.Time) {
	if !l.free() {
		return time.Time{}
	}
	next, again := l.next(now)
	if next == nil {
		return again
	}
	l.leave(next)
	next.granted = true
	if next.what == toBegin {
		l.begin(next.h, now)
	} else {
		l.passing = true
	}
	close(next.called)
	return time.Time{}
}

// next chooses by the rules above.
func (l *lock) next(now time.Time) (*waiter, time.Time) {
	l.queue = slices.DeleteFunc(l.queue, func(w *waiter) bool { return w.called == nil && !now.Before(w.kept) })
	for _, w := range l.queue {
		if w.called != nil {
			return w, time.Time{}
		}
		if now.Sub(w.since) >= overtakeFor {
			return nil, w.kept
		}
	}
	return nil, time.Time{}
}
