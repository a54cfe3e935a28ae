package pcscd

import (
	"context"
	"sync"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
)

// TestRequestsPerSecondAreOneUsersTogether has two clients of one user ask more often than they may, and one of another.
func TestRequestsPerSecondAreOneUsersTogether(t *testing.T) {
	const limit, requests = 40, 60
	log, lines := logtest.NewNullLogger()
	s := newServer(newFakeResources(), ServerOptions{Limits: Limits{RequestsPerSecond: limit}, Logger: log})
	a, _ := lonelyConn(t, s, 1000)
	b, _ := lonelyConn(t, s, 1000)
	other, _ := lonelyConn(t, s, 1001)
	root, _ := lonelyConn(t, s, 0)
	pace := func(conns ...*conn) time.Duration {
		begun := time.Now()
		var group sync.WaitGroup
		for _, c := range conns {
			group.Go(func() {
				for range requests / len(conns) {
					assert.NoError(t, c.pace())
				}
			})
		}
		group.Wait()
		return time.Since(begun)
	}
	// The last one has to wait until the limit allows the requests beyond the first 40; timers may be a little early.
	const wait = time.Second*(requests-limit)/limit - 10*time.Millisecond
	assert.GreaterOrEqual(t, pace(a, b), wait)
	assert.Equal(t, "too many requests a second: client has to wait", lines.LastEntry().Message)
	assert.GreaterOrEqual(t, pace(other), wait)
	assert.Less(t, pace(root), wait)

	a.cancel()
	for a.user.requests.Allow() {
	}
	require.ErrorIs(t, a.pace(), context.Canceled, "a wait ends with the connection")
	other.cancel()
}

func TestAUserWithoutConnectionsIsForgottenWhenItMayAskAgain(t *testing.T) {
	s := newServer(newFakeResources(), ServerOptions{Limits: Limits{RequestsPerSecond: 100}})
	hasty, _ := lonelyConn(t, s, 1000)
	for range 5 {
		require.NoError(t, hasty.pace())
	}
	s.finished(hasty)
	assert.Contains(t, s.users, uint32(1000), "a new connection brings no new requests")
	require.Eventually(t, func() bool {
		c, _ := lonelyConn(t, s, 1001)
		s.finished(c)
		return len(s.users) == 0
	}, pcsctest.Patience, 10*time.Millisecond)
}
