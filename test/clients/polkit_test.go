//go:build linux

package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// busConfig is a bus on which anybody may do anything.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy>
</busconfig>`

// polkitRules let one user use the service but no card, and another both.
const polkitRules = `polkit.addRule(function(action, subject) {
	if (subject.user == "games" && action.id == "org.debian.pcsc-lite.access_pcsc" ||
	    subject.user == "daemon" && action.id.indexOf("org.debian.pcsc-lite.") == 0)
		return polkit.Result.YES;
});`

// TestPolkitDecides has the real polkit decide, with our actions and an administrator's rules.
func TestPolkitDecides(t *testing.T) {
	need(t, "polkitd", "/usr/lib/polkit-1/polkitd")
	need(t, "dbus-daemon", "dbus-daemon")
	need(t, "util-linux", "setpriv")
	if os.Geteuid() != 0 {
		t.Skip("only root can be other users, and give polkit folders of its own")
	}
	dir := openFolder(t)
	bus := startPolkit(t, dir)
	socket := filepath.Join(dir, "pcscd.comm")
	d := launch(t, dir, socket, "/usr/bin/env", "DBUS_SYSTEM_BUS_ADDRESS="+bus,
		filepath.Join(bin, "goccidd"), "--foreground", "--socket", socket, "--usb", "none", "--virtual", "reader=gemalto-pc-twin,card=t1")

	script, err := filepath.Abs("programs/access.py")
	require.NoError(t, err)
	const granted, refused = "00000000", "8010006A" // SCARD_W_SECURITY_VIOLATION
	for user, want := range map[string][]string{
		"root": {granted, granted}, "daemon": {granted, granted}, "games": {granted, refused}, "nobody": {refused},
	} {
		t.Run(user, func(t *testing.T) {
			program, err := os.ReadFile(script)
			require.NoError(t, err)
			assert.Equal(t, want, strings.Fields(d.run(t, "setpriv", "--reuid", user, "--clear-groups", "/usr/bin/python3", "-c", string(program))))
		})
	}
	for _, refusal := range []string{"client refused", "card access refused"} {
		assert.Eventually(t, func() bool { return strings.Count(d.log.String(), refusal) == 1 }, patience, tick, "%s in %s", refusal, d.log)
	}
}

// openFolder is a temporary folder that every user may look into.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "goccid-polkit-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// startPolkit starts a bus and polkit on it, and returns the bus' address.
func startPolkit(t *testing.T, dir string) string {
	t.Helper()
	actions, rules, socket := filepath.Join(dir, "actions"), filepath.Join(dir, "rules"), filepath.Join(dir, "bus")
	policy, err := os.ReadFile("../../packaging/org.goccid.policy")
	require.NoError(t, err)
	for file, content := range map[string]string{
		filepath.Join(actions, "org.goccid.policy"): string(policy),
		filepath.Join(rules, "10-test.rules"):       polkitRules,
		filepath.Join(dir, "bus.conf"):              strings.ReplaceAll(busConfig, "SOCKET", socket),
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
	}
	background(t, "dbus-daemon", "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork")
	address := "unix:path=" + socket
	require.Eventually(t, func() bool { return onBus(address, "org.freedesktop.DBus") }, patience, tick)

	const script = `mount --bind "$1" /usr/share/polkit-1/actions && mount --bind "$2" /etc/polkit-1/rules.d && exec /usr/lib/polkit-1/polkitd --no-debug`
	background(t, "env", "DBUS_SYSTEM_BUS_ADDRESS="+address, "unshare", "--mount", "sh", "-c", script, "sh", actions, rules)
	require.Eventually(t, func() bool { return onBus(address, "org.freedesktop.PolicyKit1") }, patience, tick)
	return address
}

// onBus reports whether somebody has a name on a bus.
func onBus(address, name string) bool {
	conn, err := dbus.Connect(address)
	if err != nil {
		return false
	}
	defer conn.Close()
	var has bool
	return conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has) == nil && has
}

// background runs a program until the test ends.
func background(t *testing.T, name string, args ...string) {
	t.Helper()
	printed := &output{}
	command := exec.Command(name, args...)
	command.Stdout, command.Stderr = printed, printed
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // killed
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, printed)
		}
	})
}
