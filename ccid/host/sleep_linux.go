package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// sleepClock tells for how long the machine has slept since it was started. It is for one goroutine at a time.
//
// The clocks that tell that take system calls, too many for each command. But the kernel adds what it slept to the wall clock
// too, and not to the monotonic one, and those two take none. So the others are only asked when these no longer agree, and now and
// then: somebody may have set the wall clock back by just as much.
type sleepClock struct {
	ask   func() time.Duration
	asked time.Time
	told  time.Duration
}

func newSleepClock() *sleepClock { return &sleepClock{ask: suspended} }

func (c *sleepClock) suspended() time.Duration {
	now := time.Now()
	if c.asked.IsZero() || mayHaveSlept(now.Round(0).Sub(c.asked.Round(0)), now.Sub(c.asked)) {
		// Looked at in this order, no sleep comes between the two looks unseen.
		c.asked, c.told = now, c.ask()
	}
	return c.told
}

// mayHaveSlept reports whether to ask again after a time that is so long by the wall clock and by the monotonic clock.
func mayHaveSlept(wall, monotonic time.Duration) bool {
	const often = time.Second
	return (wall-monotonic).Abs() >= leastSleep/2 || monotonic >= often
}

// suspended returns for how long the machine has slept: CLOCK_BOOTTIME goes on meanwhile, CLOCK_MONOTONIC does not. The two are
// read one after the other, a few times where that took long.
func suspended() time.Duration {
	const tries, quick = 3, time.Millisecond
	var difference time.Duration
	for range tries {
		before := clock(unix.CLOCK_BOOTTIME)
		difference = before - clock(unix.CLOCK_MONOTONIC)
		if clock(unix.CLOCK_BOOTTIME)-before < quick {
			break
		}
	}
	return difference
}

// clock reads a clock; 0 where the kernel does not have it.
func clock(id int32) time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
