package pcscd

import (
	"context"
	"time"

	"github.com/goccid/goccid/pcscd/wire"
)

// advance gives a free lock to the next in the queue. r.mu must be held.
func (r *reader) advance() {
	now := time.Now()
	again := r.lock.advance(now)
	if again.IsZero() || r.removed {
		return
	}
	wait := again.Sub(now)
	if r.lock.recheck != nil {
		r.lock.recheck.Reset(wait)
		return
	}
	r.lock.recheck = time.AfterFunc(wait, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.removed {
			r.advance()
		}
	})
}

// pass waits until the lock is free, or the handle's own, and then keeps it from everybody until passed is called. Levels
// of an own transaction are dropped. It does not wait for a transaction of the same session: its client could not end it
// meanwhile. Each check must hold, before the wait and after it.
func (r *reader) pass(ctx context.Context, h *handle, what purpose, checks ...check) wire.Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code := h.verify(checks...); code != wire.Success {
		return code
	}
	if r.lock.owner == h {
		r.lock.owner, r.lock.depth = nil, 0
		r.lock.passing = true
		return wire.Success
	}
	if r.lock.owner != nil && r.lock.owner.session == h.session {
		return wire.ErrSharingViolation
	}
	if r.lock.free() && len(r.lock.queue) == 0 {
		r.lock.passing = true
		return wire.Success
	}
	w := r.lock.join(h, what, time.Now())
	r.advance()
	r.awaitCall(ctx, w, nil)
	r.lock.leave(w)
	code := h.verify(checks...)
	if code == wire.Success && !w.granted {
		code = codeOf(ctx)
	}
	if code != wire.Success && w.granted {
		r.lock.passing = false
		r.advance()
	}
	return code
}

// passed gives the lock back that pass has kept.
func (r *reader) passed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lock.passing = false
	r.advance()
}

// awaitCall waits until the waiter is called, the time is over, or ctx or the reader's life ends. r.mu is held, but not
// while it waits.
func (r *reader) awaitCall(ctx context.Context, w *waiter, timeout <-chan time.Time) {
	called := w.called
	r.mu.Unlock()
	defer r.mu.Lock()
	select {
	case <-called:
	case <-timeout:
	case <-ctx.Done():
	case <-r.life.Done():
	}
}

// begin is SCardBeginTransaction: the handle gets the lock, or one more level of it.
func (r *reader) begin(ctx context.Context, h *handle) wire.Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code := h.verify(connected, healthy, undisturbed); code != wire.Success {
		return code
	}
	if r.exclusive != nil && r.exclusive != h {
		return wire.ErrSharingViolation
	}
	now := time.Now()
	if r.lock.owner == h || r.lock.free() && len(r.lock.queue) == 0 {
		r.lock.begin(h, now)
		r.counters.Transactions++
		return wire.Success
	}
	w := r.lock.join(h, toBegin, now)
	r.advance()
	timer := time.NewTimer(beginWait)
	defer timer.Stop()
	r.awaitCall(ctx, w, timer.C)
	return r.begun(ctx, h, w)
}

// begun is what has become of a wait. r.mu must be held.
func (r *reader) begun(ctx context.Context, h *handle, w *waiter) wire.Code {
	code := h.verify(connected, healthy, undisturbed)
	switch {
	case w.granted && code == wire.Success:
		r.counters.Transactions++
		return wire.Success
	case w.granted && r.lock.owner == h:
		// The card was removed or reset between the call and now. Clients that get an error don't end anything.
		r.unlockLevel(h)
	case code == wire.Success && ctx.Err() == nil:
		r.lock.sleep(w, time.Now())
		r.advance()
		return wire.ErrSharingViolation
	}
	r.lock.leave(w)
	r.advance()
	if code == wire.Success {
		return codeOf(ctx)
	}
	return code
}

// unlockLevel ends one level of the handle's transaction. r.mu must be held.
func (r *reader) unlockLevel(h *handle) wire.Code {
	if code := unlocked(h); code != wire.Success {
		return code
	}
	if r.lock.owner == nil {
		return wire.ErrNotTransacted
	}
	if r.lock.depth--; r.lock.depth == 0 {
		r.lock.owner = nil
		r.advance()
	}
	return wire.Success
}

// finishTransaction is SCardEndTransaction.
func (r *reader) finishTransaction(ctx context.Context, h *handle, d wire.Disposition) wire.Code {
	result := wire.Success
	switch d {
	case wire.ResetCard, wire.UnpowerCard:
		if code := r.take(ctx, h, connected, undisturbed, unlocked); code != wire.Success {
			return code
		}
		result = resetCode(r.reset(d))
		defer r.give()
	case wire.EjectCard:
		result = wire.ErrUnsupportedFeature // no driver of the API 3.0 can
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	checks := []check{connected, undisturbed, unlocked}
	if d == wire.ResetCard || d == wire.UnpowerCard {
		checks = checks[:1] // the disturbance is of its own making
	}
	if code := h.verify(checks...); code != wire.Success {
		return code
	}
	if code := r.unlockLevel(h); code != wire.Success {
		return code
	}
	return result
}

// resetCode is what a failed reset at the end of a transaction is called.
func resetCode(code wire.Code) wire.Code {
	if code == wire.ErrUnresponsiveCard {
		return wire.ErrNotTransacted
	}
	return code
}
