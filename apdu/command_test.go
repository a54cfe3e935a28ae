package apdu_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/apdu"
)

// unhex decodes hexadecimal text with spaces.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestCommandCasesBothWays(t *testing.T) {
	fill := func(n int) []byte { return bytes.Repeat([]byte{0xA5}, n) }
	tests := []struct {
		name  string
		bytes []byte
		want  apdu.Command
		kind  apdu.Case
	}{
		{"case 1", unhex(t, "00A40000"), apdu.Command{INS: 0xA4}, apdu.Case1},
		{"case 2, Le 1", unhex(t, "00B0000001"), apdu.Command{INS: 0xB0, Ne: 1}, apdu.Case2},
		{"case 2, Le 255", unhex(t, "00B00000FF"), apdu.Command{INS: 0xB0, Ne: 255}, apdu.Case2},
		{"case 2, Le 00 is 256", unhex(t, "00B0000000"), apdu.Command{INS: 0xB0, Ne: 256}, apdu.Case2},
		{"case 3, one byte", unhex(t, "00D600000111"), apdu.Command{INS: 0xD6, Data: []byte{0x11}}, apdu.Case3},
		{"case 3, 255 bytes", join(unhex(t, "00D60000FF"), fill(255)), apdu.Command{INS: 0xD6, Data: fill(255)}, apdu.Case3},
		{"case 4", unhex(t, "00A40400021122 05"), apdu.Command{INS: 0xA4, P1: 4, Data: []byte{0x11, 0x22}, Ne: 5}, apdu.Case4},
		{"case 4, 255 bytes, Le 00 is 256", join(unhex(t, "00A40400FF"), fill(255), []byte{0}), apdu.Command{INS: 0xA4, P1: 4, Data: fill(255), Ne: 256}, apdu.Case4},
		{"case 2E, Le 1", unhex(t, "00B00000000001"), apdu.Command{INS: 0xB0, Ne: 1, Extended: true}, apdu.Case2E},
		{"case 2E, Le 256", unhex(t, "00B00000000100"), apdu.Command{INS: 0xB0, Ne: 256, Extended: true}, apdu.Case2E},
		{"case 2E, Le 0000 is 65536", unhex(t, "00B00000000000"), apdu.Command{INS: 0xB0, Ne: 65536, Extended: true}, apdu.Case2E},
		{"case 3E, one byte", unhex(t, "00D60000 000001 11"), apdu.Command{INS: 0xD6, Data: []byte{0x11}, Extended: true}, apdu.Case3E},
		{"case 3E, 65535 bytes", join(unhex(t, "00D60000 00FFFF"), fill(65535)), apdu.Command{INS: 0xD6, Data: fill(65535), Extended: true}, apdu.Case3E},
		{"case 4E, Le 0000 is 65536", unhex(t, "00A40400 000001 11 0000"), apdu.Command{INS: 0xA4, P1: 4, Data: []byte{0x11}, Ne: 65536, Extended: true}, apdu.Case4E},
		{"case 4E, longest", join(unhex(t, "00A40400 00FFFF"), fill(65535), unhex(t, "FFFF")), apdu.Command{INS: 0xA4, P1: 4, Data: fill(65535), Ne: 65535, Extended: true}, apdu.Case4E},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := apdu.ParseCommand(tt.bytes)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.kind, got.Case())

			lenient, err := apdu.ParseCommandLenient(tt.bytes)
			require.NoError(t, err)
			assert.Equal(t, tt.want, lenient)

			encoded, err := tt.want.Bytes()
			require.NoError(t, err)
			assert.Equal(t, tt.bytes, encoded)
		})
	}
}

func TestParseCommandLengthErrors(t *testing.T) {
	tests := []struct {
		name, bytes string
		want        error
	}{
		{"empty", "", apdu.ErrTooShort},
		{"three bytes", "00A404", apdu.ErrTooShort},
		{"data missing", "00D600000211", apdu.ErrLength},
		{"two bytes after the data", "00D60000011122 33 44 55", apdu.ErrLength},
		{"extended data missing", "00D60000 000002 11", apdu.ErrLength},
		{"extended Lc 0000 with four bytes", "00D60000 000000 11223344", apdu.ErrLength},
		{"bytes after an extended Le", "00D60000 000001 11 0000 0000", apdu.ErrLength},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := apdu.ParseCommand(unhex(t, tt.bytes))
			require.ErrorIs(t, err, tt.want)
			assert.Equal(t, apdu.Command{}, got)

			got, err = apdu.ParseCommandLenient(unhex(t, tt.bytes))
			require.ErrorIs(t, err, tt.want)
			assert.Equal(t, apdu.Command{}, got)
		})
	}
}

