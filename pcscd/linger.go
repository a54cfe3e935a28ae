package pcscd

import "time"

const (
	// spinTime is how long a connection looks for the next request itself before it sleeps until there is one.
	spinTime = 50 * time.Microsecond
	// dozeTime is how long one of a crowd waits for it without leaving its thread to others.
	dozeTime = time.Millisecond
	// maxLingerPause bounds the requests after which it does neither, since that was in vain.
	maxLingerPause = 63
)

// linger decides after which requests a connection stays for the next one, for a moment. A program mostly asks again as soon as it
// is answered, and to go to sleep and be woken takes several times as long as a request does. After staying in vain we leave it for
// a while, longer each time.
type linger struct {
	pause int // requests to leave it yet
	last  int // the pause before
}

// try calls stay, which tells whether the next request came, unless it is to be left.
func (l *linger) try(stay func() (came bool)) {
	switch {
	case l.pause > 0:
		l.pause--
	case stay():
		l.last = 0
	default:
		l.last = min(2*l.last+1, maxLingerPause)
		l.pause = l.last
	}
}

// input is what a connection's client sends.
type input struct{ *conn }

// Read implements io.Reader. It stays for what comes, for a moment.
func (i input) Read(b []byte) (n int, err error) {
	stay := i.spin
	if i.server.crowd.crowded.Load() {
		stay = i.doze
	}
	i.linger.try(func() (over bool) {
		n, over = stay(b)
		return over
	})
	if n > 0 {
		return n, nil
	}
	return i.net.Read(b)
}

// spin looks for what comes all the time. The client may be waiting for our processor, so it gives way.
func (i input) spin(b []byte) (n int, over bool) {
	for end := time.Now().Add(spinTime); ; giveWay() {
		n, over = i.readNow(b)
		if over || time.Now().After(end) {
			return n, over
		}
	}
}

// doze looks once, lets others have the processor, and then has its thread sleep until something comes. The kernel wakes a thread on
// its client's processor, and the two go on there: else they wake each other across processors, at twice the cost. Other
// connections have another thread meanwhile, see LimitProcessors.
func (i input) doze(b []byte) (n int, over bool) {
	if n, over = i.readNow(b); over {
		return n, over
	}
	giveWay()
	i.sleepNow()
	return i.readNow(b)
}

// readNow reads what is there to read, without waiting. It reports false if there may be something later.
func (i input) readNow(b []byte) (n int, over bool) {
	if i.hangup.raw == nil {
		return 0, true
	}
	err := i.hangup.raw.Read(func(fd uintptr) bool {
		n, over = readNow(fd, b)
		return true
	})
	return n, over || err != nil
}

// sleepNow has the thread sleep until there is something to read, for dozeTime at most.
func (i input) sleepNow() {
	// The error is that the connection is closed, which the next read says too.
	_ = i.hangup.raw.Control(func(fd uintptr) { awaitInput(fd, dozeTime) })
}
