package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
	"github.com/goccid/goccid/usbtransport"
)

// SpeedMemory remembers which Fi/Di, and which form of the CRC of T=1, do not work with which cards in which readers, so that they are not tried again: by
// the reader's VID:PID and bcdDevice, and the ATR up to the historical bytes. The zero value is empty and ready for use.
// All methods may be called from several goroutines at once; a nil *SpeedMemory remembers nothing.
type SpeedMemory struct {
	mu     sync.Mutex
	failed map[speedKey][]attempt
}

// maxRemembered bounds the pairs of reader and card that a SpeedMemory holds; to have room for a new one, any other is
// forgotten.
const maxRemembered = 1024

// speedKey says which reader and which card.
type speedKey struct {
	idVendor, idProduct, bcdDevice uint16
	t                              uint8
	atr                            string
}

// attempt is what may fail: a speed that needs PPS, or a form of the CRC.
type attempt struct {
	fd  byte
	edc t1.EDC
}

// speedKeyOf returns the key for the card in the slot. The historical bytes are left out: they may differ between cards
// of one kind, and say nothing of the transmission.
func (s *Slot) speedKeyOf(t uint8) speedKey {
	d := s.reader.device.info
	prefix := s.atr.Raw
	if i := len(prefix) - len(s.atr.Historical); i > 0 {
		if s.atr.TCK.Present {
			i--
		}
		prefix = prefix[:max(i, 0)]
	}
	return speedKey{d.IDVendor, d.IDProduct, d.BCDDevice, t, string(prefix)}
}

func (m *SpeedMemory) remember(k speedKey, a attempt) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed == nil {
		m.failed = map[speedKey][]attempt{}
	}
	if _, known := m.failed[k]; !known && len(m.failed) >= maxRemembered {
		for other := range m.failed {
			delete(m.failed, other)
			break
		}
	}
	if !slices.Contains(m.failed[k], a) {
		m.failed[k] = append(m.failed[k], a)
	}
}

func (m *SpeedMemory) forget(k speedKey) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.failed, k)
}

func (m *SpeedMemory) knowsAgainst(k speedKey, a attempt) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.failed[k], a)
}

// forgettable returns what a SpeedMemory can hold against a setup; false for the card's own speed with the EDC that it
// announces, or the last form of that.
func (try setup) forgettable() (attempt, bool) {
	return attempt{try.fd, try.edc}, try.pps != nil || try.edc == t1.CRC
}

// withoutFailed leaves out the setups that have failed before.
func (s *Slot) withoutFailed(t uint8, setups []setup) []setup {
	k := s.speedKeyOf(t)
	return slices.DeleteFunc(setups, func(try setup) bool {
		a, ok := try.forgettable()
		return ok && s.reader.options.Speeds.knowsAgainst(k, a)
	})
}

// learn notes the speeds that failed before one worked.
func (s *Slot) learn(t uint8, failed []setup) {
	for _, try := range failed {
		if a, ok := try.forgettable(); ok {
			s.reader.options.Speeds.remember(s.speedKeyOf(t), a)
		}
	}
}

// judgeSpeed takes the result of the first exchange after SetProtocol: card and reader may have agreed on a speed at
// which they do not understand each other. The next SetProtocol then takes another.
func (s *Slot) judgeSpeed(ctx context.Context, err error) {
	if s.proven || err == nil {
		s.proven = true
		return
	}
	if s.parameters.PPS && !s.isFinal(ctx, err) && isLineFault(err) {
		s.reader.options.Speeds.remember(s.speedKeyOf(s.parameters.T), attempt{s.parameters.FD, s.edc})
	}
}

