package explain

import (
	"errors"
	"fmt"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
)

// blocks tells repeated T=1 blocks from new ones.
type blocks struct {
	out, in         byte // N(S) of the last I-blocks
	outSeen, inSeen bool
}

// parseBlock decodes a block with the error detection code that the ATR announces, or else with another that is right: the
// CRC has two forms in use. Where none is right, the error is that of the announced one.
func parseBlock(raw []byte, announced t1.EDC) (t1.Block, t1.EDC, error) {
	b, first := t1.ParseBlock(raw, announced)
	if first == nil {
		return b, announced, nil
	}
	for _, edc := range []t1.EDC{t1.LRC, t1.CRC, t1.CRCPlain} {
		if b, err := t1.ParseBlock(raw, edc); err == nil {
			return b, edc, nil
		}
	}
	return t1.Block{}, announced, first
}

// blockLayer explains a block (ISO/IEC 7816-3:2006 §11.3).
func blockLayer(raw []byte, announced t1.EDC) (Layer, t1.Block, error) {
	const prologue = 3
	block, edc, err := parseBlock(raw, announced)
	layer := Layer{Protocol: "T=1", Name: "block"}
	if len(raw) < prologue {
		layer.Notes = []string{spaced(raw)}
		return layer, block, err
	}
	pcb := t1.PCB(raw[1])
	layer.Name = pcb.String()
	layer.Fields = []Field{
		{Name: "NAD", Value: hex8(raw[0]), Meaning: fmt.Sprintf("DAD %d, SAD %d", raw[0]>>4&7, raw[0]&7)},
		{Name: "PCB", Value: hex8(raw[1]), Meaning: pcbMeaning(pcb)},
		{Name: "LEN", Value: fmt.Sprint(raw[2]), Meaning: "bytes of INF"},
	}
	if err == nil {
		if len(block.INF) > 0 {
			layer.Fields = append(layer.Fields, Field{Name: "INF", Value: spaced(block.INF), Meaning: infMeaning(block)})
		}
		code := raw[prologue+len(block.INF):]
		layer.Fields = append(layer.Fields, Field{Name: "EDC", Value: spaced(code), Meaning: edcName(edc) + ", right"})
		return layer, block, nil
	}
	meaning := ""
	if errors.Is(err, t1.ErrEDC) {
		meaning = edcName(announced) + " is wrong"
	}
	layer.Fields = append(layer.Fields, Field{Name: "INF, EDC", Value: spaced(raw[prologue:]), Meaning: meaning})
	return layer, block, err
}

func edcName(e t1.EDC) string {
	switch e {
	case t1.LRC:
		return "LRC"
	case t1.CRC:
		return "CRC"
	}
	return "CRC without complement"
}

// pcbMeaning explains the protocol control byte (§11.3.2.2).
func pcbMeaning(p t1.PCB) string {
	switch p.Kind() {
	case t1.Information:
		if p.More() {
			return fmt.Sprintf("I-block, N(S) = %d, more follows", p.NS())
		}
		return fmt.Sprintf("I-block, N(S) = %d, the last of its chain", p.NS())
	case t1.ReceiveReady:
		text := fmt.Sprintf("R-block, N(R) = %d: the I-block with that number is expected", p.NR())
		return text + oneOf(int(p.Code()), "", ", after a parity or EDC error", ", after another error")
	case t1.Supervisory:
		return "S-block"
	}
	return "reserved"
}

func infMeaning(b t1.Block) string {
	switch b.PCB {
	case t1.IFSRequest, t1.IFSResponse:
		return fmt.Sprintf("information fields of at most %s", plural(int(b.INF[0]), "byte"))
	case t1.WTXRequest, t1.WTXResponse:
		return fmt.Sprintf("block waiting time × %d", b.INF[0])
	}
	return ""
}

