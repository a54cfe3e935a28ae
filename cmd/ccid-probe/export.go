package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/usbtransport/usbip"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/control"
)

func (p *program) virtualCommand() *cobra.Command {
	var e exporter
	c := &cobra.Command{
		Use:   "virtual [--reader NAME[,KEY=VALUE...] [--card CARD]...]...",
		Short: "Export virtual readers over USB/IP",
		Long: `Export virtual readers over USB/IP, to "ccid-probe --usbip", or to the kernel of a Linux machine, where pcscd drives them.
Without a --reader it is one gemalto-pc-twin; NAME and KEY=VALUE are those of --virtual. Each --card goes into the next slot of the
reader before it; without one there is a T=1 card in slot 0.

Lines on standard input work the readers while they run, and so do lines to the socket of --control; help lists the commands. Each
answer ends with a line that begins with ok or error. The end of standard input ends nothing; quit and Ctrl-C do.

The USB/IP protocol has no authentication and no encryption: whoever reaches the port has the readers and the cards in them. So
only this machine can reach it, unless --allow-remote is given. For another machine better put ssh or a TLS proxy in front.`,
		Example: `  ccid-probe virtual --reader gemalto-pc-twin,level=tpdu --card t0
  ccid-probe virtual --reader scr3310,slots=2 --card t1 --card t0 --reader cherry-smartterminal-xx44 --card none
  ccid-probe virtual --control /run/user/1000/readers.sock --record session.pcapng
  ssh -L 3240:127.0.0.1:3240 HOST    (makes what HOST exports reachable here: ccid-probe --usbip 127.0.0.1)`,
		Args: noArguments,
		RunE: p.action(func(ctx context.Context, _ []string) error { return p.export(ctx, e) }),
	}
	flags := c.Flags()
	flags.SortFlags = false
	flags.Var(newReader{&e.readers}, "reader", "a reader `NAME[,KEY=VALUE...]`; repeatable")
	flags.Var(newCard{&e.readers}, "card", "what is in the next slot of that reader, `CARD`: t0, t1, none, vpcd:HOST:PORT or vpcd-listen:PORT; repeatable")
	flags.StringVar(&e.listen, "listen", "127.0.0.1:"+usbip.DefaultPort, "listen at `ADDRESS`; port 0 is a free one")
	flags.BoolVar(&e.allowRemote, "allow-remote", false, "let --listen be reached by other machines: by anybody there")
	flags.StringVar(&e.control, "control", "", "take commands from a Unix socket at `PATH`, too, of this user only")
	flags.StringVar(&e.record, "record", "", "write what goes over the readers' USB to `FILE`, which must not exist, pcapng, PINs hidden")
	flags.BoolVar(&e.force, "force", false, "write over a file that exists")
	flags.BoolVar(&e.listModels, "list-models", false, "list the models that NAME can be, and do nothing else")
	return c
}

// exporter is what the flags of "virtual" say.
type exporter struct {
	readers     []string // as virtual.ParseSpec takes them
	listen      string
	allowRemote bool
	control     string
	record      string
	force       bool
	listModels  bool
}

// newReader is the value of --reader: each is one more. What is asked for in a row of flags --reader and --card keeps its order.
type newReader struct{ readers *[]string }

func (newReader) Type() string   { return "" }
func (newReader) String() string { return "" }

// Set implements pflag.Value.
func (v newReader) Set(text string) error {
	if first, _, _ := strings.Cut(text, ","); !strings.Contains(first, "=") {
		text = "reader=" + text
	}
	*v.readers = append(*v.readers, text)
	return nil
}

// newCard is the value of --card: a card for the reader before it.
type newCard struct{ readers *[]string }

func (newCard) Type() string   { return "" }
func (newCard) String() string { return "" }

// Set implements pflag.Value.
func (v newCard) Set(text string) error {
	if _, err := virtual.ParseCard(text); err != nil {
		return err
	}
	if len(*v.readers) == 0 {
		*v.readers = []string{""}
	}
	(*v.readers)[len(*v.readers)-1] += ",card=" + text
	return nil
}

