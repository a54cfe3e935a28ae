// Package rerun has goccid's driver do again what the host of a capture did, with the capture in the place of the readers.
package rerun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/describe"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/explain"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// Options are how a capture is run again.
type Options struct {
	// Strict: the driver has to send the same messages in the same order, byte for byte. Otherwise those that mean the
	// same will do, as capture.Lenient has it.
	Strict bool
	// Pace is that of the answers.
	Pace capture.Pace
	// Patience is how long an answer is waited for; 0 leaves that to the driver, which waits as long as for a reader: half a minute
	// in places. A recording in which its host has waited in vain is not hurried, for the driver has to do so, too.
	Patience time.Duration
	// Host are the driver's options.
	Host host.Options
	// Step bounds one step of the driver.
	Step func(context.Context, func(context.Context) error) error
	// Report takes each step as it is done.
	Report func(Done)
}

// Done is a step that the driver has done.
type Done struct {
	// Reader is the reader's name, Slot the slot's number.
	Reader string `json:"reader"`
	Slot   int    `json:"slot"`
	// Packet is the one in which the recorded host began with it.
	Packet int `json:"packet"`
	// What says what was done, Result what came of it.
	What   string `json:"what"`
	Result string `json:"result"`
	// Same: the result is the recorded one.
	Same bool `json:"same"`
}

// Result is how it went.
type Result struct {
	Steps int `json:"steps"`
	// Different counts the steps with another result than the recorded one.
	Different   int          `json:"different"`
	Divergences []Divergence `json:"divergences"`
	// Unused are the packets of the recorded host that the driver has sent nothing like.
	Unused []int `json:"unused"`
	// Skipped are the packets of steps that can't be done again, because the capture has no answer to them.
	Skipped []int `json:"skipped"`
}

// Divergence is where host and recording part.
type Divergence struct {
	// Packet is 0 where the recording has ended.
	Packet    int    `json:"packet"`
	Field     string `json:"field"`
	Host      string `json:"host"`
	Recording string `json:"recording"`
}

// Good reports whether host and recording agree in all.
func (r *Result) Good() bool {
	return r.Different == 0 && len(r.Divergences) == 0 && len(r.Unused) == 0
}

// Run does it. The error is what kept it from going on, not a divergence.
func Run(ctx context.Context, c *capture.Capture, o Options) (*Result, error) {
	var mode capture.Mode = capture.Lenient{}
	if o.Strict {
		mode = capture.Strict{}
	}
	replay, err := capture.NewReplay(c, mode, o.Pace)
	if err != nil {
		return nil, err
	}
	if waitedInVain(c) {
		o.Patience = 0
	}
	r := &runner{options: o, replay: replay, result: &Result{Divergences: []Divergence{}, Unused: []int{}, Skipped: []int{}}}
	steps := explain.Plan(c)
	found := false
	for i, d := range c.Devices() {
		functions, _ := host.Functions(d.Info)
		for _, f := range functions {
			if f.Unusable != nil {
				continue
			}
			found = true
			own := slices.DeleteFunc(slices.Clone(steps), func(s explain.Step) bool {
				return s.Device != i || s.Interface != int(f.Interface.Number)
			})
			if err := r.reader(ctx, f, own); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		return nil, host.ErrNoReader
	}
	r.judge()
	return r.result, nil
}

// waitedInVain reports whether the recorded host has given up on an answer.
func waitedInVain(c *capture.Capture) bool {
	return slices.ContainsFunc(c.Transfers, func(t capture.Transfer) bool {
		gaveUp := errors.Is(t.Err, usbtransport.ErrTimedOut) || errors.Is(t.Err, usbtransport.ErrCancelled)
		return gaveUp && t.In() && t.Type == usbtransport.TransferBulk && len(t.Data) == 0
	})
}

type runner struct {
	options Options
	replay  *capture.Replay
	result  *Result
	// counter is that of the interface that is run.
	counter *counter
}

// counter is the replay with the messages counted that a host sends to an interface.
type counter struct {
	*capture.Replay
	patience time.Duration
	sent     atomic.Int64
}

func (c *counter) Open(ctx context.Context, device usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	i, err := c.Replay.Open(ctx, device, number)
	if err != nil {
		return nil, err
	}
	return &counted{i, c}, nil
}

type counted struct {
	usbtransport.Interface
	counter *counter
}

func (c *counted) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	if len(data) > 0 {
		c.counter.sent.Add(1)
	}
	return c.Interface.BulkOut(ctx, endpoint, data)
}

