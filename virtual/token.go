package virtual

import (
	"time"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
)

// token is the device's side of ICCD 1.0: what an interface without bulk endpoints does with its control requests. A token
// is reader and card in one; the card is in its slot for good, where it has one.
type token interface {
	// control answers a class request; false stalls.
	control(setup usbtransport.Setup, data []byte) (n int, ok bool)
	// take takes what the slot answers in place of a bulk IN message.
	take(r ccid.Response)
	// reset forgets what was under way. The slot is not at work.
	reset()
}

// newToken makes the token of an interface that is one, nil for others.
func newToken(f *function) token {
	switch {
	case f.model.isToken(ccid.ProtocolICCDA):
		return &tokenA{function: f}
	case f.model.isToken(ccid.ProtocolICCDB):
		return &tokenB{function: f}
	}
	return nil
}

// isToken reports whether the interface is a token of an ICCD version. One reader calls itself version A, and has the bulk
// endpoints of a CCID.
func (m ModelInterface) isToken(version uint8) bool { return m.Protocol == version && m.Endpoints < 2 }

// tokenClass is by what the slot of a token works: the host has nothing to set up, and dwMaxCCIDMessageLength counts the data,
// as there are no headers, but for the byte that says what an answer is.
func tokenClass(d ccid.ClassDescriptor, version uint8) ccid.ClassDescriptor {
	d.BMaxSlotIndex, d.BMaxCCIDBusySlots, d.BVoltageSupport = 0, 1, 0
	d.DwFeatures |= ccid.FeatureAutoVoltage | ccid.FeatureAutoActivation | ccid.FeatureAutoParameters
	d.DwMaxCCIDMessageLength = min(d.DwMaxCCIDMessageLength, ccid.ICCDMaxData-1) + ccid.HeaderLength
	switch {
	case version == ccid.ProtocolICCDA:
		d.DwFeatures = withLevel(d.DwFeatures, ccid.LevelTPDU)
	case d.DwFeatures.ExchangeLevel() < ccid.LevelShortAPDU:
		d.DwFeatures = withLevel(d.DwFeatures, ccid.LevelShortAPDU)
	}
	return d
}

// tokenPatience is how long a token holds a request up that asks for what is almost there, as a device does by NAK.
const tokenPatience = 5 * time.Millisecond

// settle waits a little for the slot to finish its work, and reports whether it has.
func (f *function) settle() bool {
	run := f.atWork()
	if run == nil {
		return true
	}
	timer := time.NewTimer(tokenPatience)
	defer timer.Stop()
	select {
	case <-run.done:
		return true
	case <-timer.C:
		return false
	}
}

// atWork is what the token's slot is at, nil for nothing: until the token has taken the response.
func (f *function) atWork() *run {
	f.mu.Lock()
	defer f.mu.Unlock()
	latest := f.slots[0].latest
	if latest == nil {
		return nil
	}
	select {
	case <-latest.done:
		return nil
	default:
		return latest
	}
}

// cutPower ends the card's session and whatever the slot is at.
func (s *slot) cutPower() {
	f := s.function
	for run := f.atWork(); run != nil; run = f.atWork() {
		run.cancel()
		<-run.done
	}
	f.mu.Lock()
	icc := s.card
	s.session = session{}
	f.mu.Unlock()
	if icc != nil {
		icc.PowerOff()
	}
}

// tokenStatus is bStatus of the slot when nothing has failed.
func (f *function) tokenStatus() ccid.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return ccid.NewStatus(f.slots[0].icc(), ccid.CommandOK)
}

// badRequest records a request that breaks a rule, and stalls it.
func (f *function) badRequest(rule Rule, setup usbtransport.Setup, format string, args ...any) (int, bool) {
	f.reader.violated(rule, 0, 0, "request %02X, wValue %04X: "+format, append([]any{setup.Request, setup.Value}, args...)...)
	return 0, false
}
