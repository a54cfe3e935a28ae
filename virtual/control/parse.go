package control

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccid/goccid/virtual"
)

// MaxLine is the longest request, in bytes.
const MaxLine = 4096

// Request is one line, understood.
type Request struct {
	// Reader says which reader is meant, as Bench.Add named it, by its number from 0, or by a part of its name; "" is the only one.
	Reader string
	// Command is what to do with it: Insert, Remove, Plug, Unplug, Press, Fault, NoFault, Violations,
	// List, Help or Quit.
	Command Command
}

// Command is one of the types of this package that say so.
type Command interface{ command() }

// The commands.
type (
	// Insert puts a card into a slot.
	Insert struct {
		Slot int
		Card virtual.CardSpec
	}
	// Remove takes the card out of a slot.
	Remove struct{ Slot int }
	// Plug plugs the reader in, Unplug pulls it out.
	Plug   struct{}
	Unplug struct{}
	// Press presses keys on the PIN pad.
	Press struct{ Keys Keys }
	// Fault orders that transfers go wrong.
	Fault struct {
		Fault virtual.Fault
		// Transfer is the kind of transfer that is meant, 0 for all.
		Transfer virtual.TransferKind
		// After is how many such transfers are spared before.
		After int
		// Times is how many go wrong then, at least 1; Always is all.
		Times int
	}
	// NoFault takes all ordered faults back.
	NoFault struct{}
	// Violations lists the rules of CCID that the host of the reader has broken.
	Violations struct{}
	// List lists the readers, Help the commands; Quit ends the program.
	List struct{}
	Help struct{}
	Quit struct{}
)

// Always is Fault.Times for a fault that stays.
const Always = -1

func (Insert) command()     {}
func (Remove) command()     {}
func (Plug) command()       {}
func (Unplug) command()     {}
func (Press) command()      {}
func (Fault) command()      {}
func (NoFault) command()    {}
func (Violations) command() {}
func (List) command()       {}
func (Help) command()       {}
func (Quit) command()       {}

// Keys are keys of a PIN pad. They may be a PIN, so they don't print.
type Keys string

// String returns "hidden".
func (Keys) String() string { return "hidden" }

// GoString returns "hidden".
func (Keys) GoString() string { return "hidden" }

const keyNames = "0 to 9, # to confirm, c to cancel, < to take back"

// ErrSyntax is what is wrong with a line that Parse refuses.
var ErrSyntax = errors.New("not understood")

// wrong makes an ErrSyntax that says no more than its text.
func wrong(format string, args ...any) error {
	return &syntaxError{fmt.Sprintf(format, args...)}
}

type syntaxError struct{ text string }

func (e *syntaxError) Error() string { return e.text }
func (e *syntaxError) Unwrap() error { return ErrSyntax }

// verb is one word that begins a request.
type verb struct {
	name, arguments, about string
	parse                  func(arguments []string) (Command, error)
}

// verbs lists the language, in the order of Help.
func verbs() []verb {
	return []verb{
		{"insert", "[SLOT] CARD", "put a card in: t0, t1, vpcd:HOST:PORT or vpcd-listen:PORT", parseInsert},
		{"remove", "[SLOT]", "take the card out", parseRemove},
		{"unplug", "", "pull the reader out", plain(Unplug{})},
		{"plug", "", "plug it in again", plain(Plug{})},
		{"press", "KEYS", "press keys of the PIN pad: " + keyNames, parsePress},
		{"fault", "KIND [TRANSFER] [after=N] [times=N] [always]", faultHelp(), parseFault},
		{"list", "", "list the readers, and what is in their slots", plain(List{})},
		{"violations", "", "list the rules of CCID that the host has broken", plain(Violations{})},
		{"help", "", "list the commands", plain(Help{})},
		{"quit", "", "end the program", plain(Quit{})},
	}
}

