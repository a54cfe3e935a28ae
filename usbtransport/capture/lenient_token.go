package capture

import (
	"bytes"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// tokenScript is Lenient for tokens of ICCD, whose messages are control requests (ICCD 1.0 §6.2). What the host sends moves the
// recording on; what it asks for is answered as it was at that place. It may ask more often than was recorded, or less.
type tokenScript struct {
	requests []*Transfer
	used     []bool
	next     int // the request after the one that was answered last

	hide     *redactor
	redacted bool
}

// newTokenScript makes a script of the recorded control requests.
func newTokenScript(requests []*Transfer, redacted bool) *tokenScript {
	return &tokenScript{requests: requests, used: make([]bool, len(requests)), hide: newRedactor(), redacted: redacted}
}

// begin sends nothing: what a token notifies is asked for all the same.
func (s *tokenScript) begin() []delivery { return nil }

// out refuses: a token has no bulk endpoints.
func (s *tokenScript) out(_ uint8, data []byte) ([]delivery, error) {
	return nil, &Divergence{Host: excerpt(data, 0)}
}

func (s *tokenScript) control(setup usbtransport.Setup, data []byte) (int, []delivery, error) {
	sent := data
	if s.redacted && setup.RequestType&0x80 == 0 {
		sent = s.hide.hideRequest(setup, data)
	}
	i := s.find(setup, sent)
	switch {
	case i >= 0:
	case setup.RequestType == ccid.RequestTypeOut && setup.Request == ccid.RequestAbort:
		return len(data), nil, nil
	case moves(setup):
		return 0, nil, s.divergence(setup)
	default:
		return 0, nil, usbtransport.ErrStalled
	}
	s.used[i] = true
	t := s.requests[i]
	switch {
	case t.Err != nil:
		return 0, nil, t.Err
	case !t.In():
		return len(data), nil, nil
	}
	s.hide.learnRequest(setup, t.Data)
	return copy(data, t.Data), nil, nil
}

// moves reports whether a request decides how far the host is in the recording.
func moves(setup usbtransport.Setup) bool {
	return setup.RequestType == ccid.RequestTypeOut || setup.Request == ccid.ICCDPowerOn
}

// find returns the number of the recorded request that answers this one, -1 for none, and notes how far the host is.
func (s *tokenScript) find(setup usbtransport.Setup, sent []byte) int {
	if !moves(setup) {
		return s.findAnswer(setup)
	}
	for _, from := range []int{s.next, 0} {
		for i := from; i < len(s.requests); i++ {
			if s.same(i, setup) && (s.requests[i].In() || bytes.Equal(sent, s.requests[i].Data)) {
				s.next = i + 1
				return i
			}
		}
	}
	return -1
}

// findAnswer looks for an answer between here and the next request that moves; where there is none left, the last one counts still.
func (s *tokenScript) findAnswer(setup usbtransport.Setup) int {
	for i := s.next; i < len(s.requests) && !moves(s.requests[i].Setup); i++ {
		if s.same(i, setup) {
			s.next = i + 1
			return i
		}
	}
	for i := s.next - 1; i >= 0; i-- {
		if s.same(i, setup) {
			return i
		}
	}
	return -1
}

func (s *tokenScript) same(i int, setup usbtransport.Setup) bool {
	return setupDifference(setup, s.requests[i].Setup) == ""
}

// divergence compares a request that was not found with the one that is next.
func (s *tokenScript) divergence(setup usbtransport.Setup) *Divergence {
	for i, t := range s.requests[s.next:] {
		if moves(t.Setup) && !s.used[s.next+i] {
			field := setupDifference(setup, t.Setup)
			if field == "" {
				field = "data"
			}
			return &Divergence{Packet: t.Packet(), Field: field, Host: requestName(setup), Recording: requestName(t.Setup)}
		}
	}
	return &Divergence{Host: requestName(setup)}
}

func (s *tokenScript) unused() []int {
	var list []int
	for i, t := range s.requests {
		if moves(t.Setup) && !s.used[i] {
			list = append(list, t.Packet())
		}
	}
	return list
}
