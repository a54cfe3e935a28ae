package pcscd

import (
	"context"
	"sync"
	"time"

	"github.com/goccid/goccid/pcscd/wire"
)

// Session is one client of a Manager: what pcsc-lite keeps for a connection. It has at most one context and any number
// of handles, up to a limit. Its methods may be called at any time from any goroutine; each returns the code for the
// client. The context of a call shall end when the client goes: then waits, and the entry of a PIN, end; an exchange
// with the card is finished.
//
// For a handle that is not this session's, which a server has to check first by Owns, methods return
// wire.ErrInvalidHandle.
type Session struct {
	manager *Manager
	client  Client

	mu      sync.Mutex
	closed  bool
	context int32 // 0 is none
	handles map[int32]*handle
}

// NewSession makes a session for a client. Close must be called in the end.
func (m *Manager) NewSession(c Client) *Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions++
	return &Session{manager: m, client: c, handles: map[int32]*handle{}}
}

// Client is whose session it is.
func (s *Session) Client() Client { return s.client }

// Owns tells whether a handle is this session's.
func (s *Session) Owns(hCard int32) bool { return s.handle(hCard) != nil }

// HasContext tells whether there is a context that was established and not released.
func (s *Session) HasContext() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.context != 0
}

func (s *Session) handle(hCard int32) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[hCard]
}

// Establish makes a context (SCardEstablishContext) and returns its number, which no other context of the Manager has.
// A second one replaces the first; handles stay. Codes: ErrInvalidValue for an unknown scope.
func (s *Session) Establish(scope wire.Scope) (hContext uint32, code wire.Code) {
	if scope > wire.ScopeGlobal {
		return 0, wire.ErrInvalidValue
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, wire.ErrInvalidHandle
	}
	s.endContext()
	s.context = s.manager.number(s.manager.contexts)
	return uint32(s.context), wire.Success
}

// endContext frees the context's number. s.mu must be held.
func (s *Session) endContext() {
	if s.context != 0 {
		s.manager.freeNumber(s.manager.contexts, s.context)
		s.context = 0
	}
}

// Release ends the context and all handles (SCardReleaseContext): a card whose transaction or exclusive use ends by
// that is reset; if ctx ends before the reset could begin, then before it is used again. Codes: ErrInvalidHandle without
// a context, ErrInvalidValue for another one's number.
func (s *Session) Release(ctx context.Context, hContext uint32) wire.Code {
	s.mu.Lock()
	switch {
	case s.context == 0:
		s.mu.Unlock()
		return wire.ErrInvalidHandle
	case uint32(s.context) != hContext:
		s.mu.Unlock()
		return wire.ErrInvalidValue
	}
	s.endContext()
	handles := s.takeHandles()
	s.mu.Unlock()
	s.abandon(ctx, handles)
	return wire.Success
}

// Close is what has to be done when the client is gone: what Release does, whatever the context, and the end of the
// session. It may be called again.
func (s *Session) Close(ctx context.Context) {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.endContext()
	handles := s.takeHandles()
	s.mu.Unlock()
	s.abandon(ctx, handles)
	if first {
		s.manager.mu.Lock()
		s.manager.sessions--
		s.manager.mu.Unlock()
	}
}

// takeHandles empties the list of handles. s.mu must be held.
func (s *Session) takeHandles() []*handle {
	var all []*handle
	for _, h := range s.handles {
		all = append(all, h)
	}
	s.handles = map[int32]*handle{}
	return all
}

// abandon ends handles whose client has not ended them. Cards are reset side by side: one that takes its time must not
// hold up the others.
func (s *Session) abandon(ctx context.Context, handles []*handle) {
	var resets sync.WaitGroup
	for _, h := range handles {
		s.manager.freeNumber(s.manager.handles, h.number)
		if h.reader.ownsCard(h) {
			resets.Go(func() { h.reader.abandon(ctx, h) })
			continue
		}
		h.reader.drop(h)
	}
	resets.Wait()
}

// Connect opens a handle to the card in a reader, or to the reader alone when mode is wire.Direct (SCardConnect).
// hCard and active go to the client also with an error. It waits, as long as ctx lasts, for the end of a transaction
// of another client; one of the same client it answers with ErrSharingViolation, where pcsc-lite would wait for ever.
func (s *Session) Connect(ctx context.Context, hContext uint32, reader string, mode wire.ShareMode, preferred wire.Protocol) (hCard int32, active wire.Protocol, code wire.Code) {
	switch {
	case mode != wire.Direct && !acceptable(preferred):
		return 0, 0, wire.ErrProtoMismatch
	case !known(mode):
		return 0, 0, wire.ErrInvalidValue
	}
	r := s.manager.reader(reader)
	if r == nil {
		return 0, 0, wire.ErrUnknownReader
	}
	h := &handle{session: s, reader: r, since: time.Now(), mode: mode}
	active, code = r.connect(ctx, h, preferred)
	if code != wire.Success {
		return 0, active, code
	}
	if code = s.adopt(h); code != wire.Success {
		r.drop(h)
		return 0, active, code
	}
	if code = s.checkContext(hContext); code != wire.Success {
		s.disown(h)
		r.drop(h)
	}
	return h.number, active, code
}

// acceptable: the client accepts a protocol that there is.
func acceptable(preferred wire.Protocol) bool {
	return preferred&(wire.ProtocolAny|wire.ProtocolRaw|wire.ProtocolAnyOld) != 0
}

func known(mode wire.ShareMode) bool { return mode >= wire.Exclusive && mode <= wire.Direct }

