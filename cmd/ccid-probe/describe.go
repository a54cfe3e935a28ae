package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/describe"
	"github.com/goccid/goccid/usbtransport"
)

func (p *program) describeCommand() *cobra.Command {
	var bare, reader string
	c := &cobra.Command{
		Use:   "describe [READER] | --class-descriptor HEX",
		Short: "Explain what a reader says of itself, field by field",
		Long: `Explain a reader's device, interface and class descriptors field by field, its clock frequencies and data rates, and flag
what looks wrong in them. READER is its number in the list, port path, VID:PID, or part of its name.
With --class-descriptor it explains the 54 bytes given (CCID 1.1 §5.1), with no reader at all.`,
		Example: `  ccid-probe describe
  ccid-probe describe 08e6:3437
  ccid-probe describe --class-descriptor 36210001000703000000A00F…`,
		RunE: p.action(func(ctx context.Context, args []string) error {
			if bare != "" {
				if err := p.withoutReaders("--class-descriptor"); err != nil {
					return err
				}
			}
			// A name of several words needs no quotes.
			key := strings.Join(args, " ")
			switch {
			case bare != "" && (key != "" || reader != ""):
				return usage("", "give a READER or --class-descriptor, not both")
			case key != "" && reader != "":
				return usage("", "give READER or --reader, not both")
			case bare != "":
				return p.describeBare(bare)
			}
			return p.describeReader(ctx, key+reader)
		}),
	}
	c.Flags().StringVarP(&reader, "reader", "r", "", "the `READER`, as for the other commands")
	c.Flags().StringVar(&bare, "class-descriptor", "", "explain this class descriptor, 54 bytes in `HEX`")
	return c
}

// description is what there is to say of a reader.
type description struct {
	Reader *describedReader      `json:"reader,omitempty"`
	Class  *ccid.ClassDescriptor `json:"class"`
	// Level is the level of exchange that dwFeatures announces, Features the names of its bits.
	Level    string   `json:"level"`
	Features []string `json:"features"`
	// ClockFrequencies (kHz) and DataRates (bit/s) are the reader's lists, empty where it has none.
	ClockFrequencies []uint32           `json:"clock_frequencies_khz"`
	DataRates        []uint32           `json:"data_rates_bps"`
	Findings         []describe.Finding `json:"findings"`
}

// describedReader is the part that a bare class descriptor does not have.
type describedReader struct {
	Index        int                 `json:"index"`
	Name         string              `json:"name"`
	VID          string              `json:"vid"`
	PID          string              `json:"pid"`
	BCDDevice    string              `json:"bcdDevice"`
	Manufacturer string              `json:"manufacturer"`
	Product      string              `json:"product"`
	Serial       string              `json:"serial"`
	Bus          int                 `json:"bus"`
	Address      int                 `json:"address"`
	Port         string              `json:"port"`
	USB          string              `json:"usb"`
	Interface    describedInterface  `json:"interface"`
	Endpoints    []describedEndpoint `json:"endpoints"`
	// Quirks are the rows about the reader in the order in which they are applied, those that are off among them.
	Quirks []quirks.Explanation `json:"quirks"`
	// Error is why the reader can't be opened, "" when it can.
	Error string `json:"error"`
}

type describedInterface struct {
	Number   uint8 `json:"bInterfaceNumber"`
	Setting  uint8 `json:"bAlternateSetting"`
	Class    uint8 `json:"bInterfaceClass"`
	SubClass uint8 `json:"bInterfaceSubClass"`
	Protocol uint8 `json:"bInterfaceProtocol"`
	Strings  uint8 `json:"iInterface"`
}

type describedEndpoint struct {
	Address       uint8  `json:"bEndpointAddress"`
	Type          string `json:"type"`
	Direction     string `json:"direction"`
	MaxPacketSize int    `json:"wMaxPacketSize"`
	Interval      uint8  `json:"bInterval"`
}

