package guest

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/test/vm/vmtest"
)

// TestVMReaderComesAndGoes checks the lab itself: the reader is there, goes and comes back, in another port too.
func TestVMReaderComesAndGoes(t *testing.T) {
	vmtest.Require(t)
	for range 3 {
		vmtest.Unplug(t)
		vmtest.PlugAt(t, 2)
		vmtest.RemoveCard(t)
		vmtest.InsertCard(t)
		vmtest.Unplug(t)
		vmtest.Plug(t)
	}
}

// TestVMStockDriverReadsATR has pcscd and libccid read the ATR, before and after a replug: what fails here is not ours.
func TestVMStockDriverReadsATR(t *testing.T) {
	vmtest.Require(t)
	assert.Equal(t, strings.ToLower(compact(vmtest.ATR)), stockATR(t))
	vmtest.Unplug(t)
	vmtest.Plug(t)
	assert.Equal(t, strings.ToLower(compact(vmtest.ATR)), stockATR(t))
}

// stockATR runs pcscd for as long as a client needs to read the ATR, and returns that in lower-case hexadecimal.
func stockATR(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), programDeadline)
	defer cancel()
	daemon := exec.CommandContext(ctx, "pcscd", "--config", os.DevNull, "--foreground")
	daemon.Stdout, daemon.Stderr = io.Discard, io.Discard
	require.NoError(t, daemon.Start())
	defer func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait()
	}()

	for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		// The reader isn't listed at once, and its card later still.
		r := run(t, exec.CommandContext(ctx, "opensc-tool", "--atr"))
		if lines := strings.Split(strings.TrimSpace(r.stdout), "\n"); r.code == 0 && strings.Contains(lines[len(lines)-1], ":") {
			return strings.ReplaceAll(lines[len(lines)-1], ":", "")
		}
	}
	t.Fatal("pcscd lists no card")
	return ""
}
