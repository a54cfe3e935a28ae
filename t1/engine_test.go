package t1

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// session drives an engine by PCB strings; every block is LRC, NAD 0 unless said
// otherwise.
type session struct {
	t    *testing.T
	e    *Engine
	step Step
	err  error
}

func newSession(t *testing.T, c Config) *session {
	t.Helper()
	e, err := New(c)
	require.NoError(t, err)

	return &session{t: t, e: e}
}

func (s *session) transmit(command ...byte) *session {
	s.t.Helper()
	s.step, s.err = s.e.Transmit(command)
	require.NoError(s.t, s.err)

	return s
}

func (s *session) card(pcb PCB, inf ...byte) *session {
	s.t.Helper()
	nad := s.e.cfg.NAD<<4 | s.e.cfg.NAD>>4
	s.step, s.err = s.e.Receive(appendBlock(nil, Block{NAD: nad, PCB: pcb, INF: inf}, s.e.cfg.EDC))

	return s
}

func (s *session) raw(hexBlock string) *session {
	s.t.Helper()
	s.step, s.err = s.e.Receive(unhex(s.t, hexBlock))

	return s
}

func (s *session) mute() *session {
	s.step, s.err = s.e.NoAnswer()

	return s
}

func (s *session) sends(want string) *session {
	s.t.Helper()
	require.NoError(s.t, s.err)
	b, err := ParseBlock(s.step.Send, s.e.cfg.EDC)
	require.NoError(s.t, err)
	require.Equal(s.t, want, b.String())
	require.Equal(s.t, s.e.cfg.NAD, b.NAD)

	return s
}

func (s *session) answers(want ...byte) *session {
	s.t.Helper()
	require.NoError(s.t, s.err)
	require.True(s.t, s.step.Done)
	require.Nil(s.t, s.step.Send)
	require.Zero(s.t, s.step.WTX)
	require.Equal(s.t, want, append([]byte(nil), s.step.Response...))

	return s
}

func (s *session) fails(want, cause error, delivered Delivery) *session {
	s.t.Helper()
	require.Zero(s.t, s.step)
	var failure *Error
	require.ErrorAs(s.t, s.err, &failure)
	require.Equal(s.t, Error{Err: want, Cause: cause, Delivered: delivered}, *failure)
	require.ErrorIs(s.t, s.err, want)
	require.ErrorIs(s.t, s.err, cause)
	require.Contains(s.t, s.err.Error(), delivered.String())

	return s
}

func TestSequenceNumbersGoOnAcrossCommandsAndRestartAtPowerUp(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1).sends("I(0,0) LEN=1").card(0x00, 0x90, 0x00).answers(0x90, 0x00)
	s.transmit(2).sends("I(1,0) LEN=1").card(0x40, 0x90, 0x01).answers(0x90, 0x01)
	s.transmit(3).sends("I(0,0) LEN=1").card(0x00, 0x90, 0x02).answers(0x90, 0x02)
	require.NoError(t, s.e.Reset(Config{}))
	s.transmit(4).sends("I(0,0) LEN=1").card(0x00, 0x90, 0x03).answers(0x90, 0x03)
}

func TestResetForgetsTheExchange(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1)
	require.NoError(t, s.e.Reset(Config{EDC: CRC, IFSC: 7, IFSD: 9}))
	require.Equal(t, 7, s.e.IFSC())
	require.Equal(t, 9, s.e.IFSD())
	_, err := s.e.NoAnswer()
	require.ErrorIs(t, err, ErrIdle)
	require.ErrorIs(t, s.e.Reset(Config{IFSC: 255}), ErrConfig)
	require.Equal(t, 7, s.e.IFSC())
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{EDC: 3},
		{IFSC: -1},
		{IFSC: 255},
		{IFSD: -1},
		{IFSD: 255},
		{IFSD: 256},
		{NAD: 0x80},
		{NAD: 0x08},
		{NAD: 0xFF},
		{NAD: 0x11},
		{NAD: 0x77},
	} {
		e, err := New(c)
		require.ErrorIs(t, err, ErrConfig, "%+v", c)
		require.Nil(t, e)
	}
	for _, c := range []Config{{NAD: 0x12}, {NAD: 0x70}, {NAD: 0x07}, {IFSC: 1, IFSD: 1}, {IFSC: 254, IFSD: 254}} {
		_, err := New(c)
		require.NoError(t, err, "%+v", c)
	}
}

