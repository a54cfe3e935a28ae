package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/cmd/ccid-probe/internal/explain"
)

// explainFlags are those of the explain command.
type explainFlags struct {
	format         string
	file           string
	force          bool
	includeSecrets bool
}

func (p *program) explainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain FILE",
		Short: "Explain a recording: transfers, messages, blocks and APDUs",
		Long: `Write an annotated transcript of a capture: each USB transfer to a reader, the CCID message in it with every field named, the ATR,
PPS, T=1 block or TPDU in that, and the APDUs that they amount to, with times and latencies.

FILE is a recording of "ccid-probe record", or what Wireshark, tshark, tcpdump (usbmon) or USBPcap captured of any driver: pcapng or
pcap. It should begin before the reader is plugged in: without descriptors there is less to say.

--format text is for a terminal, json for programs, and html is one page with a timeline that needs no network.

PINs are hidden, whatever the capture has. --include-secrets shows those that are in it.`,
		Example: `  ccid-probe explain trouble.pcapng
  ccid-probe explain trouble.pcapng --format html -o trouble.html
  ccid-probe explain usbmon.pcapng --json | jq '.apdus[] | [.command, .sw]'`,
		Args: oneFile,
		RunE: p.action(func(ctx context.Context, args []string) error { return p.explain(ctx, f, args[0]) }),
	}
	c.Flags().StringVarP(&f.format, "format", "f", "", "write `FORMAT`: text, json or html (default text; json with --json)")
	c.Flags().StringVarP(&f.file, "output", "o", "", "write to this `FILE`, which must not exist, instead of standard output")
	c.Flags().BoolVar(&f.force, "force", false, "write over a file that exists")
	c.Flags().BoolVar(&f.includeSecrets, "include-secrets", false, "show PINs that are in the capture")
	return c
}

// oneFile wants the name of a capture.
func oneFile(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("As in: ccid-probe "+c.Name()+" trouble.pcapng", "%s wants one capture file, not %d", c.Name(), len(args))
	}
	return nil
}

// formats are the ways to write a transcript, by the values of --format.
var formats = map[string]func(*explain.Transcript, io.Writer) error{
	"text": (*explain.Transcript).WriteText,
	"json": (*explain.Transcript).WriteJSON,
	"html": (*explain.Transcript).WriteHTML,
}

func (p *program) explain(ctx context.Context, f explainFlags, name string) error {
	if err := p.withoutReaders("explain"); err != nil {
		return err
	}
	if f.format == "" {
		f.format = "text"
		if p.opts.json {
			f.format = "json"
		}
	}
	write, ok := formats[f.format]
	switch {
	case !ok:
		return usage("There are text, json and html.", "--format: %q is none", f.format)
	case p.opts.json && f.format != "json":
		return usage("", "give --json or --format %s, not both", f.format)
	case f.file != "":
		if err := keepSource(name, f.file); err != nil {
			return err
		}
	}
	c, err := readCapture(ctx, name)
	if err != nil {
		return err
	}
	transcript := explain.Build(c, explain.Options{Name: filepath.Base(name), IncludeSecrets: f.includeSecrets})
	if f.file == "" {
		return write(transcript, p.out)
	}
	file, _, err := create(ctx, f.file, f.force)
	if err != nil {
		return err
	}
	if err := empty(file); err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(write(transcript, file), file.Close())
}
