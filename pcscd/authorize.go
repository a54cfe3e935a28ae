package pcscd

import (
	"context"
	"errors"
	"fmt"
)

// ErrDenied is what an Authorizer's refusal is, as opposed to not being able to decide. Clients are refused with both.
var ErrDenied = errors.New("pcscd: access denied")

// Authorizer decides what clients may do. Its methods may wait, for a person's decision too; ctx ends when the client
// goes. An error is a refusal.
type Authorizer interface {
	// Connection decides whether a client may use the service. It is asked once for each connection, at the first
	// command that tells or changes something.
	Connection(ctx context.Context, c Client) error
	// CardAccess decides about each SCardConnect.
	CardAccess(ctx context.Context, c Client, reader string) error
}

// Everybody is an Authorizer that lets everybody do everything who can open the socket.
type Everybody struct{}

// Connection is always allowed.
func (Everybody) Connection(context.Context, Client) error { return nil }

// CardAccess is always allowed.
func (Everybody) CardAccess(context.Context, Client, string) error { return nil }

func denied(action string, c Client) error {
	return fmt.Errorf("%w: %s by uid %d, pid %d", ErrDenied, action, c.UID, c.PID)
}
