package host

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSystemTellsOfItsSleep(t *testing.T) {
	first := suspended()
	require.GreaterOrEqual(t, first, -time.Second)
	require.InDelta(t, first.Seconds(), suspended().Seconds(), leastSleep.Seconds())
}
