package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
)

// exitCode is the program's exit status. The numbers are part of its interface.
type exitCode int

const (
	exitOK          exitCode = 0
	exitFailure     exitCode = 1
	exitUsage       exitCode = 2
	exitNoReader    exitCode = 3
	exitNoCard      exitCode = 4
	exitNoAccess    exitCode = 5
	exitRemoved     exitCode = 6
	exitCardFailed  exitCode = 7
	exitTimedOut    exitCode = 8
	exitInterrupted exitCode = 130
)

// exitCodes explains them, for --help.
const exitCodes = `Exit codes:
  0    done; an APDU that was answered counts as done, whatever its status word
  1    failed for a reason that has no code of its own
  2    the command line, or something on it, is wrong
  3    there is no reader, or not the one asked for
  4    there is no card in the slot
  5    the reader can't be opened: busy, or no permission
  6    the reader was removed meanwhile
  7    the card does not answer, or not as it must
  8    it took too long
  130  interrupted (Ctrl-C)`

// problem is an error with its exit code and, where there is one, the way out.
type problem struct {
	code exitCode
	err  error
	// advice is what the user can do about it; lines.
	advice []string
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

// usage makes a problem of the command line.
func usage(advice, format string, args ...any) error {
	p := &problem{code: exitUsage, err: fmt.Errorf(format, args...)}
	if advice != "" {
		p.advice = strings.Split(advice, "\n")
	}
	return p
}

// started marks an error as coming from a command that cobra had found no fault with.
type started struct{ error }

func (s started) Unwrap() error { return s.error }

// codeOf classifies an error.
func codeOf(err error) exitCode {
	var p *problem
	var s started
	switch {
	case errors.As(err, &p):
		return p.code
	case !errors.As(err, &s):
		return exitUsage
	}
	for _, kind := range kinds {
		if errors.Is(err, kind.err) {
			return kind.code
		}
	}
	// What is left of the errors of a slot is about the card: mute, against the protocol, refused by the reader.
	var h *host.Error
	if errors.As(err, &h) && h.Slot != host.NoSlot {
		return exitCardFailed
	}
	return exitFailure
}

// kinds are the errors of the layers below, the most telling first: what fails on a reader that is gone fails for that
// reason.
var kinds = []struct {
	err  error
	code exitCode
}{
	{usbtransport.ErrRemoved, exitRemoved},
	{usbtransport.ErrBusy, exitNoAccess},
	{usbtransport.ErrPermission, exitNoAccess},
	{context.Canceled, exitInterrupted},
	{context.DeadlineExceeded, exitTimedOut},
	{host.ErrNoReader, exitNoReader},
	{host.ErrNoCard, exitNoCard},
}

// report writes an error and the advice that goes with it, and returns its exit code.
func report(stderr io.Writer, err error) exitCode {
	if brokenPipe(err) {
		return exitOK
	}
	code := codeOf(err)
	text := err.Error()
	if code == exitInterrupted {
		text = "interrupted"
	}
	for line := range strings.Lines(text) { // errors that were joined
		fmt.Fprintf(stderr, "ccid-probe: %s\n", strings.TrimRight(line, "\n"))
	}
	for _, line := range adviceOn(err) {
		fmt.Fprintf(stderr, "  %s\n", line)
	}
	return code
}

func adviceOn(err error) []string {
	var p *problem
	var s started
	switch {
	case errors.As(err, &p):
		return p.advice
	case !errors.As(err, &s):
		return []string{"Commands and flags are listed by: ccid-probe --help"}
	}
	return nil
}

// brokenPipe reports whether err says that nobody reads our output any more. That is the reader's right, no failure of ours.
func brokenPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}