func TestMisuse(t *testing.T) {
	s := newSession(t, Config{})
	for _, call := range []func() (Step, error){
		s.e.NoAnswer, s.e.BadParity,
		func() (Step, error) { return s.e.Receive(unhex(t, "00 00 02 90 00 92")) },
	} {
		_, err := call()
		require.ErrorIs(t, err, ErrIdle)
	}
	s.transmit(1)
	_, err := s.e.Transmit([]byte{2})
	require.ErrorIs(t, err, ErrBusy)
	_, err = s.e.NegotiateIFSD(254)
	require.ErrorIs(t, err, ErrBusy)
	_, err = s.e.Delegate(1)
	require.ErrorIs(t, err, ErrBusy)
	s.card(0x00, 0x90, 0x00).answers(0x90, 0x00)
}

// ISO/IEC 7816-3:2006 §11.3.2.1: an answer carries our NAD with its halves
// exchanged; trace 201 of a serial terminal, NAD 12 and 21.
func TestNodeAddresses(t *testing.T) {
	s := newSession(t, Config{NAD: 0x12})
	s.transmit(0x20, 0x11, 0, 0, 0).sends("I(0,0) LEN=5")
	require.Equal(t, unhex(t, "12 00 05 20 11 00 00 00 26"), s.step.Send)
	s.raw("21 C3 01 1E FD").sends("S(WTX response) 30")
	require.Equal(t, unhex(t, "12 E3 01 1E EE"), s.step.Send)
	s.raw("12 00 02 90 00 80").sends("R(0) other error") // not exchanged
	s.raw("00 00 02 90 00 92").sends("R(0) other error") // no address at all
	s.raw("21 00 02 90 00 B3").answers(0x90, 0x00)
}

// Rule 3: the multiplier holds for the wait after the response only.
func TestWaitingTimeExtension(t *testing.T) {
	for _, n := range []int{1, 2, 255} {
		s := newSession(t, Config{})
		s.transmit(1)
		require.Equal(t, 1, s.step.WTX)
		s.card(WTXRequest, byte(n))
		require.Equal(t, n, s.step.WTX)
		s.mute().sends("R(0) other error")
		require.Equal(t, 1, s.step.WTX)
		s.card(WTXRequest, byte(n))
		require.Equal(t, n, s.step.WTX)
		s.card(0x20, 7).sends("R(1)")
		require.Equal(t, 1, s.step.WTX)
		s.card(0x40, 8).answers(7, 8)
	}
	s := newSession(t, Config{})
	s.transmit(1).card(WTXRequest, 0).sends("R(0) other error")
}

func TestEndlessWaitingTimeExtensionsEnd(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1)
	for range maxWTX {
		s.card(WTXRequest, 1).sends("S(WTX response) 1")
	}
	s.card(WTXRequest, 1).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrStalled, FullySent)
}

func TestOtherEndlessBlocksEnd(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1)
	for range maxStalls {
		s.card(IFSRequest, 5).sends("S(IFS response) 5")
	}
	s.card(IFSRequest, 5).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrStalled, FullySent)

	s.transmit(1)
	for i := range maxStalls {
		s.card(IPCB(byte(i), true)).sends(RPCB(byte(i+1), RNoError).String())
	}
	s.card(IPCB(maxStalls, true)).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrStalled, FullySent)
}

// Rule 4, the card's side: 1 to 254, from the next I-block on.
func TestCardChangesIFSCWithinAChain(t *testing.T) {
	s := newSession(t, Config{IFSC: 2})
	s.transmit(1, 2, 3, 4, 5, 6, 7).sends("I(0,1) LEN=2")
	s.card(IFSRequest, 1).sends("S(IFS response) 1")
	require.Equal(t, 1, s.e.IFSC())
	// The block under way is repeated as it was: a card that has taken its first
	// copy must not find another one behind the same number.
	s.card(0x80).sends("I(0,1) LEN=2")
	s.card(0x90).sends("I(1,1) LEN=1")
	require.Equal(t, byte(3), s.step.Send[3])
	s.card(IFSRequest, 254).sends("S(IFS response) 254")
	s.card(0x80).sends("I(0,0) LEN=4")
	require.Equal(t, []byte{4, 5, 6, 7}, s.step.Send[3:7])
	s.card(0x00, 0x90, 0x00).answers(0x90, 0x00)
}

