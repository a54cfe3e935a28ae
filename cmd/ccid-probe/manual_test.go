package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// timesInOutput are what differs from run to run.
var timesInOutput = regexp.MustCompile(`\d+\.\d{3} ms|"us":\d+`)

// TestManualShowsWhatIsPrinted runs each command of the manual and compares.
func TestManualShowsWhatIsPrinted(t *testing.T) {
	manual, err := os.ReadFile("../../docs/ccid-probe.md")
	require.NoError(t, err)
	blocks := strings.Split(string(manual), "```console\n$ ccid-probe ")
	require.Greater(t, len(blocks), 8)
	for _, block := range blocks[1:] {
		block, _, _ = strings.Cut(block, "```")
		command, want, _ := strings.Cut(block, "\n")
		t.Run(command, func(t *testing.T) {
			got := probe(t, strings.Fields(command)...)
			assert.Equal(t, timesInOutput.ReplaceAllString(want, "TIME"), timesInOutput.ReplaceAllString(got.stdout+got.stderr, "TIME"))
		})
	}
}

// TestManualHasEveryExitCode compares the table with what --help prints.
func TestManualHasEveryExitCode(t *testing.T) {
	manual, err := os.ReadFile("../../docs/ccid-probe.md")
	require.NoError(t, err)
	for line := range strings.Lines(exitCodes) {
		code, text, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			continue
		}
		assert.Contains(t, string(manual), "| "+code+" | "+strings.TrimSpace(text)+" |\n")
	}
}
