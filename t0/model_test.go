package t0

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/apdu"
)

// The model tests walk the engines through everything that a card, or a reader, can do to them: a card asks walk for
// each of its decisions, and walk replays it until every sequence of decisions was taken, up to a depth.

// walk is an odometer over the decisions of one run.
type walk struct {
	digits, bases []int
	next          int
}

// choose returns a decision, 0..n-1.
func (w *walk) choose(n int) int {
	if w.next == len(w.digits) {
		w.digits, w.bases = append(w.digits, 0), append(w.bases, n)
	}
	w.next++
	return w.digits[w.next-1]
}

// advance goes to the next sequence of decisions and reports whether there is one.
func (w *walk) advance() bool {
	w.next = 0
	for i := len(w.digits) - 1; i >= 0; i-- {
		if w.digits[i]++; w.digits[i] < w.bases[i] {
			return true
		}
		w.digits, w.bases = w.digits[:i], w.bases[:i]
	}
	return false
}

// bounded returns the depth of an exhaustive walk: less when the test has to be quick or is slowed down.
func bounded(full, short int) int {
	if testing.Short() || raceEnabled {
		return short
	}
	return full
}

// statusClasses are status words that stand for all that the mapping tells apart, with the impossible ones.
var statusClasses = []apdu.StatusWord{
	0x9000, 0x6102, 0x6100, 0x6C01, 0x6C00, 0x6281, 0x63C1, 0x9F02, 0x9104, 0x6581, 0x6700, 0x6A82, 0x6D00,
	0x6000, 0x5FFF, 0xA000, 0x0000,
}

var modelCommands = []struct {
	name, command string
}{
	{"1", "00 44 00 00"},
	{"2S", "00 B0 00 00 03"},
	{"2S 256", "00 B0 00 00 00"},
	{"3S", "00 D6 00 00 02 AA BB"},
	{"4S", "00 88 00 00 02 AA BB 03"},
	{"2E", "00 B0 00 00 00 02 01"},
	{"3E", "00 D6 00 00 00 01 2C" + fill(300)},
	{"4E", "00 88 00 00 00 01 2C" + fill(300) + "02 01"},
}

// must is require.True without its cost, for the inner loops.
func must(t *testing.T, ok bool, what string) {
	if !ok {
		t.Helper()
		t.Fatal(what)
	}
}

// tpduCard is a card, with a reader that may lie, seen from the TPDU level. It records what happened.
type tpduCard struct {
	command apdu.Command
	raw     []byte

	sent     int    // TPDUs received
	enclosed []byte // what ENVELOPE commands carried
	runs     int    // times the command was handed to the application: it came whole, and was not refused with bare 6Cxx
	own      apdu.StatusWord
	fetching bool
	data     []byte // what the card sent in answers that count
	last     apdu.StatusWord
	lastData int
	lied     bool // the last answer can't be an answer
	counter  byte
}

// take checks a TPDU against the rules of who may send what, given what the card answered before.
func (c *tpduCard) take(t *testing.T, previous, tpdu []byte, expect int) {
	c.sent++
	must(t, len(tpdu) >= 4, "TPDU too short")
	switch len(tpdu) {
	case 4:
		must(t, expect == 0, "data expected without P3")
	case 5:
		must(t, expect == p3Length(tpdu[4]), "P3 is not what is expected")
	default:
		must(t, expect == 0 && int(tpdu[4]) == len(tpdu)-5, "P3 is not the length of the data")
	}
	switch repeated := len(previous) == 5 && len(tpdu) == 5 && bytes.Equal(previous[:4], tpdu[:4]); {
	case c.sent == 1 && len(c.command.Data) <= 255:
		must(t, bytes.Equal(c.raw[:4], tpdu[:4]), "not the command's header")
		must(t, bytes.Equal(c.command.Data, tpdu[min(5, len(tpdu)):]), "not the command's data")
	case tpdu[1] == insEnvelope:
		must(t, c.sent == 1 || c.last == apdu.Success, "the next ENVELOPE is sent after 9000 only")
		c.enclosed = append(c.enclosed, tpdu[5:]...)
		must(t, bytes.HasPrefix(c.raw, c.enclosed), "ENVELOPE does not carry the command")
	case repeated && c.last.SW1() == 0x6C:
		must(t, c.lastData == 0 && c.last.SW2() == tpdu[4], "not the length that the card named")
	default:
		must(t, bytes.Equal([]byte{0, 0xC0, 0, 0}, tpdu[:4]), "neither the command nor GET RESPONSE")
		must(t, expect <= c.command.Ne-len(c.data), "asks for more than is missing")
		if c.last.SW1() == 0x61 || c.last.SW1() == 0x9F {
			must(t, expect <= p3Length(c.last.SW2()), "asks for more than was announced")
		} else {
			must(t, !c.fetching && len(c.command.Data) > 0, "fetches where no data can be")
			must(t, c.last.SW1() < 0x64 || c.last.SW1() > 0x6F, "fetches after an error")
		}
		c.fetching = true
	}
}

