package card

import "context"

// t0Link is the card's side of T=0, character by character (ISO/IEC 7816-3:2006 §10).
type t0Link struct {
	phase     t0Phase
	header    [5]byte
	behaviour Behaviour
	data      []byte // of an incoming command, so far
	exact     *exactResponse
}

type t0Phase uint8

const (
	t0Header  t0Phase = iota // waits for CLA INS P1 P2 P3
	t0Data                   // waits for data
	t0Working                // the application works
)

// exactResponse is an answer that was not given, because P3 did not match its length (SW1 = 6C).
type exactResponse struct {
	header [4]byte
	data   []byte
	sw     uint16
}

// null is the procedure byte that asks for more time (§10.3.3).
const null = 0x60

func (l *t0Link) step(ctx context.Context, c *ICC) (bool, error) {
	switch l.phase {
	case t0Header:
		return l.takeHeader(ctx, c)
	case t0Data:
		return l.takeData(c), nil
	}
	return true, l.work(ctx, c)
}

// p3 is the number of bytes that P3 stands for, when it is the length of what the card sends.
func (l *t0Link) p3() int {
	if l.header[4] == 0 {
		return 256
	}
	return int(l.header[4])
}

func (l *t0Link) takeHeader(ctx context.Context, c *ICC) (bool, error) {
	if len(c.in) < 5 {
		return false, nil
	}
	l.header = [5]byte(c.in)
	c.in = c.in[5:]
	ins := l.header[1]
	switch {
	case ins>>4 == 6 || ins>>4 == 9:
		l.finish(c, nil, swINSInvalid)
		return true, nil
	case l.header[0] == 0xFF:
		l.finish(c, nil, swCLAInvalid)
		return true, nil
	}
	if ins == insGetResponse {
		l.fetch(c)
		return true, nil
	}
	if exact := l.exact; exact != nil {
		l.exact = nil
		if exact.header == [4]byte(l.header[:4]) && len(exact.data) == l.p3() {
			l.send(c, exact.data, exact.sw)
			return true, nil
		}
	}
	l.behaviour = c.options.Behave(l.header[:])
	for range l.behaviour.Extensions {
		c.out = append(c.out, null)
	}
	l.data = nil
	if l.header[4] > 0 && c.options.Incoming(l.header) {
		l.phase = t0Data
		c.out = append(c.out, l.procedureByte(int(l.header[4])))
		return true, nil
	}
	l.start(c)
	return true, nil
}

// procedureByte asks for what is left of the data: INS for all of it, its complement for one byte (§10.3.3).
func (l *t0Link) procedureByte(left int) byte {
	if l.behaviour.Singly && left > 1 {
		return ^l.header[1]
	}
	return l.header[1]
}

func (l *t0Link) takeData(c *ICC) bool {
	left := int(l.header[4]) - len(l.data)
	n := left
	if l.procedureByte(left) != l.header[1] {
		n = 1
	}
	if len(c.in) < n {
		return false
	}
	l.data = append(l.data, c.in[:n]...)
	c.in = c.in[n:]
	if left -= n; left > 0 {
		c.out = append(c.out, l.procedureByte(left))
		return true
	}
	l.start(c)
	return true
}

// start gives the command to the application. T=0 does not tell the card what length of answer the host expects when
// there are data, so the application is told that all is welcome (§12.2.5).
func (l *t0Link) start(c *ICC) {
	l.phase = t0Working
	if l.behaviour.Mute {
		return
	}
	command := append([]byte(nil), l.header[:]...)
	if l.data != nil {
		command = append(append(command, l.data...), 0)
	}
	envelope := l.header[1] == insEnvelope
	data := l.data
	c.begin(l.behaviour, func(ctx context.Context) ([]byte, error) {
		if envelope {
			sw, err := c.dialogue.addEnvelope(ctx, data)
			return appendSW(nil, sw), err
		}
		rest, sw, err := c.dialogue.run(ctx, command)
		return appendSW(rest[:len(rest):len(rest)], sw), err
	})
}

// work waits for the application and sends its answer, or a NULL when it takes long.
func (l *t0Link) work(ctx context.Context, c *ICC) error {
	if c.job == nil {
		return ErrMute
	}
	response, done, err := c.await(ctx)
	if err != nil {
		return err
	}
	if !done {
		c.out = append(c.out, null)
		return nil
	}
	n := len(response) - 2
	data, sw := response[:n], uint16(response[n])<<8|uint16(response[n+1])
	if len(l.data) > 0 {
		if l.header[1] != insEnvelope {
			c.dialogue.hold(data, sw)
			sw = c.dialogue.status()
		}
		l.finish(c, nil, sw)
		return nil
	}
	l.answer(c, data, sw)
	return nil
}

// answer sends the answer to a command without data: as much as P3 asks for, or SW1 = 6C where there is less.
func (l *t0Link) answer(c *ICC, data []byte, sw uint16) {
	switch {
	case len(data) == 0:
		l.finish(c, nil, sw)
	case len(data) < l.p3():
		l.exact = &exactResponse{header: [4]byte(l.header[:4]), data: data, sw: sw}
		l.finish(c, nil, swExactLength|uint16(len(data)))
	default:
		c.dialogue.hold(data, sw)
		l.fetch(c)
	}
}

// fetch sends what P3 asks for of the data held.
func (l *t0Link) fetch(c *ICC) {
	switch n := len(c.dialogue.rest); {
	case n == 0:
		l.finish(c, nil, swNotSatisfied)
	case n < l.p3():
		l.finish(c, nil, swExactLength|uint16(n))
	default:
		data, sw := c.dialogue.take(l.p3())
		l.send(c, data, sw)
	}
}

// send sends data behind procedure bytes, and the status word.
func (l *t0Link) send(c *ICC, data []byte, sw uint16) {
	for len(data) > 0 {
		b := l.procedureByte(len(data))
		c.out = append(c.out, b)
		n := len(data)
		if b != l.header[1] {
			n = 1
		}
		c.out = append(c.out, data[:n]...)
		data = data[n:]
	}
	l.finish(c, nil, sw)
}

func (l *t0Link) finish(c *ICC, data []byte, sw uint16) {
	l.phase = t0Header
	c.out = appendSW(append(c.out, data...), sw)
}

// incoming tells the commands of ISO/IEC 7816-4, -8 and -9, and of this package, that bring data when P3 is not 0. T=0
// itself does not say which way the data go.
func incoming(header [5]byte) bool {
	switch header[1] {
	case 0x04, 0x0E, 0x0F, 0x20, 0x21, 0x22, 0x24, 0x25, 0x26, 0x28, 0x2A, 0x2B, 0x2C, 0x2D, 0x44, 0x46, 0x47, 0x82, 0x86, 0x87, 0x88,
		0xA0, 0xA1, 0xA2, 0xA4, 0xA5, 0xB1, 0xB3, insEnvelope, 0xC3, 0xCB, 0xD0, 0xD1, 0xD2, 0xD6, 0xD7, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE,
		0xE0, 0xE2, 0xE4, 0xE6, 0xE8, insEcho:
		return true
	}
	return false
}
