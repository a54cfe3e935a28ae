//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/spf13/pflag"
)

// configError is what is wrong in a configuration file.
type configError struct {
	file         string
	line, column int // from 1; 0 for the file as a whole
	text         string
}

// Error returns "file:line:column: what is wrong".
func (e *configError) Error() string {
	if e.line == 0 {
		return e.file + ": " + e.text
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.file, e.line, e.column, e.text)
}

// decodeConfig puts a configuration file over settings, which stay as they are if the file is wrong.
func decodeConfig(file string, data []byte, s *settings) error {
	merged := *s
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err := d.Decode(&merged)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case err == nil:
		*s = merged
		return nil
	case errors.As(err, &unknown):
		errs := make([]error, len(unknown.Errors))
		for i := range unknown.Errors {
			e := &unknown.Errors[i]
			line, column := e.Position()
			errs[i] = &configError{file, line, column, fmt.Sprintf("there is no setting %q; docs/goccidd.md has those there are", strings.Join(e.Key(), "."))}
		}
		return errors.Join(errs...)
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		text := plainly(strings.TrimPrefix(wrong.Error(), "toml: "))
		if key := strings.Join(wrong.Key(), "."); key != "" {
			text = key + ": " + text
		}
		return &configError{file, line, column, text}
	}
	return &configError{file: file, text: strings.TrimPrefix(err.Error(), "toml: ")}
}

// mismatch is what the decoder says of a value of a wrong type.
var mismatch = regexp.MustCompile(`^cannot decode TOML (\w+) into .* of type (\S+)$`)

// plainly puts what is wrong with a value's type into the words of a TOML file, in place of Go's.
func plainly(text string) string {
	m := mismatch.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	wanted := "a table"
	switch {
	case strings.HasPrefix(m[2], "[]"):
		wanted = "a list, in [ ],"
	case m[2] == "string":
		wanted = "a text, in quotes,"
	case m[2] == "bool":
		wanted = "true or false"
	}
	return fmt.Sprintf("%s is needed, not: %s", wanted, m[1])
}

// readSettings reads the file that --config names. It is nil for none, and for a list of serial readers or a folder of them,
// which pcscd's --config names: there is no driver that these could speak of.
func readSettings(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	data, err := readRegular(file)
	if errors.Is(err, syscall.EISDIR) || err == nil && isReaderConf(data) {
		return nil, nil
	}
	return append([]byte{}, data...), err
}

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// readRegular reads a file as far as a configuration may go. A folder is an EISDIR, and what has no end, or a pipe that nobody writes
// to, is not opened.
func readRegular(name string) (data []byte, err error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, &os.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err = io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxConfig)
	}
	return data, err
}

// isReaderConf tells whether a file is one of pcscd's lists of serial readers.
func isReaderConf(data []byte) bool {
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 0 && (fields[0] == "FRIENDLYNAME" || fields[0] == "LIBPATH") {
			return true
		}
	}
	return false
}

// source is where settings come from.
type source struct {
	file    string // "" for none
	data    []byte
	options *pflag.FlagSet
}

// option is the name of the option for a setting of which no more is known after it was read.
func option(setting string) string {
	switch setting {
	case "readers.virtual-control":
		return "virtual-control"
	case "metrics.listen":
		return "metrics"
	}
	return setting
}

// place adds to an error about a setting, unless that is the default, where it stands. It returns the error.
func (p *program) place(err error) error {
	var wrong *settingError
	if !errors.As(err, &wrong) {
		return err
	}
	if name := option(wrong.setting); p.source.options != nil && p.source.options.Changed(name) {
		wrong.where, wrong.option = "--"+name, true
	} else if line := lineOf(p.source.data, wrong.setting); line > 0 {
		wrong.where = fmt.Sprintf("%s:%d", p.source.file, line)
	}
	return err
}

// lineOf is the line of a file at which a setting stands, 0 for none.
func lineOf(data []byte, setting string) int {
	p := unstable.Parser{}
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			continue
		}
		name, line := "", 0
		for key := e.Key(); key.Next(); {
			name += "." + string(key.Node().Data)
			line = p.Shape(key.Node().Raw).Start.Line
		}
		switch {
		case e.Kind == unstable.Table:
			table = name
		case table+name == "."+setting:
			return line
		}
	}
	return 0
}
