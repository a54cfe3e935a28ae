//go:build linux

package stock

import (
	"bufio"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/test/vm/figures"
	"github.com/goccid/goccid/test/vm/hotplug"
	"github.com/goccid/goccid/test/vm/vmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

//go:embed client.py
var clientProgram string

const (
	// watchdog is how long the client may need for its next step; libccid waits some seconds for a card.
	watchdog = 30 * time.Second
	// longestWork is how long the client works before the reader is pulled out, at most: some APDUs.
	longestWork = 60 * time.Millisecond
	// budget is the time for all removals. They take 5 minutes on two free cores; each of them is bounded by the watchdog, so
	// that only a stack that is really stuck, or a very busy machine, makes less of them.
	budget = 14 * time.Minute
	// maxRestarts is how often daemon and client are started anew when the client gets nowhere.
	maxRestarts = 5
)

// TestVMStockRemovals does to the stock driver at its default log level what TestVMRemovals does to ours. It passes
// whatever that driver logs: the figures are the result.
func TestVMStockRemovals(t *testing.T) {
	vmtest.Require(t)
	vmtest.StartUdevd(t)
	random := rand.New(rand.NewPCG(vmtest.Seed(t), 0))
	s := &stack{
		kernel: vmtest.OpenKernelLog(t), told: vmtest.OpenKernelEvents(t), log: filepath.Join(t.TempDir(), "pcscd.log"),
		daemon: []string{"pcscd", "--config", os.DevNull, "--foreground"}, socket: "/run/pcscd/pcscd.comm",
	}
	s.Stack, s.Lines = figures.Reference, map[string]int{}
	defer func() { assert.NoError(t, s.Save(figures.Folder)) }()
	vmtest.Unplug(t)
	s.start(t)

	started, restarts := time.Now(), 0
	for s.Removals < figures.Removals {
		if s.Removals%50 == 0 {
			t.Logf("%d removals after %s", s.Removals, time.Since(started).Round(time.Second))
		}
		if time.Since(started) > budget {
			t.Logf("%d removals took %s, there is no time for more", s.Removals, budget)
			break
		}
		if err := s.cycle(t, time.Duration(random.Int64N(int64(longestWork)))); err != nil {
			restarts++
			t.Logf("after %d removals: %v; starting daemon and client anew", s.Removals, err)
			require.LessOrEqual(t, restarts, maxRestarts)
			s.restart(t)
		}
	}
	s.end()
	t.Logf("%d removals took %s", s.Removals, time.Since(started).Round(time.Second))
	t.Logf("the client's calls ended with: %v", s.codes)
	require.NoError(t, s.countLines())
	require.NotEmpty(t, s.Gone)
}

// stack is a daemon with its client.
type stack struct {
	figures.Figures
	kernel *vmtest.KernelLog
	told   *vmtest.KernelEvents
	daemon []string // program and arguments
	socket string   // the daemon's
	log    string   // the daemon's
	events chan event
	end    func()
	codes  map[string]int
}

// event is one line of the client's.
type event struct {
	at         time.Duration
	word, rest string
}

// start starts daemon and client.
func (s *stack) start(t *testing.T) {
	t.Helper()
	endDaemon := vmtest.StartProcess(t, s.log, s.daemon[0], s.daemon[1:]...)
	awaitSocket(t, s.socket)
	client := exec.Command("/usr/bin/python3", "-c", clientProgram)
	client.Env = append(os.Environ(), socketVariable+"="+s.socket)
	client.Stderr = os.Stderr
	output, err := client.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	s.events = make(chan event, 1000)
	if s.codes == nil {
		s.codes = map[string]int{}
	}
	go func() {
		defer close(s.events)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			stamp, rest, _ := strings.Cut(lines.Text(), " ")
			word, rest, _ := strings.Cut(rest, " ")
			at, _ := strconv.ParseInt(stamp, 10, 64)
			s.events <- event{time.Duration(at), word, rest}
		}
	}()
	ended := false
	s.end = func() {
		if ended {
			return
		}
		ended = true
		_ = client.Process.Kill()
		for range s.events {
		}
		_ = client.Wait()
		endDaemon()
	}
	t.Cleanup(s.end)
}

// socketVariable tells libpcsclite where its daemon is.
const socketVariable = "PCSCLITE_CSOCK_NAME"

func awaitSocket(t *testing.T, socket string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := os.Stat(socket)
		return err == nil
	}, watchdog, 10*time.Millisecond)
}

// restart begins anew, with the reader out.
func (s *stack) restart(t *testing.T) {
	t.Helper()
	s.end()
	vmtest.Require(t)
	vmtest.Unplug(t)
	s.start(t)
}

// await waits for a line of the client's. Failures before it are counted: the card didn't answer.
func (s *stack) await(word string) (event, error) {
	timer := time.NewTimer(watchdog)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-s.events:
			switch {
			case !ok:
				return e, fmt.Errorf("the client ended while it should say %q", word)
			case e.word == word:
				return e, nil
			case e.word == "failed":
				s.Silent++
			}
		case <-timer.C:
			return event{}, fmt.Errorf("the client doesn't come to say %q", word)
		}
	}
}

// cycle plugs the reader in, lets the client work for some time, and pulls the reader out.
func (s *stack) cycle(t *testing.T, work time.Duration) error {
	t.Helper()
	s.kernel.Mark(t)
	plugged := vmtest.Now(t)
	require.NoError(t, vmtest.Ask(hotplug.Request{Action: hotplug.Plug, Port: 1}))
	listed, err := s.await("listed")
	if err != nil {
		return err
	}
	answered, err := s.await("atr")
	if err != nil {
		return err
	}
	if _, err := s.await("works"); err != nil {
		return err
	}
	found := s.kernel.Await(t, vmtest.KernelFound)
	time.Sleep(work)

	s.kernel.Mark(t)
	s.told.Skip()
	require.NoError(t, vmtest.Ask(hotplug.Request{Action: hotplug.Unplug}))
	noticed, told := s.kernel.Await(t, vmtest.KernelDisconnect), s.told.Removed(t)
	s.Removals++
	failed, err := s.await("failed")
	if err != nil {
		return err
	}
	gone, err := s.await("gone")
	if err != nil {
		return err
	}
	s.codes[failed.rest]++
	s.Found = append(s.Found, found-plugged)
	s.Listed = append(s.Listed, listed.at-plugged)
	s.ATR = append(s.ATR, answered.at-plugged)
	s.Ended = append(s.Ended, failed.at-noticed)
	s.Gone = append(s.Gone, gone.at-noticed)
	s.Late = append(s.Late, gone.at-told)
	return nil
}

// logLine matches a line of pcscd's log: the microseconds since the last one, the place in the source, the text. By default
// only levels error and critical get there, be it pcscd's own or libccid's.
var (
	logLine = regexp.MustCompile(`^\d{8} (?:\[\d+\] )?(\S+):\d+:(\w+)\(\) (.*)`)
	numbers = regexp.MustCompile(`0x[0-9A-Fa-f]+|\b\d+\b|\b[0-9A-F]{2}( [0-9A-F]{2})+\b`)
)

// countLines counts what pcscd has logged, by text.
func (s *stack) countLines() error {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if match := logLine.FindStringSubmatch(line); match != nil {
			s.Lines[match[2]+": "+numbers.ReplaceAllString(match[3], "…")]++
		} else {
			s.Lines[strings.TrimSpace(line)]++
		}
	}
	return nil
}
