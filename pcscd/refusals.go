package pcscd

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// refusals logs what clients were refused, no more than a burst and then a line each refusalInterval: whoever makes
// the server refuse must not be able to fill the log.
type refusals struct {
	log   logrus.FieldLogger
	now   func() time.Time
	lines *rate.Limiter

	mu      sync.Mutex
	skipped int
}

const (
	refusalBurst    = 10
	refusalInterval = 10 * time.Second
)

func newRefusals(log logrus.FieldLogger, now func() time.Time) *refusals {
	return &refusals{log: log, now: now, lines: rate.NewLimiter(rate.Every(refusalInterval), refusalBurst)}
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
	if !r.lines.AllowN(r.now(), 1) {
		r.skipped++
		return 0, false
	}
	skipped, r.skipped = r.skipped, 0
	return skipped, true
}

// clientLog is a logger that says who the client is.
func clientLog(log logrus.FieldLogger, c Client) logrus.FieldLogger {
	return log.WithFields(logrus.Fields{"pid": c.PID, "uid": c.UID, "executable": c.Executable})
}
