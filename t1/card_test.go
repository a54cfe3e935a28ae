package t1

import "bytes"

// card is the other side of the line, for tests only. It was written from the
// rules as the card sees them and shares nothing with the engine but the PCB
// constants: blocks come and go as NAD, PCB and information field, and whether
// one arrived intact is told by the line.
type card struct {
	answer func(command []byte) []byte // the application; called once per complete command

	initialIFSC, initialIFSD int
	resendOnRepeat           bool // a known block is answered by repeating ours, not by an R-block

	ifsc, ifsd int
	expect     byte   // N(S) of the next I-block of the host
	own        byte   // N(S) of our next I-block
	command    []byte // blocks of the host's chain so far
	output     []byte // part of the answer not sent yet
	part       wire   // I-block sent and not acknowledged
	hasPart    bool
	request    wire // S(… request) sent and not answered
	after      wire // what goes out once it is
	last       wire // block sent last
	fresh      bool // last is an I-block that goes out for the first time
	afterFresh bool // so is after

	taken    []byte // what the application was given, block by block
	executed int    // how many complete commands it was given
}

// wire is a block without NAD and EDC. The zero value is not a block: its set
// bit is false.
type wire struct {
	set bool
	pcb PCB
	inf string
}

func newCard(ifsc, ifsd int, answer func([]byte) []byte) *card {
	c := &card{answer: answer, initialIFSC: ifsc, initialIFSD: ifsd}
	c.powerUp()

	return c
}

func (c *card) powerUp() {
	c.ifsc, c.ifsd = c.initialIFSC, c.initialIFSD
	c.expect, c.own = 0, 0
	c.last = wire{}
	c.forget()
}

// forget drops a command or answer under way.
func (c *card) forget() {
	c.command, c.output = c.command[:0], nil
	c.part, c.hasPart = wire{}, false
	c.request, c.after = wire{}, wire{}
}

func (c *card) clone() *card {
	d := *c
	d.command = bytes.Clone(c.command)
	d.output = bytes.Clone(c.output)
	d.taken = bytes.Clone(c.taken)

	return &d
}

func (c *card) put(pcb PCB, inf string) wire {
	c.last = wire{set: true, pcb: pcb, inf: inf}
	c.fresh = false

	return c.last
}

// damaged is what the card says to a block it could not read: the request again
// if it waits for a response, the R-block again if it sent one, else a new one.
func (c *card) damaged(code byte) wire {
	switch {
	case c.request.set:
		return c.put(c.request.pcb, c.request.inf)
	case c.last.set && c.last.pcb&0xC0 == 0x80:
		return c.last
	}

	return c.put(0x80|PCB(c.expect)<<4|PCB(code), "")
}

// take is what the card says to an intact block.
func (c *card) take(b wire) wire {
	switch {
	case b.pcb == 0xC0:
		c.powerUp()

		return c.put(0xE0, "")
	case c.request.set:
		return c.takeResponse(b)
	case b.pcb == 0xC1:
		c.ifsd = int(b.inf[0])

		return c.put(0xE1, b.inf)
	case b.pcb == 0xC2:
		c.forget()

		return c.put(0xE2, "")
	case b.pcb&0x80 == 0:
		return c.takeI(b)
	case b.pcb&0xC0 == 0x80:
		return c.takeR(b)
	}

	return c.damaged(2)
}

func (c *card) takeResponse(b wire) wire {
	if b.pcb != c.request.pcb|0x20 || b.inf != c.request.inf {
		return c.damaged(2)
	}
	was, next := c.request.pcb, c.after
	c.request, c.after = wire{}, wire{}
	switch was {
	case 0xC1:
		c.ifsc = int(b.inf[0])
	case 0xC2:
		return c.put(0x80|PCB(c.expect)<<4, "")
	}

	c.put(next.pcb, next.inf)
	c.fresh = c.afterFresh

	return c.last
}

func (c *card) takeI(b wire) wire {
	ns := byte(b.pcb >> 6 & 1)
	switch {
	case ns != c.expect && c.resendOnRepeat && c.last.set:
		return c.last
	case ns != c.expect, len(b.inf) > c.ifsc, c.hasPart && c.part.pcb&0x20 != 0:
		return c.damaged(2)
	}
	c.expect ^= 1
	c.part, c.hasPart = wire{}, false // an I-block acknowledges ours
	c.command = append(c.command, b.inf...)
	c.taken = append(c.taken, b.inf...)
	if b.pcb&0x20 != 0 {
		return c.put(0x80|PCB(c.expect)<<4, "")
	}
	c.executed++
	c.output = c.answer(c.command)
	c.command = c.command[:0]

	return c.putPart()
}

func (c *card) takeR(b wire) wire {
	nr := byte(b.pcb >> 4 & 1)
	if c.hasPart {
		ns, more := byte(c.part.pcb>>6&1), c.part.pcb&0x20 != 0
		if nr == ns {
			return c.put(c.part.pcb, c.part.inf)
		}
		if more {
			return c.putPart()
		}
	}

	return c.damaged(2)
}

func (c *card) putPart() wire {
	n := min(c.ifsd, len(c.output))
	pcb := PCB(c.own) << 6
	if n < len(c.output) {
		pcb |= 0x20
	}
	part := string(c.output[:n])
	c.output = c.output[n:]
	c.own ^= 1
	c.part, c.hasPart = wire{set: true, pcb: pcb, inf: part}, true
	c.put(pcb, part)
	c.fresh = true

	return c.last
}

// instead makes the card send a request now and the block it was about to send
// once the request is answered.
func (c *card) instead(next wire, pcb PCB, inf string) wire {
	c.afterFresh = c.fresh
	if pcb == 0xC2 {
		c.forget()
		if c.fresh {
			c.own ^= 1 // the block never goes out, so its number is free again
		}
	}
	c.request, c.after = wire{set: true, pcb: pcb, inf: inf}, next

	return c.put(pcb, inf)
}

// decode and encode are the test's own framing, so that the engine's cannot
// hide a mistake shared by both directions.
func encode(b wire, nad byte, edc EDC) []byte {
	raw := append([]byte{nad, byte(b.pcb), byte(len(b.inf))}, b.inf...)

	return append(raw, checksum(raw, edc)...)
}

func decode(raw []byte, edc EDC) (wire, bool) {
	n := 1
	if edc != LRC {
		n = 2
	}
	if len(raw) < 3+n || int(raw[2]) != len(raw)-3-n {
		return wire{}, false
	}
	body := raw[:len(raw)-n]
	if !bytes.Equal(checksum(body, edc), raw[len(body):]) {
		return wire{}, false
	}

	return wire{set: true, pcb: PCB(raw[1]), inf: string(raw[3:len(body)])}, true
}

// checksum computes the code bit by bit, unlike the engine.
func checksum(b []byte, edc EDC) []byte {
	if edc == LRC {
		var sum byte
		for _, c := range b {
			sum ^= c
		}

		return []byte{sum}
	}
	reg := 0xFFFF
	for _, c := range b {
		for bit := range 8 {
			odd := (reg ^ int(c)>>bit) & 1
			reg >>= 1
			if odd == 1 {
				reg ^= 0x8408
			}
		}
	}
	if edc == CRC {
		reg ^= 0xFFFF

		return []byte{byte(reg), byte(reg >> 8)}
	}

	return []byte{byte(reg >> 8), byte(reg)}
}
