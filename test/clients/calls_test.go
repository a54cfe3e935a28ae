//go:build linux

package clients

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/virtual/card"
)

// compile makes the C program that calls everything.
func compile(t *testing.T, source string) string {
	t.Helper()
	need(t, "gcc", "gcc")
	need(t, "libpcsclite-dev", "/usr/include/PCSC/winscard.h")
	program := filepath.Join(t.TempDir(), strings.TrimSuffix(source, ".c"))
	printed, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-I/usr/include/PCSC", "-o", program, filepath.Join("programs", source),
		"-lpcsclite", "-lpthread").CombinedOutput()
	require.NoError(t, err, "%s", printed)
	return program
}

// calls runs the C program and returns its lines.
func calls(t *testing.T, d *daemon, program string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	c := d.client(ctx, program)
	// Calls that find the reader taken come back then; otherwise the library asks again for ever.
	c.Env = append(c.Env, "PCSCLITE_NO_BLOCKING=1")
	printed, err := c.Output()
	require.NoError(t, err, "%s", printed)
	return strings.Split(strings.TrimSpace(string(printed)), "\n")
}

// TestEveryCallBesidesPcscd makes the same calls, with right and wrong arguments, to Debian's pcscd with the vpcd driver
// and to goccidd with a virtual reader, both with the same card. Each line that differs has to be explained in
// docs/parity.md.
func TestEveryCallBesidesPcscd(t *testing.T) {
	program := compile(t, "calls.c")
	// T=1, direct convention, no more: what both sides make of it is the same.
	atr := []byte{0x3B, 0x80, 0x01, 0x81}
	reference := calls(t, pcscd(t, card.NewISO(), atr), program)
	ours := calls(t, goccidd(t, "--virtual", "reader=gemalto-pc-twin,card=t1"), program)
	t.Logf("%d calls", len(ours))
	require.GreaterOrEqual(t, len(ours), 150)
	require.Len(t, ours, len(reference), "both runs come to the end")

	reasons, err := os.ReadFile("../../docs/parity.md")
	require.NoError(t, err)
	for i, line := range reference {
		mark := "  "
		if ours[i] != line {
			mark = "! "
			call, _, _ := strings.Cut(line, ":")
			_, call, _ = strings.Cut(call, " ")
			assert.Contains(t, string(reasons), "`"+call+"`", "pcscd: %s\ngoccidd: %s", line, ours[i])
		}
		t.Logf("%s%-90s | %s", mark, line, ours[i])
	}
}
