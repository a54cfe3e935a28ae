//go:build unix

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/goccid/goccid/pcscd"
)

// Bounds of what may take time.
const (
	// settleTime is how long readers that are there at the start may take before clients are served without them.
	settleTime = 5 * time.Second
	// finishTime is how long cards may be at work after the end was asked for. Then their readers are closed.
	finishTime = 3 * time.Second
	// closeTime bounds the end after that: cards are powered down, readers given back.
	closeTime = 5 * time.Second
	// rescanTime bounds one look for readers.
	rescanTime = 10 * time.Second
)

// daemon is a running daemon.
//
// Its goroutines are: one that makes the manager follow the readers (followReaders), two that handle signals, one for
// each socket of status and metrics, and those of the server, the manager and the drivers. serve starts them and waits for
// their end.
type daemon struct {
	program  *program
	settings settings
	loaded   settings // as they were read; systemd's socket changes settings
	log      *logging
	started  time.Time

	pid      *pidFile
	listener *net.UnixListener
	owned    bool // the socket is ours to remove
	readers  *readers
	manager  *pcscd.Manager
	server   *pcscd.Server
	access   *access
	notify   notifier

	background sync.WaitGroup
}

// errEnded is what a waiting parent is told when somebody has asked for the end before clients could be served.
var errEnded = errors.New("the daemon was ended before it was ready")

// serve is the daemon's life.
func (p *program) serve(ctx context.Context, s settings) (err error) {
	waiting := p.waitingParent()
	defer func() { waiting.tell(err) }()
	log := p.newLogging(s.Log)
	defer log.takeLibraries()()
	d := &daemon{program: p, settings: s, loaded: s, log: log, started: time.Now(), notify: newNotifier(p.getenv)}
	defer func() {
		if err != nil {
			err = p.place(err)
			d.log.Errorf("%v", err)
			err = &loggedError{err}
		}
	}()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(ctx)
	defer d.background.Wait()
	defer stop()
	d.endOnSignal(ctx, stop)

	if err := d.claim(); errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: start goccidd as root, or choose a --socket in a folder of yours", err)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.release()) }()
	if waiting != nil {
		if err := os.Chdir("/"); err != nil {
			return err
		}
	}
	if err := d.open(ctx); err != nil && ctx.Err() != nil {
		d.log.Debugf("ended at the start: %v", err)
		waiting.tell(errEnded)
		return nil
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	defer d.background.Wait()
	defer stop()
	d.background.Go(func() { d.handle(ctx, signals) })
	d.background.Go(func() { d.readers.follow(ctx, d.manager) })
	if err := d.serveOperations(ctx); err != nil {
		return err
	}
	d.sandbox()
	d.settle(ctx)
	if ctx.Err() != nil {
		waiting.tell(errEnded)
		return nil
	}
	if err := d.listen(); err != nil {
		return err
	}
	waiting.tell(nil)
	d.notify.ready()
	d.log.Infof("serving %s", d.settings.Socket)
	err = d.serveClients(ctx)
	d.notify.stopping()
	if errors.Is(err, pcscd.ErrIdle) {
		d.log.Infof("no client for %v: exit", d.settings.AutoExit.Duration)
		return nil
	}
	return err
}

// serveClients serves until the end, which no card that is at work puts off for long.
func (d *daemon) serveClients(ctx context.Context) error {
	served := make(chan struct{})
	defer close(served)
	d.background.Go(func() {
		select {
		case <-ctx.Done():
		case <-served:
			return
		}
		select {
		case <-time.After(finishTime):
			d.log.Warnf("a card is at work for more than %v: its reader is closed", finishTime)
			if err := d.readers.hotplug.Close(); err != nil {
				d.log.Debugf("closing readers: %v", err)
			}
		case <-served:
		}
	})
	return d.server.Serve(ctx, d.listener)
}

// claim makes sure that we are the only one, and removes what a dead daemon left.
func (d *daemon) claim() error {
	d.owned = !activated(d.program.getenv)
	if d.owned {
		// A running pcscd knows nothing of our lock, so the socket is asked first.
		previous := func() int { pid, _ := readPID(d.settings.pidFile()); return pid }
		if err := makeFolder(filepath.Dir(d.settings.Socket)); err != nil {
			return err
		}
		if err := d.claimPIDFile(); err != nil {
			return err
		}
		if err := clearSocket(d.settings.Socket, previous); err != nil {
			return errors.Join(err, d.pid.remove())
		}
		return nil
	}
	listener, err := activatedListener()
	if err != nil {
		return err
	}
	d.listener = listener
	d.settings.Socket = listener.Addr().String()
	return d.claimPIDFile()
}

func (d *daemon) claimPIDFile() (err error) {
	d.pid, err = createPIDFile(d.settings.pidFile(), d.settings.Socket)
	return err
}

// release is the reverse of claim and listen.
func (d *daemon) release() error {
	var errs []error
	if d.listener != nil {
		errs = append(errs, d.listener.Close())
	}
	if d.owned {
		_ = os.Remove(d.settings.Socket + hiddenExtension) // which is not there after an end that began before listen
	}
	return errors.Join(append(errs, d.pid.remove())...)
}

// open makes readers, manager and server.
func (d *daemon) open(ctx context.Context) (err error) {
	if d.access, err = newAccess(d.settings.Access, d.log); err != nil {
		return err
	}
	if d.readers, err = openReaders(ctx, d.settings.Readers, d.log); err != nil {
		return errors.Join(err, d.access.Close())
	}
	s := d.settings
	d.manager = pcscd.NewManager(pcscd.Options{
		Driver: d.log.driver(d.readers.handler), Logger: d.log, PowerOffGrace: powerOffGrace(s.Readers.PowerOff),
		// All clients may share a card, unless there is a limit of its own.
		MaxHandles: s.Limits.HandlesPerClient.n, MaxReaderHandles: cmp.Or(s.Limits.HandlesPerReader.n, s.Limits.Connections.n),
	})
	hide := d.hide
	if !d.owned {
		hide = nil // who comes late waits for the next daemon of systemd's
	}
	d.server = pcscd.NewServer(pcscd.ServerOptions{
		Manager: d.manager, Authorizer: d.access, AutoExit: s.AutoExit.Duration, Hide: hide, Crowd: d.program.crowd, Logger: d.log,
		Limits: pcscd.Limits{
			Connections: s.Limits.Connections.n, ConnectionsPerUser: s.Limits.ConnectionsPerUser.n, RequestsPerSecond: s.Limits.RequestsPerSecond.n,
		},
	})
	return nil
}

// powerOffGrace turns the setting, in which 0 is never, into the manager's option, in which 0 is its default.
func powerOffGrace(d duration) time.Duration {
	if d.Duration == 0 {
		return -1
	}
	return d.Duration
}

// settle waits until the readers that are there at the start can be used, so that the first client sees them.
func (d *daemon) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	what, err := "reader", d.readers.settled(ctx)
	if err == nil {
		what, err = "card", d.manager.Ready(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) { // else the end was asked for
		d.log.Warnf("a %s is not ready after %v: serving without it", what, settleTime)
	}
}

// listen makes the socket for clients, unless systemd has.
func (d *daemon) listen() (err error) {
	if d.listener == nil {
		d.listener, err = listenUnix(d.settings.Socket, 0o666)
	}
	return err
}

// close gives everything back that open took.
func (d *daemon) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	errs := []error{d.manager.Close(ctx), d.access.Close()}
	closed := make(chan error, 1)
	go func() { closed <- d.readers.Close() }()
	select {
	case err := <-closed:
		errs = append(errs, err)
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("readers do not close in %v: exit all the same", closeTime))
	}
	return errors.Join(errs...)
}

