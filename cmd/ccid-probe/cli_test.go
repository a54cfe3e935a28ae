package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/internal/pintest"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is the environment of a run, changed by a test as it needs.
type world struct {
	environment
	out, errOut bytes.Buffer
	ctx         context.Context
}

// result is what a user sees of a run.
type result struct {
	code           exitCode
	stdout, stderr string
}

// longestRun bounds each run of the program: one that does not end by itself fails its test, and not all that come after it. No
// test waits for it.
const longestRun = 3 * time.Minute

// newWorld is a desktop machine with USB and no reader.
func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longestRun)
	t.Cleanup(cancel)
	w := &world{ctx: ctx}
	w.environment = environment{
		stdout: &w.out, stderr: &w.errOut, goos: "linux",
		getenv: func(string) string { return "" },
		root:   fstest.MapFS{"sys/bus/usb/devices": {Mode: fs.ModeDir}},
		openUSB: func(name string, log logrus.FieldLogger) (usbtransport.Backend, error) {
			if name != "usbfs" {
				return openUSB(name, log)
			}
			return noDevices{}, nil
		},
	}
	return w
}

func (w *world) run(args ...string) result {
	code := run(w.ctx, w.environment, args)
	return result{code, w.out.String(), w.errOut.String()}
}

// probe runs the program on a desktop machine without a reader.
func probe(t *testing.T, args ...string) result {
	t.Helper()
	return newWorld(t).run(args...)
}

// noDevices is a backend that sees nothing.
type noDevices struct{ usbtransport.Backend } // nil: Devices is all that a search needs

func (noDevices) Name() string { return "usbfs" }

func (noDevices) Devices(context.Context) ([]usbtransport.DeviceInfo, error) { return nil, nil }

// stubborn is a bus on which no device can be opened.
type stubborn struct {
	usbtransport.Backend
	err error
}

func (s stubborn) Name() string { return "usbfs" }

func (s stubborn) Open(context.Context, usbtransport.DeviceInfo, uint8) (usbtransport.Interface, error) {
	return nil, s.err
}

// plugged is a bus with readers in it, to be used as the machine's USB.
func plugged(t *testing.T, configs ...virtual.Config) (*virtual.Bus, []*virtual.Reader) {
	t.Helper()
	bus := virtual.NewBus()
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	readers := make([]*virtual.Reader, len(configs))
	for i, c := range configs {
		r, err := virtual.NewReader(c)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, r.Close()) })
		_, err = bus.Plug(r)
		require.NoError(t, err)
		readers[i] = r
	}
	return bus, readers
}

// use makes b the machine's USB. It outlives the run: the program can't close it.
func (w *world) use(b usbtransport.Backend) {
	lasting := struct{ usbtransport.Backend }{b}
	w.openUSB = func(string, logrus.FieldLogger) (usbtransport.Backend, error) { return lasting, nil }
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal([]byte(text), &v), text)
	return v
}

const tpduT1 = "reader=gemalto-pc-twin,level=tpdu,card=t1"

