package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// guest is one of the machines that run at the same time, and what it is to run.
type guest struct {
	*lab
	suites []suite
}

// test builds the suites, runs them in their guests and writes the summary to out. The lines of the second guest and
// of those after it start with its number.
func (l *lab) test(ctx context.Context, opts options, selected []suite, out io.Writer) (int, error) {
	guests, err := l.guests(ctx, selected)
	if err != nil {
		return 0, err
	}
	scripts := make([]string, len(guests))
	for i, g := range guests {
		if scripts[i], err = g.build(ctx, g.suites, opts); err != nil {
			return 0, err
		}
	}

	if err := runAll(ctx, guests, scripts, opts.run, out); err != nil {
		return 0, err
	}
	return summarize(guests, out)
}

// runAll boots the guests with their scripts: first those that measure times, then the others.
func runAll(ctx context.Context, guests []guest, scripts []string, pattern string, out io.Writer) error {
	var mu sync.Mutex
	failures := make([]error, len(guests))
	for _, measures := range []bool{true, false} {
		var running sync.WaitGroup
		for i, g := range guests {
			if g.measures() != measures {
				continue
			}
			prefix := ""
			if i > 0 {
				prefix = fmt.Sprintf("[guest %d] ", i+1)
			}
			running.Go(func() {
				failures[i] = g.run(ctx, scripts[i], pattern, &prefixer{prefix: prefix, mu: &mu, out: out})
			})
		}
		running.Wait()
	}
	return errors.Join(failures...)
}

// measures reports whether any of the guest's suites does.
func (g guest) measures() bool {
	return slices.ContainsFunc(g.suites, func(s suite) bool { return s.measures })
}

// run runs a guest's suites; once more from the start if the guest froze, since that is the emulator's doing.
func (g guest) run(ctx context.Context, script, pattern string, out io.Writer) error {
	err := g.runOnce(ctx, script, pattern, out)
	if !errors.Is(err, errFrozen) || ctx.Err() != nil {
		return err
	}
	note("%v; its suites start once more", err)
	if err := g.clear(); err != nil {
		return err
	}
	return g.runOnce(ctx, script, pattern, out)
}

// clear removes what a guest's suites have left in the share.
func (g guest) clear() error {
	for _, pattern := range []string{"*.out", "*.status", "*.ready", "figures-*"} {
		files, err := filepath.Glob(filepath.Join(g.share, pattern))
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// runOnce boots a guest with the script that runs its suites, and runs those beside it that belong outside.
func (g guest) runOnce(ctx context.Context, script, pattern string, out io.Writer) error {
	alive, ended := context.WithCancel(ctx)
	defer ended()
	var outside sync.WaitGroup
	failures := make([]error, len(g.suites))
	for i, s := range g.suites {
		if s.outside {
			outside.Go(func() { failures[i] = g.runOutside(alive, s, pattern, out) })
		}
	}
	_, err := g.boot(ctx, script, out)
	ended()
	outside.Wait()
	return errors.Join(append(failures, err)...)
}

// guests divides the suites among guests, each with a folder of its own.
func (l *lab) guests(ctx context.Context, selected []suite) ([]guest, error) {
	var guests []guest
	places := map[int]int{}
	for _, s := range selected {
		place, ok := places[s.guest]
		if !ok {
			own := l
			if len(guests) > 0 {
				var err error
				if own, err = l.another(ctx, len(guests)+1); err != nil {
					return nil, err
				}
			}
			place = len(guests)
			places[s.guest] = place
			guests = append(guests, guest{lab: own})
		}
		guests[place].suites = append(guests[place].suites, s)
	}
	return guests, nil
}

// another prepares one more guest, in a folder below the first one's.
func (l *lab) another(ctx context.Context, number int) (*lab, error) {
	own := *l
	own.dir = filepath.Join(l.dir, fmt.Sprint(number))
	own.share = filepath.Join(own.dir, "share")
	return &own, own.fill(ctx)
}

// prefixer writes whole lines with a prefix to what several share. Each Write is one line or more.
type prefixer struct {
	prefix string
	mu     *sync.Mutex
	out    io.Writer
}

func (p *prefixer) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range bytes.Lines(text) {
		if _, err := fmt.Fprintf(p.out, "%s%s", p.prefix, line); err != nil {
			return 0, err
		}
	}
	return len(text), nil
}
