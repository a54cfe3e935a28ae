package quirks

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/ccid"
)

var twin = Device{VID: 0x08E6, PID: 0x3437, BcdDevice: 0x0200, Serial: "1234"}

// directory makes a directory of quirk files.
func directory(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

// only returns a table of these files, one after the other, without the built-in rows.
func only(t *testing.T, files ...string) *Table {
	t.Helper()
	var table *Table
	for i, text := range files {
		extended, err := table.Extend(fmt.Sprintf("%d.toml", i), []byte(text))
		require.NoError(t, err)
		table = extended
	}
	return table
}

// quirk writes a row about all readers.
func quirk(id string, lines ...string) string {
	return fmt.Sprintf("[[quirk]]\nid = %q\nreader = [\"*:*\"]\n%s\n", id, strings.Join(lines, "\n"))
}

func TestLoadTakesFilesInLexicalOrder(t *testing.T) {
	dir := directory(t, map[string]string{
		"20-b.toml":      quirk("b", `set.name = "b"`, `set.usb.poll = true`),
		"10-a.toml":      quirk("a", `set.name = "a"`, `set.timing.poll = "1s"`),
		"30-c.toml.save": "not for us",
		"README":         "neither",
	})
	table, err := Load(dir)
	require.NoError(t, err)
	got := table.Lookup(Device{VID: 0x1050, PID: 0x0407})
	assert.Equal(t, Settings{Name: "b", USB: USB{Poll: true}, Timing: Timing{Poll: time.Second}}, got)
}

func TestLoadWithoutDirectory(t *testing.T) {
	builtin := load(t)
	for _, dir := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		table, err := Load(dir)
		require.NoError(t, err)
		assert.Equal(t, len(builtin.rows), len(table.rows))
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Run("what is no directory", func(t *testing.T) {
		name := filepath.Join(directory(t, map[string]string{"file": ""}), "file")
		_, err := Load(name)
		assert.ErrorContains(t, err, "file")
	})
	t.Run("what is no file", func(t *testing.T) {
		dir := t.TempDir()
		name := filepath.Join(dir, "d.toml")
		require.NoError(t, os.Mkdir(name, 0o700))
		_, err := Load(dir)
		assert.EqualError(t, err, name+": not a regular file")
	})
	t.Run("a link to nothing", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Symlink("nothing", filepath.Join(dir, "l.toml")))
		_, err := Load(dir)
		assert.ErrorIs(t, err, os.ErrNotExist)
	})
	t.Run("a file that is too large", func(t *testing.T) {
		dir := directory(t, map[string]string{"a.toml": strings.Repeat("#", 300<<10)})
		_, err := Load(dir)
		assert.ErrorContains(t, err, "a.toml: 262145 bytes, at most 262144 are possible")
	})
	t.Run("too many files", func(t *testing.T) {
		files := map[string]string{}
		for i := range maxFiles + 1 {
			files[fmt.Sprintf("%d.toml", i)] = ""
		}
		_, err := Load(directory(t, files))
		assert.ErrorContains(t, err, "101 files, at most 100 are possible")
	})
	t.Run("faults in several files, all of which are told", func(t *testing.T) {
		dir := directory(t, map[string]string{"a.toml": "x = 1", "b.toml": "\n[", "c.toml": quirk("c", "set.usb.poll = true")})
		table, err := Load(dir)
		assert.Nil(t, table)
		assert.ErrorContains(t, err, filepath.Join(dir, "a.toml")+":1: x is unknown, possible are: quirk")
		assert.ErrorContains(t, err, filepath.Join(dir, "b.toml")+":2: ")
		var fault *FileError
		require.ErrorAs(t, err, &fault)
		assert.Equal(t, 1, fault.Line)
	})
}

func TestNilTableHasNoRows(t *testing.T) {
	var table *Table
	assert.Empty(t, table.Lookup(twin))
	assert.Empty(t, table.Explain(twin))
}

func TestExtendLeavesTheTableAsItIs(t *testing.T) {
	first := only(t, quirk("a", `set.name = "a"`))
	_, err := first.Extend("b.toml", []byte(quirk("a", `set.name = "b"`)))
	require.NoError(t, err)
	assert.Equal(t, "a", first.Lookup(twin).Name)
}