// export runs until it is told to quit, by a command or a signal; neither is a failure.
func (p *program) export(ctx context.Context, e exporter) (err error) {
	if p.opts.elsewhere() || p.opts.usb != "" {
		return usage("Readers to export are named with --reader.", "virtual: --virtual, --usbip and --usb are not for this command")
	}
	if e.listModels {
		return p.printModels()
	}
	listener, err := e.listener(ctx)
	if err != nil {
		return err
	}
	defer listener.Close() //nolint:errcheck // closed by the server, or never used
	v := &virtualReaders{bus: virtual.NewBus()}
	defer func() {
		p.reportHosts(v)
		err = errors.Join(err, v.Close())
	}()
	bench := control.NewBench(v.bus)
	if len(e.readers) == 0 {
		e.readers = []string{""}
	}
	for _, text := range e.readers {
		if err := p.addReader(ctx, v, bench, text); err != nil {
			return err
		}
	}
	backend, finish, err := p.recording(ctx, v.bus, e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, finish()) }()
	services := []func(context.Context) error{
		func(ctx context.Context) error {
			return (&usbip.Server{Backend: backend, Logger: p.log}).Serve(ctx, listener)
		},
		// As every command does, it ends when its output is read no more; but it may have nothing to write for long.
		func(ctx context.Context) error { return untilUnread(ctx, p.stdout) },
	}
	if e.control != "" {
		socket, err := control.Listen(e.control)
		if err != nil {
			return err
		}
		services = append(services, func(ctx context.Context) error { return bench.Serve(ctx, socket) })
	}
	if err := p.printExport(v, listener.Addr(), e.control); err != nil {
		return err
	}
	return p.attend(ctx, bench, services)
}

// listedModel is one model of a reader.
type listedModel struct {
	Name    string   `json:"name"`
	Aliases []string `json:"aliases"`
	// VID and PID are four hexadecimal digits.
	VID          string `json:"vid"`
	PID          string `json:"pid"`
	Manufacturer string `json:"manufacturer"`
	Product      string `json:"product"`
}

// printModels lists the models that there are.
func (p *program) printModels() error {
	models, err := virtual.Models()
	if err != nil {
		return err
	}
	list := make([]listedModel, 0, len(models))
	for _, m := range models {
		list = append(list, listedModel{
			m.Name, nonNil(m.Aliases), fmt.Sprintf("%04X", m.IDVendor), fmt.Sprintf("%04X", m.IDProduct), m.Manufacturer, m.Product,
		})
	}
	if p.opts.json {
		return p.out.document(list)
	}
	for _, m := range list {
		also := ""
		if len(m.Aliases) > 0 {
			also = " (also " + strings.Join(m.Aliases, ", ") + ")"
		}
		p.out.printf("%s\n", visible(fmt.Sprintf("%-44s %s  %s%s", m.Name, strings.ToLower(m.VID+":"+m.PID), strings.TrimSpace(m.Manufacturer+" "+m.Product), also)))
	}
	return nil
}

// listener listens, where that is allowed.
func (e exporter) listener(ctx context.Context) (net.Listener, error) {
	address, err := net.ResolveTCPAddr("tcp", e.listen)
	if err != nil {
		return nil, usage("As in: --listen 127.0.0.1:3240", "--listen %s: %w", e.listen, err)
	}
	if !address.IP.IsLoopback() && !e.allowRemote {
		return nil, usage("USB/IP has no authentication and no encryption: whoever reaches the port has the readers and the cards in them.\n"+
			"From another machine, reach it through ssh: ssh -L 3240:127.0.0.1:3240 THIS-HOST\n"+
			"If everybody who can reach it may have it: --allow-remote",
			"--listen %s: other machines could reach that", e.listen)
	}
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", address.String())
}

// addReader makes one reader and plugs it in.
func (p *program) addReader(ctx context.Context, v *virtualReaders, bench *control.Bench, text string) error {
	spec, err := virtual.ParseSpec(text)
	if err != nil {
		return usage("As in: --reader gemalto-pc-twin,level=tpdu --card t1", "--reader %s: %w", strings.TrimPrefix(text, "reader="), err)
	}
	return p.step(ctx, func(ctx context.Context) error {
		station, err := spec.Start(ctx)
		if err != nil {
			return err
		}
		v.stations, v.names = append(v.stations, station), append(v.names, spec.Name())
		_, err = bench.Add(spec.Name(), station)
		return err
	})
}

