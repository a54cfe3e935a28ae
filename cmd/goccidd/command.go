//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/goccid/goccid/pcscd/wire"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// environment is what the program has of the world beside files and sockets.
type environment struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	// crowd is pcscd.ServerOptions.Crowd.
	crowd func(crowded bool)
	// defaultConfig is the configuration file where --config names none.
	defaultConfig string
}

func osEnvironment() environment {
	return environment{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, defaultConfig: defaultConfig}
}

// invocation is what stands on the command line and has no place in a configuration file.
type invocation struct {
	foreground bool
	hotplug    bool
	version    bool
	config     string
}

// bind defines the options.
func (i *invocation) bind(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.BoolVarP(&i.foreground, "foreground", "f", false, "stay in the foreground, log to standard error")
	flags.StringVarP(&i.config, "config", "c", "", "configuration `FILE` (default "+defaultConfig+", which may be missing)")
	flags.BoolVarP(&i.hotplug, "hotplug", "H", false, "have the running daemon look for readers anew, and exit")
	flags.BoolVarP(&i.version, "version", "v", false, "print version and features, and exit")
}

// program is one run.
type program struct {
	environment
	args   []string
	cli    invocation
	code   int
	source source // of the settings that were loaded last
}

// run does what args say, and returns the exit code.
func run(ctx context.Context, env environment, args []string) int {
	out := &output{w: env.stdout}
	env.stdout = out
	p := &program{environment: env, args: args}
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	if err := out.result(root.ExecuteContext(ctx)); err != nil {
		return p.report(err)
	}
	return p.code
}

// usageError is an error of the command line or the configuration.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// loggedError is an error that the log has told of.
type loggedError struct{ err error }

func (e *loggedError) Error() string { return e.err.Error() }
func (e *loggedError) Unwrap() error { return e.err }

// report tells of an error, once, and returns the exit code.
func (p *program) report(err error) int {
	var u *usageError
	code := exitFailure
	if errors.As(err, &u) {
		code = exitUsage
	}
	var logged *loggedError
	if errors.As(err, &logged) {
		return code
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(p.stderr, "goccidd: %s\n", strings.TrimRight(line, "\n"))
	}
	return code
}

const longHelp = `goccidd serves smart card readers to programs that use PC/SC: they take it for pcscd.

Every option has a place in the configuration file, too; options win over the file. Those of pcscd are understood
with their meaning, so that its $PCSCD_ARGS can stay as they are. docs/goccidd.md is the manual.

Without --foreground goccidd returns when it is ready to serve, and works on in the background; its log goes to
syslog then. Started by systemd's socket it stays in the foreground.

Signals: TERM and INT end it in order (clients are told, cards lose power), HUP reads the configuration anew, USR1
looks for readers anew.`

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "goccidd [flags]",
		Short: "PC/SC daemon",
		Long:  longHelp,
		Example: `  goccidd --foreground
  goccidd --foreground --socket /tmp/pcscd.comm --usb none --virtual reader=gemalto-pc-twin,card=t1 --disable-polkit
  PCSCLITE_CSOCK_NAME=/tmp/pcscd.comm pcsc_scan
  goccidd status`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              noArguments,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:              func(c *cobra.Command, _ []string) error { return p.start(c.Context()) },
	}
	p.cli.bind(root.Flags())
	// These settings are never used: load parses the options once more, over those of the file.
	forHelp := defaults()
	bindSettings(root.Flags(), &forHelp)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(p.statusCommand())
	root.SetHelpCommand(helpCommand())
	return root
}

// helpCommand is cobra's, but that it fails for a command that there is not.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usage("help: there is no command %q; goccidd --help lists them", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !c.HasParent() && new(duration).Set(args[0]) == nil {
		return usage("%q stands alone; a time for --auto-exit needs the sign: --auto-exit=%s", args[0], args[0])
	}
	return usage("%q is no option and no command; %s --help lists them", args[0], c.CommandPath())
}

