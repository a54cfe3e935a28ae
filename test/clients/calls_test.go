//go:build linux

package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/wire"
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

// call is a line that the C program prints: what was called, and what came of it.
type call struct{ name, result string }

// parseCall takes a line apart, "017 SCardReleaseContext twice: 80100003". The code gets its name.
func parseCall(t *testing.T, line string) call {
	t.Helper()
	_, rest, _ := strings.Cut(line, " ")
	name, result, ok := strings.Cut(rest, ": ")
	require.True(t, ok, line)
	number, more, _ := strings.Cut(result, " ")
	code, err := strconv.ParseUint(number, 16, 32)
	require.NoError(t, err, line)
	return call{name, strings.TrimSpace(wire.Code(code).String() + " " + more)}
}

// difference is a call that pcscd and goccidd answer differently, and what each says.
type difference struct{ name, pcscd, goccidd string }

// differences are those between two runs. A call that is made several times is in it for each different answer.
func differences(t *testing.T, reference, ours []string) (all []difference) {
	t.Helper()
	for i, line := range reference {
		theirs, own := parseCall(t, line), parseCall(t, ours[i])
		require.Equal(t, theirs.name, own.name, "both make the same calls")
		d := difference{theirs.name, theirs.result, own.result}
		if theirs.result != own.result && !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	return all
}

// statedDifference is a row of the table in docs/parity.md: | `call`: `pcscd's result` | `goccidd's result`: why | test |
var statedDifference = regexp.MustCompile("(?m)^\\| `(SCard[^`]+)`: `([^`]+)` \\| `([^`]+)`: [^|]+ \\|")

// statedDifferences are those that docs/parity.md gives reasons for.
func statedDifferences(t *testing.T) (all []difference) {
	t.Helper()
	text, err := os.ReadFile("../../docs/parity.md")
	require.NoError(t, err)
	for _, m := range statedDifference.FindAllStringSubmatch(string(text), -1) {
		all = append(all, difference{m[1], m[2], m[3]})
	}
	return all
}

// TestEveryCallBesidesPcscd makes the same calls, with right and wrong arguments, to Debian's pcscd with the vpcd driver
// and to goccidd with a virtual reader, both with the same card. The calls that differ, and how, are exactly those that
// docs/parity.md states. They are printed side by side: make test shows the lines that begin with "|".
func TestEveryCallBesidesPcscd(t *testing.T) {
	program := compile(t, "calls.c")
	// T=1, direct convention, no more: what both sides make of it is the same.
	atr := []byte{0x3B, 0x80, 0x01, 0x81}
	reference := calls(t, referenceWithCard(t, card.NewISO(), atr), program)
	ours := calls(t, goccidd(t, "--virtual", "reader=gemalto-pc-twin,card=t1"), program)
	require.GreaterOrEqual(t, len(ours), 150)
	require.Len(t, ours, len(reference), "both runs come to the end")
	for i, line := range reference {
		t.Logf("%-90s | %s", line, ours[i])
	}
	found := differences(t, reference, ours)
	fmt.Printf("| %d calls, %d answered differently | pcscd | goccidd |\n|---|---|---|\n", len(ours), len(found))
	for _, d := range found {
		fmt.Printf("| %s | %s | %s |\n", d.name, d.pcscd, d.goccidd)
	}
	assert.ElementsMatch(t, statedDifferences(t), found, "stated in docs/parity.md (A), found (B)")
}

// TestCallsAreComparedByWhatTheyReturn: a call counts as the same only with the same code and outputs.
func TestCallsAreComparedByWhatTheyReturn(t *testing.T) {
	reference := []string{"001 SCardX: 00000000", "002 SCardX a: 8010000F handle 0", "003 SCardY: 00000000 some", "004 SCardY: 00000000 some"}
	ours := []string{"001 SCardX: 00000000", "002 SCardX a: 80100016 handle 0", "003 SCardY: 00000000 none", "004 SCardY: 00000000 none"}
	assert.Empty(t, differences(t, reference, reference))
	assert.Equal(t, []difference{
		{"SCardX a", "SCARD_E_PROTO_MISMATCH handle 0", "SCARD_E_NOT_TRANSACTED handle 0"},
		{"SCardY", "SCARD_S_SUCCESS some", "SCARD_S_SUCCESS none"},
	}, differences(t, reference, ours))
}
