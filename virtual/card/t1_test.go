package card

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// canned is an application that answers everything with the same.
type canned []byte

func (r canned) Reset(context.Context) ([]byte, error)            { return nil, nil }
func (r canned) Off()                                             {}
func (r canned) Transmit(context.Context, []byte) ([]byte, error) { return bytes.Clone(r), nil }

// pcbOf translates the notation of the standard.
func pcbOf(t *testing.T, name string) byte {
	t.Helper()
	if names := map[string]byte{
		"RESYNCH": 0xC0, "RESYNCH=": 0xE0, "IFS": 0xC1, "IFS=": 0xE1, "ABORT": 0xC2, "ABORT=": 0xE2, "WTX": 0xC3, "WTX=": 0xE3,
	}; names[name] != 0 {
		return names[name]
	}
	number, err := strconv.ParseUint(name[1:2], 10, 1)
	require.NoError(t, err)
	if name[0] == 'R' {
		pcb := 0x80 | byte(number)<<4
		if len(name) > 2 {
			pcb |= name[2] - '0'
		}
		return pcb
	}
	pcb := byte(number) << 6
	if strings.HasSuffix(name, "+") {
		pcb |= 0x20
	}
	return pcb
}

// TestT1Scenarios plays scenarios of ISO/IEC 7816-3 Annex A. A word is a block from the reader, then one from the card, and so
// on: I0+ is I(0,1), R1 is R(1), R01 an R(0) that reports an EDC error, WTX= the response. An x behind a block of the
// reader damages it on its way; damage to the card's blocks shows in what the reader sends next.
func TestT1Scenarios(t *testing.T) {
	long := canned(append(bytes.Repeat([]byte{0x5A}, 40), 0x90, 0x00))
	short := canned{0x90, 0x00}
	exact := canned(append(bytes.Repeat([]byte{0x5A}, 30), 0x90, 0x00))
	wtx := Behaviour{Extensions: []byte{3}}
	ifs := Behaviour{IFSC: 100}
	for _, tc := range []struct {
		name      string
		answer    canned
		behaviour Behaviour
		blocks    string
	}{
		{"1 I-blocks", short, Behaviour{}, "I0 I0 I1 I1 I0 I0"},
		{"2 waiting time extension", short, wtx, "I0 WTX WTX= I0"},
		{"3 IFS of the card", short, ifs, "I0 IFS IFS= I0"},
		{"4 IFS of the reader", short, Behaviour{}, "I0 I0 IFS IFS= I1 I1"},
		{"5 chain of the reader", short, Behaviour{}, "I0+ R1 I1+ R0 I0 I0"},
		{"6 chain of the card", long, Behaviour{}, "I0 I0+ R1 I1"},
		{"6 chain of the card, then more", long, Behaviour{}, "I0 I0+ R1 I1 I1 I0+ R1 I1"},
		{"8 I-block of the reader damaged", short, Behaviour{}, "I0x R01 I0 I0"},
		{"9 I-block of the card damaged", short, Behaviour{}, "I0 I0 R01 I0"},
		{"10 both damaged", short, Behaviour{}, "I0x R01 R01 R01 I0 I0"},
		{"11 R of the reader damaged too", short, Behaviour{}, "I0 I0 R01x R11 R01 I0"},
		{"13 and again", short, Behaviour{}, "I0 I0 R01x R11 R01x R11 R01 I0"},
		{"14 WTX request damaged", short, wtx, "I0 WTX R01 WTX WTX= I0"},
		{"15 and the R damaged", short, wtx, "I0 WTX R01x WTX WTX= I0"},
		{"16 IFS request damaged", short, ifs, "I0 IFS R01 IFS IFS= I0"},
		{"17 and the R damaged", short, ifs, "I0 IFS R01x IFS IFS= I0"},
		{"18 IFS response damaged", short, ifs, "I0 IFS IFS=x IFS IFS= I0"},
		{"19 I-block after it damaged", short, ifs, "I0 IFS IFS= I0 R01 I0"},
		{"20 and the R damaged", short, ifs, "I0 IFS IFS= I0 R01x R11 R01 I0"},
		{"21 R in a chain of the reader damaged", short, Behaviour{}, "I0+ R1 R01 R1 I1+ R0 I0 I0"},
		{"23 R in a chain of the card damaged", long, Behaviour{}, "I0 I0+ R1x R11 R1 I1"},
		{"26 the card aborts in place of its answer", short, Behaviour{Abort: true}, "I0 ABORT ABORT= R1 I1 ABORT ABORT= R0"},
		{"29 resynchronisation", short, Behaviour{}, "I0 I0 RESYNCH RESYNCH= I0 I0"},
		{"31 RESYNCH request damaged", short, Behaviour{}, "RESYNCHx R01 RESYNCH RESYNCH= I0 I0"},
		{"resynchronised in a chain of the reader", short, Behaviour{}, "I0+ R1 RESYNCH RESYNCH= I0 I0"},
		{"resynchronised in a chain of the card", long, Behaviour{}, "I0 I0+ RESYNCH RESYNCH= I0 I0+ R1 I1"},
		{"reader aborts its chain", short, Behaviour{}, "I0+ R1 ABORT ABORT= I1 I0"},
		{"reader aborts the card's chain", long, Behaviour{}, "I0 I0+ ABORT ABORT= I1 I1+ R0 I0"},
		{"wrong N(S)", short, Behaviour{}, "I1 R02 I0 I0"},
		{"I-block in the card's chain", long, Behaviour{}, "I0 I0+ I1 R12 R1 I1"},
		{"answer that fills the block", exact, Behaviour{}, "I0 I0 I1 I1"},
		{"WTX response for nothing", short, Behaviour{}, "WTX= R02 I0 I0"},
		{"several requests", short, Behaviour{IFSC: 50, Extensions: []byte{1, 2}}, "I0 IFS IFS= WTX WTX= WTX WTX= I0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := powered(t, tc.answer, Options{Protocol: 1, Behave: func([]byte) Behaviour { return tc.behaviour }})
			l := c.link.(*t1Link)
			var got []byte
			words := strings.Fields(tc.blocks)
			for i := 0; i < len(words); i += 2 {
				word, damaged := strings.CutSuffix(words[i], "x")
				pcb := pcbOf(t, word)
				var inf []byte
				switch {
				case pcb&0x80 == 0:
					inf = []byte{0x00, 0x84, 0x00, 0x00, 0x00}
				case pcb == pcbWTX|pcbResponse || pcb == pcbIFS|pcbResponse:
					inf = []byte{l.asked}
				case pcb == pcbIFS:
					inf = []byte{32}
				}
				block := l.block(pcb, inf)
				if damaged {
					block[len(block)-1] ^= 0x80
				}
				got = say(t, c, block)
				require.GreaterOrEqual(t, len(got), 4, "answer to %s", words[i])
				require.Equal(t, fmt.Sprintf("%02X", pcbOf(t, words[i+1])), fmt.Sprintf("%02X", got[1]), "answer to block %d, %s: % X", i, words[i], got)
				requireBlock(t, l, got)
			}
		})
	}
}

