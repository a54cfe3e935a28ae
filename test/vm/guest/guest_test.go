// Package guest holds the tests that run programs inside the VM: ccid-probe on both USB backends and, next to it, the
// stock driver, on the same reader.
package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/test/vm/vmtest"
)

// programDeadline ends a program that hangs; under emulation they take a second or so.
const programDeadline = 60 * time.Second

// ccid-probe's exit codes.
const (
	exitNoReader = 3
	exitNoCard   = 4
	exitRemoved  = 6
	exitTimedOut = 8
)

// maxSilent is how often in a row the emulated card may leave a command without an answer, as it does now and then, before the
// driver is blamed.
const maxSilent = 3

// probe is one build of ccid-probe with the USB backend it is to use.
type probe struct {
	program, backend string
}

// onBothBackends runs a test once with each backend. The build without cgo has only the one.
func onBothBackends(t *testing.T, test func(*testing.T, probe)) {
	builds := []struct{ variable, backend string }{
		{"GOCCID_VM_CCID_PROBE", "usbfs"},
		{"GOCCID_VM_CCID_PROBE_LIBUSB", "libusb"},
	}
	vmtest.Require(t)
	for _, build := range builds {
		t.Run(build.backend, func(t *testing.T) {
			vmtest.Require(t)
			program := os.Getenv(build.variable)
			require.NotEmpty(t, program, "%s isn't set", build.variable)
			test(t, probe{program: program, backend: build.backend})
		})
	}
}

// command is ccid-probe with the backend's flag and JSON output.
func (p probe) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, p.program, append([]string{"--json", "--usb", p.backend}, args...)...)
}

// result is what became of a program.
type result struct {
	stdout, stderr string
	code           int
}

// run runs the probe; again, where the card did not answer.
func (p probe) run(t *testing.T, args ...string) result {
	t.Helper()
	for tries := 0; ; tries++ {
		ctx, cancel := context.WithTimeout(t.Context(), programDeadline)
		r := run(t, p.command(ctx, args...))
		cancel()
		if r.code != exitTimedOut || tries == maxSilent {
			return r
		}
		t.Logf("the emulated card did not answer: %s", r.stderr)
	}
}

func run(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd, err)
	}
	return result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

// succeed runs the probe, which must end with status 0 and without a word on standard error, and decodes its output.
func (p probe) succeed(t *testing.T, v any, args ...string) {
	t.Helper()
	r := p.run(t, args...)
	require.Zero(t, r.code, "%v: %s%s", args, r.stdout, r.stderr)
	require.Empty(t, r.stderr, "%v", args)
	require.NoError(t, json.Unmarshal([]byte(r.stdout), v), "%v: %s", args, r.stdout)
}

// exchange is one line of `apdu --json`.
type exchange struct {
	Command  string `json:"command"`
	Response string `json:"response"`
	SW       string `json:"sw"`
}

// apdu sends APDUs, all of which must be answered.
func (p probe) apdu(t *testing.T, commands ...string) []exchange {
	t.Helper()
	return p.apduWith(t, nil, commands...)
}

// apduWith is apdu with flags.
func (p probe) apduWith(t *testing.T, flags []string, commands ...string) []exchange {
	t.Helper()
	r := p.run(t, slices.Concat(flags, []string{"apdu", "--reader", "0"}, commands)...)
	require.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	require.Empty(t, r.stderr)
	var list []exchange
	for line := range strings.Lines(r.stdout) {
		var e exchange
		require.NoError(t, json.Unmarshal([]byte(line), &e), "%s", line)
		list = append(list, e)
	}
	require.Len(t, list, len(commands))
	return list
}

// compact is vmtest.ATR as programs write it.
func compact(hex string) string { return strings.ReplaceAll(hex, " ", "") }