// Parse reads one line: "[@READER] COMMAND [ARGUMENTS]", words apart by white space. The error is an ErrSyntax; it says
// what is possible, and never repeats keys.
func Parse(line string) (Request, error) {
	if len(line) > MaxLine {
		return Request{}, wrong("a line has at most %d bytes", MaxLine)
	}
	words := strings.Fields(line)
	r := Request{}
	if len(words) > 0 && strings.HasPrefix(words[0], "@") {
		r.Reader, words = words[0][1:], words[1:]
		if r.Reader == "" {
			return Request{}, wrong("@READER: a reader's name or number has to follow the @")
		}
	}
	if len(words) == 0 {
		return Request{}, wrong("a command is missing; help lists them")
	}
	list := verbs()
	i := slices.IndexFunc(list, func(v verb) bool { return v.name == strings.ToLower(words[0]) })
	if i < 0 {
		return Request{}, wrong("%.20q is no command; help lists them", words[0])
	}
	c, err := list[i].parse(words[1:])
	if err != nil {
		return Request{}, fmt.Errorf("%s: %w", list[i].name, err)
	}
	r.Command = c
	return r, nil
}

// plain parses a command without arguments.
func plain(c Command) func([]string) (Command, error) {
	return func(arguments []string) (Command, error) {
		if len(arguments) > 0 {
			return nil, wrong("takes no arguments")
		}
		return c, nil
	}
}

// maxSlot is the highest slot that a CCID can have (CCID 1.1 §5.1, bMaxSlotIndex).
const maxSlot = 255

func parseSlot(word string) (int, error) {
	n, err := strconv.ParseUint(word, 10, 8)
	if err != nil || n > maxSlot {
		return 0, wrong("%.20q is no slot's number", word)
	}
	return int(n), nil
}

func parseInsert(arguments []string) (Command, error) {
	c := Insert{}
	var err error
	switch len(arguments) {
	case 2:
		if c.Slot, err = parseSlot(arguments[0]); err != nil {
			return nil, err
		}
	case 1:
	default:
		return nil, wrong("insert [SLOT] CARD is needed")
	}
	if c.Card, err = virtual.ParseCard(arguments[len(arguments)-1]); err != nil {
		return nil, wrong("%v", err)
	}
	if c.Card.Kind == virtual.NoCard {
		return nil, wrong("none is no card; remove takes one out")
	}
	return c, nil
}

func parseRemove(arguments []string) (Command, error) {
	switch len(arguments) {
	case 0:
		return Remove{}, nil
	case 1:
		slot, err := parseSlot(arguments[0])
		if err != nil {
			return nil, err
		}
		return Remove{Slot: slot}, nil
	}
	return nil, wrong("remove [SLOT] is needed")
}

func parsePress(arguments []string) (Command, error) {
	keys := strings.Join(arguments, "")
	if keys == "" || strings.Trim(keys, "0123456789#c<") != "" {
		return nil, wrong("keys are %s", keyNames)
	}
	return Press{Keys: Keys(keys)}, nil
}

// faultWords are the kinds of fault, in the order in which they are explained.
func faultWords() []struct {
	word, about string
	kind        virtual.FaultKind
} {
	type entry = struct {
		word, about string
		kind        virtual.FaultKind
	}
	return []entry{
		{"stall", "the endpoint halts", virtual.Stall},
		{"io-error", "the transfer fails", virtual.IOError},
		{"overflow", "more bytes come than the host has room for", virtual.Overflow},
		{"timeout", "nothing moves", virtual.Timeout},
		{"drop", "the bytes are lost", virtual.Drop},
		{"delay=TIME", "the transfer is held up, as delay=500ms", virtual.Delay},
		{"truncate=N", "the bytes end after N", virtual.Truncate},
		{"garble", "other bytes, as many", virtual.Garble},
		{"wrong-seq", "another bSeq", virtual.WrongSeq},
		{"wrong-slot", "another bSlot", virtual.WrongSlot},
		{"duplicate", "the bytes come twice", virtual.Duplicate},
		{"zero-length", "an empty transfer comes before", virtual.ZeroLength},
		{"late", "the answer comes with the next", virtual.Hold},
		{"remove-before", "the reader is pulled out before the transfer", virtual.RemoveBefore},
		{"remove-during", "… in the middle of it", virtual.RemoveDuring},
		{"remove-after", "… after it", virtual.RemoveAfter},
	}
}

