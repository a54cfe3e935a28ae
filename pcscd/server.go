package pcscd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/pcscd/wire"
)

// ErrIdle is what Serve returns when it ended because nobody had been connected for ServerOptions.AutoExit.
var ErrIdle = errors.New("pcscd: no client was connected")

// sessionCloseTime bounds what is done for a client that went away.
const sessionCloseTime = time.Minute

// stopTime is how long the end of the server leaves a client to send the rest of its message, or to take its reply.
const stopTime = time.Second

// ServerOptions are what a Server can be made with.
type ServerOptions struct {
	Manager *Manager
	// Authorizer decides about clients; nil lets everybody do everything.
	Authorizer Authorizer
	Limits     Limits
	// AutoExit is how long there may be no client before Serve returns ErrIdle, also when none ever came; 0 is for ever.
	AutoExit time.Duration
	// Hide is called when Serve is about to end. It makes that clients do not find the socket any more, so that none connects
	// that nobody will serve; those that came before it are looked after. Where one of them puts an automatic exit off, what Hide
	// returned is called: the socket is to be found again. It is nil for a socket that another process serves next.
	Hide func() (show func())
	// Crowd is called when several clients begin to be at work at once, and when they have not been any more for a while; see
	// LimitProcessors. Calls come one at a time, and a client's request waits for their end. It is nil for nothing.
	Crowd func(crowded bool)
	// Logger is nil for none.
	Logger logrus.FieldLogger
}

// resources is what the server needs of a Manager.
type resources interface {
	States() (states []wire.ReaderState, generation uint64)
	Changed(generation uint64) <-chan struct{}
	ReaderEvents() uint32
	Ready(ctx context.Context) error
	session(c Client) session
}

// session is what the server needs of a Session, whose methods these are.
type session interface {
	Owns(hCard int32) bool
	HasContext() bool
	Establish(scope wire.Scope) (hContext uint32, code wire.Code)
	Release(ctx context.Context, hContext uint32) wire.Code
	Close(ctx context.Context)
	Connect(ctx context.Context, hContext uint32, reader string, mode wire.ShareMode, preferred wire.Protocol) (hCard int32, active wire.Protocol, code wire.Code)
	Reconnect(ctx context.Context, hCard int32, mode wire.ShareMode, preferred wire.Protocol, initialization wire.Disposition) (active wire.Protocol, code wire.Code)
	Disconnect(ctx context.Context, hCard int32, disposition wire.Disposition) wire.Code
	Begin(ctx context.Context, hCard int32) wire.Code
	End(ctx context.Context, hCard int32, disposition wire.Disposition) wire.Code
	Status(hCard int32) wire.Code
	Transmit(ctx context.Context, hCard int32, protocol wire.Protocol, command []byte) (response []byte, code wire.Code)
	Control(ctx context.Context, hCard int32, controlCode uint32, in []byte) (out []byte, code wire.Code)
	GetAttrib(ctx context.Context, hCard int32, id uint32, limit int) (value []byte, code wire.Code)
	SetAttrib(ctx context.Context, hCard int32, id uint32, value []byte) wire.Code
}

// managed is a Manager as resources.
type managed struct{ *Manager }

func (m managed) session(c Client) session { return m.NewSession(c) }

// Server serves the socket protocol of pcsc-lite to clients, over a Manager. See the package's comment for who owns
// what.
type Server struct {
	resources  resources
	authorizer Authorizer
	limits     Limits
	autoExit   time.Duration
	hide       func() (show func())
	show       func() // undoes hide, nil before it; accept's alone
	log        logrus.FieldLogger
	refusals   *refusals

	// generation of the reader table that waiting clients have been told of. It is stored before they are looked at,
	// so a connection that is not looked at because it is busy sees it when it is done.
	generation atomic.Uint64

	crowd *crowd // of the clients that ask

	// mu is taken before a conn's.
	mu sync.Mutex

	listener  *net.UnixListener
	conns     map[*conn]struct{}
	users     map[uint32]*user // by uid
	contexts  map[uint32]*conn // by number
	idleSince time.Time        // when conns became empty
	lastLook  bool             // see idleLongEnough
	stopping  bool             // Serve's context has ended
	capacity  int              // entries of a 4:6 table
	served    uint64           // connections so far
	refused   uint64           // of them

	running sync.WaitGroup // one for each conn
}

// NewServer makes a server; Serve lets it work.
func NewServer(o ServerOptions) *Server { return newServer(managed{o.Manager}, o) }