// isLineFault reports whether an error looks as if reader and card did not understand each other.
func isLineFault(err error) bool {
	for _, kind := range []error{ccid.ErrorICCMute, ccid.ErrorXfrParity, ccid.ErrorXfrOverrun, t1.ErrNeedReset, usbtransport.ErrTimedOut} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// agreedSpeed returns the Fi/Di that reader and card use after SetParameters; told is its answer. A reader whose answer says
// something else than was set, or nothing, is asked again by GetParameters. Where both say that it is at another speed than the
// one to which PPS moved the card, they would not understand each other; a reader that makes PPS by itself tells where that
// led. Otherwise it is not believed: what was set, or the card's default, is as good a guess, and the first exchange shows.
func (s *Slot) agreedSpeed(ctx context.Context, p Parameters, told ccid.Response) (byte, error) {
	if fd, ok := parameterFD(told, p.T); ok && fd == p.FD {
		return p.FD, nil
	}
	fd, ok := s.readParameters(ctx, p.T)
	switch {
	case !s.State().Powered:
		return 0, ErrNotPowered
	case !ok || fd == p.FD:
		return p.FD, nil
	case p.PPS:
		return 0, fmt.Errorf("%w: the card was moved to Fi/Di %02X, the reader works with %02X", ErrResponse, p.FD, fd)
	case s.class.DwFeatures&ccid.FeatureAutoPPS != 0:
		return fd, nil
	}
	s.reader.log.Debugf("slot %d: Fi/Di %02X was set, but the reader says that it works with %02X", s.index, p.FD, fd)
	return p.FD, nil
}

// setRate gives a reader the data rate that goes with Fi/Di, where it neither follows the parameters nor makes PPS by itself
// (CCID 1.1 §5.1, dwFeatures, §6.1.14). One that does not have the command is taken to follow the parameters all the same.
func (s *Slot) setRate(ctx context.Context, fd byte) error {
	const byItself = ccid.FeatureAutoBaudRate | ccid.FeatureAutoParameters | ccid.FeatureAutoPPS
	if fd == atr.DefaultFD || s.class.DwFeatures&byItself != 0 {
		return nil
	}
	fi, di := factors(fd)
	clock := s.deadlines.clockHz
	rate := clock * di / fi
	c := ccid.SetDataRateAndClockFrequency(uint8(s.index), uint32(clock/1000), uint32(rate))
	resp, err := s.command(ctx, request{command: c, wait: s.reader.deadlines.status()})
	if notDone(err) {
		s.reader.log.Debugf("slot %d: data rate of %d bit/s: %v", s.index, rate, err)
		return nil
	}
	if err != nil {
		return err
	}
	const answerLength = 8
	if len(resp.Data) != answerLength {
		return fmt.Errorf("%w: data rate and clock frequency in %d bytes", ErrResponse, len(resp.Data))
	}
	// Over the ten bits of a character 2 % are a fifth of a bit, which goes well.
	got := int64(binary.LittleEndian.Uint32(resp.Data[4:]))
	if off := got - int64(rate); max(off, -off)*50 > int64(rate) {
		return fmt.Errorf("%w: the card needs %d bit/s, the reader takes %d", ErrResponse, rate, got)
	}
	return nil
}

// readParameters asks a reader what its parameters are (CCID 1.1 §6.1.5), and returns FI/DI; false where it does not say, or
// nothing that can be. One that was silent once is not asked again.
func (s *Slot) readParameters(ctx context.Context, t uint8) (fd byte, ok bool) {
	if s.reader.keepsParameters.Load() {
		return 0, false
	}
	resp, err := s.command(ctx, request{command: ccid.GetParameters(uint8(s.index)), wait: s.reader.deadlines.status()})
	var silent *NoAnswerError
	if errors.As(err, &silent) {
		s.reader.keepsParameters.Store(true)
	}
	if err != nil {
		return 0, false
	}
	return parameterFD(resp, t)
}

// parameterFD returns FI/DI of a message with parameters for T=t; false where they are none, or reserved values.
func parameterFD(resp ccid.Response, t uint8) (fd byte, ok bool) {
	if resp.Type != ccid.TypeParameters || resp.Specific != t {
		return 0, false
	}
	var err error
	if t == 1 {
		var p ccid.ParametersT1
		p, err = ccid.ParseParametersT1(resp.Data)
		fd = p.BmFindexDindex
	} else {
		var p ccid.ParametersT0
		p, err = ccid.ParseParametersT0(resp.Data)
		fd = p.BmFindexDindex
	}
	_, _, fiOK := atr.FI(fd)
	_, diOK := atr.DI(fd)
	return fd, err == nil && fiOK && diOK
}
