package pcscd

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// refusals logs what clients were refused, no more than a burst and then a line each refusalInterval: whoever makes
// the server refuse must not be able to fill the log.
type refusals struct {
	log logrus.FieldLogger
	now func() time.Time

	mu      sync.Mutex
	tokens  float64
	last    time.Time
	skipped int
}

const (
	refusalBurst    = 10
	refusalInterval = 10 * time.Second
)

func newRefusals(log logrus.FieldLogger, now func() time.Time) *refusals {
	return &refusals{log: log, now: now, tokens: refusalBurst, last: now()}
}

// warn logs one refusal, or counts it for the next line.
func (r *refusals) warn(c Client, message string) {
	skipped, ok := r.take()
	if !ok {
		return
	}
	log := clientLog(r.log, c)
	if skipped > 0 {
		log = log.WithField("not_logged", skipped)
	}
	log.Warn(message)
}

func (r *refusals) take() (skipped int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.tokens = min(refusalBurst, r.tokens+now.Sub(r.last).Seconds()/refusalInterval.Seconds())
	r.last = now
	if r.tokens < 1 {
		r.skipped++
		return 0, false
	}
	r.tokens--
	skipped, r.skipped = r.skipped, 0
	return skipped, true
}

// clientLog is a logger that says who the client is.
func clientLog(log logrus.FieldLogger, c Client) logrus.FieldLogger {
	return log.WithFields(logrus.Fields{"pid": c.PID, "uid": c.UID, "executable": c.Executable})
}
