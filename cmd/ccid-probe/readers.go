package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/advice"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/libusb"
	"github.com/goccid/goccid/usbtransport/usbfs"
)

// openUSB opens the backend for real readers.
func openUSB(name string, log logrus.FieldLogger) (usbtransport.Backend, error) {
	switch name {
	case "usbfs":
		return usbfs.New(usbfs.Options{Logger: log}), nil
	case "libusb":
		backend, err := libusb.New(libusb.Options{Logger: log})
		if errors.Is(err, usbtransport.ErrNotSupported) {
			return nil, usage("It needs cgo and libusb-1.0: go build -tags libusb ./cmd/ccid-probe\nWithout it: --usb usbfs, on Linux",
				"--usb libusb: this ccid-probe was built without libusb")
		}
		if err != nil {
			return nil, err
		}
		return backend, nil
	}
	return nil, usage("", "--usb: there is no backend %q; there are usbfs and libusb", name)
}

// candidate is an interface that is a reader, or claims to be one.
type candidate struct {
	index    int
	backend  usbtransport.Backend
	device   *host.Device
	function host.Function
	quirks   *quirks.Table
}

func (c candidate) info() usbtransport.DeviceInfo { return c.function.Device }

// name is the reader's name as far as it can be known without opening the reader.
func (c candidate) name() string {
	d := c.info()
	friendly := cmp.Or(c.quirks.Lookup(c.function.QuirkDevice()).Name, host.FriendlyName(d))
	return host.Name{Friendly: friendly, Serial: d.SerialNumber, Number: c.index}.String()
}

// String identifies the candidate to a user who must choose.
func (c candidate) String() string {
	return fmt.Sprintf("%d  %s  port %s, interface %d", c.index, c.name(), c.info().PortPath, c.function.Interface.Number)
}

// search is what was found.
type search struct {
	readers []candidate
	// devices and err are what the last backend without a reader saw.
	seen   advice.Search
	quirks *quirks.Table
}

// loadQuirks reads the files in the folder of --quirks-dir, which has to be there unless it is the default one.
func (p *program) loadQuirks() (*quirks.Table, error) {
	if dir := p.opts.quirksDir; dir != "" && dir != quirksDir {
		if _, err := os.Stat(dir); err != nil {
			return nil, usage("Without the flag it is "+quirksDir+", which may be missing.", "--quirks-dir: %w", err)
		}
	}
	table, err := quirks.Load(p.opts.quirksDir)
	if err != nil {
		return nil, usage("What can stand in such a file is in docs/quirks.md; --quirks-dir '' leaves all of them out.", "%w", err)
	}
	return table, nil
}