func TestFaultsOfTheCommandLineAreExplained(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string // in the error
	}{
		"unknown command":          {[]string{"lst"}, []string{`unknown command "lst"`, "list", "--help"}},
		"unknown flag":             {[]string{"list", "--fast"}, []string{"unknown flag: --fast", "ccid-probe list --help"}},
		"argument too many":        {[]string{"list", "all"}, []string{`list takes no arguments`, `"all"`}},
		"no such log level":        {[]string{"list", "--log-level", "loud"}, []string{`"loud" is no level`, "debug"}},
		"no time at all":           {[]string{"list", "--timeout", "0s"}, []string{"--timeout", "30s"}},
		"time without unit":        {[]string{"list", "--timeout", "5"}, []string{`--timeout: "5" is no time`, "30s"}},
		"neither true nor false":   {[]string{"list", "--json=maybe"}, []string{`--json: "maybe": true and false are possible`}},
		"slot: no number":          {[]string{"atr", "--slot", "x"}, []string{`--slot: "x" is no slot's number`}},
		"slot: below all":          {[]string{"atr", "--virtual", tpduT1, "--slot", "-1"}, []string{`--slot: "-1" is no slot's number`}},
		"slot: of a given ATR":     {[]string{"atr", "3B00", "--slot", "0"}, []string{"--slot and --wait are for the card in a reader"}},
		"wait: for a given ATR":    {[]string{"atr", "3B00", "--wait"}, []string{"--slot and --wait are for the card in a reader"}},
		"ATR: virtual reader":      {[]string{"atr", "3B00", "--virtual", tpduT1}, []string{"--usb, --usbip and --virtual have no meaning here"}},
		"descriptor: empty":        {[]string{"describe", "--class-descriptor", ""}, []string{"--class-descriptor is empty"}},
		"descriptor: and virtual":  {[]string{"describe", "--class-descriptor", "36", "--virtual", tpduT1}, []string{"have no meaning here"}},
		"backend: empty":           {[]string{"list", "--usb", ""}, []string{"--usb is empty"}},
		"output: empty":            {[]string{"explain", "x.pcapng", "-o", ""}, []string{"--output is empty"}},
		"explain: USB":             {[]string{"explain", "x.pcapng", "--usb", "nosuch"}, []string{"explain: --usb, --usbip and --virtual have no meaning here"}},
		"explain: USB/IP":          {[]string{"explain", "x.pcapng", "--usbip", "foo"}, []string{"explain: --usb, --usbip and --virtual"}},
		"explain: virtual":         {[]string{"explain", "x.pcapng", "--virtual", "bla"}, []string{"explain: --usb, --usbip and --virtual"}},
		"explain: JSON as text":    {[]string{"explain", "x.pcapng", "--json", "--format", "text"}, []string{"give --json or --format text, not both"}},
		"replay: virtual":          {[]string{"replay", "x.pcapng", "--virtual", tpduT1}, []string{"replay: --usb, --usbip and --virtual"}},
		"demo: JSON":               {[]string{"demo", "--json"}, []string{"demo is for people: it has no --json"}},
		"demo: virtual":            {[]string{"demo", "--virtual", tpduT1}, []string{"have no meaning here"}},
		"USB/IP: no such port":     {[]string{"list", "--usbip", "127.0.0.1:99999"}, []string{"a port is a number from 1 to 65535"}},
		"help: no such command":    {[]string{"help", "foo"}, []string{`there is no command "foo"`, "ccid-probe --help"}},
		"no such backend":          {[]string{"list", "--usb", "winusb"}, []string{`no backend "winusb"`, "usbfs and libusb"}},
		"spec: no such key":        {[]string{"list", "--virtual", "model=x"}, []string{`--virtual model=x`, `key "model"`, "As in"}},
		"spec: no such level":      {[]string{"list", "--virtual", "level=fast"}, []string{`level "fast"`, "character, tpdu, short and extended"}},
		"spec: no such card":       {[]string{"list", "--virtual", "card=t2"}, []string{`card "t2"`, "vpcd:HOST:PORT"}},
		"spec: no such reader":     {[]string{"list", "--virtual", "reader=gemalto-pc-twim"}, []string{"did you mean gemalto-pc-twin?"}},
		"spec: too many cards":     {[]string{"list", "--virtual", "card=t0+t1"}, []string{"2 cards", "slots=N"}},
		"ATR: none":                {[]string{"atr"}, []string{"no ATR given", "ccid-probe atr --reader 0"}},
		"ATR: no digit":            {[]string{"atr", "3B", "7G"}, []string{`'G' at position 5`}},
		"ATR: half a byte":         {[]string{"atr", "3B7"}, []string{"single digit at the end"}},
		"ATR: no TS":               {[]string{"atr", "9000"}, []string{"TS", "90"}},
		"ATR: too long":            {[]string{"atr", strings.Repeat("3B", 34)}, []string{"34 bytes, at most 33"}},
		"ATR: and a reader":        {[]string{"atr", "3B00", "--reader", "0"}, []string{"not both"}},
		"APDU: none":               {[]string{"apdu", "--reader", "0"}, []string{"no APDU given", "As in"}},
		"APDU: no digit":           {[]string{"apdu", "00A4 0400", "00B0 0Z"}, []string{"APDU 2", `'Z' at position 7`}},
		"APDU: too short":          {[]string{"apdu", "00A4"}, []string{"APDU 1", "at least 4"}},
		"APDU: data missing":       {[]string{"apdu", "00A4040007A000"}, []string{"APDU 1", "length"}},
		"APDU: no such protocol":   {[]string{"apdu", "--protocol", "2", "00A40000"}, []string{`"2" is none`, "0, 1 and auto"}},
		"descriptor: too short":    {[]string{"describe", "--class-descriptor", "3621"}, []string{"2 bytes, needs 54", "36 21"}},
		"descriptor: no digit":     {[]string{"describe", "--class-descriptor", "36xx"}, []string{"'x' at position 3"}},
		"descriptor: and a reader": {[]string{"describe", "--class-descriptor", "36", "0"}, []string{"not both"}},
		"reader given twice":       {[]string{"describe", "0", "--reader", "0"}, []string{"not both"}},
		"no such slot":             {[]string{"apdu", "--virtual", tpduT1, "--slot", "3", "00A40000"}, []string{"--slot 3", "has slot 0 only"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := probe(t, tt.args...)
			assert.Equal(t, exitUsage, got.code)
			assert.Empty(t, got.stdout)
			assert.True(t, strings.HasPrefix(got.stderr, "ccid-probe: "), got.stderr)
			for _, want := range tt.want {
				assert.Contains(t, got.stderr, want)
			}
		})
	}
}

func TestHelpTellsTheExitCodes(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}} {
		got := probe(t, args...)
		assert.Equal(t, exitOK, got.code)
		assert.Contains(t, got.stdout, exitCodes)
		assert.Empty(t, got.stderr)
	}
	assert.Contains(t, probe(t, "--version").stdout, "ccid-probe version")
}

func TestATRIsReadHoweverItIsWritten(t *testing.T) {
	want := probe(t, "atr", "--json", "3B7A18000073667465206364313434")
	require.Equal(t, exitOK, want.code)
	assert.Equal(t, map[string]any{
		"atr": "3B7A18000073667465206364313434", "valid": true, "tck": map[string]any{"present": false, "correct": true},
		"convention": "direct", "protocols": []any{0.0}, "specific": nil, "fi": 372.0, "di": 12.0,
		"historical_bytes": "73667465206364313434", "names": []any{}, "problems": []any{},
		"text": decode[map[string]any](t, want.stdout)["text"],
	}, decode[map[string]any](t, want.stdout))
	assert.NotEmpty(t, decode[map[string]any](t, want.stdout)["text"])

	for _, args := range [][]string{
		{"3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34"},
		{"3b:7a:18:00:00:73:66:74:65:20:63:64:31:34:34"},
		{"3B", "7A", "18", "00", "00", "73", "66", "74", "65", "20", "63", "64", "31", "34", "34"},
		{"0x3B", "0x7A18000073667465206364313434"},
		{"3B7A1800 00736674", "65206364\n313434"},
	} {
		assert.Equal(t, want, probe(t, append([]string{"atr", "--json"}, args...)...), args)
	}
}

func TestATRWithFaultsIsShownAllTheSame(t *testing.T) {
	wrongTCK := probe(t, "atr", "--json", "3B9E95801FC78031E073FE211B66D0004900C0004A")
	assert.Equal(t, exitOK, wrongTCK.code)
	a := decode[map[string]any](t, wrongTCK.stdout)
	assert.Equal(t, false, a["valid"])
	assert.Equal(t, map[string]any{"present": true, "correct": false}, a["tck"])
	assert.NotEmpty(t, a["problems"])

	truncated := probe(t, "atr", "3B80")
	assert.Equal(t, exitUsage, truncated.code)
	assert.Contains(t, truncated.stdout, "problem: the ATR ends too early")
	assert.Contains(t, truncated.stderr, "TD1 is missing")

	noATR := probe(t, "atr", "--json", "9000")
	assert.Equal(t, exitUsage, noATR.code)
	assert.Equal(t, map[string]any{"atr": "9000", "valid": false}, decode[map[string]any](t, noATR.stdout))
}

