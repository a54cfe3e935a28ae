package card

import (
	"context"
	"slices"
)

// t1Link is the card's side of T=1 (ISO/IEC 7816-3:2006 §11). Numbers of rules are those of §11.6.3.
type t1Link struct {
	traits   Traits
	plainCRC bool
	ifsc     int // what the card takes in one block
	ifsd     int // what the reader takes in one block

	nad     byte // of the answers: the addresses of what was received, exchanged
	ns      byte // N(S) of the next I-block to send
	nr      byte // N(S) of the next I-block to come
	command []byte
	answer  []byte // what of the response has not been sent
	more    bool   // the last I-block sent had the M-bit: R-blocks ask for the rest
	lastI   []byte // the last I-block sent, until the reader's next one acknowledges it
	last    []byte // the last block sent
	asking  byte   // PCB of the S(… request) sent and not answered, 0 for none
	asked   byte   // its INF
	plan    []request
	aborted bool // after the plan the card has nothing to say but R
}

// request is an S(… request) that the card makes before it answers.
type request struct {
	pcb byte
	inf []byte
}

// PCBs (§11.3.2.2).
const (
	pcbMore      = 0x20
	pcbSequence  = 0x40
	pcbR         = 0x80
	pcbRSequence = 0x10
	pcbS         = 0xC0
	pcbResynch   = 0xC0
	pcbIFS       = 0xC1
	pcbAbort     = 0xC2
	pcbWTX       = 0xC3
	pcbResponse  = 0x20

	errEDC   = 1 // low half of an R-block: EDC or parity error
	errOther = 2
)

const (
	initialIFSD = 32
	maxIFS      = 254
)

func newT1Link(traits Traits) *t1Link {
	l := &t1Link{traits: traits}
	l.resynchronise()
	return l
}

// resynchronise puts everything back to where it was after the answer to reset (rule 6.3).
func (l *t1Link) resynchronise() {
	*l = t1Link{traits: l.traits, plainCRC: l.plainCRC, nad: l.nad, ifsc: int(l.traits.IFSC), ifsd: initialIFSD}
}

func (l *t1Link) step(ctx context.Context, c *ICC) (bool, error) {
	if c.job != nil && l.asking == 0 {
		// Whoever talks while the card works is not heard.
		c.in = nil
		return true, l.wait(ctx, c)
	}
	if len(c.in) == 0 {
		return false, nil
	}
	block := c.in
	c.in = nil
	l.receive(c, block)
	return true, nil
}

// wait waits for the application. When that takes long, the card asks for more time.
func (l *t1Link) wait(ctx context.Context, c *ICC) error {
	response, done, err := c.await(ctx)
	switch {
	case err != nil:
		return err
	case done:
		l.answer = response
		l.proceed(c)
	default:
		l.ask(c, request{pcbWTX, []byte{1}})
	}
	return nil
}

// receive takes one block as it came.
func (l *t1Link) receive(c *ICC, raw []byte) {
	inf, fault := l.check(raw)
	if fault != 0 {
		l.refuse(c, fault)
		return
	}
	l.nad = raw[0]<<4 | raw[0]>>4
	switch pcb := raw[1]; {
	case pcb&pcbR == 0:
		l.information(c, pcb, inf)
	case pcb&pcbS == pcbR:
		l.acknowledgement(c, pcb)
	default:
		l.supervisory(c, pcb, inf)
	}
}

// check judges a block by itself: form, EDC, NAD, PCB and LEN. fault is 0 or the R-block's error.
func (l *t1Link) check(raw []byte) (inf []byte, fault byte) {
	edc := 1
	if l.traits.CRC {
		edc = 2
	}
	if len(raw) < 3+edc || len(raw) != 3+int(raw[2])+edc {
		return nil, errOther
	}
	body := raw[:len(raw)-edc]
	if !slices.Equal(raw[len(raw)-edc:], l.edc(body)) {
		return nil, errEDC
	}
	nad, pcb, inf := raw[0], raw[1], body[3:]
	// Equal addresses other than 0 and the bits once meant for Vpp are reserved (§11.3.2.1).
	if nad&0x88 != 0 || nad != 0 && nad>>4 == nad&15 {
		return nil, errOther
	}
	ok := false
	switch {
	case pcb&pcbR == 0:
		ok = pcb&0x1F == 0 && len(inf) <= l.ifsc
	case pcb&pcbS == pcbR:
		ok = pcb&^byte(pcbRSequence) <= pcbR|errOther && len(inf) == 0
	default:
		switch pcb &^ byte(pcbResponse) {
		case pcbResynch, pcbAbort:
			ok = len(inf) == 0
		case pcbIFS, pcbWTX:
			ok = len(inf) == 1
		}
	}
	if !ok {
		return nil, errOther
	}
	return inf, 0
}

// refuse answers a block that can't be used: with the S(… request) that is still open, else with an R-block (rule 7.1,
// 7.2).
func (l *t1Link) refuse(c *ICC, fault byte) {
	if l.asking != 0 {
		l.send(c, l.last)
		return
	}
	l.sendR(c, fault)
}

func (l *t1Link) information(c *ICC, pcb byte, inf []byte) {
	if l.asking != 0 || l.more || pcb>>6&1 != l.nr {
		l.refuse(c, errOther)
		return
	}
	l.nr ^= 1
	// An I-block of the reader acknowledges the card's last one (rule 2.2).
	l.lastI, l.answer = nil, nil
	if len(l.command)+len(inf) > maxCommand {
		l.command = nil
		l.aborted = true
		l.ask(c, request{pcb: pcbAbort})
		return
	}
	l.command = append(l.command, inf...)
	if pcb&pcbMore != 0 {
		l.sendR(c, 0)
		return
	}
	command := l.command
	l.command = nil
	l.execute(c, command)
}

