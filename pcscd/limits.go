package pcscd

import (
	"time"

	"github.com/goccid/goccid/pcscd/wire"
)

// defaultConnections is how many clients there may be, so as many must be able to share a card.
const defaultConnections = 1024

// Limits bound what clients can make the server hold. The zero value of each field means its default.
type Limits struct {
	// Connections at one time: 1024. A context of libpcsclite is one connection.
	Connections int
	// ConnectionsPerUser is how many of them one user may have: three quarters. Root has all.
	ConnectionsPerUser int
	// RequestsPerSecond is how many requests all clients of one user may make, after as many at once; more of them wait. 0 is no
	// limit. Root has none.
	RequestsPerSecond int
	// Silence is how long a connection without a context may say nothing: 60 s. With a context, for ever.
	Silence time.Duration
	// Message is how long one message may take from its first byte to its last, and a reply until the client has
	// taken it: 10 s.
	Message time.Duration
	// Penalty is how long the connection of a client is kept that used a handle of somebody else's, before it is
	// closed: 2 s. Nothing but the connection is.
	Penalty time.Duration
	// Authorization is how long a decision about a client may take, including a person's: 2 min.
	Authorization time.Duration
}

func (l Limits) withDefaults() Limits {
	def(&l.Connections, defaultConnections)
	def(&l.ConnectionsPerUser, l.Connections-l.Connections/4)
	def(&l.Silence, time.Minute)
	def(&l.Message, 10*time.Second)
	def(&l.Penalty, 2*time.Second)
	def(&l.Authorization, 2*time.Minute)
	return l
}

// def sets what is not positive to its default.
func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// handleLimit says which limit a Connect has met, by its code: no other reason has these. "" is none.
func handleLimit(code wire.Code) string {
	switch code {
	case wire.ErrInternalError:
		return "too many handles on the reader"
	case wire.ErrNoMemory:
		return "too many handles of the client"
	}
	return ""
}
