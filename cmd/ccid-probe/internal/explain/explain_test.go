package explain_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/cmd/ccid-probe/internal/explain"
	"github.com/goccid/goccid/usbtransport/capture"
)

const traces = "../../../../testdata/traces"

var update = flag.Bool("update", false, "write the transcripts of testdata again")

// traceFiles are all traces of the project: one that is put into the folder is tested here too.
func traceFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(traces, "*.pcapng"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func build(t testing.TB, file string, o explain.Options) *explain.Transcript {
	t.Helper()
	c, err := capture.ReadFile(file)
	require.NoError(t, err)
	o.Name = filepath.Base(file)
	return explain.Build(c, o)
}

func text(t testing.TB, transcript *explain.Transcript) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, transcript.WriteText(&b))
	return b.String()
}

// TestTranscriptsOfTraces compares with the transcripts in testdata, which have been read by somebody.
func TestTranscriptsOfTraces(t *testing.T) {
	goldens, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(goldens), 4)
	for _, golden := range goldens {
		name := strings.TrimSuffix(filepath.Base(golden), ".txt")
		t.Run(name, func(t *testing.T) {
			got := text(t, build(t, filepath.Join(traces, name+".pcapng"), explain.Options{}))
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), got)
		})
	}
}
