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
       test/vm/run [flags] record                record pcscd + libccid driving the reader, into testdata/traces

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
	flags.DurationVar(&opts.timeout, "timeout", 10*time.Minute, "give up after this `time`")
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
	var missing *missingError
	if errors.As(err, &missing) && os.Getenv("CI") != "true" {
		fmt.Fprintf(os.Stderr, "test/vm: SKIPPED, nothing was tested: %v\n", err)
		fmt.Println("0 passed, 0 failed, all skipped: the VM can't run here")
		return exitSkipped
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	fmt.Fprintf(os.Stderr, "test/vm: %v\n", err)
	fmt.Println("0 passed, 1 failed")
	return exitFailed
}

// work prepares the machine and does in it what the arguments say.
func work(ctx context.Context, opts options, args []string) (code int, err error) {
	lab, err := prepare(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		if opts.keep {
			note("kept %s", lab.dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(lab.dir))
	}()

	switch {
	case len(args) > 0 && args[0] == "exec":
		return lab.boot(ctx, strings.Join(args[1:], " "), os.Stdout)
	case len(args) > 0 && args[0] == "record":
		return lab.record(ctx)
	}
	return lab.test(ctx, opts, args, os.Stdout)
}

// note tells the user what is going on.
func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "test/vm: "+format+"\n", args...)
}

// test builds the packages' tests, runs them in the guest and writes the summary to out.
func (l *lab) test(ctx context.Context, opts options, packages []string, out io.Writer) (int, error) {
	suites, err := selectSuites(packages)
	if err != nil {
		return 0, err
	}
	script, err := l.build(ctx, suites, opts)
	if err != nil {
		return 0, err
	}
	if _, err := l.boot(ctx, script, out); err != nil {
		return 0, err
	}
	return l.summarize(suites, out)
}