func (p *program) describeBare(hex string) error {
	b, err := atr.ParseHex(hex)
	if err != nil {
		return usage("", "--class-descriptor: %w", err)
	}
	class, err := ccid.ParseClassDescriptor(b)
	if err != nil {
		return usage("A class descriptor has 54 bytes and starts with 36 21; lsusb -v prints it decoded, not as it is.", "--class-descriptor: %w", err)
	}
	return p.printDescription(describeClass(class))
}

func describeClass(class *ccid.ClassDescriptor) description {
	return description{
		Class: class, Level: class.DwFeatures.ExchangeLevel().String(), Features: nonNil(class.DwFeatures.Names()),
		ClockFrequencies: []uint32{}, DataRates: []uint32{}, Findings: nonNil(describe.ClassFindings(class)),
	}
}

func (p *program) describeReader(ctx context.Context, key string) error {
	return p.withReaders(ctx, func(s search) error {
		c, err := p.choose(ctx, s, key)
		if err != nil {
			return err
		}
		if c.function.Class == nil {
			err := fmt.Errorf("%s: %w", c.name(), c.function.Unusable)
			return &problem{code: codeOf(started{err}), err: err, advice: p.adviceOnOpen(c, err)}
		}
		d := describeClass(c.function.Class)
		d.Reader = describeCandidate(c)
		d.Findings = append(d.Findings, describe.InterfaceFindings(c.function.Interface)...)
		// The descriptors are known without opening the reader; so a busy one is described all the same, less what only it
		// can tell.
		switch err := p.ask(ctx, c, &d); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			d.Reader.Error = visible(reason(err))
		}
		return p.printDescription(d)
	})
}

// ask opens the reader for what is not in its descriptors: the name of its interface, and its lists.
func (p *program) ask(ctx context.Context, c candidate, d *description) error {
	reader, err := p.open(ctx, c)
	if err != nil {
		return err
	}
	d.Reader.Name = reader.Name()
	if err := reader.Close(); err != nil || c.function.Token() {
		// A token has no requests for lists.
		return err
	}
	return p.step(ctx, func(ctx context.Context) (err error) {
		i, err := c.backend.Open(ctx, c.info(), c.function.Interface.Number)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, i.Close()) }()
		lists, err := describe.AskLists(ctx, i)
		if err != nil {
			return err
		}
		d.ClockFrequencies, d.DataRates = nonNil(lists.ClockFrequencies), nonNil(lists.DataRates)
		d.Findings = append(d.Findings, describe.ListFindings(d.Class, lists)...)
		return nil
	})
}

func describeCandidate(c candidate) *describedReader {
	d, i := c.info(), c.function.Interface
	r := &describedReader{
		Index: c.index, Name: c.name(), VID: fmt.Sprintf("%04X", d.IDVendor), PID: fmt.Sprintf("%04X", d.IDProduct), BCDDevice: describe.BCD(d.BCDDevice),
		Manufacturer: visible(d.Manufacturer), Product: visible(d.Product), Serial: visible(d.SerialNumber),
		Bus: d.Bus, Address: d.Address, Port: d.PortPath, USB: c.backend.Name(), Endpoints: []describedEndpoint{},
		Quirks:    nonNil(c.quirks.Explain(c.function.QuirkDevice())),
		Interface: describedInterface{i.Number, i.AlternateSetting, i.Class, i.SubClass, i.Protocol, c.function.StringIndex},
	}
	for _, e := range i.Endpoints {
		r.Endpoints = append(r.Endpoints, describedEndpoint{e.Address, transferType(e.Type), direction(e), e.MaxPacketSize, e.Interval})
	}
	return r
}

func transferType(t usbtransport.TransferType) string {
	switch t {
	case usbtransport.TransferControl:
		return "control"
	case usbtransport.TransferIsochronous:
		return "isochronous"
	case usbtransport.TransferBulk:
		return "bulk"
	}
	return "interrupt"
}

func direction(e usbtransport.EndpointDescriptor) string {
	if e.In() {
		return "in"
	}
	return "out"
}