func TestCardNamesComeFromTheListOfPCSCTools(t *testing.T) {
	const system, cache, home = "usr/share/pcsc/smartcard_list.txt", "home/u/.cache/smartcard_list.txt", "home/u/.smartcard_list.txt"
	list := func(name string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("# comment\n3B 7A 18 .. 00\n\tOther card\n\n3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 3[45]\n\t" + name + "\n\tSecond name\n")}
	}
	tests := map[string]struct {
		files fstest.MapFS
		env   map[string]string
		want  string
	}{
		"system's":            {fstest.MapFS{system: list("system")}, nil, "Known in /usr/share/pcsc/smartcard_list.txt as\n  system\n  Second name\n"},
		"the user's is first": {fstest.MapFS{system: list("system"), cache: list("cache")}, map[string]string{"HOME": "/home/u"}, "  cache\n"},
		"XDG's":               {fstest.MapFS{cache: list("cache"), "x/smartcard_list.txt": list("xdg")}, map[string]string{"HOME": "/home/u", "XDG_CACHE_HOME": "/x"}, "  xdg\n"},
		"hidden in the home":  {fstest.MapFS{home: list("hidden"), system: list("system")}, map[string]string{"HOME": "/home/u"}, "  hidden\n"},
		"not in it":           {fstest.MapFS{system: {Data: []byte("3B 00\n\tNobody\n")}}, nil, "Not in /usr/share/pcsc/smartcard_list.txt"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.root, w.getenv = tt.files, func(key string) string { return tt.env[key] }
			got := w.run("atr", "3B7A18000073667465206364313434")
			assert.Equal(t, exitOK, got.code)
			assert.Contains(t, got.stdout, tt.want)
			assert.Empty(t, got.stderr)
		})
	}
	t.Run("no list, no word about it", func(t *testing.T) {
		assert.NotContains(t, probe(t, "atr", "3B00").stdout, "smartcard_list")
	})
	t.Run("names do not move the cursor", func(t *testing.T) {
		w := newWorld(t)
		w.root = fstest.MapFS{system: {Data: []byte("3B 00\n\tbad\x1b[2Jname\n")}}
		assert.NotContains(t, w.run("atr", "3B00").stdout, "\x1b")
	})
}

func TestBareClassDescriptorsDecodeToTheFieldsOfTheSpecification(t *testing.T) {
	names := []string{
		"bLength", "bDescriptorType", "bcdCCID", "bMaxSlotIndex", "bVoltageSupport", "dwProtocols", "dwDefaultClock", "dwMaximumClock",
		"bNumClockSupported", "dwDataRate", "dwMaxDataRate", "bNumDataRatesSupported", "dwMaxIFSD", "dwSynchProtocols", "dwMechanical",
		"dwFeatures", "dwMaxCCIDMessageLength", "bClassGetResponse", "bClassEnvelope", "wLcdLayout", "bPINSupport", "bMaxCCIDBusySlots",
	}
	raw, err := os.ReadFile("../../virtual/readers.jsonl")
	require.NoError(t, err)
	count := 0
	for line := range strings.Lines(string(raw)) {
		row := decode[struct {
			Name, Descriptor string
			Fields           []uint32
		}](t, line)
		got := probe(t, "describe", "--json", "--class-descriptor", row.Descriptor)
		require.Equal(t, exitOK, got.code, row.Name)
		class := decode[struct{ Class map[string]uint32 }](t, got.stdout).Class
		want := map[string]uint32{}
		for i, name := range names {
			want[name] = row.Fields[i]
		}
		require.Equal(t, want, class, row.Name)
		count++
	}
	assert.GreaterOrEqual(t, count, 600)
}

func TestDescribeExplainsAReader(t *testing.T) {
	got := probe(t, "describe", "--virtual", "reader=gemalto-pc-twin,level=tpdu,serial=A1B2,message=64")
	assert.Equal(t, exitOK, got.code)
	assert.Empty(t, got.stderr)
	for _, want := range []string{
		"Reader 0: ", "(A1B2) 00 00\n", "idVendor                0x08E6", "iSerialNumber           A1B2", "bulk in, packets of 64 bytes",
		"dwFeatures              0x00010230  exchanges at TPDU level\n", "- NAD other than 00\n",
		"What looks wrong\n  dwMaxCCIDMessageLength: 64 is too short for TPDU level",
	} {
		assert.Contains(t, got.stdout, want)
	}
}

func TestDescribeGivesProgramsNumbersAndLists(t *testing.T) {
	model, err := virtual.FindModel("cardman3021")
	require.NoError(t, err)
	got := probe(t, "describe", "--json", "--virtual", "reader="+model.Name)
	require.Equal(t, exitOK, got.code, got.stderr)
	d := decode[description](t, got.stdout)
	assert.Equal(t, "076B", d.Reader.VID)
	assert.Equal(t, "1-1", d.Reader.Port)
	assert.NotEmpty(t, d.Reader.Endpoints)
	assert.Empty(t, d.Reader.Error)
	assert.Len(t, d.DataRates, len(model.Interfaces[0].DataRates))
	assert.NotEmpty(t, d.DataRates)
	assert.Len(t, d.ClockFrequencies, len(model.Interfaces[0].ClockFrequencies))
	assert.NotEmpty(t, d.ClockFrequencies)

	human := probe(t, "describe", "--virtual", "reader="+model.Name).stdout
	assert.Contains(t, human, "Data rates (")
	assert.Contains(t, human, "Clock frequencies (")
}

