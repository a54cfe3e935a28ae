package virtual

import (
	"context"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/virtual/card"
)

// transfer answers XfrBlock (CCID 1.1 §6.1.4).
func (s *slot) transfer(c ccid.Command) {
	f := s.function
	if !s.isActive() {
		s.inactive(c)
		f.respond(s.failure(c, ccid.ErrorICCMute))
		return
	}
	switch f.level {
	case ccid.LevelCharacter:
		f.begin(s, c, func(ctx context.Context) ccid.Response { return s.characters(ctx, c) })
	case ccid.LevelTPDU:
		f.begin(s, c, func(ctx context.Context) ccid.Response { return s.tpdu(ctx, c) })
	case ccid.LevelShortAPDU:
		s.shortAPDU(c)
	default:
		s.extendedAPDU(c)
	}
}

// result makes a DataBlock of what came from the card.
func (s *slot) result(c ccid.Command, data []byte, code ccid.ErrorCode) ccid.Response {
	switch {
	case code != 0:
		return s.failure(c, code)
	case uint64(len(data)+ccid.HeaderLength) > uint64(s.function.class.DwMaxCCIDMessageLength):
		return s.failure(c, ccid.ErrorXfrOverrun)
	}
	return s.answer(c, 0, data)
}

// waiting bounds a context by the reader's waiting time.
func (s *slot) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.function.reader.config.WaitingTime)
}

// line is the reader's end of the I/O contact during one exchange.
type line struct {
	slot    *slot
	card    card.Card
	command ccid.Command
}

// read reads exactly n characters.
func (l line) read(ctx context.Context, n int) ([]byte, ccid.ErrorCode) {
	ctx, cancel := l.slot.waiting(ctx)
	defer cancel()
	var b []byte
	for len(b) < n {
		part, err := l.card.Read(ctx, n-len(b))
		if err != nil {
			return b, ccid.ErrorICCMute
		}
		b = append(b, part...)
	}
	return b, 0
}

// ready checks that reader and card agree on how to talk. The first bytes of an exchange tell a PPS request from others.
func (l line) ready(first byte) ccid.ErrorCode {
	s, c := l.slot, l.command
	state := l.card.State()
	if state.Negotiable && first == 0xFF {
		if s.function.class.DwFeatures&(ccid.FeatureAutoPPS|ccid.FeatureAutoParameters) != 0 {
			s.violated(c, RulePPS, "dwFeatures %08X", uint32(s.function.class.DwFeatures))
		}
		return 0
	}
	s.function.mu.Lock()
	p := s.parameters
	s.function.mu.Unlock()
	if p.protocol != state.Protocol {
		s.violated(c, RuleNotConfigured, "the card speaks T=%d, the parameters say T=%d", state.Protocol, p.protocol)
		return ccid.ErrorICCMute
	}
	if p.fd() != state.FD {
		s.violated(c, RuleNotConfigured, "the card works with %02X, bmFindexDindex is %02X", state.FD, p.fd())
		return ccid.ErrorICCMute
	}
	return 0
}

// characters is the exchange at character level: send, then read as many characters as wLevelParameter says.
func (s *slot) characters(ctx context.Context, c ccid.Command) ccid.Response {
	l := line{slot: s, card: s.activeCard(), command: c}
	if l.card == nil {
		return s.failure(c, ccid.ErrorICCMute)
	}
	n := int(c.LevelParameter())
	if n == 0 && len(c.Data) == 0 || uint64(n+ccid.HeaderLength) > uint64(s.function.class.DwMaxCCIDMessageLength) {
		s.violated(c, RuleLevel, "%d bytes to send, %d to receive", len(c.Data), n)
		return s.failure(c, ccid.ErrorBadLevelParameter)
	}
	if len(c.Data) > 0 {
		if code := l.ready(c.Data[0]); code != 0 {
			return s.failure(c, code)
		}
		s.checkBWI(c)
		l.card.Write(c.Data)
	}
	b, code := l.read(ctx, n)
	return s.result(c, b, code)
}

// checkBWI watches over bBWI, which multiplies the block waiting time of T=1 and nothing else.
func (s *slot) checkBWI(c ccid.Command) {
	s.function.mu.Lock()
	protocol := s.parameters.protocol
	s.function.mu.Unlock()
	if c.Specific[0] != 0 && (protocol != 1 || s.function.level > ccid.LevelTPDU) {
		s.violated(c, RuleBWI, "bBWI %d", c.Specific[0])
	}
}

