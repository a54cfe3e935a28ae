package pcscd

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLingerIsLeftAfterLookingInVain(t *testing.T) {
	// What comes of the next requests: soon, or late. How many of them are looked for.
	const soon, late = true, false
	looks := func(l *linger, requests int, outcome bool) (looked int) {
		for range requests {
			asked := false
			l.until(func() bool {
				asked = true
				return outcome
			})
			if asked {
				looked++
			}
		}
		return looked
	}
	var l linger
	assert.Equal(t, 100, looks(&l, 100, soon))
	assert.Equal(t, 1, looks(&l, 1, late))
	assert.Equal(t, 0, looks(&l, 1, soon), "left for one request")
	assert.Equal(t, 1, looks(&l, 1, late))
	assert.Equal(t, 0, looks(&l, 3, soon), "left for three")
	assert.Equal(t, 100, looks(&l, 100, soon), "tried again, with success")
	assert.Equal(t, 2, looks(&l, 3, late), "the pauses begin anew")
	assert.LessOrEqual(t, looks(&l, 64*1000, late), 1005)
	assert.Positive(t, looks(&l, 64, soon), "the pause is bounded")
}

func TestAConnectionIsAloneWhileNoOtherAsksInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(newFakeResources(), ServerOptions{})
		a, b := &conn{server: s}, &conn{server: s}
		for i, step := range []struct {
			after time.Duration
			who   *conn
			alone bool
		}{
			{0, a, true}, {0, a, true}, {0, b, true}, {0, b, true}, // one after the other
			{0, a, false}, {0, a, false}, {0, b, false}, {aloneTime - 1, b, false}, // in turn, which holds for a while
			{1, b, true}, {aloneTime, a, true}, {aloneTime - 1, b, true}, {0, a, false},
		} {
			time.Sleep(step.after)
			assert.Equal(t, step.alone, s.asks(step.who), "step %d", i)
		}
	})
}

func TestARequestIsReadWhileItIsLookedFor(t *testing.T) {
	s := newServer(newFakeResources(), ServerOptions{})
	c, client := lonelyConn(t, s, 1000)
	c.alone = s.asks(c)
	require.True(t, c.alone)
	b := make([]byte, 8)
	for _, message := range []string{"one", "another"} {
		_, err := client.Write([]byte(message))
		require.NoError(t, err)
		n, err := input{c}.Read(b)
		require.NoError(t, err)
		require.Equal(t, message, string(b[:n]))
	}
	require.Zero(t, c.linger, "it was not looked for in vain")

	c.linger.until(func() bool { return false })
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
}
