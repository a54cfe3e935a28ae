package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
)

func (p *program) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the readers, their slots and cards",
		Long: `List every CCID interface on the machine: name, USB ids, port, serial number, slots, and for each card its answer to reset.
Where a reader can't be opened it says why, and what to do about it. Cards are powered for the moment that takes.`,
		Args: noArguments,
		RunE: p.action(func(ctx context.Context, _ []string) error {
			_, err := p.list(ctx)
			return err
		}),
	}
}

// listedReader is one entry of the list.
type listedReader struct {
	Index int    `json:"index"`
	Name  string `json:"name"`
	// VID and PID are four hexadecimal digits.
	VID       string `json:"vid"`
	PID       string `json:"pid"`
	Bus       int    `json:"bus"`
	Port      string `json:"port"`
	Serial    string `json:"serial"`
	Interface uint8  `json:"interface"`
	USB       string `json:"usb"`
	// Level is the level of exchange, "" without a class descriptor.
	Level string `json:"level"`
	// ICCD is "A" or "B" for a token, which has that version of ICCD in place of bulk endpoints.
	ICCD  string       `json:"iccd,omitempty"`
	Slots []listedSlot `json:"slots"`
	// Error is why the reader can't be opened, "" when it can; Advice is what to do about it.
	Error  string   `json:"error"`
	Advice []string `json:"advice"`
}

type listedSlot struct {
	Slot int    `json:"slot"`
	Name string `json:"name"`
	// Present says that there is a card, ATR is its answer to reset in hexadecimal, "" when it gave none; Error is why.
	Present bool   `json:"card_present"`
	ATR     string `json:"atr"`
	Error   string `json:"error"`

	raw []byte
}

// overview is what the program does without a command: the list, and the most helpful next step.
func (p *program) overview(ctx context.Context, _ []string) error {
	readers, err := p.list(ctx)
	if err != nil || p.opts.json {
		return err
	}
	p.out.printf("\n%s\n", nextStep(readers, p.opts.elsewhereFlags()))
	return nil
}

// quoted is an argument as a shell takes it.
func quoted(s string) string {
	const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=,.:+/"
	if s != "" && strings.Trim(s, safe) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// nextStep proposes what to do with the readers, of which there is at least one.
func nextStep(readers []listedReader, flags string) string {
	for _, r := range readers {
		for _, s := range r.Slots {
			if s.ATR != "" {
				return fmt.Sprintf("Next: what card is that?  ccid-probe atr --reader %d%s", r.Index, flags)
			}
		}
	}
	for _, r := range readers {
		if r.Error == "" {
			return fmt.Sprintf("Next: insert a card, or see what the reader can do:  ccid-probe describe %d%s", r.Index, flags)
		}
	}
	return fmt.Sprintf("Next: follow the advice above, or see what the reader says of itself:  ccid-probe describe %d%s", readers[0].Index, flags)
}

// list prints the readers and returns them.
func (p *program) list(ctx context.Context) ([]listedReader, error) {
	readers := []listedReader{}
	err := p.withReaders(ctx, func(s search) error {
		for _, c := range s.readers {
			r := p.inspect(ctx, c)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			readers = append(readers, r)
			if !p.opts.json {
				p.printReader(r)
			}
		}
		if p.opts.json {
			if err := p.out.document(readers); err != nil {
				return err
			}
		}
		if len(readers) == 0 {
			return p.noReader(s)
		}
		return noneReadable(s.readers)
	})
	return readers, err
}

// noneReadable is the problem that nothing could be learned of any reader: there is no next step with them. What can be done about it
// stands in the list.
func noneReadable(readers []candidate) error {
	if slices.ContainsFunc(readers, func(c candidate) bool { return c.info().Descriptors != nil }) {
		return nil
	}
	err := readers[0].info().Unreadable
	return &problem{code: codeOf(started{err}), err: err}
}

// inspect opens a reader and looks into its slots.
func (p *program) inspect(ctx context.Context, c candidate) listedReader {
	d := c.info()
	entry := listedReader{
		Index: c.index, Name: c.name(), VID: fmt.Sprintf("%04X", d.IDVendor), PID: fmt.Sprintf("%04X", d.IDProduct),
		Bus: d.Bus, Port: d.PortPath, Serial: visible(d.SerialNumber), Interface: c.function.Interface.Number, USB: c.backend.Name(),
		Slots: []listedSlot{}, Advice: []string{},
	}
	if c.function.Class != nil {
		entry.Level = c.function.Class.DwFeatures.ExchangeLevel().String()
	}
	if c.function.Token() {
		entry.ICCD = map[uint8]string{ccid.ProtocolICCDA: "A", ccid.ProtocolICCDB: "B"}[c.function.Interface.Protocol]
	}
	reader, err := p.open(ctx, c)
	if err != nil {
		entry.Error = visible(reason(err))
		var pr *problem
		if errors.As(err, &pr) {
			entry.Advice = nonNil(pr.advice)
		}
		return entry
	}
	defer reader.Close() //nolint:errcheck // what was to be learned has been learned
	entry.Name = reader.Name()
	for _, slot := range reader.Slots() {
		entry.Slots = append(entry.Slots, p.inspectSlot(ctx, slot))
	}
	return entry
}

// reason is an error without the operation and the reader's name, which stand above it in the list.
func reason(err error) string {
	var h *host.Error
	if errors.As(err, &h) {
		return h.Err.Error()
	}
	return err.Error()
}

func (p *program) inspectSlot(ctx context.Context, slot *host.Slot) listedSlot {
	entry := listedSlot{Slot: slot.Index(), Name: slot.Name()}
	var err error
	if entry.Present, err = p.present(ctx, slot); err == nil && entry.Present {
		err = p.step(ctx, func(ctx context.Context) (err error) {
			entry.raw, err = slot.PowerOn(ctx, host.ColdReset)
			return err
		})
		entry.ATR = compactHex(entry.raw)
	}
	if errors.Is(err, host.ErrNoCard) {
		entry.Present, err = false, nil
	}
	if err != nil {
		entry.Error = visible(reason(err))
	}
	return entry
}

func (p *program) printReader(r listedReader) {
	facts := []string{strings.ToLower(r.VID + ":" + r.PID), "port " + r.Port}
	if r.Serial != "" {
		facts = append(facts, "serial "+r.Serial)
	}
	switch {
	case r.ICCD != "":
		facts = append(facts, "ICCD version "+r.ICCD)
	case r.Level != "":
		facts = append(facts, r.Level+" level")
	}
	if r.USB != "usbfs" {
		facts = append(facts, r.USB)
	}
	p.out.printf("%d  %s\n   %s\n", r.Index, r.Name, strings.Join(facts, ", "))
	if r.Error != "" {
		p.out.printf("   can't be opened: %s\n", r.Error)
		for _, line := range r.Advice {
			p.out.printf("     %s\n", line)
		}
	}
	for _, s := range r.Slots {
		p.out.printf("   slot %d: %s\n", s.Slot, cardText(s))
	}
}

func cardText(s listedSlot) string {
	switch {
	case s.Error != "" && s.Present:
		return "card, but " + s.Error
	case s.Error != "":
		return s.Error
	case !s.Present:
		return "no card"
	}
	return "card, ATR " + spacedHex(s.raw)
}
