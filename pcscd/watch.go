package pcscd

import "github.com/goccid/goccid/pcscd/wire"

// maxRegistrations bounds the waits that one connection may have open. Client libraries have one.
const maxRegistrations = 16

// watch is a connection's registration for changes of the reader table: what WAIT, STOP, CANCEL and changes do to it.
// It does no I/O; conn writes what it says.
//
// Each WAIT gets exactly one message of 8 bytes: that the table changed, that it was cancelled, or the reply to STOP.
// A change is not an event that could be lost but the comparison of two generations: the table's and the one that the
// client has seen.
//
//	          WAIT                       table newer than seen
//	idle ────────────► registered ───────────────────────────────► idle, message
//	                    │  │    STOP ──────────────────────────────► idle, reply
//	                    │  └─── CANCEL ─► cancelled ── next ───────► idle, message
//	                    └ since 4:6 nothing is sent before the client has fetched the table: the message would be
//	                      taken for the table's size.
type watch struct {
	registrations int
	// cancelled registrations whose message is not sent yet.
	cancelled int
	// seen is the generation of the last table that the client got, 0 before the first.
	seen uint64
	// owed says that the client, since 4:6, still has to fetch the table of its WAIT.
	owed bool
}

// wait registers a client that has got, or needs, no table with it (4:3, 4:4, 4:5). It returns false when there are
// too many registrations. A client that never saw a table starts at the present generation.
func (w *watch) wait(generation uint64) bool {
	if w.seen == 0 {
		w.seen = generation
	}
	return w.register()
}

// waitThenFetch registers a client that will fetch the table now (4:6).
func (w *watch) waitThenFetch() bool {
	w.owed = true
	return w.register()
}

func (w *watch) register() bool {
	if w.registrations+w.cancelled >= maxRegistrations {
		return false
	}
	w.registrations++
	return true
}

// sawTable notes that the client has a table of this generation.
func (w *watch) sawTable(generation uint64) {
	w.seen = generation
	w.owed = false
}

// stop ends one registration. The reply goes to the client only if there was one; if not, its message is on the way and
// the client takes it for the reply.
func (w *watch) stop() (code wire.Code, reply bool) {
	w.owed = false
	switch {
	case w.cancelled > 0:
		w.cancelled--
		return wire.ErrCancelled, true
	case w.registrations > 0:
		w.registrations--
		return wire.Success, true
	}
	return wire.Success, false
}

// cancel ends one registration on behalf of another connection; without one it does nothing.
func (w *watch) cancel() {
	if w.registrations > 0 {
		w.registrations--
		w.cancelled++
	}
}

// abandon ends one registration because the service stops. It returns false when there is none, or none that could be
// told.
func (w *watch) abandon() bool {
	if w.owed || w.registrations == 0 {
		return false
	}
	w.registrations--
	return true
}

// next takes the message that is due now, if there is one.
func (w *watch) next(generation uint64) (code wire.Code, due bool) {
	switch {
	case w.owed:
		return wire.Success, false
	case w.cancelled > 0:
		w.cancelled--
		return wire.ErrCancelled, true
	case w.registrations > 0 && w.seen < generation:
		w.registrations--
		if w.registrations == 0 {
			w.seen = generation
		}
		return wire.Success, true
	}
	return wire.Success, false
}
