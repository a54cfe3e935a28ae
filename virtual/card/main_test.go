package card

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// powered makes a card that has just been powered on.
func powered(t testing.TB, a Application, o Options) *ICC {
	t.Helper()
	c := New(a, o)
	_, err := c.PowerOn(t.Context(), ClassA)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// say writes characters and reads all that the card answers until it waits.
func say(t testing.TB, c *ICC, b []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c.Write(b)
	var all []byte
	for {
		part, err := c.Read(ctx, 1000)
		if err != nil {
			require.ErrorIs(t, err, ErrMute)
			return all
		}
		all = append(all, part...)
	}
}

// lockedBuffer takes a process's output.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
