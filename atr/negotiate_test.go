package atr_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/atr"
)

// summary is the part of a candidate that the table below writes down.
type summary struct {
	FD        byte
	ClockHz   int
	Bps       int
	PPS       bool
	Supported bool
}

func summaries(list []atr.Candidate) []summary {
	var out []summary
	for _, c := range list {
		out = append(out, summary{c.FD, c.ClockHz, c.Bps, c.PPS, c.Supported})
	}
	return out
}

func TestCandidates(t *testing.T) {
	const mhz4, mhz48 = 4_000_000, 4_800_000
	slow := func(clock, bps int) summary { return summary{0x11, clock, bps, false, true} }
	tests := []struct {
		name, atr string
		reader    atr.ReaderLimits
		want      []summary
	}{
		{
			"any speed: down through the powers of two", "3B 10 96",
			atr.ReaderLimits{DefaultClockHz: mhz4, MaxClockHz: mhz4, MaxDataRateBps: 1_000_000},
			[]summary{
				{0x96, mhz4, 250000, true, true},
				{0x95, mhz4, 125000, true, true},
				{0x94, mhz4, 62500, true, true},
				{0x93, mhz4, 31250, true, true},
				{0x92, mhz4, 15625, true, true},
				slow(mhz4, 10752),
			},
		},
		{
			"Di 12 falls back to 8, not to 20", "3B 10 18",
			atr.ReaderLimits{DefaultClockHz: mhz4, MaxDataRateBps: 1_000_000},
			[]summary{
				{0x18, mhz4, 129032, true, true},
				{0x14, mhz4, 86021, true, true},
				{0x13, mhz4, 43010, true, true},
				{0x12, mhz4, 21505, true, true},
				slow(mhz4, 10752),
			},
		},
		{
			"the reader's list decides, rounded up or down", "3B 10 97",
			atr.ReaderLimits{DefaultClockHz: mhz48, MaxDataRateBps: 600_000, DataRatesBps: []int{12903, 599999, 150001, 74800}},
			[]summary{{0x97, mhz48, 600000, true, true}, {0x95, mhz48, 150000, true, true}, {0x94, mhz48, 75000, true, true}, slow(mhz48, 12903)},
		},
		{
			"the highest speed decides where there is no list", "3B 10 97",
			atr.ReaderLimits{DefaultClockHz: mhz4, MaxDataRateBps: 249_000},
			[]summary{{0x96, mhz4, 250000, true, true}, {0x95, mhz4, 125000, true, true}, {0x94, mhz4, 62500, true, true}, {0x93, mhz4, 31250, true, true}, {0x92, mhz4, 15625, true, true}, slow(mhz4, 10752)},
		},
		{
			"a list entry above the highest speed does not count", "3B 10 97",
			atr.ReaderLimits{DefaultClockHz: mhz4, MaxDataRateBps: 130_000, DataRatesBps: []int{500000, 125000}},
			[]summary{{0x95, mhz4, 125000, true, true}, slow(mhz4, 10752)},
		},
		{
			"a list entry 1 % away is another speed", "3B 10 94",
			atr.ReaderLimits{DefaultClockHz: mhz4, DataRatesBps: []int{61900, 63100, 31250}},
			[]summary{{0x93, mhz4, 31250, true, true}, slow(mhz4, 10752)},
		},
		{
			"no TA1: the default", "3B 00",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"slower than the default: the default", "3B 10 31",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"as fast as the default: the default", "3B 10 32",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"reserved Fi: the default", "3B 10 77",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"reserved Di: the default", "3B 10 9A",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"the clock is above fmax: the default", "3B 10 08",
			atr.ReaderLimits{DefaultClockHz: mhz48},
			[]summary{slow(mhz48, 12903)},
		},
		{
			"the list is for the maximum clock, which the card bears", "3B 10 B7",
			atr.ReaderLimits{DefaultClockHz: mhz4, MaxClockHz: 8_000_000, DataRatesBps: []int{10752, 500000}},
			[]summary{{0xB7, 8_000_000, 500000, true, true}, slow(mhz4, 10752)},
		},
		{
			"the list is for the maximum clock, which the card does not bear", "3B 10 97",
			atr.ReaderLimits{DefaultClockHz: mhz4, MaxClockHz: 8_000_000, DataRatesBps: []int{10752, 1_000_000}},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"an unknown clock: the default", "3B 10 96",
			atr.ReaderLimits{MaxClockHz: mhz4},
			[]summary{slow(0, 0)},
		},
		{
			"an absurd clock: the default", "3B 10 96",
			atr.ReaderLimits{DefaultClockHz: 1_024_000_000},
			[]summary{slow(1_024_000_000, 2752688)},
		},
		{
			"absurd list entries match nothing", "3B 10 96",
			atr.ReaderLimits{DefaultClockHz: mhz4, DataRatesBps: []int{0, -1, 1 << 30}},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"specific mode: TA1 without PPS", "3B 90 96 10 80",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{{0x96, mhz4, 250000, false, true}},
		},
		{
			"specific mode, faster than the reader", "3B 90 97 10 80",
			atr.ReaderLimits{DefaultClockHz: mhz4, MaxDataRateBps: 250_000},
			[]summary{{0x97, mhz4, 500000, false, false}},
		},
		{
			"specific mode without TA1: the default", "3B 80 10 80",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"specific mode, reserved factors", "3B 90 77 10 80",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{slow(mhz4, 10752)},
		},
		{
			"specific mode, slower than the default", "3B 90 31 10 80",
			atr.ReaderLimits{DefaultClockHz: mhz4},
			[]summary{{0x31, mhz4, 5376, false, true}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := parse(t, tt.atr)
			got := a.Candidates(1, tt.reader)
			assert.Equal(t, tt.want, summaries(got))
			for _, c := range got {
				assert.Equal(t, uint8(1), c.T)
				assert.False(t, c.Implicit)
			}
		})
	}
}

