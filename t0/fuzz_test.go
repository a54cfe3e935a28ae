package t0

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// bytesOf reads hexadecimal digits that are known to be good.
func bytesOf(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// script encodes answers for a fuzz target: each with its length, two bytes, before it.
func script(answers ...string) []byte {
	var b []byte
	for _, a := range answers {
		bytes := bytesOf(a)
		b = append(append(b, byte(len(bytes)>>8), byte(len(bytes))), bytes...)
	}
	return b
}

// cut takes the next answer from a script; what lies behind the end is an empty answer.
func cut(b []byte) (answer, rest []byte) {
	if len(b) < 2 {
		return nil, nil
	}
	n := min(int(b[0])<<8|int(b[1]), len(b)-2)
	return b[2 : 2+n], b[2+n:]
}

// answersOf returns the card's side of exchanges.
func answersOf(turns []turn) []string {
	var answers []string
	for _, t := range turns {
		answers = append(answers, t.r)
	}
	return answers
}

// checkStep holds what is true of every step of an Engine.
func checkStep(t *testing.T, s Step, err error) {
	t.Helper()
	switch {
	case err != nil:
		require.Zero(t, s)
	case s.Done:
		require.Nil(t, s.Send)
		require.GreaterOrEqual(t, len(s.Response), 2)
		require.LessOrEqual(t, len(s.Response), 65538)
	default:
		require.Nil(t, s.Response)
		require.GreaterOrEqual(t, len(s.Send), 4)
		require.LessOrEqual(t, len(s.Send), MaxTPDU)
		_, expect, err := tpduShape(s.Send)
		require.NoError(t, err)
		require.Equal(t, expect, s.Expect)
	}
}

// fuzzEngine runs a command against any answers: no panic, each step sound, an end within the bounds, and the engine as
// good as new afterwards.
func fuzzEngine(t *testing.T, c Config, command, answers []byte) {
	e, err := New(c)
	require.NoError(t, err)
	s, err := e.Transmit(command)
	checkStep(t, s, err)
	for n := 0; err == nil && !s.Done; n++ {
		require.LessOrEqual(t, n, 2*MaxRounds)
		var answer []byte
		answer, answers = cut(answers)
		given := len(answer)
		expect := s.Expect
		s, err = e.Receive(answer)
		checkStep(t, s, err)
		require.False(t, err == nil && (given < 2 || given > expect+2))
	}
	_, err = e.Receive([]byte{0x90, 0x00})
	require.ErrorIs(t, err, ErrNoExchange)
	s, err = e.Transmit([]byte{0x00, 0xB0, 0x00, 0x00, 0x02})
	require.NoError(t, err)
	require.Equal(t, 2, s.Expect)
	s, err = e.Receive([]byte{1, 2, 0x90, 0x00})
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2, 0x90, 0x00}, s.Response)
}

func FuzzAPDU(f *testing.F) {
	for _, c := range emvCases {
		f.Add(bytesOf(c.apdu), script(answersOf(c.tpdus)...), byte(0))
	}
	for _, c := range recorded {
		f.Add(bytesOf(c.apdu), script(answersOf(c.tpdus)...), byte(EchoClass))
	}
	f.Add(bytesOf("00 B0 00 00 00 01 2C"), script(fill(256)+"61 2C", fill(44)+"90 00"), byte(0))
	f.Add(bytesOf("00 D6 00 00 00 01 2C"+fill(300)), script("90 00", "90 00"), byte(0))
	f.Add(bytesOf("00 D6 00 00 00 01 2C"+fill(300)+"00 00"), script("90 00", "61 00", fill(256)+"62 82"), byte(EchoClass))
	f.Add(bytesOf("00 88 00 00 01 AA 00"), script("91 02", "69 85"), byte(0))
	f.Fuzz(func(t *testing.T, command, answers []byte, class byte) {
		fuzzEngine(t, Config{Mapping: MapAPDU, ClassGetResponse: class, ClassEnvelope: class}, command, answers)
	})
}

func FuzzTransparent(f *testing.F) {
	for _, c := range emvCases {
		for _, tpdu := range c.tpdus {
			f.Add(bytesOf(tpdu.c), script(tpdu.r))
		}
	}
	f.Add(bytesOf("00 A4 04 00 05 A0 00 00 03 08 00"), script("61 73"))
	f.Add(bytesOf("00 B0 00 00 00"), script(fill(256)+"90 00"))
	f.Fuzz(func(t *testing.T, command, answers []byte) {
		fuzzEngine(t, Config{}, command, answers)
	})
}

func FuzzCharacter(f *testing.F) {
	for _, c := range emvCases {
		for _, turn := range c.characters {
			f.Add(bytesOf(turn.c), bytesOf(turn.r), byte(0))
		}
	}
	f.Add(bytesOf("00 D6 00 00 03 AA BB CC"), bytesOf("60 29 29 60 D6 90 00"), byte(0))
	f.Add(bytesOf("00 B0 00 00 03"), bytesOf("60 4F 01 B0 02 03 60 90 00"), byte(1))
	f.Add(bytesOf("00 B0 00 00 00"), bytesOf("B0"+fill(256)+"90 00"), byte(7))
	f.Fuzz(func(t *testing.T, tpdu, line []byte, piece byte) {
		c := NewCharacter()
		s, err := c.Transmit(tpdu)
		taken := 0
		for steps := 0; err == nil && !s.Done; steps++ {
			if steps > MaxNulls+2*MaxTPDU || s.Expect < 1 || s.Expect > 256 {
				t.Fatalf("step %d: %+v", steps, s)
			}
			if steps > 0 {
				taken += len(s.Send)
			}
			n := min(len(line), s.Expect, 1+int(piece))
			read := line[:n]
			line = line[n:]
			s, err = c.Receive(read)
		}
		if err != nil {
			require.Zero(t, s)
		} else {
			require.LessOrEqual(t, taken, max(0, len(tpdu)-5))
			require.GreaterOrEqual(t, len(s.Response), 2)
			require.LessOrEqual(t, len(s.Response), 258)
			require.True(t, isSW1(s.Response[len(s.Response)-2]))
		}
		_, err = c.Receive([]byte{0x90})
		require.ErrorIs(t, err, ErrNoExchange)
	})
}
