package quirks

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func pattern(t testing.TB, text string) Pattern {
	t.Helper()
	var p Pattern
	require.NoError(t, p.UnmarshalText([]byte(text)))
	return p
}

func TestPattern(t *testing.T) {
	for text, want := range map[string]string{"02": "02", "52f8XX": "52 F8 xx", " 0 1 ": "01", "xx": "xx"} {
		assert.Equal(t, want, pattern(t, text).String(), text)
	}
	var p Pattern
	for _, text := range []string{"", " ", "0", "0g", "x0", "0x02", "+102", "02:03", strings.Repeat("00", 257)} {
		require.Error(t, p.UnmarshalText([]byte(text)), text)
	}
	assert.NoError(t, p.UnmarshalText([]byte(strings.Repeat("00", 256))))
	assert.False(t, Pattern{}.Match(nil))
}

func TestReaders(t *testing.T) {
	tests := []struct {
		text, written string
		in, out       [2]uint16
	}{
		{"08E6:3437", "08E6:3437", [2]uint16{0x08E6, 0x3437}, [2]uint16{0x08E6, 0x3438}},
		{"08e6:*", "08E6:*", [2]uint16{0x08E6, 0xFFFF}, [2]uint16{0x08E7, 0x3437}},
	}
	for _, test := range tests {
		var r readers
		require.NoError(t, r.UnmarshalText([]byte(test.text)))
		assert.Equal(t, test.written, r.String())
		assert.True(t, r.match(test.in[0], test.in[1]))
		assert.False(t, r.match(test.out[0], test.out[1]))
	}
	var all readers
	require.NoError(t, all.UnmarshalText([]byte("*:*")))
	assert.Equal(t, "*:*", all.String())
	assert.True(t, all.match(0, 0))
	for _, text := range []string{"", ":", "08E6", "08E6:", "8E6:3437", "08E6:34377", "08E6-3437", "*:3437", "08G6:3437", "+8E6:0001", "08E6:3437:"} {
		assert.Error(t, new(readers).UnmarshalText([]byte(text)), text)
	}
}

func TestVersions(t *testing.T) {
	tests := []struct {
		text    string
		in, out []uint16
	}{
		{"2.00", []uint16{0x0200}, []uint16{0x01FF, 0x0201}},
		{"0.12-0.13", []uint16{0x0012, 0x0013}, []uint16{0x0011, 0x0014}},
		{"<5.16", []uint16{0, 0x0515}, []uint16{0x0516, 0xFFFF}},
		{">=5.16", []uint16{0x0516, 0xFFFF}, []uint16{0x0515, 0}},
		{"50.0A", []uint16{0x500A}, []uint16{0x5009}},
		{"<0.01", []uint16{0}, []uint16{1}},
	}
	for _, test := range tests {
		t.Run(test.text, func(t *testing.T) {
			var v versions
			require.NoError(t, v.UnmarshalText([]byte(test.text)))
			for _, n := range test.in {
				assert.True(t, v.match(n), "%04X", n)
			}
			for _, n := range test.out {
				assert.False(t, v.match(n), "%04X", n)
			}
		})
	}
	assert.True(t, versions{}.match(0x1234))
	for _, text := range []string{"", "2", "2.0", "2.000", "200", ".00", "100.00", "<0.00", "2.00-1.00", "2.00-", "-2.00", ">2.00", "<=2.00", "0x2.00", "+2.00", "2.0.0"} {
		assert.Error(t, new(versions).UnmarshalText([]byte(text)), text)
	}
}

func TestRowID(t *testing.T) {
	for _, text := range []string{"a", "au9540-rates", strings.Repeat("x", 64)} {
		var id rowID
		require.NoError(t, id.UnmarshalText([]byte(text)))
		assert.EqualValues(t, text, id)
	}
	for _, text := range []string{"", "A", "a b", "a_b", "é", "a\n", strings.Repeat("x", 65)} {
		assert.Error(t, new(rowID).UnmarshalText([]byte(text)), text)
	}
}
