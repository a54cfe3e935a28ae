package pcscd

import (
	"testing"

	"github.com/stretchr/testify/assert"
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

func TestAConnectionIsAloneWhileNoOtherAsks(t *testing.T) {
	s := newServer(newFakeResources(), ServerOptions{})
	a, b := &conn{server: s}, &conn{server: s}
	for i, step := range []struct {
		who   *conn
		alone bool
	}{{a, true}, {a, true}, {b, false}, {a, false}, {a, true}, {b, false}, {b, true}} {
		assert.Equal(t, step.alone, s.asks(step.who), "step %d", i)
	}
	s.finished(a)
	assert.False(t, s.asks(a), "only the end of the one that asked last counts")
	s.finished(a)
	assert.True(t, s.asks(b))
}
