package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

func (p *program) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show it all with virtual readers: no hardware, no rights needed",
		Long: `Drive virtual readers at each level of exchange, with T=0 and T=1 cards, through the whole driver: list, describe, atr, APDUs; then
pull a reader out in the middle of an exchange and plug it in again. Each step is checked; the exit code is 0 only if each gave
what it must. Real readers are listed first, if there are any.`,
		Args: noArguments,
		RunE: p.action(func(ctx context.Context, _ []string) error { return p.demo(ctx) }),
	}
}

// demoTime is far more than the demonstration takes; it ends one that hangs.
const demoTime = time.Minute

// demonstration counts what was checked.
type demonstration struct {
	*program
	passed, failed int
}

func (p *program) demo(ctx context.Context) error {
	if p.opts.json {
		return usage("Its exit code says whether each step gave what it must.", "demo is for people: it has no --json")
	}
	if err := p.withoutReaders("demo"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	d := &demonstration{program: p}
	start := time.Now()
	for _, part := range []func(context.Context) error{d.realReaders, d.lists, d.describes, d.explains, d.exchanges, d.removal} {
		if err := part(ctx); err != nil {
			return err
		}
		if p.out.err != nil {
			return p.out.err
		}
	}
	d.out.printf("\n%d checks passed, %d failed, in %.1f s\n", d.passed, d.failed, time.Since(start).Seconds())
	if d.failed > 0 {
		return fmt.Errorf("demo: %d checks failed", d.failed)
	}
	return nil
}

func (d *demonstration) heading(text string) { d.out.printf("\n== %s\n", text) }

// check prints what was checked, and counts.
func (d *demonstration) check(ok bool, format string, args ...any) {
	word := "ok  "
	if ok {
		d.passed++
	} else {
		d.failed++
		word = "FAIL"
	}
	d.out.printf("%s  %s\n", word, fmt.Sprintf(format, args...))
}

// command runs this program with these arguments, as a user would.
func (d *demonstration) command(ctx context.Context, args ...string) (stdout, stderr string, code exitCode) {
	var out, errOut bytes.Buffer
	env := d.environment
	env.stdout, env.stderr = &out, &errOut
	code = run(ctx, env, args)
	return out.String(), errOut.String(), code
}

// show runs a command and prints it with all that it prints.
func (d *demonstration) show(ctx context.Context, args ...string) (stdout string, code exitCode) {
	d.out.printf("$ ccid-probe %s\n", strings.Join(args, " "))
	stdout, stderr, code := d.command(ctx, args...)
	d.out.printf("%s%s", stdout, stderr)
	return stdout, code
}

// realReaders lists them, if there are any. What they answer is not ours to judge.
func (d *demonstration) realReaders(ctx context.Context) error {
	d.heading("Real readers")
	stdout, _, code := d.command(ctx, "list")
	switch code {
	case exitOK:
		d.out.printf("$ ccid-probe list\n%s", stdout)
	case exitInterrupted:
		return ctx.Err()
	default:
		d.out.printf("None here. All that follows is virtual: software readers with software cards, behind the same driver.\n")
	}
	return nil
}

// demoLevels are all levels of exchange, as --virtual calls them.
var demoLevels = []string{"character", "tpdu", "short", "extended"}

func demoSpec(level, cardKind string) string {
	return "reader=gemalto-pc-twin,level=" + level + ",card=" + cardKind
}

// demoPairs calls f for each level with each card.
func demoPairs(f func(level, cardKind string)) {
	for _, level := range demoLevels {
		for _, cardKind := range []string{"t0", "t1"} {
			f(level, cardKind)
		}
	}
}

func (d *demonstration) lists(ctx context.Context) error {
	d.heading("list: a reader at each level of exchange, with a T=0 and with a T=1 card")
	args := []string{"list"}
	demoPairs(func(level, cardKind string) { args = append(args, "--virtual", demoSpec(level, cardKind)) })
	_, code := d.show(ctx, args...)
	d.check(code == exitOK, "exit code %d", code)

	stdout, _, _ := d.command(ctx, append(args, "--json")...)
	var readers []listedReader
	err := json.Unmarshal([]byte(stdout), &readers)
	d.check(err == nil && len(readers) == 2*len(demoLevels), "%d readers are listed", len(readers))
	cards := 0
	for _, r := range readers {
		for _, s := range r.Slots {
			if s.Present && s.ATR != "" {
				cards++
			}
		}
	}
	d.check(cards == 2*len(demoLevels), "%d cards have answered to reset", cards)
	return nil
}

func (d *demonstration) describes(ctx context.Context) error {
	d.heading("describe: what a reader says of itself")
	stdout, code := d.show(ctx, "describe", "--virtual", "reader=gemalto-pc-twin")
	d.check(code == exitOK && strings.Contains(stdout, "dwFeatures"), "the class descriptor is decoded")
	return nil
}

func (d *demonstration) explains(ctx context.Context) error {
	d.heading("atr: what a card says on reset")
	const cac = "3B7A18000073667465206364313434"
	_, code := d.show(ctx, "atr", cac)
	d.check(code == exitOK, "the ATR is explained")

	stdout, _, code := d.command(ctx, "atr", "--json", "--virtual", demoSpec("tpdu", "t1"))
	var a struct {
		Valid     bool
		Protocols []int
	}
	err := json.Unmarshal([]byte(stdout), &a)
	d.check(code == exitOK && err == nil && a.Valid && fmt.Sprint(a.Protocols) == "[1]", "the virtual T=1 card's ATR is valid and offers T=1")
	return nil
}

// The commands of the demonstration, for the card of package virtual/card.
const (
	selectDIR = "00A4000C022F00"
	readDIR   = "00B0000000"
	echoSize  = 200
	fetchSize = 5000
)

func echoCommand() string {
	return fmt.Sprintf("80EC0000%02X%s00", echoSize, strings.Repeat("A5", echoSize))
}

// fetchCommand asks for so many bytes by P1 P2, for with T=0 the card never sees how large Ne is.
func fetchCommand() string { return fmt.Sprintf("80EE%04X000000", fetchSize) }

func (d *demonstration) exchanges(ctx context.Context) error {
	d.heading("apdu: exchanges with a card")
	_, code := d.show(ctx, "apdu", "--virtual", demoSpec("tpdu", "t1"), selectDIR, readDIR, "0020000104"+hex.EncodeToString([]byte("0000")))
	d.check(code == exitOK, "exit code %d; the PIN is not printed", code)

	d.out.printf("\nThe same driver at every level: SELECT, READ BINARY, %d bytes there and back, and %d bytes in one extended APDU\n", echoSize, fetchSize)
	demoPairs(func(level, cardKind string) { d.exchangeAt(ctx, level, cardKind) })
	return nil
}

func (d *demonstration) exchangeAt(ctx context.Context, level, cardKind string) {
	args := []string{"apdu", "--json", "--virtual", demoSpec(level, cardKind), selectDIR, readDIR, echoCommand()}
	long := level != "short"
	if long {
		args = append(args, fetchCommand())
	}
	stdout, stderr, code := d.command(ctx, args...)
	results := make([]exchanged, 0, 4)
	for decoder := json.NewDecoder(strings.NewReader(stdout)); ; {
		var e exchanged
		if decoder.Decode(&e) != nil {
			break
		}
		results = append(results, e)
	}
	if code != exitOK || len(results) != len(args)-4 {
		d.check(false, "%-9s %s: %s", level, cardKind, strings.TrimSpace(stderr))
		return
	}
	ok := strings.HasPrefix(results[1].Response, "61") && results[2].Response == strings.Repeat("A5", echoSize)
	var took int64
	for _, e := range results {
		ok = ok && e.SW == "9000"
		took += e.Microseconds
	}
	fetched := "extended APDUs are not for this level"
	if long {
		ok = ok && results[3].Response == compactHex(demoPattern(fetchSize))
		fetched = fmt.Sprintf("%d bytes fetched", len(results[3].Response)/2)
	}
	d.check(ok, "%-9s T=%s: EF.DIR has %d bytes, %d bytes echoed, %s; %.1f ms in all", level, cardKind[1:],
		len(results[1].Response)/2, len(results[2].Response)/2, fetched, float64(took)/1000)
}

func demoPattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = card.Pattern(i)
	}
	return b
}

