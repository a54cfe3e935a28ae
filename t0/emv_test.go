package t0

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	selectPSE = "00 A4 04 00 0E 31 50 41 59 2E 53 59 53 2E 44 44 46 30 31"
	pseData   = "31 50 41 59 2E 53 59 53 2E 44 44 46 30 31"
	pseFCI1   = "6F 24 84 0E 31 50 41 59 2E 53 59 53 2E 44 44"
	pseFCI2   = "46 30 31 A5 12 88 01 01 5F 2D 08 65 6E 65 73 66 72 64 65 9F 11 01 01"
	pseFCI    = pseFCI1 + pseFCI2
	record1   = "70 1A 61 18 4F 07 A0 00 00 00 03 10 10"
	record2   = "50 0A 56 49 53 41 20 44 45 42 49 54 87 01 01"
	record    = record1 + record2
)

// emvCases are the examples of EMV Contact Interface Specification v1.0, Annex A, with the bytes of the public test suite
// of emv-utils, and one exchange recorded on a real card. apdu is what the application sends and response what it gets;
// tpdus are the exchanges at TPDU level, characters those at character level. Where emv-utils lets a card send part of the
// data that INS promised, or 23 bytes after 61 14, which no card can do, the bytes here are what a card would send.
var emvCases = []struct {
	name       string
	apdu       string
	tpdus      []turn
	characters []turn
	response   string
}{
	{
		name:       "case 1 normal",
		apdu:       "12 34 56 78",
		tpdus:      []turn{{"12 34 56 78", "90 00"}},
		characters: []turn{{"12 34 56 78 00", "90 00"}},
		response:   "90 00",
	},
	{
		name:       "case 1 error",
		apdu:       "12 34 56 78",
		tpdus:      []turn{{"12 34 56 78", "6A 81"}},
		characters: []turn{{"12 34 56 78 00", "6A 81"}},
		response:   "6A 81",
	},
	{
		name:       "case 2 normal",
		apdu:       "00 B2 01 0C 00",
		tpdus:      []turn{{"00 B2 01 0C 00", "6C 1C"}, {"00 B2 01 0C 1C", record + "90 00"}},
		characters: []turn{{"00 B2 01 0C 00", "6C 1C"}, {"00 B2 01 0C 1C", "B2" + record + "90 00"}},
		response:   record + "90 00",
	},
	{
		name:       "case 2 error early",
		apdu:       "00 B2 01 0C 00",
		tpdus:      []turn{{"00 B2 01 0C 00", "6A 81"}},
		characters: []turn{{"00 B2 01 0C 00", "6A 81"}},
		response:   "6A 81",
	},
	{
		name:       "case 2 error late",
		apdu:       "00 B2 01 0C 00",
		tpdus:      []turn{{"00 B2 01 0C 00", "6C 1C"}, {"00 B2 01 0C 1C", "65 81"}},
		characters: []turn{{"00 B2 01 0C 00", "6C 1C"}, {"00 B2 01 0C 1C", "65 81"}},
		response:   "65 81",
	},
	{
		name:       "case 3 normal",
		apdu:       "00 82 00 00 04 DE AD BE EF",
		tpdus:      []turn{{"00 82 00 00 04 DE AD BE EF", "90 00"}},
		characters: []turn{{"00 82 00 00 04", "82"}, {"DE AD BE EF", "90 00"}},
		response:   "90 00",
	},
	{
		name:       "case 3 error early",
		apdu:       "00 82 00 00 04 DE AD BE EF",
		tpdus:      []turn{{"00 82 00 00 04 DE AD BE EF", "6A 81"}},
		characters: []turn{{"00 82 00 00 04", "6A 81"}},
		response:   "6A 81",
	},
	{
		name:       "case 3 error late",
		apdu:       "00 82 00 00 04 DE AD BE EF",
		tpdus:      []turn{{"00 82 00 00 04 DE AD BE EF", "65 81"}},
		characters: []turn{{"00 82 00 00 04", "82"}, {"DE AD BE EF", "65 81"}},
		response:   "65 81",
	},
	{
		name:       "case 4 normal",
		apdu:       selectPSE + "00",
		tpdus:      []turn{{selectPSE, "61 26"}, {"00 C0 00 00 26", pseFCI + "90 00"}},
		characters: []turn{{"00 A4 04 00 0E", "A4"}, {pseData, "61 26"}, {"00 C0 00 00 26", "C0" + pseFCI + "90 00"}},
		response:   pseFCI + "90 00",
	},
	{
		name:       "case 4 error early",
		apdu:       selectPSE + "00",
		tpdus:      []turn{{selectPSE, "6A 82"}},
		characters: []turn{{"00 A4 04 00 0E", "6A 82"}},
		response:   "6A 82",
	},
	{
		name:       "case 4 error early, second exchange",
		apdu:       selectPSE + "00",
		tpdus:      []turn{{selectPSE, "6A 82"}},
		characters: []turn{{"00 A4 04 00 0E", "A4"}, {pseData, "6A 82"}},
		response:   "6A 82",
	},
	{
		name:       "case 4 error late",
		apdu:       selectPSE + "00",
		tpdus:      []turn{{selectPSE, "61 26"}, {"00 C0 00 00 26", "65 81"}},
		characters: []turn{{"00 A4 04 00 0E", "A4"}, {pseData, "61 26"}, {"00 C0 00 00 26", "65 81"}},
		response:   "65 81",
	},
	{
		name: "case 2 normal advanced, 6C then 61",
		apdu: "00 B2 01 0C 00",
		tpdus: []turn{
			{"00 B2 01 0C 00", "6C 1C"},
			{"00 B2 01 0C 1C", "61 1C"},
			{"00 C0 00 00 1C", record1 + "61 0F"},
			{"00 C0 00 00 0F", record2 + "90 00"},
		},
		// The card sends the first 13 bytes one by one, so that it can end early.
		characters: []turn{
			{"00 B2 01 0C 00", "6C 1C"},
			{"00 B2 01 0C 1C", "61 1C"},
			{"00 C0 00 00 1C", "3F70 3F1A 3F61 3F18 3F4F 3F07 3FA0 3F00 3F00 3F00 3F03 3F10 3F10 610F"},
			{"00 C0 00 00 0F", "C0" + record2 + "90 00"},
		},
		response: record + "90 00",
	},
	{
		name: "case 4 normal advanced, 61 twice",
		apdu: selectPSE + "00",
		tpdus: []turn{
			{selectPSE, "61 26"}, {"00 C0 00 00 26", pseFCI1 + "61 17"}, {"00 C0 00 00 17", pseFCI2 + "90 00"},
		},
		characters: []turn{
			{"00 A4 04 00 0E", "A4"},
			{pseData, "61 26"},
			{"00 C0 00 00 26", "3F6F 3F24 3F84 3F0E 3F31 3F50 3F41 3F59 3F2E 3F53 3F59 3F53 3F2E 3F44 3F44 6117"},
			{"00 C0 00 00 17", "C0" + pseFCI2 + "90 00"},
		},
		response: pseFCI + "90 00",
	},
	{
		name: "case 4 warning first, 62 then 6C",
		apdu: selectPSE + "00",
		tpdus: []turn{
			{selectPSE, "62 86"}, {"00 C0 00 00 00", "6C 26"}, {"00 C0 00 00 26", pseFCI + "90 00"},
		},
		characters: []turn{
			{"00 A4 04 00 0E", "A4"},
			{pseData, "62 86"},
			{"00 C0 00 00 00", "6C 26"},
			{"00 C0 00 00 26", "C0" + pseFCI + "90 00"},
		},
		response: pseFCI + "62 86",
	},
	{
		name:  "case 4 warning last, 61 then 62",
		apdu:  selectPSE + "00",
		tpdus: []turn{{selectPSE, "61 26"}, {"00 C0 00 00 26", pseFCI + "62 86"}},
		characters: []turn{
			{"00 A4 04 00 0E", "A4"}, {pseData, "61 26"}, {"00 C0 00 00 26", "C0" + pseFCI + "62 86"},
		},
		response: pseFCI + "62 86",
	},
}

