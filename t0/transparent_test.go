package t0

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTransparentPassesOneTPDU(t *testing.T) {
	for _, test := range []struct {
		name, command, tpdu string
		expect              int
		response            string
	}{
		{"case 1 stays four bytes", "00 44 00 00", "00 44 00 00", 0, "90 00"},
		{"P3=00 stays five bytes", "00 44 00 00 00", "00 44 00 00 00", 256, "90 00"},
		{"case 2", "00 B0 00 00 03", "00 B0 00 00 03", 3, "01 02 03 90 00"},
		{"case 2, 256 bytes", "00 B0 00 00 00", "00 B0 00 00 00", 256, fill(256) + "90 00"},
		{"case 3", "00 D6 00 00 02 AA BB", "00 D6 00 00 02 AA BB", 0, "90 00"},
		{"case 3, 255 bytes", "00 D6 00 00 FF" + fill(255), "00 D6 00 00 FF" + fill(255), 0, "90 00"},
		{"case 4 loses its Le", "00 A4 00 00 02 3F 00 00", "00 A4 00 00 02 3F 00", 0, "61 10"},
		{"61xx is the application's", "00 B0 00 00 03", "00 B0 00 00 03", 3, "01 61 02"},
		{"6Cxx is the application's", "00 B0 00 00 03", "00 B0 00 00 03", 3, "6C 02"},
		{"GET RESPONSE", "00 C0 00 00 10", "00 C0 00 00 10", 16, fill(16) + "90 00"},
		{"INS 6X is the reader's to refuse", "00 6A 00 00", "00 6A 00 00", 0, "6D 00"},
		{"status of a reader, not of a card", "00 B0 00 00 03", "00 B0 00 00 03", 3, "00 00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEngine(t, Config{})
			s, err := e.Transmit(unhex(t, test.command))
			require.NoError(t, err)
			require.Equal(t, Step{Send: unhex(t, test.tpdu), Expect: test.expect}, s)
			s, err = e.Receive(unhex(t, test.response))
			require.NoError(t, err)
			require.Equal(t, Step{Done: true, Response: unhex(t, test.response)}, s)
			_, err = e.Receive(unhex(t, test.response))
			require.ErrorIs(t, err, ErrNoExchange)
		})
	}
}

func TestTransparentRefusesWhatIsNoTPDU(t *testing.T) {
	for _, test := range []struct{ name, command string }{
		{"empty", ""},
		{"three bytes", "00 A4 00"},
		{"data missing", "00 A4 00 00 02 3F"},
		{"surplus after Le", "00 A4 00 00 02 3F 00 00 00"},
		{"P3=00 with a byte", "00 A4 00 00 00 00"},
		{"extended case 2", "00 B0 00 00 00 01 00"},
		{"extended case 3", "00 D6 00 00 00 00 01 AA"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEngine(t, Config{})
			_, err := e.Transmit(unhex(t, test.command))
			require.ErrorIs(t, err, ErrCommand)
			_, err = e.Receive([]byte{0x90, 0x00})
			require.ErrorIs(t, err, ErrNoExchange)
		})
	}
}

func TestTransparentRefusesImpossibleLengths(t *testing.T) {
	for _, response := range []string{"", "90", "01 02 03 90 00"} {
		e := newEngine(t, Config{})
		_, err := e.Transmit(unhex(t, "00 B0 00 00 02"))
		require.NoError(t, err)
		_, err = e.Receive(unhex(t, response))
		require.ErrorIs(t, err, ErrResponse, response)
	}
}
