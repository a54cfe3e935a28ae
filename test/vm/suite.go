package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccid/goccid/test/vm/figures"
)

// Each package's tests in the guest are bounded; Go's own test timeout comes a little earlier, and prints where they hang.
const (
	suiteTimeout = 9 * time.Minute
	longTimeout  = 15 * time.Minute // for those that pull the reader out 200 times, or have the stock driver do a lot
)

// suite is one package's tests.
type suite struct {
	pkg  string // as the go command takes it: ./usbtransport/usbfs
	tags string // build tags; cgo is off without
	// programs are those of cmd that the tests run, built without cgo and with libusb.
	programs []string
	// outside says that the tests run on this machine, while their guest exports its reader over USB/IP.
	outside bool
	// guest tells which suites run in the same guest, one after the other. Guests run at the same time: those tests
	// mostly wait for USB's own delays.
	guest int
	// measures: the tests measure times. Their guests run first, and the others once those have ended.
	measures bool
	timeout  time.Duration
}

// suites are the packages that have tests for the guest.
func suites() []suite {
	return []suite{
		{pkg: "./usbtransport/usbfs", guest: 1, timeout: suiteTimeout},
		{pkg: "./usbtransport/libusb", tags: "libusb", guest: 1, timeout: suiteTimeout},
		{pkg: "./test/vm/guest", programs: []string{"ccid-probe"}, guest: 1, timeout: suiteTimeout},
		{pkg: "./test/vm/outside", outside: true, guest: 1, timeout: suiteTimeout},
		{pkg: "./test/vm/removal", tags: "libusb", guest: 2, measures: true, timeout: longTimeout},
		{pkg: "./test/vm/loopback", tags: "libusb", guest: 4, timeout: suiteTimeout},
		{pkg: "./test/vm/cross", guest: 4, timeout: longTimeout},
		{pkg: "./test/vm/stock", programs: []string{"goccidd"}, guest: 3, measures: true, timeout: longTimeout},
	}
}

// name is the suite's in file names and in the summary.
func (s suite) name() string { return strings.ReplaceAll(strings.TrimPrefix(s.pkg, "./"), "/", "-") }

// selectSuites returns the suites of the named packages, or all.
func selectSuites(packages []string) ([]suite, error) {
	if len(packages) == 0 {
		return suites(), nil
	}
	var selected []suite
	for _, pkg := range packages {
		pkg = "./" + path.Clean(pkg)
		i := slices.IndexFunc(suites(), func(s suite) bool { return s.pkg == pkg })
		if i < 0 {
			return nil, fmt.Errorf("%s has no tests for the VM, or suite.go doesn't list it", pkg)
		}
		selected = append(selected, suites()[i])
	}
	return selected, nil
}

// build compiles the suites into the share and returns the script that runs them in the guest.
func (l *lab) build(ctx context.Context, selected []suite, opts options) (script string, err error) {
	bin := filepath.Join(l.share, "bin")
	lines := []string{
		"cp -r /run/vm/bin /run/bin", // programs start ten times slower from the share, which isn't cached
	}
	for _, program := range programs(selected) {
		if err := l.goTool(ctx, "", "build", "-o", filepath.Join(bin, program), "./cmd/"+program); err != nil {
			return "", err
		}
		if err := l.goTool(ctx, "libusb", "build", "-o", filepath.Join(bin, program+"-libusb"), "./cmd/"+program); err != nil {
			return "", err
		}
		variable := "GOCCID_VM_" + strings.ToUpper(strings.ReplaceAll(program, "-", "_"))
		lines = append(lines, fmt.Sprintf("export %s=/run/bin/%s %[1]s_LIBUSB=/run/bin/%[2]s-libusb", variable, program))
	}
	for _, s := range selected {
		args := []string{"test", "-c", "-o", filepath.Join(bin, s.name()+".test")}
		if opts.race {
			args = append(args, "-race")
		}
		if err := l.goTool(ctx, s.tags, append(args, s.pkg)...); err != nil {
			return "", err
		}
		if s.outside {
			lines = append(lines, s.exportScript())
		} else {
			lines = append(lines, l.suiteScript(s, opts.run))
		}
	}
	return strings.Join(lines, "\n"), nil
}

