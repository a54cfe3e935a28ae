package control

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// Bench is virtual readers that can be worked by requests.
type Bench struct {
	bus *virtual.Bus

	// mu protects the fields below.
	mu      sync.Mutex
	readers []*bay
}

// bay is one reader of a Bench. Bench.mu guards info and faults.
type bay struct {
	name    string
	station *virtual.Station
	info    usbtransport.DeviceInfo // of the last plug-in
	faults  []Fault
}

// ErrQuit says that the program was asked to end.
var ErrQuit = errors.New("asked to quit")

// What requests fail with, besides an ErrSyntax and the errors of a virtual.Station.
var (
	// ErrNoReader: no reader is meant.
	ErrNoReader = errors.New("no such reader")
	// ErrAmbiguous: more than one reader may be meant.
	ErrAmbiguous = errors.New("which reader?")
	// ErrPlugged: the reader is plugged in.
	ErrPlugged = errors.New("the reader is plugged in")
	// ErrUnplugged: the reader is not plugged in.
	ErrUnplugged = errors.New("the reader is not plugged in")
	// ErrNoPINPad: the reader has no keys.
	ErrNoPINPad = errors.New("the reader has no PIN pad; pinpad=yes gives it one")
)

// NewBench makes a bench without readers. It orders the faults of the bus from now on.
func NewBench(bus *virtual.Bus) *Bench {
	b := &Bench{bus: bus}
	bus.Inject(b.judge)
	return b
}

// Add plugs a reader in, which can be told by its number, counted from 0, its name, and the name of its model. It stays the caller's to
// close.
func (b *Bench) Add(name string, station *virtual.Station) (usbtransport.DeviceInfo, error) {
	info, err := b.bus.Plug(station)
	if err != nil {
		return info, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers = append(b.readers, &bay{name: name, station: station, info: info})
	return info, nil
}

// Do does what a request says. The answer is a line or more, without a newline at the end; ctx bounds the wait for a card from
// outside. Quit is answered with ErrQuit: the rest is the caller's.
func (b *Bench) Do(ctx context.Context, r Request) (string, error) {
	switch r.Command.(type) {
	case List:
		return b.list(), nil
	case Help:
		return help(), nil
	case Quit:
		return "", ErrQuit
	}
	reader, err := b.find(r.Reader)
	if err != nil {
		return "", err
	}
	switch c := r.Command.(type) {
	case Insert:
		if err := reader.station.Insert(ctx, c.Slot, c.Card); err != nil {
			return "", err
		}
		return fmt.Sprintf("slot %d has %v", c.Slot, c.Card), nil
	case Remove:
		if err := reader.station.Remove(c.Slot); err != nil {
			return "", err
		}
		return fmt.Sprintf("slot %d is empty", c.Slot), nil
	case Plug:
		return b.plug(reader)
	case Unplug:
		if !b.plugged(reader) {
			return "", ErrUnplugged
		}
		b.bus.Unplug(reader.station)
		return "unplugged", nil
	case Press:
		return press(reader.station, c.Keys)
	case Fault:
		b.order(reader, c)
		return "ordered", nil
	case NoFault:
		b.mu.Lock()
		defer b.mu.Unlock()
		reader.faults = nil
		return "no faults", nil
	case Violations:
		return violations(reader.station), nil
	}
	return "", wrong("no command")
}

// find returns the reader that a key means: that with this number, that with this name, or the only one whose name has it in it.
func (b *Bench) find(key string) (*bay, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if key == "" {
		switch len(b.readers) {
		case 0:
			return nil, ErrNoReader
		case 1:
			return b.readers[0], nil
		}
		return nil, fmt.Errorf("%w there are %s; @NAME before the command says which", ErrAmbiguous, names(b.readers))
	}
	if n, err := strconv.ParseUint(key, 10, 16); err == nil && int(n) < len(b.readers) {
		return b.readers[n], nil
	}
	like := b.named(func(name string) bool { return strings.EqualFold(name, key) })
	if len(like) == 0 {
		like = b.named(func(name string) bool { return strings.Contains(strings.ToLower(name), strings.ToLower(key)) })
	}
	switch len(like) {
	case 0:
		return nil, fmt.Errorf("%w: %.40q; there are %s", ErrNoReader, key, names(b.readers))
	case 1:
		return like[0], nil
	}
	return nil, fmt.Errorf("%w %.40q is in the names of %d; list has their numbers", ErrAmbiguous, key, len(like))
}

// named returns the readers of which a name fits: the one with which they were added, or that of the model. It wants mu held.
func (b *Bench) named(fits func(string) bool) []*bay {
	var list []*bay
	for _, r := range b.readers {
		if fits(r.name) || fits(r.station.Model().Name) {
			list = append(list, r)
		}
	}
	return list
}

func names(readers []*bay) string {
	var b strings.Builder
	for i, r := range readers {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d %s", i, r.name)
	}
	return b.String()
}

func (b *Bench) plug(r *bay) (string, error) {
	if b.plugged(r) {
		return "", ErrPlugged
	}
	info, err := b.bus.Plug(r.station)
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r.info = info
	return "plugged in at " + info.PortPath, nil
}

// plugged reports whether a reader is in its port: a fault may have pulled it out.
func (b *Bench) plugged(r *bay) bool {
	devices, _ := b.bus.Devices(context.Background()) // fails with its context only
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range devices {
		if d.Key == r.info.Key {
			return true
		}
	}
	return false
}

func press(s *virtual.Station, keys Keys) (string, error) {
	if s.ClassDescriptor(0).BPINSupport == 0 {
		return "", ErrNoPINPad
	}
	if err := s.Press(string(keys)); err != nil {
		return "", errors.New("too many keys that nobody reads") // that they are keys, Parse has seen
	}
	return "pressed", nil
}

// violations is one line for each broken rule, and their number.
func violations(s *virtual.Station) string {
	var b strings.Builder
	list := s.Violations()
	for _, v := range list {
		fmt.Fprintf(&b, "%v\n", v)
	}
	b.WriteString(plural(len(list), "violation"))
	return b.String()
}

// maxFaults bounds what one reader has ordered; the oldest go first.
const maxFaults = 100

func (b *Bench) order(r *bay, f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(r.faults) >= maxFaults {
		r.faults = r.faults[1:]
	}
	r.faults = append(r.faults, f)
}

// judge is the bus' FaultFunc.
func (b *Bench) judge(t virtual.Transfer) virtual.Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.readers {
		if r.info.PortPath != t.Device.PortPath {
			continue
		}
		return r.judge(t)
	}
	return virtual.Fault{}
}

