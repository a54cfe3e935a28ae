package main

import (
	"encoding/json"
	"fmt"
	"io"
)

// output writes to standard output. The first error stays: whatever is written after it is dropped, and the run ends with it.
type output struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	if err != nil {
		o.err = fmt.Errorf("can't write the output: %w", err)
	}
	return n, o.err
}

// printf writes formatted text.
func (o *output) printf(format string, args ...any) { _, _ = fmt.Fprintf(o, format, args...) }

// line writes v as one line of JSON.
func (o *output) line(v any) error {
	encoder := json.NewEncoder(o)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// document writes v as indented JSON.
func (o *output) document(v any) error {
	encoder := json.NewEncoder(o)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// compactHex is how hexadecimal stands in JSON: "3B7A18".
func compactHex(b []byte) string { return fmt.Sprintf("%X", b) }

// spacedHex is how hexadecimal stands in text for people: "3B 7A 18".
func spacedHex(b []byte) string { return fmt.Sprintf("% X", b) }
