package t0

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/apdu"
)

// honestCard is a card that follows the standard, but picks freely among the ways that the standard leaves it. It knows
// the one command that it will get, and what to answer.
type honestCard struct {
	t       *rapid.T
	command apdu.Command // what the application should get
	answer  []byte       // the application's data
	sw      apdu.StatusWord

	enclosed  []byte
	runs      int             // times the application got the command
	pending   []byte          // data not fetched yet
	status    apdu.StatusWord // what comes with the last of them
	fetched   bool            // some were
	corrected bool            // 6Cxx was said for the TPDU before
}

// respond takes a command TPDU and returns the response TPDU.
func (c *honestCard) respond(tpdu []byte) []byte {
	corrected := c.corrected
	c.corrected = false
	switch tpdu[1] {
	case insEnvelope:
		return c.envelope(tpdu[5:])
	case insGetResponse:
		p3, n := p3Length(tpdu[4]), len(c.pending)
		if n == 0 && !c.fetched {
			return []byte{0x69, 0x85}
		}
		if n < p3 && !corrected && rapid.Bool().Draw(c.t, "6Cxx") {
			return c.correct(n)
		}
		return c.give(p3)
	}
	require.Equal(c.t, []byte{c.command.CLA, c.command.INS, c.command.P1, c.command.P2}, tpdu[:4])
	if len(c.command.Data) > 0 {
		require.Equal(c.t, c.command.Data, tpdu[5:])
		return c.run()
	}
	if c.command.Ne == 0 {
		require.Len(c.t, tpdu, 4)
		return c.run()
	}
	p3, n := p3Length(tpdu[4]), len(c.answer)
	if n > 0 && n <= 256 && n != p3 && !corrected && rapid.Bool().Draw(c.t, "6Cxx") {
		return c.correct(n)
	}
	c.runs++
	c.pending, c.status = c.answer, c.sw
	return c.give(p3)
}

func (c *honestCard) envelope(part []byte) []byte {
	c.enclosed = append(c.enclosed, part...)
	raw, err := c.command.Bytes()
	require.NoError(c.t, err)
	if len(c.enclosed) < len(raw) {
		return []byte{0x90, 0x00}
	}
	require.Equal(c.t, raw, c.enclosed)
	return c.run()
}

// run carries out a command with data, or of case 1, and tells of the response data in one of three ways.
func (c *honestCard) run() []byte {
	c.runs++
	c.pending, c.status = c.answer, c.sw
	if len(c.pending) == 0 {
		return c.end()
	}
	switch rapid.SampledFrom([]string{"61xx", "9000", "status"}).Draw(c.t, "announce") {
	case "9000":
		return []byte{0x90, 0x00}
	case "status":
		c.status = apdu.Success
		return []byte{byte(c.sw >> 8), byte(c.sw)}
	}
	return c.more()
}

func (c *honestCard) correct(n int) []byte {
	c.corrected = true
	return []byte{0x6C, byte(n)}
}

func (c *honestCard) more() []byte { return []byte{0x61, byte(min(len(c.pending), 256))} }

func (c *honestCard) end() []byte { return []byte{byte(c.status >> 8), byte(c.status)} }

// give returns up to p3 bytes of the data, sometimes fewer.
func (c *honestCard) give(p3 int) []byte {
	c.fetched = true
	n := min(p3, len(c.pending))
	if n > 200 && rapid.IntRange(0, 9).Draw(c.t, "short") == 0 {
		n = rapid.IntRange(100, n).Draw(c.t, "n")
	}
	response := append([]byte{}, c.pending[:n]...)
	c.pending = c.pending[n:]
	if len(c.pending) > 0 {
		return append(response, c.more()...)
	}
	return append(response, c.end()...)
}