// tpdu is the exchange at TPDU level: a T=0 TPDU, a T=1 block or a PPS request.
func (s *slot) tpdu(ctx context.Context, c ccid.Command) ccid.Response {
	if c.LevelParameter() != 0 {
		s.violated(c, RuleLevel, "%04X at TPDU level", c.LevelParameter())
	}
	l := line{slot: s, card: s.activeCard(), command: c}
	if l.card == nil {
		return s.failure(c, ccid.ErrorICCMute)
	}
	if len(c.Data) == 0 {
		s.violated(c, RuleTPDU, "empty")
		return s.failure(c, ccid.ErrorBadLength)
	}
	if code := l.ready(c.Data[0]); code != 0 {
		return s.failure(c, code)
	}
	s.checkBWI(c)
	state := l.card.State()
	var b []byte
	var code ccid.ErrorCode
	switch {
	case state.Negotiable && c.Data[0] == 0xFF:
		b, code = l.pps(ctx, c.Data)
	case state.Protocol == 1:
		b, code = l.block(ctx, c.Data)
	default:
		b, code = l.t0(ctx, c.Data)
	}
	return s.result(c, b, code)
}

// pps passes a PPS request and its answer, whose length is in its second byte.
func (l line) pps(ctx context.Context, request []byte) ([]byte, ccid.ErrorCode) {
	l.card.Write(request)
	b, code := l.read(ctx, 2)
	if code != 0 {
		return nil, code
	}
	n := 1
	for bit := byte(0x10); bit <= 0x40; bit <<= 1 {
		if b[1]&bit != 0 {
			n++
		}
	}
	rest, code := l.read(ctx, n)
	return append(b, rest...), code
}

// block passes a T=1 block and the one that answers it.
func (l line) block(ctx context.Context, block []byte) ([]byte, ccid.ErrorCode) {
	l.slot.function.mu.Lock()
	edc := 1 + int(l.slot.parameters.t1.BmTCCKST1&ccid.TCCKSTCRC)
	l.slot.function.mu.Unlock()
	if len(block) < 3+edc || len(block) != 3+int(block[2])+edc {
		l.slot.violated(l.command, RuleTPDU, "T=1 block of %d bytes, LEN says something else", len(block))
	}
	l.card.Write(block)
	b, code := l.read(ctx, 3)
	if code != 0 {
		return nil, code
	}
	rest, code := l.read(ctx, int(b[2])+edc)
	return append(b, rest...), code
}

// t0 carries out a T=0 TPDU character by character (ISO/IEC 7816-3:2006 §10.3).
func (l line) t0(ctx context.Context, tpdu []byte) ([]byte, ccid.ErrorCode) {
	const header = 5
	if len(tpdu) == header-1 {
		// Without P3 the reader is responsible for adding it (CCID 1.1 §3.2.1).
		tpdu = append(tpdu[:header-1:header-1], 0)
	}
	if len(tpdu) < header || len(tpdu) > header && len(tpdu) != header+int(tpdu[4]) || tpdu[1]>>4 == 6 || tpdu[1]>>4 == 9 {
		l.slot.violated(l.command, RuleTPDU, "T=0 TPDU of %d bytes, with a wrong P3 or INS", len(tpdu))
		return nil, ccid.ErrorBadLength
	}
	l.card.Write(tpdu[:header])
	ins, send := tpdu[1], tpdu[header:]
	expect := 0
	if len(send) == 0 {
		if expect = int(tpdu[4]); expect == 0 {
			expect = 256
		}
	}
	var received []byte
	for {
		b, code := l.read(ctx, 1)
		if code != 0 {
			return nil, code
		}
		n := 1
		switch b[0] {
		case 0x60:
			l.slot.function.respond(l.slot.extension(l.command, 1))
			continue
		case ins:
			n = max(len(send), expect-len(received))
		case ^ins:
		default:
			if b[0]>>4 != 6 && b[0]>>4 != 9 {
				return nil, ccid.ErrorProcedureByteConflict
			}
			sw2, code := l.read(ctx, 1)
			return append(append(received, b...), sw2...), code
		}
		switch {
		case len(send) > 0:
			l.card.Write(send[:n])
			send = send[n:]
		case n > 0 && len(received)+n <= expect:
			part, code := l.read(ctx, n)
			if code != 0 {
				return nil, code
			}
			received = append(received, part...)
		default:
			return nil, ccid.ErrorProcedureByteConflict
		}
	}
}

// exchangeAPDU runs the link protocol on the host's behalf.
func (s *slot) exchangeAPDU(ctx context.Context, c ccid.Command, command []byte) ([]byte, ccid.ErrorCode) {
	icc := s.activeCard()
	if icc == nil {
		return nil, ccid.ErrorICCMute
	}
	b, err := icc.Transmit(ctx, command, func(multiplier byte) { s.function.respond(s.extension(c, multiplier)) })
	if err != nil {
		return nil, ccid.ErrorICCMute
	}
	return b, 0
}

// checkNoPPS watches over PPS requests where an APDU belongs: the reader would pass them on as one. Only those that are
// complete count, as FF is the class of commands for the reader itself, too.
func (s *slot) checkNoPPS(c ccid.Command) {
	if len(c.Data) < 3 || len(c.Data) > 6 || c.Data[0] != 0xFF || c.Data[1]&0x80 != 0 {
		return
	}
	var pck byte
	for _, b := range c.Data {
		pck ^= b
	}
	if pck == 0 {
		s.violated(c, RulePPS, "% X at APDU level", c.Data)
	}
}