// Rule 4, our side.
func TestNegotiateIFSD(t *testing.T) {
	for _, n := range []int{-1, 0, 255, 256} {
		e, err := New(Config{})
		require.NoError(t, err)
		_, err = e.NegotiateIFSD(n)
		require.ErrorIs(t, err, ErrConfig)
	}
	s := newSession(t, Config{NAD: 0x12})
	s.step, s.err = s.e.NegotiateIFSD(254)
	s.sends("S(IFS request) 254")
	s.card(WTXRequest, 9).sends("S(WTX response) 9")
	require.Equal(t, 9, s.step.WTX)
	s.card(IFSRequest, 100).sends("S(IFS response) 100") // both at once
	s.mute().sends("S(IFS request) 254")
	s.card(IFSResponse, 253).sends("S(IFS request) 254")
	require.Equal(t, DefaultIFS, s.e.IFSD())
	s.card(AbortRequest).sends("S(IFS request) 254")
	s.card(IFSRequest, 100).card(0x00, 0x90, 0x00).sends("S(IFS request) 254")
	s.card(IFSResponse, 254).answers()
	require.Equal(t, 254, s.e.IFSD())
	require.Equal(t, 100, s.e.IFSC())
	s.transmit(1).card(0x00, bytes.Repeat([]byte{7}, 254)...).answers(bytes.Repeat([]byte{7}, 254)...)
}

func TestCardThatKnowsNoIFSDNegotiation(t *testing.T) {
	s := newSession(t, Config{})
	s.step, s.err = s.e.NegotiateIFSD(254)
	for range maxRepeats {
		s.card(0x82).sends("S(IFS request) 254")
	}
	s.card(0x82).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrUnexpected, NotSent)
	s.transmit(1).sends("I(0,0) LEN=1").card(0x00, 0x90, 0x00).answers(0x90, 0x00)
}

// Rule 4: the card must not send more than IFSD.
func TestBlockBeyondIFSD(t *testing.T) {
	s := newSession(t, Config{IFSD: 2})
	s.transmit(1).card(0x00, 1, 2, 3).sends("R(0) other error")
	s.card(0x20, 1, 2).sends("R(1)").card(0x40, 3).answers(1, 2, 3)
}

// Rule 6.3: both sizes go back, and the numbers restart.
func TestResynchronisationRestoresInitialValues(t *testing.T) {
	s := newSession(t, Config{IFSC: 40, IFSD: 50})
	s.step, s.err = s.e.NegotiateIFSD(200)
	s.card(IFSResponse, 200).answers()
	s.transmit(1).card(IFSRequest, 30).card(0x00, 1).answers(1)
	require.Equal(t, []int{30, 200}, []int{s.e.IFSC(), s.e.IFSD()})
	s.transmit(2).sends("I(1,0) LEN=1")
	for range maxRepeats {
		s.mute().sends("R(1) other error")
	}
	s.mute().sends("S(RESYNCH request)")
	s.card(ResynchResponse).fails(ErrInterrupted, ErrTimeout, FullySent)
	require.Equal(t, []int{40, 50}, []int{s.e.IFSC(), s.e.IFSD()})
	s.transmit(3).sends("I(0,0) LEN=1").card(0x00, 3).answers(3)
}

// Rule 6.4: after three S(RESYNCH request) only a reset helps.
func TestCardThatDoesNotResynchronise(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1)
	for range maxRepeats {
		s.raw("").sends("R(0) other error")
	}
	s.raw("").sends("S(RESYNCH request)")
	for range maxResynch - 1 {
		s.card(0x00, 0x90, 0x00).sends("S(RESYNCH request)")
	}
	s.mute().fails(ErrNeedReset, ErrTimeout, FullySent)
	for _, call := range []func() (Step, error){
		s.e.NoAnswer, s.e.BadParity,
		func() (Step, error) { return s.e.Receive(unhex(t, "00 E0 00 E0")) },
		func() (Step, error) { return s.e.Transmit([]byte{1}) },
		func() (Step, error) { return s.e.NegotiateIFSD(254) },
		func() (Step, error) { _, err := s.e.Delegate(1); return Step{}, err },
	} {
		_, err := call()
		require.ErrorIs(t, err, ErrNeedReset)
	}
	require.NoError(t, s.e.Reset(Config{}))
	s.transmit(1).card(0x00, 0x90, 0x00).answers(0x90, 0x00)
}