// withReaders looks for readers on the backends that the flags ask for, and gives them to f.
func (p *program) withReaders(ctx context.Context, f func(search) error) (err error) {
	table, err := p.loadQuirks()
	if err != nil {
		return err
	}
	backends, closeAll, err := p.backends(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	if p.tape != nil {
		if backends, err = p.tape.begin(ctx, backends); err != nil {
			return err
		}
	}
	found := search{quirks: table}
	for _, backend := range backends {
		var devices []usbtransport.DeviceInfo
		err := p.step(ctx, func(ctx context.Context) (err error) {
			devices, err = backend.Devices(ctx)
			return err
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		found.seen = advice.Search{Backend: backend.Name(), Devices: devices, Err: err}
		found.add(backend, devices)
	}
	return f(found)
}

func (s *search) add(backend usbtransport.Backend, devices []usbtransport.DeviceInfo) {
	for _, info := range devices {
		functions, _ := host.Functions(info)
		device := host.NewDevice(backend, info)
		for _, function := range functions {
			s.readers = append(s.readers, candidate{
				index: len(s.readers), backend: backend, device: device, function: function, quirks: s.quirks,
			})
		}
	}
}

// backends opens what the flags ask for: virtual readers, real ones, or both.
func (p *program) backends(ctx context.Context) (list []usbtransport.Backend, closeAll func() error, err error) {
	var closers []func() error
	closeAll = func() error {
		var errs []error
		for _, c := range slices.Backward(closers) {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	if p.opts.usb != "" || !p.opts.elsewhere() {
		name := p.opts.usb
		if name == "" {
			name = "usbfs"
		}
		backend, err := p.openUSB(name, p.log)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, backend)
		if c, ok := backend.(interface{ Close() error }); ok {
			closers = append(closers, c.Close)
		}
	}
	for _, server := range p.opts.usbip {
		backend, err := p.openUSBIP(server)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
		list = append(list, backend)
	}
	if len(p.opts.virtual) > 0 {
		v, err := p.plugVirtual(ctx)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
		list = append(list, v.bus)
		closers = append(closers, func() error {
			p.reportViolations(v)
			return v.Close()
		})
	}
	return list, closeAll, nil
}

// withoutReaders refuses the flags that say where readers are, for what uses none of them.
func (p *program) withoutReaders(what string) error {
	if p.opts.usb != "" || p.opts.elsewhere() {
		return usage("", "%s: --usb, --usbip and --virtual have no meaning here", what)
	}
	return nil
}

// noReader is the problem of having found none, or none that is free to be looked at.
func (p *program) noReader(s search) error {
	if err := s.seen.Busy(); err != nil {
		return &problem{code: exitNoAccess, err: err, advice: p.machine().NoReader(s.seen)}
	}
	return &problem{code: exitNoReader, err: host.ErrNoReader, advice: p.machine().NoReader(s.seen)}
}

// open opens a reader. The error says what can be done about it.
func (p *program) open(ctx context.Context, c candidate) (*host.Reader, error) {
	var reader *host.Reader
	err := p.step(ctx, func(ctx context.Context) (err error) {
		reader, err = c.device.Open(ctx, c.function.Interface.Number, host.Options{
			Logger: p.log, Number: c.index, Quirks: c.quirks, Limits: p.limits(),
		})
		return err
	})
	if err != nil {
		return nil, &problem{code: codeOf(started{err}), err: err, advice: p.adviceOnOpen(c, err)}
	}
	return reader, nil
}

func (p *program) adviceOnOpen(c candidate, err error) []string {
	var refused *host.RefusedError
	if errors.As(err, &refused) {
		return overruling(c, refused)
	}
	switch c.backend.Name() {
	case virtualName:
		return nil
	case usbipName:
		return adviceOnImport(err)
	}
	return p.machine().Open(c.info(), err)
}

// overruling says how a reader is used whose firmware is refused.
func overruling(c candidate, e *host.RefusedError) []string {
	d := c.info()
	id := fmt.Sprintf("%04X:%04X", d.IDVendor, d.IDProduct)
	return []string{
		"New firmware from the vendor is the cure. To use the reader as it is, write a file like " + quirksDir + "/allow.toml:",
		"  [[quirk]]",
		fmt.Sprintf("  id = %q", "allow-"+strings.ToLower(strings.ReplaceAll(id, ":", "-"))),
		fmt.Sprintf("  reader = [%q]", id),
		fmt.Sprintf("  disable = [%s]", `"`+strings.Join(e.Quirks, `", "`)+`"`),
	}
}

// slotFlags choose a reader and a slot of it.
type slotFlags struct {
	reader string
	slot   slotNumber
	wait   bool
}

// slotNumber is the value of --slot.
type slotNumber struct {
	n     int
	given bool
}

// Set implements pflag.Value.
func (s *slotNumber) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 8) // bMaxSlotIndex has 8 bits
	if err != nil {
		return fmt.Errorf("%q is no slot's number; they count from 0", text)
	}
	s.n, s.given = int(n), true
	return nil
}

func (*slotNumber) String() string { return "" }

// Type implements pflag.Value.
func (*slotNumber) Type() string { return "" }

func (s *slotFlags) register(flags *pflag.FlagSet) {
	flags.StringVarP(&s.reader, "reader", "r", "", "the `READER`: its number in the list, port path, VID:PID, or part of its name (needless where there is one)")
	flags.Var(&s.slot, "slot", "the slot's number `N` (default: the first with a card)")
	flags.BoolVar(&s.wait, "wait", false, "wait for a card, at most for --timeout")
}

// choose returns the one reader that key means: a number in the list, a port path, a VID:PID, or part of a name in upper or
// lower case. An empty key means the only reader.
func (p *program) choose(ctx context.Context, s search, key string) (candidate, error) {
	if len(s.readers) == 0 {
		return candidate{}, p.noReader(s)
	}
	matching := s.readers
	if key != "" {
		matching = p.matching(ctx, s.readers, key)
	}
	switch {
	case len(matching) == 1:
		return matching[0], nil
	case len(matching) == 0:
		return candidate{}, &problem{code: exitNoReader, err: fmt.Errorf("no reader is meant by %q", key), advice: lines("There are:", s.readers)}
	case key == "":
		return candidate{}, &problem{code: exitUsage, err: fmt.Errorf("there are %d readers: say which", len(matching)), advice: lines("Choose by number, port path, VID:PID or part of the name:", matching)}
	}
	return candidate{}, &problem{code: exitUsage, err: fmt.Errorf("%q means %d readers", key, len(matching)), advice: lines("Choose one by number or port path:", matching)}
}

func lines(heading string, readers []candidate) []string {
	list := []string{heading}
	for _, c := range readers {
		list = append(list, "  "+c.String())
	}
	return list
}

// matching returns the readers that key may mean: those for which the most exact way of naming them fits.
func (p *program) matching(ctx context.Context, readers []candidate, key string) []candidate {
	if index, err := strconv.Atoi(key); err == nil {
		return filter(readers, func(c candidate) bool { return c.index == index })
	}
	low := strings.ToLower(key)
	ways := []func(candidate) bool{
		func(c candidate) bool { return c.info().PortPath == key },
		func(c candidate) bool { return fmt.Sprintf("%04x:%04x", c.info().IDVendor, c.info().IDProduct) == low },
		func(c candidate) bool { return strings.ToLower(c.name()) == low },
		func(c candidate) bool { return strings.Contains(strings.ToLower(c.name()), low) },
		// The name of the interface is only known to who asks the reader for it.
		func(c candidate) bool {
			return c.function.StringIndex != 0 && strings.Contains(strings.ToLower(p.fullName(ctx, c)), low)
		},
	}
	for _, way := range ways {
		if list := filter(readers, way); len(list) > 0 {
			return list
		}
	}
	return nil
}

func filter(readers []candidate, keep func(candidate) bool) []candidate {
	var list []candidate
	for _, c := range readers {
		if keep(c) {
			list = append(list, c)
		}
	}
	return list
}

// fullName is the name with that of the interface, "" where the reader can't be opened.
func (p *program) fullName(ctx context.Context, c candidate) string {
	reader, err := p.open(ctx, c)
	if err != nil {
		return ""
	}
	defer reader.Close() //nolint:errcheck // only its name was wanted
	return reader.Name()
}

// withReader opens the chosen reader for f.
func (p *program) withReader(ctx context.Context, key string, f func(*host.Reader) error) error {
	return p.withReaders(ctx, func(s search) error {
		c, err := p.choose(ctx, s, key)
		if err != nil {
			return err
		}
		reader, err := p.open(ctx, c)
		if err != nil {
			return err
		}
		return errors.Join(f(reader), reader.Close())
	})
}

// withSlot opens the chosen reader and gives the chosen slot, in which there is a card, to f.
func (p *program) withSlot(ctx context.Context, flags slotFlags, f func(*host.Slot) error) error {
	return p.withReader(ctx, flags.reader, func(r *host.Reader) error {
		slot, err := p.slotWithCard(ctx, r, flags)
		if err != nil {
			return err
		}
		return f(slot)
	})
}

// slotWithCard returns the slot that the flags mean, once there is a card in it.
func (p *program) slotWithCard(ctx context.Context, r *host.Reader, flags slotFlags) (*host.Slot, error) {
	slots := r.Slots()
	if flags.slot.given {
		slot := r.Slot(flags.slot.n)
		if slot == nil {
			return nil, usage("", "--slot %d: %s", flags.slot.n, slotsText(r.Name(), len(slots)))
		}
		slots = []*host.Slot{slot}
	}
	for _, slot := range slots {
		present, err := p.present(ctx, slot)
		if err != nil || present {
			return slot, err
		}
	}
	if !flags.wait {
		return nil, &problem{
			code: exitNoCard, err: fmt.Errorf("%s: %w", r.Name(), host.ErrNoCard),
			advice: []string{"Insert one, contacts first, or lay it on the reader; --wait waits for it."},
		}
	}
	return p.waitForCard(ctx, r.Name(), slots)
}

// slotsText says which slots a reader has.
func slotsText(reader string, n int) string {
	if n == 1 {
		return reader + " has slot 0 only"
	}
	return fmt.Sprintf("%s has slots 0 to %d", reader, n-1)
}

func (p *program) present(ctx context.Context, slot *host.Slot) (present bool, err error) {
	err = p.step(ctx, func(ctx context.Context) error {
		status, err := slot.Status(ctx)
		present = status.ICC.Present()
		return err
	})
	return present, err
}

// waitForCard waits until one of the slots has a card.
func (p *program) waitForCard(whole context.Context, reader string, slots []*host.Slot) (*host.Slot, error) {
	ctx, cancel := context.WithTimeout(whole, p.opts.timeout)
	defer cancel()
	type result struct {
		slot *host.Slot
		err  error
	}
	results := make(chan result, len(slots))
	for _, slot := range slots {
		go func() { results <- result{slot, untilPresent(ctx, slot)} }()
	}
	first := <-results
	late := ctx.Err() != nil && whole.Err() == nil
	cancel()
	for range slots[1:] {
		<-results
	}
	switch {
	case first.err == nil:
		return first.slot, nil
	case late:
		return nil, &problem{
			code: exitTimedOut, err: fmt.Errorf("%s: no card within %v", reader, p.opts.timeout),
			advice: []string{"--timeout says how long to wait."},
		}
	}
	return nil, fmt.Errorf("waited for a card: %w", first.err)
}

func untilPresent(ctx context.Context, slot *host.Slot) error {
	state := slot.State()
	for !state.Present {
		var err error
		if state, err = slot.WaitChange(ctx, state); err != nil {
			return err
		}
	}
	return nil
}
