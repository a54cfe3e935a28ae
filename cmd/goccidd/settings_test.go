//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// loaded returns what a command line and a file make of the settings.
func loaded(t *testing.T, file string, args ...string) (settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "goccidd.toml")
	require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
	p := &program{environment: environment{getenv: func(string) string { return "" }}, args: args}
	p.cli.config = path
	return p.load()
}

func TestEachOptionSetsWhatItSays(t *testing.T) {
	seconds := func(n time.Duration) duration { return duration{n * time.Second} }
	tests := map[string]struct {
		args []string
		want func(*settings)
	}{
		"nothing":               {nil, func(*settings) {}},
		"socket":                {[]string{"--socket", "/tmp/s"}, func(s *settings) { s.Socket = "/tmp/s" }},
		"auto-exit":             {[]string{"--auto-exit"}, func(s *settings) { s.AutoExit = seconds(60) }},
		"auto-exit with a time": {[]string{"--auto-exit=5m"}, func(s *settings) { s.AutoExit = seconds(300) }},
		"auto-exit in seconds":  {[]string{"--auto-exit=7"}, func(s *settings) { s.AutoExit = seconds(7) }},
		"-x":                    {[]string{"-x"}, func(s *settings) { s.AutoExit = seconds(60) }},
		"usb":                   {[]string{"--usb", "none"}, func(s *settings) { s.Readers.USB.name = "none" }},
		"usbip": {
			[]string{"--usbip", "192.0.2.1:3240", "--usbip", "[2001:db8::1]:3240/1-1"},
			func(s *settings) { s.Readers.USBIP = []target{{"192.0.2.1:3240"}, {"[2001:db8::1]:3240/1-1"}} },
		},
		"virtual": {
			[]string{"--virtual", oneCard, "--virtual", "card=none"},
			func(s *settings) { s.Readers.Virtual = []virtualSpec{{oneCard}, {"card=none"}} },
		},
		"virtual-control": {[]string{"--virtual-control", "/tmp/c"}, func(s *settings) { s.Readers.Control = "/tmp/c" }},
		"disable-polkit":  {[]string{"--disable-polkit"}, func(s *settings) { s.Access.Polkit = false }},
		"disable-sandbox": {[]string{"--disable-sandbox"}, func(s *settings) { s.Sandbox = false }},
		"metrics":         {[]string{"--metrics", "[::1]:9517"}, func(s *settings) { s.Metrics.Listen.text = "[::1]:9517" }},
		"metrics at a socket": {
			[]string{"--metrics", "unix:/run/goccidd.metrics"}, func(s *settings) { s.Metrics.Listen.text = "unix:/run/goccidd.metrics" },
		},
		"log-level":  {[]string{"--log-level", "trace"}, func(s *settings) { s.Log.Level = logLevel{logrus.TraceLevel} }},
		"log-format": {[]string{"--log-format", "json"}, func(s *settings) { s.Log.Format.name = "json" }},
		"-d":         {[]string{"-d"}, func(s *settings) { s.Log.Level = logLevel{logrus.DebugLevel} }},
		"-i":         {[]string{"-e", "-i"}, func(s *settings) { s.Log.Level = logLevel{logrus.InfoLevel} }},
		"-e":         {[]string{"-e"}, func(s *settings) { s.Log.Level = logLevel{logrus.ErrorLevel} }},
		"-C":         {[]string{"-C"}, func(s *settings) { s.Log.Level = logLevel{logrus.FatalLevel} }},
		"long levels": {
			[]string{"--debug", "--error", "--critical"}, func(s *settings) { s.Log.Level = logLevel{logrus.FatalLevel} },
		},
		"-a": {[]string{"-a"}, func(s *settings) { s.Log.APDU = true }},
		"-T": {[]string{"-T"}, func(s *settings) { s.Log.Color = true }},
		"-t": {[]string{"-t", "300"}, func(s *settings) { s.Limits.Connections.n = 300 }},
		"-s": {[]string{"-s", "20"}, func(s *settings) { s.Limits.HandlesPerClient.n = 20 }},
		"-r": {[]string{"-r30"}, func(s *settings) { s.Limits.HandlesPerReader.n = 30 }},
		"-S": {[]string{"-S"}, func(s *settings) { s.Readers.SerialName = false }},
		"-I": {[]string{"-I"}, func(s *settings) { s.Readers.InterfaceName = false }},
		"-fdaxT": {[]string{"-fdaxT"}, func(s *settings) {
			s.Log.Level, s.Log.APDU, s.AutoExit, s.Log.Color = logLevel{logrus.DebugLevel}, true, seconds(60), true
		}},
		"limits by their long names": {
			[]string{"--max-thread=1", "--max-card-handle-per-thread=2", "--max-card-handle-per-reader=3"},
			func(s *settings) {
				s.Limits.Connections.n, s.Limits.HandlesPerClient.n, s.Limits.HandlesPerReader.n = 1, 2, 3
			},
		},
		"what pcscd has and we need not": {[]string{"--force-reader-polling", "--force-reader-polling=3", "-f", "-H"}, func(*settings) {}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := loaded(t, "", tt.args...)
			require.NoError(t, err)
			want := defaults()
			tt.want(&want)
			assert.Equal(t, want, got)
		})
	}
}

