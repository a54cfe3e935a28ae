package atr_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/atr"
)

func TestPPSVectors(t *testing.T) {
	for s, want := range map[string]atr.PPS{
		"FF 00 FF":          {},
		"FF 01 FE":          {T: 1},
		"FF 10 11 FE":       {PPS1: new(byte(0x11))},
		"FF 11 11 FF":       {T: 1, PPS1: new(byte(0x11))},
		"FF 10 13 FC":       {PPS1: new(byte(0x13))},
		"FF 11 13 FD":       {T: 1, PPS1: new(byte(0x13))},
		"FF 10 18 F7":       {PPS1: new(byte(0x18))},
		"FF 11 18 F6":       {T: 1, PPS1: new(byte(0x18))}, // recorded, Gemalto 08E6:3437
		"FF 10 94 7B":       {PPS1: new(byte(0x94))},
		"FF 11 94 7A":       {T: 1, PPS1: new(byte(0x94))},
		"FF 10 95 7A":       {PPS1: new(byte(0x95))},
		"FF 11 95 7B":       {T: 1, PPS1: new(byte(0x95))},
		"FF 10 96 79":       {PPS1: new(byte(0x96))},
		"FF 11 96 78":       {T: 1, PPS1: new(byte(0x96))},
		"FF 10 97 78":       {PPS1: new(byte(0x97))},
		"FF 11 97 79":       {T: 1, PPS1: new(byte(0x97))},
		"FF 71 96 01 02 1B": {T: 1, PPS1: new(byte(0x96)), PPS2: new(byte(1)), PPS3: new(byte(2))},
		"FF 20 81 5E":       {PPS2: new(byte(0x81))},
	} {
		t.Run(s, func(t *testing.T) {
			got, err := atr.ParsePPS(unhex(t, s))
			require.NoError(t, err)
			assert.Equal(t, want, got)
			assert.Equal(t, unhex(t, s), want.Bytes())
			assert.Equal(t, s, want.String())
		})
	}
}

func TestPPSProtocolCannotSpillIntoTheOptions(t *testing.T) {
	assert.Equal(t, unhex(t, "FF 01 FE"), atr.PPS{T: 0xF1}.Bytes())
}

func TestParsePPSRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":             "",
		"two bytes":           "FF 00",
		"seven bytes":         "FF 70 11 00 00 00 00",
		"another PPSS":        "FE 00 FE",
		"reserved bit 8":      "FF 80 7F",
		"T=15":                "FF 0F F0",
		"PPS1 missing":        "FF 10 EF",
		"PPS2 missing":        "FF 30 11 DE",
		"all missing but PCK": "FF 70 8F",
		"a byte too many":     "FF 00 00 FF",
		"wrong PCK":           "FF 11 96 79",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := atr.ParsePPS(unhex(t, s))
			require.ErrorIs(t, err, atr.ErrPPSFormat)
			assert.Equal(t, atr.PPS{}, got)
		})
	}
}

func TestPPSAnswers(t *testing.T) {
	tests := []struct {
		name, request, response string
		want                    atr.Selection
		refused                 string
	}{
		{"echo", "FF 11 96 78", "FF 11 96 78", atr.Selection{T: 1, FD: 0x96}, ""},
		{"PPS1 left out selects the default", "FF 11 96 78", "FF 01 FE", atr.Selection{T: 1, FD: 0x11}, ""},
		{"no PPS1 asked for", "FF 01 FE", "FF 01 FE", atr.Selection{T: 1, FD: 0x11}, ""},
		{"PPS2 taken", "FF 20 81 5E", "FF 20 81 5E", atr.Selection{FD: 0x11, SPU: 0x81}, ""},
		{"PPS2 left out", "FF 20 81 5E", "FF 00 FF", atr.Selection{FD: 0x11}, ""},
		{"PPS3 echoed", "FF 40 05 BA", "FF 40 05 BA", atr.Selection{FD: 0x11}, ""},
		{"another T", "FF 11 96 78", "FF 10 96 79", atr.Selection{}, "T=1 was asked for, the card says T=0"},
		{"another PPS1", "FF 11 96 78", "FF 11 95 7B", atr.Selection{}, "PPS1 = 96 was asked for, the card says 95"},
		{"PPS1 not asked for", "FF 01 FE", "FF 11 11 FF", atr.Selection{}, "the card adds PPS1 = 11"},
		{"PPS2 not asked for", "FF 11 96 78", "FF 31 96 01 59", atr.Selection{}, "the card adds PPS2 = 01"},
		{"another PPS3", "FF 40 05 BA", "FF 40 06 B9", atr.Selection{}, "PPS3 = 05 was asked for, the card says 06"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			request, err := atr.ParsePPS(unhex(t, tt.request))
			require.NoError(t, err)
			response, err := atr.ParsePPS(unhex(t, tt.response))
			require.NoError(t, err)
			got, err := request.Accept(response)
			assert.Equal(t, tt.want, got)
			if tt.refused == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, atr.ErrPPSRefused)
			assert.ErrorContains(t, err, tt.refused)
		})
	}
}

func TestPropertyPPSBothWays(t *testing.T) {
	option := rapid.Ptr(rapid.Byte(), true)
	rapid.Check(t, func(t *rapid.T) {
		p := atr.PPS{
			T:    rapid.Uint8Range(0, 14).Draw(t, "T"),
			PPS1: option.Draw(t, "PPS1"), PPS2: option.Draw(t, "PPS2"), PPS3: option.Draw(t, "PPS3"),
		}
		got, err := atr.ParsePPS(p.Bytes())
		require.NoError(t, err)
		assert.Equal(t, p, got)
		s, err := p.Accept(got)
		require.NoError(t, err)
		assert.Equal(t, p.T, s.T)
	})
}

// checkPPS holds what must be true of each result of ParsePPS.
func checkPPS(t reporter, b []byte) {
	p, err := atr.ParsePPS(b)
	if err != nil {
		require.ErrorIs(t, err, atr.ErrPPSFormat)
		return
	}
	require.Equal(t, b, p.Bytes())
}
