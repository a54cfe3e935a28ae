package quirks

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestModelsHaveTheNamesThatPcscdGivesThem(t *testing.T) {
	for _, model := range []struct {
		vid, pid uint16
		name     string
	}{
		{0x08E6, 0x3437, "Gemalto PC Twin Reader"},
		{0x08E6, 0x4433, "Gemalto Gemplus USB SmartCard Reader 433-Swap"},
		{0x058F, 0x9540, "Alcor Micro AU9540"},
		{0x1050, 0x0407, "Yubico YubiKey OTP+FIDO+CCID"},
		{0x163C, 0x0A03, "Watchdata W5181 "},
		{0x03EB, 0x6010, "ATMEL AT90SCR100"},      // the first
		{0x413C, 0x2100, "Dell keyboard SK-3106"}, // the last
		{0x3437, 0x08E6, ""},
		{0x413C, 0x2101, ""},
		{0, 0, ""},
	} {
		assert.Equal(t, model.name, ModelName(model.vid, model.pid), "%04X:%04X", model.vid, model.pid)
	}
}

// TestNamesFile keeps the file in a form in which every line is found, and a name that was added twice is seen.
func TestNamesFile(t *testing.T) {
	const longest = 121 // what pcsc-lite has room for before the numbers
	form := regexp.MustCompile(`^([0-9A-F]{4}):([0-9A-F]{4}) [!-~][ -~]*$`)
	require.True(t, strings.HasSuffix(modelNames, "\n"))
	var ids []string
	for line := range strings.Lines(modelNames) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			assert.Empty(t, ids, "comments stand before the names")
			continue
		}
		require.Regexp(t, form, line)
		id, name, _ := strings.Cut(line, " ")
		assert.LessOrEqual(t, len(name), longest, line)
		assert.Equal(t, name, ModelName(identifiers(t, id)), "the first of its model")
		ids = append(ids, id)
	}
	assert.Len(t, ids, 220)
	assert.True(t, slices.IsSorted(ids))
}

func identifiers(t testing.TB, text string) (vid, pid uint16) {
	var r readers
	require.NoError(t, r.UnmarshalText([]byte(text)))
	return r.vid, r.pid
}

func TestNamesAreFoundInAFileWithCarriageReturns(t *testing.T) {
	assert.Equal(t, "A B", findName("# c\r\n0001:0002 A B\r\n", 1, 2))
}

// FuzzFindName checks that a name is what a line of the list has for the model, and that nothing of another line gets into it.
func FuzzFindName(f *testing.F) {
	f.Add("# names\n058F:9540 Alcor Micro AU9540\n08E6:3437 Gemalto PC Twin Reader\n", uint16(0x08E6), uint16(0x3437))
	f.Add("0001:0002 a\n0001:0002 b", uint16(1), uint16(2))
	f.Add("0001:0002\n0001:0002 \n", uint16(1), uint16(2))
	f.Add("# 0001:0002 a", uint16(1), uint16(2))
	f.Fuzz(func(t *testing.T, list string, vid, pid uint16) {
		name := findName(list, vid, pid)
		require.NotContains(t, name, "\n")
		if name != "" {
			line := fmt.Sprintf("%04X:%04X %s", vid, pid, name)
			require.Contains(t, "\n"+list, "\n"+line)
		}
	})
}