// answer returns n bytes of fresh data and a status, and records what it means.
func (c *tpduCard) answer(t *testing.T, dst []byte, n int, sw apdu.StatusWord, expect int) []byte {
	for range n {
		c.counter++
		dst = append(dst, c.counter)
	}
	c.record(t, dst, sw, expect)
	return append(dst, byte(sw>>8), byte(sw))
}

func (c *tpduCard) record(t *testing.T, data []byte, sw apdu.StatusWord, expect int) {
	c.lied = len(data) > expect || !sw.Valid()
	c.last, c.lastData = sw, len(data)
	bare := sw.SW1() == 0x6C && len(data) == 0 && expect > 0
	if !bare && !c.lied {
		c.data = append(c.data, data...)
	}
	whole := len(c.command.Data) <= 255 || len(c.enclosed) == len(c.raw)
	if !c.fetching && whole && !bare {
		c.runs++
		c.own = sw
		must(t, c.runs == 1, "the application got the command twice")
	}
}

// judge holds a response APDU against what the card did.
func (c *tpduCard) judge(t *testing.T, response []byte) {
	must(t, !c.lied, "an impossible answer became a response")
	must(t, len(response) >= 2, "no status")
	data := response[:len(response)-2]
	sw := apdu.StatusWord(response[len(response)-2])<<8 | apdu.StatusWord(response[len(response)-1])
	if c.fetching && isError(c.last) {
		must(t, len(data) == 0, "data of a response that broke off")
	} else {
		must(t, bytes.Equal(c.data[:min(len(c.data), c.command.Ne)], data), "not the data that the card sent")
	}
	switch {
	case sw == c.last:
		must(t, !c.fetching || sw != apdu.Success || c.own.SW1() != 0x62, "a warning was lost")
	case c.last == apdu.Success, len(c.data) == 0 && c.last.SW1() >= 0x67 && c.last.SW1() <= 0x6F:
		must(t, sw == c.own && sw.SW1() != 0x61, "a status that the card did not give")
	default:
		must(t, false, "a status that the card did not give")
	}
	must(t, isError(sw) || c.runs == 1, "no error, but the application did not get the command")
}

// runTPDU plays one run. It ends without a verdict when the card has answered depth TPDUs.
func runTPDU(t *testing.T, e *Engine, raw []byte, depth int, answer func(step, expect int) (int, apdu.StatusWord)) {
	command, err := apdu.ParseCommand(raw)
	require.NoError(t, err)
	c := &tpduCard{command: command, raw: raw}
	s, err := e.Transmit(raw)
	require.NoError(t, err)
	var previous, buffer [MaxTPDU + 3]byte
	length := 0
	for step := range depth {
		c.take(t, previous[:length], s.Send, s.Expect)
		length = copy(previous[:], s.Send)
		n, sw := answer(step, s.Expect)
		s, err = e.Receive(c.answer(t, buffer[:0], n, sw, s.Expect))
		if err != nil {
			if c.lied {
				must(t, errors.Is(err, ErrResponse), "not the error for an impossible answer")
			} else {
				must(t, errors.Is(err, ErrPartialCommand) && len(c.enclosed) < len(raw), "error without a reason")
			}
			_, err = e.Receive([]byte{0x90, 0x00})
			must(t, errors.Is(err, ErrNoExchange), "the exchange goes on after an error")
			return
		}
		must(t, !c.lied, "an impossible answer was taken")
		if s.Done {
			c.judge(t, s.Response)
			return
		}
	}
}

