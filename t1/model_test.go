package t1

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"testing"

	"github.com/stretchr/testify/require"
)

// The model test walks every run of the engine against a card and a line that
// choose freely, until nothing new is found:
//
//   - the line loses or damages a block in either direction, delivers a block of
//     the host twice (the card answers twice), delivers a block of the card twice,
//     keeps a block of the card back and delivers it late, before or after the
//     block that follows it (so that two blocks change their order), or puts any
//     S-block in its place;
//   - the card asks for time, for a new IFSC, or for an abortion of the chain
//     before any block it sends.
//
// One case begins with a card that does not number its blocks from 0, as if it had
// kept its numbers over a reset, and loses nothing: if that card's first block got
// lost, no host could know.
//
// How often that may happen in one run is limited by a number of oddities; apart
// from it the walk is complete, since runs that meet in one state are followed
// once.
//
// A block kept back is overtaken by at most one other block, and by none that
// moves the card's sequence number on, which are I-blocks and
// S(RESYNCH response): no receiver can tell a block from one that is two numbers
// older if the numbers have one bit, and a half-duplex line cannot hold one that
// long either.

// world is one state of the walk.
type world struct {
	engine   *Engine
	card     *card
	wire     string // the block the host has sent
	held     string // the block of the card that the line keeps back
	overtook bool   // a younger block has been delivered before it
	script   []exchange
	pos      int // command under way
	oddities int // still allowed
	trace    *trace
}

// trace is how the walk came to a world; kept for the failure message.
type trace struct {
	before *trace
	mark   byte // > from the host, < to the host, = end of the exchange
	block  string
	what   string
}

func (tr *trace) String() string {
	if tr == nil {
		return ""
	}
	b := wire{}
	if len(tr.block) > 3 {
		b = wire{set: true, pcb: PCB(tr.block[1]), inf: tr.block[3 : len(tr.block)-1]}
	}
	if !b.set {
		return fmt.Sprintf("%s\n%c %s", tr.before, tr.mark, tr.what)
	}

	return fmt.Sprintf("%s\n%c %s %X %s", tr.before, tr.mark, b.pcb, b.inf, tr.what)
}

// exchange is a command, and whether the host wants its chain aborted.
type exchange struct {
	command []byte
	abort   bool
}

// walker holds what all worlds share.
type walker struct {
	t      *testing.T
	seed   maphash.Seed
	seen   map[uint64]int32 // longest run from there, in blocks of the host; -1 while under way
	key    []byte
	done   int
	failed map[error]int
}

// modelAnswer gives each command an answer of its own, of 0 to 2 bytes.
func modelAnswer(command []byte) []byte {
	if len(command) == 0 {
		return nil
	}

	return bytes.Repeat([]byte{command[0] ^ 0xFF}, int(command[0]&3))
}

