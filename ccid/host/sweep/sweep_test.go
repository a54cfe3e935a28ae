package sweep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Bounds of what a caller may have to wait.
const (
	// removalBound is for everybody who waits to know that the reader is gone.
	removalBound = 50 * time.Millisecond
	// cancelBound is for a cancelled call to return: an abort may be waited for.
	cancelBound = 5 * time.Second
	// faultBound is for a session with one fault in it: the longest single wait is 60 s, then comes a recovery.
	faultBound = 90 * time.Second
)

// fault is one column of the table.
type fault struct {
	name string
	// order tells what happens to transfer k; act is called there first, where it is set.
	order virtual.Fault
	act   func(r *rig, cancel context.CancelFunc) error
	// answers: it is a fault of what the reader sends. The host's own messages are let be.
	answers bool
	// messages: it is a fault of messages with a header, on endpoints of their own.
	messages bool
	// check judges what came of it.
	check func(ctx context.Context, r *rig, o outcome) error
}

// outcome is what is known of one run.
type outcome struct {
	fault     fault
	k, total  int // where the fault was, and how many transfers there are without it
	err       error
	elapsed   time.Duration
	transfers int
}

var faults = []fault{
	{name: "gone before", order: virtual.Fault{Kind: virtual.RemoveBefore}, check: checkRemoved},
	{name: "gone during", order: virtual.Fault{Kind: virtual.RemoveDuring}, check: checkRemoved},
	{name: "gone after", order: virtual.Fault{Kind: virtual.RemoveAfter}, check: checkRemoved},
	{name: "flag", act: setFlag, check: checkRemoved},
	{name: "watcher", order: virtual.Fault{Kind: virtual.Timeout}, act: reportRemoval, check: checkRemoved},
	{name: "stall", order: virtual.Fault{Kind: virtual.Stall}, check: checkFault},
	{name: "timeout", order: virtual.Fault{Kind: virtual.Timeout}, check: checkFault},
	{name: "lost", order: virtual.Fault{Kind: virtual.Drop}, check: checkFault},
	{name: "short", order: virtual.Fault{Kind: virtual.Truncate, Length: 4}, messages: true, check: checkFault},
	{name: "garbage", order: virtual.Fault{Kind: virtual.Garble}, messages: true, check: checkFault},
	{name: "wrong bSeq", order: virtual.Fault{Kind: virtual.WrongSeq}, messages: true, check: checkFault},
	{name: "duplicate", order: virtual.Fault{Kind: virtual.Duplicate}, answers: true, messages: true, check: checkFault},
	{name: "late", order: virtual.Fault{Kind: virtual.Hold}, messages: true, check: checkFault},
	{name: "zero length", order: virtual.Fault{Kind: virtual.ZeroLength}, messages: true, check: checkFault},
	{name: "cancelled", act: cancelCaller, check: checkCancelled},
	{name: "cancelled, mute", order: virtual.Fault{Kind: virtual.Timeout}, act: cancelCaller, check: checkCancelled},
}

func setFlag(r *rig, _ context.CancelFunc) error {
	r.markGone()
	return r.flag()
}

// reportRemoval is the way of a hot-plug watcher: another goroutine than any that talks to the reader.
func reportRemoval(r *rig, _ context.CancelFunc) error {
	r.following.Go(func() {
		r.markGone()
		r.plug.SetRemoved()
	})
	return nil
}

func cancelCaller(_ *rig, cancel context.CancelFunc) error {
	cancel()
	return nil
}

// TestSweep runs each scenario with each fault at each of its transfers, and once after the last.
func TestSweep(t *testing.T) {
	if testing.Short() {
		t.Skip("takes its time")
	}
	table := newTable()
	for _, s := range scenarios {
		total, err := count(t, s)
		if err != nil {
			t.Errorf("%s without a fault: %v", s.name, err)
			continue
		}
		row := []string{s.name, fmt.Sprint(total)}
		for _, f := range faults {
			if s.token && f.messages {
				row = append(row, "none")
				continue
			}
			runs, passed := 0, 0
			for k := range total + 1 {
				runs++
				if err := attempt(t, s, f, k, total); err != nil {
					t.Errorf("%s: %s at transfer %d of %d: %v", s.name, f.name, k, total, err)
					continue
				}
				passed++
			}
			row = append(row, fmt.Sprintf("%d/%d", passed, runs))
		}
		table.add(row)
	}
	table.print()
}