// endOnSignal ends the daemon when a signal asks for it, at any time: while readers are looked for, too.
func (d *daemon) endOnSignal(ctx context.Context, stop func()) {
	ends := []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, ends...)
	d.background.Go(func() {
		defer signal.Stop(signals)
		select {
		case s := <-signals:
			d.log.Infof("%v: exit", s)
			// The next one has its usual effect, for an end that takes too long.
			signal.Reset(ends...)
			stop()
		case <-ctx.Done():
		}
	})
}

// handle does what other signals ask for.
func (d *daemon) handle(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				d.reload()
			case syscall.SIGUSR1:
				d.rescan(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (d *daemon) rescan(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, rescanTime)
	defer cancel()
	d.log.Debug("looking for readers")
	if err := d.readers.rescan(bounded); err != nil && ctx.Err() == nil {
		d.log.Errorf("looking for readers: %v", err)
	}
}

// reload takes new settings, as far as they can change while clients are served. What is wrong changes nothing.
func (d *daemon) reload() {
	d.notify.reloading()
	defer d.notify.ready()
	apply, err := d.prepare()
	if err != nil {
		d.log.Errorf("reload: the old settings stay: %v", d.program.place(err))
		return
	}
	apply()
	d.log.Info("settings reloaded")
}

// prepare reads the settings and makes what they ask for; what it returns puts that to use, and can't fail.
func (d *daemon) prepare() (apply func(), err error) {
	s, err := d.program.load()
	if err != nil {
		return nil, err
	}
	table, err := loadQuirks(s.Readers.QuirksDir)
	if err != nil {
		return nil, err
	}
	rules, err := newRules(s.Access, d.log)
	if err != nil {
		return nil, err
	}
	return func() {
		d.readers.hotplug.SetQuirks(table)
		d.access.replace(rules)
		d.log.configure(s.Log)
		s.Log, s.Access, s.Readers.QuirksDir = d.loaded.Log, d.loaded.Access, d.loaded.Readers.QuirksDir
		if names := changed(reflect.ValueOf(d.loaded), reflect.ValueOf(s), ""); len(names) > 0 {
			d.log.Warnf("what has changed here takes effect at the next start only: %s", strings.Join(names, ", "))
		}
	}, nil
}
