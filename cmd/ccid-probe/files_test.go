//go:build unix

package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheCaptureThatIsReadIsNotWrittenOver(t *testing.T) {
	folder := t.TempDir()
	file, link := filepath.Join(folder, "session.pcapng"), filepath.Join(folder, "link")
	content, err := os.ReadFile(filepath.Join(tracesFolder, "virtual-short-t1.pcapng"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, content, 0o600))
	require.NoError(t, os.Symlink(file, link))
	for _, output := range []string{file, link, folder + "/./session.pcapng"} {
		got := probe(t, "explain", file, "--force", "-o", output)
		assert.Equal(t, exitUsage, got.code)
		assert.Contains(t, got.stderr, output+" is the file that is read, which would be lost")
		kept, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, content, kept)
	}
}

func TestNothingRecordedLeavesNoFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "session.pcapng")
	const nothing = "nothing was recorded, and "
	for _, tt := range []struct {
		code    exitCode
		command []string
	}{
		{exitNoReader, []string{"list"}},
		{exitNoReader, []string{"atr", "--reader", "0"}},
		{exitOK, []string{"atr", "3B00"}},
		{exitOK, []string{"describe", "--class-descriptor", "36210001000703000000A00F0000A00F000000002A000090D0030000F70000000000000000000000300001000F010000000000000001"}},
	} {
		for _, flags := range [][]string{nil, {"--force"}} {
			got := probe(t, append(append([]string{"record", "-o", file}, flags...), append([]string{"--"}, tt.command...)...)...)
			assert.Equal(t, tt.code, got.code, tt.command)
			assert.Contains(t, got.stderr, nothing+file, tt.command)
			assert.NotContains(t, got.stderr, "See it")
			assert.NoFileExists(t, file)
		}
	}
	require.NoError(t, os.WriteFile(file, []byte("yesterday's"), 0o600))
	got := probe(t, "record", "-o", file, "--force", "--", "list")
	assert.Equal(t, exitNoReader, got.code)
	assert.Contains(t, got.stderr, nothing)
	kept, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "yesterday's", string(kept), "nothing came to take its place")
}

func newFIFO(t *testing.T) string {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	return fifo
}

// TestAFIFOThatNobodyOpensIsWaitedForUntilTheContextEnds, for reading and for writing.
func TestAFIFOThatNobodyOpensIsWaitedForUntilTheContextEnds(t *testing.T) {
	for name, args := range map[string][]string{
		"explain": {"explain"},
		"replay":  {"replay"},
		"record":  {"record", "--virtual", tpduT1, "--force", "-o"},
	} {
		t.Run(name, func(t *testing.T) {
			fifo := newFIFO(t)
			args = append(args, fifo)
			if name == "record" {
				args = append(args, "--", "list")
			}
			w := newWorld(t)
			ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
			defer cancel()
			w.ctx = ctx
			got := w.run(args...)
			assert.Equal(t, exitTimedOut, got.code, got.stderr)
			// The open is under way: it ends when the other end is there.
			other, err := os.OpenFile(fifo, os.O_RDWR, 0)
			require.NoError(t, err)
			defer other.Close() //nolint:errcheck // nothing was written
		})
	}
}

func TestAFIFOInWhichNothingComesIsReadUntilTheContextEnds(t *testing.T) {
	fifo := newFIFO(t)
	writer, err := os.OpenFile(fifo, os.O_RDWR, 0)
	require.NoError(t, err)
	defer writer.Close() //nolint:errcheck // nothing is written
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	w.ctx = ctx
	assert.Equal(t, exitTimedOut, w.run("explain", fifo).code)
}

func TestARecordingCanGoThroughAPipe(t *testing.T) {
	fifo := newFIFO(t)
	read := make(chan []byte, 1)
	go func() {
		f, err := os.Open(fifo)
		if err != nil {
			read <- nil
			return
		}
		defer f.Close() //nolint:errcheck // only read
		b, _ := io.ReadAll(f)
		read <- b
	}()
	got := probe(t, "record", "--force", "-o", fifo, "--virtual", tpduT1, "--", "atr")
	assert.Equal(t, exitOK, got.code, got.stderr)
	assert.Contains(t, got.stderr, "recorded "+fifo)
	assert.NotEmpty(t, <-read)
	got = probe(t, "record", "--force", "-o", os.DevNull, "--virtual", tpduT1, "--", "atr")
	assert.Equal(t, exitOK, got.code, got.stderr)
}

func TestAFolderIsNoCapture(t *testing.T) {
	folder := t.TempDir()
	got := probe(t, "explain", folder)
	assert.Equal(t, exitUsage, got.code)
	assert.Equal(t, "ccid-probe: read "+folder+": is a directory\n", got.stderr)
}
