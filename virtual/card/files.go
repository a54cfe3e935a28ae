package card

import (
	"bytes"
	"slices"

	"github.com/goccid/goccid/apdu"
)

// file is a DF or a transparent EF.
type file struct {
	id        uint16
	sfi       byte
	df        bool
	name      []byte // DF name
	data      []byte
	readOnly  bool
	protected bool // needs the PIN
	parent    *file
	files     []*file

	// information is what SELECT answers, where that is not the file control information by the standard.
	information []byte
}

func (f *file) add(files ...*file) {
	for _, child := range files {
		child.parent = f
		f.files = append(f.files, child)
	}
}

func (f *file) child(match func(*file) bool) *file {
	if i := slices.IndexFunc(f.files, match); i >= 0 {
		return f.files[i]
	}
	return nil
}

// walk follows a path of two-byte identifiers down from f.
func (f *file) walk(path []byte) *file {
	if len(path) == 0 || len(path)%2 != 0 {
		return nil
	}
	for ; len(path) > 0 && f != nil; path = path[2:] {
		id := uint16(path[0])<<8 | uint16(path[1])
		f = f.child(func(c *file) bool { return c.id == id })
	}
	return f
}

// named finds the DF whose name begins with prefix (ISO/IEC 7816-4:2013 §7.3.3: a DF name may be right-truncated).
func (f *file) named(prefix []byte) *file {
	return f.child(func(c *file) bool { return len(prefix) > 0 && bytes.HasPrefix(c.name, prefix) })
}

const (
	swFileNotFound = 0x6A82
	swWrongP1P2    = 0x6A86
	swNoCurrentEF  = 0x6986
	swBeyondEnd    = 0x6B00
	swEndReached   = 0x6282
	swSecurity     = 0x6982
	swNotAllowed   = 0x6985
)

// selectFile is SELECT (ISO/IEC 7816-4:2013 §11.1.1).
func (a *ISO) selectFile(c apdu.Command) ([]byte, uint16) {
	if c.P2&^byte(0x0C) != 0 {
		return nil, swWrongP1P2
	}
	f, sw := a.find(c.P1, c.Data)
	if sw != swOK {
		return nil, sw
	}
	if f.df {
		a.current, a.ef = f, nil
	} else {
		a.current, a.ef = f.parent, f
	}
	if f.information != nil {
		return slices.Clone(f.information), swOK
	}
	switch c.P2 & 0x0C {
	case 0x00:
		return f.template(0x6F), swOK
	case 0x04:
		return f.template(0x62), swOK
	}
	return nil, swOK
}

func (a *ISO) find(p1 byte, data []byte) (*file, uint16) {
	var f *file
	switch p1 {
	case 0x00:
		f = a.byIdentifier(data)
	case 0x01, 0x02:
		f = a.current.walk(data)
		if f != nil && (len(data) != 2 || f.df != (p1 == 0x01)) {
			f = nil
		}
	case 0x03:
		f = a.current.parent
	case 0x04:
		f = a.root.named(data)
	case 0x08:
		f = a.root.walk(data)
	case 0x09:
		f = a.current.walk(data)
	default:
		return nil, swWrongP1P2
	}
	if f == nil {
		return nil, swFileNotFound
	}
	return f, swOK
}

// byIdentifier looks for the MF, then among the children of the current DF, then for a DF beside it.
func (a *ISO) byIdentifier(data []byte) *file {
	if len(data) == 0 || bytes.Equal(data, []byte{0x3F, 0x00}) {
		return a.root
	}
	if len(data) != 2 {
		return nil
	}
	if f := a.current.walk(data); f != nil {
		return f
	}
	if a.current.parent == nil {
		return nil
	}
	if f := a.current.parent.walk(data); f != nil && f.df {
		return f
	}
	return nil
}

// template is the file's control information (ISO/IEC 7816-4:2013 §7.4).
func (f *file) template(tag byte) []byte {
	var inner []byte
	descriptor := byte(0x01)
	if f.df {
		descriptor = 0x38
	} else {
		// Tag 80 has the size; 65,536 needs three bytes.
		n := len(f.data)
		inner = append(inner, 0x80, 3, byte(n>>16), byte(n>>8), byte(n))
	}
	inner = append(inner, 0x82, 1, descriptor, 0x83, 2, byte(f.id>>8), byte(f.id))
	if f.name != nil {
		inner = append(append(inner, 0x84, byte(len(f.name))), f.name...)
	}
	if f.sfi != 0 {
		inner = append(inner, 0x88, 1, f.sfi<<3)
	}
	return append([]byte{tag, byte(len(inner))}, inner...)
}

// target finds the file and the offset that P1 P2 of READ BINARY and UPDATE BINARY name (§11.3.2).
func (a *ISO) target(c apdu.Command) (f *file, offset int, sw uint16) {
	f, offset = a.ef, int(c.P1)<<8|int(c.P2)
	if c.P1&0x80 != 0 {
		if c.P1&0x60 != 0 {
			return nil, 0, swWrongP1P2
		}
		sfi := c.P1 & 0x1F
		if sfi != 0 {
			f = a.current.child(func(c *file) bool { return !c.df && c.sfi == sfi })
			if f == nil {
				return nil, 0, swFileNotFound
			}
			a.ef = f
		}
		offset = int(c.P2)
	}
	switch {
	case f == nil:
		return nil, 0, swNoCurrentEF
	case f.protected && !a.verified:
		return nil, 0, swSecurity
	case offset > len(f.data) || offset == len(f.data) && offset > 0:
		return nil, 0, swBeyondEnd
	}
	return f, offset, swOK
}

// readBinary is READ BINARY. Where Le asks for all there is, the end of the file is no warning.
func (a *ISO) readBinary(c apdu.Command) ([]byte, uint16) {
	f, offset, sw := a.target(c)
	if sw != swOK {
		return nil, sw
	}
	n := min(c.Ne, len(f.data)-offset)
	all := c.Ne == 256 && !c.Extended || c.Ne == 65536
	if n < c.Ne && !all {
		sw = swEndReached
	}
	return slices.Clone(f.data[offset : offset+n]), sw
}

func (a *ISO) updateBinary(c apdu.Command) uint16 {
	f, offset, sw := a.target(c)
	switch {
	case sw != swOK:
		return sw
	case f.readOnly:
		return swNotAllowed
	case offset+len(c.Data) > len(f.data):
		return 0x6A84
	}
	copy(f.data[offset:], c.Data)
	return swOK
}