// recorded is what a real T=0 card answered (yubico-piv-tool pull request 340); the data are not part of the record.
var recorded = []struct {
	name, apdu string
	tpdus      []turn
	response   string
}{
	{
		name:     "PIN counter",
		apdu:     "00 20 00 80 00",
		tpdus:    []turn{{"00 20 00 80 00", "63 C5"}},
		response: "63 C5",
	},
	{
		name:     "6C 03",
		apdu:     "00 FD 00 00 00",
		tpdus:    []turn{{"00 FD 00 00 00", "6C 03"}, {"00 FD 00 00 03", "05 02 07 90 00"}},
		response: "05 02 07 90 00",
	},
	{
		name:     "SELECT without Le",
		apdu:     "00 A4 04 00 05 A0 00 00 03 08",
		tpdus:    []turn{{"00 A4 04 00 05 A0 00 00 03 08", "61 73"}},
		response: "61 73",
	},
}

func TestEMVCasesMapped(t *testing.T) {
	for _, c := range emvCases {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, Config{Mapping: MapAPDU})
			require.Equal(t, unhex(t, c.response), play(t, e, c.apdu, c.tpdus))
		})
	}
	for _, c := range recorded {
		t.Run("recorded: "+c.name, func(t *testing.T) {
			e := newEngine(t, Config{Mapping: MapAPDU})
			require.Equal(t, unhex(t, c.response), play(t, e, c.apdu, c.tpdus))
		})
	}
}

// In transparent mode the application plays the part of the EMV terminal: it sends each TPDU and sees each answer.
func TestEMVCasesTransparent(t *testing.T) {
	for _, c := range emvCases {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, Config{})
			for i, tpdu := range c.tpdus {
				command := tpdu.c
				if i == 0 {
					command = c.apdu // with Le in case 4
				}
				require.Equal(t, unhex(t, tpdu.r), play(t, e, command, []turn{tpdu}))
			}
		})
	}
}

func TestEMVCasesAsCharacters(t *testing.T) {
	for _, c := range emvCases {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, unhex(t, c.response), playCharacters(t, c.apdu, c.characters))
		})
	}
}

// playCharacters runs an APDU through both engines against a card that is a script of characters.
func playCharacters(t *testing.T, command string, script []turn) []byte {
	t.Helper()
	e, c := newEngine(t, Config{Mapping: MapAPDU}), NewCharacter()
	s, err := e.Transmit(unhex(t, command))
	require.NoError(t, err)
	var line []byte // what the card has sent and nobody read yet
	for !s.Done {
		cs, err := c.Transmit(s.Send)
		require.NoError(t, err)
		for !cs.Done {
			if len(cs.Send) > 0 {
				require.Empty(t, line, "both sides send")
				require.NotEmpty(t, script)
				require.Equal(t, unhex(t, script[0].c), cs.Send)
				line, script = unhex(t, script[0].r), script[1:]
			}
			require.GreaterOrEqual(t, len(line), cs.Expect, "the reader would wait in vain")
			read := line[:cs.Expect]
			line = line[cs.Expect:]
			cs, err = c.Receive(read)
			require.NoError(t, err)
		}
		require.Empty(t, line)
		s, err = e.Receive(cs.Response)
		require.NoError(t, err)
	}
	require.Empty(t, script)
	return s.Response
}