var errNoAnswer = errors.New("the recording has no answer")

// BulkIn waits for an answer as long as there is patience.
func (c *counted) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	if c.counter.patience == 0 {
		return c.Interface.BulkIn(ctx, endpoint, buf)
	}
	short, cancel := context.WithTimeout(ctx, c.counter.patience)
	defer cancel()
	n, err := c.Interface.BulkIn(short, endpoint, buf)
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		return n, &usbtransport.Error{Op: "bulk in", Endpoint: endpoint, Kind: usbtransport.ErrIO, Cause: errNoAnswer}
	}
	return n, err
}

func (c *counted) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	const kinds, recipients, toInterface = 0x60, 0x1F, 1
	if setup.RequestType&kinds != 0 && setup.RequestType&recipients == toInterface {
		c.counter.sent.Add(1)
	}
	return c.Interface.Control(ctx, setup, data)
}

// diverged reports whether host and recording have parted already.
func (r *runner) diverged() bool { return errors.Is(r.replay.Close(), capture.ErrDivergence) }

// reader runs the steps of one interface.
func (r *runner) reader(ctx context.Context, f host.Function, steps []explain.Step) error {
	r.counter = &counter{Replay: r.replay, patience: r.options.Patience}
	var reader *host.Reader
	err := r.options.Step(ctx, func(ctx context.Context) (err error) {
		reader, err = host.Open(ctx, r.counter, f.Device, f.Interface.Number, r.options.Host)
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.done(Done{Reader: host.FriendlyName(f.Device), What: "open", Result: err.Error()})
		return nil
	}
	slots := map[int]*player{}
	for i, s := range steps {
		slot := reader.Slot(s.Slot)
		if slot == nil || r.passed(s) {
			continue
		}
		p := slots[s.Slot]
		if p == nil {
			p = &player{runner: r, slot: slot, token: f.Token()}
			slots[s.Slot] = p
		}
		if s.Kind == explain.StepPowerOff && resets(steps[i+1:], s.Slot) && (p.token || slot.ATR() != nil) {
			s.Kind, p.cold = explain.StepPowerOn, true // the driver takes the power away by itself
		}
		p.play(ctx, s)
		if ctx.Err() != nil {
			break
		}
		if r.diverged() {
			break
		}
	}
	if err := reader.Close(); err != nil && !r.diverged() {
		r.done(Done{Reader: reader.Name(), What: "close", Result: err.Error()})
	}
	if err := r.lists(ctx, f, steps); err != nil {
		return err
	}
	return ctx.Err()
}

// resets reports whether the slot gets power next.
func resets(steps []explain.Step, slot int) bool {
	for _, s := range steps {
		if s.Slot == slot && s.Kind != explain.StepStatus {
			return s.Kind == explain.StepPowerOn
		}
	}
	return false
}

// passed reports whether the driver has sent the step's message already, as part of an earlier step. That can be told where
// it sends the same messages.
func (r *runner) passed(s explain.Step) bool {
	return r.options.Strict && int64(s.Ordinal) < r.counter.sent.Load()
}

// lists asks for clock frequencies and data rates as ccid-probe describe does, where the host of the capture did.
func (r *runner) lists(ctx context.Context, f host.Function, steps []explain.Step) error {
	wanted := slices.ContainsFunc(steps, func(s explain.Step) bool { return s.Kind == explain.StepLists && !r.passed(s) })
	if !wanted || !r.options.Strict || r.diverged() {
		return nil
	}
	return r.options.Step(ctx, func(ctx context.Context) (err error) {
		i, err := r.counter.Open(ctx, f.Device, f.Interface.Number)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, i.Close()) }()
		_, err = describe.AskLists(ctx, i)
		r.done(Done{Reader: host.FriendlyName(f.Device), What: "ask for clock frequencies and data rates", Result: "answered", Same: true})
		return err
	})
}