func newServer(r resources, o ServerOptions) *Server {
	if o.Logger == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		o.Logger = silent
	}
	if o.Authorizer == nil {
		o.Authorizer = Everybody{}
	}
	return &Server{
		resources:  r,
		authorizer: o.Authorizer,
		limits:     o.Limits.withDefaults(),
		autoExit:   o.AutoExit,
		hide:       o.Hide,
		crowd:      &crowd{changed: o.Crowd},
		log:        o.Logger,
		refusals:   newRefusals(o.Logger, time.Now),
		conns:      map[*conn]struct{}{},
		users:      map[uint32]*user{},
		contexts:   map[uint32]*conn{},
		idleSince:  time.Now(),
		capacity:   wire.OldTableLen,
	}
}

// Serve accepts clients on a UNIX socket, ours or systemd's, until ctx ends or nobody came for AutoExit; it may be
// called once. It leaves the listener open: without ServerOptions.Hide, clients that came too late stay in its queue, for the
// daemon that systemd starts next. When it returns, all connections are closed and their cards given back.
//
// Clients that wait when ctx ends, for readers, a card or another's transaction, are told ErrServiceStopped.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("pcscd: cannot serve a %T, only a UNIX socket", l)
	}
	// Calls are to know why their context ends.
	serving, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.end()
	defer stop(errStopping)
	s.mu.Lock()
	s.listener = listener
	s.idleSince = time.Now()
	s.setExitDeadline()
	s.mu.Unlock()
	wakeAccept := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		stop(errStopping) // under the lock, so that who sees it sets the next deadline
		s.stopping = true
		s.setExitDeadline()
	})
	defer wakeAccept()
	s.running.Go(func() { s.broadcast(serving) })
	return s.accept(serving)
}

// accept lets clients in. That it also decides about the automatic exit is what makes that free of races: a client is
// either let in, or still in the listener's queue, when the decision is made.
func (s *Server) accept(ctx context.Context) error {
	delay := time.Duration(0)
	for {
		nc, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			s.turnAway()
			return nil
		case err == nil:
			delay = 0
			if s.admit(ctx, nc) {
				s.appear()
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			if s.idleLongEnough() {
				return ErrIdle
			}
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			// Out of file descriptors, most likely: those who hold one without a context make room.
			s.log.WithError(err).Warn("cannot accept a client")
			s.mu.Lock()
			s.evictSilent(func(*conn) bool { return true })
			s.mu.Unlock()
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			sleep(ctx, delay)
		}
	}
}

// vanish has clients find the socket no more.
func (s *Server) vanish() {
	if s.hide != nil && s.show == nil {
		s.show = s.hide()
	}
}

// appear is the reverse of vanish.
func (s *Server) appear() {
	if s.show != nil {
		s.show()
		s.show = nil
	}
}

// turnAway ends the connections that nobody accepts any more, unless another process will: they would wait as long as our end
// takes.
func (s *Server) turnAway() {
	if s.hide == nil {
		return
	}
	s.vanish()
	s.mu.Lock()
	_ = s.listener.SetDeadline(time.Now().Add(lastLookTime)) // else it is closed, as Accept says, too
	s.mu.Unlock()
	for {
		nc, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		nc.Close()
	}
}

// Idle returns since how long there has been no client, 0 when there is one. Before Serve that is since NewServer.
func (s *Server) Idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) > 0 {
		return 0
	}
	return time.Since(s.idleSince)
}

// Clients returns how many clients are connected, and how many came and how many of these were refused so far.
func (s *Server) Clients() (connected int, served, refused uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns), s.served, s.refused
}

// lastLookTime is how long the listener stays open after the idle time, for a client that came in just then.
const lastLookTime = time.Millisecond

// idleLongEnough decides about the automatic exit, and sets the deadline for the next look when it is not yet time. An
// Accept whose deadline has passed does not look into the queue any more; so the first look that finds the time over
// makes a last one, with a deadline still to come.
func (s *Server) idleLongEnough() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	over := s.autoExit > 0 && len(s.conns) == 0 && time.Since(s.idleSince) >= s.autoExit
	switch {
	case over && s.lastLook:
		return true
	case over:
		s.vanish()
		s.lastLook = true
		s.setAcceptDeadline(time.Now().Add(lastLookTime))
	default:
		s.setExitDeadline()
	}
	return false
}

// setExitDeadline makes Accept return when it will be time to exit. The caller holds mu.
func (s *Server) setExitDeadline() {
	s.lastLook = false
	if s.autoExit > 0 && len(s.conns) == 0 {
		s.setAcceptDeadline(s.idleSince.Add(s.autoExit))
	} else {
		s.setAcceptDeadline(time.Time{})
	}
}

func (s *Server) setAcceptDeadline(at time.Time) {
	if s.stopping {
		at = time.Unix(1, 0)
	}
	// The only error is that the listener is closed, which Accept reports.
	_ = s.listener.SetDeadline(at)
}

