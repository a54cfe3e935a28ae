package atr_test

import (
	"math/bits"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/atr"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := atr.ParseHex(s)
	require.NoError(t, err)
	return b
}

func parse(t testing.TB, s string) *atr.ATR {
	t.Helper()
	a, err := atr.Parse(unhex(t, s))
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
	assert.Equal(t, atr.TCK{Computed: a.TCK.Computed, Correct: true}, a.TCK)
	assert.Nil(t, a.Specific)
	assert.Empty(t, a.Problems())
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		name, atr string
		want      error
		partial   bool
	}{
		{"nothing", "", atr.ErrTruncated, false},
		{"a foreign first byte", "3A 00", atr.ErrTS, false},
		{"more than 33 bytes", "3B 00 0000000000000000000000000000000000000000000000000000000000000000", atr.ErrTooLong, false},
		{"TS alone", "3B", atr.ErrTruncated, true},
		{"missing TA1", "3B 10", atr.ErrTruncated, true},
		{"missing TB2", "3B 80 20", atr.ErrTruncated, true},
		{"a chain of TD without end", "3B 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80 80", atr.ErrTruncated, true},
		{"missing historical bytes", "3B 03 01 02", atr.ErrTruncated, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := atr.Parse(unhex(t, tt.atr))
			require.ErrorIs(t, err, tt.want)
			require.Equal(t, tt.partial, a != nil)
			if a != nil {
				assert.True(t, a.Truncated)
				assert.False(t, a.Valid())
				assert.Contains(t, a.Problems(), "the ATR ends too early")
				checkATR(t, unhex(t, tt.atr), a, err)
			}
		})
	}
}

func TestParseKeepsWhatThereIsOfATruncatedATR(t *testing.T) {
	a, err := atr.Parse(unhex(t, "3B 13 96 41 42"))
	require.ErrorIs(t, err, atr.ErrTruncated)
	assert.Equal(t, "AB", string(a.Historical))
	assert.Equal(t, byte(0x96), a.TA1())
}

func TestParseDoesNotKeepItsArgument(t *testing.T) {
	b := unhex(t, "3B 02 41 42")
	a, err := atr.Parse(b)
	require.NoError(t, err)
	clear(b)
	assert.Equal(t, "AB", string(a.Historical))
	assert.Equal(t, byte(0x3B), a.Raw[0])
}

func TestTCK(t *testing.T) {
	tests := []struct {
		name, atr string
		want      atr.TCK
		valid     bool
		trailing  []byte
		problem   string
	}{
		{"none expected, none there", "3B 01 41", atr.TCK{Computed: 0x40, Correct: true}, true, nil, ""},
		{"right", "3B 81 01 41 C1", atr.TCK{Present: true, Expected: true, Value: 0xC1, Computed: 0xC1, Correct: true}, true, nil, ""},
		{"wrong", "3B 81 01 41 C2", atr.TCK{Present: true, Expected: true, Value: 0xC2, Computed: 0xC1}, false, nil, "TCK is C2, must be C1"},
		{"missing", "3B 81 01 41", atr.TCK{Expected: true, Computed: 0xC1}, false, nil, "TCK is missing, must be C1"},
		{"expected for T=15", "3B 80 80 1F 01 1E", atr.TCK{Present: true, Expected: true, Value: 0x1E, Computed: 0x1E, Correct: true}, true, nil, ""},
		{"superfluous, right", "3B 01 41 40", atr.TCK{Present: true, Value: 0x40, Computed: 0x40, Correct: true}, false, nil, "TCK must be absent when only T=0 is offered"},
		{"superfluous, wrong", "3B 01 41 00", atr.TCK{Present: true, Computed: 0x40}, false, nil, "TCK is 00, must be 40"},
		{"bytes after it", "3B 81 01 41 C1 90 00", atr.TCK{Present: true, Expected: true, Value: 0xC1, Computed: 0xC1, Correct: true}, false, []byte{0x90, 0}, "bytes after the end: 90 00"},
		{"none expected, bytes after the end", "3B 01 41 90 00", atr.TCK{Computed: 0x40, Correct: true}, false, []byte{0x90, 0}, "bytes after the end: 90 00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := parse(t, tt.atr)
			assert.Equal(t, tt.want, a.TCK)
			assert.Equal(t, tt.valid, a.Valid())
			assert.Equal(t, tt.trailing, a.Trailing)
			if tt.problem == "" {
				assert.Empty(t, a.Problems())
			} else {
				assert.Contains(t, a.Problems(), tt.problem)
			}
		})
	}
}

