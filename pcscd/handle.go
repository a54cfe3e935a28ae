package pcscd

import (
	"time"

	"github.com/goccid/goccid/pcscd/wire"
)

// handle is one connection of a session to a reader. Its number and session don't change; reader.mu guards the rest.
type handle struct {
	session *Session
	reader  *reader
	number  int32
	since   time.Time

	mode  wire.ShareMode
	event event
	// uses: the card is to keep its power for this handle.
	uses bool
	// closed: no longer one of the reader's handles.
	closed bool
}

// event is what happened to the card that the handle's client has not been told yet.
type event uint8

const (
	noEvent event = iota
	cardReset
	cardRemoved
)

func (e event) String() string { return [...]string{"", "reset", "removed"}[e] }

func (e event) code() wire.Code {
	return [...]wire.Code{wire.Success, wire.ErrResetCard, wire.ErrRemovedCard}[e]
}

// check is one of the questions that most functions ask before they do something. reader.mu must be held.
type check func(*handle) wire.Code

// verify asks one question after the other until one fails.
func (h *handle) verify(checks ...check) wire.Code {
	for _, c := range checks {
		if code := c(h); code != wire.Success {
			return code
		}
	}
	return wire.Success
}

// connected: the reader is still there, and the handle too.
func connected(h *handle) wire.Code {
	switch {
	case h.reader.removed:
		return wire.ErrInvalidValue
	case h.closed:
		return wire.ErrInvalidHandle
	}
	return wire.Success
}

// healthy: the driver is able to tell the reader's status.
func healthy(h *handle) wire.Code {
	if h.reader.public.State&wire.StateUnknown != 0 {
		return wire.ErrReaderUnavailable
	}
	return wire.Success
}

// unlocked: nobody else has a transaction or the reader for itself.
func unlocked(h *handle) wire.Code {
	owner, exclusive := h.reader.lock.owner, h.reader.exclusive
	if owner != nil && owner != h || exclusive != nil && exclusive != h {
		return wire.ErrSharingViolation
	}
	return wire.Success
}

// undisturbed: nothing happened to the card that the client does not know of.
func undisturbed(h *handle) wire.Code { return h.event.code() }