func (r *runner) done(d Done) {
	r.result.Steps++
	switch {
	case r.diverged():
		// The reader refuses everything from then on; what the driver says of that helps nobody.
		d.Same, d.Result = false, "driver and recording part here"
	case !d.Same:
		r.result.Different++
	}
	r.options.Report(d)
}

// judge collects what the replay says.
func (r *runner) judge() {
	for _, err := range unjoin(r.replay.Close()) {
		var unused *capture.UnusedError
		var divergence *capture.Divergence
		switch {
		case errors.As(err, &divergence):
			d := Divergence{divergence.Packet, divergence.Field, divergence.Host, divergence.Recording}
			if !slices.Contains(r.result.Divergences, d) {
				r.result.Divergences = append(r.result.Divergences, d)
			}
		case errors.As(err, &unused):
			for _, packet := range unused.Packets {
				if !slices.Contains(r.result.Skipped, packet) {
					r.result.Unused = append(r.result.Unused, packet)
				}
			}
		}
	}
}

// unjoin returns what was joined.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // only what Close has joined itself
		return joined.Unwrap()
	}
	return []error{err}
}

// player does a slot's steps.
type player struct {
	*runner
	slot  *host.Slot
	token bool // an ICCD token
	// ready: a protocol is set since the card was powered. cold: the next reset is a cold one.
	ready, cold bool
}

// play does one step.
func (p *player) play(ctx context.Context, s explain.Step) {
	switch s.Kind {
	case explain.StepStatus:
		// The state is the driver's own business; it is asked only where the same messages are wanted.
		if p.options.Strict {
			p.try(ctx, s, "ask for the slot's state", func(ctx context.Context) (string, error) {
				status, err := p.slot.Status(ctx)
				return status.ICC.String(), err
			})
		}
	case explain.StepPowerOn:
		p.powerOn(ctx, s)
	case explain.StepPowerOff:
		if p.options.Strict {
			p.ready = false
			p.try(ctx, s, "power off", func(ctx context.Context) (string, error) { return "done", p.slot.PowerOff(ctx) })
		}
	case explain.StepProtocol:
		p.setProtocol(ctx, s)
	case explain.StepEscape:
		if p.options.Strict {
			p.try(ctx, s, "escape", func(ctx context.Context) (string, error) {
				answer, err := p.slot.Escape(ctx, s.Data)
				return fmt.Sprintf("%d bytes", len(answer)), err
			})
		}
	case explain.StepTransmit:
		p.transmit(ctx, s)
	case explain.StepPIN:
		p.enterPIN(ctx, s)
	case explain.StepLists:
	}
}

// try does something whose recorded result isn't at hand; an error is one that was recorded, or the replay tells.
func (p *player) try(ctx context.Context, s explain.Step, what string, f func(context.Context) (string, error)) {
	var result string
	err := p.options.Step(ctx, func(ctx context.Context) (err error) {
		result, err = f(ctx)
		return err
	})
	if err != nil {
		result = err.Error()
	}
	p.done(Done{Reader: p.slot.Name(), Slot: p.slot.Index(), Packet: s.Packet, What: what, Result: result, Same: !p.diverged()})
}

// powerOn is a cold reset where the recorded host took the power away before, and a warm one where it did not.
func (p *player) powerOn(ctx context.Context, s explain.Step) {
	reset := host.WarmReset
	if p.slot.ATR() == nil || p.cold || p.token {
		reset = host.ColdReset
	}
	p.ready, p.cold = false, false
	p.try(ctx, s, "power on", func(ctx context.Context) (string, error) {
		atr, err := p.slot.PowerOn(ctx, reset)
		return fmt.Sprintf("ATR % X", atr), err
	})
}