func TestDescribeShowsQuirks(t *testing.T) {
	const keyboard = "reader=ltc31v2"
	got := probe(t, "describe", "--virtual", keyboard)
	require.Equal(t, exitOK, got.code, got.stderr)
	assert.Contains(t, got.stdout, "Quirks\n  ltc31-no-pin-pad: pin_pad.off = true\n    announces PIN entry, has no keys\n    builtin.toml:")
	assert.Contains(t, got.stdout, ", by libccid 1.8.2 src/ccid.c:529\n")

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/desk.toml", []byte(`
[[quirk]]
id = "desk"
reader = ["0783:0006"]
disable = ["ltc31-no-pin-pad"]
set.name = "Front desk"`), 0o600))
	got = probe(t, "describe", "--json", "--quirks-dir", dir, "--virtual", keyboard)
	require.Equal(t, exitOK, got.code, got.stderr)
	reader := decode[description](t, got.stdout).Reader
	assert.True(t, strings.HasPrefix(reader.Name, "Front desk "), reader.Name)
	require.Len(t, reader.Quirks, 2)
	assert.Equal(t, "switched off by desk", reader.Quirks[0].Off)
	assert.Equal(t, "desk", reader.Quirks[1].ID)
	assert.Equal(t, dir+"/desk.toml:2", reader.Quirks[1].Origin)
}

func TestRefusedFirmwareIsListedWithTheWayOut(t *testing.T) {
	dir := t.TempDir()
	const row = "[[quirk]]\nid = \"old\"\nreader = [\"08E6:3437\"]\nset.refused = \"firmware before 9: loses bytes\"\n"
	require.NoError(t, os.WriteFile(dir+"/old.toml", []byte(row), 0o600))
	got := probe(t, "list", "--quirks-dir", dir, "--virtual", tpduT1)
	require.Equal(t, exitOK, got.code, got.stderr)
	assert.Contains(t, got.stdout, "can't be opened: refused: firmware before 9: loses bytes; ")
	const wayOut = "[[quirk]]\n%sid = \"allow-08e6-3437\"\n%sreader = [\"08E6:3437\"]\n%sdisable = [\"old\"]\n"
	assert.Contains(t, got.stdout, strings.ReplaceAll(wayOut, "%s", strings.Repeat(" ", 7)))

	got = probe(t, "apdu", "--quirks-dir", dir, "--virtual", tpduT1, "00A4000C")
	assert.NotEqual(t, exitOK, got.code)
	assert.Contains(t, got.stderr, "disable = [\"old\"]")

	require.NoError(t, os.WriteFile(dir+"/zz.toml", []byte(strings.ReplaceAll(wayOut, "%s", "")), 0o600))
	got = probe(t, "apdu", "--quirks-dir", dir, "--virtual", tpduT1, "00A4000C")
	assert.Equal(t, exitOK, got.code, got.stderr)
}

func TestAFolderOfQuirksThatWasAskedForMustBeThere(t *testing.T) {
	got := probe(t, "list", "--quirks-dir", t.TempDir()+"/quirks.f", "--virtual", tpduT1)
	assert.Equal(t, exitUsage, got.code)
	assert.Contains(t, got.stderr, "quirks.f: no such file or directory")
	assert.Equal(t, exitOK, probe(t, "list", "--quirks-dir", "", "--virtual", tpduT1).code)
}

func TestFaultyQuirksAreAnErrorWithFileAndLine(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/bad.toml", []byte("[[quirk]]\nid = 3\n"), 0o600))
	got := probe(t, "list", "--quirks-dir", dir, "--virtual", tpduT1)
	assert.Equal(t, exitUsage, got.code)
	assert.Contains(t, got.stderr, dir+"/bad.toml:2")
}

func TestListShowsReadersSlotsAndCards(t *testing.T) {
	args := []string{"list", "--virtual", "reader=gemalto-pc-twin,level=tpdu,serial=A1,card=t1", "--virtual", "reader=scr3310,slots=2,card=none+t0"}
	got := probe(t, args...)
	assert.Equal(t, exitOK, got.code)
	assert.Empty(t, got.stderr)
	readers := decode[[]listedReader](t, probe(t, append(args, "--json")...).stdout)
	require.Len(t, readers, 2)
	assert.Equal(t, listedReader{
		Index: 0, Name: readers[0].Name, VID: "08E6", PID: "3437", Bus: 1, Port: "1-1", Serial: "A1", USB: "virtual", Level: "TPDU",
		Slots:  []listedSlot{{Name: readers[0].Name, Present: true, ATR: "3B9C968131FE458073C001C066676F6363696490"}},
		Advice: []string{},
	}, readers[0])
	assert.True(t, strings.HasSuffix(readers[0].Name, "(A1) 00 00"), readers[0].Name)
	require.Len(t, readers[1].Slots, 2)
	assert.False(t, readers[1].Slots[0].Present)
	assert.True(t, strings.HasPrefix(readers[1].Slots[1].ATR, "3B"))
	assert.True(t, strings.HasSuffix(readers[1].Slots[1].Name, "01 01"), readers[1].Slots[1].Name)

	for _, want := range []string{
		"0  " + readers[0].Name + "\n   08e6:3437, port 1-1, serial A1, TPDU level, virtual\n   slot 0: card, ATR 3B 9C 96",
		"1  " + readers[1].Name, "slot 0: no card\n   slot 1: card, ATR 3B",
	} {
		assert.Contains(t, got.stdout, want)
	}
}

func TestTokensAreListedWithTheirVersion(t *testing.T) {
	for name, version := range map[string]string{"e-gate": "A", "gemalto-pdt": "B"} {
		spec := "reader=" + name
		assert.Contains(t, probe(t, "list", "--virtual", spec).stdout, ", port 1-1, ICCD version "+version+", virtual\n   slot 0: card, ATR 3B")
		assert.Equal(t, version, decode[[]listedReader](t, probe(t, "list", "--json", "--virtual", spec).stdout)[0].ICCD)
		got := probe(t, "apdu", "--virtual", spec, "00A4000C023F00")
		assert.Equal(t, exitOK, got.code, got.stderr)
		assert.Contains(t, got.stdout, "SW 9000")
		described := probe(t, "describe", "--virtual", spec)
		assert.Contains(t, described.stdout, "ICCD version "+version+": control transfers")
		assert.Empty(t, described.stderr, "rules of ICCD that were broken")
	}
}

// TestEveryKnownReaderIsListedAndDescribed drives each reader of the table, with all the oddities in their descriptors.
func TestEveryKnownReaderIsListedAndDescribed(t *testing.T) {
	models, err := virtual.Models()
	require.NoError(t, err)
	driven, refused := 0, 0
	for _, m := range models {
		spec := "reader=" + m.Name + ",card=t1"
		listed := probe(t, "list", "--json", "--virtual", spec)
		require.Equal(t, exitOK, listed.code, "%s: %s", m.Name, listed.stderr)
		require.Empty(t, listed.stderr, m.Name)
		readers := decode[[]listedReader](t, listed.stdout)
		require.Len(t, readers, len(m.Interfaces), m.Name)
		if strings.HasPrefix(readers[0].Error, "refused: ") {
			require.NotEmpty(t, readers[0].Advice, m.Name)
			refused++
			continue
		}
		for _, r := range readers {
			require.Empty(t, r.Error, m.Name)
		}
		require.True(t, readers[0].Slots[0].Present, m.Name)
		require.NotEmpty(t, readers[0].Slots[0].ATR, m.Name)

		described := probe(t, "describe", "--json", "--reader", "0", "--virtual", spec)
		require.Equal(t, exitOK, described.code, "%s: %s", m.Name, described.stderr)
		require.Empty(t, decode[description](t, described.stdout).Reader.Error, m.Name)
		driven++
	}
	assert.Greater(t, driven, 500)
	assert.Less(t, refused, 20)
}

func TestWithoutACommandTheNextStepIsShown(t *testing.T) {
	t.Run("a card", func(t *testing.T) {
		assert.Contains(t, probe(t, "--virtual", tpduT1).stdout, "\nNext: what card is that?  ccid-probe atr --reader 0 --virtual "+tpduT1+"\n")
	})
	t.Run("an empty reader", func(t *testing.T) {
		assert.Contains(t, probe(t, "--virtual", "name=My Reader,card=none").stdout, "ccid-probe describe 0 --virtual 'name=My Reader,card=none'\n")
	})
	t.Run("for programs the list is all", func(t *testing.T) {
		got := probe(t, "--json", "--virtual", tpduT1)
		assert.Len(t, decode[[]listedReader](t, got.stdout), 1)
	})
	t.Run("no reader", func(t *testing.T) {
		assert.Equal(t, exitNoReader, probe(t).code)
	})
}

func TestWhereThereIsNoReaderTheReasonIsTold(t *testing.T) {
	for _, args := range [][]string{{"list"}, {"describe"}, {"apdu", "00A40000"}, {"atr", "--reader", "0"}} {
		got := probe(t, args...)
		assert.Equal(t, exitNoReader, got.code, args)
		assert.Empty(t, got.stdout)
		assert.Contains(t, got.stderr, "ccid-probe: no reader found\n", args)
		assert.Contains(t, got.stderr, "not even a hub")
		assert.Contains(t, got.stderr, "ccid-probe list --virtual reader=gemalto-pc-twin")
	}
	assert.Equal(t, "[]\n", probe(t, "list", "--json").stdout, "programs get an array")
}

func TestAReaderThatCantBeOpenedIsListedWithTheReason(t *testing.T) {
	bus, _ := plugged(t, virtual.Config{})
	busy := &usbtransport.Error{Op: "open", Device: "1-1", Kind: usbtransport.ErrBusy, Cause: &usbtransport.BusyError{
		Holders: []usbtransport.Holder{{Driver: "usbfs", PID: 512, Process: "pcscd"}},
	}}
	denied := &usbtransport.Error{Op: "open", Device: "1-1", Kind: usbtransport.ErrPermission}
	tests := map[string]struct {
		err  error
		want []string
	}{
		"busy":          {busy, []string{"held by process pcscd (PID 512)", "systemctl stop pcscd.socket"}},
		"no permission": {denied, []string{"permission denied", `ATTR{idVendor}=="08e6"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			run := func(args ...string) result {
				w := newWorld(t)
				w.root = fstest.MapFS{"sys/bus/usb/devices": {Mode: fs.ModeDir}, "dev/bus/usb/001/001": {}}
				w.use(stubborn{bus, tt.err})
				return w.run(args...)
			}
			human := run("list")
			assert.Equal(t, exitOK, human.code)
			assert.Contains(t, human.stdout, "can't be opened: ")
			readers := decode[[]listedReader](t, run("list", "--json").stdout)
			require.Len(t, readers, 1)
			apdu := run("apdu", "00A40000")
			assert.Equal(t, exitNoAccess, apdu.code)
			for _, want := range tt.want {
				assert.Contains(t, human.stdout, want)
				assert.Contains(t, readers[0].Error+strings.Join(readers[0].Advice, " "), want)
				assert.Contains(t, apdu.stderr, want)
			}
			described := run("describe")
			assert.Equal(t, exitOK, described.code, "its descriptors are known all the same")
			assert.Contains(t, described.stdout, "can't be opened: ")
			assert.Contains(t, described.stdout, "dwFeatures")
			assert.Contains(t, run().stdout, "Next: follow the advice above")
		})
	}
}