func TestOptionsWinOverTheFile(t *testing.T) {
	file := `
socket = "/run/file"
auto-exit = "5s"
[log]
level = "error"
apdu = true
[readers]
virtual = ["card=none", "card=t0"]
usbip = ["192.0.2.9:3240"]
[access]
polkit = false
`
	got, err := loaded(t, file, "--socket", "/run/option", "-d", "--virtual", oneCard, "--disable-polkit=false")
	require.NoError(t, err)
	assert.Equal(t, "/run/option", got.Socket)
	assert.Equal(t, logLevel{logrus.DebugLevel}, got.Log.Level)
	assert.Equal(t, []virtualSpec{{oneCard}}, got.Readers.Virtual)
	assert.True(t, got.Access.Polkit)
	assert.Equal(t, duration{5 * time.Second}, got.AutoExit, "what no option says is the file's")
	assert.True(t, got.Log.APDU)
	assert.Equal(t, []target{{"192.0.2.9:3240"}}, got.Readers.USBIP)
}

func TestErrorsOfTheFileSayWhere(t *testing.T) {
	tests := map[string]struct{ file, want string }{
		"syntax":            {"socket = [\n", ":1:11: "},
		"unknown setting":   {"\n[log]\nlevl = \"info\"\n", `:3:1: there is no setting "log.levl"`},
		"unknown table":     {"[logging]\nlevel = \"info\"\n", `there is no setting "logging`},
		"wrong type":        {"socket = 7\n", ":1:10: "},
		"level":             {"[log]\nlevel = \"loud\"\n", `:2:9: log.level: "loud": critical, error, warning, info, debug and trace are possible`},
		"format":            {"[log]\nformat = \"xml\"\n", `:2:10: log.format: "xml": text and json are possible`},
		"time":              {"auto-exit = \"soon\"\n", `:1:13: auto-exit: "soon" is no time: write it like 90s, 5m or 0s`},
		"backend":           {"[readers]\nusb = \"openusb\"\n", `:2:7: readers.usb: "openusb": usbfs, libusb and none are possible`},
		"virtual reader":    {"[readers]\nvirtual = [\"card=t1\",\n \"card=gold\"]\n", `:3:2: `},
		"usbip":             {"[readers]\nusbip = [\"::::\"]\n", ":2:10: "},
		"limit":             {"[limits]\nconnections = 0\n", ":2:15: limits.connections: \"0\": a number from 1 to 100000 is needed"},
		"limit as a text":   {"[limits]\nconnections = \"\\u0030\"\n", ":2:15: limits.connections: "},
		"limit of no bound": {"[limits]\nhandles-per-client = 1000000\n", ":2:22: "},
		"number for a text": {"[log]\nlevel = 3\n", `:2:9: log.level: "3": critical, error, warning, info, debug and trace are possible`},
		"negative time":     {"auto-exit = -3\n", `:1:13: auto-exit: "-3" is no time`},
		"no time at all":    {"auto-exit = true\n", `:1:13: auto-exit: "true" is no time`},
		"number in a list":  {"[access]\nusers = [1000]\n", `:2:10: access.users: a text, in quotes, is needed, not: integer`},
		"text for a list":   {"[readers]\nvirtual = \"card=t1\"\n", `:2:11: readers.virtual: a list, in [ ], is needed, not: string`},
		"text for a switch": {"[access]\npolkit = \"no\"\n", `:2:10: access.polkit: true or false is needed, not: string`},
		"value for a table": {"readers = 3\n", `:1:11: readers: a table is needed, not: integer`},
		"metrics":           {"[metrics]\nlisten = \"9517\"\n", `:2:10: metrics.listen: "9517": unix:PATH or HOST:PORT is needed`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := loaded(t, tt.file)
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.want)
		})
	}
}