func TestConditions(t *testing.T) {
	class := class()
	tests := []struct {
		condition string
		device    Device
		want      bool
	}{
		{`serial = "1234"`, twin, true},
		{`serial = "1235"`, twin, false},
		{`interface = 0`, twin, true},
		{`interface = 1`, twin, false},
		{`interface = 1`, Device{VID: 0x08E6, PID: 0x3437, Interface: 1}, true},
		{`interface = 0`, Device{VID: 0x08E6, PID: 0x3437, Interface: 1}, false},
		{`os = "linux"`, Device{OS: "linux"}, true},
		{`os = "linux"`, Device{}, false},
		{`bcd_device = "2.00"`, twin, true},
		{`bcd_device = "<2.00"`, twin, false},
		{`atr = "3B xx"`, Device{ATR: []byte{0x3B, 0x00}}, true},
		{`atr = "3B xx"`, Device{ATR: []byte{0x3B}}, false},
		{`atr = "3B xx"`, Device{}, false},
		{`level = "short APDU"`, Device{Class: &class}, true},
		{`level = "TPDU"`, Device{Class: &class}, false},
		{`level = "character"`, Device{}, false},
		{`class = {dwMaxIFSD = 252, bPINSupport = 3}`, Device{Class: &class}, true},
		{`class.dwMaxIFSD = 252`, Device{Class: &class}, true},
		{`class = {dwMaxIFSD = 252, bPINSupport = 2}`, Device{Class: &class}, false},
		{`class.dwMaxIFSD = 252`, Device{}, false},
		{`class.wLcdLayout = 0`, Device{}, false},
		{"class.dwMaxIFSD = 252\nlevel = \"TPDU\"", Device{Class: &class}, false},
	}
	for _, test := range tests {
		t.Run(test.condition, func(t *testing.T) {
			table := only(t, quirk("a", test.condition, `set.usb.poll = true`))
			assert.Equal(t, test.want, table.Lookup(test.device).USB.Poll)
		})
	}
}

func TestReaderCondition(t *testing.T) {
	table := only(t, "[[quirk]]\nid=\"a\"\nreader=[\"08E6:3437\",\"1050:*\"]\nset.usb.poll=true")
	for device, want := range map[[2]uint16]bool{{0x08E6, 0x3437}: true, {0x08E6, 0x3438}: false, {0x1050, 1}: true, {0x1051, 1}: false} {
		assert.Equal(t, want, table.Lookup(Device{VID: device[0], PID: device[1]}).USB.Poll, "%04X", device)
	}
}

