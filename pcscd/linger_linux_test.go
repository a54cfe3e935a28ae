package pcscd

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/pcsctest"
)

func TestLingerIsLeftAfterStayingInVain(t *testing.T) {
	// What comes of the next requests: soon, or late. How many of them are stayed for.
	const soon, late = true, false
	stays := func(l *linger, requests int, outcome bool) (stayed int) {
		for range requests {
			called := false
			l.try(func() bool {
				called = true
				return outcome
			})
			if called {
				stayed++
			}
		}
		return stayed
	}
	var l linger
	assert.Equal(t, 100, stays(&l, 100, soon))
	assert.Equal(t, 1, stays(&l, 1, late))
	assert.Equal(t, 0, stays(&l, 1, soon), "left for one request")
	assert.Equal(t, 1, stays(&l, 1, late))
	assert.Equal(t, 0, stays(&l, 3, soon), "left for three")
	assert.Equal(t, 100, stays(&l, 100, soon), "tried again, with success")
	assert.Equal(t, 2, stays(&l, 3, late), "the pauses begin anew")
	assert.LessOrEqual(t, stays(&l, 64*1000, late), 1005)
	assert.Positive(t, stays(&l, 64, soon), "the pause is bounded")
}

func TestARequestIsReadWhileItIsStayedFor(t *testing.T) {
	for name, crowded := range map[string]bool{"alone": false, "in a crowd": true} {
		t.Run(name, func(t *testing.T) {
			s := newServer(newFakeResources(), ServerOptions{})
			s.crowd.crowded.Store(crowded)
			c, client := lonelyConn(t, s, 1000)
			b := make([]byte, 8)
			for _, message := range []string{"one", "another"} {
				_, err := client.Write([]byte(message))
				require.NoError(t, err)
				n, err := input{c}.Read(b)
				require.NoError(t, err)
				require.Equal(t, message, string(b[:n]))
			}
			require.Zero(t, c.linger, "it was not stayed for in vain")

			c.linger.try(func() bool { return false })
			_, err := client.Write([]byte("later"))
			require.NoError(t, err)
			n, err := input{c}.Read(b)
			require.NoError(t, err)
			require.Equal(t, "later", string(b[:n]))
			require.Equal(t, linger{last: 1}, c.linger, "it was left to the poller")

			c.linger = linger{}
			require.NoError(t, client.Close())
			_, err = input{c}.Read(b)
			require.ErrorIs(t, err, io.EOF)
			require.Zero(t, c.linger)
		})
	}
}

func TestStayingEnds(t *testing.T) {
	c, client := lonelyConn(t, newServer(newFakeResources(), ServerOptions{}), 1000)
	b := make([]byte, 8)
	for name, tt := range map[string]struct {
		stay func([]byte) (int, bool)
		time time.Duration
	}{"spin": {input{c}.spin, spinTime}, "doze": {input{c}.doze, dozeTime}} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			n, over := tt.stay(b)
			assert.GreaterOrEqual(t, time.Since(begun), tt.time)
			assert.False(t, over)
			assert.Zero(t, n)
		})
	}
	t.Run("doze, when something comes", func(t *testing.T) {
		go func() {
			time.Sleep(dozeTime / 10)
			_, _ = client.Write([]byte("here"))
		}()
		require.Eventually(t, func() bool {
			n, over := input{c}.doze(b)
			return over && string(b[:n]) == "here"
		}, pcsctest.Patience, time.Nanosecond)
	})
	t.Run("when the connection is closed here", func(t *testing.T) {
		c.net.Close()
		for _, stay := range []func([]byte) (int, bool){input{c}.spin, input{c}.doze} {
			n, over := stay(b)
			assert.True(t, over)
			assert.Zero(t, n)
		}
	})
}
