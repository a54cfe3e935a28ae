package virtual

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/virtual/card"
)

// verify is a PIN verification that a strict reader takes.
func verify(change func(*ccid.PINVerificationData)) ccid.PINVerificationData {
	p := ccid.PINVerificationData{
		BTimeOut: 30, BmFormatString: 0x82, BmPINBlockString: 0x04, WPINMaxExtraDigit: 0x0404, BEntryValidationCondition: 2,
		BNumberMessage: 0xFF, WLangID: 0x0409, PINAPDU: []byte{0x00, 0x20, 0x00, 0x01, 4, 0xFF, 0xFF, 0xFF, 0xFF},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func modify(change func(*ccid.PINModificationData)) ccid.PINModificationData {
	p := ccid.PINModificationData{
		BTimeOut: 30, BmFormatString: 0x82, BmPINBlockString: 0x04, WPINMaxExtraDigit: 0x0404, BInsertionOffsetNew: 4,
		BConfirmPIN: 3, BEntryValidationCondition: 2, BNumberMessage: 3, BMsgIndex: [3]uint8{0, 1, 2},
		PINAPDU: []byte{0x00, 0x24, 0x00, 0x01, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func secureData(t testing.TB, p interface{ AppendBinary([]byte) ([]byte, error) }) []byte {
	t.Helper()
	b, err := p.AppendBinary(nil)
	require.NoError(t, err)
	return b
}

const pinpadSpec = "reader=gempctwin,level=short,card=t1,pinpad=yes"

func TestSecureMessagesThatBreakTheRules(t *testing.T) {
	type v = ccid.PINVerificationData
	type m = ccid.PINModificationData
	short := secureData(t, verify(nil))
	for _, tc := range []struct {
		name  string
		data  []byte
		error ccid.ErrorCode
	}{
		{"empty", nil, 1},
		{"operation that does not exist", []byte{7, 0, 0, 0}, ccid.OffsetPINOperation},
		{"cut off", short[:18], 1},
		{"verification with modification's structure", append([]byte{1}, short[1:17]...), 1},
		{"no such digits", secureData(t, verify(func(p *v) { p.BmFormatString = 0x83 })), ccid.OffsetPINBlockString},
		{"reserved bits", secureData(t, verify(func(p *v) { p.BmPINLengthFormat = 0x20 })), ccid.OffsetPINBlockString},
		{"sizes swapped", secureData(t, verify(func(p *v) { p.WPINMaxExtraDigit = 0x0804 })), ccid.OffsetPINBlockString},
		{"no digits", secureData(t, verify(func(p *v) { p.WPINMaxExtraDigit = 0 })), ccid.OffsetPINBlockString},
		{"block too small", secureData(t, verify(func(p *v) { p.WPINMaxExtraDigit = 0x0405 })), ccid.OffsetPINBlockString},
		{"block beyond the data", secureData(t, verify(func(p *v) { p.BmPINBlockString = 5 })), ccid.OffsetPINBlockString},
		{"length beyond the data", secureData(t, verify(func(p *v) { p.BmPINBlockString, p.BmPINLengthFormat = 0x84, 0x14 })), ccid.OffsetPINBlockString},
		{"no condition", secureData(t, verify(func(p *v) { p.BEntryValidationCondition = 0 })), ccid.OffsetPINBlockString},
		{"condition that does not exist", secureData(t, verify(func(p *v) { p.BEntryValidationCondition = 8 })), ccid.OffsetPINBlockString},
		{"two messages for one PIN", secureData(t, verify(func(p *v) { p.BNumberMessage = 2 })), ccid.OffsetPINFormatString},
		{"Lc is not the data's", secureData(t, verify(func(p *v) { p.PINAPDU[4] = 5 })), 1},
		{"confirmation that does not exist", secureData(t, modify(func(p *m) { p.BConfirmPIN = 4 })), ccid.OffsetPINFormatString},
		{"new PIN beyond the data", secureData(t, modify(func(p *m) { p.BInsertionOffsetNew = 5 })), ccid.OffsetPINBlockString},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, station, _ := newHost(t, pinpadSpec)
			h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
			r := h.exchange(ccid.Secure(0, 0, 0, tc.data))
			require.Equal(t, []Rule{RulePIN}, rules(station.Reader), "%v", station.Violations())
			require.Equal(t, ccid.CommandFailed, r.Status.Command())
			require.Equal(t, tc.error, r.Error)
		})
	}
}

func TestPINOfAT1CardNeedsAPrologue(t *testing.T) {
	h, station, _ := newHost(t, "reader=gempctwin,card=t1,pinpad=yes")
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	h.succeed(ccid.SetParametersT1(0, ccid.ParametersT1{BmFindexDindex: 0x11, BmTCCKST1: 0x10, BmWaitingIntegersT1: 0x4D, BIFSC: 254}))
	for _, prologue := range [][3]byte{{0, 0, 0}, {0, 0, 8}, {0, 0x20, 9}, {0, 0x80, 9}} {
		station.ForgetViolations()
		r := h.exchange(ccid.Secure(0, 0, 0, secureData(t, verify(func(p *ccid.PINVerificationData) { p.BTeoPrologue = prologue }))))
		require.Equal(t, ccid.CommandFailed, r.Status.Command())
		require.Equal(t, []Rule{RulePIN}, rules(station.Reader), "% X", prologue)
	}
	station.ForgetViolations()
	require.NoError(t, station.Press("1234#"))
	r := h.succeed(ccid.Secure(0, 0, 0, secureData(t, verify(func(p *ccid.PINVerificationData) { p.BTeoPrologue = [3]byte{0, 0, 9} }))))
	require.Equal(t, []byte{0x00, 0x00, 0x02, 0x90, 0x00, 0x92}, r.Data, "the card's block, as it came")
	require.Empty(t, station.Violations())
}

func TestPINEntryIsRefusedWithoutAPad(t *testing.T) {
	for spec, data := range map[string][]byte{
		"reader=gempctwin,level=short,card=t1,pinpad=no":      secureData(t, verify(nil)),
		"reader=gempctwin,level=short,card=t1,pinpad=verify":  secureData(t, modify(nil)),
		"reader=gempctwin,level=character,card=t1,pinpad=yes": secureData(t, verify(nil)),
	} {
		h, _, _ := newHost(t, spec)
		h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
		r := h.exchange(ccid.Secure(0, 0, 0, data))
		require.Equal(t, ccid.CommandFailed, r.Status.Command(), spec)
		require.Equal(t, ccid.ErrorCommandNotSupported, r.Error, spec)
	}
}

func TestPINResults(t *testing.T) {
	for _, tc := range []struct {
		name, keys string
		answers    PINAnswers
		data       []byte
		want       []byte
		error      ccid.ErrorCode
	}{
		{"right", "1234#", PINErrors, secureData(t, verify(nil)), []byte{0x90, 0x00}, 0},
		{"wrong", "1111#", PINErrors, secureData(t, verify(nil)), []byte{0x63, 0xC2}, 0},
		{"cancelled, error", "12c", PINErrors, secureData(t, verify(nil)), nil, ccid.ErrorPINCancelled},
		{"cancelled, status word", "12c", PINStatusWords, secureData(t, verify(nil)), []byte{0x64, 0x01}, 0},
		{"changed", "1234#5678#5678#", PINErrors, secureData(t, modify(nil)), []byte{0x90, 0x00}, 0},
		{"not confirmed", "1234#5678#5679#", PINErrors, secureData(t, modify(nil)), []byte{0x64, 0x02}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, station, _ := newHost(t, pinpadSpec)
			station.config.PINPad.Answers = tc.answers
			h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
			require.NoError(t, station.Press(tc.keys))
			r := h.exchange(ccid.Secure(0, 0, 0, tc.data))
			require.Equal(t, tc.want, append([]byte(nil), r.Data...))
			if tc.error != 0 {
				require.Equal(t, ccid.CommandFailed, r.Status.Command())
				require.Equal(t, tc.error, r.Error)
			}
			require.Empty(t, station.Violations())
		})
	}
}

func TestPadIsOneSlotsAtATime(t *testing.T) {
	h, station, _ := newHost(t, "reader=gempctwin,level=short,slots=2,busy=2,card=none,pinpad=yes")
	station.put(t, 0, card.NewT1())
	station.put(t, 1, card.NewT1())
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	h.succeed(ccid.IccPowerOn(1, ccid.Power5V))
	require.True(t, station.pad.take())
	r := h.exchange(ccid.Secure(1, 0, 0, secureData(t, verify(nil))))
	require.Equal(t, ccid.ErrorSlotBusy, r.Error)
	station.pad.give()
}
