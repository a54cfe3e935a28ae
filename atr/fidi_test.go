package atr_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/goccid/goccid/atr"
)

func TestTablesOfFiAndDi(t *testing.T) {
	fi := [16]int{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048}
	fmax := [16]int{4e6, 5e6, 6e6, 8e6, 12e6, 16e6, 20e6, 0, 0, 5e6, 7.5e6, 10e6, 15e6, 20e6}
	di := [16]int{0, 1, 2, 4, 8, 16, 32, 64, 12, 20}
	for v := range 256 {
		f, m, okF := atr.FI(byte(v))
		d, okD := atr.DI(byte(v))
		assert.Equal(t, fi[v>>4], f)
		assert.Equal(t, fmax[v>>4], m)
		assert.Equal(t, di[v&15], d)
		assert.Equal(t, f != 0, okF)
		assert.Equal(t, d != 0, okD)
	}
}

func TestFactorsOfTheATR(t *testing.T) {
	for s, want := range map[string][3]int{
		"3B 00":    {372, 1, 5e6},
		"3B 10 96": {512, 32, 5e6},
		"3B 10 01": {372, 1, 4e6},
		"3B 10 A9": {768, 20, 7.5e6},
		"3B 10 71": {372, 1, 5e6}, // reserved Fi
		"3B 10 90": {372, 1, 5e6}, // reserved Di
	} {
		fi, di, fmax := parse(t, s).FiDi()
		assert.Equal(t, want, [3]int{fi, di, fmax}, s)
	}
}

func TestWorkETU(t *testing.T) {
	for _, tt := range []struct {
		fi, di int
		want   atr.ETU
		text   string
	}{
		{372, 1, atr.ETU{372, 1}, "372"},
		{372, 12, atr.ETU{31, 1}, "31"},
		{372, 16, atr.ETU{93, 4}, "23.25"},
		{512, 12, atr.ETU{128, 3}, "42.67 (128/3)"},
		{1860, 64, atr.ETU{465, 16}, "29.06 (465/16)"},
		{2048, 20, atr.ETU{512, 5}, "102.4"},
		{372, 0, atr.ETU{}, "unknown"},
		{-1, 1, atr.ETU{}, "unknown"},
	} {
		assert.Equal(t, tt.want, atr.WorkETU(tt.fi, tt.di))
		assert.Equal(t, tt.text, tt.want.String())
	}
}

func TestBps(t *testing.T) {
	assert.Equal(t, 10752, atr.Bps(372, 1, 4_000_000))
	assert.Equal(t, 344086, atr.Bps(372, 32, 4_000_000))
	assert.Equal(t, 625000, atr.Bps(512, 64, 5_000_000))
	assert.Zero(t, atr.Bps(0, 1, 4_000_000))
	assert.Zero(t, atr.Bps(372, 0, 4_000_000))
	assert.Zero(t, atr.Bps(372, 1, -1))
	assert.Equal(t, math.MaxInt, atr.Bps(1, 64, math.MaxInt))
}

// The durations are computed by hand from the formulas of ISO/IEC 7816-3:2006 §10.2 and §11.4.3.
func TestWaitingTimes(t *testing.T) {
	tests := []struct {
		name string
		got  time.Duration
		want time.Duration
	}{
		{"WWT by default at 4 MHz", atr.WWT(10, 372, 4e6), 892_800 * time.Microsecond},
		{"WWT longest", atr.WWT(255, 2048, 1e6), 501_350_400 * time.Microsecond},
		{"BWT by default at 4 MHz", atr.BWT(4, 372, 1, 4e6), (16*960*372 + 11*372) * 250 * time.Nanosecond},
		{"BWT of TA1 96, BWI 4, at 4 MHz", atr.BWT(4, 512, 32, 4e6), (16*960*372 + 11*16) * 250 * time.Nanosecond},
		{"BWT of a reserved BWI", atr.BWT(15, 372, 1, 4e6), atr.BWT(9, 372, 1, 4e6)},
		{"BWT of BWI 9", atr.BWT(9, 372, 1, 4e6), (512*960*372 + 11*372) * 250 * time.Nanosecond},
		{"CWT by default at 4 MHz", atr.CWT(13, 372, 1, 4e6), (11 + 8192) * 372 * 250 * time.Nanosecond},
		{"CWT ignores the high half", atr.CWT(0x45, 512, 32, 4e6), (11 + 32) * 16 * 250 * time.Nanosecond},
		{"BGT at 4 MHz", atr.BGT(372, 1, 4e6), 22 * 372 * 250 * time.Nanosecond},
		{"rounded up", atr.BGT(1, 3, 1e9), 8 * time.Nanosecond},
		{"no clock", atr.WWT(10, 372, 0), 0},
		{"negative clock", atr.BGT(372, 1, -4e6), 0},
		{"no Fi", atr.WWT(10, 0, 4e6), 0},
		{"no Di", atr.CWT(13, 372, 0, 4e6), 0},
		{"BWT without Di", atr.BWT(4, 372, 0, 4e6), 0},
		{"BWT without Fi", atr.BWT(4, 0, 1, 4e6), 0},
		{"too long for a Duration", atr.WWT(255, math.MaxInt32, 1), math.MaxInt64},
		{"a clock that no card has", atr.BGT(372, 20, math.MaxInt32), 191 * time.Nanosecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, tt.got) })
	}
}

func TestGuardTime(t *testing.T) {
	tests := []struct {
		name, atr string
		protocol  uint8
		want      time.Duration // at 4 MHz, running with 512/32: 16 cycles, 4 µs, per etu
	}{
		{"N absent", "3B 10 95", 0, 12 * 4 * time.Microsecond},
		{"N 2, etu as running", "3B 50 95 02", 0, 14 * 4 * time.Microsecond},
		{"N 2, with T=15 the etu of TA1", "3B D0 95 02 80 1F 01 00", 0, (12*4 + 2*8) * time.Microsecond},
		{"N 255, T=0", "3B 50 95 FF", 0, 12 * 4 * time.Microsecond},
		{"N 255, T=1", "3B D0 95 FF 01 00", 1, 11 * 4 * time.Microsecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, parse(t, tt.atr).GT(tt.protocol, 512, 32, 4e6))
		})
	}
	assert.Positive(t, atr.BGT(372, 20, math.MaxInt), "a clock of any height")
	assert.Zero(t, parse(t, "3B 50 95 02").GT(0, 0, 0, 4e6))
}
