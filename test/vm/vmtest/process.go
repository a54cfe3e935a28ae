package vmtest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// endDeadline bounds the wait for a program to end when it is asked to.
const endDeadline = 5 * time.Second

// StartProcess starts a program whose output goes to a file, and returns what ends it, at the latest when the test ends.
func StartProcess(t testing.TB, output, program string, args ...string) (end func()) {
	t.Helper()
	file, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(endDeadline, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_ = cmd.Wait() // that a signal ended it is no news
	}
	t.Cleanup(end)
	return end
}
