package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/advice"
	"github.com/goccid/goccid/usbtransport"
)

// environment is all that the program has of the world.
type environment struct {
	// stdin is nil where there is none.
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// root has the machine's files from / on: the list of known cards, and what tells why there is no reader.
	root fs.FS
	goos string
	// openUSB opens the backend with the name given by --usb.
	openUSB func(name string, log logrus.FieldLogger) (usbtransport.Backend, error)
}

func osEnvironment() environment {
	return environment{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, root: os.DirFS("/"), goos: runtime.GOOS, openUSB: openUSB,
	}
}

// program is one run.
type program struct {
	environment
	out  *output
	log  *logrus.Logger
	opts options
	// tape is what the readers' transfers are written to, nil for nothing.
	tape *recording
}

// options are the flags that every command has.
type options struct {
	json     bool
	usb      string
	virtual  []string
	usbip    []string
	timeout  time.Duration
	logLevel string
	verbose  int
	// quirksDir has the files of quirks beside those that are built in; "" is none.
	quirksDir string
}

// quirksDir is where an administrator's quirks are.
const quirksDir = "/etc/goccid/quirks.d"

// defaultTimeout is long enough for all that cards do but to make a long RSA key, for which some need minutes.
const defaultTimeout = time.Minute

// run is the program: it does what args say, and returns the exit code.
func run(ctx context.Context, env environment, args []string) exitCode {
	p := &program{environment: env, out: &output{w: env.stdout}, log: logrus.New()}
	p.log.SetOutput(env.stderr)
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetOut(p.out)
	root.SetErr(env.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil || brokenPipe(p.out.err) {
		err = p.out.err
	}
	if err == nil {
		return exitOK
	}
	if p.out.err != nil && !brokenPipe(p.out.err) {
		err = &problem{code: exitFailure, err: p.out.err}
	}
	return report(env.stderr, err)
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "ccid-probe",
		Short: "List, explain and try out CCID smart card readers",
		Long: `ccid-probe lists, explains and tries out CCID smart card readers, with no daemon in between.
Without a command it lists the readers and says what to do next.

` + exitCodes,
		Example: `  ccid-probe list
  ccid-probe describe 0
  ccid-probe atr 3B7A18000073667465206364313434
  ccid-probe apdu --reader gemalto 00A4040007A0000000790100 00B0000000
  ` + advice.TryVirtual,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: p.checkOptions,
		RunE:              p.action(p.overview),
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.BoolVar(&p.opts.json, "json", false, "write JSON for programs")
	flags.StringVar(&p.opts.usb, "usb", "", "use real readers through `BACKEND`: usbfs or libusb (default usbfs; none with --virtual or --usbip)")
	flags.StringArrayVar(&p.opts.usbip, "usbip", nil, "use the readers that a USB/IP server exports, all or that with a bus ID; repeatable.\n`SERVER`: HOST[:PORT][/BUSID], as 192.0.2.7:3240/1-1.2")
	flags.StringArrayVar(&p.opts.virtual, "virtual", nil, "use a virtual reader, as \"reader=gemalto-pc-twin,level=tpdu,slots=1,card=t1\"; repeatable.\n`SPEC`: reader NAME (ccid-probe virtual --list-models),\nlevel character|tpdu|short|extended, slots 1..8, card t0|t1|none|vpcd:HOST:PORT|vpcd-listen:PORT,\nname and serial TEXT, features, message and busy N, pinpad yes|no|verify, keys KEYS")
	flags.DurationVar(&p.opts.timeout, "timeout", defaultTimeout, "longest wait for one step: opening a reader, powering a card, one APDU")
	flags.StringVar(&p.opts.logLevel, "log-level", "warning", "write log messages of this `LEVEL` and above to standard error:\nerror, warning, info, debug, trace (frames, PINs hidden)")
	flags.CountVarP(&p.opts.verbose, "verbose", "v", "one log level more; repeatable")
	flags.StringVar(&p.opts.quirksDir, "quirks-dir", quirksDir, "read quirks of readers from the *.toml files of this `DIRECTORY`, beside those built in")
	root.AddCommand(p.listCommand(), p.describeCommand(), p.atrCommand(), p.apduCommand(), p.demoCommand(), p.virtualCommand(),
		p.recordCommand(), p.replayCommand(), p.explainCommand())
	// -h anywhere shows usage; an unknown flag does not, the message says it all.
	root.SetFlagErrorFunc(flagProblem)
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
				return usage("Commands are listed by: ccid-probe --help", "help: there is no command %q", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// flagProblem says in our words what is wrong with a flag.
func flagProblem(c *cobra.Command, err error) error {
	advice := fmt.Sprintf("Flags are listed by: %s --help", c.CommandPath())
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return usage(advice, "%w", err)
	}
	name, value := invalid.GetFlag().Name, invalid.GetValue()
	switch invalid.GetFlag().Value.Type() {
	case "bool":
		return usage(advice, "--%s: %q: true and false are possible", name, value)
	case "count":
		return usage(advice, "--%s: %q is no number", name, value)
	case "duration":
		return usage(advice, "--%s: %q is no time; give one like 30s", name, value)
	}
	return usage(advice, "--%s: %w", name, invalid.Unwrap())
}

// checkEmpty refuses flags that have to say something but don't. --reader is not among them: that is any reader, for scripts
// that have it in a variable.
func checkEmpty(c *cobra.Command) error {
	var err error
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" && f.Name != "reader" && f.Name != "quirks-dir" {
			err = usage(fmt.Sprintf("Flags are listed by: %s --help", c.CommandPath()), "--%s is empty", f.Name)
		}
	})
	return err
}

// version is the module's version, as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

// noArguments refuses arguments of a command that takes none.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("", "%s takes no arguments, but %q was given", c.Name(), args[0])
	}
	return nil
}

// action makes a command's function from one that needs only a context and the arguments.
func (p *program) action(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		if err := f(c.Context(), args); err != nil {
			return started{err}
		}
		return nil
	}
}

// checkOptions looks at the flags that every command has, before any command runs.
func (p *program) checkOptions(c *cobra.Command, _ []string) error {
	if err := checkEmpty(c); err != nil {
		return err
	}
	level, err := logrus.ParseLevel(p.opts.logLevel)
	if err != nil {
		return usage("Levels are error, warning, info, debug and trace.", "--log-level: %q is no level", p.opts.logLevel)
	}
	p.log.SetLevel(min(level+logrus.Level(p.opts.verbose), logrus.TraceLevel))
	p.log.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableTimestamp: level < logrus.DebugLevel, FullTimestamp: true, TimestampFormat: "15:04:05.000000"})
	if p.opts.timeout <= 0 {
		return usage("", "--timeout: %v is no time to wait; give one like 30s", p.opts.timeout)
	}
	return nil
}

// limits are those of a reader: no step takes longer than the flag says, whatever the command.
func (p *program) limits() host.Limits {
	return host.Limits{Silence: p.opts.timeout, Exchange: p.opts.timeout, KeyGeneration: p.opts.timeout}
}

// step runs f with the time that one step may take.
func (p *program) step(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.timeout)
	defer cancel()
	return f(ctx)
}

func (p *program) machine() advice.Machine { return advice.Machine{GOOS: p.goos, Root: p.root} }

// visible replaces what would move a terminal's cursor: names and serial numbers come from devices.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 {
			return '.'
		}
		return r
	}, s)
}
