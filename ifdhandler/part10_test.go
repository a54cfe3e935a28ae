package ifdhandler_test

import (
	"context"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

const (
	verifyPINDirect = 0x42330006
	modifyPINDirect = 0x42330007
	mctDirect       = 0x42330008
)

// verifyStructure is PIN_VERIFY_STRUCTURE for the PIN of a fresh card, in a byte order.
func verifyStructure(order binary.AppendByteOrder) []byte {
	apdu := []byte{0x00, 0x20, 0x00, 0x01, 4, 0xFF, 0xFF, 0xFF, 0xFF}
	b := []byte{20, 5, 0x82, 0x04, 0}
	b = append(order.AppendUint16(b, 0x0304), 2, 1)
	b = append(order.AppendUint16(b, 0x0409), 0, 0, 0, 0)
	return append(order.AppendUint32(b, uint32(len(apdu))), apdu...)
}

// modifyStructure is PIN_MODIFY_STRUCTURE.
func modifyStructure(order binary.AppendByteOrder) []byte {
	apdu := []byte{0x00, 0x24, 0x00, 0x01, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
	b := []byte{20, 5, 0x82, 0x04, 0, 0, 4}
	b = append(order.AppendUint16(b, 0x0304), 3, 2, 3)
	b = append(order.AppendUint16(b, 0x0409), 0, 1, 2, 0, 0, 0)
	return append(order.AppendUint32(b, uint32(len(apdu))), apdu...)
}

// pinRig is a reader with a PIN pad and a T=1 card that is ready.
func pinRig(t *testing.T, level ccid.ExchangeLevel, support ccid.PINSupport) *rig {
	t.Helper()
	r := newRig(t, virtual.Config{
		Level: &level, Cards: []card.Card{card.NewT1()}, Override: func(d *ccid.ClassDescriptor) { d.BPINSupport = support },
	}, ifdhandler.Policy{})
	r.open(t)
	_, err := r.PowerICC(t.Context(), lun, ifdhandler.PowerUp)
	require.NoError(t, err)
	require.NoError(t, r.SetProtocolParameters(t.Context(), lun, ifdhandler.ProtocolT1, 0, [3]byte{}))
	return r
}

func TestPINDirect(t *testing.T) {
	for _, level := range []ccid.ExchangeLevel{ccid.LevelTPDU, ccid.LevelShortAPDU, ccid.LevelExtendedAPDU} {
		for _, test := range []struct {
			name, keys string
			control    uint32
			in         []byte
			want       []byte
		}{
			{"verify", "1234#", verifyPINDirect, verifyStructure(binary.LittleEndian), []byte{0x90, 0x00}},
			{"verify, big endian", "1234#", verifyPINDirect, verifyStructure(binary.BigEndian), []byte{0x90, 0x00}},
			{"verify, wrong", "4321#", verifyPINDirect, verifyStructure(binary.LittleEndian), []byte{0x63, 0xC2}},
			{"verify, cancelled", "12c", verifyPINDirect, verifyStructure(binary.LittleEndian), []byte{0x64, 0x01}},
			{"verify, time-out", "12", verifyPINDirect, verifyStructure(binary.LittleEndian), []byte{0x64, 0x00}},
			{"modify", "1234#5678#5678#", modifyPINDirect, modifyStructure(binary.LittleEndian), []byte{0x90, 0x00}},
			{"modify, big endian", "1234#5678#5678#", modifyPINDirect, modifyStructure(binary.BigEndian), []byte{0x90, 0x00}},
			{"modify, not confirmed", "1234#5678#5679#", modifyPINDirect, modifyStructure(binary.LittleEndian), []byte{0x64, 0x02}},
			{"modify, cancelled", "1234#c", modifyPINDirect, modifyStructure(binary.BigEndian), []byte{0x64, 0x01}},
			{"modify, time-out", "1234#", modifyPINDirect, modifyStructure(binary.BigEndian), []byte{0x64, 0x00}},
		} {
			t.Run(level.String()+", "+test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := pinRig(t, level, 3)
					require.NoError(t, r.device.Press(test.keys))
					got, err := r.Control(t.Context(), lun, test.control, test.in)
					require.NoError(t, err)
					require.Equal(t, test.want, got)
					require.Empty(t, r.device.Violations())
				})
			})
		}
	}
}