func TestEachUnknownSettingIsTold(t *testing.T) {
	_, err := loaded(t, "one = 1\ntwo = 2\n")
	require.ErrorContains(t, err, `goccidd.toml:1:1: there is no setting "one"`)
	require.ErrorContains(t, err, `goccidd.toml:2:1: there is no setting "two"`)
}

func TestSettingsThatDoNotFitAreRefused(t *testing.T) {
	long := "/" + strings.Repeat("x", 200)
	tests := map[string]struct {
		args []string
		want string
	}{
		"relative socket":   {[]string{"--socket", "pcscd.comm"}, `socket: "pcscd.comm" has to be a path that begins with /`},
		"long socket":       {[]string{"--socket", long}, "too long for a socket"},
		"metrics for all":   {[]string{"--metrics", ":9517"}, "can be reached from other machines"},
		"metrics by name":   {[]string{"--metrics", "host.example:9517"}, "can be reached from other machines"},
		"metrics path":      {[]string{"--metrics", "unix:x"}, "unix: needs a path"},
		"negative limit":    {[]string{"-t", "-3"}, "a number from 1 to 100000"},
		"limit with a tail": {[]string{"-t", "3x"}, "a number from 1 to 100000"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := loaded(t, "", tt.args...)
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := loaded(t, "[metrics]\nlisten = \":9517\"\nallow-remote = true\n")
	require.NoError(t, err)
}

func TestPCSCDsListsOfSerialReadersAreLeftOut(t *testing.T) {
	s, err := loaded(t, "# serial\nFRIENDLYNAME \"x\"\nLIBPATH /usr/lib/x.so\n")
	require.NoError(t, err)
	require.Equal(t, defaults(), s)
	p := &program{environment: environment{getenv: func(string) string { return "" }}}
	p.cli.config = t.TempDir()
	_, err = p.load()
	require.NoError(t, err)
}

func TestPCSCDsListsOfSerialReadersLeaveTheDefaultSettingsInForce(t *testing.T) {
	dir := t.TempDir()
	p := &program{environment: environment{getenv: func(string) string { return "" }, defaultConfig: filepath.Join(dir, "goccidd.toml")}}
	require.NoError(t, os.WriteFile(p.defaultConfig, []byte("[access]\nusers = [\"nobody\"]\n"), 0o600))
	list := filepath.Join(dir, "reader.conf")
	require.NoError(t, os.WriteFile(list, []byte("FRIENDLYNAME \"x\"\n"), 0o600))
	for _, p.cli.config = range []string{"", list, dir} {
		s, err := p.load()
		require.NoError(t, err)
		require.Equal(t, []string{"nobody"}, s.Access.Users, "%q", p.cli.config)
	}
	empty := filepath.Join(dir, "empty.toml")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	p.cli.config = empty
	s, err := p.load()
	require.NoError(t, err)
	require.Empty(t, s.Access.Users, "another file of settings stands alone")
}

func TestAFolderOfQuirksThatWasAskedForMustBeThere(t *testing.T) {
	for _, dir := range []string{"", defaultQuirksDir, t.TempDir()} {
		_, err := loadQuirks(dir)
		require.NoError(t, err)
	}
	_, err := loadQuirks(filepath.Join(t.TempDir(), "quirks.f"))
	var u *usageError
	require.ErrorAs(t, err, &u)
	require.ErrorContains(t, err, "readers.quirks-dir: ")
}

func TestAConfigurationFileThatWasAskedForMustBeThere(t *testing.T) {
	code, _, stderr := call(t, nil, "--foreground", "--config", filepath.Join(t.TempDir(), "none.toml"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "no such file")
}

func TestAnOptionThatIsNeitherTrueNorFalseIsTold(t *testing.T) {
	code, _, stderr := call(t, nil, "--foreground=maybe")
	require.Equal(t, exitUsage, code)
	require.Equal(t, "goccidd: --foreground: \"maybe\": true and false are possible\n", stderr)
}

func TestUnknownOptionsAreToldWhatThereIs(t *testing.T) {
	code, stdout, stderr := call(t, nil, "--no-such-option")
	require.Equal(t, exitUsage, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "goccidd: unknown flag: --no-such-option\n")
	require.Contains(t, stderr, "-x --auto-exit")
	code, _, stderr = call(t, nil, "--virtual", "card=gold")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "card \"gold\"")
	require.NotContains(t, stderr, "--auto-exit", "options are not what is wrong")
	code, _, stderr = call(t, nil, "--auto-exit", "5m")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--auto-exit=5m")
	code, _, stderr = call(t, nil, "stray")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, `"stray" is no option and no command`)
}

func TestVersionSaysWhatThereIs(t *testing.T) {
	for _, option := range []string{"-v", "--version"} {
		code, stdout, _ := call(t, nil, option)
		require.Zero(t, code)
		require.Regexp(t, `^goccidd version \S+\nEnabled features: .*usbip.*\nProtocol: 4:3 to 4:6\nMAX_READERNAME: 128\n$`, stdout)
	}
}

func TestNamesAreMadeAndIgnoredByPCSCDsVariables(t *testing.T) {
	p := &program{environment: environment{getenv: func(name string) string {
		return map[string]string{"PCSCLITE_FILTER_EXTEND_READER_NAMES": " (lab)", "PCSCLITE_FILTER_IGNORE_READER_NAMES": "Yubi Key:(1):"}[name]
	}}}
	p.cli.config = t.TempDir()
	s, err := p.load()
	require.NoError(t, err)
	require.Equal(t, " (lab)", s.Readers.Extension)
	for name, want := range map[string]bool{
		"A Yubi Key 4": true, "Other (1)": true, "Other (11)": false, "Yubi": false, "yubi key": false, "": false,
	} {
		require.Equal(t, want, s.Readers.ignores(name), name)
	}
}

// TestExampleFileSaysTheDefaults reads the file that is installed, with its settings as they are, commented out, and not.
func TestExampleFileSaysTheDefaults(t *testing.T) {
	example, err := os.ReadFile("../../packaging/goccidd.toml")
	require.NoError(t, err)
	s, err := loaded(t, string(example))
	require.NoError(t, err)
	require.Equal(t, defaults(), s, "as installed it changes nothing")

	setting := regexp.MustCompile(`(?m)^#(\[?[a-z-]+(\]| = .*))$`)
	s, err = loaded(t, setting.ReplaceAllString(string(example), "$1"))
	require.NoError(t, err)
	want := defaults()
	want.Readers.Ignored = []string{}
	want.Readers.USBIP, want.Readers.Virtual, want.Access.Users, want.Access.Groups = []target{}, []virtualSpec{}, []string{}, []string{}
	want.PIDFile, want.Status.Socket = want.pidFile(), want.statusSocket()
	s.Limits = want.Limits // whose defaults are the server's
	require.Equal(t, want, s, "what stands there is the default")
}

// TestManualHasEveryOptionAndSetting keeps docs/goccidd.md whole.
func TestManualHasEveryOptionAndSetting(t *testing.T) {
	manual, err := os.ReadFile("../../docs/goccidd.md")
	require.NoError(t, err)
	_, help, _ := call(t, nil, "--help")
	for _, option := range regexp.MustCompile(`--[a-z-]+`).FindAllString(help, -1) {
		assert.Contains(t, string(manual), option)
	}
	example, err := os.ReadFile("../../packaging/goccidd.toml")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^#([a-z-]+) = `).FindAllStringSubmatch(string(example), -1) {
		assert.Contains(t, string(manual), fmt.Sprintf("`%s`", m[1]))
	}
}
