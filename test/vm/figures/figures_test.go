package figures

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLineComparesWhatWasLogged(t *testing.T) {
	tests := map[string]struct {
		list []Figures
		want string
	}{
		"all removals": {
			list: []Figures{
				{Stack: "goccid usbfs", Removals: 200},
				{Stack: Reference, Removals: 200, Lines: map[string]int{"a": 500, "b": 40}},
			},
			want: "log lines above info per 200 removals: goccid 0, reference 540",
		},
		"the worse of our builds": {
			list: []Figures{
				{Stack: "goccid libusb", Removals: 200, Lines: map[string]int{"a": 2}},
				{Stack: "goccid usbfs", Removals: 200},
			},
			want: "log lines above info per 200 removals: goccid 2, reference not measured",
		},
		"scaled": {
			list: []Figures{{Stack: Reference, Removals: 80, Lines: map[string]int{"a": 100}}},
			want: "log lines above info per 200 removals: goccid not measured, reference 250; pcscd + libccid scaled from 80 removals",
		},
		"not a line is scaled away": {
			list: []Figures{{Stack: "goccid usbfs", Removals: 201, Lines: map[string]int{"a": 1}}},
			want: "log lines above info per 200 removals: goccid 1, reference not measured; goccid usbfs scaled from 201 removals",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { assert.Equal(t, test.want, line(test.list)) })
	}
}

func TestQuantileAndWithin(t *testing.T) {
	times := []time.Duration{5, 1, 4, 2, 3}
	assert.Equal(t, time.Duration(3), Quantile(times, 0.5))
	assert.Equal(t, time.Duration(5), Quantile(times, 1))
	assert.Equal(t, time.Duration(1), Quantile(times, 0))
	assert.Zero(t, Quantile(nil, 0.5))
	assert.InDelta(t, 0.6, Within(times, 3), 1e-9)
	assert.Zero(t, Within(nil, 3))
}

func TestSavedFiguresAreLoadedAndPrinted(t *testing.T) {
	folder := t.TempDir()
	saved := []Figures{
		{Stack: Reference, Removals: 200, Lines: map[string]int{"WriteUSB: …": 3}, Ended: []time.Duration{time.Second}},
		{Stack: "goccid usbfs", Removals: 200, Silent: 1, Gone: []time.Duration{time.Millisecond}},
	}
	for _, f := range saved {
		require.NoError(t, f.Save(folder))
	}
	loaded, err := Load(folder)
	require.NoError(t, err)
	assert.ElementsMatch(t, saved, loaded)

	var printed strings.Builder
	Print(&printed, loaded)
	assert.Contains(t, printed.String(), "pcscd + libccid logged 3 × WriteUSB: …")
	assert.Contains(t, printed.String(), "goccid usbfs: the emulated card did not answer 1 times")
	assert.Less(t, strings.Index(printed.String(), "goccid usbfs"), strings.Index(printed.String(), Reference), "the reference is last")
	assert.True(t, strings.HasSuffix(printed.String(), "\nlog lines above info per 200 removals: goccid 0, reference 3\n"))
}