func TestModel(t *testing.T) {
	one, two, three := []byte{0x11}, []byte{0x21}, []byte{0x31}
	for _, tt := range []struct {
		name           string
		script         []exchange
		ifsc, ifsd     int
		resendOnRepeat bool
		own            byte // N(S) the card begins with
		oddities       int
		short          int // oddities with -short and under the race detector
	}{
		{"two single blocks", []exchange{{one, false}, {two, false}}, 1, 1, false, 0, 6, 3},
		{"three single blocks", []exchange{{one, false}, {two, false}, {three, false}}, 1, 1, false, 0, 4, 3},
		{"three single blocks, card repeats its block", []exchange{{one, false}, {two, false}, {three, false}}, 1, 1, true, 0, 4, 3},
		{"chained command", []exchange{{[]byte{0x11, 0xA2, 0xA3}, false}, {two, false}}, 1, 1, false, 0, 4, 3},
		{"chained command, card repeats its block", []exchange{{[]byte{0x11, 0xA2}, false}, {[]byte{0x21, 0xB2}, false}}, 1, 1, true, 0, 4, 3},
		{"chained answer", []exchange{{[]byte{0x12}, false}, {[]byte{0x22}, false}}, 1, 1, false, 0, 4, 3},
		{"chained answer of three blocks", []exchange{{[]byte{0x13}, false}, {two, false}}, 1, 1, false, 0, 4, 3},
		{"chains both ways", []exchange{{[]byte{0x12, 0xA2}, false}, {[]byte{0x22, 0xB2}, false}, {three, false}}, 1, 1, false, 0, 4, 3},
		{"chains both ways, IFSC 2", []exchange{{[]byte{0x12, 0xA2, 0xA3, 0xA4}, false}, {[]byte{0x22, 0xB2}, false}}, 2, 1, true, 0, 4, 3},
		{"chained answer, card does not begin at 0", []exchange{{[]byte{0x12}, false}, {[]byte{0x22}, false}}, 1, 1, false, 1, 0, 0},
		{"chained command aborted by the host", []exchange{{[]byte{0x11, 0xA2}, true}, {[]byte{0x22, 0xB2}, false}}, 1, 1, false, 0, 4, 3},
		{"chained answer aborted by the host", []exchange{{[]byte{0x12}, true}, {[]byte{0x22}, false}}, 1, 1, false, 0, 4, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			oddities := tt.oddities
			if testing.Short() || raceEnabled {
				oddities = tt.short
			}
			w := &walker{t: t, seed: maphash.MakeSeed(), seen: map[uint64]int32{}, failed: map[error]int{}}
			e, err := New(Config{IFSC: tt.ifsc, IFSD: tt.ifsd})
			require.NoError(t, err)
			c := newCard(tt.ifsc, tt.ifsd, modelAnswer)
			c.resendOnRepeat = tt.resendOnRepeat
			c.own = tt.own
			longest := w.begin(&world{engine: e, card: c, script: tt.script, pos: -1, oddities: oddities})
			t.Logf("%d oddities: %d states, longest run %d blocks, %d × answered, %d × interrupted, %d × aborted, %d × needs reset",
				oddities, len(w.seen), longest, w.done,
				w.failed[ErrInterrupted], w.failed[ErrAborted], w.failed[ErrNeedReset])
			require.NotZero(t, w.done)
			if oddities >= maxRepeats+maxResynch {
				require.NotZero(t, w.failed[ErrNeedReset])
			}
			// Every oddity can cost a few blocks; none may cost a loop.
			blocks := 0
			for _, x := range tt.script {
				blocks += len(x.command) + len(modelAnswer(x.command))
			}
			require.LessOrEqual(t, int(longest), blocks+len(tt.script)*(maxRepeats+maxResynch+2)+2*oddities)
		})
	}
}

func (w *world) clone() *world {
	n := *w
	e := *w.engine
	e.response = bytes.Clone(w.engine.response)
	n.engine = &e
	n.card = w.card.clone()

	return &n
}