// shortAPDU is the exchange at short APDU level.
func (s *slot) shortAPDU(c ccid.Command) {
	f := s.function
	if c.LevelParameter() != 0 {
		s.violated(c, RuleLevel, "%04X at short APDU level", c.LevelParameter())
	}
	s.checkBWI(c)
	s.checkNoPPS(c)
	if command, err := apdu.ParseCommandLenient(c.Data); err != nil || command.Extended {
		s.violated(c, RuleAPDU, "%d bytes that are no short APDU", len(c.Data))
		f.respond(s.failure(c, ccid.ErrorBadLength))
		return
	}
	f.begin(s, c, func(ctx context.Context) ccid.Response {
		b, code := s.exchangeAPDU(ctx, c, c.Data)
		return s.result(c, b, code)
	})
}

// maxAPDU bounds a chain of messages: the longest extended APDU.
const maxAPDU = ccid.MaxMessageLength - ccid.HeaderLength

// extendedAPDU is the exchange at extended APDU level, where commands and responses may come in several messages (CCID 1.1
// §3.2.4).
func (s *slot) extendedAPDU(c ccid.Command) {
	f := s.function
	s.checkBWI(c)
	s.checkNoPPS(c)
	level := c.LevelParameter()
	f.mu.Lock()
	chaining, fetching := s.chaining, s.fetching
	f.mu.Unlock()
	begins := level == ccid.ChainSingle || level == ccid.ChainBegin
	continues := level == ccid.ChainMiddle || level == ccid.ChainEnd
	switch {
	case !begins && !continues && level != ccid.ChainContinue:
		s.violated(c, RuleLevel, "%04X at extended APDU level", level)
		f.respond(s.failure(c, ccid.ErrorBadLevelParameter))
		return
	case begins == chaining && level != ccid.ChainContinue, fetching != (level == ccid.ChainContinue), level == ccid.ChainContinue && len(c.Data) > 0:
		s.violated(c, RuleChain, "wLevelParameter %04X, command chain open: %t, response to be fetched: %t", level, chaining, fetching)
		if !begins {
			f.respond(s.failure(c, ccid.ErrorBadLevelParameter))
			return
		}
	}
	if level == ccid.ChainContinue {
		f.respond(s.nextPart(c))
		return
	}
	s.extendCommand(c, begins, level == ccid.ChainSingle || level == ccid.ChainEnd)
}

// extendCommand takes one part of a command; after the last it is given to the card.
func (s *slot) extendCommand(c ccid.Command, first, last bool) {
	f := s.function
	f.mu.Lock()
	if first {
		s.chain = nil
	}
	s.response, s.fetching = nil, false
	tooLong := len(s.chain)+len(c.Data) > maxAPDU
	if !tooLong {
		s.chain = append(s.chain, c.Data...)
	}
	s.chaining = !last && !tooLong
	command := s.chain
	if last || tooLong {
		s.chain = nil
	}
	f.mu.Unlock()
	switch _, err := apdu.ParseCommandLenient(command); {
	case tooLong || last && err != nil:
		s.violated(c, RuleAPDU, "%d bytes that are no APDU", len(command))
		f.respond(s.failure(c, ccid.ErrorBadLength))
	case !last:
		f.respond(s.answer(c, chainAwaits, nil))
	default:
		f.begin(s, c, func(ctx context.Context) ccid.Response {
			b, code := s.exchangeAPDU(ctx, c, command)
			if code != 0 {
				return s.failure(c, code)
			}
			f.mu.Lock()
			s.response = b
			f.mu.Unlock()
			return s.nextPart(c)
		})
	}
}

// The values of bChainParameter (CCID 1.1 §6.2.1).
const (
	chainSingle = 0x00
	chainBegin  = 0x01
	chainEnd    = 0x02
	chainMiddle = 0x03
	chainAwaits = 0x10
)

// nextPart takes as much of the response as fits in a message.
func (s *slot) nextPart(c ccid.Command) ccid.Response {
	f := s.function
	most := max(1, min(int(min(f.class.DwMaxCCIDMessageLength, ccid.MaxMessageLength))-ccid.HeaderLength, maxAPDU))
	f.mu.Lock()
	part := s.response[:min(most, len(s.response))]
	s.response = s.response[len(part):]
	began, more := s.fetching, len(s.response) > 0
	s.fetching = more
	f.mu.Unlock()
	chain := uint8(chainSingle)
	switch {
	case more && !began:
		chain = chainBegin
	case more:
		chain = chainMiddle
	case began:
		chain = chainEnd
	}
	return s.answer(c, chain, part)
}
