package virtual

import (
	"github.com/goccid/goccid/ccid"
)

// pinLayout says how PINs are written into a command (CCID 1.1 §6.1.11).
type pinLayout struct {
	format ccid.PINFormatString
	block  ccid.PINBlockString
	length ccid.PINLengthFormat
}

// pinCommand is a short command APDU into which PINs are written. One without data grows as far as they need.
type pinCommand struct {
	header [4]byte
	data   []byte
	le     []byte // nothing or one byte
	grows  bool
}

// parsePINCommand takes abPINApdu: a header, with Lc and data, and perhaps Le, behind it. A length byte of 0 stands for an
// Lc to be filled in.
func parsePINCommand(b []byte) (pinCommand, bool) {
	const header = 4
	if len(b) < header {
		return pinCommand{}, false
	}
	c := pinCommand{header: [4]byte(b)}
	body := b[header:]
	if len(body) == 0 || len(body) == 1 && body[0] == 0 {
		c.grows = true
		return c, true
	}
	lc := int(body[0])
	if lc == 0 || len(body) < 1+lc || len(body) > 1+lc+1 {
		return pinCommand{}, false
	}
	c.data = append([]byte(nil), body[1:1+lc]...)
	c.le = append([]byte(nil), body[1+lc:]...)
	return c, true
}

// bytes puts the command together.
func (c pinCommand) bytes() []byte {
	b := append(c.header[:], byte(len(c.data)))
	return append(append(b, c.data...), c.le...)
}

// room is how many digits fit at an insertion offset, in bytes: as many as the block has, or as the data have where the
// block has no size. ok is false when block or PIN length lie beyond the data.
func (c pinCommand) room(l pinLayout, offset int) (digits int, ok bool) {
	const longest = 255
	end := 8 * longest
	if !c.grows {
		end = 8 * len(c.data)
	}
	start := 8*offset + l.format.PositionBits()
	room := end - start
	if size := 8 * l.block.Size(); size > 0 {
		if size > room {
			return 0, false
		}
		room = size
	}
	lengthEnd := 8*offset + l.length.PositionBits() + l.block.LengthBits()
	return room / l.format.Format().DigitBits(), room > 0 && (l.block.LengthBits() == 0 || lengthEnd <= end)
}

// write writes a PIN at an insertion offset. room has said that it fits.
func (c *pinCommand) write(l pinLayout, offset int, digits []byte) {
	width := l.format.Format().DigitBits()
	size := 8 * l.block.Size()
	if size == 0 {
		size = len(digits) * width
	}
	at := 8*offset + l.format.PositionBits()
	c.grow(at + size)
	if l.format.Right() {
		at += size - len(digits)*width
	}
	for _, d := range digits {
		if l.format.Format() == ccid.PINASCII {
			d += '0'
		}
		putBits(c.data, at, width, uint16(d))
		at += width
	}
	if bits := l.block.LengthBits(); bits > 0 {
		at := 8*offset + l.length.PositionBits()
		c.grow(at + bits)
		putBits(c.data, at, bits, uint16(len(digits)))
	}
}

// grow makes the data that many bits long, at least. What is not written to is all ones, as padding commonly is.
func (c *pinCommand) grow(bits int) {
	for c.grows && 8*len(c.data) < bits {
		c.data = append(c.data, 0xFF)
	}
}

// putBits writes the lower width bits of v, the highest first, at a bit's position from the beginning.
func putBits(b []byte, at, width int, v uint16) {
	for i := range width {
		bit := byte(v>>(width-1-i)) & 1
		shift := 7 - (at+i)%8
		b[(at+i)/8] = b[(at+i)/8]&^(1<<shift) | bit<<shift
	}
}
