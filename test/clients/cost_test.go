//go:build linux

package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
)

// instantEnv tells the test binary that it is a resource manager itself, at the socket that it names.
const instantEnv = "GOCCID_TEST_INSTANT"

// instantATR is that of programs/ifd_instant.c.
var instantATR = []byte{0x3B, 0x80, 0x01, 0x81}

// instantDriver has a card that answers every command at once with 9000, as programs/ifd_instant.c has.
type instantDriver struct{ *pcscdtest.Driver }

func (instantDriver) TransmitToICC(context.Context, ifdhandler.Lun, ifdhandler.Protocol, []byte) ([]byte, error) {
	return []byte{0x90, 0x00}, nil
}

// serveInstant is goccidd's resource manager and server over an instantDriver, until SIGTERM. It returns the exit code.
func serveInstant(socket string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	driver := pcscdtest.NewDriver()
	const lun = ifdhandler.Lun(0)
	driver.Open(lun, &pcscdtest.Card{ATR: instantATR})
	manager := pcscd.NewManager(pcscd.Options{Driver: instantDriver{driver}})
	listener, err := net.Listen("unix", socket)
	if err == nil {
		err = manager.AddReader(pcscd.Reader{Name: "Instant 00 00", Lun: lun})
	}
	if err == nil {
		err = pcscd.NewServer(pcscd.ServerOptions{Manager: manager, Crowd: pcscd.LimitProcessors()}).Serve(ctx, listener)
	}
	if err = errors.Join(err, manager.Close(context.Background())); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// instant starts serveInstant in a process of its own.
func instant(t testing.TB) *daemon {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "pcscd.comm")
	return launch(t, dir, socket, "/usr/bin/env", instantEnv+"="+socket, os.Args[0])
}

// instantReference starts Debian's pcscd with programs/ifd_instant.c.
func instantReference(t testing.TB) *daemon {
	t.Helper()
	dir := t.TempDir()
	driver := filepath.Join(dir, "ifd_instant.so")
	gcc(t, "ifd_instant.c", "-shared", "-fPIC", "-o", driver)
	config := filepath.Join(dir, "reader.conf")
	text := fmt.Sprintf("FRIENDLYNAME \"Instant\"\nLIBPATH %s\nCHANNELID 1\n", driver)
	require.NoError(t, os.WriteFile(config, []byte(text), 0o644))
	return reference(t, "--config", config)
}

// measured is what programs/cost.c prints, by key.
type measured map[string]float64

// cost runs programs/cost.c, and adds what it cost the daemon: "cpu", in microseconds for each call of the first step.
func (d *daemon) cost(t testing.TB, program, mode string, clients, milliseconds int) measured {
	t.Helper()
	before := d.cpuTime(t)
	printed := d.run(t, program, mode, strconv.Itoa(clients), strconv.Itoa(milliseconds))
	used := d.cpuTime(t) - before
	m := measured{}
	calls := 0.0
	for line := range strings.Lines(printed) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, err := strconv.ParseFloat(value, 64)
		require.NoError(t, err, "%s", printed)
		m[key] = number
		if calls == 0 && strings.HasSuffix(key, "-calls") {
			calls = number
		}
	}
	require.Positive(t, calls, "%s", printed)
	m["cpu"] = used / calls
	return m
}

// cpuTime is what the daemon has used, in microseconds: utime and stime, the 14th and 15th field of /proc/PID/stat, which count in
// hundredths of a second.
func (d *daemon) cpuTime(t testing.TB) float64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	require.NoError(t, err)
	_, afterName, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(afterName)
	require.Greater(t, len(fields), 12)
	sum := 0.0
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseFloat(f, 64)
		require.NoError(t, err)
		sum += ticks
	}
	return sum * 10_000
}

// memory returns the daemon's resident memory in KiB: all of it, and with what it shares divided among those who do.
func (d *daemon) memory(t testing.TB) (rss, pss float64) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", d.cmd.Process.Pid))
	require.NoError(t, err)
	defer f.Close()
	for line := range lines(f) {
		_, _ = fmt.Sscanf(line, "Rss: %f kB", &rss)
		_, _ = fmt.Sscanf(line, "Pss: %f kB", &pss)
	}
	require.Positive(t, pss)
	return rss, pss
}

// idleClients is how many hold a context while the memory for each is measured; pcscd has room for 200.
const idleClients = 150

// perClient returns how much memory grows for a client that has a context and does nothing.
func (d *daemon) perClient(t testing.TB, program string) measured {
	t.Helper()
	rss, pss := d.memory(t)
	c := d.client(t.Context(), program, "idle", strconv.Itoa(idleClients))
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	_, more := d.memory(t)
	stdin.Close()
	require.NoError(t, c.Wait())
	return measured{"rss": rss / 1024, "pss": pss / 1024, "client": (more - pss) / idleClients}
}

// measure is a run of programs/cost.c, and what of its results goes into the table.
type measure struct {
	name    string
	mode    string
	clients int
	figures []figure
}

