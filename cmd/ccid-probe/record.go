package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// recordFlags are those of the record command.
type recordFlags struct {
	file           string
	force          bool
	reader         string
	includeSecrets bool
}

// recorded are the commands that can be recorded: those that use readers and end by themselves.
var recorded = []string{"list", "describe", "atr", "apdu"}

func (p *program) recordCommand() *cobra.Command {
	var f recordFlags
	c := &cobra.Command{
		Use:   "record -o FILE [--reader READER] -- COMMAND [ARGUMENT...]",
		Short: "Record what a command says to readers into a pcapng file",
		Long: `Run another command of ccid-probe and write every USB transfer to the readers that it opens into a pcapng file, as the kernel's
usbmon would show it: Wireshark decodes it, and "ccid-probe explain" and "ccid-probe replay" take it. COMMAND is list, describe, atr or
apdu, with its own arguments and flags. Flags of all commands can stand before the -- as well, and --reader too.

What may be a PIN in VERIFY, CHANGE REFERENCE DATA, DISABLE and ENABLE VERIFICATION REQUIREMENT, RESET RETRY COUNTER and PIN pad
messages is replaced by asterisks before it is written, unless --include-secrets is given. Each transfer is written at once, so a recording that was killed can be read.`,
		Example: `  ccid-probe record -o trouble.pcapng -- apdu --reader gemalto 00A4040007A0000000790100
  ccid-probe record -o list.pcapng -- list
  ccid-probe record -o atr.pcapng --virtual card=t1 -- atr`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case f.file == "":
				return usage("As in: ccid-probe record -o FILE -- atr --reader 0", "no file given")
			case len(args) == 0:
				return usage("As in: ccid-probe record -o FILE -- atr --reader 0", "no command to record given")
			case !slices.Contains(recorded, args[0]):
				return usage("There are "+strings.Join(recorded, ", ")+".", "%q is no command that can be recorded", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return p.record(c.Context(), f, args) },
	}
	c.Flags().StringVarP(&f.file, "output", "o", "", "write the recording to this `FILE`, which must not exist")
	c.Flags().BoolVar(&f.force, "force", false, "write over a file that exists")
	c.Flags().StringVarP(&f.reader, "reader", "r", "", "the `READER`, as for the command")
	c.Flags().BoolVar(&f.includeSecrets, "include-secrets", false, "write PINs, too")
	return c
}

// record runs the program once more, with args, and its backend recorded. Errors are those of that run: what is wrong on its
// command line is told as it tells it.
func (p *program) record(ctx context.Context, f recordFlags, args []string) error {
	if f.includeSecrets {
		fmt.Fprintf(p.stderr, "ccid-probe: warning: PINs are recorded into %s as they are: give it to nobody\n", visible(f.file))
	}
	if f.reader != "" {
		args = slices.Insert(slices.Clone(args), 1, "--reader", f.reader)
	}
	r := &recording{flags: f}
	inner := &program{environment: p.environment, out: p.out, log: p.log, tape: r}
	root := inner.rootCommand()
	inner.opts = p.opts // the defaults of the inner command's flags
	root.SetArgs(args)
	root.SetOut(p.out)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(ctx)
	ended := r.close()
	switch {
	case ended != nil && err == nil:
		return started{fmt.Errorf("the recording is not whole: %w", ended)}
	case ended != nil:
		fmt.Fprintf(p.stderr, "ccid-probe: the recording is not whole: %v\n", ended)
	case r.size > 0:
		fmt.Fprintf(p.stderr, "ccid-probe: recorded %s, %d bytes. See it: ccid-probe explain %s\n", visible(f.file), r.size, visible(quoted(f.file)))
	case r.file != nil || err == nil:
		fmt.Fprintf(p.stderr, "ccid-probe: nothing was recorded, and %s is not written: no reader was used\n", visible(f.file))
	}
	return err
}

// recording is a file in the making. It is begun when the readers are looked for, so that a mistake on the command line
// leaves no file; and what begins it is held back until there is a transfer, so that neither does a machine without a reader.
type recording struct {
	flags recordFlags
	file  *os.File
	// made: the file was not there before.
	made     bool
	head     []byte
	size     int64
	recorder *capture.Recorder
}

// Write implements io.Writer: each packet is one call, and goes to the file at once.
func (r *recording) Write(b []byte) (int, error) {
	if r.recorder == nil {
		r.head = append(r.head, b...)
		return len(b), nil
	}
	if r.size == 0 {
		if err := r.writeHead(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(b)
	r.size += int64(n)
	return n, err
}

func (r *recording) writeHead() error {
	if err := empty(r.file); err != nil {
		return err
	}
	n, err := r.file.Write(r.head)
	r.size = int64(n)
	return err
}

var _ io.Writer = (*recording)(nil)

// begin makes the file and a recorder for the backend.
func (r *recording) begin(ctx context.Context, backends []usbtransport.Backend) ([]usbtransport.Backend, error) {
	if len(backends) != 1 {
		return nil, usage("Give one of --usb, --usbip and --virtual.", "a recording has the readers of one kind of USB, not of %d", len(backends))
	}
	var err error
	if r.file, r.made, err = create(ctx, r.flags.file, r.flags.force); err != nil {
		return nil, err
	}
	r.recorder, err = capture.NewRecorder(backends[0], r, capture.Options{IncludeSecrets: r.flags.includeSecrets})
	if err != nil {
		return nil, err
	}
	return []usbtransport.Backend{r.recorder}, nil
}

// close ends the file, and takes away one that nothing came into. The error is what keeps the recording from being whole.
func (r *recording) close() error {
	if r.file == nil {
		return nil
	}
	var early error
	if r.recorder != nil {
		early = r.recorder.Err()
	}
	if early == nil && r.size == 0 {
		return errors.Join(r.file.Close(), r.discard())
	}
	return errors.Join(early, flush(r.file), r.file.Close())
}

// discard removes the file, unless it was there before: then it is as it was.
func (r *recording) discard() error {
	if !r.made {
		return nil
	}
	return os.Remove(r.flags.file)
}

// note says which APDU the next transfers are about; a nil recording says it to nobody.
func (r *recording) note(slot *host.Slot, command []byte) {
	if r != nil && r.recorder != nil {
		r.recorder.CommentAPDU(slot.Reader().Function().Device, slot.Index(), command)
	}
}
