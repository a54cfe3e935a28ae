package pcscd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/godbus/dbus/v5"
	"github.com/sirupsen/logrus"
)

// The polkit actions, which are pcsc-lite's own, so its policy file and local rules hold for this daemon too.
const (
	// ActionAccess is asked about for each connection.
	ActionAccess = "org.debian.pcsc-lite.access_pcsc"
	// ActionAccessCard is asked about for each SCardConnect, with the reader's name as the detail "reader".
	ActionAccessCard = "org.debian.pcsc-lite.access_card"
)

// Names of polkit on the bus (polkit's D-Bus API, org.freedesktop.PolicyKit1.Authority).
const (
	polkitName      = "org.freedesktop.PolicyKit1"
	polkitPath      = "/org/freedesktop/PolicyKit1/Authority"
	polkitInterface = "org.freedesktop.PolicyKit1.Authority"
	// allowInteraction lets polkit ask a person.
	allowInteraction uint32 = 1
)

// PolkitOptions are what a Polkit can be made with.
type PolkitOptions struct {
	// Address is that of the bus, in D-Bus notation; "" is the system bus.
	Address string
	// Fallback decides while there is no bus, or no polkit on it; nil refuses then.
	Fallback Authorizer
	// Logger is nil for none.
	Logger logrus.FieldLogger
}

// Polkit is an Authorizer that asks polkit over D-Bus.
//
// The Fallback decides only as long as polkit has never answered: a system without polkit must be usable, but nobody
// shall get in because polkit fails. An action that polkit does not know, because pcsc-lite's policy file is missing, is
// a refusal too.
//
// Its one goroutine of its own connects to the bus, when there is no connection; the bus library has one for each
// connection, until Close.
type Polkit struct {
	options PolkitOptions
	log     logrus.FieldLogger
	// calls numbers the calls, so that each can be cancelled.
	calls atomic.Uint64
	// fallingBack says that the log tells of the Fallback already.
	fallingBack atomic.Bool

	mu sync.Mutex

	conn     *dbus.Conn
	dial     *polkitDial // in progress
	answered bool        // polkit did, once
	closed   bool
}

// polkitDial is an attempt to connect to the bus, for all who need it.
type polkitDial struct {
	done chan struct{}
	conn *dbus.Conn
	err  error
}

// errPolkitAbsent says that there is no bus or no polkit.
type errPolkitAbsent struct{ err error }

func (e errPolkitAbsent) Error() string { return "polkit cannot be reached: " + e.err.Error() }

func (e errPolkitAbsent) Unwrap() error { return e.err }

// NewPolkit makes an authorizer; it connects when it is asked for the first time.
func NewPolkit(o PolkitOptions) *Polkit {
	p := &Polkit{options: o, log: o.Logger}
	if p.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		p.log = silent
	}
	return p
}

// Close ends the connection to the bus; who waits for polkit is refused.
func (p *Polkit) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}

// Connection asks polkit about ActionAccess.
func (p *Polkit) Connection(ctx context.Context, c Client) error {
	err := p.check(ctx, c, ActionAccess, map[string]string{})
	if p.fallsBack(err) {
		return p.options.Fallback.Connection(ctx, c)
	}
	return err
}

// CardAccess asks polkit about ActionAccessCard.
func (p *Polkit) CardAccess(ctx context.Context, c Client, reader string) error {
	err := p.check(ctx, c, ActionAccessCard, map[string]string{"reader": reader})
	if p.fallsBack(err) {
		return p.options.Fallback.CardAccess(ctx, c, reader)
	}
	return err
}

// fallsBack tells whether the Fallback shall decide.
func (p *Polkit) fallsBack(err error) bool {
	var absent errPolkitAbsent
	if p.options.Fallback == nil || !errors.As(err, &absent) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		return false
	}
	if p.fallingBack.CompareAndSwap(false, true) {
		p.log.WithError(err).Info("access is decided by the configured users and groups")
	}
	return true
}

