package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/rerun"
	"github.com/goccid/goccid/usbtransport/capture"
)

// replayFlags are those of the replay command.
type replayFlags struct {
	lenient bool
	speed   string
}

func (p *program) replayCommand() *cobra.Command {
	var f replayFlags
	c := &cobra.Command{
		Use:   "replay FILE",
		Short: "Run this driver against a recording, in the place of the readers",
		Long: `Have this program's driver do what the host of a capture did: open each reader, power the cards, set the protocol, send the
APDUs, with the recording in the place of the readers. FILE is as for "ccid-probe explain"; it has to begin before the reader is
plugged in.

Without --lenient the driver must send the same bytes in the same order, which it does for recordings of its own; for those
of another driver it tells where the two differ. With --lenient, commands may differ in what makes no difference: sequence numbers,
timing, questions about the state, the way an APDU is cut.

Where driver and recording part, the packet and the field are told, and the exit code is 1.`,
		Example: `  ccid-probe replay trouble.pcapng
  ccid-probe replay usbmon.pcapng --lenient --speed recorded`,
		Args: oneFile,
		RunE: p.action(func(ctx context.Context, args []string) error { return p.replay(ctx, f, args[0]) }),
	}
	c.Flags().BoolVar(&f.lenient, "lenient", false, "compare commands by their meaning")
	c.Flags().StringVar(&f.speed, "speed", "max", "answer at this `SPEED`: recorded or max")
	return c
}

// paces are the values of --speed.
var paces = map[string]capture.Pace{"recorded": capture.AsRecorded, "max": capture.AtOnce}

// patiences are how long the driver waits for an answer that does not come, by the values of --speed. What the recording has
// comes at once at full speed, so there is nothing to wait for; else the driver waits as long as for a reader.
var patiences = map[string]time.Duration{"max": 2 * time.Second}

// replayed is the JSON of a replay.
type replayed struct {
	File string `json:"file"`
	// OK: driver and recording agree.
	OK bool `json:"ok"`
	// Truncated: the recording ends in the middle of a packet.
	Truncated bool         `json:"truncated"`
	Steps     []rerun.Done `json:"steps"`
	*replayResult
}

// replayResult is rerun.Result but for the count of steps, which are listed.
type replayResult struct {
	Different   int                `json:"different"`
	Divergences []rerun.Divergence `json:"divergences"`
	Unused      []int              `json:"unused"`
	Skipped     []int              `json:"skipped"`
}

func (p *program) replay(ctx context.Context, f replayFlags, name string) error {
	if err := p.withoutReaders("replay"); err != nil {
		return err
	}
	pace, ok := paces[f.speed]
	if !ok {
		return usage("There are recorded and max.", "--speed: %q is none", f.speed)
	}
	c, err := readCapture(ctx, name)
	if err != nil {
		return err
	}
	table, err := p.loadQuirks()
	if err != nil {
		return err
	}
	steps := []rerun.Done{}
	result, err := rerun.Run(ctx, c, rerun.Options{
		Strict: !f.lenient, Pace: pace, Patience: patiences[f.speed], Step: p.step,
		Host: host.Options{Logger: p.log, Quirks: table, Limits: p.limits()},
		Report: func(d rerun.Done) {
			steps = append(steps, d)
			if !p.opts.json {
				p.printStep(d)
			}
		},
	})
	if err != nil {
		return replayProblem(name, err)
	}
	if p.opts.json {
		list := &replayResult{result.Different, result.Divergences, result.Unused, result.Skipped}
		if err := p.out.document(replayed{File: name, OK: result.Good(), Truncated: c.Truncated, Steps: steps, replayResult: list}); err != nil {
			return err
		}
	} else {
		p.printReplay(result, c.Truncated)
	}
	if result.Good() {
		return nil
	}
	problem := &problem{code: exitFailure, err: errors.New("driver and recording part: " + firstDifference(result))}
	if !f.lenient {
		problem.advice = []string{"--lenient lets commands differ in what makes no difference to the reader."}
	}
	return problem
}

// replayProblem says why nothing could be replayed.
func replayProblem(name string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &problem{code: exitNoReader, err: fmt.Errorf("%s: %w", visible(name), err), advice: []string{
		"A capture can be replayed that begins before the reader is plugged in: its descriptors are needed.",
	}}
}

// firstDifference is one line about the first thing that is not as recorded.
func firstDifference(r *rerun.Result) string {
	switch {
	case len(r.Divergences) > 0:
		return divergenceText(r.Divergences[0])
	case r.Different > 0:
		return count(r.Different, "result") + " not as recorded"
	}
	return count(len(r.Unused), "message") + " of the recording not sent by the driver, from packet " + fmt.Sprint(r.Unused[0]) + " on"
}

func divergenceText(d rerun.Divergence) string {
	if d.Packet == 0 {
		return fmt.Sprintf("the driver sends %s, nothing like it is left in the recording", d.Host)
	}
	return fmt.Sprintf("packet %d, %s: the driver sends %s, the recording has %s", d.Packet, d.Field, d.Host, d.Recording)
}

func (p *program) printStep(d rerun.Done) {
	mark := ""
	if !d.Same {
		mark = "! "
	}
	p.out.printf("#%-5d slot %d  %s: %s%s\n", d.Packet, d.Slot, visible(d.What), mark, visible(d.Result))
}

func (p *program) printReplay(r *rerun.Result, truncated bool) {
	const shown = 10
	if truncated {
		p.out.printf("The file ends in the middle of a packet: the rest of the recording is missing.\n")
	}
	p.out.printf("%s", count(r.Steps, "step"))
	if r.Good() {
		p.out.printf(", driver and recording agree")
	}
	p.out.printf("\n")
	for _, d := range r.Divergences[:min(shown, len(r.Divergences))] {
		p.out.printf("  ! %s\n", visible(divergenceText(d)))
	}
	if len(r.Divergences) > shown {
		p.out.printf("  ! and %d more\n", len(r.Divergences)-shown)
	}
	p.printPackets("! not sent by the driver: packets", r.Unused)
	p.printPackets("left out, because the recording has no answer: packets", r.Skipped)
}

func (p *program) printPackets(what string, packets []int) {
	const shown = 20
	if len(packets) == 0 {
		return
	}
	names := make([]string, 0, shown+1)
	for _, n := range packets[:min(shown, len(packets))] {
		names = append(names, fmt.Sprint(n))
	}
	if len(packets) > shown {
		names = append(names, "…")
	}
	p.out.printf("  %s %s\n", what, strings.Join(names, ", "))
}