// TestPINEntryEndsWhenTheClientLeaves has the next client find a card that works.
func TestPINEntryEndsWhenTheClientLeaves(t *testing.T) {
	for _, level := range []ccid.ExchangeLevel{ccid.LevelTPDU, ccid.LevelShortAPDU, ccid.LevelExtendedAPDU} {
		synctest.Test(t, func(t *testing.T) {
			r := pinRig(t, level, 3)
			ctx, leave := context.WithCancel(t.Context())
			time.AfterFunc(5*time.Second, leave)
			begun := time.Now()
			_, err := r.Control(ctx, lun, verifyPINDirect, verifyStructure(binary.LittleEndian))
			code(t, ifdhandler.CommunicationError, err)
			require.Less(t, time.Since(begun), 6*time.Second)
			got, err := r.TransmitToICC(t.Context(), lun, ifdhandler.ProtocolT1, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00})
			if err != nil {
				// T=1 was asked where it is, and started anew.
				got, err = r.TransmitToICC(t.Context(), lun, ifdhandler.ProtocolT1, []byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00})
			}
			require.NoError(t, err)
			require.Equal(t, []byte{0x90, 0x00}, got)
			require.Empty(t, r.device.Violations())
		})
	}
}

func TestPINStructuresWithWrongLengths(t *testing.T) {
	r := pinRig(t, ccid.LevelShortAPDU, 3)
	change := func(b []byte, at int, value byte) []byte {
		b[at] = value
		return b
	}
	for _, test := range []struct {
		name    string
		control uint32
		in      []byte
		says    string
	}{
		{"no verify structure", verifyPINDirect, nil, "PIN_VERIFY_STRUCTURE of 0 bytes, needs 23"},
		{"short verify structure", verifyPINDirect, verifyStructure(binary.LittleEndian)[:22], "of 22 bytes, needs 23"},
		{"cut off verify structure", verifyPINDirect, verifyStructure(binary.LittleEndian)[:27], "ulDataLength is 09 00 00 00, but 8 bytes follow"},
		{"verify structure with more", verifyPINDirect, append(verifyStructure(binary.BigEndian), 0), "ulDataLength is 00 00 00 09, but 10 bytes follow"},
		{"verify length of 4 GiB", verifyPINDirect, change(verifyStructure(binary.LittleEndian), 18, 0xFF), "ulDataLength is 09 00 00 FF"},
		{"no modify structure", modifyPINDirect, nil, "PIN_MODIFY_STRUCTURE of 0 bytes, needs 28"},
		{"short modify structure", modifyPINDirect, modifyStructure(binary.LittleEndian)[:27], "of 27 bytes, needs 28"},
		{"modify structure with more", modifyPINDirect, append(modifyStructure(binary.LittleEndian), 0), "but 14 bytes follow"},
		{"modify messages", modifyPINDirect, change(modifyStructure(binary.LittleEndian), 11, 4), "bNumberMessage is 4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := r.Control(t.Context(), lun, test.control, test.in)
			code(t, ifdhandler.NotSupported, err)
			require.ErrorContains(t, err, test.says)
		})
	}
	require.Empty(t, r.device.Violations())
}

func TestFeaturesAreThoseOfTheReader(t *testing.T) {
	verify := []byte{6, 4, 0x42, 0x33, 0, 6}
	modify := []byte{7, 4, 0x42, 0x33, 0, 7}
	properties := []byte{0x0A, 4, 0x42, 0x33, 0, 0x0A}
	tlv := []byte{0x12, 4, 0x42, 0x33, 0, 0x12}
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	for _, test := range []struct {
		level   ccid.ExchangeLevel
		support ccid.PINSupport
		want    []byte
	}{
		{ccid.LevelTPDU, 0, tlv},
		{ccid.LevelTPDU, ccid.PINVerification, join(verify, properties, tlv)},
		{ccid.LevelShortAPDU, ccid.PINModification, join(modify, properties, tlv)},
		{ccid.LevelExtendedAPDU, 3, join(verify, modify, properties, tlv)},
		{ccid.LevelCharacter, 3, tlv},
	} {
		r := pinRig(t, test.level, test.support)
		got, err := r.Control(t.Context(), lun, ifdhandler.ControlGetFeatureRequest, nil)
		require.NoError(t, err)
		require.Equal(t, test.want, got, "%v %v", test.level, test.support)
		for bit, control := range map[ccid.PINSupport]uint32{ccid.PINVerification: verifyPINDirect, ccid.PINModification: modifyPINDirect} {
			if test.support&bit == 0 || test.level == ccid.LevelCharacter {
				_, err := r.Control(t.Context(), lun, control, verifyStructure(binary.LittleEndian))
				code(t, ifdhandler.ErrorNotSupported, err)
			}
		}
		_, err = r.Control(t.Context(), lun, mctDirect, []byte{0x20, 0x70, 0, 0, 0})
		code(t, ifdhandler.ErrorNotSupported, err)
	}
}

