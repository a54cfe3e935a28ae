//go:build !linux

package host

import "time"

// sleepClock knows nothing of this system's sleep.
type sleepClock struct{}

func newSleepClock() *sleepClock { return &sleepClock{} }

func (*sleepClock) suspended() time.Duration { return 0 }
