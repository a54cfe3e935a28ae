package apdu_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/apdu"
)

// seedCommands are commands of all cases, and what is wrong with some in the field.
func seedCommands(f *testing.F) {
	for _, s := range []string{
		"", "00A40000", "00B0000000", "00D600000111", "00A404000E315041592E5359532E444446303100",
		"00B00000000100", "00D60000000001110000", "00A404000000011100", "00A4040001110000", "00B000000010", "00200080043132333400",
		"10DB3FFF0401020304", "00DB3FFF0205060000", "FFCA000000",
	} {
		f.Add(unhex(f, s))
	}
	f.Add(join(unhex(f, "00D60000FF"), make([]byte, 255)))
	f.Add(join(unhex(f, "00D60000000101"), make([]byte, 257)))
}

// FuzzParseCommand: no panic; the strict parser and the encoder undo each other, the lenient parser agrees with the
// strict one and makes only commands by the standard.
func FuzzParseCommand(f *testing.F) {
	seedCommands(f)
	f.Fuzz(func(t *testing.T, b []byte) { checkParsers(t, b) })
}

// FuzzParseResponse: no panic; the encoder gives the bytes again.
func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{"", "90", "9000", "01026C05"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := apdu.ParseResponse(b)
		if err != nil {
			return
		}
		again, err := r.Bytes()
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again))
		require.NotEmpty(t, r.SW.Meaning())
	})
}

// FuzzRedact: no panic; the length is kept and nothing after the length field is shown.
func FuzzRedact(f *testing.F) {
	seedCommands(f)
	f.Fuzz(func(t *testing.T, b []byte) { checkRedact(t, b) })
}

// FuzzJoiner: a card that gets commands, valid or not, one after the other never holds more than a command's data, and what it
// joins can be sent.
func FuzzJoiner(f *testing.F) {
	f.Add(unhex(f, "10DB3FFF0401020304"), unhex(f, "00DB3FFF02050600"), unhex(f, "00A40000"))
	f.Add(unhex(f, "10DB3FFF0401020304"), unhex(f, "00A40000"), unhex(f, "00DB3FFF020506"))
	f.Fuzz(func(t *testing.T, first, second, third []byte) {
		var j apdu.Joiner
		for _, b := range [][]byte{first, second, third} {
			c, err := apdu.ParseCommandLenient(b)
			if err != nil {
				continue
			}
			whole, done, err := j.Add(c)
			if err != nil || !done {
				require.Equal(t, apdu.Command{}, whole)
				continue
			}
			require.False(t, whole.Chained())
			_, err = whole.Bytes()
			require.NoError(t, err)
		}
	})
}
