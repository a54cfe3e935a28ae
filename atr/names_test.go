package atr_test

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/atr"
)

const cardList = "# a comment\n" +
	"#\t3B 01 41 in a comment\n" +
	"\ta name before any expression\n" +
	"\n" +
	"3B 01 41\n" +
	"\tFirst card\n" +
	"\tof two lines  \r\n" +
	"\n" +
	"3B 01 4.\n" +
	"\tAny of the 4x cards\n" +
	"\tFirst card\n" +
	"\n" +
	"3b .. 41\n" +
	"\tLower case and whole bytes\n" +
	"3B 01 [4,5]1\n" +
	"\tA set, with no empty line before\n" +
	"3B .*\n" +
	"\tAnything\n" +
	"\n" +
	"3B 01 4[1\n" +
	"\tNot an expression\n" +
	"3B 01\n" +
	"\tThe beginning of it\n" +
	"01 41\n" +
	"\tThe end of it\n" +
	"3B 01 41|3F 00\n" +
	"\tAlternatives\n"

func TestNames(t *testing.T) {
	tests := []struct {
		atr  string
		want []string
	}{
		{"3B 01 41", []string{
			"First card", "of two lines", "Any of the 4x cards", "Lower case and whole bytes", "A set, with no empty line before",
			"Anything", "Alternatives",
		}},
		{"3B 01 4A", []string{"Any of the 4x cards", "First card", "Anything"}},
		{"3B 01 51", []string{"A set, with no empty line before", "Anything"}},
		{"3F 00", []string{"Alternatives"}},
		{"3F 01", nil},
		{"", nil},
	}
	for _, tt := range tests {
		t.Run(tt.atr, func(t *testing.T) {
			got, err := atr.Names(strings.NewReader(cardList), unhex(t, tt.atr))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestNamesReportsWhatIsWrongWithTheList(t *testing.T) {
	_, err := atr.Names(strings.NewReader("3B 01\n\t"+strings.Repeat("x", 5000)), []byte{0x3B, 0x01})
	require.ErrorIs(t, err, bufio.ErrTooLong)

	broken := errors.New("broken disk")
	_, err = atr.Names(iotest.ErrReader(broken), []byte{0x3B, 0x01})
	require.ErrorIs(t, err, broken)
}

func TestNamesAreBounded(t *testing.T) {
	var list strings.Builder
	list.WriteString("3B 01\n")
	for i := range 1000 {
		fmt.Fprintf(&list, "\tname %d\n", i)
	}
	names, err := atr.Names(strings.NewReader(list.String()), []byte{0x3B, 0x01})
	require.NoError(t, err)
	assert.Len(t, names, 256)
}
