package quirks

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/goccid/goccid/ccid"
)

// FileError is what is wrong in a quirk file.
type FileError struct {
	// File is the file's name as it was given.
	File string
	// Line counts from 1; 0 is the file as a whole.
	Line int
	// Err says what is wrong.
	Err error
}

// Error returns "file:line: what is wrong".
func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

// Unwrap returns Err.
func (e *FileError) Unwrap() error { return e.Err }

// decoder puts a parsed TOML file into structs. It is used in place of the library's own because every error has to
// have a line and to be in the words of a person who writes such a file.
type decoder struct {
	file  string
	lines map[string]int // by path: "quirk[0].set.power"
	errs  []error
}

// maxErrors bounds how many faults of one file are told.
const maxErrors = 20

// newDecoder parses data, whose tables and values are the result.
func newDecoder(file string, data []byte) (*decoder, map[string]any, error) {
	var tree map[string]any
	err := toml.Unmarshal(data, &tree)
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		line, _ := syntax.Position()
		return nil, nil, &FileError{File: file, Line: line, Err: errors.New(strings.TrimPrefix(syntax.Error(), "toml: "))}
	}
	if err != nil {
		return nil, nil, &FileError{File: file, Err: err}
	}
	return &decoder{file: file, lines: locate(data)}, tree, nil
}

// locate returns the line of each key in a file that has been parsed without error. The rows of the array of tables
// "quirk" are counted: "quirk[1].id".
func locate(data []byte) map[string]int {
	lines := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	rows, table := 0, ""
	for p.NextExpression() {
		e := p.Expression()
		var names []string
		line := 0
		for key := e.Key(); key.Next(); {
			names = append(names, string(key.Node().Data))
			line = p.Shape(key.Node().Raw).Start.Line
		}
		path := ""
		switch {
		case e.Kind == unstable.KeyValue:
			path = table
		case e.Kind == unstable.ArrayTable && len(names) == 1 && names[0] == rowsKey:
			names[0] = fmt.Sprintf("%s[%d]", rowsKey, rows)
			rows++
		case names[0] == rowsKey && rows > 0:
			names[0] = fmt.Sprintf("%s[%d]", rowsKey, rows-1)
		}
		for _, name := range names {
			path = join(path, name)
			if _, known := lines[path]; !known {
				lines[path] = line
			}
		}
		if e.Kind != unstable.KeyValue {
			table = path
		}
	}
	return lines
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// line returns the line of the path or, for what stands inside a value, of the key that it belongs to; 0 for none.
func (d *decoder) line(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

// fail notes what is wrong at a path.
func (d *decoder) fail(path, format string, args ...any) {
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, &FileError{File: d.file, Line: d.line(path), Err: fmt.Errorf(format, args...)})
	}
}

// shown is a path as the person who wrote the file knows it: without the row.
func shown(path string) string {
	if strings.HasPrefix(path, rowsKey+"[") {
		if _, inRow, found := strings.Cut(path, "."); found {
			return inRow
		}
	}
	return path
}

// value decodes what the file has at path into v, and notes an error where that doesn't fit.
func (d *decoder) value(path string, raw any, v reflect.Value) {
	if set := textSetter(v); set != nil {
		text, ok := raw.(string)
		if !ok {
			d.fail(path, "%s needs a text in quotation marks", shown(path))
		} else if err := set(text); err != nil {
			d.fail(path, "%s: %w", shown(path), err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, raw, v.Elem())
	case reflect.Struct:
		d.table(path, raw, v)
	case reflect.Slice:
		d.list(path, raw, v)
	case reflect.Map:
		d.numbers(path, raw, v)
	case reflect.Bool:
		b, ok := raw.(bool)
		if !ok {
			d.fail(path, "%s needs true or false", shown(path))
			return
		}
		v.SetBool(b)
	default:
		d.number(path, raw, v)
	}
}

// textSetter returns what sets v from the text that the file has for it, nil where that isn't text.
func textSetter(v reflect.Value) func(string) error {
	switch p := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		return func(s string) error { return p.UnmarshalText([]byte(s)) }
	case *string:
		return setter(p, parseText)
	case *time.Duration:
		return setter(p, parseDuration)
	case *[]byte:
		return setter(p, parseBytes)
	case *ccid.PowerSelect:
		return setter(p, parseVoltage)
	case *ccid.ExchangeLevel:
		return setter(p, parseLevel)
	}
	return nil
}

