package sweep

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// rig is one virtual reader, plugged in, and what a host has of it.
type rig struct {
	scenario scenario
	bus      *virtual.Bus
	device   *virtual.Reader
	log      *logtest.Hook
	options  host.Options
	plug     *host.Device // the plug-in
	reader   *host.Reader // nil until it is opened
	target   *host.Reader // the one that was open when the fault was ordered, nil for none
	commands int          // sent so far, so that no two are the same

	watcher   usbtransport.Watcher
	following sync.WaitGroup
	mu        sync.Mutex
	gone      time.Time // when the removal was reported
}

// newRig plugs a reader in. close undoes it.
func newRig(ctx context.Context, s scenario) (*rig, error) {
	device, err := virtual.NewReader(s.config())
	if err != nil {
		return nil, err
	}
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	r := &rig{scenario: s, bus: virtual.NewBus(), device: device, log: hook, options: host.Options{Logger: logger}}
	if r.watcher, err = r.bus.Watch(ctx); err != nil {
		return nil, err
	}
	r.following.Go(r.follow)
	return r, r.plugIn()
}

// follow notes when the bus reports the removal: that is when the kernel would.
func (r *rig) follow() {
	for {
		e, err := r.watcher.Next(context.Background())
		if err != nil {
			return
		}
		if e.Kind == usbtransport.Removed {
			r.markGone()
		}
	}
}

func (r *rig) markGone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone.IsZero() {
		r.gone = time.Now()
	}
}

// goneSince tells how long ago the removal was reported, false for not yet.
func (r *rig) goneSince() (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.gone), !r.gone.IsZero()
}

func (r *rig) plugIn() error {
	info, err := r.bus.Plug(r.device)
	if err != nil {
		return err
	}
	r.plug = host.NewDevice(r.bus, info)
	return nil
}

func (r *rig) open(ctx context.Context) error {
	functions, err := r.plug.Functions()
	if err != nil {
		return err
	}
	reader, err := r.plug.Open(ctx, functions[0].Interface.Number, r.options)
	if err == nil {
		r.reader = reader
	}
	return err
}

// prepare brings the reader to where the scenario begins, and waits until nothing moves.
func (r *rig) prepare(ctx context.Context) error {
	if r.scenario.prepare != nil {
		if err := r.scenario.prepare(ctx, r); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	synctest.Wait()
	return nil
}

// session runs the scenario from its beginning.
func (r *rig) session(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	return r.scenario.run(ctx, r)
}

// closeReader closes the reader, if there is one.
func (r *rig) closeReader() error {
	if r.reader == nil {
		return nil
	}
	err := r.reader.Close()
	r.reader = nil
	return err
}

func (r *rig) close() error {
	err := errors.Join(r.closeReader(), r.bus.Close(), r.device.Close(), r.watcher.Close())
	r.following.Wait()
	return err
}

// flag tells the driver of the removal as a resource manager does, which learns of it from the kernel.
func (r *rig) flag() error {
	if r.target == nil {
		r.plug.SetRemoved() // there is no channel yet to set it for
		return nil
	}
	h := ifdhandler.New(ifdhandler.Options{})
	if err := h.Attach(0, r.target); err != nil {
		return err
	}
	return h.SetCapabilities(0, ifdhandler.TagDeviceRemoved, []byte{1})
}

// loud returns what the log has above debug level.
func (r *rig) loud() []logrus.Entry {
	var list []logrus.Entry
	for _, e := range r.log.AllEntries() {
		if e.Level <= logrus.InfoLevel {
			list = append(list, *e)
		}
	}
	return list
}

// inBubble runs f with a clock of its own and a rig, and checks that it leaves nothing behind.
func inBubble(t *testing.T, s scenario, f func(ctx context.Context, r *rig) error) error {
	t.Helper()
	var err error
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		var r *rig
		if r, err = newRig(ctx, s); err != nil {
			return
		}
		err = errors.Join(f(ctx, r), r.close())
		synctest.Wait()
		if left := others(); left != "" {
			err = errors.Join(err, fmt.Errorf("goroutines are left: %s", left))
		}
	})
	return err
}

// others returns the stacks of the goroutines in this bubble, without the one that asks.
func others() string {
	buf := make([]byte, 1<<20)
	var list []string
	for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		header, _, _ := strings.Cut(stack, "\n")
		// The first is our own; two of the testing package wait for it.
		if i > 0 && strings.Contains(header, "synctest bubble") && !strings.Contains(stack, "testing/synctest.") {
			list = append(list, stack)
		}
	}
	return strings.Join(list, "\n")
}