func TestReadersAreChosenInManyWays(t *testing.T) {
	bus, _ := plugged(t,
		virtual.Config{Model: "yubikey", Product: "Alpha", SerialNumber: "S1"},
		virtual.Config{Model: "yubikey", Product: "Beta", SerialNumber: "S2"},
		virtual.Config{Model: "yubico-yubikey-4-otp-ccid", Product: "Beta Two"}, virtual.Config{Model: "cherrysmartterminalst2xxx"},
	)
	tests := map[string]struct {
		key  string
		port string // of the reader that is chosen, "" for none
		code exitCode
		want string // in the error
	}{
		"number":         {key: "1", port: "1-2"},
		"port path":      {key: "1-3", port: "1-3"},
		"ids":            {key: "1050:0405", port: "1-3"},
		"ids, capitals":  {key: "046A:003E", port: "1-4"},
		"part of a name": {key: "alph", port: "1-1"},
		"serial number":  {key: "(s2)", port: "1-2"},
		"whole name":     {key: "yubico beta (s2) 01 00", port: "1-2"},
		"two ids":        {key: "1050:0404", code: exitUsage, want: `"1050:0404" means 2 readers`},
		"two names":      {key: "beta", code: exitUsage, want: "port 1-3"},
		"no such number": {key: "7", code: exitNoReader, want: `no reader is meant by "7"`},
		"no such name":   {key: "gamma", code: exitNoReader, want: "port 1-1"},
		"which?":         {key: "", code: exitUsage, want: "there are 4 readers: say which"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.use(bus)
			got := w.run("describe", "--json", "--reader", tt.key)
			assert.Equal(t, tt.code, got.code, got.stderr)
			if tt.port != "" {
				assert.Equal(t, tt.port, decode[description](t, got.stdout).Reader.Port)
				return
			}
			assert.Contains(t, got.stderr, tt.want)
		})
	}
	t.Run("words without quotes", func(t *testing.T) {
		w := newWorld(t)
		w.use(bus)
		assert.Equal(t, exitOK, w.run("describe", "Beta", "Two").code)
	})
}

