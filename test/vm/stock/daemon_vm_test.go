//go:build linux

package stock

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/test/vm/figures"
	"github.com/goccid/goccid/test/vm/vmtest"
)

// daemonRemovals is how often goccidd has the reader pulled out with each backend. The driver's 200 times are in package removal.
const daemonRemovals = 10

// readerName is that of QEMU's reader, which has the numbers of a GemPC433, in pcscd and so in goccidd.
const readerName = "Gemalto Gemplus USB SmartCard Reader 433-Swap"

// TestVMDaemon has the stock tools use goccidd, and plugs and unplugs the reader under a client that waits for it and works with it. The log
// has one line about each removal, and nothing above info.
func TestVMDaemon(t *testing.T) {
	for backend, variable := range map[string]string{"usbfs": "GOCCID_VM_GOCCIDD", "libusb": "GOCCID_VM_GOCCIDD_LIBUSB"} {
		t.Run(backend, func(t *testing.T) {
			vmtest.Require(t)
			program := os.Getenv(variable)
			require.NotEmpty(t, program, "%s isn't set", variable)
			random := rand.New(rand.NewPCG(vmtest.Seed(t), 0))
			s := &stack{
				kernel: vmtest.OpenKernelLog(t), told: vmtest.OpenKernelEvents(t), log: filepath.Join(t.TempDir(), "goccidd.log"),
				daemon: []string{program, "--foreground", "--usb", backend, "--socket", "/run/goccidd-" + backend + ".comm"},
				socket: "/run/goccidd-" + backend + ".comm",
			}
			t.Cleanup(func() {
				if text, err := os.ReadFile(s.log); err == nil && t.Failed() {
					t.Logf("goccidd's log:\n%s", text)
				}
			})
			s.start(t)
			_, err := s.await("works")
			require.NoError(t, err)
			useTools(t, s.socket)
			vmtest.Unplug(t)
			_, err = s.await("gone")
			require.NoError(t, err)
			s.Silent = 0 // that the client failed was the removal

			for range daemonRemovals {
				require.NoError(t, s.cycle(t, time.Duration(random.Int64N(int64(longestWork)))))
			}
			s.end()
			t.Logf("plugged in to listed: median %s; pulled out to the call's end: median %s, most %s; to gone: median %s, most %s",
				figures.Quantile(s.Listed, 0.5), figures.Quantile(s.Ended, 0.5), figures.Quantile(s.Ended, 1),
				figures.Quantile(s.Gone, 0.5), figures.Quantile(s.Gone, 1))
			t.Logf("the client's calls ended with: %v; the card did not answer %d times", s.codes, s.Silent)
			text, err := os.ReadFile(s.log)
			require.NoError(t, err)
			lines := strings.Split(string(text), "\n")
			loud := slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
				return !strings.Contains(line, "level=warn") && !strings.Contains(line, "level=error") && !strings.Contains(line, "level=fatal")
			})
			assert.Empty(t, loud, "lines above info")
			assert.Equal(t, 1+daemonRemovals, strings.Count(string(text), "reader removed"))
		})
	}
}

// useTools has the stock tools list the reader, read the ATR and send an APDU.
func useTools(t *testing.T, socket string) {
	t.Helper()
	run := func(program string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), watchdog)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(os.Environ(), socketVariable+"="+socket)
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", cmd, said)
		return string(said)
	}
	assert.Contains(t, run("opensc-tool", "-l"), readerName)
	assert.Contains(t, run("opensc-tool", "-c", "default", "-a"), strings.ToLower(strings.ReplaceAll(vmtest.ATR, " ", ":")))
	assert.Contains(t, run("opensc-tool", "-c", "default", "-s", "00:A4:04:00:07:A0:00:00:00:79:01:00"), "SW1=0x90, SW2=0x00", "OpenSC asks for the rest itself")
	scanned := run("pcsc_scan", "-n", "-t", "1")
	assert.Contains(t, scanned, readerName)
	assert.Contains(t, scanned, vmtest.ATR)
}