func TestPrecedence(t *testing.T) {
	b := quirk("b", `set.name = "b"`, `set.usb.poll = true`)
	tests := []struct {
		name  string
		files []string
		want  Settings
		off   map[string]string
	}{
		{"the later row of a file wins", []string{quirk("a", `set.name = "a"`) + b}, Settings{Name: "b", USB: USB{Poll: true}}, nil},
		{"the later file wins", []string{b, quirk("a", `set.name = "a"`)}, Settings{Name: "a", USB: USB{Poll: true}}, nil},
		{"zero counts", []string{b, quirk("a", `set.name = ""`, `set.usb.poll = false`)}, Settings{}, nil},
		{"lists are replaced", []string{quirk("a", `set.escape.allow = ["01", "02"]`), quirk("b", `set.escape.allow = []`)}, Settings{Escape: Escape{Allow: []Pattern{}}}, nil},
		{"a row of an earlier file is replaced as a whole", []string{b, quirk("b", `set.name = "new"`)}, Settings{Name: "new"}, nil},
		{"a replaced row moves to the end", []string{quirk("a", `set.name = "a"`) + b, quirk("a", `set.name = "a2"`)}, Settings{Name: "a2", USB: USB{Poll: true}}, nil},
		{"disable", []string{b, quirk("x", `disable = ["b"]`)}, Settings{}, map[string]string{"b": "switched off by x"}},
		{"disable and set", []string{b, quirk("x", `disable = ["b"]`, `set.name = "x"`)}, Settings{Name: "x"}, map[string]string{"b": "switched off by x"}},
		{"disable for other readers", []string{b, "[[quirk]]\nid=\"x\"\nreader=[\"1111:2222\"]\ndisable=[\"b\"]"}, Settings{Name: "b", USB: USB{Poll: true}}, nil},
		{"enable again", []string{b, quirk("x", `disable = ["b"]`), quirk("y", `enable = ["b"]`)}, Settings{Name: "b", USB: USB{Poll: true}}, nil},
		{"the last word counts", []string{b, quirk("x", `enable = ["b"]`), quirk("y", `disable = ["b"]`)}, Settings{}, map[string]string{"b": "switched off by y"}},
		{"what is off switches nothing", []string{b, quirk("x", `disable = ["b"]`), quirk("y", `disable = ["x"]`)}, Settings{Name: "b", USB: USB{Poll: true}}, map[string]string{"x": "switched off by y"}},
		{"optional", []string{quirk("a", `optional = true`, `set.name = "a"`)}, Settings{}, map[string]string{"a": "optional"}},
		{"optional, enabled", []string{quirk("a", `optional = true`, `set.name = "a"`), quirk("x", `enable = ["a"]`)}, Settings{Name: "a"}, nil},
		{"optional, disabled", []string{quirk("a", `optional = true`, `set.name = "a"`), quirk("x", `disable = ["a"]`)}, Settings{}, map[string]string{"a": "switched off by x"}},
		{"optional switches nothing", []string{b, quirk("x", `optional = true`, `disable = ["b"]`)}, Settings{Name: "b", USB: USB{Poll: true}}, map[string]string{"x": "optional"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table := only(t, test.files...)
			assert.Equal(t, test.want, table.Lookup(twin))
			for _, e := range table.Explain(twin) {
				assert.Equal(t, test.off[e.ID], e.Off, e.ID)
			}
		})
	}
}

// TestUserWishes has what administrators change most.
func TestUserWishes(t *testing.T) {
	table, err := load(t).Extend("local.toml", []byte(`
[[quirk]]
id = "local"
reader = ["08E6:3437"]

[quirk.set]
name = "Front desk"
escape.always = true
pin_pad.off = true
timing.silence = "20s"
timing.exchange = "2m"
power.voltage = "3 V"
protocol.max_data_rate = 115_200
descriptor.set_features = 0x00000400
descriptor.clear_features = 0x0C
refused = "broken"
`))
	require.NoError(t, err)
	s := table.Lookup(twin)
	assert.Equal(t, "Front desk", s.Name)
	assert.Equal(t, "broken", s.Refused)
	assert.True(t, s.Escape.Always)
	assert.True(t, s.PINPad.Off)
	assert.Equal(t, Timing{Silence: 20 * time.Second, Exchange: 2 * time.Minute}, s.Timing)
	assert.Equal(t, ccid.Power3V, s.Power.Voltage)
	assert.EqualValues(t, 115200, s.Protocol.MaxDataRate)
	assert.Equal(t, Descriptor{SetFeatures: ccid.FeatureAutoIFSD, ClearFeatures: ccid.FeatureAutoActivation | ccid.FeatureAutoVoltage}, s.Descriptor)
}

