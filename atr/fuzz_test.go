package atr_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/atr"
)

// seedATRs adds the ATRs of 148 cards and the made-up ones.
func seedATRs(f *testing.F, add func(raw []byte)) {
	for _, line := range dataLines(f, "decodes.tsv") {
		raw, _, _ := bytes.Cut([]byte(line), []byte("\t"))
		add(unhex(f, string(raw)))
	}
	for _, line := range dataLines(f, "text_atrs.txt") {
		add(unhex(f, line))
	}
}

// FuzzParse: no panic, the parts are the whole, parameters are in range whatever the card says.
func FuzzParse(f *testing.F) {
	seedATRs(f, func(raw []byte) { f.Add(raw) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := atr.Parse(raw)
		checkATR(t, raw, a, err)
	})
}

// FuzzParsePPS: no panic; what is accepted encodes to the same bytes.
func FuzzParsePPS(f *testing.F) {
	for _, s := range []string{"FF 00 FF", "FF 11 18 F6", "FF 10 97 78", "FF 71 96 01 02 1B", "FF 20 81 5E", "FF 80 7F"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkPPS(t, b) })
}

// FuzzParseHistorical: no panic; objects and rest are the bytes.
func FuzzParseHistorical(f *testing.F) {
	seedATRs(f, func(raw []byte) {
		if a, err := atr.Parse(raw); err == nil {
			f.Add(a.Historical)
		}
	})
	f.Fuzz(func(t *testing.T, b []byte) { checkHistorical(t, b) })
}

// FuzzParseHex: no panic; what is accepted can be written in plain form and read again.
func FuzzParseHex(f *testing.F) {
	for _, s := range []string{"3B7A18", "3b:7a:18", "0x3B 0x7A", "0X3b7a", "3B 7", "0x", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkHex(t, s) })
}

// FuzzNames: no panic, no endless match, a bounded result, whatever the list says.
func FuzzNames(f *testing.F) {
	f.Add([]byte(cardList), unhex(f, "3B 01 41"))
	f.Add([]byte("3B ((a*)*)*b\n\tx\n"), unhex(f, "3B 01"))
	f.Add([]byte("3B (?:.{1000}){1000}\n\tx\n"), unhex(f, "3B 01"))
	f.Fuzz(func(t *testing.T, list, raw []byte) {
		names, err := atr.Names(bytes.NewReader(list), raw)
		if err != nil {
			require.Nil(t, names)
		}
		require.LessOrEqual(t, len(names), 256)
	})
}
