package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCount(t *testing.T) {
	tests := map[string]struct {
		printed string
		status  int
		want    tally
	}{
		"passed, failed and skipped": {
			printed: "--- PASS: TestVMA (0.01s)\n--- FAIL: TestVMB (0.01s)\n--- SKIP: TestVMC (0.00s)\nFAIL\n",
			status:  1,
			want:    tally{passed: 1, failed: []string{"TestVMB"}, skipped: []string{"TestVMC"}},
		},
		"subtests count instead of their parents": {
			printed: "--- FAIL: TestVMA (0.01s)\n    --- PASS: TestVMA/one (0.00s)\n    --- FAIL: TestVMA/two (0.00s)\n" +
				"        --- SKIP: TestVMA/two/x (0.00s)\n--- PASS: TestVMAB (0.00s)\n",
			status: 1,
			want:   tally{passed: 2, failed: []string{"TestVMA/two"}, skipped: []string{"TestVMA/two/x"}},
		},
		"a parent that fails by itself": {
			printed: "--- FAIL: TestVMA (0.01s)\n    --- PASS: TestVMA/one (0.00s)\n",
			status:  1,
			want:    tally{passed: 1, failed: []string{"TestVMA"}},
		},
		"a program that dies between tests": {
			printed: "--- PASS: TestVMA (0.01s)\npanic: boom\n",
			status:  2,
			want:    tally{passed: 1, failed: []string{"the test program ended with status 2"}},
		},
		"a program that doesn't start": {
			status: 127,
			want:   tally{failed: []string{"the test program ended with status 127"}},
		},
		"nothing ran": {
			printed: "testing: warning: no tests to run\nPASS\n",
			want:    tally{failed: []string{"no test ran"}},
		},
		"everything skipped": {
			printed: "--- SKIP: TestVMA (0.00s)\nPASS\n",
			want:    tally{failed: []string{"no test ran"}, skipped: []string{"TestVMA"}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, count(test.printed, test.status))
		})
	}
}

func TestSelectSuites(t *testing.T) {
	all, err := selectSuites(nil)
	require.NoError(t, err)
	assert.Equal(t, suites(), all)

	one, err := selectSuites([]string{"usbtransport/libusb/"})
	require.NoError(t, err)
	require.Len(t, one, 1)
	assert.Equal(t, "libusb", one[0].tags)

	_, err = selectSuites([]string{"./apdu"})
	assert.ErrorContains(t, err, "./apdu")
}

func TestQuote(t *testing.T) {
	assert.Equal(t, `'it'\''s $HOME'`, quote("it's $HOME"))
}
