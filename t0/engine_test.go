package t0

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// unhex reads "00 A4 …".
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err, s)
	return b
}

func newEngine(t testing.TB, c Config) *Engine {
	t.Helper()
	e, err := New(c)
	require.NoError(t, err)
	return e
}

func TestNewRefusesAnUnknownMapping(t *testing.T) {
	_, err := New(Config{Mapping: 7})
	require.ErrorContains(t, err, "unknown mapping")
}

func TestMappingHasNames(t *testing.T) {
	require.Equal(t, "transparent", Transparent.String())
	require.Equal(t, "map APDUs", MapAPDU.String())
	require.Equal(t, "Mapping(7)", Mapping(7).String())
}

// turn is one exchange of TPDUs.
type turn struct {
	c, r string // command and response TPDU
}

// play runs an APDU against a scripted card and returns the response APDU. Each TPDU must be the one of the script, and
// the script must be used up.
func play(t *testing.T, e *Engine, command string, script []turn) []byte {
	t.Helper()
	s, err := e.Transmit(unhex(t, command))
	require.NoError(t, err)
	for i, turn := range script {
		require.False(t, s.Done, "turn %d", i)
		require.Equal(t, unhex(t, turn.c), s.Send, "turn %d", i)
		s, err = e.Receive(unhex(t, turn.r))
		require.NoError(t, err, "turn %d", i)
	}
	require.True(t, s.Done)
	require.Nil(t, s.Send)
	return s.Response
}
