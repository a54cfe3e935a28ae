package t0

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// move is one step at character level: what the host sends, then what the card answers to a read of that many bytes.
type move struct{ send, read string }

func playTPDU(t *testing.T, c *Character, tpdu string, moves []move) []byte {
	t.Helper()
	s, err := c.Transmit(unhex(t, tpdu))
	require.NoError(t, err)
	for i, m := range moves {
		require.False(t, s.Done, "move %d", i)
		require.Equal(t, unhex(t, m.send), append([]byte{}, s.Send...), "move %d", i)
		b := unhex(t, m.read)
		require.Equal(t, len(b), s.Expect, "move %d", i)
		s, err = c.Receive(b)
		require.NoError(t, err, "move %d", i)
	}
	require.True(t, s.Done)
	require.Empty(t, s.Send)
	require.Zero(t, s.Expect)
	return s.Response
}

func TestCharacterMovesData(t *testing.T) {
	for _, test := range []struct {
		name, tpdu string
		moves      []move
		response   string
	}{
		{"no data, P3 added", "00 44 00 00", []move{{"00 44 00 00 00", "90"}, {"", "00"}}, "90 00"},
		{"no data, acknowledged all the same", "00 44 00 00", []move{{"00 44 00 00 00", "44"}, {"", "90"}, {"", "00"}}, "90 00"},
		{"P3=00, the card has nothing", "00 44 00 00 00", []move{{"00 44 00 00 00", "6D"}, {"", "00"}}, "6D 00"},
		{
			"data from the card at once", "00 B0 00 00 03",
			[]move{{"00 B0 00 00 03", "B0"}, {"", "01 02 03"}, {"", "90"}, {"", "00"}},
			"01 02 03 90 00",
		},
		{
			"P3=00 is 256 bytes", "00 B0 00 00 00",
			[]move{{"00 B0 00 00 00", "B0"}, {"", fill(256)}, {"", "90"}, {"", "00"}},
			fill(256) + "90 00",
		},
		{
			"data from the card one by one, then all", "00 B0 00 00 03",
			[]move{{"00 B0 00 00 03", "4F"}, {"", "01"}, {"", "B0"}, {"", "02 03"}, {"", "90"}, {"", "00"}},
			"01 02 03 90 00",
		},
		{
			"the card ends early", "00 B0 00 00 03",
			[]move{{"00 B0 00 00 03", "4F"}, {"", "01"}, {"", "62"}, {"", "82"}},
			"01 62 82",
		},
		{
			"data to the card at once", "00 D6 00 00 03 AA BB CC",
			[]move{{"00 D6 00 00 03", "D6"}, {"AA BB CC", "90"}, {"", "00"}},
			"90 00",
		},
		{
			"data to the card one by one, then all", "00 D6 00 00 03 AA BB CC",
			[]move{{"00 D6 00 00 03", "29"}, {"AA", "29"}, {"BB", "D6"}, {"CC", "90"}, {"", "00"}},
			"90 00",
		},
		{
			"the card refuses the data", "00 D6 00 00 03 AA BB CC",
			[]move{{"00 D6 00 00 03", "29"}, {"AA", "6A"}, {"", "80"}},
			"6A 80",
		},
		{
			"NULL before everything", "00 B0 00 00 01",
			[]move{{"00 B0 00 00 01", "60"}, {"", "60"}, {"", "B0"}, {"", "60"}, {"", "60"}, {"", "90"}, {"", "60"}},
			"60 90 60",
		},
		{
			"acknowledged after the last byte", "00 D6 00 00 01 AA",
			[]move{{"00 D6 00 00 01", "D6"}, {"AA", "D6"}, {"", "29"}, {"", "90"}, {"", "00"}},
			"90 00",
		},
		{
			"INS xor FF that looks like data", "00 00 00 00 02",
			[]move{{"00 00 00 00 02", "FF"}, {"", "00"}, {"", "00"}, {"", "FF"}, {"", "90"}, {"", "00"}},
			"00 FF 90 00",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewCharacter()
			for range 2 {
				require.Equal(t, unhex(t, test.response), playTPDU(t, c, test.tpdu, test.moves))
			}
			_, err := c.Receive([]byte{0x90})
			require.ErrorIs(t, err, ErrNoExchange)
		})
	}
}