func TestVirtualAndRealReadersTogether(t *testing.T) {
	bus, _ := plugged(t, virtual.Config{Model: "yubikey", Product: "Real"})
	w := newWorld(t)
	w.use(bus)
	got := w.run("list", "--json", "--usb", "usbfs", "--virtual", "reader=yubikey,name=Virtual")
	readers := decode[[]listedReader](t, got.stdout)
	require.Len(t, readers, 2)
	assert.Contains(t, readers[0].Name, "Real")
	assert.Contains(t, readers[1].Name, "Virtual")
	assert.Equal(t, 1, readers[1].Index)
}

// exchanges decodes the lines of apdu --json.
func exchanges(t *testing.T, text string) []exchanged {
	t.Helper()
	var list []exchanged
	for line := range strings.Lines(text) {
		list = append(list, decode[exchanged](t, line))
	}
	return list
}

func TestAPDUsAtEveryLevelAndProtocol(t *testing.T) {
	demoPairs(func(level, cardKind string) {
		t.Run(level+" "+cardKind, func(t *testing.T) {
			got := probe(t, "apdu", "--json", "--virtual", demoSpec(level, cardKind), selectDIR, readDIR, "80EC000003010203", "80:EC:00:00:03:01:02:03:00", "00A4 000C 02 7777")
			require.Equal(t, exitOK, got.code, got.stderr)
			assert.Empty(t, got.stderr, "no word of a broken rule")
			list := exchanges(t, got.stdout)
			require.Len(t, list, 5)
			assert.Equal(t, "00A4000C022F00", list[0].Command)
			assert.Equal(t, "9000", list[0].SW)
			assert.Equal(t, "61124F08F0474F43434944015006676F63636964", list[1].Response)
			assert.Equal(t, "010203", list[3].Response)
			assert.Equal(t, "80EC00000301020300", list[3].Command)
			assert.Equal(t, "6A82", list[4].SW)
			assert.Equal(t, "file or application not found", list[4].Meaning)
			for _, e := range list {
				assert.Positive(t, e.Microseconds)
			}
		})
	})
}

func TestAPDUPrintsDataStatusAndWhatWasAgreedOn(t *testing.T) {
	got := probe(t, "apdu", "--virtual", tpduT1, readDIR, selectDIR, readDIR)
	assert.Equal(t, exitOK, got.code)
	for _, want := range []string{
		"T=1, TPDU level, Fi 512, Di 32, 250000 bit/s at 4 MHz", "IFSC 254", "> 00 B0 00 00 00\n< SW 69",
		"< 61 12 4F 08 F0 47 4F 43 43 49 44 01 50 06 67 6F  a.O..GOCCID.P.go\n< 63 63 69 64", "< SW 9000 success, 20 bytes, ",
	} {
		assert.Contains(t, got.stdout, want)
	}
}

func TestSingleBytesAreOneAPDU(t *testing.T) {
	got := probe(t, "apdu", "--json", "--virtual", tpduT1, "80", "EC", "00", "00", "0x02", "AB", "CD")
	assert.Equal(t, exitOK, got.code)
	list := exchanges(t, got.stdout)
	require.Len(t, list, 1)
	assert.Equal(t, "80EC000002ABCD", list[0].Command)
}

func TestProtocolAndSlotCanBeChosen(t *testing.T) {
	t.Run("a protocol that the card does not offer", func(t *testing.T) {
		got := probe(t, "apdu", "--virtual", tpduT1, "--protocol", "0", selectDIR)
		assert.Equal(t, exitCardFailed, got.code)
		assert.Contains(t, got.stderr, "protocol is not supported")
	})
	t.Run("the one that it offers", func(t *testing.T) {
		assert.Equal(t, exitOK, probe(t, "apdu", "--virtual", tpduT1, "--protocol", "1", selectDIR).code)
	})
	t.Run("the first slot with a card", func(t *testing.T) {
		got := probe(t, "atr", "--json", "--virtual", "slots=3,card=none+t0+t1")
		assert.Equal(t, []any{0.0}, decode[map[string]any](t, got.stdout)["protocols"])
	})
	t.Run("the slot asked for", func(t *testing.T) {
		got := probe(t, "atr", "--json", "--slot", "2", "--virtual", "slots=3,card=none+t0+t1")
		assert.Equal(t, []any{1.0}, decode[map[string]any](t, got.stdout)["protocols"])
	})
	t.Run("an empty slot", func(t *testing.T) {
		got := probe(t, "atr", "--slot", "0", "--virtual", "slots=3,card=none+t0+t1")
		assert.Equal(t, exitNoCard, got.code)
		assert.Contains(t, got.stderr, "--wait")
	})
}

