package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid/host"
)

func (p *program) atrCommand() *cobra.Command {
	var s slotFlags
	c := &cobra.Command{
		Use:   "atr HEX... | --reader READER",
		Short: "Explain an answer to reset, given or of the card in a reader",
		Long: `Explain an answer to reset (ISO/IEC 7816-3) field by field, with the names that pcsc-tools' list of known cards has for it,
where that list is installed. HEX may have spaces, colons and 0x, in one argument or several.`,
		Example: `  ccid-probe atr 3B7A18000073667465206364313434
  ccid-probe atr 3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34
  ccid-probe atr --reader 0`,
		RunE: p.action(func(ctx context.Context, args []string) error { return p.explainATR(ctx, s, args) }),
	}
	s.register(c.Flags())
	return c
}

const exampleATR = "As in: ccid-probe atr 3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34"

func (p *program) explainATR(ctx context.Context, s slotFlags, args []string) error {
	given := strings.Join(args, " ")
	switch {
	case given != "" && s.reader != "":
		return usage("", "give an ATR or --reader, not both")
	case given != "" && (s.slot.given || s.wait):
		return usage("", "--slot and --wait are for the card in a reader, not for an ATR that is given")
	case given != "":
		if err := p.withoutReaders("an ATR that is given"); err != nil {
			return err
		}
		raw, err := atr.ParseHex(given)
		if err != nil {
			return usage("", "ATR: %w", err)
		}
		if len(raw) == 0 {
			return usage(exampleATR, "no ATR given")
		}
		if err := p.printATR(raw); err != nil {
			return usage("", "%w", err)
		}
		return nil
	case s.reader == "" && !p.opts.elsewhere():
		return usage(exampleATR+"\nOr of the card in the first reader: ccid-probe atr --reader 0", "no ATR given")
	}
	return p.withSlot(ctx, s, func(slot *host.Slot) error {
		var raw []byte
		err := p.step(ctx, func(ctx context.Context) (err error) {
			raw, err = slot.PowerOn(ctx, host.ColdReset)
			return err
		})
		if err != nil {
			return err
		}
		if err := p.printATR(raw); err != nil {
			return &problem{code: exitCardFailed, err: fmt.Errorf("the card's %w", err)}
		}
		return nil
	})
}

// printATR writes what can be said of an ATR. For one that is none it does so too, and returns the error.
func (p *program) printATR(raw []byte) error {
	a, err := atr.Parse(raw)
	if a == nil {
		if p.opts.json {
			return errors.Join(err, p.out.line(map[string]any{"atr": compactHex(raw), "valid": false}))
		}
		return err
	}
	list, names := p.cardNames(raw)
	if p.opts.json {
		v, marshalErr := withKeys(a, map[string]any{"names": names, "problems": nonNil(a.Problems())})
		if marshalErr != nil {
			return marshalErr
		}
		return errors.Join(err, p.out.line(v))
	}
	p.out.printf("ATR %s\n", spacedHex(a.Raw))
	for _, line := range a.Text() {
		p.out.printf("%s\n", visible(line))
	}
	switch {
	case len(names) > 0:
		p.out.printf("\nKnown in %s as\n", list)
		for _, name := range names {
			p.out.printf("  %s\n", visible(name))
		}
	case list != "":
		p.out.printf("\nNot in %s\n", list)
	}
	return err
}

// withKeys returns v's JSON object with more keys.
func withKeys(v any, more map[string]any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	object := map[string]any{}
	if err := json.Unmarshal(b, &object); err != nil {
		return nil, err
	}
	for key, value := range more {
		object[key] = value
	}
	return object, nil
}

// nonNil makes JSON write [] where there is nothing.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// cardNames looks an ATR up in the list of known cards and returns the list's path, "" where there is none. The places are
// those of pcsc-tools.
func (p *program) cardNames(raw []byte) (list string, names []string) {
	names = []string{}
	for _, name := range p.cardLists() {
		f, err := p.root.Open(strings.TrimPrefix(name, "/"))
		if err != nil {
			continue
		}
		found, err := namesAndClose(f, raw)
		if err != nil {
			p.log.Warnf("%s: %v", name, err)
			continue
		}
		return name, nonNil(found)
	}
	return "", names
}

func namesAndClose(f fs.File, raw []byte) ([]string, error) {
	names, err := atr.Names(f, raw)
	return names, errors.Join(err, f.Close())
}

func (p *program) cardLists() []string {
	const file = "smartcard_list.txt"
	var list []string
	home, cache := p.getenv("HOME"), p.getenv("XDG_CACHE_HOME")
	if cache == "" && home != "" {
		cache = path.Join(home, ".cache")
	}
	if cache != "" {
		list = append(list, path.Join(cache, file))
	}
	if home != "" {
		list = append(list, path.Join(home, "."+file))
	}
	return append(list, "/usr/local/pcsc/"+file, "/usr/share/pcsc/"+file, "/usr/local/share/pcsc/"+file)
}