// count returns how many transfers the scenario has.
func count(t *testing.T, s scenario) (total int, err error) {
	t.Helper()
	err = inBubble(t, s, func(ctx context.Context, r *rig) error {
		if err := r.prepare(ctx); err != nil {
			return err
		}
		r.bus.Inject(nil)
		err := s.run(ctx, r)
		synctest.Wait()
		total = r.bus.Transfers()
		if violations := r.device.Violations(); err == nil && len(violations) > 0 {
			err = fmt.Errorf("%v", violations)
		}
		return err
	})
	return total, err
}

// attempt runs the scenario once with the fault at transfer k.
func attempt(t *testing.T, s scenario, f fault, k, total int) error {
	t.Helper()
	return inBubble(t, s, func(ctx context.Context, r *rig) error {
		if err := r.prepare(ctx); err != nil {
			return err
		}
		running, cancel := context.WithCancel(ctx)
		defer cancel()
		r.target = r.reader
		var actErr error
		r.bus.Inject(func(transfer virtual.Transfer) virtual.Fault {
			if transfer.Index != k {
				return virtual.Fault{}
			}
			if f.act != nil {
				actErr = f.act(r, cancel)
			}
			return f.on(transfer)
		})
		begin := time.Now()
		o := outcome{fault: f, k: k, total: total, err: s.run(running, r), elapsed: time.Since(begin)}
		synctest.Wait()
		if o.transfers = r.bus.Transfers(); actErr != nil {
			return actErr
		}
		return f.check(ctx, r, o)
	})
}

// on returns what happens to a transfer.
func (f fault) on(transfer virtual.Transfer) virtual.Fault {
	switch {
	case f.answers && transfer.Kind == virtual.BulkOutTransfer:
		return virtual.Fault{}
	case f.order.Kind == virtual.Timeout && transfer.Kind == virtual.InterruptInTransfer:
		// Nobody can tell an interrupt endpoint that is mute for ever from one that has nothing to say.
		return virtual.Fault{Kind: virtual.Delay, Delay: patience / 2}
	}
	return f.order
}