func TestInverseConvention(t *testing.T) {
	logical := "3F 78 12 25 01 40 B0 03 4A 50 20 48 55"
	a := parse(t, logical)
	assert.Equal(t, atr.Inverse, a.Convention)
	assert.Equal(t, "inverse", a.Convention.String())
	assert.Equal(t, byte(1), a.GuardTime())

	onTheLine := unhex(t, logical)
	for i, v := range onTheLine {
		onTheLine[i] = ^bits.Reverse8(v)
	}
	require.Equal(t, byte(0x03), onTheLine[0])
	b, err := atr.Parse(onTheLine)
	require.NoError(t, err)
	assert.Equal(t, a, b)
}

func TestProtocols(t *testing.T) {
	tests := []struct {
		name, atr string
		protocols []uint8
		first     uint8
		offered   []uint8
	}{
		{"no TD1 is T=0", "3B 00", []uint8{0}, 0, []uint8{0}},
		{"T=1 twice is once", "3B 80 81 31 20 45 00", []uint8{1}, 1, []uint8{1}},
		{"T=0 and T=1", "3B 80 80 01 01", []uint8{0, 1}, 0, []uint8{0, 1}},
		{"T=1 first", "3B 80 81 00 01", []uint8{1, 0}, 1, []uint8{0, 1}},
		{"T=15 is no protocol", "3B 80 80 1F 03 1C", []uint8{0, 15}, 0, []uint8{0}},
		{"nothing but T=15", "3B 80 0F 8F", []uint8{15}, 0, nil},
		{"specific mode offers one", "3B 80 90 01 01 10", []uint8{0, 1}, 1, []uint8{1}},
		{"specific mode with T=15", "3B 80 90 0F 01 1E", []uint8{0, 1}, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := parse(t, tt.atr)
			assert.Equal(t, tt.protocols, a.Protocols)
			assert.Equal(t, tt.first, a.FirstProtocol())
			var offered []uint8
			for p := uint8(0); p < 16; p++ {
				if a.Offers(p) {
					offered = append(offered, p)
				}
			}
			assert.Equal(t, tt.offered, offered)
		})
	}
}

func TestSpecificMode(t *testing.T) {
	for ta2, want := range map[byte]atr.SpecificMode{
		0x00: {T: 0, CanChange: true, Value: 0x00},
		0x81: {T: 1, Value: 0x81},
		0x11: {T: 1, CanChange: true, Implicit: true, Value: 0x11},
		0x90: {T: 0, Implicit: true, Value: 0x90},
	} {
		a, err := atr.Parse([]byte{0x3B, 0x80, 0x10, ta2})
		require.NoError(t, err)
		assert.Equal(t, &want, a.Specific)
	}
}

func TestParametersOfT0(t *testing.T) {
	assert.Equal(t, byte(10), parse(t, "3B 00").T0().WI, "absent")
	assert.Equal(t, byte(0x78), parse(t, "3B 80 40 78").T0().WI)
	reserved := parse(t, "3B 80 40 00")
	assert.Equal(t, byte(10), reserved.T0().WI, "reserved")
	assert.Contains(t, reserved.Problems(), "WI = 0 of TC2 is reserved")
}

