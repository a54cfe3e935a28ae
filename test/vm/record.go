package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
)

//go:embed record.sh
var recordScript string

// recordingTests are those of package cross that keep recordings when they are given a folder.
const recordingTests = "^(TestVMRecordedSessionReplays|TestVMBothDriversSayTheSame)$"

// record has the guest record the traffic of both drivers, and puts the recordings into testdata/traces.
func (l *lab) record(ctx context.Context) (int, error) {
	cross, err := selectSuites([]string{"./test/vm/cross"})
	if err != nil {
		return 0, err
	}
	tests, err := l.build(ctx, cross, options{run: recordingTests})
	if err != nil {
		return 0, err
	}
	script := recordScript + "\nexec 3>&-\nexport GOCCID_VM_TRACES=/run/vm/traces\n" + tests
	if status, err := l.boot(ctx, script, os.Stdout); err != nil || status != 0 {
		return status, err
	}
	if outcome, err := l.tally(cross[0]); err != nil || len(outcome.failed) > 0 {
		return exitFailed, err
	}
	recordings, err := filepath.Glob(filepath.Join(l.share, "traces", "*.pcapng"))
	if err != nil {
		return 0, err
	}
	if len(recordings) == 0 {
		return 0, fmt.Errorf("the guest has recorded nothing")
	}
	traces := filepath.Join(l.repository, "testdata", "traces")
	if err := os.MkdirAll(traces, 0o755); err != nil {
		return 0, err
	}
	for _, recording := range recordings {
		content, err := os.ReadFile(recording)
		if err != nil {
			return 0, err
		}
		file := filepath.Join(traces, filepath.Base(recording))
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return 0, err
		}
		note("wrote %s, %d bytes", file, len(content))
	}
	return exitPassed, nil
}