// TestNoFormOfAPINIsPrinted sends PINs in all forms, with the log on.
func TestNoFormOfAPINIsPrinted(t *testing.T) {
	commands := hexOf(pintest.Messages(pintest.Short(pintest.Instructions()...), pintest.Long(pintest.Instructions()...)))
	for _, flags := range [][]string{{"-vvv"}, {"-vvv", "--json"}} {
		for _, level := range []string{"tpdu", "extended"} {
			got := probe(t, append(append([]string{"apdu", "--virtual", demoSpec(level, "t1")}, flags...), commands...)...)
			require.Equal(t, exitOK, got.code, got.stderr)
			assert.Contains(t, got.stderr, "level=trace")
			findPIN(t, "output", []byte(got.stdout))
			findPIN(t, "log", []byte(got.stderr))
		}
	}
}

func TestPINsAreNotPrinted(t *testing.T) {
	const pin = "31323334"
	verify := "0020000104" + pin
	secret := func(t *testing.T, r result) {
		t.Helper()
		for _, form := range []string{pin, "31 32 33 34", "1234"} {
			assert.NotContains(t, r.stdout, form)
			assert.NotContains(t, r.stderr, form)
		}
	}
	demoPairs(func(level, cardKind string) {
		t.Run(level+" "+cardKind, func(t *testing.T) {
			spec := demoSpec(level, cardKind)
			human := probe(t, "apdu", "-vvvvvv", "--virtual", spec, verify)
			secret(t, human)
			assert.Equal(t, exitOK, human.code)
			assert.Contains(t, human.stdout, "> 00 20 00 01 04 ** ** ** **\n< SW 9000")
			assert.Contains(t, human.stderr, "level=trace", "the log was on")

			programs := probe(t, "apdu", "--json", "--virtual", spec, verify, "00200001042A2A2A2A")
			secret(t, programs)
			list := exchanges(t, programs.stdout)
			require.Len(t, list, 2)
			assert.Equal(t, "0020000104********", list[0].Command)
			assert.Equal(t, "0020000104********", list[1].Command)
		})
	})
	t.Run("unless asked for by name", func(t *testing.T) {
		got := probe(t, "apdu", "--json", "--show-secrets", "--virtual", tpduT1, verify)
		assert.Equal(t, verify, exchanges(t, got.stdout)[0].Command)
	})
	t.Run("nor in the error about a malformed one", func(t *testing.T) {
		secret(t, probe(t, "apdu", "--virtual", tpduT1, "0020000105"+pin))
		secret(t, probe(t, "apdu", "--virtual", tpduT1, "0020000104"+pin+"Z"))
	})
	t.Run("a counter of 2A in the header is no PIN", func(t *testing.T) {
		assert.Equal(t, "00 20 2A 2A", exchanger{}.shown([]byte{0x00, 0x20, 0x2A, 0x2A}, " "))
	})
}

// transferring runs f when the host begins its first XfrBlock, and lets its fault happen.
func transferring(bus *virtual.Bus, f func(), fault virtual.FaultKind) {
	seen := false
	bus.Inject(func(t virtual.Transfer) virtual.Fault {
		const xfrBlock, typeOffset = 0x6F, 0
		if t.Kind == virtual.BulkOutTransfer && len(t.Data) > typeOffset && t.Data[typeOffset] == xfrBlock && !seen {
			seen = true
			f()
			return virtual.Fault{Kind: fault}
		}
		return virtual.Fault{}
	})
}

func TestFailuresOfTheExchangeHaveTheirExitCodes(t *testing.T) {
	reader := func(t *testing.T, behave card.Behaviour) *virtual.Bus {
		t.Helper()
		c := card.New(card.NewISO(), card.Options{Protocol: 1, Behave: func([]byte) card.Behaviour { return behave }})
		bus, _ := plugged(t, virtual.Config{Cards: []card.Card{c}, WaitingTime: 50 * time.Millisecond})
		return bus
	}
	nothing := func() {}
	t.Run("removed", func(t *testing.T) {
		bus := reader(t, card.Behaviour{})
		transferring(bus, nothing, virtual.RemoveDuring)
		w := newWorld(t)
		w.use(bus)
		got := w.run("apdu", selectDIR)
		assert.Equal(t, exitRemoved, got.code)
		assert.Contains(t, got.stderr, "device removed")
		assert.Equal(t, 1, strings.Count(got.stderr, "\n"), "one line, and no log: %s", got.stderr)
	})
	t.Run("removed, with the log on", func(t *testing.T) {
		bus := reader(t, card.Behaviour{})
		transferring(bus, nothing, virtual.RemoveDuring)
		w := newWorld(t)
		w.use(bus)
		got := w.run("apdu", "-v", selectDIR)
		assert.Equal(t, 1, strings.Count(got.stderr, `msg="reader removed"`))
		assert.NotContains(t, got.stderr, "level=error")
		assert.NotContains(t, got.stderr, "level=warning")
	})
	t.Run("mute", func(t *testing.T) {
		w := newWorld(t)
		w.use(reader(t, card.Behaviour{Mute: true}))
		got := w.run("apdu", selectDIR)
		assert.Equal(t, exitCardFailed, got.code, got.stderr)
	})
	t.Run("too slow", func(t *testing.T) {
		bus := reader(t, card.Behaviour{})
		transferring(bus, nothing, virtual.Drop)
		w := newWorld(t)
		w.use(bus)
		got := w.run("apdu", "--timeout", "300ms", selectDIR)
		assert.Equal(t, exitTimedOut, got.code, got.stderr)
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		bus := reader(t, card.Behaviour{})
		w := newWorld(t)
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		w.ctx = ctx
		transferring(bus, cancel, virtual.Timeout)
		w.use(bus)
		got := w.run("apdu", selectDIR)
		assert.Equal(t, exitInterrupted, got.code)
		assert.Equal(t, "ccid-probe: interrupted\n", got.stderr)
	})
}

