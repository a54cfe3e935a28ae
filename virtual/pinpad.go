package virtual

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// PINPad is how a reader's PIN pad behaves. Whether there is one is bPINSupport's business.
type PINPad struct {
	// Keys are pressed from the start, as by Reader.Press.
	Keys string
	// TimeOut is for messages whose bTimeOut is 0; 0 is 30 s.
	TimeOut time.Duration
	// Answers says how the reader tells that no PIN was entered.
	Answers PINAnswers
}

// PINAnswers is how a reader tells that the holder has cancelled the entry of a PIN, or was too slow. The specification has
// the errors; readers in the field do either.
type PINAnswers uint8

// The ways to tell.
const (
	PINErrors      PINAnswers = iota // bError EF and F0 (CCID 1.1 §6.2.6)
	PINStatusWords                   // SW1 SW2 6401 and 6400 in place of the card's (PC/SC part 10 §2.5)
)

const (
	defaultPINTimeOut = 30 * time.Second
	// extensionInterval is how often a reader that waits for a key asks the host for time.
	extensionInterval = time.Second
	// maxKeys bounds the keys that nobody has read.
	maxKeys = 1000
)

// The keys that are not digits.
const (
	keyConfirm   = '#'
	keyCancel    = 'c'
	keyBackspace = '<'
)

// Press presses keys on the reader's PIN pad: digits, # to confirm, c to cancel, < to take back a digit. They go to the PIN
// that is being entered, and what that leaves to those entered next.
func (r *Reader) Press(keys string) error { return r.pad.press(keys) }

// pad is the keys of a reader. All its slots share it.
type pad struct {
	mu      sync.Mutex
	keys    []byte
	changed chan struct{} // closed and replaced when keys are pressed
	taken   bool          // a slot has it
}

func newPad() *pad { return &pad{changed: make(chan struct{})} }

func (p *pad) press(keys string) error {
	for _, key := range keys {
		if !strings.ContainsRune("0123456789#c<", key) {
			return fmt.Errorf("virtual: key %q: 0 to 9, #, c and < are possible", key)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys)+len(keys) > maxKeys {
		return fmt.Errorf("virtual: more than %d keys that nobody reads", maxKeys)
	}
	p.keys = append(p.keys, keys...)
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// take makes the pad one slot's, until give.
func (p *pad) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken {
		return false
	}
	p.taken = true
	return true
}

func (p *pad) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = false
}

// next returns the next key. Without one it returns what to wait for.
func (p *pad) next() (key byte, pressed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys) == 0 {
		return 0, p.changed
	}
	key, p.keys = p.keys[0], p.keys[1:]
	return key, nil
}

// outcome is how the entry of a PIN ended.
type outcome uint8

const (
	pinEntered outcome = iota
	pinCancelled
	pinTimedOut
	pinAborted
	pinMismatch // the new PIN and its confirmation differ
)

// entry is one PIN being entered.
type entry struct {
	pad      *pad
	timeOut  time.Duration
	min, max int
	// atMax, atKey and atTimeOut are the bits of bEntryValidationCondition.
	atMax, atKey, atTimeOut bool
	// extend asks the host for time.
	extend func()
}

// read waits for keys until a condition is met. The digits are 0..9.
func (e entry) read(ctx context.Context) ([]byte, outcome) {
	end := time.NewTimer(e.timeOut)
	defer end.Stop()
	ticks := time.NewTicker(extensionInterval)
	defer ticks.Stop()
	var digits []byte
	for {
		if e.atMax && len(digits) == e.max {
			return digits, pinEntered
		}
		key, pressed := e.pad.next()
		if pressed == nil {
			switch {
			case key == keyCancel:
				return nil, pinCancelled
			case key == keyConfirm && e.atKey && len(digits) >= e.min:
				return digits, pinEntered
			case key == keyBackspace:
				digits = digits[:max(len(digits)-1, 0)]
			case key >= '0' && key <= '9' && len(digits) < e.max:
				digits = append(digits, key-'0')
			}
			continue
		}
		select {
		case <-pressed:
		case <-ticks.C:
			e.extend()
		case <-ctx.Done():
			return nil, pinAborted
		case <-end.C:
			if e.atTimeOut && len(digits) >= e.min {
				return digits, pinEntered
			}
			return nil, pinTimedOut
		}
	}
}
