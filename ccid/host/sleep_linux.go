package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended returns for how long the machine has slept since it was started: CLOCK_BOOTTIME goes on meanwhile, CLOCK_MONOTONIC
// does not. The two are read one after the other, a few times where that took long.
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
