package usbfs

import (
	"sync"
	"time"
)

const (
	// maxRefusals bounds how many refusals are remembered.
	maxRefusals = 1024
	// refusalInterval is how often a waiting watcher looks whether a refusal still stands. The kernel sends no uevent
	// when a process claims or releases an interface, and none when a node's mode changes.
	refusalInterval = 200 * time.Millisecond
)

// claim names one interface of one plug-in.
type claim struct {
	key    string
	number uint8
}

// refusals remembers which interfaces Open could not get, and tells the watchers when one can be had. What was not refused is
// not told: a caller that gives an interface up must not be told, by its own release, to try again.
type refusals struct {
	// mu protects the fields below, each watcher's news, and the order of the watchers' deadlines.
	mu sync.Mutex
	// standing holds a function for each refusal that reports whether it is over, as it also is with the device.
	standing map[claim]func() bool
	watchers map[*watcher]bool
}

// add remembers a refusal, if there is a watcher to tell when it is over, and has the waiting ones look after it.
func (r *refusals) add(c claim, over func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers) == 0 || len(r.standing) == maxRefusals {
		return
	}
	if r.standing == nil {
		r.standing = make(map[claim]func() bool)
	}
	r.standing[c] = over
	for w := range r.watchers {
		// It wakes, and sets the deadline that is due.
		_ = w.file.SetReadDeadline(time.Now())
	}
}

func (r *refusals) remove(c claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.standing, c)
}

func (r *refusals) join(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watchers == nil {
		r.watchers = make(map[*watcher]bool)
	}
	r.watchers[w] = true
}

func (r *refusals) leave(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, w)
	if len(r.watchers) == 0 {
		clear(r.standing)
	}
}

// setDeadline bounds the next wait of a watcher: not at all, unless there is something to look after.
func (r *refusals) setDeadline(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var deadline time.Time
	if len(w.news) > 0 {
		deadline = time.Now()
	} else if len(r.standing) > 0 {
		deadline = time.Now().Add(refusalInterval)
	}
	_ = w.file.SetReadDeadline(deadline)
}

// news looks at all refusals, tells every watcher of those that are over, and returns what this one has been told.
func (r *refusals) news(w *watcher) []claim {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, over := range r.standing {
		if !over() {
			continue
		}
		delete(r.standing, c)
		for other := range r.watchers {
			if len(other.news) < maxRefusals {
				other.news = append(other.news, c)
			}
			if other != w {
				_ = other.file.SetReadDeadline(time.Now())
			}
		}
	}
	news := w.news
	w.news = nil
	return news
}
