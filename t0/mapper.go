package t0

import (
	"fmt"

	"github.com/goccid/goccid/apdu"
)

// The commands that the mapping adds (ISO/IEC 7816-4:2005 §7.6).
const (
	insGetResponse = 0xC0
	insEnvelope    = 0xC2
)

// phase is what the TPDU under way is for.
type phase uint8

const (
	phaseIdle     phase = iota
	phaseCommand        // the command itself
	phaseEnvelope       // a part of the command in an ENVELOPE
	phaseFetch          // GET RESPONSE
)

// mapper makes TPDUs of APDUs (ISO/IEC 7816-3:2006 §12.2). What it does with the card's status:
//
//	TPDU under way            9000        61xx       6Cxx        62xx 63xx 9xxx   other
//	case 1, header            end         end        end         end              end
//	case 2, P3=Ne             end         fetch      P3=xx       end              end
//	case 3, with data         end         end        end         end              end
//	case 4, with data         try fetch   fetch      end         try fetch        end
//	ENVELOPE, more to come    next one    error      end         error            end
//	ENVELOPE, the last        as case 3 or 4
//	GET RESPONSE              end         fetch      P3=xx       end              end
//
// "fetch" sends GET RESPONSE while data are missing, "P3=xx" repeats the TPDU once with the length that the card named.
// Where the card had announced no data, "try fetch", the command's own status may win in the end: see fetched.
type mapper struct {
	classGetResponse byte
	classEnvelope    byte

	raw      []byte // the command as bytes, own copy
	response []byte // the response so far
	tpdu     [MaxTPDU]byte
	exchange
}

// exchange is the state of a mapper that lasts for one APDU.
type exchange struct {
	phase   phase
	command apdu.Command // Data is part of raw
	sent    int          // bytes of raw that ENVELOPE commands carried so far

	length    int  // of the TPDU under way
	expect    int  // data bytes that the card may answer it with
	corrected bool // it repeats one that was answered with 6Cxx
	rounds    int  // TPDUs sent because of 61xx and 6Cxx

	// completed is the command's own status where the card announced no data and GET RESPONSE is an attempt, else 0.
	completed apdu.StatusWord
}

// reset zeroes what the last exchange left. The slices never shrink without being cleared, so nothing of a PIN stays
// behind their ends.
func (m *mapper) reset() {
	m.forgetCommand()
	clear(m.response)
	m.response = m.response[:0]
}

// forgetCommand ends the exchange and zeroes everything but the response.
func (m *mapper) forgetCommand() {
	clear(m.raw)
	m.raw = m.raw[:0]
	clear(m.tpdu[:])
	m.exchange = exchange{}
}