// admit starts to serve a client, unless there are too many.
func (s *Server) admit(ctx context.Context, nc *net.UnixConn) (admitted bool) {
	client, err := peer(nc)
	if err != nil {
		s.log.WithError(err).Warn("cannot tell who a client is: refused")
		nc.Close()
		return false
	}
	c := newConn(ctx, s, nc, client)
	s.mu.Lock()
	s.served++
	if !s.makeRoom(client.UID) {
		s.refused++
		s.mu.Unlock()
		s.refusals.warn(client, "too many connections: client refused")
		c.cancel()
		nc.Close()
		return false
	}
	s.remember(c)
	s.setExitDeadline()
	s.mu.Unlock()
	s.running.Go(c.run)
	return true
}

// user returns what is known of a user. The caller holds mu.
func (s *Server) user(uid uint32) *user {
	u := s.users[uid]
	if u == nil {
		u = newUser(uid, s.limits)
		s.users[uid] = u
	}
	return u
}

// makeRoom tells whether one more connection of this user may be, after dropping one that only holds a place. The
// caller holds mu.
func (s *Server) makeRoom(uid uint32) bool {
	if uid != 0 && s.user(uid).connections >= s.limits.ConnectionsPerUser {
		if !s.evictSilent(func(c *conn) bool { return c.client.UID == uid }) {
			return false
		}
	}
	return len(s.conns) < s.limits.Connections || s.evictSilent(func(*conn) bool { return true })
}

// evictSilent drops the connection without a context that has been silent longest, of those that may be. The caller
// holds mu.
func (s *Server) evictSilent(may func(*conn) bool) bool {
	var victim *conn
	var oldest time.Time
	for c := range s.conns {
		since, silent := c.silentSince()
		if silent && may(c) && (victim == nil || since.Before(oldest)) {
			victim, oldest = c, since
		}
	}
	if victim == nil {
		return false
	}
	s.forget(victim)
	victim.drop()
	s.refusals.warn(victim.client, "connection without a context dropped to make room")
	return true
}

// remember puts a connection into the tables. The caller holds mu.
func (s *Server) remember(c *conn) {
	s.conns[c] = struct{}{}
	c.user = s.user(c.client.UID)
	c.user.connections++
}

// forget takes a connection out of all tables, once. The caller holds mu.
func (s *Server) forget(c *conn) {
	if _, ok := s.conns[c]; !ok {
		return
	}
	delete(s.conns, c)
	c.user.connections--
	maps.DeleteFunc(s.users, func(_ uint32, u *user) bool { return u.isForgettable() })
	if c.context != 0 {
		delete(s.contexts, c.context)
		c.context = 0
	}
	if len(s.conns) == 0 {
		s.idleSince = time.Now()
		s.setExitDeadline()
	}
}

// finished is a connection's last call.
func (s *Server) finished(c *conn) {
	s.crowd.forget(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(c)
}

// setContext notes which connection has which context; 0 is none.
func (s *Server) setContext(c *conn, number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return
	}
	if c.context != 0 {
		delete(s.contexts, c.context)
	}
	c.context = number
	if number != 0 {
		s.contexts[number] = c
	}
}

// cancel ends the wait of a context (SCardCancel), which succeeds also when it does not wait. Any client of the same
// user may, and root: pcsc-lite lets everybody who guesses the number. For others the context does not exist.
func (s *Server) cancel(by Client, number uint32) wire.Code {
	s.mu.Lock()
	target := s.contexts[number]
	s.mu.Unlock()
	if target == nil || by.UID != 0 && by.UID != target.client.UID {
		return wire.ErrInvalidHandle
	}
	target.cancelWait()
	return wire.Success
}

// broadcast tells waiting clients of every new table.
func (s *Server) broadcast(ctx context.Context) {
	for {
		_, generation := s.resources.States()
		s.generation.Store(generation)
		s.eachConn((*conn).tell)
		select {
		case <-s.resources.Changed(generation):
		case <-ctx.Done():
			return
		}
	}
}

// tableLen returns the number of entries of a 4:6 table that holds these readers. Clients keep one array for all their
// contexts and fail when it shrinks, so it never does.
func (s *Server) tableLen(readers int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.capacity < readers {
		s.capacity += wire.OldTableLen
	}
	return s.capacity
}

// end ends all connections and waits for that.
func (s *Server) end() {
	s.eachConn((*conn).shutDown)
	impatient := time.AfterFunc(stopTime, func() { s.eachConn((*conn).drop) })
	defer impatient.Stop()
	s.running.Wait()
}

func (s *Server) eachConn(do func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		do(c)
	}
}

// sleep waits, but no longer than ctx lasts.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
