package ccid_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
)

// verification is an example with a different value in each byte.
var verification = ccid.PINVerificationData{
	BTimeOut: 30, BmFormatString: 0x89, BmPINBlockString: 0x47, BmPINLengthFormat: 0x04, WPINMaxExtraDigit: 0x040C,
	BEntryValidationCondition: ccid.PINKeyPressed, BNumberMessage: 1, WLangID: 0x0409, BMsgIndex: 5, BTeoPrologue: [3]byte{0x12, 0x40, 13},
	PINAPDU: []byte{0x00, 0x20, 0x00, 0x01, 0x08, 0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
}

var modification = ccid.PINModificationData{
	BTimeOut: 60, BmFormatString: 0x82, BmPINBlockString: 0x08, BmPINLengthFormat: 0x10, BInsertionOffsetOld: 1, BInsertionOffsetNew: 9,
	WPINMaxExtraDigit: 0x0408, BConfirmPIN: 3, BEntryValidationCondition: 2, BNumberMessage: 3, WLangID: 0x040C, BMsgIndex: [3]uint8{6, 7, 8},
	BTeoPrologue: [3]byte{0x21, 0x00, 4}, PINAPDU: []byte{0x00, 0x24, 0x00, 0x01},
}

func TestPINVerificationDataHasTheSpecifiedLayout(t *testing.T) {
	b, err := verification.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, []byte{
		0, 30, 0x89, 0x47, 0x04, 0x0C, 0x04, 2, 1, 0x09, 0x04, 5, 0x12, 0x40, 13,
		0x00, 0x20, 0x00, 0x01, 0x08, 0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
	}, b)
	got, err := ccid.ParsePINVerificationData(b)
	require.NoError(t, err)
	require.Equal(t, verification, got)
}

func TestPINModificationDataHasAsManyIndicesAsItsMessages(t *testing.T) {
	for number, indices := range map[uint8][]byte{0: {6}, 1: {6, 7}, 2: {6, 7}, 3: {6, 7, 8}, 0xFF: {6, 7, 8}} {
		p := modification
		p.BNumberMessage = number
		b, err := p.AppendBinary(nil)
		require.NoError(t, err)
		want := append([]byte{1, 60, 0x82, 0x08, 0x10, 1, 9, 0x08, 0x04, 3, 2, number, 0x0C, 0x04}, indices...)
		require.Equal(t, append(want, 0x21, 0x00, 4, 0x00, 0x24, 0x00, 0x01), b, "bNumberMessage %d", number)
		got, err := ccid.ParsePINModificationData(b)
		require.NoError(t, err)
		clear(p.BMsgIndex[p.Indices():])
		require.Equal(t, p, got)
		for n := range b {
			_, err := ccid.ParsePINModificationData(b[:n])
			require.ErrorIs(t, err, ccid.ErrMessage, "%d of %d bytes", n, len(b))
		}
	}
}

func TestPINDataThatIsCutOffOrOfAnotherOperationIsRefused(t *testing.T) {
	b, err := verification.AppendBinary(nil)
	require.NoError(t, err)
	for n := range len(b) - len(verification.PINAPDU) + 4 {
		_, err := ccid.ParsePINVerificationData(b[:n])
		require.ErrorIs(t, err, ccid.ErrMessage, "%d bytes", n)
	}
	_, err = ccid.ParsePINModificationData(b)
	require.ErrorIs(t, err, ccid.ErrMessage)
	b[0] = 1
	_, err = ccid.ParsePINVerificationData(b)
	require.ErrorIs(t, err, ccid.ErrMessage)
}

func TestPINDataThatHasNoFormIsNotWritten(t *testing.T) {
	for _, apdu := range [][]byte{nil, {0, 0x20, 0}} {
		v, m := verification, modification
		v.PINAPDU, m.PINAPDU = apdu, apdu
		_, err := v.AppendBinary(nil)
		require.ErrorIs(t, err, ccid.ErrMessage)
		_, err = m.AppendBinary(nil)
		require.ErrorIs(t, err, ccid.ErrMessage)
	}
	for _, number := range []uint8{4, 0x80, 0xFE} {
		m := modification
		m.BNumberMessage = number
		_, err := m.AppendBinary(nil)
		require.ErrorIs(t, err, ccid.ErrMessage)
		require.ErrorContains(t, err, "bNumberMessage")
	}
}

func TestPINFields(t *testing.T) {
	require.Equal(t, ccid.PINFormatString(0x82), ccid.NewPINFormatString(ccid.PINASCII, 0, true, false))
	require.Equal(t, ccid.PINFormatString(0x89), ccid.NewPINFormatString(ccid.PINBCD, 1, true, false))
	require.Equal(t, ccid.PINFormatString(0x7C), ccid.NewPINFormatString(ccid.PINBinary, 15, false, true))
	f := ccid.PINFormatString(0x89)
	require.Equal(t, ccid.PINBCD, f.Format())
	require.Equal(t, 8, f.PositionBits())
	require.False(t, f.Right())
	require.Equal(t, 15, ccid.PINFormatString(0x7C).PositionBits())
	require.True(t, ccid.PINFormatString(0x7C).Right())
	require.Equal(t, []int{8, 4, 8}, []int{ccid.PINBinary.DigitBits(), ccid.PINBCD.DigitBits(), ccid.PINASCII.DigitBits()})
	require.Equal(t, 4, ccid.PINBlockString(0x47).LengthBits())
	require.Equal(t, 7, ccid.PINBlockString(0x47).Size())
	require.Equal(t, 4, ccid.PINLengthFormat(0x04).PositionBits())
	require.Equal(t, 32, ccid.PINLengthFormat(0x14).PositionBits())
	require.Equal(t, 4, ccid.PINSize(0x040C).Min())
	require.Equal(t, 12, ccid.PINSize(0x040C).Max())
	for c, entries := range map[ccid.PINConfirm]int{0: 1, ccid.PINConfirmNew: 2, ccid.PINEnterOld: 2, 3: 3} {
		require.Equal(t, entries, c.Entries())
	}
	require.False(t, ccid.PINCondition(0).Valid())
	require.True(t, ccid.PINCondition(7).Valid())
	require.False(t, ccid.PINCondition(8).Valid())
}

// FuzzSecure checks that what is parsed is written back as it was.
func FuzzSecure(f *testing.F) {
	v, _ := verification.AppendBinary(nil)
	f.Add(v)
	for _, number := range []uint8{0, 1, 2, 3, 0xFF} {
		m := modification
		m.BNumberMessage = number
		b, _ := m.AppendBinary(nil)
		f.Add(b)
		f.Add(b[:len(b)-4])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := ccid.ParsePINVerificationData(b); err == nil {
			again, err := v.AppendBinary(nil)
			require.NoError(t, err)
			require.Equal(t, b, again)
		} else {
			require.Zero(t, v)
		}
		if m, err := ccid.ParsePINModificationData(b); err == nil {
			again, err := m.AppendBinary(nil)
			require.NoError(t, err)
			require.Equal(t, b, again)
		} else {
			require.Zero(t, m)
		}
	})
}