func (p *program) printDescription(d description) error {
	if p.opts.json {
		return p.out.document(d)
	}
	if d.Reader != nil {
		p.printDevice(*d.Reader)
	}
	p.out.printf("Class descriptor\n")
	for _, f := range describe.Class(d.Class) {
		p.printField(f)
	}
	if d.Reader != nil {
		p.printNumbers("Clock frequencies", d.ClockFrequencies, describe.Clock)
		p.printNumbers("Data rates", d.DataRates, describe.Rate)
		p.printQuirks(d.Reader.Quirks)
	}
	if len(d.Findings) == 0 {
		p.out.printf("Nothing in it looks wrong.\n")
		return nil
	}
	p.out.printf("What looks wrong\n")
	for _, f := range d.Findings {
		p.out.printf("  %s: %s\n", f.Field, f.Text)
	}
	return nil
}

func (p *program) printField(f describe.Field) {
	p.out.printf("%s\n", strings.TrimRight(fmt.Sprintf("  %-22s  %-10s  %s", f.Name, f.Value, f.Meaning), " "))
	for _, detail := range f.Details {
		p.out.printf("  %36s- %s\n", "", detail)
	}
}

func (p *program) printDevice(r describedReader) {
	p.out.printf("Reader %d: %s\n", r.Index, r.Name)
	if r.Error != "" {
		p.out.printf("  can't be opened: %s\n", r.Error)
	}
	p.out.printf("Device\n")
	i := r.Interface
	for _, f := range []describe.Field{
		{Name: "idVendor", Value: "0x" + r.VID, Meaning: r.Manufacturer},
		{Name: "idProduct", Value: "0x" + r.PID, Meaning: r.Product},
		{Name: "bcdDevice", Value: r.BCDDevice, Meaning: "the reader's own release"},
		{Name: "iSerialNumber", Value: orNone(r.Serial)},
		{Name: "place", Value: "port " + r.Port, Meaning: fmt.Sprintf("bus %d, address %d, through %s", r.Bus, r.Address, r.USB)},
		{Name: "bInterfaceNumber", Value: fmt.Sprint(i.Number), Meaning: fmt.Sprintf("alternate setting %d", i.Setting)},
		{Name: "bInterfaceClass", Value: fmt.Sprintf("0x%02X", i.Class), Meaning: describe.InterfaceClass(i.Class)},
		{Name: "bInterfaceProtocol", Value: fmt.Sprint(i.Protocol), Meaning: describe.InterfaceProtocol(i.Protocol)},
	} {
		p.printField(f)
	}
	for _, e := range r.Endpoints {
		p.printField(describe.Field{
			Name: "bEndpointAddress", Value: fmt.Sprintf("0x%02X", e.Address),
			Meaning: fmt.Sprintf("%s %s, packets of %d bytes%s", e.Type, e.Direction, e.MaxPacketSize, interval(e)),
		})
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func interval(e describedEndpoint) string {
	if e.Type != "interrupt" {
		return ""
	}
	return fmt.Sprintf(", bInterval %d", e.Interval)
}

// printQuirks says what is done otherwise for the reader than its descriptors say, and why.
func (p *program) printQuirks(list []quirks.Explanation) {
	if len(list) == 0 {
		return
	}
	p.out.printf("Quirks\n")
	for _, q := range list {
		name := q.ID
		if q.Off != "" {
			name += " (not in effect: " + q.Off + ")"
		}
		p.out.printf("  %s: %s\n", visible(name), visible(strings.Join(q.Actions, "; ")))
		if q.Reason != "" {
			p.out.printf("    %s\n", visible(q.Reason))
		}
		p.out.printf("    %s\n", visible(strings.Join(slices.DeleteFunc([]string{q.Origin, q.Source}, func(s string) bool { return s == "" }), ", by ")))
	}
}

// numbersPerLine is how many entries of a list stand on one line.
const numbersPerLine = 6

func (p *program) printNumbers(name string, list []uint32, text func(uint32) string) {
	if len(list) == 0 {
		return
	}
	p.out.printf("%s (%d)\n", name, len(list))
	for len(list) > 0 {
		n := min(len(list), numbersPerLine)
		line := make([]string, n)
		for i, v := range list[:n] {
			line[i] = text(v)
		}
		p.out.printf("  %s\n", strings.Join(line, ", "))
		list = list[n:]
	}
}
