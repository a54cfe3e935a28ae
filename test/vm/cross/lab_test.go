//go:build linux

package cross

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/virtual"
)

// watchdog bounds the waits for what other programs and the kernel do.
const watchdog = 30 * time.Second

// exported is a virtual reader that the guest's kernel has imported.
type exported struct {
	*virtual.Station
	info usbtransport.DeviceInfo
	// recording is what the reader and its host say to each other, as pcapng.
	recording *bytes.Buffer
	// name is the reader's USB device in the kernel, "3-1".
	name string
}

// requireVM prepares the guest: nothing but virtual readers is plugged in.
func requireVM(t *testing.T) {
	t.Helper()
	vmtest.Require(t)
	vmtest.Unplug(t)
}

// plugIn makes the reader of a spec, exports it, and has the kernel attach it. The end of the test pulls it out.
func plugIn(t *testing.T, text string) *exported {
	t.Helper()
	spec, err := virtual.ParseSpec(text)
	require.NoError(t, err)
	e := &exported{recording: &bytes.Buffer{}}
	e.Station, err = spec.Start(t.Context())
	require.NoError(t, err)
	bus := virtual.NewBus()
	e.info, err = bus.Plug(e.Station)
	require.NoError(t, err)
	recorder, err := capture.NewRecorder(bus, e.recording, capture.Options{})
	require.NoError(t, err)

	t.Cleanup(func() {
		assert.NoError(t, recorder.Err())
		bus.Unplug(e.Station)
		assert.NoError(t, e.Station.Close())
		assert.NoError(t, bus.Close())
		vmtest.AwaitNoImport(t)
	})
	vmtest.Export(t, recorder)
	e.name = vmtest.Import(t, e.info.PortPath)
	return e
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(watchdog); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", watchdog, what)
		}
	}
}

// succeed runs a program, which must succeed, and returns what it prints.
func succeed(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	said, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", program, strings.Join(args, " "), said)
	return string(said)
}

// startDaemon runs the stock daemon until the test ends, or end is called. Failed tests show what it logged.
func startDaemon(t *testing.T) (end func()) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "pcscd.log")
	end = vmtest.StartProcess(t, log, "pcscd", "--config", os.DevNull, "--foreground")
	t.Cleanup(func() {
		end()
		if text, err := os.ReadFile(log); err == nil && len(text) > 0 {
			t.Logf("pcscd's log:\n%s", lastLines(string(text), 30))
		}
	})
	await(t, "pcscd's socket", func() bool {
		_, err := os.Stat("/run/pcscd/pcscd.comm")
		return err == nil
	})
	return end
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// failure is what a client of pcscd was told.
type failure struct{ call, code string }

func (f *failure) Error() string { return fmt.Sprintf("%s: %s", f.call, f.code) }

// exchanges are what the reader has recorded.
func (e *exported) exchanges(t *testing.T) []exchange {
	t.Helper()
	list, err := exchanges(e.recording.Bytes())
	require.NoError(t, err)
	return list
}

// channelName is the reader's name for an IFD handler.
func (e *exported) channelName() string {
	return fmt.Sprintf("usb:%04x/%04x", e.info.IDVendor, e.info.IDProduct)
}

// tracesVariable names the folder for recordings that are to be kept; the command "record" sets it.
const tracesVariable = "GOCCID_VM_TRACES"

// keepTrace puts a recording there.
func keepTrace(t *testing.T, name string, recording []byte) {
	t.Helper()
	if folder := os.Getenv(tracesVariable); folder != "" {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name+".pcapng"), recording, 0o644))
	}
}
