//go:build unix

package main

import (
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport/usbip"
	"github.com/goccid/goccid/virtual"
)

// Paths of an installed daemon.
const (
	defaultConfig    = "/etc/goccid/goccidd.toml"
	defaultSocket    = "/run/pcscd/pcscd.comm"
	defaultQuirksDir = "/etc/goccid/quirks.d"
)

// settings are everything that the configuration file and the command line say, the command line last.
type settings struct {
	Socket   string   `toml:"socket"`
	PIDFile  string   `toml:"pid-file"`
	AutoExit duration `toml:"auto-exit"`
	Sandbox  bool     `toml:"sandbox"`

	Readers readerSettings `toml:"readers"`
	Limits  limitSettings  `toml:"limits"`
	Access  accessSettings `toml:"access"`
	Log     logSettings    `toml:"log"`
	Status  statusSettings `toml:"status"`
	Metrics metricSettings `toml:"metrics"`
}

// readerSettings say which readers there are and how they are treated.
type readerSettings struct {
	USB           usbBackend    `toml:"usb"`
	USBIP         []target      `toml:"usbip"`
	Virtual       []virtualSpec `toml:"virtual"`
	Control       string        `toml:"virtual-control"`
	SerialName    bool          `toml:"serial-in-name"`
	InterfaceName bool          `toml:"interface-in-name"`
	Extension     string        `toml:"name-extension"`
	Ignored       []string      `toml:"ignore-names"`
	QuirksDir     string        `toml:"quirks-dir"`
	PowerOff      duration      `toml:"power-off-after"`
	Escape        bool          `toml:"allow-escape"`
}

// limitSettings bound what clients can hold.
type limitSettings struct {
	Connections        count `toml:"connections"`
	ConnectionsPerUser count `toml:"connections-per-user"`
	RequestsPerSecond  count `toml:"requests-per-second"`
	HandlesPerClient   count `toml:"handles-per-client"`
	HandlesPerReader   count `toml:"handles-per-reader"`
}

// accessSettings say who may be a client.
type accessSettings struct {
	Polkit bool     `toml:"polkit"`
	Users  []string `toml:"users"`
	Groups []string `toml:"groups"`
}

// logSettings say what is logged, and how.
type logSettings struct {
	Level  logLevel  `toml:"level"`
	Format logFormat `toml:"format"`
	APDU   bool      `toml:"apdu"`
	Color  bool      `toml:"color"`
}

// statusSettings are about the socket for "goccidd status".
type statusSettings struct {
	Socket string `toml:"socket"`
}

// metricSettings are about figures for Prometheus.
type metricSettings struct {
	Listen metricsAddress `toml:"listen"`
	Remote bool           `toml:"allow-remote"`
}

// defaults are the settings of an empty file and command line.
func defaults() settings {
	return settings{
		Socket:  defaultSocket,
		Sandbox: true,
		Readers: readerSettings{
			USB: usbBackend{defaultUSB()}, SerialName: true, InterfaceName: true, QuirksDir: defaultQuirksDir, PowerOff: duration{5 * time.Second},
		},
		Access: accessSettings{Polkit: true},
		Log:    logSettings{Level: logLevel{logrus.InfoLevel}, Format: logFormat{"text"}},
	}
}

func defaultUSB() string {
	if runtime.GOOS == "linux" {
		return "usbfs"
	}
	return "libusb"
}

// pidFile is where the pid file is: beside the socket, where nothing else is said, as pcscd has it.
func (s *settings) pidFile() string { return orBeside(s.PIDFile, s.Socket, ".pid") }

// statusSocket is where "goccidd status" asks: beside the socket, where nothing else is said.
func (s *settings) statusSocket() string { return orBeside(s.Status.Socket, s.Socket, ".status") }

func orBeside(path, socket, extension string) string {
	if path != "" {
		return path
	}
	return strings.TrimSuffix(socket, filepath.Ext(socket)) + extension
}

// maxSocketPath is what fits into sun_path with its NUL on every system.
const maxSocketPath = 103

// settingError is what is wrong with a setting that can be read.
type settingError struct {
	setting string // as the file has it, "readers.quirks-dir"
	where   string // what place knows in addition
	option  bool   // where has the option that says what is wrong, whatever the setting is called
	err     error
}