// execute gives the command to the application; what the behaviour asks for comes before its answer.
func (l *t1Link) execute(c *ICC, command []byte) {
	b := c.options.Behave(command)
	if b.Mute {
		return
	}
	if b.IFSC != 0 {
		l.plan = append(l.plan, request{pcbIFS, []byte{b.IFSC}})
	}
	for _, multiplier := range b.Extensions {
		l.plan = append(l.plan, request{pcbWTX, []byte{multiplier}})
	}
	if b.Abort {
		l.plan = append(l.plan, request{pcb: pcbAbort})
		l.aborted = true
		l.proceed(c)
		return
	}
	c.begin(b, func(ctx context.Context) ([]byte, error) { return c.dialogue.transmit(ctx, command) })
}

// proceed makes the next planned request, or sends the answer.
func (l *t1Link) proceed(c *ICC) {
	switch {
	case len(l.plan) > 0:
		next := l.plan[0]
		l.plan = l.plan[1:]
		l.ask(c, next)
	case l.aborted:
		l.aborted, l.answer, l.more = false, nil, false
		l.sendR(c, 0)
	default:
		l.sendI(c)
	}
}

func (l *t1Link) ask(c *ICC, r request) {
	l.asking, l.asked = r.pcb, 0
	if len(r.inf) > 0 {
		l.asked = r.inf[0]
	}
	l.send(c, l.block(r.pcb, r.inf))
}

func (l *t1Link) sendI(c *ICC) {
	n := min(len(l.answer), l.ifsd)
	pcb := l.ns << 6
	l.more = n < len(l.answer)
	if l.more {
		pcb |= pcbMore
	}
	l.lastI = l.block(pcb, l.answer[:n])
	l.answer = l.answer[n:]
	l.ns ^= 1
	l.send(c, l.lastI)
}

func (l *t1Link) sendR(c *ICC, fault byte) { l.send(c, l.block(pcbR|l.nr<<4|fault, nil)) }

func (l *t1Link) send(c *ICC, block []byte) {
	l.last = block
	c.out = append(c.out, block...)
}

// acknowledgement takes an R-block: it asks for the next block of a chain, or for the last I-block again, or, where
// neither fits, for whatever the card sent last (rules 5, 7.2, 7.3).
func (l *t1Link) acknowledgement(c *ICC, pcb byte) {
	switch wanted := pcb >> 4 & 1; {
	case l.asking != 0:
		l.send(c, l.last)
	case l.lastI != nil && wanted != l.ns:
		l.send(c, l.lastI)
	case l.more && wanted == l.ns:
		l.sendI(c)
	case len(l.last) > 0 && l.last[1]&pcbS == pcbR:
		l.send(c, l.last)
	default:
		l.sendR(c, errOther)
	}
}

func (l *t1Link) supervisory(c *ICC, pcb byte, inf []byte) {
	if pcb&pcbResponse != 0 {
		l.granted(c, pcb, inf)
		return
	}
	switch pcb {
	case pcbResynch:
		c.stop()
		l.resynchronise()
	case pcbIFS:
		if inf[0] == 0 || inf[0] > maxIFS {
			l.refuse(c, errOther)
			return
		}
		l.ifsd = int(inf[0])
	case pcbAbort:
		c.stop()
		l.command, l.answer, l.more, l.plan, l.aborted, l.asking = nil, nil, false, nil, false, 0
	default:
		// Only a card may ask for waiting time.
		l.refuse(c, errOther)
		return
	}
	l.send(c, l.block(pcb|pcbResponse, inf))
}

// granted takes an S(… response). One that does not repeat the request is no answer to it (rule 3).
func (l *t1Link) granted(c *ICC, pcb byte, inf []byte) {
	if l.asking == 0 || pcb != l.asking|pcbResponse || len(inf) > 0 && inf[0] != l.asked {
		l.refuse(c, errOther)
		return
	}
	if l.asking == pcbIFS {
		l.ifsc = int(inf[0])
	}
	l.asking = 0
	if l.answer != nil || l.aborted || len(l.plan) > 0 {
		l.proceed(c)
	}
}

func (l *t1Link) block(pcb byte, inf []byte) []byte {
	b := append([]byte{l.nad, pcb, byte(len(inf))}, inf...)
	return append(b, l.edc(b)...)
}

// edc computes the error detection code as the card sends and wants it.
func (l *t1Link) edc(b []byte) []byte {
	edc := EDC(b, l.traits.CRC)
	if l.plainCRC && l.traits.CRC {
		return []byte{^edc[1], ^edc[0]}
	}
	return edc
}

// EDC computes the error detection code of a T=1 block without one: LRC, or the CRC of ISO/IEC 13239 (ISO/IEC 7816-3:2006
// §11.3.4). Readers need it that complete blocks by themselves.
func EDC(b []byte, crc bool) []byte {
	if !crc {
		var lrc byte
		for _, v := range b {
			lrc ^= v
		}
		return []byte{lrc}
	}
	sum := uint16(0xFFFF)
	for _, v := range b {
		sum ^= uint16(v)
		for range 8 {
			if sum&1 != 0 {
				sum = sum>>1 ^ 0x8408
			} else {
				sum >>= 1
			}
		}
	}
	return []byte{byte(^sum), byte(^sum >> 8)}
}
