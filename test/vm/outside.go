package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

//go:embed export.sh
var exportFunctions string

// exportScript is the part of the guest's script that exports the reader while a suite runs outside.
func (s suite) exportScript() string {
	return fmt.Sprintf("echo '== %s'\n%s\nexport_reader %s %s", s.pkg, exportFunctions, "/run/vm/"+s.name()+".ready", "/run/vm/"+s.name()+".status")
}

// readyInterval is how often to look whether the guest exports its reader.
const readyInterval = 100 * time.Millisecond

// runOutside waits for the guest to export its reader, and runs a suite on this machine. It leaves what the tests print, and
// their exit status, in the share, as suites in the guest do. ctx ends with the guest.
func (l *lab) runOutside(ctx context.Context, s suite, pattern string, out io.Writer) error {
	file := func(suffix string) string { return filepath.Join(l.share, s.name()+suffix) }
	for {
		_, err := os.Stat(file(".ready"))
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // the summary says that nothing ran
		case <-time.After(readyInterval):
		}
	}
	printed, err := os.Create(file(".out"))
	if err != nil {
		return err
	}
	defer printed.Close()

	ctx, cancel := context.WithTimeout(ctx, s.killed())
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(l.share, "bin", s.name()+".test"), s.testFlags(pattern)...)
	cmd.Dir = filepath.Join(l.repository, s.pkg)
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOCCID_VM_USBIP=127.0.0.1:%d", l.port), "GOCCID_VM_CONTROL="+l.controlSocket())
	cmd.Stdout = io.MultiWriter(printed, out)
	cmd.Stderr = cmd.Stdout
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return os.WriteFile(file(".status"), []byte(strconv.Itoa(cmd.ProcessState.ExitCode())), 0o644)
}
