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

// compile makes one of the C programs.
func compile(t testing.TB, source string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), strings.TrimSuffix(source, ".c"))
	gcc(t, source, "-o", program, "-lpcsclite", "-lpthread")
	return program
}

func gcc(t testing.TB, source string, args ...string) {
	t.Helper()
	need(t, "gcc", "gcc")
	need(t, "libpcsclite-dev", "/usr/include/PCSC/winscard.h")
	all := append([]string{"-Wall", "-Wextra", "-Werror", "-I/usr/include/PCSC", filepath.Join("programs", source)}, args...)
	printed, err := exec.Command("gcc", all...).CombinedOutput()
	require.NoError(t, err, "%s", printed)
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
	reference := calls(t, referenceWithCard(t, card.NewISO(), atr), program)
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
