package t0

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fill returns n bytes as hexadecimal digits, each different from its neighbours.
func fill(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%02X", byte(i+i>>8))
	}
	return b.String()
}

// part returns the bytes from..to of hexadecimal digits.
func part(s string, from, to int) string {
	s = strings.ReplaceAll(s, " ", "")
	return s[2*from : min(2*to, len(s))]
}

// envelopes returns the ENVELOPE commands that carry an APDU, all but the last answered with 9000.
func envelopes(class, apdu, last string) []turn {
	apdu = strings.ReplaceAll(apdu, " ", "")
	var turns []turn
	for from := 0; from < len(apdu)/2; from += 255 {
		p := part(apdu, from, from+255)
		turns = append(turns, turn{fmt.Sprintf("%s C2 00 00 %02X %s", class, len(p)/2, p), "90 00"})
	}
	turns[len(turns)-1].r = last
	return turns
}

// The cases of ISO/IEC 7816-3:2006 §12.2, each with what the card may answer.
func TestISOCases(t *testing.T) {
	data300 := fill(300)
	case3E := "00 D6 00 00 00 01 2C" + data300
	case4E := case3E + "01 00"
	tests := []struct {
		name, apdu string
		script     []turn
		response   string
	}{
		{"1", "00 44 00 00", []turn{{"00 44 00 00", "90 00"}}, "90 00"},
		{"1, 61xx is handed up", "00 44 00 00", []turn{{"00 44 00 00", "61 05"}}, "61 05"},
		{"1, 6Cxx is handed up", "00 44 00 00", []turn{{"00 44 00 00", "6C 05"}}, "6C 05"},

		{"2S.1 Ne accepted", "00 B0 00 00 03", []turn{{"00 B0 00 00 03", "01 02 03 90 00"}}, "01 02 03 90 00"},
		{"2S.1 Ne 256", "00 B0 00 00 00", []turn{{"00 B0 00 00 00", fill(256) + "90 00"}}, fill(256) + "90 00"},
		{"2S.1 fewer bytes than asked for", "00 B0 00 00 03", []turn{{"00 B0 00 00 03", "01 62 82"}}, "01 62 82"},
		{"2S.2 Ne definitely not accepted", "00 B0 00 00 03", []turn{{"00 B0 00 00 03", "67 00"}}, "67 00"},
		{
			"2S.3 fewer available", "00 B0 00 00 05",
			[]turn{{"00 B0 00 00 05", "6C 02"}, {"00 B0 00 00 02", "01 02 90 00"}},
			"01 02 90 00",
		},
		{
			"2S.3 more available, the first Ne are kept", "00 B0 00 00 02",
			[]turn{{"00 B0 00 00 02", "6C 05"}, {"00 B0 00 00 05", "01 02 03 04 05 90 00"}},
			"01 02 90 00",
		},
		{
			"2S.3 6C00 is 256", "00 B0 00 00 02",
			[]turn{{"00 B0 00 00 02", "6C 00"}, {"00 B0 00 00 00", fill(256) + "90 00"}},
			"00 01 90 00",
		},
		{
			"2S.3 the second 6Cxx is the answer", "00 B0 00 00 05",
			[]turn{{"00 B0 00 00 05", "6C 02"}, {"00 B0 00 00 02", "6C 03"}},
			"6C 03",
		},
		{"2S.3 not with data", "00 B0 00 00 05", []turn{{"00 B0 00 00 05", "01 6C 02"}}, "01 6C 02"},
		{"2S.4 9XYZ", "00 B0 00 00 05", []turn{{"00 B0 00 00 05", "91 02"}}, "91 02"},
		{"2S warning with data", "00 B0 00 00 02", []turn{{"00 B0 00 00 02", "01 02 62 81"}}, "01 02 62 81"},
		{
			"2S 61xx", "00 CB 00 00 00",
			[]turn{{"00 CB 00 00 00", "61 02"}, {"00 C0 00 00 02", "01 02 90 00"}},
			"01 02 90 00",
		},
		{
			"2S 61xx when Ne bytes are there", "00 CB 00 00 00",
			[]turn{{"00 CB 00 00 00", fill(256) + "61 02"}},
			fill(256) + "61 02",
		},

		{"3S", "00 D6 00 00 02 AA BB", []turn{{"00 D6 00 00 02 AA BB", "90 00"}}, "90 00"},
		{"3S 61xx is handed up", "00 D6 00 00 02 AA BB", []turn{{"00 D6 00 00 02 AA BB", "61 05"}}, "61 05"},
		{"3S 6Cxx is handed up", "00 D6 00 00 02 AA BB", []turn{{"00 D6 00 00 02 AA BB", "6C 05"}}, "6C 05"},
		{"3S warning", "00 20 00 00 02 AA BB", []turn{{"00 20 00 00 02 AA BB", "63 C2"}}, "63 C2"},

		{"4S.1 not accepted", "00 88 00 00 01 AA 05", []turn{{"00 88 00 00 01 AA", "69 82"}}, "69 82"},
		{"4S.1 6Cxx is handed up", "00 88 00 00 01 AA 05", []turn{{"00 88 00 00 01 AA", "6C 03"}}, "6C 03"},
		{
			"4S.2 accepted", "00 88 00 00 01 AA 02",
			[]turn{{"00 88 00 00 01 AA", "90 00"}, {"00 C0 00 00 02", "01 02 90 00"}},
			"01 02 90 00",
		},
		{
			"4S.2 Ne 256", "00 88 00 00 01 AA 00",
			[]turn{{"00 88 00 00 01 AA", "90 00"}, {"00 C0 00 00 00", fill(256) + "90 00"}},
			fill(256) + "90 00",
		},
		{
			"4S.2 GET RESPONSE with 6Cxx", "00 88 00 00 01 AA 00",
			[]turn{{"00 88 00 00 01 AA", "90 00"}, {"00 C0 00 00 00", "6C 01"}, {"00 C0 00 00 01", "07 90 00"}},
			"07 90 00",
		},
		{
			"4S.2 GET RESPONSE fails", "00 88 00 00 01 AA 02",
			[]turn{{"00 88 00 00 01 AA", "90 00"}, {"00 C0 00 00 02", "65 81"}},
			"65 81",
		},
		{
			"4S.2 nothing to fetch", "00 88 00 00 01 AA 02",
			[]turn{{"00 88 00 00 01 AA", "90 00"}, {"00 C0 00 00 02", "6D 00"}},
			"90 00",
		},
		{
			"4S.2 data that can't be fetched", "00 88 00 00 01 AA 02",
			[]turn{{"00 88 00 00 01 AA", "90 00"}, {"00 C0 00 00 02", "6C 01"}, {"00 C0 00 00 01", "6C 02"}},
			"6C 02",
		},
		{
			"4S.3 fewer than Ne", "00 88 00 00 01 AA 05",
			[]turn{{"00 88 00 00 01 AA", "61 02"}, {"00 C0 00 00 02", "01 02 90 00"}},
			"01 02 90 00",
		},
		{
			"4S.3 more than Ne", "00 88 00 00 01 AA 01",
			[]turn{{"00 88 00 00 01 AA", "61 02"}, {"00 C0 00 00 01", "01 61 01"}},
			"01 61 01",
		},
		{
			"4S.3 refused, the card had announced data", "00 88 00 00 01 AA 05",
			[]turn{{"00 88 00 00 01 AA", "61 02"}, {"00 C0 00 00 02", "6D 00"}},
			"6D 00",
		},
		{
			"4S.3 aborted in the middle, no data", "00 88 00 00 01 AA 05",
			[]turn{{"00 88 00 00 01 AA", "61 02"}, {"00 C0 00 00 02", "01 61 01"}, {"00 C0 00 00 01", "6F 00"}},
			"6F 00",
		},
		{
			"4S.3 SIM card", "A0 A4 00 00 02 3F 00 00",
			[]turn{{"A0 A4 00 00 02 3F 00", "9F 02"}, {"00 C0 00 00 02", "01 02 90 00"}},
			"01 02 90 00",
		},
		{
			"4S.4 9XYZ, nothing to fetch", "00 88 00 00 01 AA 05",
			[]turn{{"00 88 00 00 01 AA", "91 0B"}, {"00 C0 00 00 05", "69 85"}},
			"91 0B",
		},
		{
			"4S.4 63xx, nothing to fetch", "00 88 00 00 01 AA 05",
			[]turn{{"00 88 00 00 01 AA", "63 C3"}, {"00 C0 00 00 05", "67 00"}},
			"63 C3",
		},
		{
			"4S.4 62xx, data by 61xx", "00 88 00 00 01 AA 05",
			[]turn{{"00 88 00 00 01 AA", "62 83"}, {"00 C0 00 00 05", "61 01"}, {"00 C0 00 00 01", "07 90 00"}},
			"07 62 83",
		},
		{
			"4S.4 62xx, the data have a warning too", "00 88 00 00 01 AA 05",
			[]turn{{"00 88 00 00 01 AA", "62 83"}, {"00 C0 00 00 05", "07 62 81"}},
			"07 62 81",
		},

		{"2E.1 Ne 3", "00 B0 00 00 00 00 03", []turn{{"00 B0 00 00 03", "01 02 03 90 00"}}, "01 02 03 90 00"},
		{"2E.1 Ne 256", "00 B0 00 00 00 01 00", []turn{{"00 B0 00 00 00", fill(256) + "90 00"}}, fill(256) + "90 00"},
		{"2E.2a wrong length", "00 B0 00 00 00 01 2C", []turn{{"00 B0 00 00 00", "67 00"}}, "67 00"},
		{
			"2E.2b 6Cxx", "00 B0 00 00 00 01 2C",
			[]turn{{"00 B0 00 00 00", "6C 02"}, {"00 B0 00 00 02", "01 02 90 00"}},
			"01 02 90 00",
		},
		{"2E.2c all in one", "00 B0 00 00 00 01 2C", []turn{{"00 B0 00 00 00", fill(256) + "90 00"}}, fill(256) + "90 00"},
		{
			"2E.2d 61xx, Ne 300", "00 B0 00 00 00 01 2C",
			[]turn{
				{"00 B0 00 00 00", part(data300, 0, 256) + "61 00"}, {"00 C0 00 00 2C", part(data300, 256, 300) + "90 00"},
			},
			data300 + "90 00",
		},
		{
			"2E.2d 61xx, less than Ne", "00 B0 00 00 00 00 00",
			[]turn{
				{"00 B0 00 00 00", part(data300, 0, 256) + "61 2C"}, {"00 C0 00 00 2C", part(data300, 256, 300) + "90 00"},
			},
			data300 + "90 00",
		},

		{"3E.1", "00 D6 00 00 00 00 02 AA BB", []turn{{"00 D6 00 00 02 AA BB", "90 00"}}, "90 00"},
		{"3E.1 255 bytes", "00 D6 00 00 00 00 FF" + fill(255), []turn{{"00 D6 00 00 FF" + fill(255), "90 00"}}, "90 00"},
		{"3E.2 256 bytes", "00 D6 00 00 00 01 00" + fill(256), envelopes("00", "00 D6 00 00 00 01 00"+fill(256), "90 00"), "90 00"},
		{"3E.2", case3E, envelopes("00", case3E, "90 00"), "90 00"},
		{"3E.2 the command fails", case3E, envelopes("00", case3E, "6A 84"), "6A 84"},
		{"3E.2 without ENVELOPE", case3E, []turn{{envelopes("00", case3E, "")[0].c, "6D 00"}}, "6D 00"},
		{"3E.2 longest", "00 D6 00 00 00 FF FF" + fill(65535), envelopes("00", "00 D6 00 00 00 FF FF"+fill(65535), "90 00"), "90 00"},

		{
			"4E.1 61xx", "00 88 00 00 00 00 01 AA 01 2C",
			[]turn{
				{"00 88 00 00 01 AA", "61 00"},
				{"00 C0 00 00 00", part(data300, 0, 256) + "61 2C"},
				{"00 C0 00 00 2C", part(data300, 256, 300) + "90 00"},
			},
			data300 + "90 00",
		},
		{
			"4E.1 9000", "00 88 00 00 00 00 01 AA 01 2C",
			[]turn{{"00 88 00 00 01 AA", "90 00"}, {"00 C0 00 00 00", "01 90 00"}},
			"01 90 00",
		},
		{
			"4E.2", case4E,
			append(envelopes("00", case4E, "61 02"), turn{"00 C0 00 00 02", "01 02 90 00"}), "01 02 90 00",
		},
		{
			"4E.2 GET RESPONSE with 6Cxx", case4E,
			append(envelopes("00", case4E, "90 00"), turn{"00 C0 00 00 00", "6C 01"}, turn{"00 C0 00 00 01", "07 90 00"}), "07 90 00",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := newEngine(t, Config{Mapping: MapAPDU})
			for range 2 { // an engine is as good as new after an exchange
				require.Equal(t, unhex(t, test.response), play(t, e, test.apdu, test.script))
			}
		})
	}
}

