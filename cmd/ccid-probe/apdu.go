package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/describe"
)

func (p *program) apduCommand() *cobra.Command {
	var s slotFlags
	var x exchanger
	c := &cobra.Command{
		Use:   "apdu --reader READER HEX...",
		Short: "Send APDUs to the card in a reader",
		Long: `Power the card, agree on protocol and speed with it, send the APDUs in order, and print what it answers: data, status word and
its meaning. HEX may have spaces, colons and 0x. Each argument is one APDU; but where every argument is a single byte, they are
one APDU together.

What may be a PIN in the data of VERIFY, CHANGE REFERENCE DATA, DISABLE and ENABLE VERIFICATION REQUIREMENT and RESET RETRY COUNTER,
and all data of ENVELOPE, are sent, but printed as **, unless --show-secrets is given. Note that the shell's history and the list of processes show it all the same.`,
		Example: `  ccid-probe apdu --reader 0 00A4040007A0000000790100
  ccid-probe apdu -r gemalto '00 A4 00 00 02 3F 00' '00 B0 00 00 00'
  ccid-probe apdu -r 1-2 00 84 00 00 08`,
		RunE: p.action(func(ctx context.Context, args []string) error { return p.apdu(ctx, s, x, args) }),
	}
	s.register(c.Flags())
	c.Flags().StringVar(&x.protocol, "protocol", "auto", "speak `T`: 0, 1, or auto for what the card offers first")
	c.Flags().BoolVar(&x.showSecrets, "show-secrets", false, "print PINs, too")
	return c
}

func (p *program) apdu(ctx context.Context, s slotFlags, x exchanger, args []string) error {
	commands, err := parseCommands(args)
	if err != nil {
		return err
	}
	connect, ok := protocols[x.protocol]
	if !ok {
		return usage("", "--protocol: %q is none; there are 0, 1 and auto", x.protocol)
	}
	return p.withSlot(ctx, s, func(slot *host.Slot) error {
		if err := p.step(ctx, func(ctx context.Context) error { return connect(ctx, slot) }); err != nil {
			return err
		}
		if !p.opts.json {
			p.out.printf("%s\nATR %s\n%s\n", slot.Name(), spacedHex(slot.ATR()), sessionText(slot))
		}
		for _, command := range commands {
			if err := p.exchange(ctx, x, slot, command); err != nil {
				return err
			}
			if p.out.err != nil {
				return p.out.err
			}
		}
		return nil
	})
}

// protocols are the ways of making a card ready, by the values of --protocol.
var protocols = map[string]func(context.Context, *host.Slot) error{
	"auto": func(ctx context.Context, slot *host.Slot) error {
		_, err := slot.Connect(ctx)
		return err
	},
	"0": func(ctx context.Context, slot *host.Slot) error { return connectWith(ctx, slot, 0) },
	"1": func(ctx context.Context, slot *host.Slot) error { return connectWith(ctx, slot, 1) },
}

func connectWith(ctx context.Context, slot *host.Slot, t uint8) error {
	if _, err := slot.PowerOn(ctx, host.ColdReset); err != nil {
		return err
	}
	return slot.SetProtocol(ctx, t, host.MapAPDU)
}

// sessionText tells what reader and card agreed on.
func sessionText(slot *host.Slot) string {
	class := slot.Reader().Class()
	facts := []string{class.DwFeatures.ExchangeLevel().String() + " level"}
	if p, ok := slot.Parameters(); ok {
		facts = append([]string{fmt.Sprintf("T=%d", p.T)}, append(facts, parameterFacts(p, class)...)...)
	}
	return strings.Join(facts, ", ")
}

func parameterFacts(p host.Parameters, class ccid.ClassDescriptor) []string {
	var facts []string
	fi, _, okF := atr.FI(p.FD)
	di, okD := atr.DI(p.FD)
	if okF && okD {
		facts = append(facts, fmt.Sprintf("Fi %d, Di %d", fi, di))
		if clock := int(min(class.DwDefaultClock, math.MaxInt32/1000)) * 1000; clock > 0 {
			facts = append(facts, fmt.Sprintf("%d bit/s at %s", atr.Bps(fi, di, clock), describe.Clock(class.DwDefaultClock)))
		}
	}
	if p.PPS {
		facts = append(facts, "PPS done")
	}
	if p.IFSC > 0 {
		facts = append(facts, fmt.Sprintf("IFSC %d, IFSD %d", p.IFSC, p.IFSD))
	}
	if p.Refused != nil {
		facts = append(facts, "our parameters were refused: "+p.Refused.Error())
	}
	return facts
}