// flagError adds what there is to an error about what there is not.
func flagError(c *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) && errors.Is(err, strconv.ErrSyntax) && invalid.GetFlag().Value.Type() == "bool" {
		return usage("--%s: %q: true and false are possible", invalid.GetFlag().Name, invalid.GetValue())
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return &usageError{err}
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + " " + name
		}
		names = append(names, name)
	})
	slices.Sort(names)
	return usage("%w\nThere are: %s\n%s --help says what they do", err, strings.Join(names, ", "), c.CommandPath())
}

// bindSettings defines the options that have a place in the configuration file. Each option's default is what the settings say.
func bindSettings(flags *pflag.FlagSet, s *settings) {
	flags.SortFlags = false
	flags.StringVar(&s.Socket, "socket", s.Socket, "serve clients at this `PATH`; PCSCLITE_CSOCK_NAME tells them")
	flags.VarP(&s.AutoExit, "auto-exit", "x", "exit after this time without a client, 60s where none is given (default never)")
	flags.Lookup("auto-exit").NoOptDefVal = "60s"
	flags.Var(&s.Readers.USB, "usb", "use the machine's readers through usbfs, libusb, or not (none)")
	flags.Var(&list[target, *target]{values: &s.Readers.USBIP, what: "HOST:PORT[/BUSID]"}, "usbip", "use the readers of this USB/IP server, too; repeatable")
	flags.Var(&list[virtualSpec, *virtualSpec]{values: &s.Readers.Virtual, what: "SPEC"}, "virtual", "plug in a virtual reader, as \"reader=gemalto-pc-twin,card=t1\"; repeatable")
	flags.StringVar(&s.Readers.Control, "virtual-control", s.Readers.Control, "take requests to the virtual readers at this socket's `PATH`: insert, remove, unplug, plug")
	flags.Var(negated{&s.Access.Polkit}, "disable-polkit", "do not ask polkit whether a client may, see [access]")
	flags.Var(&s.Metrics.Listen, "metrics", "serve figures for Prometheus at unix:PATH or 127.0.0.1:PORT")
	flags.Var(negated{&s.Sandbox}, "disable-sandbox", "leave out Landlock")

	flags.Var(&s.Log.Level, "log-level", "critical, error, warning, info, debug or trace (frames, PINs hidden)")
	flags.Var(&s.Log.Format, "log-format", "text or json")
	flags.BoolVarP(&s.Log.APDU, "apdu", "a", s.Log.APDU, "log APDUs, with PINs hidden, whatever the level")
	flags.BoolVarP(&s.Log.Color, "color", "T", s.Log.Color, "log in colours")
	for _, level := range []struct{ name, short string }{{"debug", "d"}, {"info", "i"}, {"error", "e"}, {"critical", "C"}} {
		flags.VarP(levelFlag{&s.Log.Level, level.name}, level.name, level.short, "--log-level "+level.name)
	}

	flags.VarP(&s.Limits.Connections, "max-thread", "t", "most clients at a time")
	flags.VarP(&s.Limits.HandlesPerClient, "max-card-handle-per-thread", "s", "most card handles of one client")
	flags.VarP(&s.Limits.HandlesPerReader, "max-card-handle-per-reader", "r", "most card handles on one reader")
	flags.VarP(negated{&s.Readers.SerialName}, "reader-name-no-serial", "S", "leave the serial number out of readers' names")
	flags.VarP(negated{&s.Readers.InterfaceName}, "reader-name-no-interface", "I", "leave the interface out of readers' names")

	flags.Var(new(ignored), "force-reader-polling", "accepted for pcscd's sake")
	flags.VisitAll(func(f *pflag.Flag) {
		switch f.Value.(type) {
		case negated, levelFlag:
			f.NoOptDefVal, f.DefValue = "true", ""
		case *ignored:
			f.NoOptDefVal, f.Hidden = "1", true
		case *count, *metricsAddress, *duration:
			f.DefValue = ""
		}
	})
}