// check asks polkit whether a client may do what an action is about. A connection that broke is tried again once.
func (p *Polkit) check(ctx context.Context, c Client, action string, details map[string]string) error {
	if c.ended {
		return fmt.Errorf("%w: its process has ended", denied(action, c))
	}
	for attempt := 0; ; attempt++ {
		conn, err := p.bus(ctx)
		if err != nil {
			return err
		}
		result, err := p.ask(ctx, conn, c, action, details)
		switch {
		case errors.Is(err, dbus.ErrClosed) && attempt == 0:
			continue
		case err != nil:
			return err
		}
		p.hasAnswered()
		return result.verdict(action, c)
	}
}

func (p *Polkit) hasAnswered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered = true
}

// polkitSubject and polkitResult have the D-Bus types (sa{sv}) and (bba{ss}).
type polkitSubject struct {
	Kind    string
	Details map[string]dbus.Variant
}

type polkitResult struct {
	Authorized bool
	Challenge  bool
	Details    map[string]string
}

func (r polkitResult) verdict(action string, c Client) error {
	switch {
	case r.Authorized:
		return nil
	case r.Challenge:
		return fmt.Errorf("%w: nobody was there to be asked", denied(action, c))
	}
	return denied(action, c)
}

// subject describes a client to polkit. With the start time polkit notices when the number has become another process's.
func subject(c Client) polkitSubject {
	return polkitSubject{Kind: "unix-process", Details: map[string]dbus.Variant{
		"pid":        dbus.MakeVariant(uint32(c.PID)),
		"start-time": dbus.MakeVariant(c.started),
		"uid":        dbus.MakeVariant(int32(c.UID)),
	}}
}

// ask makes one call. When ctx ends first, polkit is told so: a dialogue that it shows goes away.
func (p *Polkit) ask(ctx context.Context, conn *dbus.Conn, c Client, action string, details map[string]string) (polkitResult, error) {
	authority := conn.Object(polkitName, polkitPath)
	id := "goccid-" + strconv.FormatUint(p.calls.Add(1), 10)
	call := authority.CallWithContext(ctx, polkitInterface+".CheckAuthorization", 0, subject(c), action, details, allowInteraction, id)
	var result polkitResult
	err := call.Store(&result)
	if ctx.Err() != nil {
		authority.Go(polkitInterface+".CancelCheckAuthorization", dbus.FlagNoReplyExpected, nil, id)
		return result, fmt.Errorf("no answer from polkit about %s: %w", action, ctx.Err())
	}
	return result, polkitError(action, err)
}

// polkitError tells polkit's absence from its errors.
func polkitError(action string, err error) error {
	var failed dbus.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed) && slices.Contains([]string{
		"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
	}, failed.Name):
		return errPolkitAbsent{err}
	}
	return fmt.Errorf("polkit does not decide about %s: %w", action, err)
}

// bus returns a connection to the bus.
func (p *Polkit) bus(ctx context.Context) (*dbus.Conn, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, dbus.ErrClosed
	}
	if p.conn != nil && p.conn.Connected() {
		conn := p.conn
		p.mu.Unlock()
		return conn, nil
	}
	d := p.dial
	if d == nil {
		d = &polkitDial{done: make(chan struct{})}
		p.dial = d
		go p.connect(d)
	}
	p.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer from the D-Bus: %w", ctx.Err())
	}
}

// connect connects to the bus, which a context cannot bound; so whoever waits for it may leave.
func (p *Polkit) connect(d *polkitDial) {
	defer close(d.done)
	if p.options.Address == "" {
		d.conn, d.err = dbus.ConnectSystemBus()
	} else {
		d.conn, d.err = dbus.Connect(p.options.Address)
	}
	if d.err != nil {
		d.err = errPolkitAbsent{d.err}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dial, p.conn = nil, d.conn
	if p.closed && d.conn != nil {
		d.conn.Close()
	}
}
