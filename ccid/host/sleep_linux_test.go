package host

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSystemTellsOfItsSleep(t *testing.T) {
	clock := newSleepClock()
	first := clock.suspended()
	require.GreaterOrEqual(t, first, -time.Second)
	require.InDelta(t, first.Seconds(), clock.suspended().Seconds(), leastSleep.Seconds())
	require.InDelta(t, first.Seconds(), suspended().Seconds(), leastSleep.Seconds())
}

// TestSystemIsAskedOnlyNowAndThen has many looks in a second while the machine is awake.
func TestSystemIsAskedOnlyNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := time.Duration(0)
		clock := &sleepClock{ask: func() time.Duration { asked++; return asked }}
		for i := range 3000 {
			require.Equal(t, 1+time.Duration(i/1000), clock.suspended())
			time.Sleep(time.Millisecond)
		}
	})
}

func TestSystemIsAskedWhenItsClocksDisagree(t *testing.T) {
	for name, test := range map[string]struct {
		wall, monotonic time.Duration
		want            bool
	}{
		"a moment":               {time.Millisecond, time.Millisecond, false},
		"read apart":             {40 * time.Millisecond, time.Millisecond, false},
		"a while":                {time.Second, time.Second, true},
		"the least sleep":        {leastSleep + time.Millisecond, time.Millisecond, true},
		"an hour's sleep":        {time.Hour, time.Millisecond, true},
		"the clock was set":      {-time.Hour, time.Millisecond, true},
		"slept, and set exactly": {time.Second, time.Second, true},
	} {
		require.Equal(t, test.want, mayHaveSlept(test.wall, test.monotonic), name)
	}
}