func TestImplicitFactorsAreReported(t *testing.T) {
	got := parse(t, "3B 90 96 10 90").Candidates(0, atr.ReaderLimits{DefaultClockHz: 4_000_000})
	assert.Equal(t, []atr.Candidate{{FD: 0x11, Fi: 372, Di: 1, ClockHz: 4_000_000, Bps: 10752, Implicit: true, Supported: true}}, got)
}

func TestPPSRequest(t *testing.T) {
	reader := atr.ReaderLimits{DefaultClockHz: 4_000_000}
	tests := []struct {
		name, atr string
		protocol  uint8
		last      bool // the last candidate rather than the first
		want      string
		needed    bool
	}{
		{"another speed", "3B 90 96 01 00", 1, false, "FF 11 96 78", true},
		{"default speed, first protocol", "3B 90 96 01 00", 1, true, "FF 01 FE", false},
		{"default speed, second protocol", "3B 80 80 01 01", 1, true, "FF 01 FE", true},
		{"specific mode", "3B 90 96 10 80", 0, false, "FF 00 FF", false},
		{"specific mode, another protocol", "3B 90 96 10 80", 1, false, "FF 01 FE", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := parse(t, tt.atr)
			list := a.Candidates(tt.protocol, reader)
			c := list[0]
			if tt.last {
				c = list[len(list)-1]
			}
			request, needed := a.PPSRequest(c)
			assert.Equal(t, tt.want, request.String())
			assert.Equal(t, tt.needed, needed)
		})
	}
}

func TestPropertyCandidatesGetSlowerAndEndAtTheDefault(t *testing.T) {
	rates := rapid.SliceOfN(rapid.IntRange(-1, 2_000_000), 0, 20)
	rapid.Check(t, func(t *rapid.T) {
		d := drawATR(t)
		a, err := atr.Parse(d.bytes)
		if err != nil {
			t.Skip("too long")
		}
		r := atr.ReaderLimits{
			DefaultClockHz: rapid.IntRange(-1, 20_000_000).Draw(t, "default clock"),
			MaxClockHz:     rapid.IntRange(-1, 20_000_000).Draw(t, "maximum clock"),
			MaxDataRateBps: rapid.IntRange(-1, 1_000_000).Draw(t, "maximum rate"),
			DataRatesBps:   rates.Draw(t, "rates"),
		}
		list := a.Candidates(1, r)
		require.NotEmpty(t, list)
		if a.Specific != nil {
			require.Len(t, list, 1)
			require.False(t, list[0].PPS)
			return
		}
		last := list[len(list)-1]
		require.Equal(t, atr.DefaultFD, last.FD)
		require.False(t, last.PPS)
		require.True(t, slices.IsSortedFunc(list, func(x, y atr.Candidate) int { return x.Fi*y.Di - y.Fi*x.Di }), "%+v", list)
		for _, c := range list[:len(list)-1] {
			_, fmax, ok := atr.FI(c.FD)
			require.True(t, ok && c.PPS && c.Supported && c.ClockHz <= fmax && c.Bps > 0, "%+v", c)
		}
	})
}
