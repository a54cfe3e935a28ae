package quirks

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccid/goccid/ccid"
)

// rowsKey is the name of the array of tables that holds the rows.
const rowsKey = "quirk"

// Bounds on a file of rows.
const (
	maxFileSize = 256 << 10
	maxRows     = maxList
)

// document is the form of a quirk file.
type document struct {
	Rows []row `toml:"quirk"`
}

// row is one quirk: on which readers, what, why, and who says so. All conditions that are there must be met.
type row struct {
	ID        rowID               `toml:"id"`
	Name      string              `toml:"name"`       // of the readers, for people
	Readers   []readers           `toml:"reader"`     // VID:PID, any of them
	Versions  versions            `toml:"bcd_device"` // of the firmware
	Serial    string              `toml:"serial"`     // the device's serial number
	Interface *uint8              `toml:"interface"`  // number of the reader's interface in a composite device
	Class     map[string]uint32   `toml:"class"`      // values of fields of the class descriptor, by their names there
	Level     *ccid.ExchangeLevel `toml:"level"`      // that the class descriptor announces
	ATR       Pattern             `toml:"atr"`        // of the card
	OS        string              `toml:"os"`         // as runtime.GOOS has it
	Optional  bool                `toml:"optional"`   // off unless another row enables it
	Reason    string              `toml:"reason"`
	Source    string              `toml:"source"`
	Disable   []rowID             `toml:"disable"` // rows before this one to switch off
	Enable    []rowID             `toml:"enable"`  // rows before this one to switch on, or on again
	Set       Settings            `toml:"set"`

	origin      string // "file:line"
	line        int
	assignments []assignment
}

// parse reads the rows of a file. The errors are *FileError, joined.
func parse(name string, data []byte) ([]row, error) {
	if len(data) > maxFileSize {
		return nil, &FileError{File: name, Err: fmt.Errorf("%d bytes, at most %d are possible", len(data), maxFileSize)}
	}
	d, tree, err := newDecoder(name, data)
	if err != nil {
		return nil, err
	}
	var f document
	d.value("", tree, reflect.ValueOf(&f).Elem())
	if len(d.errs) == 0 {
		d.complete(f.Rows, tree)
	}
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	return f.Rows, nil
}

// complete checks each row as a whole and fills in what isn't in the file.
func (d *decoder) complete(rows []row, tree map[string]any) {
	tables, _ := tree[rowsKey].([]any)
	seen := map[rowID]bool{}
	for i := range rows {
		r, path := &rows[i], fmt.Sprintf("%s[%d]", rowsKey, i)
		r.line = d.line(path)
		r.origin = fmt.Sprintf("%s:%d", d.file, r.line)
		table, _ := tables[i].(map[string]any)
		set, _ := table["set"].(map[string]any)
		r.assignments = assignments(set, reflect.ValueOf(r.Set), "", nil)
		if err := r.check(); err != nil {
			d.fail(path, "quirk %q: %w", r.ID, err)
		}
		if seen[r.ID] {
			d.fail(path, "quirk %q is there twice", r.ID)
		}
		seen[r.ID] = true
	}
}

func (r *row) check() error {
	switch {
	case r.ID == "":
		return errors.New("needs an id")
	case len(r.Readers) == 0:
		return errors.New(`needs a reader: ["VVVV:PPPP"], or ["*:*"] for all of them`)
	case len(r.assignments) == 0 && len(r.Disable) == 0 && len(r.Enable) == 0:
		return errors.New("does nothing: needs set, disable or enable")
	}
	known := classFields(&ccid.ClassDescriptor{})
	for _, name := range slices.Sorted(maps.Keys(r.Class)) {
		if _, ok := known[name]; !ok {
			return fmt.Errorf("class.%s is not a field of the class descriptor: %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	for _, id := range r.Enable {
		if slices.Contains(r.Disable, id) {
			return fmt.Errorf("can't both enable and disable %q", id)
		}
	}
	return r.Set.check()
}

// check returns what can't be in the settings, whatever the reader.
func (s *Settings) check() error {
	pad := s.PINPad
	switch {
	case s.Descriptor.Protocols > 3:
		return errors.New("descriptor.protocols needs a number from 1 to 3: 1 for T=0, 2 for T=1")
	case s.Descriptor.MaxIFSD > 254:
		return errors.New("descriptor.max_ifsd needs a number from 1 to 254")
	case s.Descriptor.MaxMessageLength != 0 && s.Descriptor.MaxMessageLength <= ccid.HeaderLength:
		return fmt.Errorf("descriptor.max_message_length needs more than the header's %d bytes", ccid.HeaderLength)
	case s.Protocol.MinBWI > 9:
		return errors.New("protocol.min_bwi needs a number from 1 to 9")
	case slices.Contains(s.Protocol.SecondarySlotDataRates, 0):
		return errors.New("protocol.secondary_slot_data_rates has a rate of 0")
	case pad.MinSize > pad.MaxSize:
		return errors.New("pin_pad.min_size is greater than pin_pad.max_size")
	case max(pad.ValidationCondition, pad.Verify.ValidationCondition, pad.Modify.ValidationCondition) > 7:
		return errors.New("a validation_condition needs a number from 1 to 7")
	case !validNumberMessage(pad.Verify.NumberMessage) || !validNumberMessage(pad.Modify.NumberMessage):
		return errors.New("a number_message needs a number from 0 to 3, or 255")
	case len(s.Power.RetryEscape) > 0 && s.Power.RetryOn == 0:
		return errors.New("power.retry_escape needs power.retry_on beside it")
	}
	return nil
}

// validNumberMessage reports whether n, where it is there, is a value of bNumberMessage (CCID 1.1 §6.1.11.2).
func validNumberMessage(n *uint8) bool { return n == nil || *n <= 3 || *n == 0xFF }

// classFields returns the fields of a class descriptor by the names that the specification has for them.
func classFields(c *ccid.ClassDescriptor) map[string]uint32 {
	fields := map[string]uint32{}
	v := reflect.ValueOf(*c)
	for i := range v.NumField() {
		fields[v.Type().Field(i).Tag.Get("json")] = uint32(v.Field(i).Uint())
	}
	return fields
}

// match reports whether the row is about this device.
func (r *row) match(d Device) bool {
	return slices.ContainsFunc(r.Readers, func(ids readers) bool { return ids.match(d.VID, d.PID) }) &&
		r.Versions.match(d.BcdDevice) &&
		(r.Serial == "" || r.Serial == d.Serial) &&
		(r.Interface == nil || *r.Interface == d.Interface) &&
		(r.OS == "" || r.OS == d.OS) &&
		(len(r.ATR.value) == 0 || r.ATR.Match(d.ATR)) &&
		r.matchClass(d.Class)
}

func (r *row) matchClass(c *ccid.ClassDescriptor) bool {
	if len(r.Class) == 0 && r.Level == nil {
		return true
	}
	if c == nil || r.Level != nil && *r.Level != c.DwFeatures.ExchangeLevel() {
		return false
	}
	fields := classFields(c)
	for name, value := range r.Class {
		if fields[name] != value {
			return false
		}
	}
	return true
}
