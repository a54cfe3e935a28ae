package pcscd

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// startBus starts a D-Bus daemon of the test's own and returns its address.
func startBus(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		require.Empty(t, os.Getenv("CI"), "CI has the Debian package dbus-daemon")
		t.Skip("needs dbus-daemon (Debian package dbus-daemon)")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	require.NoError(t, os.WriteFile(config, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path=`+filepath.Join(dir, "bus")+`</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy>
</busconfig>`), 0o600))
	cmd := exec.Command(program, "--config-file="+config, "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(address)
}

// fakePolkit is polkit's authority on a bus: it decides as the test says and remembers what it was asked.
type fakePolkit struct {
	conn *dbus.Conn

	mu        sync.Mutex
	decide    func(action string, details map[string]string) polkitResult
	fail      *dbus.Error
	block     chan struct{}
	asked     []polkitQuestion
	cancelled chan string
}

type polkitQuestion struct {
	subject polkitSubject
	action  string
	details map[string]string
	flags   uint32
}

func startPolkit(t *testing.T, address string) *fakePolkit {
	t.Helper()
	conn, err := dbus.Connect(address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	p := &fakePolkit{conn: conn, cancelled: make(chan string, 10)}
	p.decide = func(string, map[string]string) polkitResult { return polkitResult{Authorized: true} }
	require.NoError(t, conn.Export(p, polkitPath, polkitInterface))
	reply, err := conn.RequestName(polkitName, dbus.NameFlagDoNotQueue)
	require.NoError(t, err)
	require.Equal(t, dbus.RequestNameReplyPrimaryOwner, reply)
	return p
}

// CheckAuthorization is polkit's method.
func (p *fakePolkit) CheckAuthorization(subject polkitSubject, action string, details map[string]string, flags uint32, id string) (polkitResult, *dbus.Error) {
	p.mu.Lock()
	p.asked = append(p.asked, polkitQuestion{subject, action, details, flags})
	decide, fail, block := p.decide, p.fail, p.block
	p.mu.Unlock()
	if block != nil {
		<-block
	}
	if fail != nil {
		return polkitResult{Details: map[string]string{}}, fail
	}
	r := decide(action, details)
	r.Details = map[string]string{}
	return r, nil
}

// CancelCheckAuthorization is polkit's method.
func (p *fakePolkit) CancelCheckAuthorization(id string) *dbus.Error {
	p.cancelled <- id
	return nil
}

func (p *fakePolkit) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *fakePolkit) questions() []polkitQuestion {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func newTestPolkit(t *testing.T, o PolkitOptions) *Polkit {
	t.Helper()
	p := NewPolkit(o)
	t.Cleanup(func() { p.Close() })
	return p
}

// nobodyMay refuses all, to tell the fallback from polkit.
type nobodyMay struct{}

func (nobodyMay) Connection(_ context.Context, c Client) error { return denied("fallback", c) }

func (nobodyMay) CardAccess(_ context.Context, c Client, _ string) error {
	return denied("fallback", c)
}

func TestPolkitIsAskedAboutTheProcessAndTheReader(t *testing.T) {
	address := startBus(t)
	authority := startPolkit(t, address)
	p := newTestPolkit(t, PolkitOptions{Address: address, Fallback: nobodyMay{}})
	c := Client{PID: 1234, UID: 1000, GID: 100, started: 99}
	require.NoError(t, p.Connection(t.Context(), c))
	require.NoError(t, p.CardAccess(t.Context(), c, "Reader 00 00"))
	asked := authority.questions()
	require.Len(t, asked, 2)
	for i, want := range []polkitQuestion{
		{action: "org.debian.pcsc-lite.access_pcsc", details: map[string]string{}, flags: 1},
		{action: "org.debian.pcsc-lite.access_card", details: map[string]string{"reader": "Reader 00 00"}, flags: 1},
	} {
		assert.Equal(t, "unix-process", asked[i].subject.Kind)
		assert.Equal(t, map[string]dbus.Variant{
			"pid": dbus.MakeVariant(uint32(1234)), "start-time": dbus.MakeVariant(uint64(99)), "uid": dbus.MakeVariant(int32(1000)),
		}, asked[i].subject.Details)
		assert.Equal(t, want.action, asked[i].action)
		assert.Equal(t, want.details, asked[i].details)
		assert.Equal(t, want.flags, asked[i].flags)
	}
}

func TestPolkitRefuses(t *testing.T) {
	address := startBus(t)
	authority := startPolkit(t, address)
	p := newTestPolkit(t, PolkitOptions{Address: address, Fallback: Everybody{}})
	authority.set(func() {
		authority.decide = func(string, map[string]string) polkitResult { return polkitResult{} }
	})
	require.ErrorIs(t, p.Connection(t.Context(), Client{}), ErrDenied)
	require.ErrorIs(t, p.CardAccess(t.Context(), Client{}, "R"), ErrDenied)
	authority.set(func() {
		authority.decide = func(string, map[string]string) polkitResult { return polkitResult{Challenge: true} }
	})
	err := p.Connection(t.Context(), Client{})
	require.ErrorIs(t, err, ErrDenied)
	require.ErrorContains(t, err, "nobody was there to be asked")
	require.ErrorIs(t, p.Connection(t.Context(), Client{ended: true}), ErrDenied)
}

func TestPolkitThatDoesNotKnowTheActionRefuses(t *testing.T) {
	address := startBus(t)
	authority := startPolkit(t, address)
	authority.set(func() {
		authority.fail = dbus.NewError("org.freedesktop.PolicyKit1.Error.Failed", []any{"Action org.debian.pcsc-lite.access_pcsc is not registered"})
	})
	p := newTestPolkit(t, PolkitOptions{Address: address, Fallback: Everybody{}})
	require.ErrorContains(t, p.Connection(t.Context(), Client{}), "not registered")
}

func TestWithoutABusTheFallbackDecides(t *testing.T) {
	address := "unix:path=" + filepath.Join(t.TempDir(), "none")
	require.NoError(t, newTestPolkit(t, PolkitOptions{Address: address, Fallback: Everybody{}}).Connection(t.Context(), Client{}))
	require.ErrorIs(t, newTestPolkit(t, PolkitOptions{Address: address, Fallback: nobodyMay{}}).CardAccess(t.Context(), Client{}, "R"), ErrDenied)
	require.Error(t, newTestPolkit(t, PolkitOptions{Address: address}).Connection(t.Context(), Client{}))
}

func TestWithoutPolkitOnTheBusTheFallbackDecidesUntilItCame(t *testing.T) {
	address := startBus(t)
	p := newTestPolkit(t, PolkitOptions{Address: address, Fallback: Everybody{}})
	require.NoError(t, p.Connection(t.Context(), Client{}))
	authority := startPolkit(t, address)
	authority.set(func() {
		authority.decide = func(string, map[string]string) polkitResult { return polkitResult{} }
	})
	require.ErrorIs(t, p.Connection(t.Context(), Client{}), ErrDenied)
	require.NoError(t, authority.conn.Close())
	err := p.Connection(t.Context(), Client{})
	require.Error(t, err, "nobody gets in because polkit went")
	require.NotErrorIs(t, err, ErrDenied)
}

func TestPolkitSurvivesANewConnectionToTheBus(t *testing.T) {
	address := startBus(t)
	startPolkit(t, address)
	p := newTestPolkit(t, PolkitOptions{Address: address})
	require.NoError(t, p.Connection(t.Context(), Client{}))
	p.conn.Close()
	require.NoError(t, p.Connection(t.Context(), Client{}))
	require.NoError(t, p.Close())
	require.Error(t, p.Connection(t.Context(), Client{}))
}

func TestPolkitIsToldWhenNobodyWaitsAnyMore(t *testing.T) {
	address := startBus(t)
	authority := startPolkit(t, address)
	block := make(chan struct{})
	defer close(block)
	authority.set(func() { authority.block = block })
	p := newTestPolkit(t, PolkitOptions{Address: address, Fallback: Everybody{}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Connection(ctx, Client{}), context.DeadlineExceeded)
	select {
	case id := <-authority.cancelled:
		assert.Equal(t, "goccid-1", id)
	case <-time.After(pcsctest.Patience):
		t.Fatal("polkit still asks")
	}
}

func TestABusThatHangsHoldsUpOnlyWhoAsks(t *testing.T) {
	s := startServer(t, newFakeResources(), ServerOptions{}) // says nothing to a D-Bus client
	p := newTestPolkit(t, PolkitOptions{Address: "unix:path=" + s.path, Fallback: Everybody{}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Connection(ctx, Client{}), context.DeadlineExceeded)
}

func TestRefusalFitsIntoTheProtocol(t *testing.T) {
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{Authorizer: nobodyMay{}})
	c := s.dial(t)
	for range 2 {
		_, err := c.Handshake(4, 4)
		require.NoError(t, err)
		_, err = c.Establish(wire.ScopeSystem)
		require.ErrorIs(t, err, wire.ErrSecurityViolation)
	}
	require.ErrorIs(t, c.Cancel(1), wire.ErrInvalidHandle, "cancelling is not asked about")
	require.NoError(t, c.Send(wire.CmdGetReadersState, nil, nil))
	closed(t, c)
}

// cardsAreMine refuses access to one reader.
type cardsAreMine struct{ Everybody }

func (cardsAreMine) CardAccess(_ context.Context, c Client, reader string) error {
	if reader == "Mine 00 00" {
		return denied(reader, c)
	}
	return nil
}

func TestRefusalOfACard(t *testing.T) {
	s := startServer(t, newFakeResources("Mine 00 00", "Yours 00 00"), ServerOptions{Authorizer: cardsAreMine{}})
	c := s.open(t, wire.Minor6)
	m, err := c.Connect("Mine 00 00", wire.Shared, wire.ProtocolAny)
	require.ErrorIs(t, err, wire.ErrSecurityViolation)
	assert.Equal(t, int32(-1), m.Card)
	assert.Equal(t, ^wire.Protocol(0), m.ActiveProtocol)
	_, err = c.Connect("Yours 00 00", wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
}
