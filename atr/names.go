package atr

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// The limits of Names, far above what the list has.
const (
	maxNameLine = 4096
	maxNames    = 256
)

// Names returns the names that a list of known cards has for an ATR, in the list's order, each once; none when it is
// not in the list. The list has the form of smartcard_list.txt of pcsc-tools: a line with a regular expression for the
// whole ATR, written as upper-case bytes with spaces between them, and below it lines that start with a tab, the names. Lines that start
// with # are comments. Expressions that aren't valid match nothing. At most 256 names are returned.
//
// It returns r's error, or one wrapping bufio.ErrTooLong for a line of more than 4 KiB.
func Names(r io.Reader, raw []byte) ([]string, error) {
	text := fmt.Sprintf("% X", raw)
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, maxNameLine), maxNameLine)
	var names []string
	matched := false
	for lines.Scan() && len(names) < maxNames {
		line := strings.TrimRight(lines.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "\t"):
			if name := strings.TrimSpace(line); matched && !slices.Contains(names, name) {
				names = append(names, name)
			}
		case strings.HasPrefix(line, "#"):
		default:
			matched = line != "" && matchesATR(line, text)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("atr: list of cards: %w", err)
	}
	return names, nil
}

// matchesATR reports whether the expression matches the whole text. Almost all expressions of the list are digits and dots;
// comparing these by hand makes a look-up in the 7,000 of them some fifty times faster.
func matchesATR(expression, text string) bool {
	if strings.Trim(expression, "0123456789ABCDEFabcdef. ") == "" {
		return matchesDots(expression, text)
	}
	re, err := regexp.Compile(`(?i)\A(?:` + expression + `)\z`)
	return err == nil && re.MatchString(text)
}

func matchesDots(expression, text string) bool {
	if len(expression) != len(text) {
		return false
	}
	for i := range len(text) {
		if c := expression[i]; c != '.' && c != text[i] && upper(c) != text[i] {
			return false
		}
	}
	return true
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}