// hash maps all that decides about the future to a number.
func (k *walker) hash(w *world) uint64 {
	e, c := w.engine, w.card
	b := k.key[:0]
	bit := func(v bool) byte {
		if v {
			return 1
		}

		return 0
	}
	block := func(x wire) {
		b = append(b, bit(x.set), byte(x.pcb), byte(len(x.inf)))
		b = append(b, x.inf...)
	}
	text := func(s string) {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	b = append(b, byte(e.ifsc), byte(e.ifsd), e.ns, e.nr, byte(e.phase), byte(e.offset), byte(e.chunk),
		byte(e.delivered), byte(e.last), byte(e.repeats), byte(e.resynch), byte(e.wtx), byte(e.stalls), byte(e.accepted))
	b = binary.BigEndian.AppendUint32(b, e.acceptedSum)
	text(string(e.response))
	b = append(b, byte(c.ifsc), byte(c.ifsd), c.expect, c.own, bit(c.hasPart), byte(c.executed), bit(c.fresh), bit(c.afterFresh))
	text(string(c.command))
	text(string(c.output))
	text(string(c.taken))
	block(c.part)
	block(c.request)
	block(c.after)
	block(c.last)
	text(w.wire)
	text(w.held)
	b = append(b, bit(w.overtook), bit(e.abort), byte(w.pos), byte(w.oddities))
	k.key = b

	return maphash.Bytes(k.seed, b)
}

func (k *walker) fail(w *world, format string, args ...any) {
	k.t.Helper()
	k.t.Fatalf("%s\nrun:%s", fmt.Sprintf(format, args...), w.trace)
}

func (w *world) note(mark byte, block, what string) {
	w.trace = &trace{before: w.trace, mark: mark, block: block, what: what}
}

// begin starts the next command and returns the longest run from here.
func (k *walker) begin(w *world) int32 {
	w.pos++
	if w.pos == len(w.script) {
		return 0
	}
	w.card.taken, w.card.executed = nil, 0
	step, err := w.engine.Transmit(w.script[w.pos].command)
	if err != nil {
		k.fail(w, "Transmit: %v", err)
	}
	if w.script[w.pos].abort {
		w.engine.Abort()
	}
	w.wire = string(step.Send)

	return k.walk(w)
}

// walk follows all that can happen to the block on the line.
func (k *walker) walk(w *world) int32 {
	h := k.hash(w)
	if longest, ok := k.seen[h]; ok {
		if longest < 0 {
			k.fail(w, "endless run")
		}

		return longest
	}
	k.seen[h] = -1
	var longest int32
	follow := func(n *world) { longest = max(longest, k.transit(n)) }

	follow(w)
	if w.oddities > 0 {
		for _, up := range []string{"lost", "damaged", "twice"} {
			if up == "twice" && w.held != "" {
				continue
			}
			n := w.clone()
			n.oddities--
			longest = max(longest, k.toCard(n, up))
		}
	}
	k.seen[h] = longest + 1

	return longest + 1
}

// transit delivers the block to the card intact.
func (k *walker) transit(w *world) int32 { return k.toCard(w.clone(), "") }

func (k *walker) toCard(w *world, up string) int32 {
	b, ok := decode([]byte(w.wire), LRC)
	if !ok {
		k.fail(w, "the host sends %X", w.wire)
	}
	w.note('>', w.wire, up)
	switch up {
	case "lost":
		return k.toHost(w, "", false)
	case "damaged":
		return k.fromCard(w, w.card.damaged(1))
	case "twice":
		first := w.card.take(b)
		k.checkCard(w)
		second := w.card.take(b)
		k.checkCard(w)
		w.held, w.overtook = k.raw(second), false

		return k.toHost(w, k.raw(first), false)
	}
	reply := w.card.take(b)
	k.checkCard(w)

	return k.fromCard(w, reply)
}

// fromCard lets the card send its reply, or something else first.
func (k *walker) fromCard(w *world, reply wire) int32 {
	var longest int32
	if w.oddities > 0 && !w.card.request.set && reply.pcb&0xC0 != 0xC0 {
		for _, request := range []wire{{true, 0xC3, "\x05"}, {true, 0xC1, "\x01"}, {true, 0xC1, "\x02"}, {true, 0xC2, ""}} {
			n := w.clone()
			n.oddities--
			longest = max(longest, k.toHost(n, k.raw(n.card.instead(reply, request.pcb, request.inf)), false))
		}
	}

	return max(longest, k.toHost(w, k.raw(reply), true))
}

func (k *walker) raw(b wire) string { return string(encode(b, 0, LRC)) }

// toHost delivers what the card sent, or what the line makes of it. With odd set,
// the line may interfere.
func (k *walker) toHost(w *world, block string, odd bool) int32 {
	var longest int32
	try := func(cost int, what string, deliver string, held string) {
		if w.oddities < cost {
			return
		}
		n := w.clone()
		n.oddities -= cost
		n.held, n.overtook = held, false
		longest = max(longest, k.deliver(n, what, deliver))
	}

	overtake := func(cost int, what, deliver string) {
		switch {
		case w.held == "" || deliver == "" || deliver == "damaged":
			try(cost, what, deliver, w.held)
		case w.overtook || PCB(deliver[1]).Kind() == Information:
			try(cost, what, deliver, "")
		default:
			n := w.clone()
			n.overtook = true
			if n.oddities -= cost; n.oddities >= 0 {
				longest = max(longest, k.deliver(n, what, deliver))
			}
		}
	}

	overtake(0, "", block)
	if w.held != "" {
		try(0, "late", w.held, block) // and the newer block is kept back in turn
		try(1, "late, next one lost", w.held, "")
		try(1, "late, again", w.held, w.held)
	}
	if !odd || block == "" {
		return longest
	}
	overtake(1, "lost", "")
	overtake(1, "damaged", "damaged")
	if w.held == "" {
		try(1, "twice", block, block)
		try(1, "kept back", "", block)
	}
	for _, junk := range []wire{
		{true, 0xC0, ""},
		{true, 0xE1, "\x01"},
		{true, 0xE2, ""},
		{true, 0xE3, "\x05"},
		{true, 0xC3, "\x00"},
		{true, 0xC1, "\x00"},
		{true, 0xC1, "\xFF"},
		{true, 0xE4, ""},
	} {
		overtake(1, "replaced", k.raw(junk))
	}
	// Only the card itself can say that it has resynchronised: put in by the line
	// where the host waits for it, it would be a lie that no host can see through.
	if w.engine.phase != resynching {
		overtake(1, "replaced", k.raw(wire{true, 0xE0, ""}))
	}

	return longest
}

func (k *walker) deliver(w *world, what, block string) int32 {
	var step Step
	var err error
	switch block {
	case "":
		w.note('<', "", "nothing "+what)
		step, err = w.engine.NoAnswer()
	case "damaged":
		w.note('<', "", "damaged")
		step, err = w.engine.BadParity()
	default:
		w.note('<', block, what)
		if PCB(block[1]) == 0xE0 && (w.held == "" || PCB(w.held[1]) != 0xE0) {
			w.held = ""
		}
		step, err = w.engine.Receive([]byte(block))
	}
	switch {
	case err != nil:
		return k.ended(w, err)
	case step.Done:
		return k.answered(w, step.Response)
	}
	w.wire = string(step.Send)

	return k.walk(w)
}

// checkCard holds after every block the card takes: what its application has
// been given is the beginning of the command, and no command twice.
func (k *walker) checkCard(w *world) {
	command, c := w.script[w.pos].command, w.card
	switch {
	case !bytes.HasPrefix(command, c.taken):
		k.fail(w, "command %X: the application was given %X", command, c.taken)
	case c.executed > 1:
		k.fail(w, "command %X executed %d times", command, c.executed)
	case c.executed == 1 && !bytes.Equal(command, c.taken):
		k.fail(w, "command %X executed as %X", command, c.taken)
	}
}

// answered holds whenever the engine says that an exchange went well.
func (k *walker) answered(w *world, response []byte) int32 {
	k.done++
	command := w.script[w.pos].command
	w.note('=', "", "answered")
	if !bytes.Equal(response, modelAnswer(command)) {
		k.fail(w, "command %X: answer %X", command, response)
	}
	if w.card.executed != 1 {
		k.fail(w, "command %X answered and executed %d times", command, w.card.executed)
	}

	return k.begin(w)
}

// ended holds whenever the engine says that an exchange failed.
func (k *walker) ended(w *world, err error) int32 {
	w.note('=', "", err.Error())
	var failure *Error
	if !errors.As(err, &failure) {
		k.fail(w, "untyped error %v", err)
	}
	k.failed[failure.Err]++
	if errors.Is(err, ErrAborted) {
		k.failed[ErrAborted]++
	}
	switch failure.Delivered {
	case NotSent:
		k.fail(w, "a command was under way")
	case PartlySent:
		if w.card.executed != 0 {
			k.fail(w, "executed, but reported as %s", failure.Delivered)
		}
	}
	if failure.Err == ErrNeedReset {
		if err := w.engine.Reset(w.engine.cfg); err != nil {
			k.fail(w, "Reset: %v", err)
		}
		w.card.powerUp()
		w.held = ""
	}

	return k.begin(w)
}
