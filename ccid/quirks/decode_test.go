package quirks

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseNamesFileAndLine(t *testing.T) {
	const head = "[[quirk]]\nid = \"a\"\nreader = [\"*:*\"]\n"
	tests := []struct {
		name, text, want string
	}{
		{"syntax", "\n\n[[quirk", "f.toml:3: "},
		{"a key twice", head + "set.name = \"a\"\nset.name = \"b\"", "f.toml:5: "},
		{"not UTF-8", "# \xff", "f.toml:1: "},
		{"nesting", "a = " + strings.Repeat("[", 20000), "f.toml:1: "},
		{"unknown at the top", "\nquirks = []", "f.toml:2: quirks is unknown, possible are: quirk"},
		{"unknown table", "[a.b]\nc = 1", "f.toml:1: a is unknown, possible are: quirk"},
		{"unknown array of tables", "[[a]]\nc = 1", "f.toml:1: a is unknown"},
		{"not an array", "[quirk]\nid = \"a\"", "f.toml:1: quirk needs a list in brackets"},
		{"rows that are no tables", "quirk = [1]", "f.toml:1: quirk[0] needs a table"},
		{"unknown in a row", head + "set.usb.poll = true\nvid = 1", "f.toml:5: vid is unknown, possible are: id, name, reader, bcd_device,"},
		{"unknown setting", head + "set.usb.pol = true", "f.toml:4: set.usb.pol is unknown, possible are: swallow_zlp, interrupt_first, poll"},
		{"unknown setting in a table", head + "[quirk.set.usb]\npoll = true\npol = true", "f.toml:6: set.usb.pol is unknown"},
		{"unknown setting in an inline table", head + "[quirk.set]\nusb = { pol = true }", "f.toml:5: set.usb.pol is unknown"},
		{"unknown group", head + "set.usp.poll = true", "f.toml:4: set.usp is unknown, possible are: refused, name, descriptor, usb,"},
		{"wrong case", head + "set.usb.Poll = true", "f.toml:4: set.usb.Poll is unknown"},
		{"group that is no table", head + "set.usb = true", "f.toml:4: set.usb needs a table"},
		{"text for a bool", head + "set.usb.poll = \"yes\"", "f.toml:4: set.usb.poll needs true or false"},
		{"number for a text", head + "set.name = 1", "f.toml:4: set.name needs a text in quotation marks"},
		{"control character", head + "set.name = \"a\\nb\"", "f.toml:4: set.name: text with control characters"},
		{"long text", head + "set.name = \"" + strings.Repeat("a", 1001) + "\"", "f.toml:4: set.name: 1001 bytes of text"},
		{"negative", head + "set.protocol.max_data_rate = -1", "f.toml:4: set.protocol.max_data_rate needs a number from 0 to 4294967295"},
		{"too large", head + "set.power.retry_on = 256", "f.toml:4: set.power.retry_on needs a number from 0 to 255"},
		{"float", head + "set.power.retry_on = 1.0", "f.toml:4: set.power.retry_on needs a number from 0 to 255"},
		{"duration", head + "set.timing.poll = \"5\"", `f.toml:4: set.timing.poll: "5" is not a duration from "0s" to "1h0m0s"`},
		{"negative duration", head + "set.timing.poll = \"-5s\"", `f.toml:4: set.timing.poll: "-5s" is not a duration`},
		{"long duration", head + "set.timing.poll = \"61m\"", `f.toml:4: set.timing.poll: "61m" is not a duration`},
		{"number for a duration", head + "set.timing.poll = 5", "f.toml:4: set.timing.poll needs a text in quotation marks"},
		{"voltage", head + "set.power.voltage = \"4 V\"", `f.toml:4: set.power.voltage: "4 V" is none of "5 V", "3 V", "1.8 V"`},
		{"level", head + "set.descriptor.level = \"APDU\"", `f.toml:4: set.descriptor.level: "APDU" is none of "character", "TPDU",`},
		{"bytes", head + "set.power.retry_escape = \"1F 0\"", `f.toml:4: set.power.retry_escape: "1F 0" is not hexadecimal bytes`},
		{"many bytes", head + "set.power.retry_escape = \"" + strings.Repeat("00", 513) + "\"", "f.toml:4: set.power.retry_escape: 513 bytes, at most 512 are possible"},
		{"an element", head + "set.escape.allow = [\n\"02\",\n\"x\"]", "f.toml:4: set.escape.allow[1]: "},
		{"no list", head + "set.escape.allow = \"02\"", "f.toml:4: set.escape.allow needs a list in brackets"},
		{"long list", head + "set.protocol.secondary_slot_data_rates = [" + strings.Repeat("1,", 1001) + "]", "f.toml:4: set.protocol.secondary_slot_data_rates has 1001 elements, at most 1000 are possible"},
		{"reader", "[[quirk]]\nid = \"a\"\nset.usb.poll = true\nreader = [\"08E6\"]", `f.toml:4: reader[0]: "08E6" is not "VVVV:PPPP"`},
		{"version", head + "bcd_device = \"2\"", `f.toml:4: bcd_device: "2" is not a version: write "2.00",`},
		{"class", head + "set.usb.poll = true\nclass = 1", "f.toml:5: class needs a table"},
		{"class field", head + "set.usb.poll = true\nclass.dwMaxIFSDD = 1", `f.toml:1: quirk "a": class.dwMaxIFSDD is not a field of the class descriptor: bClassEnvelope, bClassGetResponse,`},
		{"class value", head + "set.usb.poll = true\nclass.dwMaxIFSD = \"1\"", "f.toml:5: class.dwMaxIFSD needs a number from 0 to 4294967295"},

		{"no id", "\n[[quirk]]\nreader = [\"*:*\"]\nset.usb.poll = true", `f.toml:2: quirk "": needs an id`},
		{"bad id", "\n[[quirk]]\nid = \"A\"", `f.toml:3: id: "A" is not 1 to 64 lower-case letters`},
		{"no reader", "[[quirk]]\nid = \"a\"\nset.usb.poll = true", `f.toml:1: quirk "a": needs a reader`},
		{"empty list of readers", "[[quirk]]\nid = \"a\"\nreader = []\nset.usb.poll = true", `f.toml:1: quirk "a": needs a reader`},
		{"nothing to do", head, `f.toml:1: quirk "a": does nothing`},
		{"an empty group", head + "[quirk.set.usb]", `f.toml:1: quirk "a": does nothing`},
		{"an empty row", "quirk = [{}]", `f.toml:1: quirk "": needs an id`},
		{"id twice", head + "set.usb.poll = true\n" + head + "set.usb.poll = true", `f.toml:5: quirk "a" is there twice`},
		{"enable and disable", head + "enable = [\"b\"]\ndisable = [\"b\"]", `f.toml:1: quirk "a": can't both enable and disable "b"`},
		{"disable what is not there", "\n" + head + "disable = [\"b\"]", `f.toml:2: quirk "a": there is no quirk "b" before it`},
		{"enable itself", head + "enable = [\"a\"]", `f.toml:1: quirk "a": there is no quirk "a" before it`},

		{"protocols", head + "set.descriptor.protocols = 4", "descriptor.protocols needs a number from 1 to 3: 1 for T=0, 2 for T=1"},
		{"IFSD", head + "set.descriptor.max_ifsd = 255", "descriptor.max_ifsd needs a number from 1 to 254"},
		{"message length", head + "set.descriptor.max_message_length = 10", "descriptor.max_message_length needs more than the header's 10 bytes"},
		{"BWI", head + "set.protocol.min_bwi = 10", "protocol.min_bwi needs a number from 1 to 9"},
		{"data rate", head + "set.protocol.secondary_slot_data_rates = [0]", "protocol.secondary_slot_data_rates has a rate of 0"},
		{"PIN sizes", head + "set.pin_pad.min_size = 1", "pin_pad.min_size is greater than pin_pad.max_size"},
		{"condition", head + "set.pin_pad.validation_condition = 8", "a validation_condition needs a number from 1 to 7"},
		{"condition at verification", head + "set.pin_pad.verify.validation_condition = 8", "a validation_condition needs a number from 1 to 7"},
		{"condition at modification", head + "set.pin_pad.modify.validation_condition = 8", "a validation_condition needs a number from 1 to 7"},
		{"messages at verification", head + "set.pin_pad.verify.number_message = 4", "a number_message needs a number from 0 to 3, or 255"},
		{"messages at modification", head + "set.pin_pad.modify.number_message = 254", "a number_message needs a number from 0 to 3, or 255"},
		{"retry without error", head + "set.power.retry_escape = \"01\"", "power.retry_escape needs power.retry_on beside it"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table, err := (*Table)(nil).Extend("f.toml", []byte(test.text))
			require.Error(t, err)
			assert.Nil(t, table)
			assert.Contains(t, err.Error(), test.want)
			var fault *FileError
			require.ErrorAs(t, err, &fault)
			assert.Equal(t, "f.toml", fault.File)
			assert.Positive(t, fault.Line)
			assert.NotContains(t, err.Error(), "quirks.", "Go's names of things")
			assert.NotContains(t, err.Error(), "reflect")
		})
	}
}

