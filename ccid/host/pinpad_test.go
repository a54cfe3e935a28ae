package host_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/ccid/quirks"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// Offsets in the data of a Secure message (CCID 1.1 §6.1.11).
const (
	verifyExtraDigits = 5
	verifyCondition   = 7
	verifyNumber      = 8
	modifyCondition   = 10
	modifyNumber      = 11
	modifyIndices     = 14
)

func pinPad() virtual.Config {
	c := withCards(ccid.LevelShortAPDU, card.NewT1())
	c.Override = func(d *ccid.ClassDescriptor) { d.BPINSupport = 3 }
	return c
}

// particular is a reader that takes some PIN messages only, and refuses others for the byte that it does not like.
func particular(takes func(data []byte) bool) func() func(ccid.Command) (ccid.Response, bool) {
	return func() func(ccid.Command) (ccid.Response, bool) {
		refuse := failing(ccid.TypeSecure, 21, ccid.ICCActive)()
		return func(c ccid.Command) (ccid.Response, bool) {
			if c.Type == ccid.TypeSecure && takes(c.Data) {
				return ccid.Response{Type: ccid.TypeDataBlock, Slot: c.Slot, Seq: c.Seq, Data: []byte{0x90, 0x00}}, true
			}
			return refuse(c)
		}
	}
}

// verifies reports whether a verification, changed if need be, is taken.
func verifies(change func(*ccid.PINVerificationData)) func(*testing.T, *quirkRun) any {
	return func(t *testing.T, r *quirkRun) any {
		r.connect(t)
		p := verification
		if change != nil {
			change(&p)
		}
		answer, err := r.slot.VerifyPIN(t.Context(), p)
		return err == nil && bytes.Equal(answer, []byte{0x90, 0x00})
	}
}

func modifies(change func(*ccid.PINModificationData)) func(*testing.T, *quirkRun) any {
	return func(t *testing.T, r *quirkRun) any {
		r.connect(t)
		p := modification
		p.BMsgIndex = [3]uint8{4, 5, 6}
		if change != nil {
			change(&p)
		}
		answer, err := r.slot.ModifyPIN(t.Context(), p)
		return err == nil && bytes.Equal(answer, []byte{0x90, 0x00})
	}
}

// modifyLength is the length of the data with so many indices, for the command of modification.
func modifyLength(indices int) int { return modifyIndices + indices + 3 + len(modification.PINAPDU) }

