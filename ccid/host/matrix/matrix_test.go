package matrix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// automatic are the features by which a reader does by itself what else is the host's work (CCID 1.1 §5.1).
const automatic = ccid.FeatureAutoATRConfig | ccid.FeatureAutoActivation | ccid.FeatureAutoVoltage | ccid.FeatureAutoClock |
	ccid.FeatureAutoBaudRate | ccid.FeatureAutoParameters | ccid.FeatureAutoPPS | ccid.FeatureAutoIFSD

// combinations returns the sets of automatic features that real readers have, in order, and how many have each.
func combinations(t *testing.T) ([]ccid.Features, map[ccid.Features]int) {
	t.Helper()
	models, err := virtual.Models()
	require.NoError(t, err)
	require.Greater(t, len(models), 500)
	readers := map[ccid.Features]int{}
	for _, m := range models {
		for _, i := range m.Interfaces {
			d, err := i.ClassDescriptor()
			require.NoError(t, err, m.Name)
			readers[d.DwFeatures&automatic]++
		}
	}
	return slices.Sorted(maps.Keys(readers)), readers
}

// length is the kind of APDUs of a row.
type length struct {
	name     string
	extended bool
	// data are sizes of command data, answers those of response data.
	data, answers []int
}

var lengths = []length{
	{"short APDUs", false, []int{1, 255}, []int{1, 256}},
	{"extended APDUs", true, []int{1, 257}, []int{1, 257}},
}

// longest is tried in one row of each level and protocol: it takes its time. It is the most that the card can be asked for by
// P1 P2; with T=0 it does not see Ne.
const longest = 65535

// row is one row of the matrix.
type row struct {
	level    ccid.ExchangeLevel
	protocol uint8
	length   length
	slots    int
	features ccid.Features
	longest  bool
}

func (r row) String() string {
	return fmt.Sprintf("%v/T=%d/%s/%s/%s", r.level, r.protocol, r.length.name, plural(r.slots, "slot"), name(r.features))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// short are the features' names in a row's.
var short = []struct {
	feature ccid.Features
	name    string
}{
	{ccid.FeatureAutoATRConfig, "ATR"},
	{ccid.FeatureAutoActivation, "activation"},
	{ccid.FeatureAutoVoltage, "voltage"},
	{ccid.FeatureAutoClock, "clock"},
	{ccid.FeatureAutoBaudRate, "baud"},
	{ccid.FeatureAutoParameters, "parameters"},
	{ccid.FeatureAutoPPS, "PPS"},
	{ccid.FeatureAutoIFSD, "IFSD"},
}

func name(f ccid.Features) string {
	var words []string
	for _, s := range short {
		if f&s.feature != 0 {
			words = append(words, s.name)
		}
	}
	if words == nil {
		return "nothing automatic"
	}
	return strings.Join(words, "+")
}

// rows are all.
func rows(t *testing.T) []row {
	combos, _ := combinations(t)
	var list []row
	for _, level := range []ccid.ExchangeLevel{ccid.LevelCharacter, ccid.LevelTPDU, ccid.LevelShortAPDU, ccid.LevelExtendedAPDU} {
		for protocol := range uint8(2) {
			for _, l := range lengths {
				for _, slots := range []int{1, 2, 8} {
					for _, f := range combos {
						list = append(list, row{level, protocol, l, slots, f, l.extended && slots == 1 && f == combos[len(combos)-1]})
					}
				}
			}
		}
	}
	return list
}

// TestMatrix runs all rows, and says how many there were: t.Run returns when those that run in parallel have ended.
func TestMatrix(t *testing.T) {
	var passed sync.Map // by level and protocol: *atomic.Int64
	all := rows(t)
	start := time.Now()
	t.Run("rows", func(t *testing.T) {
		for _, r := range all {
			t.Run(r.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { r.run(t) })
				n, _ := passed.LoadOrStore(r.kind(), new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			})
		}
	})
	report(t, all, &passed, time.Since(start))
}

// kind is a line of the summary.
func (r row) kind() string { return fmt.Sprintf("| %-13v | T=%d |", r.level, r.protocol) }

// report prints how many rows passed.
func report(t *testing.T, all []row, passed *sync.Map, took time.Duration) {
	_, readers := combinations(t)
	total := map[string]int{}
	var kinds []string
	for _, r := range all {
		if total[r.kind()] == 0 {
			kinds = append(kinds, r.kind())
		}
		total[r.kind()]++
	}
	fmt.Fprintf(os.Stdout, "| level         |     | rows passed\n| ------------- | --- | -----------\n")
	sum := int64(0)
	for _, kind := range kinds {
		n := int64(0)
		if counted, ok := passed.Load(kind); ok {
			n = counted.(*atomic.Int64).Load()
		}
		sum += n
		fmt.Fprintf(os.Stdout, "%s %d of %d\n", kind, n, total[kind])
	}
	fmt.Fprintf(os.Stdout, "| all           |     | %d of %d, with %d combinations of automatic features, in %.0f s\n", sum, len(all), len(readers), took.Seconds())
}