func (m *mapper) transmit(command []byte) (Step, error) {
	if len(command) > apdu.MaxCommandLength {
		return Step{}, fmt.Errorf("%w: %d bytes", ErrCommand, len(command))
	}
	m.raw = append(m.raw, command...)
	c, err := apdu.ParseCommandLenient(m.raw)
	if err != nil {
		return Step{}, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	if err := checkInstruction(c.INS); err != nil {
		return Step{}, err
	}
	m.command = c
	if len(c.Data) > apdu.MaxShortData {
		return m.firstEnvelope()
	}
	m.phase = phaseCommand
	m.header(c.CLA, c.INS, c.P1, c.P2)
	switch {
	case len(c.Data) > 0:
		return m.give(c.Data), nil
	case c.Ne > 0:
		return m.ask(c.Ne), nil
	}
	return m.step(), nil
}

func (m *mapper) receive(response []byte) (Step, error) {
	if m.phase == phaseIdle {
		return Step{}, ErrNoExchange
	}
	data, sw, err := splitResponse(response, m.expect)
	if err != nil {
		return Step{}, err
	}
	if !sw.Valid() {
		return Step{}, fmt.Errorf("%w: status %v", ErrResponse, sw)
	}
	switch {
	case m.phase == phaseEnvelope && m.sent < len(m.raw):
		return m.partTaken(sw)
	case m.phase == phaseFetch || len(m.command.Data) == 0:
		return m.dataSent(data, sw)
	}
	return m.commandTaken(sw)
}

// firstEnvelope begins a command that is too long for one TPDU. The card will parse the bytes, so they must follow the
// standard to the letter.
func (m *mapper) firstEnvelope() (Step, error) {
	if _, err := apdu.ParseCommand(m.raw); err != nil {
		return Step{}, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	return m.envelope(), nil
}

// envelope sends the next part of the command. The parts are bytes of the APDU as it is, length fields included, so the
// card can tell when it has all (ISO/IEC 7816-3:2006 §12.2.7, case 3E.2).
func (m *mapper) envelope() Step {
	m.phase = phaseEnvelope
	m.header(m.class(m.classEnvelope), insEnvelope, 0, 0)
	part := m.raw[m.sent:min(len(m.raw), m.sent+apdu.MaxShortData)]
	m.sent += len(part)
	return m.give(part)
}

// partTaken handles the answer to an ENVELOPE that was not the last: 9000 asks for the next one. An error, as 6D00 from
// a card without ENVELOPE, is the answer to the command. Any other status would tell the application that a command
// has been executed which the card does not even have.
func (m *mapper) partTaken(sw apdu.StatusWord) (Step, error) {
	switch {
	case sw == apdu.Success:
		return m.envelope(), nil
	case isError(sw):
		return m.finish(sw), nil
	}
	return Step{}, fmt.Errorf("%w: %v after %d of %d bytes", ErrPartialCommand, sw, m.sent, len(m.raw))
}

// commandTaken handles the status of a command with data, case 3 or 4. Here 6Cxx is an answer like other errors: with
// P3=xx the card would take the number for the length of the data to come (§12.2.5, case 4S.1).
func (m *mapper) commandTaken(sw apdu.StatusWord) (Step, error) {
	if m.command.Ne == 0 {
		return m.finish(sw), nil
	}
	if n, ok := announced(sw); ok {
		return m.fetch(n)
	}
	if isError(sw) {
		return m.finish(sw), nil
	}
	// 9000: case 4S.2. A warning, 62xx, 63xx or 9xxx: there ISO/IEC 7816-3 stops and EMV (Contact Interface
	// Specification, Annex A7) fetches the data; trying serves both, since finish keeps the status.
	m.completed = sw
	return m.fetch(apdu.MaxNe)
}

// dataSent handles the answer to a TPDU that asks for data: the command in case 2, or GET RESPONSE. (In case 1 nothing
// is asked for, and every status ends it.)
func (m *mapper) dataSent(data []byte, sw apdu.StatusWord) (Step, error) {
	if ne, ok := sw.ExactNe(); ok && m.expect > 0 && len(data) == 0 && !m.corrected {
		return m.correct(ne)
	}
	m.collect(data)
	if n, ok := sw.Available(); ok && len(m.response) < m.command.Ne {
		return m.fetch(n)
	}
	return m.finish(sw), nil
}

// correct repeats the TPDU with the length that the card named (§12.2.3, case 2S.3), which may be more than the
// application asked for: collect drops the rest. A second 6Cxx to it is the answer.
func (m *mapper) correct(ne int) (Step, error) {
	if err := m.round(); err != nil {
		return Step{}, err
	}
	m.corrected = true
	return m.ask(ne), nil
}

// fetch sends GET RESPONSE for n bytes, or what is still missing if that is less (§12.2.5, case 4S.3).
func (m *mapper) fetch(n int) (Step, error) {
	if err := m.round(); err != nil {
		return Step{}, err
	}
	m.phase = phaseFetch
	m.header(m.class(m.classGetResponse), insGetResponse, 0, 0)
	return m.ask(min(n, m.command.Ne-len(m.response))), nil
}

func (m *mapper) round() error {
	m.rounds++
	if m.rounds > MaxRounds {
		return fmt.Errorf("%w: %d TPDUs for one command", ErrTooManyRounds, m.rounds)
	}
	return nil
}

// collect adds data to the response, up to Ne bytes. A buffer that becomes too small is zeroed before it is left.
func (m *mapper) collect(data []byte) {
	have := len(m.response)
	data = data[:min(len(data), m.command.Ne-have)]
	if need := have + len(data) + 2; need > cap(m.response) {
		larger := make([]byte, have, min(2*need, apdu.MaxResponseLength))
		copy(larger, m.response)
		clear(m.response)
		m.response = larger
	}
	m.response = append(m.response, data...)
}

// finish ends the exchange with the data collected so far and a status.
func (m *mapper) finish(sw apdu.StatusWord) Step {
	if m.phase == phaseFetch {
		sw = m.fetched(sw)
	}
	m.forgetCommand()
	m.response = append(m.response, sw.SW1(), sw.SW2())
	return Step{Done: true, Response: m.response}
}

// fetched returns the status of the response when the last GET RESPONSE was answered with sw. Where the card had not
// announced data, the command's own status stands in two cases: the data came with 9000, so that a warning is not lost;
// or GET RESPONSE was refused, which means that there is nothing to fetch, not that the command failed. A response that
// breaks off with an error has no data (ISO/IEC 7816-4:2005 §5.1.3).
func (m *mapper) fetched(sw apdu.StatusWord) apdu.StatusWord {
	attempt := m.completed != 0
	switch {
	case attempt && sw == apdu.Success, attempt && isRefusal(sw) && len(m.response) == 0:
		return m.completed
	case isError(sw):
		clear(m.response)
		m.response = m.response[:0]
	}
	return sw
}

// header begins a TPDU.
func (m *mapper) header(cla, ins, p1, p2 byte) {
	copy(m.tpdu[:], []byte{cla, ins, p1, p2})
	m.length, m.expect, m.corrected = apdu.HeaderLength, 0, false
}

// ask completes a TPDU that asks for n bytes, or for 256 if that is less.
func (m *mapper) ask(n int) Step {
	m.expect = min(n, apdu.MaxShortNe)
	m.tpdu[apdu.HeaderLength] = byte(m.expect) // 256 is 00
	m.length = apdu.HeaderLength + 1
	return m.step()
}

// give completes a TPDU with 1 to 255 bytes of data.
func (m *mapper) give(data []byte) Step {
	m.tpdu[apdu.HeaderLength] = byte(len(data))
	m.length = apdu.HeaderLength + 1 + copy(m.tpdu[apdu.HeaderLength+1:], data)
	return m.step()
}

func (m *mapper) step() Step { return Step{Send: m.tpdu[:m.length], Expect: m.expect} }

func (m *mapper) class(configured byte) byte {
	if configured == EchoClass {
		return m.command.CLA
	}
	return configured
}

// announced returns how many bytes the card says can be fetched: 61xx, and 9Fxx of the older SIM cards (ETSI TS 151 011
// §9.4.1).
func announced(sw apdu.StatusWord) (int, bool) {
	if sw.SW1() == 0x9F {
		return p3Length(sw.SW2()), true
	}
	return sw.Available()
}

// isError tells whether a status says that the command was aborted: 64xx to 6Fxx (ISO/IEC 7816-4:2005 §5.1.3).
func isError(sw apdu.StatusWord) bool { return sw.SW1() >= 0x64 && sw.SW1() <= 0x6F }

// isRefusal tells whether a status of GET RESPONSE says that it was not even begun: a checking error, 67xx to 6Fxx, but
// for 6Cxx, which says that there are data.
func isRefusal(sw apdu.StatusWord) bool {
	return sw.SW1() >= 0x67 && sw.SW1() <= 0x6F && sw.SW1() != 0x6C
}
