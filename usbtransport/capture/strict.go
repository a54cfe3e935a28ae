package capture

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// Strict wants from the host the same bytes in the same order: each bulk OUT transfer, and each class or vendor request.
// What the device sent is delivered as it was, transfer by transfer, failures included. Where PINs are hidden in the
// recording, those of the host are hidden before they are compared. After the first Divergence the device refuses
// everything.
type Strict struct{}

func (Strict) script(r recording) script {
	s := &strictScript{hide: newRedactor(), hideRecorded: newRedactor(), redacted: r.redacted}
	for _, m := range timeline(r.transfers) {
		if m.transfer.Type == usbtransport.TransferBulk && !m.transfer.In() && len(m.transfer.Data) == 0 {
			continue // the empty packet after a transfer of whole packets: host controllers differ in who sends it
		}
		s.moments = append(s.moments, m)
	}
	return s
}

// moment is when a transfer has an effect on the other side: that to the device when it is submitted, that from it when it
// is complete.
type moment struct {
	packet   int
	at       time.Time
	transfer *Transfer
}

// sends reports whether it is the host's turn.
func (m moment) sends() bool {
	return m.transfer.Type == usbtransport.TransferControl || !m.transfer.In()
}

// timeline orders what happened on an interface. Transfers from the device that did not end are left out, and those that
// ended without anything to tell: the host took them back.
func timeline(transfers []Transfer) []moment {
	var list []moment
	for i := range transfers {
		t := &transfers[i]
		if errors.Is(t.Err, usbtransport.ErrInvalid) {
			continue // it did not get as far as the bus
		}
		m := moment{packet: t.Packet(), at: t.Start, transfer: t}
		if t.Start.IsZero() {
			m.at = t.End
		}
		if !m.sends() {
			takenBack := errors.Is(t.Err, usbtransport.ErrCancelled) || errors.Is(t.Err, usbtransport.ErrTimedOut)
			if !t.Ended() || takenBack && len(t.Data) == 0 {
				continue
			}
			m.packet, m.at = t.Completed, t.End
		}
		list = append(list, m)
	}
	sortMoments(list)
	return list
}

// strictScript plays moments one after the other.
type strictScript struct {
	moments  []moment
	redacted bool
	diverged *Divergence
	// hide and hideRecorded hide PINs in what the host sends and in what was recorded: neither is to stand in an error.
	hide, hideRecorded *redactor
}

func (s *strictScript) begin() []delivery { return s.deliver(time.Time{}) }

// deliver takes what the device sends until it is the host's turn.
func (s *strictScript) deliver(since time.Time) []delivery {
	var list []delivery
	for len(s.moments) > 0 && !s.moments[0].sends() {
		m := s.moments[0]
		s.moments = s.moments[1:]
		list = append(list, deliveryOf(m, since))
		s.hide.learn(m.transfer.Data)
		s.hideRecorded.learn(m.transfer.Data)
	}
	return list
}

func deliveryOf(m moment, since time.Time) delivery {
	t := m.transfer
	d := delivery{endpoint: t.Endpoint, data: t.Data, failure: t.Err, open: t.Requested >= 0 && t.Moved >= t.Requested}
	if t.Requested < 0 && len(t.Data) > 0 {
		d.open = true // not known; hosts that need the empty packet are rarer than those that it would confuse
	}
	if errors.Is(t.Err, usbtransport.ErrCancelled) || errors.Is(t.Err, usbtransport.ErrTimedOut) {
		d.failure, d.open = nil, true // what had come before the host took it back
	}
	if !since.IsZero() && !m.at.IsZero() {
		d.after = m.at.Sub(since)
	}
	return d
}