func (s *slot) sendBlock(raw []byte) part {
	layer, block, err := blockLayer(raw, s.edc)
	p := part{layers: []Layer{layer}}
	if err != nil {
		p.problem("the host's block: %v", err)
	}
	switch {
	case err != nil:
	case block.PCB == t1.ResynchRequest:
		s.t1 = blocks{}
		if s.command != nil && !s.command.done {
			s.command.Problem, s.command.done = "given up: the host asked for a RESYNCH", true
		}
	case block.PCB.Kind() == t1.Information && s.t1.outSeen && s.t1.out == block.PCB.NS() && s.command != nil && !s.command.done:
		p.layers[0].Notes = append(p.layers[0].Notes, "sent again")
	case block.PCB.Kind() == t1.Information:
		s.t1.out, s.t1.outSeen = block.PCB.NS(), true
		if s.command != nil && s.command.sending {
			s.command.append(block.INF)
			s.command.sending = block.PCB.More()
			break
		}
		begun := s.begin(block.INF, block.PCB.More())
		begun.layers, begun.problems = p.layers, p.problems
		return begun
	}
	p.exchange = s.underWay()
	return p
}

// underWay returns the exchange that has no response yet, nil where there is none.
func (s *slot) underWay() *exchange {
	if s.command == nil || s.command.done {
		return nil
	}
	return s.command
}

func (s *slot) receiveBlock(raw []byte) part {
	layer, block, err := blockLayer(raw, s.edc)
	p := part{layers: []Layer{layer}, exchange: s.underWay()}
	switch {
	case err != nil:
		p.problem("the card's block: %v", err)
	case block.PCB == t1.ResynchResponse:
		s.t1 = blocks{}
	case block.PCB.Kind() != t1.Information || p.exchange == nil:
	case s.t1.inSeen && s.t1.in == block.PCB.NS():
		p.layers[0].Notes = append(p.layers[0].Notes, "sent again")
	default:
		s.t1.in, s.t1.inSeen = block.PCB.NS(), true
		p.exchange.answer(block.INF)
		if !block.PCB.More() {
			p.exchange.finish()
		}
	}
	return p
}

// characters puts together what comes in pieces at the character level (CCID 1.1 §6.1.4): a PPS, a T=1 block, or a TPDU of
// T=0 with its procedure bytes (ISO/IEC 7816-3:2006 §10.3.3).
type characters struct {
	in []byte // of a T=1 block or PPS that isn't whole
	// T=0: what is left of the data that the procedure byte let through, how much of P3 is done, and SW1.
	let, left int
	sw1       byte
}

func (s *slot) sendCharacters(data []byte) part {
	switch {
	case len(data) == 0:
		return part{exchange: s.underWay(), layers: []Layer{{Protocol: "characters", Name: "the host asks for more"}}}
	case isPPS(data) && s.command == nil:
		s.ppsSent, s.characters = true, characters{}
		return part{sets: true, layers: []Layer{ppsLayer("PPS request", data)}}
	case s.speaksT1(data):
		s.characters = characters{}
		return s.sendBlock(data)
	}
	x := s.underWay()
	if x != nil && len(x.TPDUs) > 0 && s.characters.left > 0 {
		n := len(data)
		s.characters.left = max(0, s.characters.left-n)
		s.characters.let = 0
		last := &x.TPDUs[len(x.TPDUs)-1]
		if len(last[0])+n <= maxAPDU {
			last[0] = append(last[0], data...)
		}
		if len(x.TPDUs) == 1 {
			x.append(data)
		}
		return part{exchange: x, layers: []Layer{{Protocol: "T=0", Name: "command data", Notes: []string{spaced(data)}}}}
	}
	s.characters = characters{}
	if len(data) > 4 {
		s.characters.left = int(data[4])
		if data[4] == 0 {
			s.characters.left = 256
		}
	}
	return s.sendTPDU(data)
}