// parseCommands makes APDUs of the arguments. An error names the argument, and never shows more of it than one character:
// it may be a PIN.
func parseCommands(args []string) ([][]byte, error) {
	const advice = "As in: ccid-probe apdu --reader 0 00A4040007A0000000790100"
	if len(args) == 0 {
		return nil, usage(advice, "no APDU given")
	}
	var list [][]byte
	for i, arg := range joinBytes(args) {
		b, err := atr.ParseHex(arg)
		if err != nil {
			return nil, usage("", "APDU %d: %w", i+1, err)
		}
		if _, err := apdu.ParseCommandLenient(b); err != nil {
			return nil, usage(advice, "APDU %d: %w", i+1, err)
		}
		list = append(list, b)
	}
	return list, nil
}

// joinBytes makes one argument of several that are a byte each.
func joinBytes(args []string) []string {
	for _, arg := range args {
		if len(strings.TrimPrefix(strings.TrimPrefix(arg, "0x"), "0X")) != 2 {
			return args
		}
	}
	return []string{strings.Join(args, " ")}
}

// exchanger is how APDUs are sent and shown.
type exchanger struct {
	protocol    string
	showSecrets bool
}

// exchanged is the JSON of one exchange.
type exchanged struct {
	// Command and Response are hexadecimal; Response is the data without the status word. Hidden bytes of Command are **.
	Command  string `json:"command"`
	Response string `json:"response"`
	SW       string `json:"sw"`
	Meaning  string `json:"meaning"`
	// Microseconds is how long the exchange took, all its blocks and messages included.
	Microseconds int64 `json:"us"`
}

func (p *program) exchange(ctx context.Context, x exchanger, slot *host.Slot, command []byte) error {
	if !p.opts.json {
		p.out.printf("> %s\n", x.shown(command, " "))
	}
	p.tape.note(slot, command)
	var raw []byte
	start := time.Now()
	err := p.step(ctx, func(ctx context.Context) (err error) {
		raw, err = slot.Transmit(ctx, command)
		return err
	})
	took := time.Since(start)
	if err != nil {
		return err
	}
	response, err := apdu.ParseResponse(raw)
	if err != nil {
		return &problem{code: exitCardFailed, err: fmt.Errorf("the card's answer: %w", err)}
	}
	if p.opts.json {
		return p.out.line(exchanged{
			Command: x.shown(command, ""), Response: compactHex(response.Data), SW: response.SW.String(), Meaning: response.SW.Meaning(),
			Microseconds: took.Microseconds(),
		})
	}
	p.printData(response.Data)
	p.out.printf("< SW %s %s, %s, %.3f ms\n", response.SW, response.SW.Meaning(), count(len(response.Data), "byte"), float64(took.Microseconds())/1000)
	return nil
}

// shown is a command in hexadecimal, what may be a PIN replaced.
func (x exchanger) shown(command []byte, separator string) string {
	digits := make([]string, len(command))
	redacted := command
	if !x.showSecrets && apdu.Sensitive(command) {
		redacted = apdu.Redact(command)
	}
	for i, b := range redacted {
		digits[i] = fmt.Sprintf("%02X", b)
		if i > apdu.HeaderLength && redacted[i] == '*' && !x.showSecrets && apdu.Sensitive(command) {
			digits[i] = "**"
		}
	}
	return strings.Join(digits, separator)
}

// bytesPerLine is how much response data stands on one line.
const bytesPerLine = 16

// printData writes data as hexadecimal and as the text that it may be.
func (p *program) printData(data []byte) {
	for len(data) > 0 {
		line := data[:min(len(data), bytesPerLine)]
		data = data[len(line):]
		p.out.printf("< %s\n", strings.TrimRight(fmt.Sprintf("%-*s  %s", 3*bytesPerLine-1, spacedHex(line), text(line)), " "))
	}
}

// text is data as ASCII, with a dot for what can't be shown.
func text(data []byte) string {
	b := make([]byte, len(data))
	for i, c := range data {
		b[i] = '.'
		if c >= ' ' && c <= '~' {
			b[i] = c
		}
	}
	return string(b)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
