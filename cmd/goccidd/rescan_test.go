//go:build unix

package main

import (
	"bufio"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHotplugSignalsNobodyElse(t *testing.T) {
	h := newHome(t)
	other := exec.Command("sleep", "300")
	require.NoError(t, other.Start())
	died := make(chan error, 1)
	go func() { died <- other.Wait() }()
	defer func() {
		_ = other.Process.Kill()
		<-died
	}()
	// A daemon that was killed leaves its file, and its number is given to somebody.
	h.file(t, "pcscd.pid", strconv.Itoa(other.Process.Pid)+"\n")
	code, _, stderr := call(t, nil, "--hotplug", "--socket", h.socket())
	require.Equal(t, exitFailure, code)
	require.Contains(t, stderr, "no goccidd runs")
	select {
	case err := <-died:
		require.FailNow(t, "it was signalled", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestQuitAtTheBenchIsRefused(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard, "--virtual-control", h.path("bench"))
	h.bench(t, "@gempc unplug")
	conn, err := net.Dial("unix", h.path("bench"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("quit\nlist\n"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	answers := bufio.NewScanner(conn)
	require.True(t, answers.Scan())
	require.Contains(t, answers.Text(), "error quit is no command here")
	require.True(t, answers.Scan(), "it answers on")
	d.stop(t)
}