// judge has one fault happen at a time, the first that is due.
func (r *bay) judge(t virtual.Transfer) virtual.Fault {
	due := virtual.Fault{}
	left := r.faults[:0]
	for _, f := range r.faults {
		switch {
		case f.Transfer != 0 && f.Transfer != t.Kind:
		case f.After > 0:
			f.After--
		case due.Kind == virtual.NoFault:
			due = f.Fault
			if f.Times != Always {
				f.Times--
			}
		}
		if f.Times != 0 {
			left = append(left, f)
		}
	}
	r.faults = left
	return due
}

// list is one line for each reader.
func (b *Bench) list() string {
	b.mu.Lock()
	readers := append([]*bay(nil), b.readers...)
	b.mu.Unlock()
	var text strings.Builder
	for i, r := range readers {
		place := "unplugged"
		if b.plugged(r) {
			b.mu.Lock()
			place = "port " + r.info.PortPath
			b.mu.Unlock()
		}
		fmt.Fprintf(&text, "%d %s, %s", i, r.name, place)
		for slot, c := range r.station.Inserted() {
			fmt.Fprintf(&text, ", slot %d: %v", slot, c)
		}
		text.WriteString("\n")
	}
	text.WriteString(plural(len(readers), "reader"))
	return text.String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func help() string {
	var b strings.Builder
	for _, v := range verbs() {
		fmt.Fprintf(&b, "%s\n", strings.TrimSpace(v.name+" "+v.arguments))
		for line := range strings.Lines(v.about) {
			fmt.Fprintf(&b, "    %s\n", strings.TrimRight(line, "\n"))
		}
	}
	b.WriteString("@READER before a command says which reader, by number, name or part of it; SLOT is 0 where it is left out")
	return b.String()
}
