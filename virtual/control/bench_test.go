package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// newBench makes a bench with readers as virtual.ParseSpec has them, named as they were given.
func newBench(t *testing.T, specs ...string) (*Bench, *virtual.Bus) {
	t.Helper()
	bus := virtual.NewBus()
	b := NewBench(bus)
	for _, text := range specs {
		spec, err := virtual.ParseSpec(text)
		require.NoError(t, err)
		station, err := spec.Start(t.Context())
		require.NoError(t, err)
		_, err = b.Add(spec.Name(), station)
		require.NoError(t, err)
		t.Cleanup(func() {
			bus.Unplug(station)
			require.NoError(t, station.Close())
		})
	}
	return b, bus
}

// dialogue has lines of requests and, after "> ", of the answers to them.
func dialogue(t *testing.T, b *Bench, text string) {
	t.Helper()
	var got strings.Builder
	for line := range strings.Lines(text) {
		if request, ok := strings.CutPrefix(line, "> "); ok {
			answer, err := b.Answer(t.Context(), strings.TrimSpace(request))
			require.True(t, err == nil || errors.Is(err, ErrQuit))
			got.WriteString(line + answer)
		}
	}
	require.Equal(t, text, got.String())
}

func TestCardsComeAndGoByCommand(t *testing.T) {
	b, _ := newBench(t, "reader=scr3310,slots=2,card=none+t0")
	dialogue(t, b, `> list
 0 scr3310, port 1-1, slot 0: none, slot 1: t0
ok 1 reader
> insert t1
ok slot 0 has t1
> insert 0 t0
error virtual: the slot has a card already: slot 0
> remove 1
ok slot 1 is empty
> remove 1
error virtual: the slot has no card: slot 1
> remove 2
error virtual: the reader has no such slot: 2
> insert 2 t0
error virtual: the reader has no such slot: 2
> insert 1 vpcd-listen:127.0.0.1:0
ok slot 1 has vpcd-listen:127.0.0.1:0
> remove 1
ok slot 1 is empty
> list
 0 scr3310, port 1-1, slot 0: t1, slot 1: none
ok 1 reader
> quit
ok bye
`)
}

func TestReadersArePulledOutAndPluggedInByCommand(t *testing.T) {
	b, bus := newBench(t, "reader=gempctwin", "reader=gempctwin", "reader=scr3310,card=none")
	dialogue(t, b, `> unplug
error which reader? there are 0 gempctwin, 1 gempctwin, 2 scr3310; @NAME before the command says which
> @gem unplug
error which reader? "gem" is in the names of 2; list has their numbers
> @yubikey unplug
error no such reader: "yubikey"; there are 0 gempctwin, 1 gempctwin, 2 scr3310
> @SCR unplug
ok unplugged
> @2 unplug
error the reader is not plugged in
> list
 0 gempctwin, port 1-1, slot 0: t1
 1 gempctwin, port 1-2, slot 0: t1
 2 scr3310, unplugged, slot 0: none
ok 3 readers
> @2 plug
ok plugged in at 1-3
> @2 plug
error the reader is plugged in
`)
	devices, err := bus.Devices(t.Context())
	require.NoError(t, err)
	require.Len(t, devices, 3)
}

func TestAnEmptyBenchHasNoReader(t *testing.T) {
	b, _ := newBench(t)
	dialogue(t, b, "> plug\nerror no such reader\n> list\nok 0 readers\n")
	answer, err := b.Answer(t.Context(), "  ")
	require.NoError(t, err)
	require.Equal(t, "ok\n", answer)
}

func TestReadersAreCalledAsTheyWereGiven(t *testing.T) {
	b, _ := newBench(t, "reader=Gemalto PC Twin,card=none", "", "reader=scr3310,card=none")
	dialogue(t, b, `> @gemalto insert t0
error which reader? "gemalto" is in the names of 2; list has their numbers
> @0 unplug
ok unplugged
> list
 0 gemalto-pc-twin, unplugged, slot 0: none
 1 gemalto-pc-twin, port 1-2, slot 0: t1
 2 scr3310, port 1-3, slot 0: none
ok 3 readers
`)
	b, _ = newBench(t, "reader=gemalto-pc-twin,card=none", "reader=scr3310,card=none")
	dialogue(t, b, `> @gemalto insert t0
ok slot 0 has t0
> @gempctwin remove
ok slot 0 is empty
`)
}

// open claims the interface of the reader in a port.
func open(t *testing.T, bus *virtual.Bus, port string) usbtransport.Interface {
	t.Helper()
	devices, err := bus.Devices(t.Context())
	require.NoError(t, err)
	for _, d := range devices {
		if d.PortPath == port {
			i, err := bus.Open(t.Context(), d, 0)
			require.NoError(t, err)
			t.Cleanup(func() { _ = i.Close() })
			return i
		}
	}
	t.Fatalf("nothing in port %s", port)
	return nil
}

