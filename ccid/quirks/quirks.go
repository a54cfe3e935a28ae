// Package quirks knows which readers need something other than what their class descriptor says, and what that is. The
// knowledge is data: a table of rows, built in from builtin.toml, that files of an administrator can add to, change
// and switch off row by row. It does no CCID itself: the driver asks for the Settings of a device and acts on them.
//
//	table, err := quirks.Load("/etc/goccid/quirks.d")
//	settings := table.Lookup(quirks.Device{VID: 0x0B97, PID: 0x7762, Class: class})
//	corrected := settings.Correct(*class)
//
// # Which row wins
//
// The built-in rows come first, then those of the files in the lexical order of the files' names, within a file in the
// order of the file. Of two rows that set the same thing for a device, the later wins. A row with the id of a row in an
// earlier file takes that row's place, at its own position. A row can switch rows before it off, and on again, for the
// devices that it is about. An optional row is off until another one switches it on.
package quirks

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccid/goccid/ccid"
)

//go:embed builtin.toml
var builtin []byte

// builtinName is the name of the built-in file.
const builtinName = "builtin.toml"

// Device is what the conditions of rows are about.
type Device struct {
	// VID, PID and BcdDevice are idVendor, idProduct and bcdDevice of the USB device descriptor (USB 2.0 §9.6.1).
	VID, PID, BcdDevice uint16
	// Serial is the device's serial number, "" where it has none.
	Serial string
	// Class is the class descriptor as the reader has it. Without it, rows with conditions on it don't apply.
	Class *ccid.ClassDescriptor
	// ATR is that of the card in the slot. Rows about cards apply only with it: a driver that serves a card asks anew.
	ATR []byte
	// Interface is bInterfaceNumber of the reader's interface, which tells the readers of a composite device apart.
	Interface uint8
	// OS is the system that the driver runs on, runtime.GOOS. Rows about a system apply only there.
	OS string
}

// Table is a list of rows. It does not change, and may be used by several goroutines at once. A nil Table has no rows.
type Table struct {
	rows []row
}

// maxFiles bounds how many files Load reads.
const maxFiles = 100

// Load returns the built-in rows and those of the files in directory whose names end in ".toml", in lexical order. An
// empty name or a directory that does not exist adds none. Anything in the files that is not understood is an error,
// with a *FileError for each fault; there is no table then.
func Load(directory string) (*Table, error) {
	table, err := (*Table)(nil).Extend(builtinName, builtin)
	if err != nil {
		return nil, err
	}
	names, err := list(directory)
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, name := range names {
		extended, err := table.extendFrom(name)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		table = extended
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return table, nil
}

// list returns the paths of the quirk files in a directory, in lexical order.
func list(directory string) ([]string, error) {
	if directory == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("quirks: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") {
			names = append(names, filepath.Join(directory, e.Name()))
		}
	}
	if len(names) > maxFiles {
		return nil, &FileError{File: directory, Err: fmt.Errorf("%d files, at most %d are possible", len(names), maxFiles)}
	}
	return names, nil
}

func (t *Table) extendFrom(name string) (*Table, error) {
	data, err := read(name)
	if err != nil {
		return nil, &FileError{File: name, Err: err}
	}
	return t.Extend(name, data)
}

// read returns a file's bytes, at most one more than a file may have. What is not a file, such as a pipe that nobody
// writes to, is refused before it is opened.
func read(name string) (data []byte, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxFileSize+1))
}

