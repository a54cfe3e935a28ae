package pcscd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/pcscd/wire"
)

// watchModel is a client of a watch, as seen from outside: it counts what it is owed.
type watchModel struct {
	watch      watch
	generation uint64
	minor      int32
	// waits that were accepted, and messages that came for them.
	waits, messages int
	// changedSince says that the table changed after the client saw it last.
	changedSince bool
}

// step does one thing and checks what must hold after it. It returns an error for a broken rule.
func (m *watchModel) step(what string) error {
	replies := 0
	switch what {
	case "WAIT":
		if m.wait() {
			m.waits++
		}
	case "STOP":
		code, reply := m.watch.stop()
		if reply {
			replies++
			if code != wire.Success && code != wire.ErrCancelled {
				return fmt.Errorf("STOP answered with %v", code)
			}
		}
	case "CANCEL":
		m.watch.cancel()
	case "SIGNAL":
		m.generation++
		m.changedSince = true
	case "SIZE":
	case "TABLE":
		if m.minor == wire.Minor6 || m.watch.registrations == 0 {
			m.watch.sawTable(m.generation)
			m.changedSince = false
		}
	}
	held := m.watch.owed
	for {
		_, due := m.watch.next(m.generation)
		if !due {
			break
		}
		if held {
			return fmt.Errorf("message between WAIT and TABLE")
		}
		replies++
	}
	m.messages += replies
	open := m.watch.registrations + m.watch.cancelled
	switch {
	case m.messages+open != m.waits:
		return fmt.Errorf("%d waits, %d messages, %d open", m.waits, m.messages, open)
	case m.messages > m.waits:
		return fmt.Errorf("more messages than waits")
	case !m.watch.owed && m.watch.cancelled > 0:
		return fmt.Errorf("cancel not told")
	case !m.watch.owed && m.watch.registrations > 0 && m.changedSince && m.watch.seen < m.generation:
		return fmt.Errorf("change not told")
	case open > maxRegistrations:
		return fmt.Errorf("%d registrations", open)
	}
	return nil
}

func (m *watchModel) wait() bool {
	switch m.minor {
	case wire.Minor3:
		return m.watch.wait(m.generation)
	case wire.Minor6:
		return m.watch.waitThenFetch()
	}
	m.watch.sawTable(m.generation)
	m.changedSince = false
	return m.watch.wait(m.generation)
}

var watchSteps = []string{"WAIT", "STOP", "CANCEL", "SIGNAL", "SIZE", "TABLE"}

func TestWatchGivesExactlyOneMessageForEachWaitInEveryShortSequence(t *testing.T) {
	const length = 7
	for _, minor := range []int32{wire.Minor3, wire.Minor4, wire.Minor5, wire.Minor6} {
		var walk func(m watchModel, sequence []string)
		walk = func(m watchModel, sequence []string) {
			if len(sequence) == length {
				return
			}
			for _, step := range watchSteps {
				next := m
				if err := next.step(step); err != nil {
					t.Fatalf("4:%d: %s: %v", minor, strings.Join(append(sequence, step), " "), err)
				}
				walk(next, append(sequence, step))
			}
		}
		walk(watchModel{minor: minor, generation: 1}, nil)
	}
}

func TestWatchGivesExactlyOneMessageForEachWaitInLongSequences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := watchModel{minor: rapid.Int32Range(wire.Minor3, wire.Minor6).Draw(t, "minor"), generation: 1}
		for _, step := range rapid.SliceOf(rapid.SampledFrom(watchSteps)).Draw(t, "steps") {
			if err := m.step(step); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWatchTellsWhatHappens(t *testing.T) {
	type step struct {
		do    func(w *watch) (wire.Code, bool)
		code  wire.Code
		write bool
	}
	wait := func(generation uint64) step {
		return step{do: func(w *watch) (wire.Code, bool) { return 0, !w.wait(generation) }}
	}
	fetch := step{do: func(w *watch) (wire.Code, bool) { return 0, !w.waitThenFetch() }}
	table := func(generation uint64) step {
		return step{do: func(w *watch) (wire.Code, bool) { w.sawTable(generation); return 0, false }}
	}
	cancel := step{do: func(w *watch) (wire.Code, bool) { w.cancel(); return 0, false }}
	next := func(generation uint64, code wire.Code, due bool) step {
		return step{do: func(w *watch) (wire.Code, bool) { return w.next(generation) }, code: code, write: due}
	}
	stop := func(code wire.Code, reply bool) step {
		return step{do: (*watch).stop, code: code, write: reply}
	}
	for name, steps := range map[string][]step{
		"a change after the table":           {table(5), wait(5), next(5, 0, false), next(6, 0, true), next(7, 0, false)},
		"stop":                               {table(5), wait(5), stop(0, true), next(6, 0, false)},
		"stop after the signal":              {table(5), wait(5), next(6, 0, true), stop(0, false)},
		"stop without a wait":                {stop(0, false)},
		"cancel":                             {wait(5), cancel, next(5, wire.ErrCancelled, true), next(9, 0, false), stop(0, false)},
		"cancel without a wait":              {cancel, wait(5), next(5, 0, false)},
		"two waits, two messages":            {wait(5), wait(5), next(6, 0, true), next(6, 0, true), next(6, 0, false)},
		"4:3: change between table and wait": {table(5), wait(6), next(6, 0, true)},
		"4:3: wait without a table":          {wait(6), next(6, 0, false), next(7, 0, true)},
		"4:6: change before the table":       {fetch, next(6, 0, false), table(6), next(6, 0, false), next(7, 0, true)},
		"4:6: change after the snapshot":     {fetch, table(5), next(6, 0, true)},
		"4:6: cancel before the table":       {fetch, cancel, next(5, 0, false), table(5), next(5, wire.ErrCancelled, true)},
		"4:6: stop before the table":         {fetch, stop(0, true), next(9, 0, false)},
		"4:6: cancel, then stop before the table": {
			fetch, cancel, next(5, 0, false), stop(wire.ErrCancelled, true), next(5, 0, false),
		},
	} {
		t.Run(name, func(t *testing.T) {
			var w watch
			for i, s := range steps {
				code, write := s.do(&w)
				require.Equal(t, s.write, write, "step %d", i)
				require.Equal(t, s.code, code, "step %d", i)
			}
		})
	}
}

func TestWatchRefusesTooManyRegistrations(t *testing.T) {
	var w watch
	for range maxRegistrations {
		require.True(t, w.wait(1))
	}
	require.False(t, w.wait(1))
	w.cancel()
	require.False(t, w.wait(1), "a message that is still to be sent counts")
}
