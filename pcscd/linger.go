package pcscd

import "time"

const (
	// lingerTime is how long a connection looks for the next request itself before it sleeps until there is one.
	lingerTime = 50 * time.Microsecond
	// maxLingerPause bounds the requests after which it does not, since it has looked in vain.
	maxLingerPause = 63
)

// linger decides after which requests a connection looks for the next one itself, for a moment. A program mostly asks again as
// soon as it is answered, and to go to sleep and be woken takes several times as long as a request does. But while we look, the
// client may be waiting for our processor. So we give way all the time, and after looking in vain we leave it for a while, longer
// each time.
type linger struct {
	pause int // requests to leave it yet
	last  int // the pause before
}

// until looks until ready says that it is over.
func (l *linger) until(ready func() bool) {
	if l.pause > 0 {
		l.pause--
		return
	}
	end := time.Now().Add(lingerTime)
	for !ready() {
		if time.Now().After(end) {
			l.last = min(2*l.last+1, maxLingerPause)
			l.pause = l.last
			return
		}
		giveWay()
	}
	l.last = 0
}

// input is what a connection's client sends.
type input struct{ *conn }

// Read implements io.Reader. It looks for what comes for a moment itself, if the client is alone.
func (i input) Read(b []byte) (n int, err error) {
	if i.alone {
		i.linger.until(func() (over bool) {
			n, over = i.readNow(b)
			return over || i.server.asked.Load() != i.conn
		})
	}
	if n > 0 {
		return n, nil
	}
	return i.net.Read(b)
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
