package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/virtual"
)

// timesInOutput are what differs from run to run: times, and the numbers of packets and the length of a recording, for those from
// the interrupt endpoint come when they come.
var timesInOutput = regexp.MustCompile(`\d+\.\d{3} ms|"us":\d+|#\d+ +|\d+ bytes\. See it`)

// omitted stands in the manual for lines that are left out.
const omitted = "…\n"

// exportedAt is where readers are exported in the manual.
const exportedAt = "127.0.0.1:3240"

// TestManualShowsWhatIsPrinted runs each command of the manual and compares. What is exported by one command stays for those after it.
func TestManualShowsWhatIsPrinted(t *testing.T) {
	manual, err := os.ReadFile("../../docs/ccid-probe.md")
	require.NoError(t, err)
	blocks := strings.Split(string(manual), "```console\n$ ccid-probe ")
	require.Greater(t, len(blocks), 8)
	// Files are written to a folder of their own, from which the traces are where the manual has them.
	traces, err := filepath.Abs("../../testdata")
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	require.NoError(t, os.Symlink(traces, "testdata"))
	var exporter *exported
	for _, block := range blocks[1:] {
		block, _, _ = strings.Cut(block, "```")
		command, want, _ := strings.Cut(block, "\n")
		args := strings.Fields(command)
		if args[0] == "virtual" {
			t.Run(command, func(t *testing.T) { dialogueOfManual(t, args, want) })
			exporter = export(t, args[1:]...)
			defer exporter.quit()
			continue
		}
		t.Run(command, func(t *testing.T) {
			if strings.Contains(command, exportedAt) {
				args = strings.Fields(strings.ReplaceAll(command, exportedAt, exporter.address))
			}
			got := probe(t, args...)
			assertPrinted(t, timesInOutput.ReplaceAllString(want, "TIME"), timesInOutput.ReplaceAllString(got.stdout+got.stderr, "TIME"))
		})
	}
}

// assertPrinted compares; a line of the manual that is omitted stands for any number of lines.
func assertPrinted(t *testing.T, want, printed string) {
	t.Helper()
	parts := strings.Split(want, "\n"+omitted)
	if len(parts) == 1 {
		assert.Equal(t, want, printed)
		return
	}
	require.True(t, strings.HasPrefix(printed, parts[0]+"\n"), "%s\ndoes not begin with\n%s", printed, parts[0])
	for _, part := range parts[1:] {
		_, after, found := strings.Cut(printed, strings.TrimSuffix(part, "\n"))
		require.True(t, found, "%s\nis not in\n%s", part, printed)
		printed = after
	}
}

// dialogueOfManual runs "virtual" with the lines that are typed in the manual: after the introduction, those that are no answers.
func dialogueOfManual(t *testing.T, args []string, want string) {
	t.Helper()
	head, dialogue, found := strings.Cut(want, "help lists them.\n")
	require.True(t, found)
	answers := head + "help lists them.\n"
	var typed strings.Builder
	for line := range strings.Lines(dialogue) {
		if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "error ") {
			answers += line
		} else {
			typed.WriteString(line)
		}
	}
	w := newWorld(t)
	w.stdin = strings.NewReader(typed.String())
	got := w.run(append(args, "--listen", "127.0.0.1:0")...)
	require.Equal(t, exitOK, got.code)
	_, port, _ := strings.Cut(got.stdout, "at 127.0.0.1:")
	port, _, _ = strings.Cut(port, ".")
	assert.Equal(t, answers, strings.NewReplacer("127.0.0.1:"+port, exportedAt, "--tcp-port "+port, "--tcp-port 3240").Replace(got.stdout+got.stderr))
}

// TestDocumentsCountTheModelsThatThereAre, everywhere in the same way.
func TestDocumentsCountTheModelsThatThereAre(t *testing.T) {
	models, err := virtual.Models()
	require.NoError(t, err)
	interfaces := 0
	for _, m := range models {
		interfaces += len(m.Interfaces)
	}
	for file, want := range map[string]string{
		"../../docs/ccid-probe.md": fmt.Sprintf("the model: one of %d,", len(models)),
		"../../README.md":          fmt.Sprintf("the descriptors of %d real ones", len(models)),
		"../../docs/parity.md":     fmt.Sprintf("of the %d interfaces known here", interfaces),
	} {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Contains(t, string(content), want, file)
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
