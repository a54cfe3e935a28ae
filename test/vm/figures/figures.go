// Package figures is what the tests in the guests measure of a reader's coming and going, and the table in which the host
// shows one driver stack next to the other.
package figures

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Removals is how often each stack has the reader pulled out under it.
const Removals = 200

// Reference is the stack that the others are compared with.
const Reference = "pcscd + libccid"

// Folder is where the guest's tests leave their figures; the host finds them in the share.
const Folder = "/run/vm"

// Figures are those of one stack.
type Figures struct {
	Stack string
	// Removals is how often the reader was pulled out while a client worked.
	Removals int
	// Lines counts the log lines above level info (warning, error, critical …) by their text without numbers.
	Lines map[string]int
	// Silent counts how often the emulated card didn't answer, and the driver had to get over it.
	Silent int
	// Found, Listed and ATR are the times from asking the host to plug the reader in until the kernel had found it, the
	// client had it in its list, and the client had the ATR.
	Found, Listed, ATR []time.Duration
	// Ended and Gone are the times from the moment at which the kernel noticed a removal, which it stamped itself, until
	// the client's call that was under way ended, and until the client knew that it was the reader that is gone.
	Ended, Gone []time.Duration
	// Late are the times from the kernel's event of a removal, as a bystander gets it, until the client knew that the reader is
	// gone; negative where the client knew first.
	Late []time.Duration
}

// Save writes the figures into the folder.
func (f Figures) Save(folder string) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "figures-"+strings.ReplaceAll(f.Stack, " ", "-")+".json"), text, 0o644)
}

// Load reads all figures in a folder.
func Load(folder string) ([]Figures, error) {
	files, err := filepath.Glob(filepath.Join(folder, "figures-*.json"))
	if err != nil {
		return nil, err
	}
	var list []Figures
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var f Figures
		if err := json.Unmarshal(text, &f); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, f)
	}
	return list, nil
}

// Print writes the stacks side by side, the reference last, and the line that says who logs how much.
func Print(w io.Writer, list []Figures) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Figures) int {
		if a.Stack == Reference || b.Stack == Reference {
			return map[bool]int{true: 1, false: -1}[a.Stack == Reference]
		}
		return cmp.Compare(a.Stack, b.Stack)
	})
	fmt.Fprint(w, `
A reader is plugged in, and pulled out while a client works. All in ms. "Plugged in" is when the host is asked to do it,
"pulled out" is the kernel's own stamp of its line "USB disconnect", which it writes before it ends any transfer; "told" is when
its event of the removal came to a bystander, which may be after the client's call has ended.
                   plugged in → (median)           pulled out → call ended          pulled out → reader gone               told → reader gone
stack            n  kernel  listed     ATR   median   95 %   most  ≤ 50 ms   median   95 %   most  ≤ 50 ms   median   95 %   most  ≤ 50 ms
`)
	for _, f := range list {
		fmt.Fprintf(w, "%-15s %3d %6d %7d %7d  %s  %s  %s\n", f.Stack, f.Removals,
			Quantile(f.Found, 0.5).Milliseconds(), Quantile(f.Listed, 0.5).Milliseconds(), Quantile(f.ATR, 0.5).Milliseconds(),
			distribution(f.Ended), distribution(f.Gone), distribution(f.Late))
	}
	for _, f := range list {
		for _, text := range slices.SortedFunc(maps.Keys(f.Lines), func(a, b string) int { return f.Lines[b] - f.Lines[a] }) {
			fmt.Fprintf(w, "%s logged %d × %s\n", f.Stack, f.Lines[text], text)
		}
		if f.Silent > 0 {
			fmt.Fprintf(w, "%s: the emulated card did not answer %d times\n", f.Stack, f.Silent)
		}
	}
	fmt.Fprintln(w, line(list))
}

func distribution(times []time.Duration) string {
	return fmt.Sprintf("%7.1f %6.1f %6.1f  %5.1f %%", milliseconds(Quantile(times, 0.5)), milliseconds(Quantile(times, 0.95)),
		milliseconds(Quantile(times, 1)), 100*Within(times, 50*time.Millisecond))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Quantile returns the smallest of the times that is not exceeded by the share q (0..1) of them, 0 where there are none.
func Quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[max(0, min(len(sorted)-1, int(q*float64(len(sorted))+0.5)-1))]
}

// Within returns the share (0..1) of the times that are limit or less.
func Within(times []time.Duration, limit time.Duration) float64 {
	if len(times) == 0 {
		return 0
	}
	n := 0
	for _, d := range times {
		if d <= limit {
			n++
		}
	}
	return float64(n) / float64(len(times))
}

// line is the comparison in short. Where not all removals were made, it says so; of several builds of ours the one that
// logs most counts.
func line(list []Figures) string {
	ours, reference := "not measured", "not measured"
	most, scaled := -1, ""
	for _, f := range list {
		if f.Removals == 0 {
			continue
		}
		lines := 0
		for _, n := range f.Lines {
			lines += n
		}
		if f.Removals != Removals {
			lines = (lines*Removals + f.Removals - 1) / f.Removals
			scaled += fmt.Sprintf("; %s scaled from %d removals", f.Stack, f.Removals)
		}
		if f.Stack == Reference {
			reference = fmt.Sprint(lines)
		} else if lines > most {
			most, ours = lines, fmt.Sprint(lines)
		}
	}
	return fmt.Sprintf("log lines above info per %d removals: goccid %s, reference %s%s", Removals, ours, reference, scaled)
}