// unplugAt is the USB transfer, counted from the start of the exchange, in which the reader is pulled out; unplugBytes is
// what the exchange is to move. Both are chosen so that it happens in the middle.
const (
	unplugAt    = 60
	unplugBytes = 50000
	// noticed is how soon whoever waits must know of a removal, with room for a machine that has other things to do.
	noticed = 500 * time.Millisecond
)

func (d *demonstration) removal(ctx context.Context) (err error) {
	d.heading("Pull the reader out in the middle of an exchange, and plug it in again")
	spec, err := virtual.ParseSpec(demoSpec("tpdu", "t1"))
	if err != nil {
		return err
	}
	station, err := spec.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, station.Close()) }()
	bus := virtual.NewBus()
	defer func() { err = errors.Join(err, bus.Close()) }()
	log := newRecorder()
	monitor, err := host.NewMonitor(ctx, bus, host.Options{Logger: log.logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, monitor.Close()) }()

	first, err := d.plugIn(ctx, bus, station, monitor)
	if err != nil {
		return err
	}
	if err := d.pullOut(ctx, bus, monitor, first); err != nil {
		return err
	}
	again, err := d.plugIn(ctx, bus, station, monitor)
	if err != nil {
		return err
	}
	d.check(again.Name() == first.Name() && again.Device().Info().PortPath == first.Device().Info().PortPath, "it is %s in port %s again", again.Name(), again.Device().Info().PortPath)

	d.out.printf("\nThe complete log of that, at level info:\n%s", log.text())
	removed, errorLines := log.count()
	d.check(removed == 1, "%s \"reader removed\"", plural(removed, "line says", "lines say"))
	d.check(errorLines == 0, "%s an error or a warning", plural(errorLines, "line is", "lines are"))
	return nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// plugIn plugs the reader in and exchanges an APDU with its card.