// Extend returns a table with the rows of t and, after them, those of a file: data, called name in errors and in
// explanations. t stays as it is. The errors are *FileError, joined.
func (t *Table) Extend(name string, data []byte) (*Table, error) {
	added, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	replaced := map[rowID]bool{}
	for _, r := range added {
		replaced[r.ID] = true
	}
	var rows []row
	if t != nil {
		rows = slices.DeleteFunc(slices.Clone(t.rows), func(r row) bool { return replaced[r.ID] })
	}
	known := map[rowID]bool{}
	for _, r := range rows {
		known[r.ID] = true
	}
	var faults []error
	for _, r := range added {
		for _, id := range slices.Concat(r.Disable, r.Enable) {
			if !known[id] {
				faults = append(faults, &FileError{File: name, Line: r.line, Err: fmt.Errorf("quirk %q: there is no quirk %q before it", r.ID, id)})
			}
		}
		known[r.ID] = true
		rows = append(rows, r)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return &Table{rows: rows}, nil
}

// Lookup returns what the device needs. The zero Settings say that it needs nothing.
func (t *Table) Lookup(d Device) Settings {
	var s Settings
	for _, v := range t.judge(d) {
		if v.off != "" {
			continue
		}
		for _, a := range v.row.assignments {
			a.apply(&s)
		}
	}
	return s
}

// verdict says of a row that is about a device whether it applies.
type verdict struct {
	row *row
	off string // why it does not, "" where it does
}

// judge returns the rows that are about the device, in order. It goes from the last row to the first, as a row can
// only be switched by later ones, and a row that is off switches nothing.
func (t *Table) judge(d Device) []verdict {
	if t == nil {
		return nil
	}
	type decision struct {
		on bool
		by rowID
	}
	decisions := map[rowID]decision{}
	decide := func(ids []rowID, made decision) {
		for _, id := range ids {
			if _, decided := decisions[id]; !decided {
				decisions[id] = made
			}
		}
	}
	var verdicts []verdict
	for i := len(t.rows) - 1; i >= 0; i-- {
		r := &t.rows[i]
		if !r.match(d) {
			continue
		}
		v := verdict{row: r}
		made, decided := decisions[r.ID]
		switch {
		case decided && !made.on:
			v.off = "switched off by " + string(made.by)
		case !decided && r.Optional:
			v.off = "optional"
		default:
			decide(r.Disable, decision{on: false, by: r.ID})
			decide(r.Enable, decision{on: true, by: r.ID})
		}
		verdicts = append(verdicts, v)
	}
	slices.Reverse(verdicts)
	return verdicts
}

// Explanation tells people about one row.
type Explanation struct {
	// ID is the row's stable name, by which it can be switched off.
	ID string `json:"id"`
	// Name is the readers' name, where the row has one.
	Name string `json:"name,omitempty"`
	// Actions are what the row does: "protocol.no_pps = true".
	Actions []string `json:"actions"`
	// Reason is why.
	Reason string `json:"reason,omitempty"`
	// Source is who says so.
	Source string `json:"source,omitempty"`
	// Origin is where the row stands: "file:line", the file being builtin.toml for a row that is built in.
	Origin string `json:"origin"`
	// Off is why the row is not in effect: "optional" or "switched off by" another row; "" where it is in effect.
	Off string `json:"off,omitempty"`
}

// String returns the explanation as one line.
func (e Explanation) String() string {
	text := e.ID + ": " + strings.Join(e.Actions, "; ")
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	text += " (" + e.Origin + ")"
	if e.Off != "" {
		text += ", not in effect: " + e.Off
	}
	return text
}

// Explain returns the rows that are about the device in the order in which they are applied, those that are off among
// them.
func (t *Table) Explain(d Device) []Explanation {
	var list []Explanation
	for _, v := range t.judge(d) {
		e := v.row.explain()
		e.Off = v.off
		list = append(list, e)
	}
	return list
}

// Setting returns the ids of the rows that are in effect for the device and set this key, "timing.silence", in the order
// in which they are applied: the last one wins.
func (t *Table) Setting(d Device, key string) []string {
	var ids []string
	for _, v := range t.judge(d) {
		if v.off == "" && slices.ContainsFunc(v.row.assignments, func(a assignment) bool { return a.key == key }) {
			ids = append(ids, string(v.row.ID))
		}
	}
	return ids
}

func (r *row) explain() Explanation {
	var actions []string
	for _, a := range r.assignments {
		actions = append(actions, a.String())
	}
	for _, id := range r.Disable {
		actions = append(actions, "disable "+string(id))
	}
	for _, id := range r.Enable {
		actions = append(actions, "enable "+string(id))
	}
	return Explanation{ID: string(r.ID), Name: r.Name, Actions: actions, Reason: r.Reason, Source: r.Source, Origin: r.origin}
}