// config is the row's reader, with a card in each slot.
func (r row) config() virtual.Config {
	c := virtual.Config{Level: &r.level, Slots: r.slots, Override: func(d *ccid.ClassDescriptor) {
		d.DwFeatures = d.DwFeatures&^automatic | r.features
		d.BMaxCCIDBusySlots = uint8((r.slots + 1) / 2)
	}}
	for range r.slots {
		c.Cards = append(c.Cards, card.New(card.NewISO(), card.Options{Protocol: r.protocol}))
	}
	return c
}

// run drives the reader: every slot at the same time, as its busy slots allow.
func (r row) run(t *testing.T) {
	device, err := virtual.NewReader(r.config())
	require.NoError(t, err)
	defer func() { require.NoError(t, device.Close()) }()
	bus := virtual.NewBus()
	defer func() { require.NoError(t, bus.Close()) }()
	info, err := bus.Plug(device)
	require.NoError(t, err)
	reader, err := host.NewDevice(bus, info).Open(t.Context(), 0, host.Options{})
	require.NoError(t, err)
	require.Len(t, reader.Slots(), r.slots)
	errs := make([]error, r.slots)
	var driving sync.WaitGroup
	for i, slot := range reader.Slots() {
		driving.Go(func() {
			if err := r.drive(t.Context(), slot); err != nil {
				errs[i] = fmt.Errorf("slot %d: %w", i, err)
			}
		})
	}
	driving.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, reader.Close())
	require.Empty(t, device.Violations())
}

// drive powers a card on, sets its protocol, exchanges commands of each case and powers it off.
func (r row) drive(ctx context.Context, s *host.Slot) error {
	raw, err := s.PowerOn(ctx, host.ColdReset)
	if err != nil {
		return err
	}
	a, err := atr.Parse(raw)
	if err != nil {
		return err
	}
	if got := a.FirstProtocol(); got != r.protocol {
		return fmt.Errorf("ATR % X offers T=%d", raw, got)
	}
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	for _, c := range r.commands(s.Index()) {
		if err := exchange(ctx, s, c); err != nil {
			return err
		}
	}
	return s.PowerOff(ctx)
}

// command is an APDU and the answer that is right.
type command struct {
	apdu.Command
	want []byte
}

const (
	insSelect  = 0xA4
	insUpdate  = 0xD6
	insRead    = 0xB0
	insEcho    = 0xEC
	insProduce = 0xEE
)

// commands are cases 1 to 4 with the row's sizes (ISO/IEC 7816-3:2006 §12.1.3). Of several slots each has one of the sizes, and of
// 8 either those that ask or those that bring data, in turn: what is tried there is that they don't mix.
func (r row) commands(slot int) []command {
	answers, data := r.length.answers, r.length.data
	if r.slots > 1 {
		which := slot % 2
		answers, data = answers[which:which+1], data[which:which+1]
	}
	switch {
	case r.slots < 8:
		return append(r.asking(answers), r.bringing(data)...)
	case slot/2%2 == 0:
		return r.asking(answers)
	}
	return r.bringing(data)
}

// asking are commands without data.
func (r row) asking(answers []int) []command {
	list := []command{{apdu.Command{CLA: 0x80, INS: insEcho}, nil}} // case 1
	for _, n := range answers {
		list = append(list, r.produce(n)) // case 2
	}
	if r.longest {
		list = append(list, r.produce(longest))
	}
	return list
}

// produce is a command for n bytes of response.
func (r row) produce(n int) command {
	return command{apdu.Command{CLA: 0x80, INS: insProduce, P1: byte(n >> 8), P2: byte(n), Ne: n, Extended: r.length.extended}, pattern(n)}
}

// bringing are commands with data, and those that show what they did.
func (r row) bringing(data []int) []command {
	extended := r.length.extended
	list := []command{{apdu.Command{INS: insSelect, P2: 0x0C, Data: []byte{card.FileLarge >> 8, card.FileLarge & 0xFF}, Extended: extended}, nil}}
	for _, n := range data {
		written := bytes.Repeat([]byte{byte(n) ^ 0x5A}, n)
		read := min(n, 256) // with T=0 a card sees no larger Ne
		list = append(list,
			command{apdu.Command{INS: insUpdate, Data: written, Extended: extended}, nil},                           // case 3
			command{apdu.Command{INS: insRead, P2: byte(n - read), Ne: read, Extended: extended}, written[:read]},   // what that did
			command{apdu.Command{CLA: 0x80, INS: insEcho, Data: pattern(n), Ne: n, Extended: extended}, pattern(n)}, // case 4
		)
	}
	return list
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = card.Pattern(i)
	}
	return b
}

func exchange(ctx context.Context, s *host.Slot, c command) error {
	b, err := c.Bytes()
	if err != nil {
		return err
	}
	got, err := s.Transmit(ctx, b)
	if err != nil {
		return fmt.Errorf("% X: %w", b[:min(len(b), 8)], err)
	}
	if want := append(bytes.Clone(c.want), 0x90, 0x00); !bytes.Equal(want, got) {
		return fmt.Errorf("% X: % X (%d bytes) for % X (%d)", b[:min(len(b), 8)], got[:min(len(got), 16)], len(got), want[:min(len(want), 16)], len(want))
	}
	return nil
}
