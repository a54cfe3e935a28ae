package pcscd

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// fakeResources stands in for a Manager: a table that tests change.
type fakeResources struct {
	mu         sync.Mutex
	states     []wire.ReaderState
	generation uint64
	changed    chan struct{}
	ready      chan struct{} // closed
	lastNumber uint32
	sessions   []*fakeSession
	// block, when not nil, is what Connect waits for.
	block chan struct{}
}

func newFakeResources(readers ...string) *fakeResources {
	r := &fakeResources{changed: make(chan struct{}), ready: make(chan struct{}), generation: 1}
	close(r.ready)
	r.states = named(readers...)
	return r
}

func named(readers ...string) []wire.ReaderState {
	var states []wire.ReaderState
	for _, name := range readers {
		states = append(states, wire.ReaderState{Name: name, State: wire.StateAbsent, Known: true})
	}
	return states
}

// many returns n reader names.
func many(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("Reader %02X 00", i))
	}
	return names
}

func (r *fakeResources) set(states []wire.ReaderState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states = states
	r.generation++
	close(r.changed)
	r.changed = make(chan struct{})
}

// change publishes a new generation of the same table.
func (r *fakeResources) change() {
	states, _ := r.States()
	r.set(states)
}

func (r *fakeResources) setReady(ready chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = ready
}

func (r *fakeResources) States() ([]wire.ReaderState, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.states, r.generation
}

func (r *fakeResources) Changed(generation uint64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.generation > generation {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return r.changed
}

func (r *fakeResources) ReaderEvents() uint32 { return 7 }

func (r *fakeResources) Ready(ctx context.Context) error {
	r.mu.Lock()
	ready := r.ready
	r.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *fakeResources) session(c Client) session {
	s := &fakeSession{resources: r, client: c, handles: map[int32]bool{}, ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions = append(r.sessions, s)
	return s
}

func (r *fakeResources) number() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastNumber++
	return r.lastNumber
}

// open counts sessions that were not closed.
func (r *fakeResources) open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.sessions {
		select {
		case <-s.ended:
		default:
			n++
		}
	}
	return n
}

func (r *fakeResources) last() *fakeSession {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions[len(r.sessions)-1]
}

// fakeSession stands in for a Session: cards that answer what they are sent.
type fakeSession struct {
	resources *fakeResources
	client    Client
	ended     chan struct{}
	endOnce   sync.Once

	mu      sync.Mutex
	context uint32
	handles map[int32]bool
}

func (s *fakeSession) Owns(hCard int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[hCard]
}

func (s *fakeSession) HasContext() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.context != 0
}

func (s *fakeSession) Establish(scope wire.Scope) (uint32, wire.Code) {
	if scope > wire.ScopeGlobal {
		return 0, wire.ErrInvalidValue
	}
	n := s.resources.number()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.context = n
	return n, wire.Success
}

func (s *fakeSession) Release(_ context.Context, hContext uint32) wire.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.context == 0:
		return wire.ErrInvalidHandle
	case s.context != hContext:
		return wire.ErrInvalidValue
	}
	s.context = 0
	clear(s.handles)
	return wire.Success
}

func (s *fakeSession) Close(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.context = 0
	clear(s.handles)
	s.endOnce.Do(func() { close(s.ended) })
}

func (s *fakeSession) Connect(ctx context.Context, hContext uint32, reader string, _ wire.ShareMode, preferred wire.Protocol) (int32, wire.Protocol, wire.Code) {
	s.resources.mu.Lock()
	block := s.resources.block
	s.resources.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return 0, 0, wire.ErrCancelled
		}
	}
	s.mu.Lock()
	ok := hContext == s.context
	s.mu.Unlock()
	switch {
	case reader == "":
		return 0, 0, wire.ErrUnknownReader
	case !ok:
		return 0, 0, wire.ErrInvalidValue
	}
	n := int32(s.resources.number())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handles[n] = true
	return n, preferred & wire.ProtocolT1, wire.Success
}

func (s *fakeSession) Reconnect(_ context.Context, _ int32, _ wire.ShareMode, preferred wire.Protocol, _ wire.Disposition) (wire.Protocol, wire.Code) {
	return preferred, wire.Success
}

func (s *fakeSession) Disconnect(_ context.Context, hCard int32, _ wire.Disposition) wire.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, hCard)
	return wire.Success
}

func (s *fakeSession) Begin(context.Context, int32) wire.Code { return wire.Success }

func (s *fakeSession) End(_ context.Context, _ int32, d wire.Disposition) wire.Code {
	if d == wire.EjectCard {
		return wire.ErrUnsupportedFeature
	}
	return wire.Success
}

func (s *fakeSession) Status(int32) wire.Code { return wire.ErrResetCard }

// Transmit answers with the command, doubled.
func (s *fakeSession) Transmit(_ context.Context, _ int32, protocol wire.Protocol, command []byte) ([]byte, wire.Code) {
	if protocol == wire.ProtocolT0 {
		return []byte("must not go out"), wire.ErrNotTransacted
	}
	return append(command[:len(command):len(command)], command...), wire.Success
}

func (s *fakeSession) Control(_ context.Context, _ int32, code uint32, in []byte) ([]byte, wire.Code) {
	return append(in[:len(in):len(in)], byte(code)), wire.Success
}

func (s *fakeSession) GetAttrib(_ context.Context, _ int32, id uint32, limit int) ([]byte, wire.Code) {
	switch {
	case id > 1000:
		return nil, wire.ErrUnsupportedFeature
	case int(id) > limit:
		return make([]byte, id), wire.ErrInsufficientBuffer
	}
	value := make([]byte, id)
	for i := range value {
		value[i] = byte(i + 1)
	}
	return value, wire.Success
}

func (s *fakeSession) SetAttrib(_ context.Context, _ int32, _ uint32, value []byte) wire.Code {
	if len(value) == 0 {
		return wire.ErrInvalidParameter
	}
	return wire.Success
}

// testServer is a Server at work.
type testServer struct {
	*Server
	path   string
	stop   context.CancelFunc
	result chan error
}

// startServer serves fakes on a socket until the test ends.
func startServer(t testing.TB, r resources, o ServerOptions) *testServer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &testServer{Server: newServer(r, o), path: path, stop: cancel, result: make(chan error, 1)}
	go func() { s.result <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-s.result:
			s.result <- err
		case <-time.After(pcsctest.Patience):
			t.Error("Serve does not return")
		}
		l.Close()
	})
	return s
}

func (s *testServer) dial(t testing.TB) *pcsctest.Client {
	t.Helper()
	c, err := pcsctest.Dial(s.path)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *testServer) open(t testing.TB, minor int32) *pcsctest.Client {
	t.Helper()
	c, err := pcsctest.Open(s.path, minor)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// connected waits until the server has this many clients.
func (s *testServer) connected(t testing.TB, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, _, _ := s.Clients()
		return got == n
	}, pcsctest.Patience, time.Millisecond)
}

// closed demands that the connection is closed without another byte.
func closed(t testing.TB, c *pcsctest.Client) {
	t.Helper()
	b, err := c.ReadOnce(1)
	require.Error(t, err)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, b)
	var timeout net.Error
	if asNet(err, &timeout) {
		require.False(t, timeout.Timeout(), "connection was not closed")
	}
}
