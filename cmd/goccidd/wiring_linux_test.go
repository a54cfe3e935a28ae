package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// openAs opens a context as another user, for which a test has to be root's.
func (h *home) openAs(t *testing.T, uid int) error {
	t.Helper()
	require.NoError(t, os.Chmod(h.dir, 0o755))
	result := make(chan error)
	go func() {
		// Of this thread alone, which ends with the goroutine: package syscall would change all.
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETREUID, uintptr(uid), uintptr(uid), 0); errno != 0 {
			result <- errno
			return
		}
		c, err := pcsctest.Open(h.socket(), wire.Minor5)
		if err == nil {
			err = c.Close()
		}
		result <- err
	}()
	return <-result
}

func TestReloadExchangesTheAccessRules(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	h := newHome(t)
	config := h.file(t, "goccidd.toml", "[access]\nusers = [\"4711\"]\n")
	d := h.start(t, "--config", config)
	require.NoError(t, h.openAs(t, 4711))
	require.ErrorIs(t, h.openAs(t, 4712), wire.ErrSecurityViolation)
	h.file(t, "goccidd.toml", "[access]\nusers = [\"4712\"]\n")
	h.reload(t, d)
	require.ErrorIs(t, h.openAs(t, 4711), wire.ErrSecurityViolation)
	require.NoError(t, h.openAs(t, 4712))
}

func TestUsersOtherThanRootAskNoMoreThanIsSet(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	h := newHome(t)
	config := h.file(t, "goccidd.toml", "[limits]\nrequests-per-second = 10\n")
	d := h.start(t, "--config", config)
	ask := func(uid int) {
		for range 10 { // with two requests each
			require.NoError(t, h.openAs(t, uid))
		}
	}
	ask(0)
	require.NotContains(t, d.stderr.String(), "level=warning")
	ask(4711)
	d.stderr.waitFor(t, "too many requests a second: client has to wait")
}

func TestTheSandboxTakesWhatTheKernelLets(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "-d")
	d.stderr.waitFor(t, "sandbox: ") // it may be ready before we have read that
	if strings.Contains(d.stderr.String(), "sandbox: Landlock ") {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
		require.NoError(t, err)
		require.Contains(t, string(status), "NoNewPrivs:\t1\n")
	}
	h = newHome(t)
	d = h.start(t, "-d", "--disable-sandbox")
	require.NotContains(t, d.stderr.String(), "sandbox: ")
}