// checkRemoved judges a run in which the reader vanished.
func checkRemoved(ctx context.Context, r *rig, o outcome) error {
	reader := r.reader
	late, gone := r.goneSince()
	if !gone {
		// The transfer is yet to come, or waits for something: now it happens, with nobody else at the reader.
		r.bus.Unplug(r.device)
		synctest.Wait()
	}
	switch {
	case o.err == nil && gone && !r.scenario.closes && o.k+1 < o.total-r.scenario.aside:
		return errors.New("no error")
	case o.err != nil && !errors.Is(o.err, usbtransport.ErrRemoved), errors.Is(o.err, errWrong):
		return o.err
	case gone && o.err != nil && late > removalBound:
		return fmt.Errorf("known after %v", late)
	case r.scenario.aside == 0 && o.transfers > o.k+1:
		return fmt.Errorf("%d transfers after the removal", o.transfers-o.k-1)
	}
	if r.scenario.token && reader != nil {
		// Without an interrupt endpoint nobody knows before the next transfer.
		_, _ = reader.Slot(0).Status(ctx)
	}
	if err := callsFail(ctx, reader); err != nil {
		return err
	}
	if err := r.closeReader(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if after := r.bus.Transfers(); after != o.transfers {
		return fmt.Errorf("%d transfers to a reader that is gone", after-o.transfers)
	}
	if err := checkRemovedLog(r, o); err != nil {
		return err
	}
	return r.again(ctx)
}

// callsFail checks that no call does anything on a reader that is gone.
func callsFail(ctx context.Context, reader *host.Reader) error {
	if reader == nil {
		return nil
	}
	s := reader.Slot(0)
	begin := time.Now()
	for name, call := range map[string]func() error{
		"status":       func() error { _, err := s.Status(ctx); return err },
		"power on":     func() error { _, err := s.PowerOn(ctx, host.ColdReset); return err },
		"power off":    func() error { return s.PowerOff(ctx) },
		"set protocol": func() error { return s.SetProtocol(ctx, 1, host.MapAPDU) },
		"transmit":     func() error { _, err := s.Transmit(ctx, []byte{0, 0xA4, 0, 0}); return err },
		"escape":       func() error { _, err := s.Escape(ctx, nil); return err },
		"wait":         func() error { _, err := s.WaitChange(ctx, s.State()); return err },
	} {
		if err := call(); !errors.Is(err, usbtransport.ErrRemoved) {
			return fmt.Errorf("%s afterwards: %w", name, err)
		}
	}
	if late := time.Since(begin); late > 0 {
		return fmt.Errorf("calls afterwards took %v", late)
	}
	return nil
}

// checkRemovedLog wants one line with all that belongs into it, unless nobody had the reader any more.
func checkRemovedLog(r *rig, o outcome) error {
	lines := r.loud()
	if len(lines) == 0 && r.scenario.closes && o.k+1 >= o.total {
		return nil
	}
	if len(lines) != 1 {
		return fmt.Errorf("%d lines above debug level: %v", len(lines), lines)
	}
	e := lines[0]
	if e.Level != logrus.InfoLevel || e.Message != "reader removed" || e.Data["reader"] == "" || e.Data["port"] != r.plug.Info().PortPath {
		return fmt.Errorf("log: %v %v", e.Message, e.Data)
	}
	// Where it is learnt of between two operations, there is none under way.
	between := o.fault.order.Kind == virtual.RemoveAfter || r.scenario.aside > 0 || o.k >= o.total
	if e.Data["slot0"] == nil && !between {
		return fmt.Errorf("log does not say what was under way: %v", e.Data)
	}
	return nil
}

// again plugs the reader in anew and wants everything to work.
func (r *rig) again(ctx context.Context) error {
	r.bus.Inject(nil)
	r.bus.Unplug(r.device)
	if err := r.plugIn(); err != nil {
		return err
	}
	if err := r.session(ctx); err != nil {
		return fmt.Errorf("after the next plug-in: %w", err)
	}
	return nil
}

// checkFault judges a run with a fault that a reader survives.
func checkFault(ctx context.Context, r *rig, o outcome) error {
	if errors.Is(o.err, usbtransport.ErrRemoved) || errors.Is(o.err, usbtransport.ErrClosed) || errors.Is(o.err, errWrong) {
		return o.err
	}
	if o.elapsed > faultBound+r.scenario.holder {
		return fmt.Errorf("took %v: %w", o.elapsed, o.err)
	}
	return checkAlive(ctx, r)
}

// checkCancelled judges a run whose caller gave up.
func checkCancelled(ctx context.Context, r *rig, o outcome) error {
	if o.err != nil && !errors.Is(o.err, usbtransport.ErrCancelled) {
		return fmt.Errorf("wrong error: %w", o.err)
	}
	if o.elapsed > cancelBound {
		return fmt.Errorf("took %v", o.elapsed)
	}
	return checkAlive(ctx, r)
}

// checkAlive wants the same session to work on the same plug-in, and a log that stays silent.
func checkAlive(ctx context.Context, r *rig) error {
	r.bus.Inject(nil)
	if r.scenario.opens {
		if err := r.closeReader(); err != nil {
			return err
		}
	}
	if err := r.session(ctx); err != nil {
		return fmt.Errorf("the next session: %w", err)
	}
	if lines := r.loud(); len(lines) > 0 {
		return fmt.Errorf("%d lines above debug level: %v", len(lines), lines)
	}
	return nil
}

// table is what TestSweep prints.
type table struct{ rows [][]string }

func newTable() *table {
	head := []string{"scenario", "transfers"}
	for _, f := range faults {
		head = append(head, f.name)
	}
	return &table{rows: [][]string{head}}
}

func (t *table) add(row []string) { t.rows = append(t.rows, row) }

func (t *table) print() {
	for i, row := range t.rows {
		cells := make([]string, len(row))
		for c, text := range row {
			width := 0
			for _, other := range t.rows {
				width = max(width, len(other[c]))
			}
			cells[c] = fmt.Sprintf("%-*s", width, text)
		}
		line := "| " + strings.Join(cells, " | ") + " |"
		fmt.Fprintln(os.Stdout, line)
		if i == 0 {
			fmt.Fprintln(os.Stdout, strings.Map(func(r rune) rune {
				if r == '|' || r == ' ' {
					return r
				}
				return '-'
			}, line))
		}
	}
}