func TestT1BlocksThatBreakTheForm(t *testing.T) {
	for _, tc := range []struct {
		name, block string
		want        string
	}{
		{"LEN beyond the block", "00 00 05 90 00 95", "00 82 00 82"},
		{"LEN short of the block", "00 00 01 90 00 91", "00 82 00 82"},
		{"LRC wrong", "00 00 02 90 00 93", "00 81 00 81"},
		{"NAD with equal addresses", "11 00 02 90 00 83", "00 82 00 82"},
		{"NAD with Vpp", "08 00 02 90 00 9A", "00 82 00 82"},
		{"I-block with reserved bits", "00 01 02 90 00 93", "00 82 00 82"},
		{"R-block with data", "00 80 01 00 81", "00 82 00 82"},
		{"R-block with reserved bits", "00 A0 00 A0", "00 82 00 82"},
		{"S-block that is unknown", "00 C5 00 C5", "00 82 00 82"},
		{"IFS request without INF", "00 C1 00 C1", "00 82 00 82"},
		{"IFS request of 0", "00 C1 01 00 C0", "00 82 00 82"},
		{"IFS request of 255", "00 C1 01 FF 3F", "00 82 00 82"},
		{"RESYNCH with INF", "00 C0 01 00 C1", "00 82 00 82"},
		{"WTX request of the reader", "00 C3 01 01 C3", "00 82 00 82"},
		{"one byte", "00", "00 82 00 82"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := powered(t, canned{0x90, 0}, Options{Protocol: 1})
			c.state.Negotiable = false
			require.Equal(t, unhex(t, tc.want), say(t, c, unhex(t, tc.block)))
		})
	}
}

func TestT1AnswersWithTheAddressesExchanged(t *testing.T) {
	c := powered(t, canned{0x90, 0}, Options{Protocol: 1})
	require.Equal(t, unhex(t, "21 00 02 90 00 B3"), say(t, c, unhex(t, "12 00 05 20 11 00 00 00 26")))
}

func TestT1CRC(t *testing.T) {
	l := newT1Link(Traits{CRC: true, IFSC: 254})
	for block, want := range map[string]string{"000000": "CCC6", "0FAAFF": "FCD1", "0A123456": "2CF6"} {
		require.Equal(t, unhex(t, want), l.edc(unhex(t, block)))
	}
	c := powered(t, canned{0x90, 0}, Options{Protocol: 1, CRC: true})
	l = c.link.(*t1Link)
	got := say(t, c, l.block(0, []byte{0, 0x84, 0, 0, 8}))
	require.Equal(t, l.block(0, []byte{0x90, 0}), got)

	c = powered(t, canned{0x90, 0}, Options{Protocol: 1, CRC: true, PlainCRC: true})
	l = c.link.(*t1Link)
	require.Equal(t, unhex(t, "54 4E"), l.edc(unhex(t, "00 C1 01 FE")))
	require.Equal(t, l.block(0xE0, nil), say(t, c, l.block(0xC0, nil)))
	require.Equal(t, l.block(0, []byte{0x90, 0}), say(t, c, l.block(0, []byte{0, 0x84, 0, 0, 8})), "RESYNCH changes no EDC")
}