func TestCharacterTellsOfNull(t *testing.T) {
	c := NewCharacter()
	_, err := c.Transmit(unhex(t, "00 B0 00 00 01"))
	require.NoError(t, err)
	s, err := c.Receive([]byte{0x60})
	require.NoError(t, err)
	require.Equal(t, CharStep{Expect: 1, Restart: true}, s)
	s, err = c.Receive([]byte{0xB0})
	require.NoError(t, err)
	require.Equal(t, CharStep{Expect: 1}, s)
}

func TestCharacterAsksForTheRestOfAShortRead(t *testing.T) {
	c := NewCharacter()
	_, err := c.Transmit(unhex(t, "00 B0 00 00 05"))
	require.NoError(t, err)
	s, err := c.Receive([]byte{0xB0})
	require.NoError(t, err)
	require.Equal(t, CharStep{Expect: 5}, s)
	s, err = c.Receive([]byte{1, 2})
	require.NoError(t, err)
	require.Equal(t, CharStep{Expect: 3}, s)
	s, err = c.Receive([]byte{3, 4, 5})
	require.NoError(t, err)
	require.Equal(t, CharStep{Expect: 1}, s)
}

func TestCharacterRefusesWhatIsNoTPDU(t *testing.T) {
	for _, test := range []struct {
		tpdu string
		want error
	}{
		{"", ErrCommand},
		{"00 A4 00", ErrCommand},
		{"00 A4 00 00 02 3F", ErrCommand},
		{"00 A4 00 00 02 3F 00 00", ErrCommand}, // a case 4 APDU
		{"00 B0 00 00 00 01 00", ErrCommand},
		{"00 60 00 00", ErrInstruction},
		{"00 6F 00 00 01", ErrInstruction},
		{"00 9C 00 00 01 AA", ErrInstruction},
	} {
		c := NewCharacter()
		_, err := c.Transmit(unhex(t, test.tpdu))
		require.ErrorIs(t, err, test.want, test.tpdu)
		_, err = c.Receive([]byte{0x90})
		require.ErrorIs(t, err, ErrNoExchange)
	}
}

// Every procedure byte that the standard does not name is refused, the programming voltage forms among them.
func TestCharacterRefusesInvalidProcedureBytes(t *testing.T) {
	const ins = 0xB0
	for b := range 256 {
		c := NewCharacter()
		_, err := c.Transmit([]byte{0, ins, 0, 0, 1})
		require.NoError(t, err)
		_, err = c.Receive([]byte{byte(b)})
		switch {
		case b == ins, b == ins^0xFF, b >= 0x60 && b <= 0x6F, b >= 0x90 && b <= 0x9F:
			require.NoError(t, err, "%02X", b)
		default:
			require.ErrorIs(t, err, ErrProcedureByte, "%02X", b)
			_, err = c.Receive([]byte{0x90})
			require.ErrorIs(t, err, ErrNoExchange)
		}
	}
}

func TestCharacterRefusesMoreThanItAskedFor(t *testing.T) {
	for _, read := range []string{"", "90 00"} {
		c := NewCharacter()
		_, err := c.Transmit(unhex(t, "00 B0 00 00 05"))
		require.NoError(t, err)
		_, err = c.Receive(unhex(t, read))
		require.ErrorIs(t, err, ErrResponse)
	}
}

func TestNullsAreBounded(t *testing.T) {
	for _, test := range []struct {
		name, tpdu string
		b          []byte
	}{
		{"NULL", "00 B0 00 00 05", []byte{0x60}},
		{"acknowledgement of nothing", "00 44 00 00", []byte{0x44}},
		{"both in turn", "00 44 00 00", []byte{0x60, 0x44 ^ 0xFF}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewCharacter()
			_, err := c.Transmit(unhex(t, test.tpdu))
			require.NoError(t, err)
			for i := range MaxNulls {
				_, err := c.Receive([]byte{test.b[i%len(test.b)]})
				require.NoError(t, err)
			}
			_, err = c.Receive(test.b[:1])
			require.ErrorIs(t, err, ErrTooManyNulls)
			_, err = c.Receive([]byte{0x90})
			require.ErrorIs(t, err, ErrNoExchange)
		})
	}
}

func TestCharacterTransmitGivesUpARunningExchange(t *testing.T) {
	c := NewCharacter()
	_, err := c.Transmit(unhex(t, "00 D6 00 00 01 AA"))
	require.NoError(t, err)
	s, err := c.Transmit(unhex(t, "00 B0 00 00 01"))
	require.NoError(t, err)
	require.Equal(t, CharStep{Send: unhex(t, "00 B0 00 00 01"), Expect: 1}, s)
	_, err = c.Receive([]byte{0xD6})
	require.ErrorIs(t, err, ErrProcedureByte)
}