// Error returns "file:line: setting: what is wrong", or "--option: what is wrong".
func (e *settingError) Error() string {
	text := e.err.Error()
	if !e.option {
		text = e.setting + ": " + text
	}
	if e.where != "" {
		text = e.where + ": " + text
	}
	return text
}
func (e *settingError) Unwrap() error { return e.err }

func wrong(setting, format string, args ...any) error {
	return &settingError{setting: setting, err: fmt.Errorf(format, args...)}
}

// check finds what no single setting can know.
func (s *settings) check() error {
	if s.Socket == "" {
		return wrong("socket", "a path is needed")
	}
	if err := s.checkPaths(); err != nil {
		return err
	}
	if s.Metrics.Listen.set() && !s.Metrics.Remote && !s.Metrics.Listen.local() {
		return wrong("metrics.listen", "%s can be reached from other machines: listen on unix:PATH or a loopback address like 127.0.0.1:9517, "+
			"or set allow-remote = true in [metrics] if that is wanted", s.Metrics.Listen.text)
	}
	return nil
}

// checkPaths finds paths that can't be, and those that two files would have.
func (s *settings) checkPaths() error {
	files := []struct{ setting, path string }{
		{"socket", s.Socket}, {"status.socket", s.statusSocket()}, {"pid-file", s.pidFile()}, {"readers.virtual-control", s.Readers.Control},
	}
	if network, path := s.Metrics.Listen.network(); network == "unix" {
		files = append(files, struct{ setting, path string }{"metrics.listen", path})
	}
	taken := map[string]string{}
	for _, file := range files {
		if file.path == "" {
			continue
		}
		path := filepath.Clean(file.path)
		switch {
		case !filepath.IsAbs(path):
			return wrong(file.setting, "%q has to be a path that begins with /", file.path)
		case file.setting != "pid-file" && len(file.path) > maxSocketPath:
			return wrong(file.setting, "%q is too long for a socket, which may have %d bytes", file.path, maxSocketPath)
		case taken[path] != "":
			return wrong(file.setting, "%q is the path of %s, too", file.path, taken[path])
		}
		taken[path] = file.setting
	}
	return nil
}

// changed returns the names of the settings in which two structs of them differ.
func changed(before, now reflect.Value, table string) (names []string) {
	for i := range before.NumField() {
		field, a, b := before.Type().Field(i), before.Field(i), now.Field(i)
		name := table + field.Tag.Get("toml")
		if field.Type.Kind() == reflect.Struct && field.Type.Field(0).Tag.Get("toml") != "" {
			names = append(names, changed(a, b, name+".")...)
		} else if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			names = append(names, name)
		}
	}
	return names
}

// What follows are the types of settings. They are structs so that the TOML decoder gives each value, of whatever TOML type,
// to UnmarshalText, and knows its place if that finds it wrong.

// placed is an error of UnmarshalText that the decoder finds the place of, by the bytes: by itself it does so for strings only.
func placed(text []byte, err error) error {
	if err == nil {
		return nil
	}
	return unstable.NewParserError(text, "%w", err)
}

// duration is a time.Duration as files and flags have it: "90s", or a number of seconds.
type duration struct{ time.Duration }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error { return placed(text, d.Set(string(text))) }

// Set implements pflag.Value.
func (d *duration) Set(text string) error {
	if strings.Trim(text, "0123456789") == "" && text != "" {
		text += "s"
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no time: write it like 90s, 5m or 0s", text)
	}
	d.Duration = v
	return nil
}

// Type implements pflag.Value.
func (d *duration) Type() string { return "TIME" }

// count is a number from 1 to 100000; 0 is the default.
type count struct{ n int }

const maxCount = 100000

// Set implements pflag.Value.
func (c *count) Set(text string) error {
	var n int
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil || fmt.Sprint(n) != text || n < 1 || n > maxCount {
		return fmt.Errorf("%q: a number from 1 to %d is needed", text, maxCount)
	}
	c.n = n
	return nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *count) UnmarshalText(text []byte) error { return placed(text, c.Set(string(text))) }

func (c *count) String() string { return fmt.Sprint(c.n) }

// Type implements pflag.Value.
func (c *count) Type() string { return "N" }

// usbBackend is "usbfs", "libusb" or "none".
type usbBackend struct{ name string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *usbBackend) UnmarshalText(text []byte) error { return placed(text, u.Set(string(text))) }

