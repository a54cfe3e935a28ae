//go:build linux

package clients

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestManyClients has 300 clients hold a connection, a context and a handle at the same time, again and again. The reference
// stops at 200 connections.
func TestManyClients(t *testing.T) {
	program := compile(t, "many.c")
	d := goccidd(t, "--virtual", usual)
	var sizes []int
	for range 4 {
		assert.Contains(t, d.run(t, program, "300"), "300 of 300 clients")
		sizes = append(sizes, d.resident(t))
	}
	t.Logf("resident memory of goccidd after each round of 300 clients: %v KiB", sizes)
	assert.Less(t, sizes[3], sizes[1]+sizes[1]/2, "memory stays flat")
}

// resident returns the daemon's resident memory in KiB.
func (d *daemon) resident(t *testing.T) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	require.NoError(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "VmRSS:") {
			var kib int
			_, err := fmt.Sscanf(s.Text(), "VmRSS: %d kB", &kib)
			require.NoError(t, err)
			return kib
		}
	}
	require.Fail(t, "no VmRSS")
	return 0
}
