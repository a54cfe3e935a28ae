package atr_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/atr"
)

var update = flag.Bool("update", false, "write testdata/text.golden anew instead of comparing with it")

// TestText compares the explanation of ATRs that between them have every kind of byte.
func TestText(t *testing.T) {
	var got strings.Builder
	for _, line := range dataLines(t, "text_atrs.txt") {
		a, err := atr.Parse(unhex(t, line))
		if err != nil {
			require.ErrorIs(t, err, atr.ErrTruncated)
		}
		fmt.Fprintf(&got, "%s\n", line)
		for _, l := range a.Text() {
			assert.NotContains(t, l, "\n")
			fmt.Fprintf(&got, "  %s\n", l)
		}
	}
	const golden = "testdata/text.golden"
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got.String())
}

func TestJSON(t *testing.T) {
	tests := []struct{ name, atr, want string }{
		{
			"negotiable, T=0", "3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34",
			`{"atr":"3B7A18000073667465206364313434","valid":true,"tck":{"present":false,"correct":true},"convention":"direct",
			"protocols":[0],"specific":null,"fi":372,"di":12,"historical_bytes":"73667465206364313434","text":[]}`,
		},
		{
			"specific, T=1, wrong TCK", "3F 90 96 91 81 31 FE 45 00",
			`{"atr":"3F9096918131FE4500","valid":false,"tck":{"present":true,"correct":false},"convention":"inverse",
			"protocols":[1],"specific":1,"fi":512,"di":32,"historical_bytes":"","text":[]}`,
		},
		{
			"missing TCK, T=15", "3B 80 80 1F C7",
			`{"atr":"3B80801FC7","valid":false,"tck":{"present":false,"correct":false},"convention":"direct",
			"protocols":[0,15],"specific":null,"fi":372,"di":1,"historical_bytes":"","text":[]}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := parse(t, tt.atr)
			got, err := json.Marshal(a)
			require.NoError(t, err)
			var fields map[string]any
			require.NoError(t, json.Unmarshal(got, &fields))
			assert.Len(t, fields["text"], len(a.Text()))
			fields["text"] = []any{}
			got, err = json.Marshal(fields)
			require.NoError(t, err)
			assert.JSONEq(t, tt.want, string(got))
		})
	}
}