func TestParametersOfT1(t *testing.T) {
	tests := []struct {
		name, atr string
		want      atr.T1Params
		problem   string
	}{
		{"defaults", "3B 80 01 81", atr.T1Params{IFSC: 32, BWI: 4, CWI: 13}, ""},
		{"TA2 TB2 TC2 are not about T=1", "3B 80 71 01 00 0A FB", atr.T1Params{IFSC: 32, BWI: 4, CWI: 13}, ""},
		{"all given", "3B 80 81 71 FE 45 01 CB", atr.T1Params{IFSC: 254, BWI: 4, CWI: 5, EDC: 1}, ""},
		{"the first ones count", "3B 80 81 B1 FE 45 71 20 9F 01 E4", atr.T1Params{IFSC: 254, BWI: 4, CWI: 5, EDC: 1}, ""},
		{"bytes about T=15 and T=14 are others", "3B 80 81 9E 10 7F 07 03 01 84", atr.T1Params{IFSC: 32, BWI: 4, CWI: 13}, ""},
		{"IFSC 0", "3B 80 81 11 00 10", atr.T1Params{IFSC: 32, BWI: 4, CWI: 13}, "IFSC = 0 is reserved"},
		{"IFSC 255", "3B 80 81 11 FF EF", atr.T1Params{IFSC: 254, BWI: 4, CWI: 13}, "IFSC = 255 is reserved"},
		{"BWI 10", "3B 80 81 21 AF 8F", atr.T1Params{IFSC: 32, BWI: 9, CWI: 15}, "BWI = 10 is reserved"},
		{"TC with reserved bits", "3B 80 81 41 02 42", atr.T1Params{IFSC: 32, BWI: 4, CWI: 13}, "first TC for T=1 = 02 has reserved bits set"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := parse(t, tt.atr)
			assert.Equal(t, tt.want, a.T1())
			if tt.problem != "" {
				assert.Contains(t, a.Problems(), tt.problem)
			}
		})
	}
}

func TestGlobalBytesOfT15(t *testing.T) {
	tests := []struct {
		name, atr string
		classes   atr.Classes
		stop      atr.ClockStop
		text      string
		problem   string
	}{
		{"absent", "3B 00", atr.ClassA, atr.ClockStopNotSupported, "A 5 V; not supported", ""},
		{"all classes, either state", "3B 80 80 1F C7 D8", atr.ClassA | atr.ClassB | atr.ClassC, atr.ClockStopAny, "A 5 V, B 3 V, C 1.8 V; no preference", ""},
		{"state L", "3B 80 80 1F 42 5D", atr.ClassB, atr.ClockStopLow, "B 3 V; state L", ""},
		{"state H", "3B 80 80 1F 84 9B", atr.ClassC, atr.ClockStopHigh, "C 1.8 V; state H", ""},
		{"the first one counts", "3B 80 80 9F 03 1F 44 C7", atr.ClassA | atr.ClassB, atr.ClockStopNotSupported, "A 5 V, B 3 V; not supported", ""},
		{"reserved class", "3B 80 80 1F 0F 10", 15, atr.ClockStopNotSupported, "A 5 V, B 3 V, C 1.8 V, reserved; not supported", "class indicator 0F of the first TA for T=15 is reserved"},
		{"no class", "3B 80 80 1F 00 1F", 0, atr.ClockStopNotSupported, "reserved; not supported", "class indicator 00 of the first TA for T=15 is reserved"},
		{"a gap between classes", "3B 80 80 1F 05 1A", atr.ClassA | atr.ClassC, atr.ClockStopNotSupported, "A 5 V, C 1.8 V; not supported", "class indicator 05 of the first TA for T=15 is reserved"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := parse(t, tt.atr)
			assert.Equal(t, tt.classes, a.Classes())
			assert.Equal(t, tt.stop, a.ClockStop())
			assert.Equal(t, tt.text, a.Classes().String()+"; "+a.ClockStop().String())
			if tt.problem == "" {
				assert.Empty(t, a.Problems())
			} else {
				assert.Contains(t, a.Problems(), tt.problem)
			}
		})
	}
	assert.True(t, (atr.ClassA | atr.ClassB).Has(atr.ClassB))
	assert.False(t, atr.ClassA.Has(atr.ClassA|atr.ClassB))
}

func TestUseOfContactC6(t *testing.T) {
	for tb, want := range map[byte]string{0x00: "not used", 0x01: "standard use", 0x81: "proprietary use"} {
		a, err := atr.Parse([]byte{0x3B, 0x80, 0x80, 0x2F, tb, 0x2F ^ tb})
		require.NoError(t, err)
		require.True(t, a.Valid())
		assert.Equal(t, want, a.SPU().String())
	}
	assert.False(t, parse(t, "3B 00").SPU().Used())
}

