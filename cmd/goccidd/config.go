//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
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
		text := strings.TrimPrefix(wrong.Error(), "toml: ")
		if key := strings.Join(wrong.Key(), "."); key != "" {
			text = key + ": " + text
		}
		return &configError{file, line, column, text}
	}
	return &configError{file: file, text: strings.TrimPrefix(err.Error(), "toml: ")}
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