func TestMCTReaderDirect(t *testing.T) {
	table, err := (*quirks.Table)(nil).Extend("test.toml", []byte("[[quirk]]\nid = \"test\"\nreader = [\"*:*\"]\nreason = \"a reader with MCT\"\nset.pin_pad.mct = true\n"))
	require.NoError(t, err)
	r := newRig(t, virtual.Config{}, ifdhandler.Policy{})
	r.Handler = ifdhandler.New(ifdhandler.Options{Backend: r.bus, Reader: host.Options{Quirks: table}})
	r.open(t)
	got, err := r.Control(t.Context(), lun, ifdhandler.ControlGetFeatureRequest, nil)
	require.NoError(t, err)
	require.Equal(t, []byte{8, 4, 0x42, 0x33, 0, 8, 0x12, 4, 0x42, 0x33, 0, 0x12}, got)
	for instruction := byte(0x70); instruction <= 0x74; instruction++ {
		in := []byte{0x20, instruction, 0, 0, 0, 0xAA}
		got, err := r.Control(t.Context(), lun, mctDirect, in)
		require.NoError(t, err)
		require.Equal(t, in, got, "the reader sends escapes back")
	}
	_, err = r.Control(t.Context(), lun, mctDirect, []byte{0x20, 0x70, 0, 0})
	code(t, ifdhandler.NotSupported, err)
	for _, in := range [][]byte{{0x21, 0x70, 0, 0, 0}, {0x20, 0x6F, 0, 0, 0}, {0x20, 0x75, 0, 0, 0}, {0x20, 0x70, 1, 0, 0}, {0x20, 0x70, 0, 1, 0}, {0x20, 0x70, 0, 0, 1}} {
		_, err := r.Control(t.Context(), lun, mctDirect, in)
		code(t, ifdhandler.ErrorNotSupported, err)
	}
}

// FuzzPINStructures checks that no structure of a client does more than fail.
func FuzzPINStructures(f *testing.F) {
	f.Add(true, verifyStructure(binary.LittleEndian))
	f.Add(true, verifyStructure(binary.BigEndian))
	f.Add(false, modifyStructure(binary.LittleEndian))
	f.Add(false, modifyStructure(binary.BigEndian))
	f.Fuzz(func(t *testing.T, verify bool, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			r := pinRig(t, ccid.LevelTPDU, 3)
			control := uint32(modifyPINDirect)
			if verify {
				control = verifyPINDirect
			}
			require.NoError(t, r.device.Press("c"))
			got, err := r.Control(t.Context(), lun, control, in)
			if err != nil {
				require.Nil(t, got)
				return
			}
			require.GreaterOrEqual(t, len(got), 2)
		})
	})
}

// TestPropertiesHaveWhatIsKnownOfThePINPad has a reader that tells its firmware's version, and one that refuses to.
func TestPropertiesHaveWhatIsKnownOfThePINPad(t *testing.T) {
	const (
		pinProperties = 0x4233000A
		tlvProperties = 0x42330012
		row           = "[[quirk]]\nid = \"test\"\nreader = [\"*:*\"]\nset.escape.firmware_version = \"02\"\n" +
			"set.pin_pad = { min_size = 4, max_size = 8, validation_condition = 2 }\n"
	)
	for _, tells := range []bool{true, false} {
		table, err := (*quirks.Table)(nil).Extend("test.toml", []byte(row))
		require.NoError(t, err)
		r := newRig(t, virtual.Config{
			Override: func(d *ccid.ClassDescriptor) { d.BPINSupport, d.WLcdLayout = 3, 0 },
			Escape: func(_ uint8, data []byte) ([]byte, ccid.ErrorCode, bool) {
				return []byte("V1.0"), ccid.ErrorCommandNotSupported, tells && len(data) == 1 && data[0] == 2
			},
		}, ifdhandler.Policy{})
		r.Handler = ifdhandler.New(ifdhandler.Options{Backend: r.bus, Reader: host.Options{Quirks: table}})
		r.open(t)
		got, err := r.Control(t.Context(), lun, pinProperties, nil)
		require.NoError(t, err)
		require.Equal(t, []byte{0, 0, 2, 0}, got)
		got, err = r.Control(t.Context(), lun, tlvProperties, nil)
		require.NoError(t, err)
		want := []byte{1, 2, 0, 0, 3, 1, 0}
		if tells {
			want = append(want, 8, 4, 'V', '1', '.', '0')
		}
		want = append(want, 6, 1, 4, 7, 1, 8, 2, 1, 2)
		require.Equal(t, want, got[:len(want)])
	}
}
