//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// readyVariable tells a child which of its files takes the word that it is ready, or why it is not.
const readyVariable = "GOCCIDD_READY_FD"

// readyFD is the first of exec.Cmd's ExtraFiles.
const readyFD = 3

// readyWord is what a child writes when clients can connect. All else is the reason why it ends.
const readyWord = "ready\n"

// maxReport bounds what a child can tell.
const maxReport = 16 << 10

func (p *program) isChild() bool { return p.getenv(readyVariable) != "" }

// background starts this program once more, in a session of its own, and waits until it is ready or has failed. A Go
// program can't fork: it has threads from the start.
func (p *program) background() error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	defer reader.Close()
	child := exec.Command(executable, p.args...)
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%d", readyVariable, readyFD))
	child.ExtraFiles = []*os.File{writer}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	writer.Close()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	report, err := io.ReadAll(io.LimitReader(reader, maxReport))
	switch {
	case err != nil:
		return fmt.Errorf("go to the background: %w", err)
	case string(report) == readyWord:
		return child.Process.Release()
	}
	err = child.Wait()
	text := strings.TrimSpace(string(report))
	switch {
	case text != "" && child.ProcessState.ExitCode() == exitUsage:
		return usage("%s", text)
	case text != "":
		return errors.New(text)
	}
	return fmt.Errorf("the daemon ended before it was ready: %w", err)
}

// parent is the process that started us into the background, and waits.
type parent struct{ file *os.File }

// waitingParent returns it, if there is one.
func (p *program) waitingParent() *parent {
	if !p.isChild() {
		return nil
	}
	_ = os.Unsetenv(readyVariable) // it is not for those that we start
	return &parent{os.NewFile(readyFD, "parent")}
}

// tell says that we are ready, or why not, once.
func (p *parent) tell(err error) {
	if p == nil || p.file == nil {
		return
	}
	text := readyWord
	if err != nil {
		text = err.Error()
	}
	// A parent that was killed meanwhile has nothing to be told.
	_, _ = io.WriteString(p.file, text)
	p.file.Close()
	p.file = nil
}