func pinQuirkCases() []quirkCase {
	return []quirkCase{{
		keys: "pin_pad.verify.number_message pin_pad.verify.validation_condition", id: "gempc-pinpad-message", vid: 0x08E6, pid: 0x3478,
		config:   pinPad,
		peculiar: particular(func(data []byte) bool { return data[verifyNumber] == 1 && data[verifyCondition] == 2 }),
		see:      verifies(func(p *ccid.PINVerificationData) { p.BNumberMessage, p.BEntryValidationCondition = 0xFF, 7 }),
		without:  false, with: true,
	}, {
		keys: "pin_pad.modify.validation_condition", id: "gempc-pinpad-message", vid: 0x08E6, pid: 0x3478,
		config:   pinPad,
		peculiar: particular(func(data []byte) bool { return data[modifyCondition] == 2 }),
		see:      modifies(func(p *ccid.PINModificationData) { p.BEntryValidationCondition = 7 }),
		without:  false, with: true,
	}, {
		keys: "pin_pad.verify.swap_extra_digits", id: "dell-sk3106-extra-digits", vid: 0x413C, pid: 0x2100,
		config: pinPad,
		peculiar: particular(func(data []byte) bool {
			// It reads the most significant byte first: 4 to 8 digits.
			return binary.BigEndian.Uint16(data[verifyExtraDigits:]) == 0x0408
		}),
		see:     verifies(func(p *ccid.PINVerificationData) { p.WPINMaxExtraDigit = 0x0408 }),
		without: false, with: true,
	}, {
		keys: "pin_pad.verify.delay", id: "dell-keyboard-verify", vid: 0x413C, pid: 0x2101,
		config:   pinPad,
		peculiar: particular(func(data []byte) bool { return data[verifyNumber] <= 1 }),
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			begun := time.Now()
			_, err := r.slot.VerifyPIN(t.Context(), verification)
			require.NoError(t, err)
			return time.Since(begun) >= 250*time.Millisecond
		},
		without: false, with: true,
	}, {
		keys: "pin_pad.verify.unpadded_escape", id: "spr532-verify", vid: 0x04E6, pid: 0xE003, version: 0x0510,
		config: pinPad,
		peculiar: func() func(ccid.Command) (ccid.Response, bool) {
			told := false
			take := particular(func([]byte) bool { return told })()
			return func(c ccid.Command) (ccid.Response, bool) {
				told = told || c.Type == ccid.TypeEscape && bytes.Equal(c.Data, []byte{0x80, 0x02, 0x00})
				return take(c)
			}
		},
		see: func(t *testing.T, r *quirkRun) any {
			r.connect(t)
			var taken []bool
			// Padding is asked for by the first, and by the second, which has room for the PIN.
			for _, p := range []ccid.PINVerificationData{verification, growing} {
				_, err := r.slot.VerifyPIN(t.Context(), p)
				taken = append(taken, err == nil)
			}
			return fmt.Sprint(taken)
		},
		without: "[false false]", with: "[false true]",
	}, {
		keys: "pin_pad.modify.number_message", id: "xx44-modify", vid: 0x046A, pid: 0x0010,
		config:   pinPad,
		peculiar: particular(func(data []byte) bool { return data[modifyNumber] == 3 && len(data) == modifyLength(3) }),
		see:      modifies(func(p *ccid.PINModificationData) { p.BNumberMessage = 1 }),
		without:  false, with: true,
	}, {
		keys: "pin_pad.modify.number_message_for_zero", id: "kc1000-modify", vid: 0x046A, pid: 0x00A1,
		config: pinPad,
		peculiar: particular(func(data []byte) bool {
			return data[modifyNumber] == 0xFF && len(data) == modifyLength(3) || data[modifyNumber] == 2 && len(data) == modifyLength(2)
		}),
		see: func(t *testing.T, r *quirkRun) any {
			return [2]any{
				modifies(func(p *ccid.PINModificationData) { p.BNumberMessage = 0 })(t, r),
				modifies(func(p *ccid.PINModificationData) { p.BNumberMessage = 2 })(t, r),
			}
		},
		without: [2]any{false, true}, with: [2]any{true, true},
	}, {
		keys: "pin_pad.modify.all_indices pin_pad.modify.zero_indices", id: "st2000-modify", vid: 0x046A, pid: 0x003E,
		config: pinPad,
		peculiar: particular(func(data []byte) bool {
			return data[modifyNumber] == 0 && len(data) == modifyLength(3) && bytes.Equal(data[modifyIndices:modifyIndices+3], make([]byte, 3))
		}),
		see:     modifies(nil),
		without: false, with: true,
	}, {
		keys: "pin_pad.min_size pin_pad.max_size pin_pad.validation_condition", id: "st2000-sizes", vid: 0x046A, pid: 0x003E,
		config:  pinPad,
		see:     func(_ *testing.T, r *quirkRun) any { return r.reader.PINProperties() },
		without: host.PINProperties{}, with: host.PINProperties{MaxSize: 25, Condition: ccid.PINKeyPressed},
	}, {
		keys: "pin_pad.firmware_features", id: "gemalto-firmware-features", vid: 0x08E6, pid: 0x3480, version: 0x0200,
		config: func() virtual.Config { return tellingFeatures(pinPad(), make([]byte, 21)) },
		see: func(t *testing.T, r *quirkRun) any {
			require.NoError(t, r.opened)
			return r.reader.PINProperties()
		},
		without: host.PINProperties{}, with: host.PINProperties{MinSize: 4, MaxSize: 12, Condition: 3},
	}, {
		keys: "escape.firmware_version", id: "gemalto-firmware-features", vid: 0x08E6, pid: 0x3437,
		config: func() virtual.Config { return tellingFeatures(pinPad(), make([]byte, 21)) },
		see: func(t *testing.T, r *quirkRun) any {
			version, err := r.slot.FirmwareVersion(t.Context())
			require.NoError(t, err)
			return version
		},
		without: "", with: "GemTwin-V2.00",
	}, {
		keys: "pin_pad.display_strings_after", id: "gempc-pinpad-display", vid: 0x0982, pid: 0x0008,
		config: pinPad,
		see: func(t *testing.T, r *quirkRun) any {
			require.NoError(t, r.opened)
			escapes := r.commands(ccid.TypeEscape)
			if len(escapes) == 0 {
				return "no texts"
			}
			require.Len(t, escapes, 1)
			require.Len(t, escapes[0].Data, 5+10*16)
			require.Equal(t, []byte{0xB2, 0xA0, 0x00, 0x4D, 0x4C}, escapes[0].Data[:5])
			require.GreaterOrEqual(t, r.times[len(r.times)-1], time.Second)
			return string(escapes[0].Data[5:21])
		},
		without: "no texts", with: "Enter PIN       ",
	}}
}

// tellingFeatures has the reader answer as Gemalto's do: 6A gives its PIN features, 02 its version.
func tellingFeatures(c virtual.Config, features []byte) virtual.Config {
	features = slices.Clone(features)
	if len(features) == 21 {
		features[3], features[13], features[14] = 3, 4, 12
	}
	c.Escape = func(_ uint8, data []byte) ([]byte, ccid.ErrorCode, bool) {
		switch {
		case bytes.Equal(data, []byte{0x6A}):
			return features, 0, true
		case bytes.Equal(data, []byte{0x02}):
			return []byte("GemTwin-V2.00\x00"), 0, true
		}
		return nil, ccid.ErrorCommandNotSupported, false
	}
	return c
}

