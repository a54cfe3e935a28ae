package pintest_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/internal/pintest"
)

// TestEverySequenceHasThePIN: what it is not in could not be found either.
func TestEverySequenceHasThePIN(t *testing.T) {
	for _, list := range [][]pintest.Sequence{pintest.Short(pintest.Instructions()...), pintest.Long(pintest.Instructions()...), pintest.Raw(), pintest.Characters()} {
		for _, s := range list {
			assert.NotEmpty(t, pintest.Find(fmt.Appendf(nil, "% X", s.Messages)), s.Name)
		}
	}
}

func TestThePINIsFoundInEachForm(t *testing.T) {
	bcd, err := hex.DecodeString(pintest.Digits)
	require.NoError(t, err)
	for _, form := range [][]byte{
		[]byte(pintest.Digits), bcd, fmt.Appendf(nil, "% x", pintest.Digits), fmt.Appendf(nil, "%x", pintest.Digits),
		fmt.Appendf(nil, "% X", pintest.Digits), fmt.Appendf(nil, "%X", pintest.Digits), fmt.Appendf(nil, "% x", bcd), fmt.Appendf(nil, "%x", bcd),
		fmt.Appendf(nil, "% X", pintest.Digits[:4]), fmt.Appendf(nil, "%x", pintest.Digits[4:]),
	} {
		assert.NotEmpty(t, pintest.Find(bytes.Join([][]byte{{'a'}, form, {'z'}}, nil)), "%q", form)
	}
	assert.Empty(t, pintest.Find([]byte("00 20 00 01 08 2A 2A 2A 2A 2A 2A 2A 2A")))
	assert.Equal(t, []string{"spaced BCD"}, pintest.FindPIN([]byte("log: 12 34 56"), "123456"))
	assert.NotEmpty(t, pintest.FindPIN([]byte("31 32 33 34"), "1234"))
}
