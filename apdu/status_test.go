package apdu_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/apdu"
)

func TestStatusWordMeaning(t *testing.T) {
	for sw, want := range map[apdu.StatusWord]string{
		0x9000: "success",
		0x6110: "success, 16 bytes to fetch with GET RESPONSE",
		0x6100: "success, 256 bytes to fetch with GET RESPONSE",
		0x6200: "warning, memory unchanged, no information",
		0x6210: "warning, the card has a query of 16 bytes for the host",
		0x6281: "warning, part of the returned data may be corrupted",
		0x6282: "warning, end of file, record or search reached before Ne bytes",
		0x6283: "warning, selected file is deactivated",
		0x62F1: "warning, memory unchanged",
		0x6300: "warning, memory changed, no information (after VERIFY: wrong PIN)",
		0x63C5: "not successful, counter is 5 (after VERIFY: tries left)",
		0x63F1: "warning, memory changed",
		0x6400: "execution error, memory unchanged",
		0x6402: "aborted, the card has a query of 2 bytes for the host",
		0x6480: "aborted, the card has a query of 128 bytes for the host",
		0x6490: "execution error, memory unchanged",
		0x64F0: "execution error, memory unchanged",
		0x6581: "memory failure",
		0x6599: "execution error, memory changed",
		0x6601: "execution error, security issue",
		0x6700: "wrong length",
		0x6701: "wrong length",
		0x6883: "last command of the chain expected",
		0x68FF: "function in CLA not supported",
		0x6982: "security status not satisfied",
		0x69F0: "command not allowed",
		0x6A82: "file or application not found",
		0x6AF0: "wrong parameters",
		0x6B00: "wrong P1 P2, offset outside the file",
		0x6B01: "wrong P1 P2",
		0x6C03: "wrong Le, the exact value is 3",
		0x6C00: "wrong Le, the exact value is 256",
		0x6D00: "instruction not supported or invalid",
		0x6D01: "instruction not supported or invalid",
		0x6E00: "class not supported",
		0x6E01: "class not supported",
		0x6F00: "error, no precise diagnosis",
		0x6F87: "error, no precise diagnosis",
		0x9110: "SIM: success, a proactive command of 16 bytes is pending",
		0x9203: "SIM: success after 3 internal retries",
		0x9240: "SIM: memory problem",
		0x9404: "SIM: file ID or pattern not found",
		0x9804: "SIM: access condition not fulfilled or wrong CHV, at least one try left",
		0x9840: "SIM: wrong CHV, no try left, or CHV blocked",
		0x9E10: "SIM: data download error, 16 bytes to fetch",
		0x9F17: "SIM: success, 23 bytes to fetch with GET RESPONSE",
		0x9A00: "proprietary",
		0x6000: "not a valid status word",
		0x1234: "not a valid status word",
	} {
		assert.Equal(t, want, sw.Meaning(), "%v", sw)
	}
}

func TestEachStatusWordHasAMeaning(t *testing.T) {
	for v := range 0x10000 {
		sw := apdu.StatusWord(v)
		require.NotEmpty(t, sw.Meaning())
		if !sw.Valid() {
			require.Equal(t, "not a valid status word", sw.Meaning(), "%v", sw)
		}
	}
}

func TestStatusWordParts(t *testing.T) {
	sw := apdu.StatusWord(0x6C1D)
	assert.Equal(t, byte(0x6C), sw.SW1())
	assert.Equal(t, byte(0x1D), sw.SW2())
	assert.Equal(t, "6C1D", sw.String())
	assert.Equal(t, "0009", apdu.StatusWord(9).String())

	ne, ok := sw.ExactNe()
	assert.True(t, ok)
	assert.Equal(t, 29, ne)
	_, ok = sw.Available()
	assert.False(t, ok)
	_, ok = sw.Counter()
	assert.False(t, ok)
	n, ok := apdu.StatusWord(0x6100).Available()
	assert.True(t, ok)
	assert.Equal(t, 256, n)
	n, ok = apdu.StatusWord(0x63C2).Counter()
	assert.True(t, ok)
	assert.Equal(t, 2, n)

	assert.True(t, apdu.StatusWord(0x6283).Warning())
	assert.True(t, apdu.StatusWord(0x6300).Warning())
	assert.False(t, apdu.Success.Warning())
	for sw, want := range map[apdu.StatusWord]bool{0x9000: true, 0x6100: true, 0x6000: false, 0x60FF: false, 0x8000: false, 0xA000: false} {
		assert.Equal(t, want, sw.Valid(), "%v", sw)
	}
}
