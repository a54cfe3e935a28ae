package atr_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/atr"
)

func parse(t testing.TB, s string) *atr.ATR {
	t.Helper()
	b, err := atr.ParseHex(s)
	require.NoError(t, err)
	a, err := atr.Parse(b)
	require.NoError(t, err)
	return a
}

func TestParseCACOfQEMU(t *testing.T) {
	a := parse(t, "3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34")
	assert.Equal(t, "sfte cd144", string(a.Historical))
	assert.Equal(t, []uint8{0}, a.Protocols)
	fi, di, fmax := a.FiDi()
	assert.Equal(t, [3]int{372, 12, 5_000_000}, [3]int{fi, di, fmax})
	assert.True(t, a.Valid())
	assert.True(t, a.TCK.Correct)
	assert.False(t, a.TCK.Present)
	assert.Nil(t, a.Specific)
}