// recording has what goes over a bus written to a file, if one is named.
func (p *program) recording(ctx context.Context, bus *virtual.Bus, e exporter) (backend usbtransport.Backend, finish func() error, err error) {
	if e.record == "" {
		return bus, func() error { return nil }, nil
	}
	f, _, err := create(ctx, e.record, e.force)
	if err != nil {
		return nil, nil, fmt.Errorf("--record: %w", err)
	}
	if err := empty(f); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	recorder, err := capture.NewRecorder(bus, f, capture.Options{
		Failed: func(err error) { p.log.WithError(err).Error("the recording has ended early") },
	})
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return recorder, func() error { return errors.Join(recorder.Err(), f.Close()) }, nil
}

// exportedReader is one entry of what is exported.
type exportedReader struct {
	Index int `json:"index"`
	// Name is the model's name as it was given, Model the one in the list of models.
	Name  string `json:"name"`
	Model string `json:"model"`
	// VID and PID are four hexadecimal digits.
	VID   string   `json:"vid"`
	PID   string   `json:"pid"`
	BusID string   `json:"bus_id"`
	Slots []string `json:"slots"`
}

// printExport says what is exported where, and what to do with it.
func (p *program) printExport(v *virtualReaders, address net.Addr, socket string) error {
	var readers []exportedReader
	devices, _ := v.bus.Devices(context.Background()) // fails with its context only
	for i, d := range devices {
		r := exportedReader{Index: i, Name: v.names[i], Model: v.stations[i].Model().Name, VID: fmt.Sprintf("%04X", d.IDVendor), PID: fmt.Sprintf("%04X", d.IDProduct), BusID: d.PortPath}
		for _, c := range v.stations[i].Inserted() {
			r.Slots = append(r.Slots, c.String())
		}
		readers = append(readers, r)
	}
	if p.opts.json {
		return p.out.line(map[string]any{"listen": address.String(), "control": socket, "readers": readers})
	}
	for _, r := range readers {
		p.out.printf("%d  %s\n   %s, bus ID %s\n", r.Index, r.Name, strings.ToLower(r.VID+":"+r.PID), r.BusID)
		for i, c := range r.Slots {
			p.out.printf("   slot %d: %s\n", i, c)
		}
	}
	host, port, _ := net.SplitHostPort(address.String())
	p.out.printf("\nExported over USB/IP at %s. To use them:\n  ccid-probe list --usbip %s\n", address, address)
	p.out.printf("  sudo modprobe vhci-hcd; sudo usbip --tcp-port %s attach -r %s -b %s    (for pcscd)\n", port, host, readers[0].BusID)
	p.out.printf("Commands are taken from standard input; help lists them.\n")
	return p.out.err
}

// attend runs the services and answers the lines of standard input, until quit, a failure, or the end of ctx.
func (p *program) attend(ctx context.Context, bench *control.Bench, services []func(context.Context) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var running sync.WaitGroup
	for _, serve := range services {
		running.Go(func() { end(serve(ctx)) })
	}
	for lines := p.inputLines(ctx); ctx.Err() == nil; {
		select {
		case line, more := <-lines:
			if !more {
				lines = nil // nobody is there to command
				continue
			}
			answer, err := bench.Answer(ctx, line)
			p.out.printf("%s", answer)
			if err = cmp.Or(err, p.out.err); err != nil {
				end(err)
			}
		case <-ctx.Done():
		}
	}
	running.Wait()
	cause := context.Cause(ctx)
	if errors.Is(cause, control.ErrQuit) || errors.Is(cause, context.Canceled) {
		return nil // that is how it should end
	}
	return cause
}

// inputLines reads standard input. A read can't be broken off: the goroutine that does it ends with the input, or with the program.
func (p *program) inputLines(ctx context.Context) <-chan string {
	if p.stdin == nil {
		return nil
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(p.stdin)
		scanner.Buffer(make([]byte, 0, 256), control.MaxLine)
		for scanner.Scan() {
			select {
			case lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
		if err := scanner.Err(); err != nil {
			p.log.WithError(err).Warn("commands are not read from standard input any more")
		}
	}()
	return lines
}

// reportHosts logs which rules of CCID the hosts have broken.
func (p *program) reportHosts(v *virtualReaders) {
	for i, station := range v.stations {
		for _, violation := range station.Violations() {
			p.log.Warnf("%s: the host broke a rule of CCID: %v", v.names[i], violation)
		}
	}
}