// programs are those that some of the suites run.
func programs(selected []suite) []string {
	var all []string
	for _, s := range selected {
		all = append(all, s.programs...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// suiteScript is the part of the guest's script that runs one suite. It leaves what the tests print, and their exit
// status, in the share.
func (l *lab) suiteScript(s suite, pattern string) string {
	return fmt.Sprintf("echo '== %s'\n(cd %s && timeout --signal=KILL %d /run/bin/%s.test %s) 2>&1 | tee %s\necho ${PIPESTATUS[0]} >%s",
		s.pkg, quote(filepath.Join(l.repository, s.pkg)), int(s.killed().Seconds()), s.name(), quoteAll(s.testFlags(pattern)),
		"/run/vm/"+s.name()+".out", "/run/vm/"+s.name()+".status")
}

// killed is when a suite that does not end by itself is killed.
func (s suite) killed() time.Duration { return s.timeout + 20*time.Second }

// testFlags are the arguments of the suite's test program.
func (s suite) testFlags(pattern string) []string {
	return []string{"-test.v", "-test.timeout", s.timeout.String(), "-test.run", pattern}
}

func quoteAll(words []string) string {
	text := ""
	for _, word := range words {
		text += " " + quote(word)
	}
	return text
}

// goTool runs the go command in the module's folder. Without build tags, cgo is off, as in the project's own builds.
func (l *lab) goTool(ctx context.Context, tags string, args ...string) error {
	note("go %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, "go", slices.Insert(slices.Clone(args), 1, "-tags="+tags)...)
	cmd.Dir = l.repository
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cgo := "0"
	if tags != "" || slices.Contains(args, "-race") {
		cgo = "1"
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

// quote makes one word of the shell of any text.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// tally is what became of one suite's tests. Tests that consist of subtests count as those.
type tally struct {
	passed          int
	failed, skipped []string
}

// resultLine matches what `go test -v` prints when a test has ended.
var resultLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)

// count reads what a test binary printed, and its exit status.
func count(printed string, status int) tally {
	results := map[string]string{}
	for line := range strings.Lines(printed) {
		if match := resultLine.FindStringSubmatch(line); match != nil {
			results[match[2]] = match[1]
		}
	}

	var t tally
	for _, name := range slices.Sorted(maps.Keys(results)) {
		below := func(result string) bool {
			for other, r := range results {
				if strings.HasPrefix(other, name+"/") && (result == "" || r == result) {
					return true
				}
			}
			return false
		}
		switch {
		case results[name] == "FAIL" && !below("FAIL"):
			t.failed = append(t.failed, name)
		case below(""):
		case results[name] == "PASS":
			t.passed++
		case results[name] == "SKIP":
			t.skipped = append(t.skipped, name)
		}
	}
	if status != 0 && len(t.failed) == 0 {
		t.failed = append(t.failed, fmt.Sprintf("the test program ended with status %d", status))
	}
	if t.passed == 0 && len(t.failed) == 0 {
		t.failed = append(t.failed, "no test ran")
	}
	return t
}

// summarize prints what became of each suite, and returns the exit code. The last line is "N passed, N failed".
func summarize(guests []guest, out io.Writer) (int, error) {
	if err := compare(guests, out); err != nil {
		return 0, err
	}
	passed, failed := 0, 0
	fmt.Fprintln(out, "\n== summary")
	for _, g := range guests {
		for _, s := range g.suites {
			t, err := g.tally(s)
			if err != nil {
				return 0, err
			}
			passed += t.passed
			failed += len(t.failed)
			fmt.Fprintf(out, "%-24s %4d passed %4d failed %4d skipped\n", s.pkg, t.passed, len(t.failed), len(t.skipped))
			for _, name := range t.failed {
				fmt.Fprintf(out, "    failed:  %s\n", name)
			}
			for _, name := range t.skipped {
				fmt.Fprintf(out, "    skipped: %s\n", name)
			}
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return exitFailed, nil
	}
	return exitPassed, nil
}

// compare prints what the guests' tests have measured, side by side.
func compare(guests []guest, out io.Writer) error {
	var all []figures.Figures
	for _, g := range guests {
		list, err := figures.Load(g.share)
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	if len(all) > 0 {
		figures.Print(out, all)
	}
	return nil
}

func (l *lab) tally(s suite) (tally, error) {
	printed, err := os.ReadFile(filepath.Join(l.share, s.name()+".out"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return tally{}, err
	}
	text, err := os.ReadFile(filepath.Join(l.share, s.name()+".status"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return tally{}, err
	}
	status, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		status = -1 // the guest didn't come to write it
	}
	return count(string(printed), status), nil
}