// lengths are the amounts of data that a card may send: none, some, what was asked for, too many.
func lengths(i, expect int) int { return [...]int{0, min(1, expect), expect, expect + 1}[i] }

// Every sequence of answers made of the classes of status words, with none, some, all, and too many data.
func TestModelAPDU(t *testing.T) {
	depth := bounded(5, 3)
	for _, m := range modelCommands {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			e, raw := newEngine(t, Config{Mapping: MapAPDU}), unhex(t, m.command)
			w, runs := &walk{}, 0
			for more := true; more; more = w.advance() {
				runs++
				runTPDU(t, e, raw, depth, func(_, expect int) (int, apdu.StatusWord) {
					return lengths(w.choose(4), expect), statusClasses[w.choose(len(statusClasses))]
				})
			}
			t.Logf("%d runs", runs)
		})
	}
}

// Every status word at each of the first steps, after every sequence of the classes, and before a plain success.
func TestModelEveryStatus(t *testing.T) {
	for _, m := range modelCommands {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			e, raw := newEngine(t, Config{Mapping: MapAPDU}), unhex(t, m.command)
			for every := range bounded(2, 1) {
				w, runs := &walk{}, 0
				for more := true; more; more = w.advance() {
					runs++
					runTPDU(t, e, raw, every+2, func(step, expect int) (int, apdu.StatusWord) {
						switch {
						case step < every:
							return lengths(w.choose(3), expect), statusClasses[w.choose(len(statusClasses))]
						case step == every:
							return lengths(w.choose(2)*2, expect), apdu.StatusWord(w.choose(0x10000))
						}
						return 0, apdu.Success
					})
				}
				t.Logf("%d runs", runs)
			}
		})
	}
}

// characterCard plays a card at character level whose every procedure byte is a decision.
type characterCard struct {
	tpdu     []byte
	procByte func() byte
	taken    []byte // data bytes the card got
	given    []byte // data bytes the card sent
}

// errDepth ends a run that is longer than the walk wants to see.
var errDepth = errors.New("deep enough")

// run exchanges one TPDU, checking each step, and returns the response, or the error that the engine gave.
func (c *characterCard) run(t *testing.T, ch *Character, depth int) ([]byte, error) {
	s, err := ch.Transmit(c.tpdu)
	require.NoError(t, err)
	must(t, len(s.Send) == 5, "a header has five characters")
	ins, in := c.tpdu[1], 0
	if len(c.tpdu) == 5 {
		in = p3Length(c.tpdu[4])
	}
	out := c.tpdu[min(5, len(c.tpdu)):]
	for range depth {
		must(t, s.Expect == 1, "one procedure byte")
		b := c.procByte()
		s, err = ch.Receive([]byte{b})
		count := 0 // data bytes that this procedure byte moves
		switch {
		case b == 0x60:
			must(t, err == nil && s.Restart && len(s.Send) == 0, "NULL")
			continue
		case b == ins:
			count = 256
		case b == ins^0xFF:
			count = 1
		case b>>4 == 6, b>>4 == 9:
			must(t, err == nil && s.Expect == 1, "SW1")
			sw2 := c.procByte()
			s, err = ch.Receive([]byte{sw2})
			must(t, err == nil && s.Done, "SW2")
			must(t, bytes.Equal(append(c.given, b, sw2), s.Response), "not what the card sent")
			return s.Response, nil
		default:
			must(t, errors.Is(err, ErrProcedureByte), "an invalid procedure byte")
			return nil, err
		}
		must(t, err == nil && !s.Restart, "acknowledgement")
		if len(out) > 0 {
			count = min(count, len(out)-len(c.taken))
			must(t, len(s.Send) == count, "not the number of bytes that the card asked for")
			c.taken = append(c.taken, s.Send...)
			must(t, bytes.HasPrefix(out, c.taken), "not the command's data")
			continue
		}
		must(t, len(s.Send) == 0, "sends while the card has to")
		for count = min(count, in-len(c.given)); count > 0; {
			must(t, s.Expect == count, "expects another number of bytes than the card sends")
			n := (count + 1) / 2 // a reader may deliver in pieces
			piece := make([]byte, n)
			for i := range piece {
				piece[i] = byte(0x60 + len(c.given) + i) // data that look like procedure bytes
			}
			c.given = append(c.given, piece...)
			count -= n
			s, err = ch.Receive(piece)
			must(t, err == nil, "data")
		}
	}
	return nil, errDepth
}