// Set implements pflag.Value.
func (u *usbBackend) Set(text string) error {
	switch text {
	case "usbfs", "libusb", "none":
		u.name = text
		return nil
	}
	return fmt.Errorf("%q: usbfs, libusb and none are possible", text)
}

func (u *usbBackend) String() string { return u.name }

// Type implements pflag.Value.
func (u *usbBackend) Type() string { return "BACKEND" }

// logLevel is a logrus level by pcscd's names and logrus' own.
type logLevel struct{ logrus.Level }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *logLevel) UnmarshalText(text []byte) error { return placed(text, l.Set(string(text))) }

// Set implements pflag.Value.
func (l *logLevel) Set(text string) error {
	switch text {
	case "critical":
		l.Level = logrus.FatalLevel
		return nil
	case "error", "warning", "info", "debug", "trace":
		level, err := logrus.ParseLevel(text)
		l.Level = level
		return err
	}
	return fmt.Errorf("%q: critical, error, warning, info, debug and trace are possible", text)
}

func (l *logLevel) String() string {
	if l.Level == logrus.FatalLevel {
		return "critical"
	}
	return l.Level.String()
}

// Type implements pflag.Value.
func (l *logLevel) Type() string { return "LEVEL" }

// logFormat is "text" or "json".
type logFormat struct{ name string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *logFormat) UnmarshalText(text []byte) error { return placed(text, f.Set(string(text))) }

// Set implements pflag.Value.
func (f *logFormat) Set(text string) error {
	if text != "text" && text != "json" {
		return fmt.Errorf("%q: text and json are possible", text)
	}
	f.name = text
	return nil
}

func (f *logFormat) String() string { return f.name }

// Type implements pflag.Value.
func (f *logFormat) Type() string { return "FORMAT" }

// target is a USB/IP server, HOST:PORT[/BUSID].
type target struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *target) UnmarshalText(text []byte) error {
	if _, _, err := usbip.ParseTarget(string(text)); err != nil {
		return placed(text, err)
	}
	t.text = string(text)
	return nil
}

// virtualSpec is a virtual reader, as virtual.ParseSpec takes it.
type virtualSpec struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *virtualSpec) UnmarshalText(text []byte) error {
	if _, err := virtual.ParseSpec(string(text)); err != nil {
		return placed(text, err)
	}
	v.text = string(text)
	return nil
}

// list is a repeatable flag of texts that are checked. The first use of the flag takes the place of what the file says.
type list[T any, P interface {
	*T
	UnmarshalText(text []byte) error
}] struct {
	values *[]T
	what   string
	set    bool
}

// Set implements pflag.Value.
func (l *list[T, P]) Set(text string) error {
	var v T
	if err := P(&v).UnmarshalText([]byte(text)); err != nil {
		return err
	}
	if !l.set {
		*l.values, l.set = nil, true
	}
	*l.values = append(*l.values, v)
	return nil
}

func (l *list[T, P]) String() string { return "" }

// Type implements pflag.Value.
func (l *list[T, P]) Type() string { return l.what }

// metricsAddress is unix:PATH or HOST:PORT; empty is none.
type metricsAddress struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *metricsAddress) UnmarshalText(text []byte) error { return placed(text, a.Set(string(text))) }

// Set implements pflag.Value.
func (a *metricsAddress) Set(text string) error {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if !filepath.IsAbs(path) || len(path) > maxSocketPath {
			return fmt.Errorf("%q: unix: needs a path behind it that begins with / and has at most %d bytes", text, maxSocketPath)
		}
	} else if _, _, err := net.SplitHostPort(text); err != nil && text != "" {
		return fmt.Errorf("%q: unix:PATH or HOST:PORT is needed", text)
	}
	a.text = text
	return nil
}

func (a *metricsAddress) String() string { return a.text }

// set tells whether there is an address.
func (a metricsAddress) set() bool { return a.text != "" }

// Type implements pflag.Value.
func (a *metricsAddress) Type() string { return "ADDRESS" }

// network splits the address for net.Listen.
func (a metricsAddress) network() (network, address string) {
	if path, ok := strings.CutPrefix(a.text, "unix:"); ok {
		return "unix", path
	}
	return "tcp", a.text
}

// local tells whether only this machine can reach the address.
func (a metricsAddress) local() bool {
	network, address := a.network()
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return network == "unix" || err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
