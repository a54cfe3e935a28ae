package pcscd

import (
	"context"
	"time"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/wire"
)

// Pauses, from firstPause to lastPause, after a driver's error, and from idlePause to firstPause after an event that was
// none: one is allowed, a stream of them is not.
const (
	firstPause = 400 * time.Millisecond
	lastPause  = 5 * time.Second
	idlePause  = 10 * time.Millisecond
)

// faultAfter is how many questions in a row must fail before a reader counts as being in error. A reader that is being
// unplugged may fail once before it is known to be gone.
const faultAfter = 2

// follow follows the card until the reader is removed, and then closes the channel. It is the reader's goroutine.
func (r *reader) follow() {
	defer r.finish()
	late := time.AfterFunc(r.manager.options.StartTimeout, r.startLate)
	defer late.Stop()
	var trouble, idle time.Duration
	for r.life.Err() == nil {
		before := r.cards()
		if r.look(r.life) != nil {
			trouble = min(max(firstPause, 2*trouble), lastPause)
			r.pause(trouble)
			continue
		}
		r.welcome()
		trouble = 0
		if idle = min(max(idlePause, 2*idle), firstPause); r.cards() != before {
			idle = 0
		}
		r.pause(idle)
		start := time.Now()
		if !r.waitEvent() {
			r.pause(firstPause)
		}
		if time.Since(start) > lastPause {
			idle = 0
		}
	}
}

func (r *reader) cards() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.card
}

func (r *reader) pause(d time.Duration) {
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.life.Done():
	}
}

// waitEvent waits for the driver's next event, or for wake. false: the driver can't wait now.
func (r *reader) waitEvent() bool {
	ctx, cancel := context.WithCancel(r.life)
	defer cancel()
	if !r.onWake(cancel) {
		return true
	}
	err := r.manager.driver.WaitEvent(ctx, r.lun)
	if err == nil || ctx.Err() != nil {
		return true
	}
	r.failed(err)
	return false
}

// onWake sets what wake does. false: it has been called already.
func (r *reader) onWake(interrupt context.CancelFunc) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.interrupt = interrupt
	woken := r.woken
	r.woken = false
	return !woken
}

// wake makes the reader's goroutine look again.
func (r *reader) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakeLocked()
}

// wakeLocked is wake for those who hold r.mu.
func (r *reader) wakeLocked() {
	r.woken = true
	if r.interrupt != nil {
		r.interrupt()
	}
}

// look asks the driver whether there is a card, and acts on the answer.
func (r *reader) look(ctx context.Context) error {
	select {
	case r.looking <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-r.looking }()
	before := r.cards()
	code, err := r.manager.driver.ICCPresence(ctx, r.lun)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		if r.failed(err) != ifdhandler.NoSuchDevice {
			r.fault(err)
		}
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removed || r.card != before {
		// Somebody has learned something newer meanwhile.
		r.woken = true
		return nil
	}
	r.sees(code == ifdhandler.ICCPresent)
	return nil
}

// sees compares the driver's word with what was known. r.mu must be held.
func (r *reader) sees(present bool) {
	wasFault := r.public.State&wire.StateUnknown != 0
	r.failures = 0
	if wasFault {
		r.log.Info("reader answers again")
	}
	switch {
	case !present && r.present:
		r.takeOut()
	case !present && (wasFault || !r.public.Known):
		r.public.State = stateAbsent
		r.becomeKnown()
		r.publish(true)
	case present && !r.present:
		r.present, r.fresh = true, true
		r.card++
	case present && wasFault:
		// What has become of the card meanwhile is not known; the power-up that follows resets it in any case.
		r.fresh = true
		r.card++
		r.disturb(cardReset)
	}
}

// takeOut is a card's removal. r.mu must be held.
func (r *reader) takeOut() {
	if r.fresh {
		r.count() // nobody has been told of its insertion
	}
	r.count()
	r.card++
	r.counters.Removals++
	r.present, r.fresh, r.powered, r.stale = false, false, false, false
	for _, h := range r.handles {
		r.setUses(h, false)
	}
	r.disturb(cardRemoved)
	r.lock.owner, r.lock.depth = nil, 0
	r.advance()
	r.rest()
	r.clearCard(stateAbsent)
	r.becomeKnown()
	r.publish(true)
}

// clearCard sets a state in which nothing is known of a card. r.mu must be held.
func (r *reader) clearCard(s wire.State) {
	r.public.State, r.public.ATR, r.public.Protocol = s, nil, wire.ProtocolUndefined
}

// count counts an insertion or removal for clients; the first status is not counted. r.mu must be held.
func (r *reader) count() {
	if r.public.Known {
		r.public.EventCounter = (r.public.EventCounter + 1) & 0xFFFF
	}
}

// becomeKnown says that the first status is there. r.mu must be held.
func (r *reader) becomeKnown() {
	if !r.public.Known {
		r.public.Known = true
		close(r.known)
	}
}

// welcome powers a card up that has just come.
func (r *reader) welcome() {
	if !r.turnForFresh() {
		return
	}
	defer r.give()
	if r.power(ifdhandler.PowerUp) == wire.ErrUnresponsiveCard {
		r.log.Info("card does not answer")
	}
}

// turnForFresh waits for the turn if there is a card that nobody has powered up. false: there is none, and no turn.
func (r *reader) turnForFresh() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fresh {
		return false
	}
	if !r.turn.try() && r.await(r.life) != wire.Success {
		return false
	}
	if !r.fresh {
		r.turn.give()
		return false
	}
	return true
}

// fault makes a reader whose driver can't tell its status known as such, once.
func (r *reader) fault(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures++
	r.wakeLocked() // whoever has found out, the reader's goroutine must find out when it is over
	if r.removed || r.failures < faultAfter || r.public.State&wire.StateUnknown != 0 {
		return
	}
	r.log.WithError(err).Warn("reader does not tell its status")
	r.setFault()
}

// startLate is for a reader that does not tell its first status.
func (r *reader) startLate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removed || r.public.Known {
		return
	}
	r.log.Warn("reader does not tell its first status in time")
	r.setFault()
}

// setFault makes the reader one that can't be used. r.mu must be held.
func (r *reader) setFault() {
	r.powered = false
	r.clearCard(stateUnknown)
	r.becomeKnown()
	r.rest()
	r.publish(true)
}
