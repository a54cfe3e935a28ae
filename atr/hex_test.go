package atr_test

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/atr"
)

func TestParseHexTakesWhatPeopleWrite(t *testing.T) {
	want := []byte{0x3B, 0x7A, 0x18, 0x00}
	for _, s := range []string{
		"3B7A1800", "3b7a1800", "3B 7A 18 00", "3B:7A:18:00", " 3B\t7A\r\n18 :00 ", "0x3B7A1800", "0X3b 0x7A 0x18 0x00",
		"3B7A 1800", "0x3B:7a:0X18:00",
	} {
		got, err := atr.ParseHex(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
	}
	for _, s := range []string{"", " ", "\n:\t"} {
		got, err := atr.ParseHex(s)
		require.NoError(t, err)
		assert.Empty(t, got)
	}
}

func TestParseHexNamesThePlaceOfAnError(t *testing.T) {
	for s, want := range map[string]string{
		"3B 7G":    "'G' at position 5",
		"3B 7 18":  "a single digit before position 5",
		"3B 7":     "a single digit at the end (position 4)",
		"3B-7A":    "'-' at position 3",
		"0x":       "'x' at position 2",
		"0x 3B":    "'x' at position 2",
		"3Bx7A":    "'x' at position 3",
		"3B0x7A":   "'x' at position 4",
		"0x0x3B":   "'x' at position 4",
		"x3B":      "'x' at position 1",
		"3B é":     "'é' at position 4",
		"3B \xff":  "'\ufffd' at position 4",
		"3B:7A:1:": "a single digit before position 8",
	} {
		got, err := atr.ParseHex(s)
		require.ErrorIs(t, err, atr.ErrHex, s)
		require.ErrorContains(t, err, want, s)
		assert.Nil(t, got)
	}
}

// checkHex holds what must be true of each result of ParseHex.
func checkHex(t reporter, s string) {
	b, err := atr.ParseHex(s)
	if err != nil {
		require.ErrorIs(t, err, atr.ErrHex)
		return
	}
	require.LessOrEqual(t, 2*len(b), len(s))
	again, err := atr.ParseHex(hex.EncodeToString(b))
	require.NoError(t, err)
	require.Equal(t, b, again)
}