func TestLongestResponse(t *testing.T) {
	var script []turn
	all := fill(65536)
	for from := 0; from < 65536; from += 256 {
		c, sw := "00 C0 00 00 00", "61 00"
		if from == 0 {
			c = "00 B0 00 00 00"
		}
		if from+256 == 65536 {
			sw = "90 00"
		}
		script = append(script, turn{c, part(all, from, from+256) + sw})
	}
	e := newEngine(t, Config{Mapping: MapAPDU})
	require.Equal(t, unhex(t, all+"90 00"), play(t, e, "00 B0 00 00 00 00 00", script))
}

func TestClassOfAddedCommands(t *testing.T) {
	long := "0C D6 00 00 00 01 00" + fill(256) + "01 00"
	for _, test := range []struct {
		name                         string
		getResponse, envelope        byte
		wantGetResponse, wantEnvelop string
	}{
		{"as configured", 0x80, 0x00, "80", "00"},
		{"echo", EchoClass, EchoClass, "0C", "0C"},
		{"echo in GET RESPONSE only", EchoClass, 0x80, "0C", "80"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEngine(t, Config{Mapping: MapAPDU, ClassGetResponse: test.getResponse, ClassEnvelope: test.envelope})
			script := append(envelopes(test.wantEnvelop, long, "61 01"), turn{test.wantGetResponse + "C0 00 00 01", "07 90 00"})
			require.Equal(t, unhex(t, "07 90 00"), play(t, e, long, script))
		})
	}
}