func TestACardCanBeWaitedFor(t *testing.T) {
	bus, readers := plugged(t, virtual.Config{Slots: 2})
	statuses := 0
	bus.Inject(func(tr virtual.Transfer) virtual.Fault {
		const getSlotStatus = 0x65
		if tr.Kind == virtual.BulkOutTransfer && tr.Data[0] == getSlotStatus {
			statuses++
			// The first is the opening's, the next two find the slots empty.
			if statuses == 4 {
				go func() { _, _ = readers[0].SetCard(1, card.NewT1()) }()
			}
		}
		return virtual.Fault{}
	})
	w := newWorld(t)
	w.use(bus)
	got := w.run("atr", "--reader", "0", "--wait", "--timeout", "10s")
	assert.Equal(t, exitOK, got.code, got.stderr)
	assert.Contains(t, got.stdout, "ATR 3B 9C")

	empty, _ := plugged(t, virtual.Config{})
	w = newWorld(t)
	w.use(empty)
	got = w.run("atr", "--reader", "0", "--wait", "--timeout", "400ms")
	assert.Equal(t, exitTimedOut, got.code)
	assert.Equal(t, "ccid-probe: Gemalto PC Twin Reader 00 00: no card within 400ms\n  --timeout says how long to wait.\n", got.stderr)
}

// full is an output that takes so many bytes and then fails.
type full struct {
	left int
	err  error
}

func (f *full) Write(b []byte) (int, error) {
	if len(b) > f.left {
		return 0, f.err
	}
	f.left -= len(b)
	return len(b), nil
}

func TestOutputThatNobodyReadsIsNoFailure(t *testing.T) {
	for _, args := range [][]string{
		{"list", "--virtual", tpduT1},
		{"--virtual", tpduT1},
		{"list", "--json", "--virtual", tpduT1},
		{"describe", "--virtual", tpduT1},
		{"apdu", "--virtual", tpduT1, selectDIR, readDIR},
		{"apdu", "--json", "--virtual", tpduT1, selectDIR, readDIR},
		{"atr", "3B00"},
		{"atr", "--json", "3B00"},
		{"demo"},
		{"--help"},
	} {
		for _, broken := range []error{&os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}, io.ErrClosedPipe} {
			w := newWorld(t)
			w.stdout = &full{left: 10, err: broken}
			got := w.run(args...)
			assert.Equal(t, exitOK, got.code, args)
			assert.Empty(t, got.stderr, args)
		}
	}
	w := newWorld(t)
	w.stdout = &full{err: errors.New("no space left on device")}
	got := w.run("atr", "3B00")
	assert.Equal(t, exitFailure, got.code)
	assert.Contains(t, got.stderr, "can't write the output: no space left on device")
}

func TestDemoChecksEveryStep(t *testing.T) {
	start := time.Now()
	got := probe(t, "demo")
	assert.Equal(t, exitOK, got.code, got.stdout+got.stderr)
	assert.Empty(t, got.stderr)
	assert.NotContains(t, got.stdout, "FAIL")
	assert.Contains(t, got.stdout, " 0 failed, in ")
	assert.Contains(t, got.stdout, "None here.")
	_, log, found := strings.Cut(got.stdout, "The complete log of that")
	require.True(t, found)
	assert.Equal(t, 1, strings.Count(log, `msg="reader removed"`))
	assert.NotContains(t, log, "level=error")
	assert.Less(t, time.Since(start), 5*time.Second)
}

func TestDemoListsRealReadersFirst(t *testing.T) {
	bus, _ := plugged(t, virtual.Config{Product: "Real Reader"})
	w := newWorld(t)
	w.use(bus)
	got := w.run("demo")
	assert.Equal(t, exitOK, got.code)
	assert.Contains(t, got.stdout, "== Real readers\n$ ccid-probe list\n0  ")
	assert.Less(t, strings.Index(got.stdout, "Real Reader"), strings.Index(got.stdout, "gemalto-pc-twin"))
}

func TestDemoFailsWhereACheckFails(t *testing.T) {
	d := &demonstration{program: &program{out: &output{w: io.Discard}}}
	d.check(true, "fine")
	d.check(false, "not fine")
	assert.Equal(t, 1, d.passed)
	assert.Equal(t, 1, d.failed)
}

func FuzzATRArgument(f *testing.F) {
	for _, seed := range []string{"3B7A18000073667465206364313434", "3b:00", "0x3F", "3B 9", "9000", "", "3B9E95801FC78031E073FE211B66D0004900C0004A"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		w := newWorld(t)
		got := w.run("atr", "--json", "--", text)
		if got.stdout != "" {
			v := decode[map[string]any](t, got.stdout)
			b, err := hex.DecodeString(v["atr"].(string))
			require.NoError(t, err)
			assert.NotEmpty(t, b)
		}
		assert.Contains(t, []exitCode{exitOK, exitUsage}, got.code)
		assert.Equal(t, got.code == exitUsage, got.stderr != "")
	})
}

func FuzzClassDescriptorArgument(f *testing.F) {
	f.Add("36210001000703000000A00F0000A00F000000002A000090D0030000F70000000000000000000000300001000F010000000000000001")
	f.Add("36FF" + strings.Repeat("FF", 52))
	f.Add("3621" + strings.Repeat("00", 52))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []string{"--json=true", "--json=false"} {
			got := probe(t, "describe", format, "--class-descriptor="+text)
			assert.Contains(t, []exitCode{exitOK, exitUsage}, got.code)
			assert.Equal(t, got.code == exitOK, got.stdout != "")
		}
	})
}

func FuzzAPDUArguments(f *testing.F) {
	f.Add("00A4", "0400")
	f.Add("00", "A4")
	f.Add("0020000104 31323334", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		commands, err := parseCommands([]string{a, b})
		assert.Equal(t, err != nil, commands == nil)
		for _, c := range commands {
			assert.GreaterOrEqual(t, len(c), 4)
			assert.Equal(t, 3*len(c)-1, len(exchanger{}.shown(c, " ")))
		}
	})
}