func TestExplain(t *testing.T) {
	table := only(t, `
[[quirk]]
id = "first"
name = "GemPC Twin"
reader = ["08E6:3437"]
reason = "it says so"
source = "a letter"
[quirk.set.power]
voltage = "1.8 V"
retry_on = 0xBB
retry_escape = "1f01"
[quirk.set]
name = "N"
descriptor.level = "TPDU"
descriptor.set_features = 0x400
timing.poll = "250ms"
escape.allow = ["02", "52 xx"]
escape.at_open = ["0102", "03"]
pin_pad.verify.number_message = 0
protocol.secondary_slot_data_rates = [9600, 10752]
`, quirk("second", `optional = true`, `disable = ["first"]`)+quirk("third", `disable = ["second"]`, `enable = ["first"]`))
	list := table.Explain(twin)
	require.Len(t, list, 3)
	assert.Equal(t, Explanation{
		ID: "first", Name: "GemPC Twin", Reason: "it says so", Source: "a letter", Origin: "0.toml:2",
		Actions: []string{
			`name = "N"`, `descriptor.level = TPDU`, `descriptor.set_features = automatic IFSD exchange`, `timing.poll = 250ms`,
			`power.voltage = 1.8 V`, `power.retry_escape = 1F 01`, `power.retry_on = 187`,
			`protocol.secondary_slot_data_rates = [9600, 10752]`, `pin_pad.verify.number_message = 0`,
			`escape.allow = [02, 52 xx]`, `escape.at_open = [01 02, 03]`,
		},
	}, list[0])
	assert.Equal(t, "second: disable first (1.toml:1), not in effect: switched off by third", list[1].String())
	assert.Equal(t, "third: disable second; enable first (1.toml:6)", list[2].String())
	list[0].Actions = list[0].Actions[:1]
	assert.Equal(t, `first: name = "N": it says so (0.toml:2)`, list[0].String())
	assert.Len(t, table.Explain(Device{VID: 1}), 2)
}

// TestLaterRowsWin: whatever rows there are, each setting has the value of the last row that sets it, and switching
// off all of them leaves nothing.
func TestLaterRowsWin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		var ids []string
		want := Settings{}
		for i := range rapid.IntRange(1, 8).Draw(t, "rows") {
			id := fmt.Sprintf("row-%d", i)
			ids = append(ids, fmt.Sprintf("%q", id))
			fmt.Fprintf(&text, "[[quirk]]\nid = %q\nreader = [%q]\n", id, rapid.SampledFrom([]string{"08E6:3437", "08E6:*", "*:*"}).Draw(t, "readers"))
			rate := rapid.Uint32().Draw(t, "rate")
			fmt.Fprintf(&text, "set.protocol.max_data_rate = %d\n", rate)
			want.Protocol.MaxDataRate = rate
			if rapid.Bool().Draw(t, "has poll") {
				want.USB.Poll = rapid.Bool().Draw(t, "poll")
				fmt.Fprintf(&text, "set.usb.poll = %v\n", want.USB.Poll)
			}
			if rapid.Bool().Draw(t, "has poll interval") {
				want.Timing.Poll = time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "interval"))
				fmt.Fprintf(&text, "set.timing.poll = %q\n", want.Timing.Poll)
			}
		}
		table, err := (*Table)(nil).Extend("a.toml", []byte(text.String()))
		require.NoError(t, err)
		assert.Equal(t, want, table.Lookup(twin))
		off, err := table.Extend("b.toml", []byte(quirk("off", "disable = ["+strings.Join(ids, ",")+"]")))
		require.NoError(t, err)
		assert.True(t, reflect.ValueOf(off.Lookup(twin)).IsZero())
	})
}

// TestSwitchingOffEveryBuiltinRow leaves no device with settings.
func TestSwitchingOffEveryBuiltinRow(t *testing.T) {
	builtin := load(t)
	var ids []string
	for _, r := range builtin.rows {
		ids = append(ids, fmt.Sprintf("%q", r.ID))
	}
	off, err := builtin.Extend("off.toml", []byte(quirk("off", "disable = ["+strings.Join(ids, ",")+"]")))
	require.NoError(t, err)
	for _, test := range builtinCases(t) {
		assert.True(t, reflect.ValueOf(off.Lookup(test.device)).IsZero(), test.rows)
	}
}

// TestEveryFieldHasAKey: a field without one could never be set.
func TestEveryFieldHasAKey(t *testing.T) {
	var walk func(t reflect.Type) []string
	walk = func(t reflect.Type) (missing []string) {
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Tag.Get("toml") == "" {
				missing = append(missing, f.Name)
			}
			if f.Type.Kind() == reflect.Struct {
				missing = append(missing, walk(f.Type)...)
			}
		}
		return slices.Compact(missing)
	}
	assert.Empty(t, walk(reflect.TypeFor[Settings]()))
}