func TestProblemsWithProtocols(t *testing.T) {
	for s, want := range map[string]string{
		"3B 80 0F 8F":       "TD1 says T=15, which is no protocol",
		"3B 80 81 00 01":    "protocols are not offered in ascending order",
		"3B 80 05 85":       "T=5 is reserved",
		"3B 10 7A":          "Di of TA1 = 7A is reserved",
		"3B 10 81":          "Fi of TA1 = 81 is reserved",
		"3B 80 10 01":       "TA2 = 01 dictates T=1, which is not offered",
		"3B 80 90 61 01 70": "TA2 = 61 has reserved bits set",
	} {
		assert.Contains(t, parse(t, s).Problems(), want, s)
	}
}

// drawnATR is an ATR put together by the test, to be taken apart by Parse.
type drawnATR struct {
	groups     []atr.Group
	historical []byte
	protocols  map[uint8]bool
	bytes      []byte
}

func drawATR(t *rapid.T) drawnATR {
	d := drawnATR{protocols: map[uint8]bool{}}
	d.historical = rapid.SliceOfN(rapid.Byte(), 0, 15).Draw(t, "historical")
	n := rapid.IntRange(1, 5).Draw(t, "groups")
	ts := rapid.SliceOfN(rapid.Uint8Range(0, 15), n, n).Draw(t, "T")
	option := rapid.Custom(func(t *rapid.T) atr.Byte {
		if !rapid.Bool().Draw(t, "present") {
			return atr.Byte{}
		}
		return atr.Byte{Present: true, Value: rapid.Byte().Draw(t, "value")}
	})
	for i := range n {
		g := atr.Group{TA: option.Draw(t, "TA"), TB: option.Draw(t, "TB"), TC: option.Draw(t, "TC")}
		if i > 0 {
			g.T = ts[i-1]
		}
		d.groups = append(d.groups, g)
	}
	presence := func(g atr.Group, last bool) (y byte) {
		for i, b := range []atr.Byte{g.TA, g.TB, g.TC} {
			if b.Present {
				y |= 0x10 << i
			}
		}
		if !last {
			y |= 0x80
		}
		return y
	}
	d.bytes = []byte{0x3B, presence(d.groups[0], n == 1) | byte(len(d.historical))}
	for i := range d.groups {
		g := &d.groups[i]
		if i < n-1 {
			g.TD = atr.Byte{Present: true, Value: presence(d.groups[i+1], i == n-2) | ts[i]}
			d.protocols[ts[i]] = true
		}
		for _, b := range []atr.Byte{g.TA, g.TB, g.TC, g.TD} {
			if b.Present {
				d.bytes = append(d.bytes, b.Value)
			}
		}
	}
	if n == 1 {
		d.protocols[0] = true
	}
	d.bytes = append(d.bytes, d.historical...)
	if len(d.protocols) > 1 || !d.protocols[0] {
		tck := byte(0)
		for _, v := range d.bytes[1:] {
			tck ^= v
		}
		d.bytes = append(d.bytes, tck)
	}
	return d
}

func TestPropertyParseFindsEachPart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawATR(t)
		a, err := atr.Parse(d.bytes)
		if len(d.bytes) > atr.MaxLength {
			require.ErrorIs(t, err, atr.ErrTooLong)
			return
		}
		require.NoError(t, err)
		assert.Equal(t, d.groups, a.Groups)
		assert.Equal(t, string(d.historical), string(a.Historical))
		assert.Len(t, a.Protocols, len(d.protocols))
		assert.True(t, a.Valid(), "% X", d.bytes)
		checkATR(t, d.bytes, a, nil)
	})
}

func TestPropertyEachPrefixIsTruncated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawATR(t)
		if len(d.bytes) > atr.MaxLength {
			t.Skip("longer than an ATR can be")
		}
		n := rapid.IntRange(0, len(d.bytes)-1).Draw(t, "length")
		a, err := atr.Parse(d.bytes[:n])
		if n == len(d.bytes)-1 && err == nil {
			assert.False(t, a.TCK.Correct, "only TCK may be missing")
			return
		}
		assert.ErrorIs(t, err, atr.ErrTruncated)
	})
}