// Rule 6: a command is never resumed, and what it leaves behind is told.
func TestResynchronisationNeverResumes(t *testing.T) {
	s := newSession(t, Config{IFSC: 2})
	s.transmit(1, 2, 3, 4, 5, 6).card(0x90).sends("I(1,1) LEN=2")
	for range maxRepeats + 1 {
		s.mute()
	}
	s.sends("S(RESYNCH request)").card(ResynchResponse).fails(ErrInterrupted, ErrTimeout, PartlySent)
	_, err := s.e.NoAnswer()
	require.ErrorIs(t, err, ErrIdle)

	s.transmit(1, 2).card(0x20, 9)
	for range maxRepeats + 1 {
		s.mute()
	}
	s.sends("S(RESYNCH request)").card(ResynchResponse).fails(ErrInterrupted, ErrTimeout, FullySent)
	s.transmit(1, 2).sends("I(0,0) LEN=2").card(0x00, 8).answers(8) // nothing of the 9 left
}

// Rule 7.1 and 7.2: repeated requests end.
func TestCardThatAlwaysRefuses(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1)
	for range maxRepeats {
		s.card(0x81).sends("I(0,0) LEN=1")
	}
	s.card(0x81).sends("S(RESYNCH request)").card(ResynchResponse).fails(ErrInterrupted, ErrSequence, FullySent)
}

// Rule 7.2: an I-block that comes again, because the card missed our
// acknowledgement, is dropped and the R-block repeated.
func TestRepeatedBlockIsDropped(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1).card(0x20, 7).sends("R(1)")
	s.card(0x20, 7).sends("R(1)").card(0x40, 8).answers(7, 8)
	s.transmit(2).card(0x40, 8).sends("R(0) other error") // late, of the exchange before
	s.card(0x00, 9).answers(9)
}

// Rule 6: the same number with other content means that the counts differ.
func TestOtherBlockWithTheOldNumberResynchronises(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(1).card(0x40, 7).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrSequence, FullySent)
	s.transmit(1).card(0x20, 7).sends("R(1)")
	s.card(0x20, 6).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrSequence, FullySent)
}

func TestBlocksOutOfPlace(t *testing.T) {
	s := newSession(t, Config{IFSC: 1})
	s.transmit(1, 2).card(0x00, 0x90, 0x00).sends("R(0) other error") // rule 2.2: chain not complete
	s.card(ResynchRequest).sends("R(0) other error")                  // rule 6: ours alone
	s.card(WTXResponse, 1).sends("R(0) other error")
	s.card(0x90).sends("I(1,0) LEN=1")
	s.card(0x80).sends("R(0) other error") // acknowledges what was not chained
	s.card(ResynchResponse).sends("R(0) other error")
	s.card(0x00, 0x90, 0x00).answers(0x90, 0x00)
}

// Rule 9: what was received is dropped, and the caller is told.
func TestCardAborts(t *testing.T) {
	s := newSession(t, Config{IFSC: 1})
	s.transmit(1).card(0x20, 7).sends("R(1)").card(AbortRequest).sends("S(ABORT response)")
	s.card(0x90).sends("S(RESYNCH request)").card(ResynchResponse).fails(ErrInterrupted, ErrAborted, FullySent)
	s.transmit(1, 2).card(AbortRequest).sends("S(ABORT response)")
	s.mute().sends("S(RESYNCH request)").mute().sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrAborted, PartlySent)
	s.transmit(3).sends("I(0,0) LEN=1").card(0x00, 8).answers(8)

	s.transmit(1, 2).card(AbortRequest)
	for range maxResynch {
		s.mute().sends("S(RESYNCH request)")
	}
	s.mute().fails(ErrNeedReset, ErrTimeout, PartlySent)
	require.NotErrorIs(t, s.err, ErrAborted)
}

func TestHostAborts(t *testing.T) {
	s := newSession(t, Config{IFSC: 1})
	s.e.Abort() // nothing to abort
	s.transmit(1, 2)
	s.e.Abort()
	s.card(0x90).sends("S(ABORT request)").mute().sends("S(ABORT request)")
	s.card(AbortResponse).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrAborted, PartlySent)

	s.transmit(1).card(0x20, 7)
	s.e.Abort()
	s.card(0x40|0x20, 8).sends("S(ABORT request)").card(AbortResponse).card(ResynchResponse)
	s.fails(ErrInterrupted, ErrAborted, FullySent)

	s.transmit(1)
	s.e.Abort() // too late for an answer of one block
	s.card(0x00, 9).answers(9)
	s.transmit(1, 2).card(0x80).sends("I(0,0) LEN=1") // and forgotten with its exchange
	s.card(0x40, 9).answers(9)
}

