//go:build linux

package clients

import (
	"bufio"
	"io"
	"iter"
)

// lines are those that a program prints, until it closes its output.
func lines(r io.Reader) iter.Seq[string] {
	return func(yield func(string) bool) {
		for s := bufio.NewScanner(r); s.Scan(); {
			if !yield(s.Text()) {
				return
			}
		}
	}
}