// transferWords are the kinds of transfer.
func transferWords() []struct {
	word string
	kind virtual.TransferKind
} {
	return []struct {
		word string
		kind virtual.TransferKind
	}{
		{"control", virtual.ControlTransfer},
		{"bulk-out", virtual.BulkOutTransfer},
		{"bulk-in", virtual.BulkInTransfer},
		{"interrupt-in", virtual.InterruptInTransfer},
	}
}

func faultHelp() string {
	var b strings.Builder
	b.WriteString("let the next transfer go wrong, or others; TRANSFER is")
	for i, t := range transferWords() {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(" " + t.word)
	}
	b.WriteString(", or any; KIND is")
	b.WriteString("\n  off            no fault any more")
	for _, f := range faultWords() {
		fmt.Fprintf(&b, "\n  %-13s  %s", f.word, f.about)
	}
	return b.String()
}

const (
	maxDelay = time.Hour
	maxCount = 1_000_000
)

func parseFault(arguments []string) (Command, error) {
	if len(arguments) == 0 {
		return nil, wrong("KIND or off is needed; help lists the kinds")
	}
	if len(arguments) == 1 && strings.EqualFold(arguments[0], "off") {
		return NoFault{}, nil
	}
	fault, err := parseFaultKind(strings.ToLower(arguments[0]))
	if err != nil {
		return nil, err
	}
	f := Fault{Fault: fault, Times: 1}
	for _, word := range arguments[1:] {
		if err := f.refine(strings.ToLower(word)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func parseFaultKind(text string) (virtual.Fault, error) {
	word, value, valued := strings.Cut(text, "=")
	for _, known := range faultWords() {
		name, placeholder, _ := strings.Cut(known.word, "=")
		if name != word {
			continue
		}
		if valued != (placeholder != "") {
			return virtual.Fault{}, wrong("%s is needed", known.word)
		}
		return faultOf(known.kind, value)
	}
	return virtual.Fault{}, wrong("%.20q is no kind of fault; help lists them", word)
}

func faultOf(kind virtual.FaultKind, value string) (virtual.Fault, error) {
	f := virtual.Fault{Kind: kind}
	switch kind {
	case virtual.Delay:
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > maxDelay {
			return f, wrong("delay=%.20q: a time from 0s to %v is needed, as 500ms", value, maxDelay)
		}
		f.Delay = d
	case virtual.Truncate:
		n, err := count(value)
		if err != nil {
			return f, wrong("truncate=%.20q: a number of bytes is needed", value)
		}
		f.Length = n
	}
	return f, nil
}

// refine takes one word after the kind of a fault.
func (f *Fault) refine(word string) error {
	for _, t := range transferWords() {
		if t.word == word {
			f.Transfer = t.kind
			return nil
		}
	}
	key, value, _ := strings.Cut(word, "=")
	switch {
	case word == "always":
		f.Times = Always
		return nil
	case key == "after":
		n, err := count(value)
		if err != nil {
			return wrong("after=%.20q: a number of transfers is needed", value)
		}
		f.After = n
		return nil
	case key == "times":
		n, err := count(value)
		if err != nil || n == 0 {
			return wrong("times=%.20q: a number of transfers is needed", value)
		}
		f.Times = n
		return nil
	}
	return wrong("%.20q: control, bulk-out, bulk-in, interrupt-in, after=N, times=N and always are possible", word)
}

func count(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > maxCount {
		return 0, ErrSyntax
	}
	return int(n), nil
}