// A PIN must not outlive its exchange in any buffer.
func TestBuffersAreZeroed(t *testing.T) {
	pin := []byte{0x31, 0x32, 0x33, 0x34}
	verify := append([]byte{0x00, 0x20, 0x00, 0x80, 0x04}, pin...)
	long := append(unhex(t, "00 D6 00 00 00 01 00"), bytes.Repeat(pin, 64)...)
	type ending func(t *testing.T, transmit func([]byte) error, receive func(...byte) error, reset func())
	endings := map[string]ending{
		"done": func(t *testing.T, _ func([]byte) error, receive func(...byte) error, _ func()) {
			require.NoError(t, receive(0x6D, 0x00))
		},
		"error": func(t *testing.T, _ func([]byte) error, receive func(...byte) error, _ func()) {
			require.Error(t, receive())
		},
		"reset": func(_ *testing.T, _ func([]byte) error, _ func(...byte) error, reset func()) { reset() },
		"next": func(t *testing.T, transmit func([]byte) error, _ func(...byte) error, _ func()) {
			require.NoError(t, transmit([]byte{0, 0xB0, 0, 0}))
		},
	}
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			for _, command := range [][]byte{verify, long} {
				m := &mapper{}
				e := &Engine{mapping: m}
				transmit := func(b []byte) error { _, err := e.Transmit(b); return err }
				receive := func(b ...byte) error { _, err := e.Receive(b); return err }
				require.NoError(t, transmit(command))
				require.Contains(t, string(m.tpdu[:]), string(pin))
				end(t, transmit, receive, e.Reset)
				require.NotContains(t, string(m.raw[:cap(m.raw)]), string(pin))
				require.NotContains(t, string(m.tpdu[:]), string(pin))
			}

			tr := &transparent{}
			e := &Engine{mapping: tr}
			transmit := func(b []byte) error { _, err := e.Transmit(b); return err }
			receive := func(b ...byte) error { _, err := e.Receive(b); return err }
			require.NoError(t, transmit(verify))
			require.Contains(t, string(tr.tpdu[:]), string(pin))
			end(t, transmit, receive, e.Reset)
			require.NotContains(t, string(tr.tpdu[:]), string(pin))

			c := NewCharacter()
			transmit = func(b []byte) error { _, err := c.Transmit(b); return err }
			receive = func(b ...byte) error {
				for _, b := range b {
					if _, err := c.Receive([]byte{b}); err != nil {
						return err
					}
				}
				if len(b) == 0 {
					_, err := c.Receive(nil)
					return err
				}
				return nil
			}
			require.NoError(t, transmit(verify))
			require.Contains(t, string(c.tpdu[:]), string(pin))
			end(t, transmit, receive, c.Reset)
			require.NotContains(t, string(c.tpdu[:]), string(pin))
		})
	}
}

// What a card sent must not show up again, nor stay in a buffer that became too small.
func TestResponsesAreZeroed(t *testing.T) {
	m := &mapper{}
	e := &Engine{mapping: m}
	_, err := e.Transmit(unhex(t, "00 B0 00 00 00 00 00"))
	require.NoError(t, err)
	secret := bytes.Repeat([]byte{0xA5}, 256)
	_, err = e.Receive(append(secret, 0x61, 0x00))
	require.NoError(t, err)
	first := m.response[:cap(m.response)]
	for range 3 {
		_, err = e.Receive(append(secret, 0x61, 0x00))
		require.NoError(t, err)
	}
	require.NotContains(t, string(first), "\xA5", "the buffer that was left")
	s, err := e.Receive(append(secret, 0x90, 0x00))
	require.NoError(t, err)
	require.Len(t, s.Response, 5*256+2)
	e.Reset()
	require.NotContains(t, string(m.response[:cap(m.response)]), "\xA5")
	require.NotContains(t, string(s.Response), "\xA5")

	tr := &transparent{}
	e = &Engine{mapping: tr}
	_, err = e.Transmit(unhex(t, "00 B0 00 00 00"))
	require.NoError(t, err)
	_, err = e.Receive(append(secret, 0x90, 0x00))
	require.NoError(t, err)
	e.Reset()
	require.NotContains(t, string(tr.response[:]), "\xA5")
}
