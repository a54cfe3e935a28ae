//go:build linux

package clients

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// runVICC starts the vicc script. Debian's Python has what it imports as Crypto under the name Cryptodome.
const runVICC = `
import runpy, sys
try:
    import Crypto
except ImportError:
    import Cryptodome
    sys.modules["Crypto"] = Cryptodome
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
`

// TestForeignCard has OpenSC use a card that we did not write, the vsmartcard project's, in a virtual reader.
func TestForeignCard(t *testing.T) {
	const vicc = "/usr/bin/vicc"
	need(t, "vsmartcard-vpicc", vicc)
	need(t, "python3-pycryptodome", "/usr/lib/python3/dist-packages/Cryptodome")
	need(t, "opensc", "opensc-tool")
	port := freePort(t)
	d := goccidd(t, "--virtual", "reader=scr3310,card=vpcd-listen:"+port)
	card := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", runVICC, vicc, "--type", "iso7816", "--hostname", "127.0.0.1", "--port", port)
	card.Env = append(os.Environ(), "PYTHONPATH=/usr/lib/python3/site-packages/virtualsmartcard:/usr/lib/python3/site-packages")
	printed := &output{}
	card.Stdout, card.Stderr = printed, printed
	require.NoError(t, card.Start())
	t.Cleanup(func() {
		_ = card.Process.Kill()
		_ = card.Wait() // killed
		if t.Failed() {
			t.Logf("vicc printed:\n%s", printed)
		}
	})
	// It prints no ATR after a wait, with any resource manager; so wait first.
	d.run(t, "opensc-tool", "--wait", "--name")
	assert.Contains(t, d.run(t, "opensc-tool", "--atr"), "3b:")
	assert.Contains(t, d.run(t, "opensc-tool", "--send-apdu", "00A4000C023F00"), "SW1=0x90, SW2=0x00")
}