func TestMapperRefusesWhatTZeroCannotCarry(t *testing.T) {
	for _, test := range []struct {
		name    string
		command []byte
		want    error
	}{
		{"empty", nil, ErrCommand},
		{"three bytes", unhex(t, "00 A4 04"), ErrCommand},
		{"data missing", unhex(t, "00 A4 04 00 03 AA"), ErrCommand},
		{"longer than any APDU", make([]byte, 65545), ErrCommand},
		{"ENVELOPE for a malformed Le", unhex(t, "00 D6 00 00 00 01 00"+fill(256)+"00"), ErrCommand},
		{"INS 6X", unhex(t, "00 6A 00 00"), ErrInstruction},
		{"INS 9X", unhex(t, "00 90 00 00 01 AA"), ErrInstruction},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEngine(t, Config{Mapping: MapAPDU})
			s, err := e.Transmit(test.command)
			require.ErrorIs(t, err, test.want)
			require.Zero(t, s)
			_, err = e.Receive([]byte{0x90, 0x00})
			require.ErrorIs(t, err, ErrNoExchange)
		})
	}
}

func TestMapperRefusesImpossibleResponses(t *testing.T) {
	for _, test := range []struct{ name, command, response string }{
		{"empty", "00 B0 00 00 02", ""},
		{"one byte", "00 B0 00 00 02", "90"},
		{"more than P3", "00 B0 00 00 02", "01 02 03 90 00"},
		{"more than 256", "00 B0 00 00 00", fill(257) + "90 00"},
		{"data for case 1", "00 44 00 00", "01 90 00"},
		{"data for case 3", "00 D6 00 00 01 AA", "01 90 00"},
		{"status 60xx", "00 B0 00 00 02", "60 00"},
		{"status 0000", "00 B0 00 00 02", "00 00"},
		{"status FFFF", "00 B0 00 00 02", "01 02 FF FF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEngine(t, Config{Mapping: MapAPDU})
			_, err := e.Transmit(unhex(t, test.command))
			require.NoError(t, err)
			s, err := e.Receive(unhex(t, test.response))
			require.ErrorIs(t, err, ErrResponse)
			require.Zero(t, s)
			_, err = e.Receive([]byte{0x90, 0x00})
			require.ErrorIs(t, err, ErrNoExchange)
			require.Equal(t, unhex(t, "90 00"), play(t, e, "00 44 00 00", []turn{{"00 44 00 00", "90 00"}}))
		})
	}
}

