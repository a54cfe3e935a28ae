//go:build linux

package removal

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/test/vm/hotplug"
	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/libusb"
	"github.com/goccid/goccid/usbtransport/usbfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watchdog ends whatever hangs. The driver's own deadlines for a card that doesn't answer are some seconds.
const watchdog = 30 * time.Second

// onBothBackends runs a test once with each backend, which must leave no goroutine.
func onBothBackends(t *testing.T, test func(*testing.T, *driver)) {
	vmtest.Require(t)
	backends := []struct {
		name string
		make func(*testing.T, logrus.FieldLogger) usbtransport.Backend
	}{
		{"usbfs", func(_ *testing.T, log logrus.FieldLogger) usbtransport.Backend {
			return usbfs.New(usbfs.Options{Logger: log})
		}},
		{"libusb", func(t *testing.T, log logrus.FieldLogger) usbtransport.Backend {
			backend, err := libusb.New(libusb.Options{Logger: log})
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, backend.Close()) })
			return backend
		}},
	}
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			vmtest.Require(t)
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
			log := newLogbook()
			test(t, startDriver(t, b.make(t, log.logger), log))
		})
	}
}

// logbook keeps what the driver logs, with the frames.
type logbook struct {
	logger *logrus.Logger

	mu    sync.Mutex
	loud  []string // above debug, since the last take
	quiet []string // the last ones at debug and trace
}

// quietLines hold what happens in the time between two looks at them.
const quietLines = 1000

func newLogbook() *logbook {
	l := &logbook{logger: logrus.New()}
	l.logger.SetLevel(logrus.TraceLevel)
	l.logger.SetOutput(io.Discard)
	l.logger.AddHook(l)
	return l
}

// Levels and Fire take every line.
func (l *logbook) Levels() []logrus.Level { return logrus.AllLevels }

func (l *logbook) Fire(e *logrus.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Level >= logrus.DebugLevel {
		l.quiet = append(l.quiet, e.Message)
		if len(l.quiet) > quietLines {
			l.quiet = l.quiet[1:]
		}
		return nil
	}
	l.loud = append(l.loud, fmt.Sprintf("level=%v msg=%q %v", e.Level, e.Message, e.Data))
	return nil
}

// take returns the lines above debug since the last call, and those at debug and below.
func (l *logbook) take() (loud, quiet []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	loud, quiet = l.loud, l.quiet
	l.loud, l.quiet = nil, nil
	return loud, quiet
}

// failureLines is how many of the quiet lines a failed test shows.
const failureLines = 40

// driver is the stack under test: a Monitor, as a service would have it.
type driver struct {
	backend usbtransport.Backend
	monitor *host.Monitor
	log     *logbook
	// silent counts how often the emulated card did not answer, and the driver got over it.
	silent int
}

func startDriver(t *testing.T, backend usbtransport.Backend, log *logbook) *driver {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	monitor, err := host.NewMonitor(ctx, backend, host.Options{Logger: log.logger})
	require.NoError(t, err)
	d := &driver{backend: backend, monitor: monitor, log: log}
	t.Cleanup(func() {
		assert.NoError(t, monitor.Close())
		if t.Failed() {
			_, quiet := log.take()
			t.Logf("the last lines at levels debug and trace:\n%s", strings.Join(quiet[max(0, len(quiet)-failureLines):], "\n"))
		}
		if d.silent > 0 {
			t.Logf("the emulated card did not answer %d times; the driver got over it", d.silent)
		}
	})
	return d
}

// next returns the Monitor's next event, which must be of a kind.
func (d *driver) next(t *testing.T, kind host.EventKind) *host.Reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	e, err := d.monitor.Next(ctx)
	require.NoError(t, err, "waiting for a reader that has %v", kind)
	require.Equal(t, kind, e.Kind, "%v", e.Err)
	return e.Reader
}

// APDUs for the emulated CAC card (GSC-IS 2.1 §5).
var (
	selectCAC       = mustHex("00A4040007A0000000790100")
	selected        = mustHex("610D")
	readCertificate = mustHex("005200020202C800") // 200 bytes in four packets, once the CAC is selected
)

func mustHex(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// maxSilent is how often in a row the card may fail to answer before the driver is blamed.
const maxSilent = 3

// connect waits for the card, which comes after its reader, and activates it.
func (d *driver) connect(t *testing.T, slot *host.Slot) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	for tries := 0; ; {
		state := slot.State()
		answer, err := slot.Connect(ctx)
		switch {
		case errors.Is(err, host.ErrNoCard):
			_, err = slot.WaitChange(ctx, state)
			require.NoError(t, err)
		case unanswered(err) && tries < maxSilent:
			tries++
			d.silent++
		default:
			require.NoError(t, err)
			require.Equal(t, mustHex(vmtest.ATR), answer)
			return
		}
	}
}