func (s *strictScript) out(endpoint uint8, data []byte) ([]delivery, error) {
	shown := s.hide.hide(data)
	m, err := s.turn(func(t *Transfer) *Divergence {
		if t.Type == usbtransport.TransferControl {
			return &Divergence{Packet: t.Packet(), Field: "transfer type", Host: excerpt(shown, 0), Recording: requestName(t.Setup)}
		}
		if t.Endpoint != endpoint {
			return &Divergence{
				Packet: t.Packet(), Field: "endpoint",
				Host: fmt.Sprintf("to 0x%02X", endpoint), Recording: fmt.Sprintf("to 0x%02X", t.Endpoint),
			}
		}
		compared, recorded := data, s.hideRecorded.hide(t.Data)
		if s.redacted {
			compared = shown
		}
		if offset := difference(compared, t.Data, nil); offset >= 0 && !(t.Missing > 0 && bytes.HasPrefix(compared, t.Data)) {
			return diverge(t.Packet(), shown, recorded, offset)
		}
		return nil
	}, excerpt(shown, 0))
	if err != nil {
		return nil, err
	}
	return s.deliver(m.at), m.transfer.Err
}

func (s *strictScript) control(setup usbtransport.Setup, data []byte) (int, []delivery, error) {
	in := setup.RequestType&0x80 != 0
	sent := data
	if s.redacted && !in {
		sent = s.hide.hideRequest(setup, data)
	}
	m, err := s.turn(func(t *Transfer) *Divergence {
		if t.Type != usbtransport.TransferControl {
			recorded := excerpt(s.hideRecorded.hide(t.Data), 0)
			return &Divergence{Packet: t.Packet(), Field: "transfer type", Host: requestName(setup), Recording: recorded}
		}
		if field := setupDifference(setup, t.Setup); field != "" {
			return &Divergence{Packet: t.Packet(), Field: field, Host: requestName(setup), Recording: requestName(t.Setup)}
		}
		if !in && !bytes.Equal(sent, t.Data) {
			return &Divergence{
				Packet: t.Packet(), Field: "data",
				Host: fmt.Sprintf("%d bytes", len(data)), Recording: fmt.Sprintf("%d bytes", len(t.Data)),
			}
		}
		return nil
	}, requestName(setup))
	if err != nil {
		return 0, nil, err
	}
	n := len(data)
	if in {
		n = copy(data, m.transfer.Data)
		s.hide.learnRequest(setup, m.transfer.Data)
	}
	if m.transfer.Err != nil {
		n = 0
	}
	return n, s.deliver(m.at), m.transfer.Err
}

// turn takes the host's next moment, if check finds nothing wrong with it.
func (s *strictScript) turn(check func(*Transfer) *Divergence, host string) (moment, error) {
	if s.diverged == nil && len(s.moments) == 0 {
		s.diverged = &Divergence{Host: host}
	}
	if s.diverged == nil {
		s.diverged = check(s.moments[0].transfer)
	}
	if s.diverged != nil {
		return moment{}, s.diverged
	}
	m := s.moments[0]
	s.moments = s.moments[1:]
	return m, nil
}

func (s *strictScript) unused() []int {
	var list []int
	for _, m := range s.moments {
		if m.sends() {
			list = append(list, m.packet)
		}
	}
	return list
}

// setupDifference names the first field that differs, "" for none. wLength is the host's business.
func setupDifference(a, b usbtransport.Setup) string {
	switch {
	case a.RequestType != b.RequestType:
		return "bmRequestType"
	case a.Request != b.Request:
		return "bRequest"
	case a.Value != b.Value:
		return "wValue"
	case a.Index != b.Index:
		return "wIndex"
	}
	return ""
}

// requestName names a control request, by CCID 1.1 §5.3 where that has it.
func requestName(s usbtransport.Setup) string {
	name := "control request"
	switch {
	case s.RequestType == ccid.RequestTypeOut && s.Request == ccid.RequestAbort:
		name = "ABORT"
	case s.RequestType == ccid.RequestTypeIn && s.Request == ccid.RequestGetClockFrequencies:
		name = "GET_CLOCK_FREQUENCIES"
	case s.RequestType == ccid.RequestTypeIn && s.Request == ccid.RequestGetDataRates:
		name = "GET_DATA_RATES"
	}
	return fmt.Sprintf("%s %02X %02X %04X %04X", name, s.RequestType, s.Request, s.Value, s.Index)
}