func TestEnvelopeAnsweredTooEarlyIsNoAnswer(t *testing.T) {
	command := unhex(t, "00 D6 00 00 00 01 00"+fill(256))
	for _, sw := range []string{"61 05", "62 00", "63 C1", "91 00", "9F 05"} {
		t.Run(sw, func(t *testing.T) {
			e := newEngine(t, Config{Mapping: MapAPDU})
			_, err := e.Transmit(command)
			require.NoError(t, err)
			_, err = e.Receive(unhex(t, sw))
			require.ErrorIs(t, err, ErrPartialCommand)
		})
	}
}

// drive answers each TPDU with answer until the exchange ends, and returns the number of answers and the error.
func drive(t *testing.T, e *Engine, command string, answer func(s Step) []byte) (int, error) {
	t.Helper()
	s, err := e.Transmit(unhex(t, command))
	require.NoError(t, err)
	for n := 0; ; n++ {
		if s.Done {
			return n, nil
		}
		require.LessOrEqual(t, n, 2*MaxRounds, "the exchange has no end")
		if s, err = e.Receive(answer(s)); err != nil {
			return n + 1, err
		}
	}
}

func TestRoundsAreBounded(t *testing.T) {
	sw := func(b ...byte) func(Step) []byte { return func(Step) []byte { return b } }
	e := newEngine(t, Config{Mapping: MapAPDU})

	n, err := drive(t, e, "00 88 00 00 01 AA 00", sw(0x61, 0x10))
	require.ErrorIs(t, err, ErrTooManyRounds, "61xx that never delivers")
	require.Equal(t, MaxRounds+1, n)

	n, err = drive(t, e, "00 88 00 00 00 00 01 AA 00 00", func(s Step) []byte {
		return append(bytes.Repeat([]byte{7}, min(s.Expect, 1)), 0x61, 0x10)
	})
	require.ErrorIs(t, err, ErrTooManyRounds, "one byte at a time")
	require.Equal(t, MaxRounds+1, n)

	alternate := 0
	n, err = drive(t, e, "00 B0 00 00 00", func(Step) []byte {
		alternate++
		return []byte{[]byte{0x61, 0x6C}[alternate%2], 0x10}
	})
	require.ErrorIs(t, err, ErrTooManyRounds, "6Cxx and 61xx in turn")
	require.Equal(t, MaxRounds+1, n)
}

func TestTransmitGivesUpARunningExchange(t *testing.T) {
	for _, mapping := range []Mapping{MapAPDU, Transparent} {
		e := newEngine(t, Config{Mapping: mapping})
		_, err := e.Transmit(unhex(t, "00 B0 00 00 05"))
		require.NoError(t, err)
		s, err := e.Transmit(unhex(t, "00 44 00 00"))
		require.NoError(t, err)
		require.Equal(t, Step{Send: unhex(t, "00 44 00 00")}, s)
		_, err = e.Receive(unhex(t, "01 02 03 90 00"))
		require.ErrorIs(t, err, ErrResponse, "the answer to the first command")
	}
}
