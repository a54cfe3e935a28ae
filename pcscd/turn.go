package pcscd

import "slices"

// turn says whose turn it is to work with a card: one at a time, first come first served. The mutex of the reader that it
// belongs to guards it.
type turn struct {
	taken bool
	// waiting has a channel for each who waits. It is closed when the turn has come.
	waiting []chan struct{}
}

// try takes the turn if nobody has it.
func (t *turn) try() bool {
	if t.taken {
		return false
	}
	t.taken = true
	return true
}

// join waits in line.
func (t *turn) join() chan struct{} {
	c := make(chan struct{})
	t.waiting = append(t.waiting, c)
	return c
}

// leave ends the wait in line. false: the turn has come already, and has to be given.
func (t *turn) leave(c chan struct{}) bool {
	i := slices.Index(t.waiting, c)
	if i < 0 {
		return false
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	return true
}

// give ends a turn; it is the next one's then.
func (t *turn) give() {
	if len(t.waiting) == 0 {
		t.taken = false
		return
	}
	next := t.waiting[0]
	t.waiting = slices.Delete(t.waiting, 0, 1)
	close(next)
}
