// Package pcscd is a PC/SC resource manager: it knows the readers, lets many clients share them, and speaks to them
// through the socket protocol of pcsc-lite.
//
// # The core
//
//	Manager    the readers' table, its generations, the numbers of handles and contexts
//	reader     one slot: its card, power, handles, transaction lock (unexported)
//	Session    one client: a context with its handles, and every SCard function with its codes
//	Driver     what the core needs below it; *ifdhandler.Handler is one
//
// # Who owns what
//
// Each reader has one goroutine, which watches its card and ends with the reader's removal or Manager.Close; it is the
// one that closes the driver's channel. A reader's card belongs to whoever holds its turn (turn.go): one client's call,
// the watching goroutine for a new card, or the timer that takes the power of an unused one. Whoever holds the turn may
// call the driver; nobody else does, but for the question whether a card is there. Everything else about a reader is
// guarded by reader.mu, which is never held while the driver works, so a driver that hangs holds up its own reader only.
// Locks are taken in the order Session.mu, reader.mu, Manager.mu, each at most once.
//
// The table that clients see is a value that is replaced, never changed: States returns it without a lock. A change is
// published first and signalled then, by closing a channel that belongs to the generation before; so there is no
// wake-up to lose and no list of those who wait.
//
// # The server
//
//	Server      the socket: who may come, how many, how long; the automatic exit
//	conn        one client's connection: its messages in the version that it speaks (unexported)
//	watch       a connection's wait for changes, without I/O (unexported)
//	Authorizer  who may do what: Polkit, UserPolicy, Everybody
//
// Each connection has one goroutine, which reads requests, calls the Session and writes replies; one more of the Server
// tells waiting clients of a new table. Only the connection's goroutine reads from its socket. It also writes, while a
// request is being answered; between two requests, whoever has a message for a waiting client writes it, holding conn.mu
// and without blocking. A call that takes long has a second goroutine, which looks whether the client is still there
// (hangup.go). Server.mu is taken before conn.mu; neither is held during a call of a Session or an Authorizer.
//
// All ends with Serve, which returns when all sessions are closed.
package pcscd