func (p *player) setProtocol(ctx context.Context, s explain.Step) {
	if p.ready || s.Protocol < 0 || s.Protocol > 1 {
		return
	}
	p.ready = true
	p.try(ctx, s, fmt.Sprintf("set T=%d", s.Protocol), func(ctx context.Context) (string, error) {
		// TPDUs of T=0 are sent as they were: a driver's own way to map APDUs may be another.
		return "done", p.slot.SetProtocol(ctx, uint8(s.Protocol), host.Transparent)
	})
}

func (p *player) transmit(ctx context.Context, s explain.Step) {
	command, recorded := s.Exchange()
	if recorded == nil && !p.options.Strict {
		p.result.Skipped = append(p.result.Skipped, s.Packet)
		return
	}
	p.setProtocol(ctx, s)
	p.answered(ctx, s, commandName(s.APDU(), command), recorded, func(ctx context.Context) ([]byte, error) {
		answer, err := p.slot.Transmit(ctx, command)
		if err == nil && !p.options.Strict {
			answer, err = p.fetch(ctx, answer, recorded)
		}
		return answer, err
	})
}

// fetch gets a response that the recorded host got at once: some drivers send the Le of a T=0 command with data, which
// the reader then fetches the response with; goccid's leaves that to GET RESPONSE.
func (p *player) fetch(ctx context.Context, answer, recorded []byte) ([]byte, error) {
	if len(answer) != 2 || answer[0] != 0x61 || len(recorded) <= 2 {
		return answer, nil
	}
	return p.slot.Transmit(ctx, []byte{0x00, 0xC0, 0x00, 0x00, answer[1]})
}

// answered does what the card answers to, and compares.
func (p *player) answered(ctx context.Context, s explain.Step, what string, recorded []byte, f func(context.Context) ([]byte, error)) {
	var answer []byte
	err := p.options.Step(ctx, func(ctx context.Context) (err error) {
		answer, err = f(ctx)
		return err
	})
	d := Done{Reader: p.slot.Name(), Slot: p.slot.Index(), Packet: s.Packet, What: what}
	switch {
	case err != nil:
		d.Result, d.Same = err.Error(), recorded == nil
	default:
		d.Result, d.Same = answerText(answer), bytes.Equal(answer, recorded)
	}
	if err == nil && !d.Same {
		d.Result += "; recorded: " + answerText(recorded)
	}
	p.done(d)
}

func (p *player) enterPIN(ctx context.Context, s explain.Step) {
	_, recorded := s.Exchange()
	if verify, err := ccid.ParsePINVerificationData(s.Data); err == nil {
		p.setProtocol(ctx, s)
		p.answered(ctx, s, "have a PIN entered", recorded, func(ctx context.Context) ([]byte, error) { return p.slot.VerifyPIN(ctx, verify) })
		return
	}
	if modify, err := ccid.ParsePINModificationData(s.Data); err == nil {
		p.setProtocol(ctx, s)
		p.answered(ctx, s, "have a new PIN entered", recorded, func(ctx context.Context) ([]byte, error) { return p.slot.ModifyPIN(ctx, modify) })
	}
}

// commandName says which command it is, without its data: they may be a PIN.
func commandName(number int, command []byte) string {
	if len(command) < apdu.HeaderLength {
		return fmt.Sprintf("APDU %d, %d bytes", number, len(command))
	}
	return fmt.Sprintf("APDU %d %s, % X, %d bytes", number, explain.Instruction(command[1]), command[:apdu.HeaderLength], len(command))
}

func answerText(answer []byte) string {
	r, err := apdu.ParseResponse(answer)
	if err != nil {
		return "nothing"
	}
	return fmt.Sprintf("%s %s, %d bytes", r.SW, r.SW.Meaning(), len(r.Data))
}