// unanswered reports whether it was the card, or the reader, that gave no answer: QEMU's sometimes don't.
func unanswered(err error) bool {
	var silence *host.NoAnswerError
	return errors.As(err, &silence)
}

// use exchanges one APDU, after which the reader has shown to work.
func (d *driver) use(t *testing.T, slot *host.Slot) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	for tries := 0; ; tries++ {
		response, err := slot.Transmit(ctx, selectCAC)
		if unanswered(err) && tries < maxSilent {
			d.silent++
			d.connect(t, slot)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, selected, response)
		return
	}
}

// arrive waits for a reader to be there and to work.
func (d *driver) arrive(t *testing.T) *host.Reader {
	t.Helper()
	r := d.next(t, host.ReaderArrived)
	d.connect(t, r.Slot(0))
	d.use(t, r.Slot(0))
	return r
}

// requireOneRemoval checks that what the driver has logged above debug is one line about one removal.
func requireOneRemoval(t *testing.T, lines []string, r *host.Reader) {
	t.Helper()
	require.Len(t, lines, 1, "log lines above debug")
	require.Contains(t, lines[0], "level=info")
	require.Contains(t, lines[0], `msg="reader removed"`)
	require.Contains(t, lines[0], "port:"+r.Device().Info().PortPath)
	require.Contains(t, lines[0], r.Name())
}

// outcome is how a client's last call ended.
type outcome struct {
	call string
	err  error
	at   time.Duration
}

// clients are several that use one reader until it is removed.
type clients struct {
	wait     sync.WaitGroup
	outcomes chan outcome

	mu     sync.Mutex
	silent int     // calls that the card didn't answer
	before []error // what else clients were told before the removal
}

// startClients lets two clients exchange APDUs and one wait for the card to be taken out, until the reader is removed or
// ctx ends.
func startClients(ctx context.Context, t *testing.T, slot *host.Slot) *clients {
	c := &clients{outcomes: make(chan outcome, 3)}
	run := func(call string, f func(context.Context, *host.Slot) error) {
		c.wait.Go(func() {
			err := f(ctx, slot)
			c.outcomes <- outcome{call, err, vmtest.Now(t)}
		})
	}
	run("transmit", c.transmit)
	run("transmit", c.transmit)
	run("wait for change", c.waitChange)
	return c
}

func (c *clients) waitChange(ctx context.Context, slot *host.Slot) error {
	for {
		state, err := slot.WaitChange(ctx, slot.State())
		if err != nil {
			return err
		}
		c.note(fmt.Errorf("the card's state changed to %+v", state))
	}
}

func (c *clients) transmit(ctx context.Context, slot *host.Slot) error {
	for {
		for _, command := range [][]byte{selectCAC, readCertificate} {
			response, err := slot.Transmit(ctx, command)
			if errors.Is(err, usbtransport.ErrRemoved) || ctx.Err() != nil {
				return err
			}
			if err == nil && !rightAnswer(command, response) {
				err = fmt.Errorf("wrong answer % X", response)
			}
			if err == nil {
				continue
			}
			c.note(err)
			if _, err := slot.Connect(ctx); errors.Is(err, usbtransport.ErrRemoved) {
				return err
			}
		}
	}
}

func rightAnswer(command, response []byte) bool {
	if command[1] == selectCAC[1] {
		return bytes.Equal(response, selected)
	}
	return len(response) == 202 && bytes.HasSuffix(response, []byte{0x90, 0x00})
}

func (c *clients) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if unanswered(err) {
		c.silent++
	} else {
		c.before = append(c.before, err)
	}
}

// end returns how all the clients ended; ctx must end them at the latest.
func (c *clients) end() []outcome {
	c.wait.Wait()
	close(c.outcomes)
	var all []outcome
	for o := range c.outcomes {
		all = append(all, o)
	}
	return all
}

// noCardFrame matches what the log has of a message in which the reader itself says that there is no card: bmICCStatus
// 2 (CCID 1.1 §6.2.6) or a slot change (§6.3.1).
var noCardFrame = regexp.MustCompile(`^< (interrupt: 50 02|[^:]+: ([0-9A-F]{2} ){7}[04]2)`)

// readerSaidNoCard reports whether the reader said that its card is out. QEMU's does so now and then in its last moments
// on the bus, since QEMU takes the card apart first: then it is no invention of the driver.
func readerSaidNoCard(lines []string) bool {
	return slices.ContainsFunc(lines, noCardFrame.MatchString)
}

func ask(t *testing.T, action hotplug.Action) {
	t.Helper()
	require.NoError(t, vmtest.Ask(hotplug.Request{Action: action, Port: 1}))
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