// overCharacters passes a TPDU to the card as characters, with NULLs and acknowledgements as the card likes them and
// reads cut as the reader likes them.
func overCharacters(t *rapid.T, ch *Character, card *honestCard, tpdu []byte) []byte {
	command := append([]byte{}, tpdu...)
	s, err := ch.Transmit(command)
	require.NoError(t, err)
	require.Len(t, s.Send, 5)

	// acknowledge draws a procedure byte and returns how many bytes it moves; all only if all are there.
	acknowledge := func(left, promised int) int {
		b, n := command[1]^0xFF, 1
		switch k := rapid.IntRange(0, 9).Draw(t, "acknowledge"); {
		case k == 0:
			b, n = 0x60, 0
		case k > 3 && left == promised:
			b, n = command[1], left
		}
		s, err = ch.Receive([]byte{b})
		require.NoError(t, err)
		require.Equal(t, b == 0x60, s.Restart)
		return n
	}

	for out := command[min(5, len(command)):]; len(out) > 0; {
		n := acknowledge(len(out), len(out))
		require.Equal(t, out[:n], append([]byte{}, s.Send...))
		out = out[n:]
	}
	response := card.respond(command)
	data, status := response[:len(response)-2], response[len(response)-2:]
	for promised := asked(command); len(data) > 0; {
		n := acknowledge(len(data), promised)
		promised -= n
		for n > 0 {
			require.Equal(t, n, s.Expect)
			k := rapid.IntRange(1, n).Draw(t, "read")
			s, err = ch.Receive(data[:k])
			require.NoError(t, err)
			data, n = data[k:], n-k
		}
	}
	require.Equal(t, 1, s.Expect)
	_, err = ch.Receive(status[:1])
	require.NoError(t, err)
	s, err = ch.Receive(status[1:])
	require.NoError(t, err)
	require.True(t, s.Done)
	return s.Response
}

// asked returns how many data bytes a TPDU asks for.
func asked(tpdu []byte) int {
	if len(tpdu) != 5 {
		return 0
	}
	return p3Length(tpdu[4])
}

// Whatever way a card takes that follows the standard, the application gets its command once and whole, and the
// caller gets the application's answer, at TPDU level and at character level.
func TestEveryHonestCardIsUnderstood(t *testing.T) {
	size := rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 10), rapid.IntRange(200, 600), rapid.IntRange(0, 65535))
	e, err := New(Config{Mapping: MapAPDU, ClassGetResponse: EchoClass, ClassEnvelope: EchoClass})
	require.NoError(t, err)
	ch := NewCharacter()
	rapid.Check(t, func(t *rapid.T) {
		command := apdu.Command{
			CLA: 0x01, INS: rapid.SampledFrom([]byte{0xA4, 0xB0, 0x00, 0xFF, 0x21}).Draw(t, "INS"), P1: 0x60, P2: 0x90,
			Ne: size.Draw(t, "Ne"),
		}
		if n := size.Draw(t, "Nc"); n > 0 {
			command.Data = bytes.Repeat([]byte{command.INS, 0x60, 0x90, 0x00, command.INS ^ 0xFF}, n/5+1)[:n]
		}
		command.Extended = command.NeedsExtended() || rapid.Bool().Draw(t, "extended")
		card := &honestCard{t: t, command: command}
		card.sw = rapid.SampledFrom([]apdu.StatusWord{0x9000, 0x9000, 0x6283, 0x63C1, 0x9102, 0x6A82}).Draw(t, "SW")
		if command.Ne > 0 && !isError(card.sw) {
			n := min(rapid.IntRange(0, command.Ne+2).Draw(t, "Nr"), apdu.MaxNe)
			card.answer = make([]byte, n)
			for i := range card.answer {
				card.answer[i] = byte(i + i>>8)
			}
		}
		characters := rapid.Bool().Draw(t, "characters")

		raw, err := command.Bytes()
		require.NoError(t, err)
		s, err := e.Transmit(raw)
		require.NoError(t, err)
		for !s.Done {
			var response []byte
			if characters {
				response = overCharacters(t, ch, card, s.Send)
			} else {
				response = card.respond(append([]byte{}, s.Send...))
			}
			s, err = e.Receive(response)
			require.NoError(t, err)
		}
		require.Equal(t, 1, card.runs)
		got, err := apdu.ParseResponse(s.Response)
		require.NoError(t, err)
		require.True(t, bytes.Equal(card.answer[:min(len(card.answer), command.Ne)], got.Data))
		if _, more := got.SW.Available(); more {
			require.Greater(t, len(card.answer), command.Ne, "61xx though all was fetched")
		} else {
			require.Equal(t, card.sw, got.SW)
		}
	})
}