func TestParseCommandLenientAcceptsWhatTheFieldSends(t *testing.T) {
	one := []byte{0x11}
	tests := []struct {
		name, bytes string
		want        apdu.Command
	}{
		{"short Lc 00 and Le", "00B00000 00 10", apdu.Command{INS: 0xB0, Ne: 16}},
		{"short Lc 00 and Le 00", "00B00000 00 00", apdu.Command{INS: 0xB0, Ne: 256}},
		{"extended Lc 0000 and Le", "00B00000 000000 0010", apdu.Command{INS: 0xB0, Ne: 16, Extended: true}},
		{"extended Lc 0000 and one-byte Le", "00B00000 000000 10", apdu.Command{INS: 0xB0, Ne: 16, Extended: true}},
		{"short Lc and two-byte Le", "00A40400 01 11 0000", apdu.Command{INS: 0xA4, P1: 4, Data: one, Ne: 65536, Extended: true}},
		{"short Lc and three-byte Le", "00A40400 01 11 000100", apdu.Command{INS: 0xA4, P1: 4, Data: one, Ne: 256, Extended: true}},
		{"extended Lc and one-byte Le", "00A40400 000001 11 05", apdu.Command{INS: 0xA4, P1: 4, Data: one, Ne: 5, Extended: true}},
		{"extended Lc and one-byte Le 00 asks for all", "00A40400 000001 11 00", apdu.Command{INS: 0xA4, P1: 4, Data: one, Ne: 65536, Extended: true}},
		{"extended Lc and three-byte Le", "00A40400 000001 11 000000", apdu.Command{INS: 0xA4, P1: 4, Data: one, Ne: 65536, Extended: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.bytes)
			_, err := apdu.ParseCommand(b)
			require.ErrorIs(t, err, apdu.ErrLength, "the strict parser accepts it")

			got, err := apdu.ParseCommandLenient(b)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestEncodingRefusesWhatDoesNotFit(t *testing.T) {
	tests := []struct {
		name string
		c    apdu.Command
	}{
		{"256 data bytes, short", apdu.Command{Data: make([]byte, 256)}},
		{"65,536 data bytes, extended", apdu.Command{Data: make([]byte, 65536), Extended: true}},
		{"Ne 257, short", apdu.Command{Ne: 257}},
		{"Ne 65,537, extended", apdu.Command{Ne: 65537, Extended: true}},
		{"negative Ne", apdu.Command{Ne: -1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := tt.c.AppendBinary([]byte{1})
			require.ErrorIs(t, err, apdu.ErrRange)
			assert.Equal(t, []byte{1}, b, "dst is returned as it was")
		})
	}
}

func TestNeedsExtended(t *testing.T) {
	assert.False(t, apdu.Command{Data: make([]byte, 255), Ne: 256}.NeedsExtended())
	assert.True(t, apdu.Command{Data: make([]byte, 256)}.NeedsExtended())
	assert.True(t, apdu.Command{Ne: 257}.NeedsExtended())
}

func TestCheckHeader(t *testing.T) {
	for _, c := range []apdu.Command{{CLA: 0xFF}, {INS: 0x60}, {INS: 0x6F}, {INS: 0x90}, {INS: 0x9F}} {
		assert.ErrorIs(t, c.CheckHeader(), apdu.ErrHeader, "%+v", c)
	}
	for _, c := range []apdu.Command{{CLA: 0xFE}, {INS: 0x70}, {INS: 0x5F}, {INS: 0xA4}} {
		assert.NoError(t, c.CheckHeader(), "%+v", c)
	}
}

func TestCaseNames(t *testing.T) {
	var names []string
	for c := apdu.Case(0); c <= apdu.Case4E+1; c++ {
		names = append(names, c.String())
	}
	assert.Equal(t, []string{"Case(0)", "1", "2S", "3S", "4S", "2E", "3E", "4E", "Case(8)"}, names)
}

func TestResponseBothWays(t *testing.T) {
	for _, tt := range []struct {
		bytes string
		want  apdu.Response
	}{
		{"9000", apdu.Response{SW: 0x9000}},
		{"6A82", apdu.Response{SW: 0x6A82}},
		{"0102036283", apdu.Response{Data: []byte{1, 2, 3}, SW: 0x6283}},
	} {
		b := unhex(t, tt.bytes)
		got, err := apdu.ParseResponse(b)
		require.NoError(t, err)
		assert.Equal(t, tt.want, got)
		again, err := got.Bytes()
		require.NoError(t, err)
		assert.Equal(t, b, again)
	}
}

func TestResponseLimits(t *testing.T) {
	for _, b := range [][]byte{nil, {0x90}} {
		_, err := apdu.ParseResponse(b)
		assert.ErrorIs(t, err, apdu.ErrTooShort)
	}
	longest := make([]byte, apdu.MaxResponseLength+1)
	_, err := apdu.ParseResponse(longest)
	assert.ErrorIs(t, err, apdu.ErrRange)
	_, err = apdu.ParseResponse(longest[1:])
	assert.NoError(t, err)
	_, err = apdu.Response{Data: longest[1:]}.Bytes()
	assert.ErrorIs(t, err, apdu.ErrRange)
}

func TestParsedDataCannotGrowIntoWhatFollows(t *testing.T) {
	b := unhex(t, "00A40400 01 11 05")
	c, err := apdu.ParseCommand(b)
	require.NoError(t, err)
	_ = append(c.Data, 0xEE)
	assert.Equal(t, byte(0x05), b[len(b)-1])

	r, err := apdu.ParseResponse(b)
	require.NoError(t, err)
	_ = append(r.Data, 0xEE)
	assert.Equal(t, byte(0x11), b[len(b)-2])
}

// drawCommand draws a command that its length fields can hold.
func drawCommand(t *rapid.T) apdu.Command {
	c := apdu.Command{
		CLA: rapid.Byte().Draw(t, "CLA"), INS: rapid.Byte().Draw(t, "INS"),
		P1: rapid.Byte().Draw(t, "P1"), P2: rapid.Byte().Draw(t, "P2"),
		Extended: rapid.Bool().Draw(t, "extended"),
	}
	maxData, maxNe := apdu.MaxShortData, apdu.MaxShortNe
	if c.Extended {
		maxData, maxNe = apdu.MaxData, apdu.MaxNe
	}
	if n := rapid.IntRange(0, maxData).Draw(t, "Nc"); n > 0 {
		c.Data = bytes.Repeat([]byte{rapid.Byte().Draw(t, "fill")}, n)
	}
	c.Ne = rapid.OneOf(rapid.Just(0), rapid.Just(maxNe), rapid.IntRange(0, maxNe)).Draw(t, "Ne")
	if len(c.Data) == 0 && c.Ne == 0 {
		c.Extended = false
	}
	return c
}

func TestPropertyParseUndoesEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCommand(t)
		b, err := c.Bytes()
		require.NoError(t, err)
		got, err := apdu.ParseCommand(b)
		require.NoError(t, err)
		assert.Equal(t, c, got)
	})
}

func TestPropertyEncodeUndoesParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes")
		checkParsers(t, b)
	})
}

type reporter interface {
	Errorf(format string, args ...any)
	FailNow()
}

// checkParsers holds what must be true of the parsers for each input.
func checkParsers(t reporter, b []byte) {
	strict, strictErr := apdu.ParseCommand(b)
	lenient, lenientErr := apdu.ParseCommandLenient(b)
	if strictErr == nil {
		require.NoError(t, lenientErr)
		require.Equal(t, strict, lenient, "lenient reads a correct command otherwise")
		again, err := strict.Bytes()
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again), "%X became %X", b, again)
		return
	}
	require.Equal(t, apdu.Command{}, strict)
	if lenientErr != nil {
		require.Equal(t, apdu.Command{}, lenient)
		return
	}
	// What lenient makes of it is a command by the standard.
	again, err := lenient.Bytes()
	require.NoError(t, err)
	reparsed, err := apdu.ParseCommand(again)
	require.NoError(t, err)
	require.Equal(t, lenient, reparsed)
}