func TestParseTellsSeveralFaults(t *testing.T) {
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "x%02d = 1\n", i)
	}
	_, err := parse("f.toml", []byte(text.String()))
	lines := strings.Split(err.Error(), "\n")
	assert.Len(t, lines, maxErrors)
	assert.Equal(t, "f.toml:20: x19 is unknown, possible are: quirk", lines[19])
}

func TestParseEmptyFile(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "quirk = []"} {
		rows, err := parse("f.toml", []byte(text))
		require.NoError(t, err)
		assert.Empty(t, rows)
	}
}

func TestLinesOfRows(t *testing.T) {
	rows, err := parse("f.toml", []byte("\n[[quirk]]\nid='a'\nreader=['*:*']\n[quirk.set.usb]\npoll=true\n\n[[ \"quirk\" ]]\nid='b'\nreader=['*:*']\nset.usb.poll=true"))
	require.NoError(t, err)
	require.Len(t, rows, 2)
	assert.Equal(t, "f.toml:2", rows[0].origin)
	assert.Equal(t, "f.toml:8", rows[1].origin)
}

func TestFileError(t *testing.T) {
	cause := errors.New("why")
	assert.EqualError(t, &FileError{File: "f", Err: cause}, "f: why")
	assert.EqualError(t, &FileError{File: "f", Line: 3, Err: cause}, "f:3: why")
	assert.ErrorIs(t, &FileError{Err: cause}, cause)
}