// requireBlock checks a block as its receiver does.
func requireBlock(t testing.TB, l *t1Link, block []byte) {
	t.Helper()
	receiver := t1Link{traits: l.traits, ifsc: maxIFS}
	_, fault := receiver.check(block)
	require.Zero(t, fault, "% X", block)
}

// t1Exchange is a reader that makes no mistakes and sees none.
func t1Exchange(t testing.TB, c *ICC, ns *byte, command []byte) []byte {
	t.Helper()
	l := c.link.(*t1Link)
	var block, response []byte
	for len(command) > 0 {
		n := min(len(command), l.ifsc)
		pcb := *ns << 6
		if n < len(command) {
			pcb |= pcbMore
		}
		*ns ^= 1
		block = say(t, c, l.block(pcb, command[:n]))
		command = command[n:]
	}
	for {
		requireBlock(t, l, block)
		inf := block[3 : len(block)-len(l.edc(nil))]
		switch pcb := block[1]; {
		case pcb&0x80 == 0:
			response = append(response, inf...)
			if pcb&pcbMore == 0 {
				return response
			}
			block = say(t, c, l.block(pcbR|^pcb>>2&pcbRSequence, nil))
		case pcb&0xE0 == pcbS:
			block = say(t, c, l.block(pcb|pcbResponse, inf))
		default:
			require.Fail(t, "unexpected block", "% X", block)
		}
	}
}

func TestT1CarriesEveryLength(t *testing.T) {
	for _, ifsd := range []byte{1, 32, 254} {
		for _, o := range []Options{{Protocol: 1}, {Protocol: 1, CRC: true, IFSC: 1}, {Protocol: 1, IFSC: 33}} {
			t.Run(fmt.Sprintf("IFSD %d IFSC %d", ifsd, o.IFSC), func(t *testing.T) {
				c := powered(t, NewISO(), o)
				l := c.link.(*t1Link)
				say(t, c, l.block(pcbIFS, []byte{ifsd}))
				var ns byte
				lengths := []int{1, 2, 30, 31, 32, 33, 252, 253, 254, 255, 256, 257, 1000}
				if ifsd == 254 && o.IFSC == 0 {
					lengths = append(lengths, 65535)
				}
				for _, n := range lengths {
					command := []byte{0x80, insEcho, 0, 0, 0, byte(n >> 8), byte(n)}
					command = append(append(command, pattern(n)...), 0, 0)
					require.Equal(t, append(pattern(n), 0x90, 0), t1Exchange(t, c, &ns, command), "%d bytes", n)
				}
			})
		}
	}
}

func TestT1AsksForTimeWhileTheApplicationWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := powered(t, NewISO(), Options{Protocol: 1, Patience: 5 * time.Millisecond, Behave: func([]byte) Behaviour {
			return Behaviour{Delay: 50 * time.Millisecond}
		}})
		l := c.link.(*t1Link)
		block := say(t, c, l.block(0, []byte{0, 0x84, 0, 0, 4}))
		extensions := 0
		for block[1] == pcbWTX {
			extensions++
			block = say(t, c, l.block(pcbWTX|pcbResponse, block[3:4]))
		}
		require.Positive(t, extensions)
		require.Equal(t, byte(0), block[1])
		require.Len(t, block, 3+4+2+1)
	})
}

func TestT1ChainWithoutEndIsAborted(t *testing.T) {
	c := powered(t, canned{0x90, 0}, Options{Protocol: 1})
	l := c.link.(*t1Link)
	inf := make([]byte, 254)
	for i := range 300 {
		block := say(t, c, l.block(byte(i&1)<<6|pcbMore, inf))
		if block[1] == pcbAbort {
			require.Greater(t, (i+1)*len(inf), maxCommand)
			return
		}
		require.Equal(t, byte(pcbR), block[1]&^byte(pcbRSequence))
	}
	require.Fail(t, "the card takes everything")
}

func FuzzT1Link(f *testing.F) {
	f.Add([]byte{5, 0, 0, 5, 0, 0x84, 0, 0, 8, 0x89}, true)
	f.Add([]byte{4, 0, 0xC0, 0, 0xC0, 4, 0, 0x81, 0, 0x81}, false)
	f.Fuzz(func(t *testing.T, script []byte, repair bool) {
		c := New(NewISO(), Options{Protocol: 1, Patience: -1})
		defer func() { require.NoError(t, c.Close()) }()
		_, err := c.PowerOn(t.Context(), ClassA)
		require.NoError(t, err)
		l := c.link.(*t1Link)
		for len(script) > 0 {
			n := min(int(script[0]), len(script)-1)
			block := bytes.Clone(script[1 : 1+n])
			script = script[1+n:]
			if repair && len(block) > 3 {
				block[2] = byte(len(block) - 3)
				block = append(block, l.edc(block)...)
			}
			got := say(t, c, block)
			if len(got) == 0 {
				continue
			}
			if c.link != l {
				return // a PPS
			}
			requireBlock(t, l, got)
			require.LessOrEqual(t, len(got), 3+254+1)
		}
	})
}