// adopt gives a handle its number.
func (s *Session) adopt(h *handle) wire.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return wire.ErrInvalidHandle
	case len(s.handles) >= s.manager.options.MaxHandles:
		return wire.ErrNoMemory
	}
	h.number = s.manager.number(s.manager.handles)
	s.handles[h.number] = h
	return wire.Success
}

// disown forgets a handle's number. false: somebody else has done so.
func (s *Session) disown(h *handle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handles[h.number] != h {
		return false
	}
	delete(s.handles, h.number)
	s.manager.freeNumber(s.manager.handles, h.number)
	return true
}

func (s *Session) checkContext(hContext uint32) wire.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.context == 0:
		return wire.ErrInvalidHandle
	case uint32(s.context) != hContext:
		return wire.ErrInvalidValue
	}
	return wire.Success
}

// Reconnect renews a handle after a reset or for another share mode or protocol (SCardReconnect). It does not wait for a
// transaction of another client.
func (s *Session) Reconnect(ctx context.Context, hCard int32, mode wire.ShareMode, preferred wire.Protocol, initialization wire.Disposition) (active wire.Protocol, code wire.Code) {
	h := s.handle(hCard)
	switch {
	case h == nil:
		return 0, wire.ErrInvalidHandle
	case initialization > wire.UnpowerCard:
		return 0, wire.ErrInvalidValue
	case !known(mode):
		return 0, wire.ErrInvalidValue
	case mode != wire.Direct && !acceptable(preferred):
		return 0, wire.ErrProtoMismatch
	}
	return h.reader.reconnect(ctx, h, mode, preferred, initialization)
}

// Disconnect ends a handle (SCardDisconnect). If it shall do something to the card it waits, as long as ctx lasts, for
// the end of a transaction of another client; one of the same client's other handles it answers with
// ErrSharingViolation, where pcsc-lite would wait for ever.
func (s *Session) Disconnect(ctx context.Context, hCard int32, disposition wire.Disposition) wire.Code {
	h := s.handle(hCard)
	switch {
	case h == nil:
		return wire.ErrInvalidHandle
	case disposition > wire.EjectCard:
		return wire.ErrInvalidValue
	}
	if code := h.reader.disconnect(ctx, h, disposition); code != wire.Success {
		return code
	}
	s.disown(h)
	return wire.Success
}

// Begin begins a transaction, or one more level of it (SCardBeginTransaction). It waits for 100 ms at most, then
// returns ErrSharingViolation, which makes client libraries sleep for 100 ms and ask again; meanwhile the client keeps
// its place in the queue.
func (s *Session) Begin(ctx context.Context, hCard int32) wire.Code {
	h := s.handle(hCard)
	if h == nil {
		return wire.ErrInvalidHandle
	}
	return h.reader.begin(ctx, h)
}

// End ends one level of a transaction (SCardEndTransaction).
func (s *Session) End(ctx context.Context, hCard int32, disposition wire.Disposition) wire.Code {
	h := s.handle(hCard)
	switch {
	case h == nil:
		return wire.ErrInvalidHandle
	case disposition > wire.EjectCard:
		return wire.ErrInvalidValue
	}
	return h.reader.finishTransaction(ctx, h, disposition)
}

// Status checks the handle (SCardStatus). What a client is told about the card is in Manager.States.
func (s *Session) Status(hCard int32) wire.Code {
	h := s.handle(hCard)
	if h == nil {
		return wire.ErrInvalidHandle
	}
	h.reader.mu.Lock()
	defer h.reader.mu.Unlock()
	return h.verify(connected, unlocked, undisturbed, healthy)
}

// Transmit sends a command to the card by the protocol of the client's send PCI and returns the response
// (SCardTransmit). Whether it is too long for the client (ErrInsufficientBuffer) is the caller's to decide.
func (s *Session) Transmit(ctx context.Context, hCard int32, protocol wire.Protocol, command []byte) (response []byte, code wire.Code) {
	h := s.handle(hCard)
	if h == nil {
		return nil, wire.ErrInvalidHandle
	}
	return h.reader.transmit(ctx, h, protocol, command)
}

// Control sends a control code with data to the reader and returns the answer (SCardControl). Whether it is too long
// for the client is the caller's to decide.
func (s *Session) Control(ctx context.Context, hCard int32, controlCode uint32, in []byte) (out []byte, code wire.Code) {
	h := s.handle(hCard)
	if h == nil {
		return nil, wire.ErrInvalidHandle
	}
	return h.reader.control(ctx, h, controlCode, in)
}

// GetAttrib returns an attribute of the reader or card (SCardGetAttrib). limit is the length of the client's buffer;
// with ErrInsufficientBuffer the value is returned too, so that its length may be told.
func (s *Session) GetAttrib(ctx context.Context, hCard int32, id uint32, limit int) (value []byte, code wire.Code) {
	h := s.handle(hCard)
	if h == nil {
		return nil, wire.ErrInvalidHandle
	}
	return h.reader.getAttrib(ctx, h, id, limit)
}

// SetAttrib sets an attribute (SCardSetAttrib). What the API for drivers reserves for the resource manager, such as to
// tell the driver that the reader was removed, clients can't set.
func (s *Session) SetAttrib(ctx context.Context, hCard int32, id uint32, value []byte) wire.Code {
	h := s.handle(hCard)
	if h == nil {
		return wire.ErrInvalidHandle
	}
	return h.reader.setAttrib(ctx, h, id, value)
}
