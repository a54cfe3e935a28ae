package atr_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/goccid/goccid/atr"
)

const benchATR = "3BDD97FF81B1FE451F0300640405080373969621D00090C8"

func BenchmarkParse(b *testing.B) {
	raw := unhex(b, benchATR)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := atr.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCandidates(b *testing.B) {
	a := parse(b, benchATR)
	r := atr.ReaderLimits{DefaultClockHz: 4_000_000, MaxClockHz: 12_000_000, MaxDataRateBps: 500_000, DataRatesBps: []int{10752, 62500, 125000, 250000, 500000}}
	b.ReportAllocs()
	for b.Loop() {
		a.Candidates(1, r)
	}
}

func BenchmarkWaitingTimes(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		atr.BWT(4, 512, 32, 4_000_000)
		atr.CWT(5, 512, 32, 4_000_000)
	}
}

func BenchmarkPPSBothWays(b *testing.B) {
	fd := byte(0x97)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := atr.ParsePPS(atr.PPS{T: 1, PPS1: &fd}.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	a := parse(b, benchATR)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(a); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNames(b *testing.B) {
	var list strings.Builder
	for _, line := range dataLines(b, "atrs.txt") {
		list.WriteString(spaced(line) + "\n\ta card\n\n")
	}
	raw := unhex(b, benchATR)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := atr.Names(strings.NewReader(list.String()), raw); err != nil {
			b.Fatal(err)
		}
	}
}

// spaced writes 3B01 as 3B 01.
func spaced(s string) string {
	var out strings.Builder
	for i := 0; i+1 < len(s); i += 2 {
		out.WriteString(s[i:i+2] + " ")
	}
	return strings.TrimSuffix(out.String(), " ")
}
