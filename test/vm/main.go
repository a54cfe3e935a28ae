// Command vm boots this machine's own files in a QEMU virtual machine that has a USB smart card reader (QEMU's usb-ccid
// with an emulated CAC card), and runs tests in there: the kernel's USB stack is real, the reader was written by others.
// README.md tells how to use it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// The exit codes.
const (
	exitPassed  = 0
	exitFailed  = 1  // a test failed, none ran, or the machine didn't work
	exitUsage   = 2  // wrong command line
	exitSkipped = 77 // this machine can't run the VM (never with CI=true: that is a failure there)
)

const usage = `Usage: test/vm/run [flags] [PACKAGE...]        run the packages' VM tests (default: all that have some)
       test/vm/run [flags] exec COMMAND [ARG...] run a shell command in the guest
       test/vm/run [flags] record                record both drivers driving QEMU's reader and virtual ones, into testdata/traces

Exit codes: 0 passed; 1 failed, or nothing ran; 2 wrong usage; 77 skipped: the VM can't run on this machine.

Flags:
`

type options struct {
	run     string
	race    bool
	keep    bool
	timeout time.Duration
}

func main() {
	os.Exit(start(os.Args[1:]))
}

func start(args []string) int {
	var opts options
	flags := flag.NewFlagSet("test/vm/run", flag.ContinueOnError)
	flags.StringVar(&opts.run, "run", "^TestVM", "run only the tests that match this `pattern`")
	flags.BoolVar(&opts.race, "race", false, "build the tests with the race detector (they run several times slower)")
	flags.BoolVar(&opts.keep, "keep", false, "keep the folder with what the guest wrote, and print its name")
	flags.DurationVar(&opts.timeout, "timeout", 45*time.Minute, "give up after this `time`")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitPassed
		}
		return exitUsage
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, opts.timeout, fmt.Errorf("not finished after %s", opts.timeout))
	defer cancel()

	code, err := work(ctx, opts, flags.Args())
	if err == nil {
		return code
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	summary := io.Writer(os.Stdout)
	if arg := flags.Arg(0); arg == "exec" || arg == "record" {
		summary = io.Discard
	}
	var missing *missingError
	if errors.As(err, &missing) && ctx.Err() == nil && os.Getenv("CI") != "true" {
		note("SKIPPED, nothing was tested: %v", err)
		fmt.Fprintln(summary, "0 passed, 0 failed, all skipped: the VM can't run here")
		return exitSkipped
	}
	note("%v", err)
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	fmt.Fprintln(summary, "0 passed, 1 failed")
	return exitFailed
}

// errUsage marks errors that are the command line's.
var errUsage = errors.New("see --help")

// work prepares the machine and does in it what the arguments say.
func work(ctx context.Context, opts options, args []string) (int, error) {
	do, err := choose(opts, args)
	if err != nil {
		return 0, err
	}
	l, err := prepare(ctx)
	if err != nil {
		return 0, err
	}
	if opts.keep {
		note("keeping %s", l.dir)
	} else {
		defer func() { _ = os.RemoveAll(l.dir) }()
	}
	return do(ctx, l)
}

// choose returns what the arguments ask for; it returns an exit code.
func choose(opts options, args []string) (func(context.Context, *lab) (int, error), error) {
	switch {
	case len(args) > 1 && args[0] == "exec":
		return func(ctx context.Context, l *lab) (int, error) {
			return l.boot(ctx, strings.Join(args[1:], " "), os.Stdout)
		}, nil
	case len(args) == 1 && args[0] == "record":
		return func(ctx context.Context, l *lab) (int, error) { return l.record(ctx) }, nil
	}
	selected, err := selectSuites(args)
	if err != nil {
		return nil, fmt.Errorf("%w; %w", err, errUsage)
	}
	return func(ctx context.Context, l *lab) (int, error) { return l.test(ctx, opts, selected, os.Stdout) }, nil
}

// note tells the user what is going on.
func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "test/vm: "+format+"\n", args...)
}
