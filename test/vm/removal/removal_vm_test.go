//go:build linux

package removal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/test/vm/figures"
	"github.com/goccid/goccid/test/vm/hotplug"
	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/usbtransport"
)

// Within what time clients must know of a removal. The machine is emulated, on a host that has other work, so only most of them can
// be held to what the driver promises; the table has the figures.
const (
	inTime   = 50 * time.Millisecond
	mostLate = 2 * time.Second
	// mostOf is the share that must know within inTime of the kernel's event; of the kernel's own stamp, half.
	mostOf = 0.9
)

// longestWork is how long clients work before the reader is pulled out, at most: some APDUs.
const longestWork = 60 * time.Millisecond

// warmUp is after how many removals everything is allocated that is allocated once.
const warmUp = 20

// What may be gained from there to the end: garbage that the collector has not got yet, and the C library's heap.
const (
	heapGain     = 1 << 20
	residentGain = 16 << 20
)

// TestVMRemovals pulls the reader out while clients work, at random moments of their APDUs, and plugs it in again.
func TestVMRemovals(t *testing.T) {
	vmtest.Require(t)
	vmtest.StartUdevd(t)
	seed := vmtest.Seed(t)
	onBothBackends(t, func(t *testing.T, d *driver) {
		r := &removals{driver: d, kernel: vmtest.OpenKernelLog(t), told: vmtest.OpenKernelEvents(t), random: rand.New(rand.NewPCG(seed, 0)), calls: map[string]int{}}
		r.Stack, r.Lines = "goccid "+d.backend.Name(), map[string]int{}
		defer func() { assert.NoError(t, r.Save(figures.Folder)) }()

		reader := d.arrive(t)
		var early state
		for r.Removals < figures.Removals {
			r.unplug(t, reader)
			reader = r.plug(t)
			if r.Removals == warmUp {
				early = settled(t)
			}
		}
		late := settled(t)
		r.Silent = d.silent
		t.Logf("%s after %d removals: %v; after %d: %v", r.Stack, warmUp, early, r.Removals, late)
		assert.Equal(t, early.descriptors, late.descriptors, "file descriptors")
		assert.Equal(t, early.goroutines, late.goroutines, "goroutines")
		assert.Less(t, late.heap, early.heap+heapGain, "heap")
		assert.Less(t, late.resident, early.resident+residentGain, "resident memory")
		assert.LessOrEqual(t, figures.Quantile(r.Ended, 0.5), inTime, "the median of when the last call ended")
		assert.GreaterOrEqual(t, figures.Within(r.Late, inTime), mostOf, "who knew within %v of the kernel's event", inTime)
		t.Logf("calls that a removal ended: %v", r.calls)
		t.Logf("the emulated reader itself said that its card is out just before %d of the removals", r.foretold)
	})
}

// removals is a row of them, and what was measured.
type removals struct {
	*driver
	figures.Figures
	kernel *vmtest.KernelLog
	told   *vmtest.KernelEvents
	random *rand.Rand
	// calls counts the calls that a removal ended, by what they were waiting for.
	calls map[string]int
	// foretold counts removals before which the emulated reader itself said that the card is out.
	foretold int
}

// plug plugs the reader in and returns it once it works.
func (r *removals) plug(t *testing.T) *host.Reader {
	t.Helper()
	asked := vmtest.Now(t)
	ask(t, hotplug.Plug)
	reader := r.next(t, host.ReaderArrived)
	listed := vmtest.Now(t)
	r.connect(t, reader.Slot(0))
	answered := vmtest.Now(t)
	r.use(t, reader.Slot(0))
	found := r.kernel.Await(t, vmtest.KernelFound)

	r.Found = append(r.Found, found-asked)
	r.Listed = append(r.Listed, listed-asked)
	r.ATR = append(r.ATR, answered-asked)
	loud, _ := r.log.take()
	require.Empty(t, loud, "log lines above debug")
	return reader
}

// unplug pulls the reader out under clients, and checks what they and the log are told.
func (r *removals) unplug(t *testing.T, reader *host.Reader) {
	t.Helper()
	r.kernel.Mark(t)
	r.told.Skip()
	ctx, cancel := context.WithTimeout(t.Context(), watchdog)
	defer cancel()
	clients := startClients(ctx, t, reader.Slot(0))
	time.Sleep(time.Duration(r.random.Int64N(int64(longestWork))))
	ask(t, hotplug.Unplug)
	noticed, told := r.kernel.Await(t, vmtest.KernelDisconnect), r.told.Removed(t)
	outcomes := clients.end()
	require.Same(t, reader, r.next(t, host.ReaderRemoved))
	r.Removals++
	r.silent += clients.silent

	last := noticed
	for _, o := range outcomes {
		require.ErrorIs(t, o.err, usbtransport.ErrRemoved, o.call)
		require.Less(t, o.at-noticed, mostLate, o.call)
		r.calls[cause(o)]++
		last = max(last, o.at)
	}
	r.Ended = append(r.Ended, last-noticed)
	r.Gone = append(r.Gone, last-noticed) // the error says so
	r.Late = append(r.Late, last-told)
	lines, quiet := r.log.take()
	for _, text := range lines {
		if !strings.Contains(text, "level=info") {
			r.Lines[text]++
		}
	}
	requireOneRemoval(t, lines, reader)
	if len(clients.before) > 0 && clients.silent == 0 {
		require.True(t, readerSaidNoCard(quiet), "clients were told %v before the removal, and the reader had said nothing:\n%s",
			clients.before, strings.Join(quiet[max(0, len(quiet)-failureLines):], "\n"))
		r.foretold++
	}
	_, err := reader.Slot(0).Transmit(ctx, selectCAC)
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
}

// state is what a process has of things that must not grow.
type state struct {
	descriptors, goroutines int
	heap, resident          int64
}

func (s state) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d KiB heap, %d KiB resident", s.descriptors, s.goroutines, s.heap>>10, s.resident>>10)
}

// settled returns the state without what is still being closed: the least of what is seen in a while.
func settled(t *testing.T) state {
	t.Helper()
	least := state{descriptors: descriptors(t), goroutines: runtime.NumGoroutine()}
	for range 20 {
		time.Sleep(20 * time.Millisecond)
		least.descriptors = min(least.descriptors, descriptors(t))
		least.goroutines = min(least.goroutines, runtime.NumGoroutine())
	}
	debug.FreeOSMemory()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	least.heap = int64(memory.HeapAlloc)
	var size, pages int64
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	_, err = fmt.Sscan(string(text), &size, &pages)
	require.NoError(t, err)
	least.resident = pages * int64(os.Getpagesize())
	return least
}

// cause names a call and the transfer that told of the removal: the operation of the innermost error.
func cause(o outcome) string {
	var transfer *usbtransport.Error
	if errors.As(o.err, &transfer) {
		return o.call + ": " + transfer.Op
	}
	return o.call
}