func (s *slot) receiveCharacters(data []byte) part {
	if s.ppsSent || s.protocol == 1 {
		return s.receivePieces(data)
	}
	x := s.underWay()
	if x == nil || len(x.TPDUs) == 0 {
		return part{layers: []Layer{{Protocol: "characters", Name: plural(len(data), "byte"), Notes: []string{spaced(data)}}}}
	}
	p := part{exchange: x}
	for len(data) > 0 && !x.done {
		var layer Layer
		layer, data = s.procedure(x, data)
		p.layers = append(p.layers, layer)
	}
	if len(data) > 0 {
		p.problem("%s more than T=0 has place for", plural(len(data), "byte"))
	}
	return p
}

// procedure takes the next bytes of the card in T=0, and returns what is left of them.
func (s *slot) procedure(x *exchange, data []byte) (Layer, []byte) {
	c := &s.characters
	last := &x.TPDUs[len(x.TPDUs)-1]
	b, ins := data[0], x.instruction()
	switch {
	case c.sw1 != 0:
		sw := []byte{c.sw1, b}
		x.answer(sw)
		last[1] = append(last[1], sw...)
		x.done = true
		*c = characters{}
		return Layer{Protocol: "T=0", Name: "SW2", Fields: responseTPDUFields(sw)}, data[1:]
	case c.let > 0:
		n := min(c.let, len(data))
		c.let -= n
		c.left -= n
		x.answer(data[:n])
		last[1] = append(last[1], data[:n]...)
		return Layer{Protocol: "T=0", Name: "response data", Notes: []string{spaced(data[:n])}}, data[n:]
	case b == 0x60:
		return Layer{Protocol: "T=0", Name: "procedure byte 60: wait"}, data[1:]
	case b == ins:
		c.let = c.left
		return Layer{Protocol: "T=0", Name: fmt.Sprintf("procedure byte %02X: all the data", b)}, data[1:]
	case b == ^ins:
		c.let = min(1, c.left)
		return Layer{Protocol: "T=0", Name: fmt.Sprintf("procedure byte %02X: one byte of data", b)}, data[1:]
	case b>>4 == 6 || b>>4 == 9:
		c.sw1 = b
		return Layer{Protocol: "T=0", Name: fmt.Sprintf("SW1 %02X", b)}, data[1:]
	}
	return Layer{Protocol: "T=0", Name: fmt.Sprintf("%02X: no procedure byte", b)}, data[1:]
}

// instruction is INS of the last TPDU, 0 where there is none.
func (x *exchange) instruction() byte {
	last := x.TPDUs[len(x.TPDUs)-1][0]
	if len(last) < 2 {
		return 0
	}
	return last[1]
}

// receivePieces puts a PPS or a block together.
func (s *slot) receivePieces(data []byte) part {
	c := &s.characters
	if len(c.in)+len(data) <= ccid.MaxMessageLength {
		c.in = append(c.in, data...)
	}
	if s.ppsSent {
		if n := ppsLength(c.in); n == 0 || len(c.in) < n {
			return piece(data, nil)
		}
		s.ppsSent = false
		whole := c.in
		c.in = nil
		return s.receivePPS(whole)
	}
	if len(c.in) < 3 || len(c.in) < blockLength(c.in, s.edc) {
		return piece(data, s.underWay())
	}
	whole := c.in
	c.in = nil
	return s.receiveBlock(whole)
}

func piece(data []byte, x *exchange) part {
	return part{exchange: x, layers: []Layer{{Protocol: "characters", Name: plural(len(data), "byte"), Notes: []string{spaced(data)}}}}
}

func blockLength(b []byte, edc t1.EDC) int {
	if edc == t1.LRC {
		return 3 + int(b[2]) + 1
	}
	return 3 + int(b[2]) + 2
}

// ppsLength is the length that PPS0 says (ISO/IEC 7816-3:2006 §9.2), 0 as long as it isn't there.
func ppsLength(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	n := 3
	for bit := range 3 {
		n += int(b[1] >> (4 + bit) & 1)
	}
	return n
}