// TestFirmwareTellsOfItsPINPad has what else the features of a firmware change, and answers that are none.
func TestFirmwareTellsOfItsPINPad(t *testing.T) {
	const modifies, twoIndices, threeIndices = true, 2, 3
	for name, test := range map[string]struct {
		features       []byte
		asked, sent    byte // bEntryValidationCondition
		indices        int
		wantProperties host.PINProperties
	}{
		"conditions are those that the firmware knows": {make([]byte, 21), 7, 3, threeIndices, host.PINProperties{MinSize: 4, MaxSize: 12, Condition: 3}},
		"indices as specified":                         {append([]byte{8: 4}, make([]byte, 12)...), 2, 2, twoIndices, host.PINProperties{MinSize: 4, MaxSize: 12, Condition: 3}},
		"no condition in common":                       {make([]byte, 21), 4, 4, threeIndices, host.PINProperties{MinSize: 4, MaxSize: 12, Condition: 3}},
		"an answer of another length":                  {make([]byte, 20), 7, 7, threeIndices, host.PINProperties{}},
		"an answer of nothing":                         {nil, 7, 7, threeIndices, host.PINProperties{}},
	} {
		bubble(t, name, func(t *testing.T) {
			c := quirkCase{
				vid: 0x08E6, pid: 0x3480, version: 0x0200,
				config: func() virtual.Config { return tellingFeatures(pinPad(), test.features) },
				see: func(t *testing.T, r *quirkRun) any {
					require.NoError(t, r.opened)
					require.Equal(t, test.wantProperties, r.reader.PINProperties())
					r.connect(t)
					p := modification
					p.BNumberMessage, p.BEntryValidationCondition = 1, ccid.PINCondition(test.asked)
					require.NoError(t, r.device.Press("c"))
					_, _ = r.slot.ModifyPIN(t.Context(), p)
					sent := r.commands(ccid.TypeSecure)
					require.Len(t, sent, 1)
					require.Equal(t, test.sent, sent[0].Data[modifyCondition])
					require.Len(t, sent[0].Data, modifyLength(test.indices))
					return modifies
				},
			}
			table, err := quirks.Load("")
			require.NoError(t, err)
			require.Equal(t, modifies, c.run(t, table))
		})
	}
}

// TestReaderThatTakesNoneOfItsSetUp refuses the commands, or says nothing to them.
func TestReaderThatTakesNoneOfItsSetUp(t *testing.T) {
	table, err := quirks.Load("")
	require.NoError(t, err)
	refuse := failing(ccid.TypeEscape, ccid.ErrorCommandNotSupported, ccid.ICCInactive)
	bubble(t, "refused", func(t *testing.T) {
		c := quirkCase{
			vid: 0x08E6, pid: 0x3478, config: pinPad, peculiar: refuse,
			see: func(_ *testing.T, r *quirkRun) any { return r.opened },
		}
		require.Nil(t, c.run(t, table))
	})
	bubble(t, "silence", func(t *testing.T) {
		c := quirkCase{
			vid: 0x08E6, pid: 0x3480, version: 0x0200, config: pinPad, late: map[int]time.Duration{1: time.Hour},
			see: func(t *testing.T, r *quirkRun) any {
				require.NoError(t, r.opened)
				require.Equal(t, host.PINProperties{}, r.reader.PINProperties())
				r.connect(t)
				return nil
			},
		}
		require.Nil(t, c.run(t, table))
	})
}

// TestEscapeThatKeepsTheFormOfAPINIsNeeded has the reader refuse it: the PIN would go to the card in another form.
func TestEscapeThatKeepsTheFormOfAPINIsNeeded(t *testing.T) {
	table, err := quirks.Load("")
	require.NoError(t, err)
	bubble(t, "refused", func(t *testing.T) {
		c := quirkCase{
			vid: 0x04E6, pid: 0xE003, version: 0x0510, config: pinPad,
			peculiar: failing(ccid.TypeEscape, ccid.ErrorHardware, ccid.ICCActive),
			see: func(t *testing.T, r *quirkRun) any {
				r.connect(t)
				_, err := r.slot.VerifyPIN(t.Context(), growing)
				require.ErrorIs(t, err, ccid.ErrorHardware)
				return len(r.commands(ccid.TypeSecure))
			},
		}
		require.Equal(t, 0, c.run(t, table))
	})
}

// TestReaderWithoutPINPadIsAskedNothing: some readers of a maker whose pads have features don't answer unknown Escape
// commands at all, and each unanswered one would take seconds.
func TestReaderWithoutPINPadIsAskedNothing(t *testing.T) {
	table, err := quirks.Load("")
	require.NoError(t, err)
	bubble(t, "4433", func(t *testing.T) {
		c := quirkCase{
			vid: 0x08E6, pid: 0x4433, version: 0x0200,
			config: func() virtual.Config {
				c := tellingFeatures(pinPad(), make([]byte, 21))
				c.Override = func(d *ccid.ClassDescriptor) { d.BPINSupport = 0 }
				return c
			},
			see: func(t *testing.T, r *quirkRun) any {
				require.NoError(t, r.opened)
				return len(r.commands(ccid.TypeEscape))
			},
		}
		require.Zero(t, c.run(t, table))
	})
}