func TestAnswerBeyondTheLimit(t *testing.T) {
	s := newSession(t, Config{IFSD: 254})
	s.transmit(1)
	full := make([]byte, 254)
	n := byte(0)
	for sent := 0; sent+len(full) <= MaxResponse; sent += len(full) {
		s.card(IPCB(n, true), full...)
		n ^= 1
		s.sends(RPCB(n, RNoError).String())
	}
	s.card(IPCB(n, true), full...).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrTooLong, FullySent)
}

func TestEmptyCommandAndEmptyAnswer(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit().sends("I(0,0) LEN=0").card(0x00).answers()
	require.Empty(t, s.step.Response)
}

func TestSentBlocksAreWiped(t *testing.T) {
	s := newSession(t, Config{})
	s.transmit(0x00, 0x20, 0x00, 0x80, 0x04, '1', '2', '3', '4').card(0x00, 0x90, 0x00)
	require.Zero(t, s.e.tx)
	require.Nil(t, s.e.command)
}

func TestPartsOfAnAnswerAreWiped(t *testing.T) {
	whole := func(e *Engine) []byte { return e.response[:cap(e.response)] }
	outgrown := newSession(t, Config{})
	outgrown.transmit(0x00).card(IPCB(0, true), 1, 2, 3)
	before := whole(outgrown.e)
	outgrown.card(IPCB(1, true), bytes.Repeat([]byte{4}, DefaultIFS)...)
	require.Zero(t, bytes.Trim(before, "\x00"), "by a larger buffer")

	for name, end := range map[string]func(s *session){
		"a failure":       func(s *session) { s.card(AbortRequest).card(0x80).card(ResynchResponse) },
		"the next answer": func(s *session) { s.card(IPCB(1, false), 4); s.transmit(0x00) },
		"a reset":         func(s *session) { require.NoError(t, s.e.Reset(Config{})) },
	} {
		s := newSession(t, Config{})
		s.transmit(0x00).card(IPCB(0, true), 1, 2, 3)
		end(s)
		require.Zero(t, bytes.Trim(whole(s.e), "\x00"), "by %s", name)
	}
}

func TestDelegate(t *testing.T) {
	s := newSession(t, Config{IFSC: 20, NAD: 0x12})
	s.transmit(1).card(0x00, 1).answers(1)
	prologue, err := s.e.Delegate(13)
	require.NoError(t, err)
	require.Equal(t, [3]byte{0x12, 0x40, 13}, prologue)
	s.card(WTXRequest, 5).sends("S(WTX response) 5")
	s.card(0x60, 0x63).sends("R(0)").card(0x00, 0xC2).answers(0x63, 0xC2)
	s.transmit(2).sends("I(0,0) LEN=1").card(0x40, 2).answers(2)

	prologue, err = s.e.Delegate(0)
	require.NoError(t, err)
	require.Equal(t, [3]byte{0x12, 0x40, 0}, prologue)
	s.e.Withdraw() // cancelled at the reader
	s.e.Withdraw()
	s.transmit(3).sends("I(1,0) LEN=1")
	s.e.Withdraw() // not delegated
	s.card(0x00, 3).answers(3)

	_, err = s.e.Delegate(13)
	require.NoError(t, err)
	s.mute().sends("R(1) other error")
	s.card(0x80).sends("S(RESYNCH request)").card(ResynchResponse)
	s.fails(ErrInterrupted, ErrUnknownContent, FullySent)

	for _, n := range []int{-1, 21} {
		_, err = s.e.Delegate(n)
		require.ErrorIs(t, err, ErrConfig)
	}
}

func TestErrorText(t *testing.T) {
	err := error(&Error{Err: ErrNeedReset, Cause: ErrTimeout, Delivered: FullySent})
	require.EqualError(t, err, "t1: card does not resynchronise, it needs a reset (command sent completely): "+
		"t1: no answer within the block waiting time")
	require.True(t, errors.Is(err, ErrNeedReset) && errors.Is(err, ErrTimeout))
}
