package pcscd

import (
	"context"

	"github.com/goccid/goccid/pcscd/wire"
)

// Session is one client of a Manager: what pcsc-lite keeps for a connection. It has at most one context and any number
// of handles, up to a limit. Its methods may be called at any time from any goroutine; each returns the code for the
// client. The context of a call shall end when the client goes: then waits, and the entry of a PIN, end; an exchange
// with the card is finished.
//
// For a handle that is not this session's, which a server has to check first by Owns, methods return
// wire.ErrInvalidHandle.
type Session struct{}

// NewSession makes a session for a client.
func (m *Manager) NewSession(c Client) *Session { return &Session{} }

// Client is whose session it is.
func (s *Session) Client() Client { return Client{} }

// Owns tells whether a handle is this session's.
func (s *Session) Owns(hCard int32) bool { return false }

// HasContext tells whether there is a context that was established and not released.
func (s *Session) HasContext() bool { return false }

// Establish makes a context (SCardEstablishContext) and returns its number, which no other context of the Manager has.
// A second one replaces the first; handles stay. Codes: ErrInvalidValue for an unknown scope.
func (s *Session) Establish(scope wire.Scope) (hContext uint32, code wire.Code) { return 0, 0 }

// Release ends the context and all handles (SCardReleaseContext): a card whose transaction or exclusive use ends by
// that is reset. Codes: ErrInvalidHandle without a context, ErrInvalidValue for another one's number.
func (s *Session) Release(ctx context.Context, hContext uint32) wire.Code { return 0 }

// Close is what has to be done when the client is gone: Release, whatever the context.
func (s *Session) Close(ctx context.Context) {}

// Connect opens a handle to the card in a reader, or to the reader alone when mode is wire.Direct (SCardConnect).
// hCard and active go to the client also with an error. It waits, as long as ctx lasts, for the end of a transaction
// of another client.
func (s *Session) Connect(ctx context.Context, hContext uint32, reader string, mode wire.ShareMode, preferred wire.Protocol) (hCard int32, active wire.Protocol, code wire.Code) {
	return 0, 0, 0
}

// Reconnect renews a handle after a reset or for another share mode or protocol (SCardReconnect).
func (s *Session) Reconnect(ctx context.Context, hCard int32, mode wire.ShareMode, preferred wire.Protocol, initialization wire.Disposition) (active wire.Protocol, code wire.Code) {
	return 0, 0
}

// Disconnect ends a handle (SCardDisconnect). If it shall do something to the card it waits, as long as ctx lasts, for
// the end of a transaction of another client.
func (s *Session) Disconnect(ctx context.Context, hCard int32, disposition wire.Disposition) wire.Code {
	return 0
}

// Begin begins a transaction, or one more level of it (SCardBeginTransaction). It waits for 100 ms at most, then
// returns ErrSharingViolation, which makes client libraries sleep for 100 ms and ask again; meanwhile the client keeps
// its place in the queue.
func (s *Session) Begin(ctx context.Context, hCard int32) wire.Code { return 0 }

// End ends one level of a transaction (SCardEndTransaction).
func (s *Session) End(ctx context.Context, hCard int32, disposition wire.Disposition) wire.Code {
	return 0
}

// Status checks the handle (SCardStatus). What a client is told about the card is in Manager.States.
func (s *Session) Status(hCard int32) wire.Code { return 0 }

// Transmit sends a command to the card by the protocol of the client's send PCI and returns the response
// (SCardTransmit). Whether it is too long for the client (ErrInsufficientBuffer) is the caller's to decide.
func (s *Session) Transmit(ctx context.Context, hCard int32, protocol wire.Protocol, command []byte) (response []byte, code wire.Code) {
	return nil, 0
}

// Control sends a control code with data to the reader and returns the answer (SCardControl). Whether it is too long
// for the client is the caller's to decide.
func (s *Session) Control(ctx context.Context, hCard int32, controlCode uint32, in []byte) (out []byte, code wire.Code) {
	return nil, 0
}

// GetAttrib returns an attribute of the reader or card (SCardGetAttrib). limit is the length of the client's buffer;
// with ErrInsufficientBuffer the value is returned too, so that its length may be told.
func (s *Session) GetAttrib(ctx context.Context, hCard int32, id uint32, limit int) (value []byte, code wire.Code) {
	return nil, 0
}

// SetAttrib sets an attribute (SCardSetAttrib).
func (s *Session) SetAttrib(ctx context.Context, hCard int32, id uint32, value []byte) wire.Code {
	return 0
}