// loadFile puts a configuration file over settings; the default one, which may be missing, for "".
func (p *program) loadFile(file string, s *settings) error {
	data, err := readSettings(file)
	if err == nil && data == nil {
		file = p.defaultConfig
		if data, err = readRegular(file); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return usage("configuration: %w", err)
	}
	p.source.file, p.source.data = file, data
	if err := decodeConfig(file, data, s); err != nil {
		return &usageError{err}
	}
	return nil
}

// load returns the settings of the configuration file and the command line. It is called anew for each reload.
func (p *program) load() (settings, error) {
	s := defaults()
	p.source = source{}
	s.Readers.Extension = p.getenv("PCSCLITE_FILTER_EXTEND_READER_NAMES")
	if names := p.getenv("PCSCLITE_FILTER_IGNORE_READER_NAMES"); names != "" {
		s.Readers.Ignored = strings.Split(names, ":")
	}
	if err := p.loadFile(p.cli.config, &s); err != nil {
		return s, err
	}
	flags := pflag.NewFlagSet("goccidd", pflag.ContinueOnError)
	new(invocation).bind(flags)
	bindSettings(flags, &s)
	if err := flags.Parse(p.args); err != nil {
		return s, &usageError{err}
	}
	p.source.options = flags
	if err := s.check(); err != nil {
		return s, p.place(&usageError{err})
	}
	return s, nil
}

// negated is an option that switches something off.
type negated struct{ b *bool }

// Set implements pflag.Value.
func (n negated) Set(text string) error {
	switch text {
	case "true", "1":
		*n.b = false
	case "false", "0":
		*n.b = true
	default:
		return fmt.Errorf("%q: true and false are possible", text)
	}
	return nil
}

func (n negated) String() string { return fmt.Sprint(n.b != nil && !*n.b) }

// Type implements pflag.Value.
func (n negated) Type() string { return "bool" }

// IsBoolFlag has pflag show no value in the usage.
func (n negated) IsBoolFlag() bool { return true }

// levelFlag is an option that stands for a log level.
type levelFlag struct {
	level *logLevel
	name  string
}

// Set implements pflag.Value.
func (l levelFlag) Set(string) error { return l.level.Set(l.name) }

func (l levelFlag) String() string { return "false" }

// Type implements pflag.Value.
func (l levelFlag) Type() string { return "bool" }

// ignored is an option of pcscd's that means nothing here.
type ignored struct{}

// Set implements pflag.Value.
func (*ignored) Set(string) error { return nil }

func (*ignored) String() string { return "" }

// Type implements pflag.Value.
func (*ignored) Type() string { return "seconds" }

// printVersion writes what pcscd -v does, in our own way: the first line is for people, the second for scripts.
func (p *program) printVersion() error {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	_, err := fmt.Fprintf(p.stdout, `goccidd version %s
Enabled features: %s
Protocol: %d:%d to %d:%d
MAX_READERNAME: %d
`, version, strings.Join(features(), " "), wire.MajorVersion, wire.Minor3, wire.MajorVersion, wire.Minor6, wire.MaxReaderName)
	return err
}

// start does what the options ask for.
func (p *program) start(ctx context.Context) error {
	if p.cli.version {
		return p.printVersion()
	}
	// The file is read again on SIGHUP, from another folder.
	if p.cli.config != "" {
		var err error
		if p.cli.config, err = filepath.Abs(p.cli.config); err != nil {
			return err
		}
	}
	s, err := p.load()
	if err != nil {
		return err
	}
	switch {
	case p.cli.hotplug:
		return rescanRunning(s.pidFile())
	case !p.cli.foreground && !p.isChild() && !activated(p.getenv):
		return p.background()
	}
	return p.serve(ctx, s)
}