// FuzzExtend: a file gives either rows or errors with its name; what it gives can be looked up and explained, and its
// rows can be switched off again.
func FuzzExtend(f *testing.F) {
	// Small seeds: the fuzzer spends its time on minimising large ones.
	for _, row := range bytes.SplitAfter(builtin, []byte("\n\n")) {
		f.Add(row)
	}
	f.Add([]byte("quirk = [{id='a', reader=['*:*'], set={usb={poll=true}}}]"))
	f.Add([]byte("[[quirk]]\nid='a'\nreader=['08E6:*']\nbcd_device='<5.16'\nclass={dwMaxIFSD=1}\natr='3B xx'\nset.pin_pad.verify.number_message=255"))
	f.Add([]byte("[[quirk]]\nid='a'\nreader=['*:*']\noptional=true\nset.descriptor.level='TPDU'\n[[quirk]]\nid='b'\nreader=['*:*']\nenable=['a']"))
	f.Add([]byte("quirk.a = 1\n[quirk.b]\n[[quirk.b.c]]\n\"\" = ''"))
	descriptor := class()
	device := Device{VID: 0x08E6, PID: 0x3437, BcdDevice: 0x0200, Class: &descriptor, ATR: []byte{0x3B, 0x00}, OS: "linux"}
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := (*Table)(nil).Extend("f.toml", data)
		if err != nil {
			var fault *FileError
			require.ErrorAs(t, err, &fault)
			assert.Contains(t, err.Error(), "f.toml")
			assert.Nil(t, table)
			return
		}
		settings := table.Lookup(device)
		corrected := settings.Correct(descriptor)
		assert.LessOrEqual(t, corrected.DwMaxDataRate, descriptor.DwMaxDataRate)
		settings.Protocol.DataRates(1, []int{9600})
		settings.Escape.Allows([]byte{0x02})
		disable := "[[quirk]]\nid = 'fuzz-off'\nreader = ['*:*']\nset.name = ''\ndisable = ["
		for _, e := range table.Explain(device) {
			assert.NotEmpty(t, e.String())
			assert.NotEmpty(t, e.Actions)
			if e.ID == "fuzz-off" {
				return
			}
			disable += "'" + e.ID + "',"
		}
		off, err := table.Extend("off.toml", []byte(disable+"]"))
		require.NoError(t, err)
		assert.Empty(t, off.Lookup(device))
	})
}