// Every procedure byte at every step.
func TestModelCharacters(t *testing.T) {
	depth := bounded(7, 4)
	for _, tpdu := range []string{"00 44 00 00", "00 B0 00 00 03", "00 00 00 00 01", "00 D6 00 00 03 AA BB CC", "00 FF 00 00 02 60 90"} {
		t.Run(tpdu, func(t *testing.T) {
			t.Parallel()
			w, runs, ch, raw := &walk{}, 0, NewCharacter(), unhex(t, tpdu)
			for more := true; more; more = w.advance() {
				runs++
				c := &characterCard{tpdu: raw}
				sw1 := false
				c.procByte = func() byte {
					if sw1 { // SW2 is any byte; the engine does not look at it
						return [...]byte{0x00, 0x60, 0xFF}[w.choose(3)]
					}
					b := byte(w.choose(256))
					sw1 = isSW1(b)
					return b
				}
				_, err := c.run(t, ch, depth)
				if err != nil && !errors.Is(err, errDepth) {
					_, err = ch.Receive([]byte{0x90})
					require.ErrorIs(t, err, ErrNoExchange)
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}

// Both engines on one card that decides each procedure byte and each status: what the application gets is what the
// TPDU model allows, whatever way the characters took.
func TestModelAPDUOverCharacters(t *testing.T) {
	statuses := []apdu.StatusWord{0x9000, 0x6102, 0x6C01, 0x6281, 0x6A82}
	depth := bounded(6, 4)
	for _, command := range []string{"00 44 00 00", "00 B0 00 00 03", "00 D6 00 00 02 AA BB", "00 88 00 00 02 AA BB 03"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			e, ch, raw := newEngine(t, Config{Mapping: MapAPDU}), NewCharacter(), unhex(t, command)
			parsed, err := apdu.ParseCommand(raw)
			require.NoError(t, err)
			w, runs := &walk{}, 0
			for more := true; more; more = w.advance() {
				runs++
				c := &tpduCard{command: parsed, raw: raw}
				s, err := e.Transmit(raw)
				require.NoError(t, err)
				var previous []byte
				for range depth {
					c.take(t, previous, s.Send, s.Expect)
					previous = append(previous[:0], s.Send...)
					sw := statuses[w.choose(len(statuses))]
					line := &characterCard{tpdu: previous}
					acks := w.choose(3) // none, one byte, all; with a NULL before it
					script := []byte{0x60}
					switch acks {
					case 1:
						script = append(script, previous[1]^0xFF)
					case 2:
						script = append(script, previous[1])
					}
					script = append(script, byte(sw>>8), byte(sw))
					line.procByte = func() byte { b := script[0]; script = script[1:]; return b }
					tpduResponse, err := line.run(t, ch, 8)
					require.NoError(t, err)
					c.record(t, line.given, sw, s.Expect)
					s, err = e.Receive(tpduResponse)
					require.NoError(t, err)
					if s.Done {
						c.judge(t, s.Response)
						break
					}
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}
