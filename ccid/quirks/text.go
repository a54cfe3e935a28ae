package quirks

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccid/goccid/ccid"
)

// Pattern matches byte strings of one length. It is written in hexadecimal, with "xx" where any byte will do:
// "52 F8 04 01 00 xx".
type Pattern struct {
	value, mask []byte
}

// maxPattern bounds the length of a Pattern, in bytes.
const maxPattern = 256

// UnmarshalText reads a Pattern of 1..256 bytes.
func (p *Pattern) UnmarshalText(text []byte) error {
	digits := strings.ReplaceAll(string(text), " ", "")
	n := len(digits) / 2
	if len(digits)%2 != 0 || n == 0 || n > maxPattern {
		return fmt.Errorf("%q has %d hexadecimal digits, needs two for each of 1 to %d bytes", text, len(digits), maxPattern)
	}
	read := Pattern{value: make([]byte, n), mask: make([]byte, n)}
	for i := range n {
		pair := digits[2*i : 2*i+2]
		if strings.EqualFold(pair, "xx") {
			continue
		}
		b, err := strconv.ParseUint(pair, 16, 8)
		if err != nil {
			return fmt.Errorf("%q: %q is neither a hexadecimal byte nor xx", text, pair)
		}
		read.value[i], read.mask[i] = byte(b), 0xFF
	}
	*p = read
	return nil
}

// Match reports whether b has the pattern's length and its bytes. The zero Pattern matches nothing.
func (p Pattern) Match(b []byte) bool {
	if len(b) != len(p.value) || len(b) == 0 {
		return false
	}
	for i, c := range b {
		if c&p.mask[i] != p.value[i] {
			return false
		}
	}
	return true
}

// String writes the pattern as UnmarshalText reads it.
func (p Pattern) String() string {
	list := make([]string, len(p.value))
	for i, b := range p.value {
		list[i] = fmt.Sprintf("%02X", b)
		if p.mask[i] == 0 {
			list[i] = "xx"
		}
	}
	return strings.Join(list, " ")
}

// readers is a set of USB devices: "08E6:3437", "08E6:*" or "*:*".
type readers struct {
	vid, pid       uint16
	anyVID, anyPID bool
}

func (r *readers) UnmarshalText(text []byte) error {
	bad := fmt.Errorf(`%q is not "VVVV:PPPP" with four hexadecimal digits each, "VVVV:*" or "*:*"`, text)
	vid, pid, found := strings.Cut(string(text), ":")
	if !found || vid == "*" && pid != "*" {
		return bad
	}
	read, ok := readers{}, false
	if read.vid, read.anyVID, ok = parseID(vid); !ok {
		return bad
	}
	if read.pid, read.anyPID, ok = parseID(pid); !ok {
		return bad
	}
	*r = read
	return nil
}

func parseID(s string) (id uint16, isAny, ok bool) {
	if s == "*" {
		return 0, true, true
	}
	n, err := strconv.ParseUint(s, 16, 16)
	return uint16(n), false, err == nil && len(s) == 4
}

func (r readers) match(vid, pid uint16) bool {
	return (r.anyVID || r.vid == vid) && (r.anyPID || r.pid == pid)
}

func (r readers) String() string {
	vid, pid := fmt.Sprintf("%04X", r.vid), fmt.Sprintf("%04X", r.pid)
	if r.anyVID {
		vid = "*"
	}
	if r.anyPID {
		pid = "*"
	}
	return vid + ":" + pid
}

// versions is a range of bcdDevice: "2.00", "0.12-0.13", "<5.16" or ">=5.16". The zero value is all of them.
type versions struct {
	text     string
	min, max uint16
}

func (v *versions) UnmarshalText(text []byte) error {
	s := string(text)
	read := versions{text: s, max: 0xFFFF}
	var err error
	switch from, to, isRange := strings.Cut(s, "-"); {
	case isRange:
		if read.min, err = parseVersion(from); err == nil {
			read.max, err = parseVersion(to)
		}
	case strings.HasPrefix(s, "<"):
		read.max, err = parseVersion(s[len("<"):])
		read.max--
	case strings.HasPrefix(s, ">="):
		read.min, err = parseVersion(s[len(">="):])
	default:
		read.min, err = parseVersion(s)
		read.max = read.min
	}
	switch {
	case err != nil:
		return fmt.Errorf(`%w: write "2.00", "0.12-0.13", "<5.16" or ">=5.16"`, err)
	case read.max < read.min || s == "<0.00":
		return fmt.Errorf("%q has no version in it", s)
	}
	*v = read
	return nil
}

// parseVersion reads bcdDevice as people write it, "5.16" for 0x0516.
func parseVersion(s string) (uint16, error) {
	major, minor, _ := strings.Cut(s, ".")
	n, err := strconv.ParseUint(major+minor, 16, 16)
	if err != nil || len(major) < 1 || len(major) > 2 || len(minor) != 2 {
		return 0, fmt.Errorf("%q is not a version", s)
	}
	return uint16(n), nil
}

func (v versions) match(bcdDevice uint16) bool {
	return v.text == "" || v.min <= bcdDevice && bcdDevice <= v.max
}

// rowID is the stable name of a row: 1..64 lower-case letters, digits and hyphens.
type rowID string

func (id *rowID) UnmarshalText(text []byte) error {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789-"
	isOther := func(r rune) bool { return !strings.ContainsRune(allowed, r) }
	if len(text) == 0 || len(text) > 64 || bytes.ContainsFunc(text, isOther) {
		return fmt.Errorf("%q is not 1 to 64 lower-case letters, digits and hyphens", text)
	}
	*id = rowID(text)
	return nil
}

// maxDuration bounds every wait that a row can ask for.
const maxDuration = time.Hour

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDuration {
		return 0, fmt.Errorf(`%q is not a duration from "0s" to %q, like "250ms"`, s, maxDuration)
	}
	return d, nil
}

// maxBytes bounds an Escape command, in bytes.
const maxBytes = 512

func parseBytes(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		return nil, fmt.Errorf("%q is not hexadecimal bytes", s)
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%d bytes, at most %d are possible", len(b), maxBytes)
	}
	return b, nil
}

func parseVoltage(s string) (ccid.PowerSelect, error) {
	for p := ccid.Power5V; p <= ccid.Power18V; p++ {
		if p.String() == s {
			return p, nil
		}
	}
	return 0, fmt.Errorf(`%q is none of "5 V", "3 V", "1.8 V"`, s)
}

func parseLevel(s string) (ccid.ExchangeLevel, error) {
	for l := ccid.LevelCharacter; l <= ccid.LevelExtendedAPDU; l++ {
		if l.String() == s {
			return l, nil
		}
	}
	return 0, fmt.Errorf(`%q is none of "character", "TPDU", "short APDU", "extended APDU"`, s)
}

// parseText keeps text that fits a line of a log.
func parseText(s string) (string, error) {
	const maxText = 1000
	if len(s) > maxText {
		return "", fmt.Errorf("%d bytes of text, at most %d are possible", len(s), maxText)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return "", errors.New("text with control characters")
	}
	return s, nil
}