func setter[T any](p *T, parse func(string) (T, error)) func(string) error {
	return func(s string) (err error) {
		*p, err = parse(s)
		return err
	}
}

func (d *decoder) table(path string, raw any, v reflect.Value) {
	table, ok := raw.(map[string]any)
	if !ok {
		d.fail(path, "%s needs a table", shown(path))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		at := join(path, name)
		if i, ok := fieldByKey(v.Type(), name); ok {
			d.value(at, table[name], v.Field(i))
		} else {
			d.fail(at, "%s is unknown, possible are: %s", shown(at), strings.Join(keysOf(v.Type()), ", "))
		}
	}
}

func fieldByKey(t reflect.Type, key string) (int, bool) {
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("toml"); tag != "" && tag == key {
			return i, true
		}
	}
	return 0, false
}

func keysOf(t reflect.Type) []string {
	var list []string
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("toml"); tag != "" {
			list = append(list, tag)
		}
	}
	return list
}

// maxList bounds how many elements a list may have.
const maxList = 1000

func (d *decoder) list(path string, raw any, v reflect.Value) {
	list, ok := raw.([]any)
	if !ok {
		d.fail(path, "%s needs a list in brackets", shown(path))
		return
	}
	if len(list) > maxList {
		d.fail(path, "%s has %d elements, at most %d are possible", shown(path), len(list), maxList)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
	for i, raw := range list {
		d.value(fmt.Sprintf("%s[%d]", path, i), raw, v.Index(i))
	}
}

// numbers decodes a table whose keys are names and whose values are numbers.
func (d *decoder) numbers(path string, raw any, v reflect.Value) {
	table, ok := raw.(map[string]any)
	if !ok {
		d.fail(path, "%s needs a table", shown(path))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		number := reflect.New(v.Type().Elem()).Elem()
		d.value(join(path, name), table[name], number)
		v.SetMapIndex(reflect.ValueOf(name), number)
	}
}

// number decodes an unsigned number.
func (d *decoder) number(path string, raw any, v reflect.Value) {
	n, ok := raw.(int64)
	if highest := uint64(math.MaxUint64) >> (64 - v.Type().Bits()); !ok || n < 0 || uint64(n) > highest {
		d.fail(path, "%s needs a number from 0 to %d", shown(path), highest)
		return
	}
	v.SetUint(uint64(n))
}

// assignment is one setting that a row sets.
type assignment struct {
	key   string
	index []int // of the field in Settings
	value reflect.Value
}

// assignments returns what a table sets, in the order of the fields. Presence in the table counts, not the value: a
// later row can set back to zero what an earlier one has set.
func assignments(table map[string]any, v reflect.Value, path string, index []int) []assignment {
	var list []assignment
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("toml")
		raw, present := table[key]
		if !present {
			continue
		}
		at, field := append(slices.Clone(index), i), v.Field(i)
		if group, ok := raw.(map[string]any); ok {
			list = append(list, assignments(group, field, join(path, key), at)...)
		} else {
			list = append(list, assignment{key: join(path, key), index: at, value: field})
		}
	}
	return list
}

// apply sets the field.
func (a assignment) apply(s *Settings) { reflect.ValueOf(s).Elem().FieldByIndex(a.index).Set(a.value) }

// String returns "group.key = value" for people.
func (a assignment) String() string { return a.key + " = " + describe(a.value) }

func describe(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case string:
		return fmt.Sprintf("%q", value)
	case []byte:
		return fmt.Sprintf("% X", value)
	case fmt.Stringer:
		return value.String()
	}
	switch v.Kind() {
	case reflect.Pointer:
		return describe(v.Elem())
	case reflect.Slice:
		list := make([]string, v.Len())
		for i := range list {
			list[i] = describe(v.Index(i))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}