// figure is a line of the table.
type figure struct{ key, unit string }

func measures() []measure {
	var list []measure
	for _, n := range []int{1, 2, 4, 16} {
		list = append(list, measure{"Transmit", "transmit", n, []figure{
			{"transmit-median", "µs median"}, {"rate", "calls/s"}, {"cpu", "µs of the daemon's CPU time for each call"},
		}})
	}
	for _, n := range []int{1, 4, 16, 64} {
		list = append(list, measure{"Begin, Transmit, End", "transaction", n, []figure{
			{"transaction-median", "µs median"}, {"rate", "transactions/s"}, {"begin-worst", "µs worst wait for Begin"},
		}})
	}
	return append(list, measure{"Establish to Release", "connect", 1, []figure{
		{"establish-median", "µs Establish"},
		{"connect-median", "µs Connect"},
		{"disconnect-median", "µs Disconnect"},
		{"release-median", "µs Release"},
	}})
}

// memoryMeasure is what perClient returns.
func memoryMeasure() measure {
	return measure{"Memory without readers", "memory", idleClients, []figure{{"rss", "MiB RSS"}, {"pss", "MiB PSS"}, {"client", "KiB PSS for each client"}}}
}

// roundTime is how long each run of programs/cost.c measures, in milliseconds.
const roundTime = 200

// BenchmarkCost compares what calls cost clients and daemons, b.N rounds of all daemons one after the other: Debian's pcscd and our
// resource manager ("manager"), both over a reader that answers at once, and goccidd with a virtual reader, which has the whole
// CCID stack behind it. Metrics, and the table that is printed, are medians of the rounds.
//
//	go test -run '^$' -bench Cost -benchtime 5x ./test/clients
func BenchmarkCost(b *testing.B) {
	program := compile(b, "cost.c")
	names := []string{"pcscd", "manager", "goccidd"}
	table := &costTable{daemons: names}
	b.Run("memory", func(b *testing.B) {
		table.fill(b, memoryMeasure(), func() []measured {
			return []measured{instantReference(b).perClient(b, program), instant(b).perClient(b, program), goccidd(b).perClient(b, program)}
		})
	})
	daemons := []*daemon{instantReference(b), instant(b), goccidd(b, "--virtual", "reader=gemalto-pc-twin,level=extended,card=t1")}
	for _, m := range measures() {
		b.Run(fmt.Sprintf("%s-%d", m.mode, m.clients), func(b *testing.B) {
			table.fill(b, m, func() (round []measured) {
				for _, d := range daemons {
					round = append(round, d.cost(b, program, m.mode, m.clients, roundTime))
				}
				return round
			})
		})
	}
	fmt.Printf("medians of the rounds:\n%s", table) // b.Log says nothing in a benchmark that has others in it
}

// costTable has a line for each figure and a column for each daemon.
type costTable struct {
	daemons []string
	lines   []costLine
}

type costLine struct {
	name    string
	figures []float64
}

// fill makes b.N rounds of a measurement, each of which has a result of every daemon, and reports them.
func (c *costTable) fill(b *testing.B, m measure, round func() []measured) {
	rounds := make([][]measured, b.N)
	b.ResetTimer()
	for i := range rounds {
		rounds[i] = round()
	}
	b.StopTimer()
	var added []costLine
	for _, f := range m.figures {
		line := costLine{name: fmt.Sprintf("%s, %d clients: %s", m.name, m.clients, f.unit)}
		for i, name := range c.daemons {
			var all []float64
			for _, r := range rounds {
				all = append(all, r[i][f.key])
			}
			median := medianOf(all)
			line.figures = append(line.figures, median)
			b.ReportMetric(median, name+"-"+f.key)
		}
		added = append(added, line)
	}
	// The framework runs a benchmark again with a larger b.N; the last run is the one that counts.
	c.lines = slices.DeleteFunc(c.lines, func(l costLine) bool { return strings.HasPrefix(l.name, m.name+", "+strconv.Itoa(m.clients)+" ") })
	c.lines = append(c.lines, added...)
}

func medianOf(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func (c *costTable) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s\t\t\n", strings.Join(c.daemons, "\t"))
	for _, l := range c.lines {
		for _, f := range l.figures {
			fmt.Fprintf(w, "%.5g\t", f)
		}
		fmt.Fprintf(w, "\t%s\n", l.name)
	}
	w.Flush()
	return text.String()
}

// TestCost has the program that measures run for a moment.
func TestCost(t *testing.T) {
	program := compile(t, "cost.c")
	d := instant(t)
	for _, m := range measures() {
		t.Run(fmt.Sprintf("%s-%d", m.mode, m.clients), func(t *testing.T) {
			result := d.cost(t, program, m.mode, m.clients, 20)
			for _, f := range m.figures {
				assert.Contains(t, result, f.key)
			}
		})
	}
	result := d.perClient(t, program)
	for _, f := range memoryMeasure().figures {
		assert.Contains(t, result, f.key)
	}
}
