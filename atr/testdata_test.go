package atr_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/atr"
)

// dataLines returns the lines of a file in testdata, without comments.
func dataLines(t testing.TB, name string) []string {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	require.NoError(t, err)
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if !strings.HasPrefix(s.Text(), "#") {
			lines = append(lines, s.Text())
		}
	}
	return lines
}

// TestEveryATRInTheFieldDecodes walks through the ATRs of pcsc-tools' list. Some have typing errors there, which is why a few
// may be truncated, but no other error may occur.
func TestEveryATRInTheFieldDecodes(t *testing.T) {
	lines := dataLines(t, "atrs.txt")
	require.Len(t, lines, 3803)
	truncated, wrongTCK := 0, 0
	for _, line := range lines {
		raw, err := atr.ParseHex(line)
		require.NoError(t, err)
		a, err := atr.Parse(raw)
		if err != nil {
			require.ErrorIs(t, err, atr.ErrTruncated, line)
			truncated++
		} else if a.TCK.Present && !a.TCK.Correct {
			wrongTCK++
		}
		checkATR(t, raw, a, err)
	}
	t.Logf("%d truncated, %d with a wrong TCK", truncated, wrongTCK)
	assert.Less(t, truncated, 200)
}

// TestAgreesWithATRAnalysis compares with the decodes of another program. Where the ATR is followed by other bytes that
// program counts all of them, TCK included, among the historical bytes; where TD1 is absent it lists no protocol.
func TestAgreesWithATRAnalysis(t *testing.T) {
	lines := dataLines(t, "decodes.tsv")
	require.Len(t, lines, 148)
	for _, line := range lines {
		f := strings.Split(line, "\t")
		t.Run(f[0], func(t *testing.T) {
			raw, err := atr.ParseHex(f[0])
			require.NoError(t, err)
			a, err := atr.Parse(raw)
			if err != nil {
				require.ErrorIs(t, err, atr.ErrTruncated)
			}
			compareDecode(t, a, f[1:])
		})
	}
}

func compareDecode(t *testing.T, a *atr.ATR, f []string) {
	var protocols []uint8
	for _, s := range strings.Split(f[0], ",") {
		if v := number(t, s, 0); !slices.Contains(protocols, uint8(v)) {
			protocols = append(protocols, uint8(v))
		}
	}
	assert.Equal(t, protocols, a.Protocols, "protocols")

	fi, di, _ := a.FiDi()
	assert.Equal(t, number(t, f[1], 372), fi, "Fi")
	assert.Equal(t, number(t, f[2], 1), di, "Di")

	after := fmt.Sprintf("%X", a.Historical)
	if len(a.Trailing) > 0 {
		if a.TCK.Present {
			after += fmt.Sprintf("%02X", a.TCK.Value)
		}
		after += fmt.Sprintf("%X", a.Trailing)
		assert.Equal(t, "none", f[4], "TCK")
	} else {
		assert.Equal(t, f[4], tckWord(a.TCK), "TCK")
	}
	assert.Equal(t, strings.TrimPrefix(f[3], "-"), after, "historical bytes")

	t1 := a.T1()
	assert.Equal(t, min(number(t, f[5], 32), 254), t1.IFSC, "IFSC (255 is reserved)")
	assert.Equal(t, number(t, f[6], 4), int(t1.BWI), "BWI")
	assert.Equal(t, number(t, f[7], 13), int(t1.CWI), "CWI")
	assert.Equal(t, number(t, f[8], 0), int(a.GuardTime()), "N")
}

func tckWord(k atr.TCK) string {
	switch {
	case !k.Present:
		return "none"
	case k.Correct:
		return "right"
	default:
		return "wrong"
	}
}

func number(t *testing.T, s string, absent int) int {
	t.Helper()
	if s == "-" {
		return absent
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

type reporter interface {
	Errorf(format string, args ...any)
	FailNow()
}

// checkATR holds what must be true of each result of Parse.
func checkATR(t reporter, raw []byte, a *atr.ATR, err error) {
	if err != nil && a == nil {
		return
	}
	require.NotNil(t, a)
	require.Equal(t, err != nil, a.Truncated)
	require.Len(t, a.Raw, len(raw))
	require.LessOrEqual(t, len(a.Historical), 15)
	require.NotEmpty(t, a.Protocols)

	// Put together again, the parts are the whole.
	b := []byte{a.Raw[0]}
	if len(a.Raw) > 1 {
		b = append(b, a.Raw[1])
	}
	for _, g := range a.Groups {
		for _, v := range []atr.Byte{g.TA, g.TB, g.TC, g.TD} {
			if v.Present {
				b = append(b, v.Value)
			}
		}
	}
	b = append(b, a.Historical...)
	if a.TCK.Present {
		b = append(b, a.TCK.Value)
	}
	require.Equal(t, a.Raw, append(b, a.Trailing...))

	fi, di, fmax := a.FiDi()
	require.Positive(t, fi)
	require.Positive(t, di)
	require.Positive(t, fmax)
	require.NotEqual(t, uint8(15), a.FirstProtocol())
	t1 := a.T1()
	require.True(t, t1.IFSC >= 1 && t1.IFSC <= 254 && t1.BWI <= 9 && t1.CWI <= 15 && t1.EDC <= 1, "%+v", t1)
	require.NotZero(t, a.T0().WI)
	require.NotEmpty(t, a.ClockStop().String()+a.Classes().String()+a.SPU().String())
	require.False(t, a.Truncated && a.Valid())
	require.NotEmpty(t, a.Text())

	limits := atr.ReaderLimits{DefaultClockHz: 4_000_000, MaxClockHz: 8_000_000, MaxDataRateBps: 500_000}
	list := a.Candidates(a.FirstProtocol(), limits)
	require.NotEmpty(t, list)
	if a.Specific != nil {
		require.Len(t, list, 1)
	} else {
		require.Equal(t, atr.DefaultFD, list[len(list)-1].FD)
	}

	j, err := json.Marshal(a)
	require.NoError(t, err)
	require.True(t, json.Valid(j))
}
