package pcscd

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/pcscd/wire"
)

func TestUserPolicyKnowsSupplementaryGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to start a process of another user")
	}
	const user, group, extra = 65534, 65533, 65532
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: group, Groups: []uint32{extra}}}
	require.NoError(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	c := Client{PID: int32(cmd.Process.Pid), UID: user, GID: group}
	require.NoError(t, UserPolicy{Groups: []uint32{extra}}.Connection(t.Context(), c))
	require.ErrorIs(t, UserPolicy{Groups: []uint32{extra + 9}}.Connection(t.Context(), c), ErrDenied)
	c.UID = user - 100 // the number is another user's process by now
	require.ErrorIs(t, UserPolicy{Groups: []uint32{extra}}.Connection(t.Context(), c), ErrDenied)
}

func TestStartTimeOfAProcessWithAnOddName(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"
	for stat, want := range map[string]uint64{
		"7 (sleep)" + rest + " 4711 5 6":          4711,
		"7 (a ) 1 2 (b)" + rest + " 4711 5 6":     4711,
		"7 (sleep)" + rest:                        0,
		"":                                        0,
		"7 (sleep)" + rest + " many 5 6":          0,
		strconv.Itoa(os.Getpid()) + " (never end": 0,
	} {
		assert.Equal(t, want, parseStartTime([]byte(stat)), stat)
	}
	assert.NotZero(t, startTime(int32(os.Getpid())))
}

func TestPeer(t *testing.T) {
	s := startServer(t, newFakeResources(), ServerOptions{})
	c := s.open(t, wire.Minor4)
	defer c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Len(t, s.conns, 1)
	for conn := range s.conns {
		self, err := os.Executable()
		require.NoError(t, err)
		want := Client{
			PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Executable: self,
			started: startTime(int32(os.Getpid())),
		}
		assert.Equal(t, want, conn.client)
	}
}