func (d *demonstration) plugIn(ctx context.Context, bus *virtual.Bus, station *virtual.Station, monitor *host.Monitor) (*host.Reader, error) {
	start := time.Now()
	if _, err := bus.Plug(station); err != nil {
		return nil, err
	}
	event, err := monitor.Next(ctx)
	if err != nil {
		return nil, err
	}
	if event.Kind != host.ReaderArrived {
		return nil, fmt.Errorf("demo: the reader is %v: %w", event.Kind, event.Err)
	}
	slot := event.Reader.Slot(0)
	if _, err := slot.Connect(ctx); err != nil {
		return nil, err
	}
	response, err := slot.Transmit(ctx, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x2F, 0x00})
	if err != nil {
		return nil, err
	}
	d.check(bytes.HasSuffix(response, []byte{0x90, 0x00}), "plugged in; %.1f ms later the card in it has answered an APDU", milliseconds(time.Since(start)))
	return event.Reader, nil
}

// pullOut starts an exchange and takes the reader away in the middle of it.
func (d *demonstration) pullOut(ctx context.Context, bus *virtual.Bus, monitor *host.Monitor, reader *host.Reader) error {
	unplugged := make(chan time.Time, 1)
	bus.Inject(func(t virtual.Transfer) virtual.Fault {
		if t.Index != unplugAt {
			return virtual.Fault{}
		}
		unplugged <- time.Now()
		return virtual.Fault{Kind: virtual.RemoveDuring}
	})
	_, err := reader.Slot(0).Transmit(ctx, []byte{0x80, 0xEE, unplugBytes >> 8, unplugBytes & 0xFF, 0x00, 0x00, 0x00})
	ended := time.Now()
	bus.Inject(nil)
	select {
	case at := <-unplugged:
		d.check(ended.Sub(at) < noticed, "pulled out in USB transfer %d of an exchange of %d bytes; the exchange ended %.1f ms later", unplugAt, unplugBytes, milliseconds(ended.Sub(at)))
	default:
		d.check(false, "the exchange was over before the reader could be pulled out: %v", err)
		return nil
	}
	d.check(errors.Is(err, usbtransport.ErrRemoved), "its error: %v", err)
	event, err := monitor.Next(ctx)
	if err != nil {
		return err
	}
	d.check(event.Kind == host.ReaderRemoved && event.Reader == reader, "who watches the readers was told: reader %v", event.Kind)
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// recorder is a log that is kept, all lines of level info and above.
type recorder struct {
	logger *logrus.Logger
	lines  bytes.Buffer
	levels []logrus.Level
	texts  []string
}

func newRecorder() *recorder {
	r := &recorder{logger: logrus.New()}
	r.logger.SetOutput(&r.lines)
	r.logger.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableTimestamp: true})
	r.logger.AddHook(r)
	return r
}

// Levels implements logrus.Hook.
func (r *recorder) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook. The logger calls it for one entry at a time.
func (r *recorder) Fire(e *logrus.Entry) error {
	r.levels, r.texts = append(r.levels, e.Level), append(r.texts, e.Message)
	return nil
}

func (r *recorder) text() string {
	var b strings.Builder
	for line := range strings.Lines(r.lines.String()) {
		b.WriteString("  " + line)
	}
	return b.String()
}

func (r *recorder) count() (removed, errorLines int) {
	for i, level := range r.levels {
		if strings.Contains(r.texts[i], "reader removed") {
			removed++
		}
		if level <= logrus.WarnLevel {
			errorLines++
		}
	}
	return removed, errorLines
}