// ask sends GetSlotStatus and reads the answer.
func ask(t *testing.T, i usbtransport.Interface, seq byte) (n int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	command := ccid.GetSlotStatus(0)
	command.Seq = seq
	message, err := command.AppendBinary(nil)
	require.NoError(t, err)
	if _, err := i.BulkOut(ctx, 0x01, message); err != nil {
		return 0, err
	}
	return i.BulkIn(ctx, 0x82, make([]byte, 64))
}

func TestFaultsHappenToTheTransfersThatWereOrdered(t *testing.T) {
	b, bus := newBench(t, "reader=gempctwin", "reader=gempctwin")
	first, second := open(t, bus, "1-1"), open(t, bus, "1-2")
	dialogue(t, b, "> @0 fault truncate=5 bulk-in after=1 times=2\nok ordered\n")
	var lengths []int
	for seq := range byte(5) {
		n, err := ask(t, first, seq)
		require.NoError(t, err)
		lengths = append(lengths, n)
	}
	require.Equal(t, []int{10, 5, 5, 10, 10}, lengths)
	n, err := ask(t, second, 9)
	require.NoError(t, err)
	require.Equal(t, 10, n, "another reader has no fault")

	dialogue(t, b, "> @0 fault io-error bulk-out always\nok ordered\n")
	for seq := range byte(3) {
		_, err := ask(t, first, 10+seq)
		require.ErrorIs(t, err, usbtransport.ErrIO)
	}
	dialogue(t, b, "> @0 fault off\nok no faults\n")
	_, err = ask(t, first, 20)
	require.NoError(t, err)

	dialogue(t, b, "> @0 fault remove-during bulk-out\nok ordered\n")
	_, err = ask(t, first, 21)
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	dialogue(t, b, "> @0 plug\nok plugged in at 1-1\n")
}

func TestFaultsStandInLine(t *testing.T) {
	b, bus := newBench(t, "reader=gempctwin")
	i := open(t, bus, "1-1")
	dialogue(t, b, "> fault truncate=3 bulk-in\nok ordered\n> fault truncate=4 bulk-in\nok ordered\n")
	var lengths []int
	for seq := range byte(3) {
		n, err := ask(t, i, seq)
		require.NoError(t, err)
		lengths = append(lengths, n)
	}
	require.Equal(t, []int{3, 4, 10}, lengths)
	for range 2 * maxFaults {
		dialogue(t, b, "> fault stall control after=1000\nok ordered\n")
	}
	require.Len(t, b.readers[0].faults, maxFaults)
}

func TestViolationsAreTold(t *testing.T) {
	b, bus := newBench(t, "reader=gempctwin")
	i := open(t, bus, "1-1")
	dialogue(t, b, "> violations\nok 0 violations\n")
	for range 2 {
		_, err := ask(t, i, 7) // bSeq must change
		require.NoError(t, err)
	}
	dialogue(t, b, "> violations\n slot 0 seq 7: bSeq was used by the command before: PC_to_RDR_GetSlotStatus\nok 1 violation\n")
}

func TestKeysAreNeverRepeated(t *testing.T) {
	const pin = "90817263"
	b, _ := newBench(t, "reader=gempctwin,pinpad=yes", "reader=scr3310")
	for request, want := range map[string]string{
		"@0 press " + pin + "#":                      "ok pressed\n",
		"@1 press " + pin + "#":                      "error the reader has no PIN pad; pinpad=yes gives it one\n",
		"@0 press " + pin + "x":                      "error press: keys are 0 to 9, # to confirm, c to cancel, < to take back\n",
		"press " + pin:                               "error which reader? there are 0 gempctwin, 1 scr3310; @NAME before the command says which\n",
		"@9 press " + pin:                            "error no such reader: \"9\"; there are 0 gempctwin, 1 scr3310\n",
		"pres " + pin:                                "error \"pres\" is no command; help lists them\n",
		"@0 press " + strings.Repeat(pin, 200):       "error too many keys that nobody reads\n",
		"@0 press " + strings.Repeat(pin, MaxLine/8): "error a line has at most 4096 bytes\n",
	} {
		answer, err := b.Answer(t.Context(), request)
		require.NoError(t, err)
		assert.Equal(t, want, answer)
		assert.NotContains(t, answer, pin)
	}
	r, err := Parse("press " + pin)
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", r, r, r), pin)
}

func TestHelpNamesEveryCommand(t *testing.T) {
	b, _ := newBench(t)
	answer, err := b.Answer(t.Context(), "help")
	require.NoError(t, err)
	for _, v := range verbs() {
		require.Contains(t, "\n"+answer, "\n "+v.name, v.name)
	}
	lines := strings.Split(strings.TrimSuffix(answer, "\n"), "\n")
	for _, line := range lines[:len(lines)-1] {
		require.True(t, strings.HasPrefix(line, " "), line)
	}
	require.True(t, strings.HasPrefix(lines[len(lines)-1], "ok "))
}

// socketPath is a short path: that of a Unix socket has at most 108 bytes.
func socketPath(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "ctl")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	return filepath.Join(folder, "control")
}
