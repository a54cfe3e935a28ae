package pcscd

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

func TestClientsThatAskInTurnAreACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crowded, changes := false, 0
		w := &crowd{changed: func(now bool) {
			crowded = now
			changes++
		}}
		a, b := &conn{}, &conn{}
		for i, step := range []struct {
			after time.Duration
			who   *conn
			crowd bool
		}{
			{0, a, false}, {0, a, false}, {0, b, false}, {0, b, false}, // one after the other
			{0, a, true}, {0, a, true}, {0, b, true}, {aloneTime - 1, b, true}, // in turn, which holds for a while
			{1, b, false}, {aloneTime, a, false}, {aloneTime - 1, b, false}, {0, a, true},
		} {
			time.Sleep(step.after)
			w.asks(step.who)
			assert.Equal(t, step.crowd, crowded, "step %d", i)
		}
		assert.Equal(t, 3, changes, "it is told once each time")
	})
}

func TestACrowdForgetsWhoHasGone(t *testing.T) {
	w := &crowd{changed: func(bool) {}}
	a, b := &conn{}, &conn{}
	w.asks(a)
	w.forget(b)
	require.Same(t, a, w.last.Load())
	w.forget(a)
	require.Nil(t, w.last.Load())
}

func TestServerTellsOfACrowd(t *testing.T) {
	told := make(chan bool, 100)
	s := startServer(t, newFakeResources("A 00 00"), ServerOptions{Crowd: func(crowded bool) { told <- crowded }})
	a, b := s.dial(t), s.dial(t)
	ask := func(c *pcsctest.Client) {
		_, err := c.Establish(wire.ScopeSystem)
		require.NoError(t, err)
		require.NoError(t, c.Release())
	}
	require.Eventually(t, func() bool {
		ask(a)
		ask(b)
		return len(told) > 0
	}, pcsctest.Patience, time.Millisecond)
	require.True(t, <-told)
	time.Sleep(aloneTime)
	ask(a)
	select {
	case crowded := <-told:
		require.False(t, crowded)
	case <-time.After(pcsctest.Patience):
		t.Fatal("it is not told that the crowd has gone")
	}
}

func TestProcessorsAreTwoInACrowd(t *testing.T) {
	had := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(had)
	for _, may := range []int{2, 8} {
		runtime.GOMAXPROCS(may)
		change := LimitProcessors()
		assert.Equal(t, 1, runtime.GOMAXPROCS(0))
		change(true)
		assert.Equal(t, 2, runtime.GOMAXPROCS(0))
		change(false)
		assert.Equal(t, 1, runtime.GOMAXPROCS(0))
	}
	assert.Nil(t, LimitProcessors(), "there is only one")
}
