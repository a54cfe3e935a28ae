package quirks

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
)

func load(t testing.TB) *Table {
	t.Helper()
	table, err := Load("")
	require.NoError(t, err)
	return table
}

// withLevel returns a class descriptor whose level of exchange is the one given.
func withLevel(features ccid.Features) *ccid.ClassDescriptor {
	c := class()
	c.DwFeatures = features
	return &c
}

// withMessageLength returns a class descriptor that says how long messages may be.
func withMessageLength(n uint32) *ccid.ClassDescriptor {
	c := class()
	c.DwMaxCCIDMessageLength = n
	return &c
}

// builtinCases has for every built-in row a device that it is about, with all that this device needs, and where the row
// has more conditions than VID and PID, a device that misses one of them.
func builtinCases(t *testing.T) []builtinCase {
	var (
		short, extended = ccid.LevelShortAPDU, ccid.LevelExtendedAPDU
		number          = func(n uint8) *uint8 { return &n }
		hex             = func(text string) []byte { b, _ := parseBytes(text); return b }
		openPGP         = hex("3B FA 13 00 FF 81 31 80 45 00 31 C1 73 C0 01 00 00 90 00 B1")
		forced          = Settings{Descriptor: Descriptor{Level: &extended}}
		chaining        = Settings{Descriptor: Descriptor{Level: &extended}, PINPad: PINPad{Off: true}}
		noPINPad        = Settings{PINPad: PINPad{Off: true}}
		oneSecond       = Settings{Timing: Timing{StatusTimeout: time.Second}}
		fast            = Settings{Timing: Timing{StatusTimeout: 400 * time.Millisecond}}
		oz776           = Settings{Protocol: Protocol{MaxDataRate: 9600, NoPPS: true}}
		oz776Character  = Settings{Protocol: oz776.Protocol, Exchange: Exchange{AvoidMultipleOf: 64}}
		alcor           = Settings{Protocol: Protocol{MaxDataRate: 200000, SetParametersMayFail: true}}
		noIFSD          = Settings{Protocol: Protocol{NoIFSD: true}}
		secondary       = []uint32{10753, 21505, 43011, 125000}
		indices         = PINModify{AllIndices: true, ZeroIndices: true, NumberMessage: number(0)}
		pinpadVerify    = PINVerify{NumberMessage: number(1), ValidationCondition: 2}
		pinpadModify    = PINModify{AllIndices: true, ValidationCondition: 2}
		toISO           = Power{RetryOn: 0xBB, RetryEscape: hex("1F01")}
	)
	gemalto := func(s Settings) Settings {
		s.PINPad.FirmwareFeatures = hex("6A")
		s.PINPad.Modify.AllIndices = true
		s.Escape.FirmwareVersion = hex("02")
		if s.Escape.Allow == nil {
			s.Escape.Allow = []Pattern{pattern(t, "02")}
		}
		return s
	}
	pinpad := gemalto(Settings{PINPad: PINPad{
		ValidationCondition: 2, DisplayStringsAfter: time.Second, Verify: pinpadVerify, Modify: pinpadModify,
	}})
	sized := pinpad
	sized.PINPad.MinSize, sized.PINPad.MaxSize = 4, 8
	cases := []builtinCase{
		{"a reader without quirks", Device{VID: 0x1050, PID: 0x0407, Class: withLevel(ccid.FeatureLevelExtendedAPDU)}, Settings{}},

		{"mysmartpad-ifsd", Device{VID: 0x09BE, PID: 0x0002}, Settings{Descriptor: Descriptor{MaxIFSD: 254}}},
		{"message-length-263", Device{VID: 0x04E6, PID: 0x5410, Class: withMessageLength(263)}, Settings{Descriptor: Descriptor{MaxMessageLength: 271}}},
		{"", Device{VID: 0x04E6, PID: 0x5410, Class: withMessageLength(262)}, Settings{}},
		{"", Device{VID: 0x04E6, PID: 0x5410}, Settings{}},
		{"omnikey-chaining omnikey-no-pin-pad", Device{VID: 0x076B, PID: 0x3A21}, chaining},
		{"omnikey-chaining omnikey-no-pin-pad", Device{VID: 0x076B, PID: 0x3031}, chaining},
		{"omnikey-chaining omnikey-no-pin-pad", Device{VID: 0x076B, PID: 0x6632}, chaining},
		{"omnikey-chaining omnikey-no-pin-pad", Device{VID: 0x046A, PID: 0x00A7}, chaining},
		{"omnikey-chaining omnikey-no-pin-pad", Device{VID: 0x0BF8, PID: 0x1024}, chaining},
		{"", Device{VID: 0x076B, PID: 0x3021}, Settings{}},
		{"pn7362-chaining", Device{VID: 0x2F7C, PID: 0x6007}, forced},
		{
			"kc1000-chaining kc1000-modify kc1000-sizes",
			Device{VID: 0x046A, PID: 0x00A1, BcdDevice: 0x0100, Class: withLevel(ccid.FeatureLevelShortAPDU)},
			Settings{Descriptor: forced.Descriptor, PINPad: PINPad{MaxSize: 32, Modify: PINModify{NumberMessageForZero: 0xFF}}},
		},
		{
			"kc1000-modify kc1000-sizes",
			Device{VID: 0x046A, PID: 0x00A1, BcdDevice: 0x0101, Class: withLevel(ccid.FeatureLevelShortAPDU)},
			Settings{PINPad: PINPad{MaxSize: 32, Modify: PINModify{NumberMessageForZero: 0xFF}}},
		},
		{
			"kc1000-modify kc1000-sizes",
			Device{VID: 0x046A, PID: 0x00A1, BcdDevice: 0x0100, Class: withLevel(ccid.FeatureLevelTPDU)},
			Settings{PINPad: PINPad{MaxSize: 32, Modify: PINModify{NumberMessageForZero: 0xFF}}},
		},
		{"tribank-short-apdu kobil-mct", Device{VID: 0x0D46, PID: 0x3010}, Settings{Descriptor: Descriptor{Level: &short}, PINPad: PINPad{MCT: true}}},
		{"kobil-mct", Device{VID: 0x0D46, PID: 0x4289}, Settings{PINPad: PINPad{MCT: true}}},

		{"cl1356d-boot", Device{VID: 0x0B81, PID: 0x0200}, Settings{Timing: Timing{WarmUpDelay: time.Second, WarmUpTimeout: 2 * time.Second}}},
		{"twn4-status", Device{VID: 0x09D8, PID: 0x0427}, oneSecond},
		{"twn4-status", Device{VID: 0x09D8, PID: 0x0428}, oneSecond},
		{"acr122u-status", Device{VID: 0x072F, PID: 0x2200, BcdDevice: 0x0206}, oneSecond},
		{"scl011-status", Device{VID: 0x04E6, PID: 0x5293}, fast},
		{"utrust-status", Device{VID: 0x04E6, PID: 0x5790}, fast},
		{"utrust-status", Device{VID: 0x04E6, PID: 0x5791}, fast},
		{"utrust-status", Device{VID: 0x04E6, PID: 0x5724}, fast},
		{"gemalto-firmware-features gemalto-modify-indices fusion-key-generation", Device{VID: 0x08E6, PID: 0x34D2}, gemalto(Settings{Timing: Timing{T1Allowance: 5 * time.Minute}})},

		{"sec1100-interrupt", Device{VID: 0x0424, PID: 0x1104, OS: "darwin"}, Settings{USB: USB{InterruptFirst: 10 * time.Millisecond}}},
		{"", Device{VID: 0x0424, PID: 0x1104, OS: "linux"}, Settings{}},

		{"emv-to-iso", Device{VID: 0x046A, PID: 0x0005}, Settings{Power: toISO}},
		{"emv-to-iso gemalto-firmware-features gemalto-modify-indices", Device{VID: 0x08E6, PID: 0x4433}, gemalto(Settings{Power: toISO})},
		{"idtoken-power idtoken-identity", Device{VID: 0x0D46, PID: 0x301D}, Settings{Power: Power{OffBeforeOn: true}, Exchange: Exchange{IdentityAPDUs: true}}},
		{
			"simpro-presence simpro-secondary-rates gemalto-firmware-features gemalto-modify-indices",
			Device{VID: 0x08E6, PID: 0x3480, BcdDevice: 0x0199},
			gemalto(Settings{Power: Power{PresenceByPowerOn: true}, Protocol: Protocol{SecondarySlotDataRates: secondary}}),
		},
		{"gemalto-firmware-features gemalto-modify-indices", Device{VID: 0x08E6, PID: 0x3480, BcdDevice: 0x0200}, gemalto(Settings{})},
		{"pospro-secondary-rates gemalto-firmware-features gemalto-modify-indices", Device{VID: 0x08E6, PID: 0x3479}, gemalto(Settings{Protocol: Protocol{SecondarySlotDataRates: secondary}})},

		{"oz776-rate oz776-pps oz776-block-size", Device{VID: 0x0B97, PID: 0x7762, Class: withLevel(0)}, oz776Character},
		{"oz776-rate oz776-pps oz776-block-size", Device{VID: 0x0B97, PID: 0x7772, Class: withLevel(0)}, oz776Character},
		{"oz776-rate oz776-pps", Device{VID: 0x0B97, PID: 0x7772, Class: withLevel(ccid.FeatureLevelTPDU)}, oz776},
		{"oz776-block-size", Device{VID: 0x0416, PID: 0x3815, Class: withLevel(ccid.FeatureAutoVoltage)}, Settings{Exchange: Exchange{AvoidMultipleOf: 64}}},
		{"au9540-rates au9540-set-parameters", Device{VID: 0x058F, PID: 0x9540}, alcor},
		{"etoken-ifsd", Device{VID: 0x0529, PID: 0x0620, BcdDevice: 0x0012}, noIFSD},
		{"etoken-ifsd", Device{VID: 0x0529, PID: 0x0620, BcdDevice: 0x0013}, noIFSD},
		{"", Device{VID: 0x0529, PID: 0x0620, BcdDevice: 0x0014}, Settings{}},
		{"openpgp-v1-bwi", Device{VID: 0x1050, PID: 0x0407, ATR: openPGP}, Settings{Protocol: Protocol{MinBWI: 7}}},
		{"", Device{VID: 0x1050, PID: 0x0407, ATR: openPGP[1:]}, Settings{}},

		{"keyboard-pin-leak", Device{VID: 0x03F0, PID: 0x1024}, noPINPad},
		{"keyboard-pin-leak", Device{VID: 0x03F0, PID: 0x0036, BcdDevice: 0x0124}, noPINPad},
		{"keyboard-pin-leak", Device{VID: 0x0BF8, PID: 0x1017}, noPINPad},
		{"keyboard-pin-leak", Device{VID: 0x04F2, PID: 0x1469}, noPINPad},
		{"ltc31-no-pin-pad", Device{VID: 0x0783, PID: 0x0006}, noPINPad},
		{"minilector-no-pin-pad", Device{VID: 0x25DD, PID: 0x3111}, noPINPad},

		{"gemalto-firmware-features gemalto-modify-indices", Device{VID: 0x08E6, PID: 0x3437}, gemalto(Settings{})},
		{"gemalto-firmware-features gemalto-modify-indices gempc-pinpad-display gempc-pinpad-message", Device{VID: 0x08E6, PID: 0x3478, BcdDevice: 0x0101}, pinpad},
		{"gemalto-firmware-features gemalto-modify-indices gempc-pinpad-display gempc-pinpad-message gempc-pinpad-sizes", Device{VID: 0x08E6, PID: 0x3478, BcdDevice: 0x0100}, sized},
		{"gemalto-modify-indices gempc-pinpad-display gempc-pinpad-message vega-sizes", Device{VID: 0x0982, PID: 0x0008}, Settings{PINPad: PINPad{
			MinSize: 4, MaxSize: 8, ValidationCondition: 2, DisplayStringsAfter: time.Second, Verify: pinpadVerify, Modify: pinpadModify,
		}}},
		{"st2000-modify st2000-sizes", Device{VID: 0x046A, PID: 0x003E}, Settings{PINPad: PINPad{MaxSize: 25, ValidationCondition: 2, Modify: indices}}},
		{"xx44-modify", Device{VID: 0x046A, PID: 0x0010}, Settings{PINPad: PINPad{Modify: PINModify{NumberMessage: number(3)}}}},
		{"spr532-verify spr532-modify", Device{VID: 0x04E6, PID: 0xE003, BcdDevice: 0x0510}, Settings{PINPad: PINPad{Verify: PINVerify{UnpaddedEscape: hex("800200")}, Modify: indices}}},
		{"dell-keyboard-verify", Device{VID: 0x413C, PID: 0x2101}, Settings{PINPad: PINPad{Verify: PINVerify{NumberMessage: number(0), Delay: 250 * time.Millisecond}}}},
		{"dell-keyboard-verify dell-sk3106-extra-digits", Device{VID: 0x413C, PID: 0x2100}, Settings{PINPad: PINPad{Verify: PINVerify{
			NumberMessage: number(0), Delay: 250 * time.Millisecond, SwapExtraDigits: true,
		}}}},
		{"omnikey3821-sizes", Device{VID: 0x076B, PID: 0x3821}, Settings{PINPad: PINPad{MinSize: 1, MaxSize: 31}}},

		{"gemalto-firmware-features gemalto-modify-indices prox-du-interface", Device{VID: 0x08E6, PID: 0x5503}, gemalto(Settings{Escape: Escape{
			Allow: []Pattern{pattern(t, "02"), pattern(t, "52 F8 04 01 00 xx")},
		}})},
		{"omnikey5427-escape", Device{VID: 0x076B, PID: 0x5427}, Settings{Escape: Escape{Always: true}}},
	}
	return append(cases, refusals()...)
}

type builtinCase struct {
	rows   string // the ids in effect
	device Device
	want   Settings
}

// refusals has the last firmware that is refused and the first that isn't.
func refusals() []builtinCase {
	const faulty = "listed as faulty by the reference driver"
	list := []struct {
		row          string
		vid, pid     uint16
		first        uint16
		reason       string
		otherRows    string
		otherSetting func(*Settings)
	}{
		{"scr331-firmware", 0x04E6, 0xE001, 0x0516, faulty, "", nil},
		{"scr331-di-firmware", 0x04E6, 0x5111, 0x0620, faulty, "", nil},
		{"kaan-base-firmware", 0x0D46, 0x3001, 0x0037, faulty, "", nil},
		{"kaan-advanced-firmware", 0x0D46, 0x3002, 0x0037, faulty, "", nil},
		{"activcard-v2-firmware", 0x09C3, 0x0008, 0x0203, faulty, "", nil},
		{"ase-iiie-firmware", 0x0DC3, 0x1004, 0x0502, faulty, "", nil},
		{"asedrive-kb-firmware", 0x0DC3, 0x1102, 0x0607, faulty, "", nil},
		{"au9520-firmware", 0x058F, 0x9520, 0x0102, faulty, "", nil},
		{"acr122u-firmware", 0x072F, 0x2200, 0x0206, "gives wrong answers to reads of 123 bytes", "acr122u-status ", func(s *Settings) { s.Timing.StatusTimeout = time.Second }},
		{"precise-200-firmware", 0x08C3, 0x0402, 0x5000, "does not pass on time extensions", "", nil},
		{"precise-250-firmware", 0x08C3, 0x0401, 0x5000, "does not pass on time extensions", "", nil},
		{"argos-mini-ii-firmware", 0x0B0C, 0x0050, 0x0101, "lacks the automatic IFSD exchange", "", nil},
		{"idprotect-v2-firmware", 0x0DC3, 0x0900, 0x0200, faulty, "", nil},
		{"hp-ccid-keyboard-firmware", 0x03F0, 0x0036, 0x0124, faulty, "keyboard-pin-leak ", func(s *Settings) { s.PINPad.Off = true }},
		{"thrc-firmware", 0x062D, 0x0001, 0x0102, faulty, "", nil},
		{"scl010-firmware", 0x04E6, 0x5291, 0x0112, faulty, "", nil},
		{"spr532-firmware", 0x04E6, 0xE003, 0x0510, faulty, "spr532-verify spr532-modify ", func(s *Settings) {
			s.PINPad.Verify.UnpaddedEscape = []byte{0x80, 0x02, 0x00}
			s.PINPad.Modify = PINModify{AllIndices: true, ZeroIndices: true, NumberMessage: new(uint8)}
		}},
	}
	var cases []builtinCase
	for _, r := range list {
		var fine Settings
		if r.otherSetting != nil {
			r.otherSetting(&fine)
		}
		refused := fine
		refused.Refused = "firmware before " + version(r.first) + ": " + r.reason
		cases = append(cases,
			builtinCase{r.otherRows + r.row, Device{VID: r.vid, PID: r.pid, BcdDevice: r.first - 1}, refused},
			builtinCase{r.otherRows, Device{VID: r.vid, PID: r.pid, BcdDevice: r.first}, fine},
		)
	}
	return cases
}

// version writes bcdDevice as people do.
func version(bcd uint16) string {
	text := strconv.FormatUint(uint64(bcd)|0x10000, 16)
	return strings.TrimPrefix(text[1:3], "0") + "." + text[3:]
}

func TestBuiltinRows(t *testing.T) {
	table := load(t)
	shown := map[string]bool{}
	for _, test := range builtinCases(t) {
		t.Run(test.rows+" "+version(test.device.BcdDevice), func(t *testing.T) {
			assert.Equal(t, test.want, table.Lookup(test.device))
			var inEffect []string
			for _, e := range table.Explain(test.device) {
				if e.Off == "" {
					inEffect = append(inEffect, e.ID)
					shown[e.ID] = true
				}
			}
			if reflect.ValueOf(test.want).IsZero() {
				assert.Empty(t, inEffect)
			} else {
				assert.ElementsMatch(t, strings.Fields(test.rows), inEffect)
			}
		})
	}
	for _, r := range table.rows {
		assert.True(t, r.Optional || shown[string(r.ID)], "row %s has no test", r.ID)
	}
}

// TestOptionalRows switches each of them on.
func TestOptionalRows(t *testing.T) {
	short := ccid.LevelShortAPDU
	atOpen := func(b ...byte) Escape { return Escape{AtOpen: [][]byte{b}} }
	zlp := Settings{USB: USB{SwallowZLP: 10 * time.Millisecond}}
	tests := []struct {
		row    string
		device Device
		want   Settings
	}{
		{"spurious-zlp", Device{VID: 0x413C, PID: 0x2101, BcdDevice: 0x0200}, zlp},
		{"spurious-zlp", Device{VID: 0x08E6, PID: 0x3437, BcdDevice: 0x0200}, zlp},
		{"spurious-zlp", Device{VID: 0x08E6, PID: 0x3438, BcdDevice: 0x0200}, zlp},
		{"spurious-zlp", Device{VID: 0x08E6, PID: 0x3437, BcdDevice: 0x0202}, Settings{}},
		{"gempc-pinpad-retries", Device{VID: 0x08E6, PID: 0x3478}, Settings{Escape: atOpen(0xB5, 0x00)}},
		{"gempc-pinpad-retries", Device{VID: 0x0982, PID: 0x0008}, Settings{Escape: atOpen(0xB5, 0x00)}},
		{"gempc-apdu-mode", Device{VID: 0x08E6, PID: 0x3437}, Settings{Escape: atOpen(0x1F, 0x02), Descriptor: Descriptor{Level: &short}}},
		{"gempc-apdu-mode", Device{VID: 0x08E6, PID: 0x3438}, Settings{Escape: atOpen(0x1F, 0x02), Descriptor: Descriptor{Level: &short}}},
	}
	builtin, shown := load(t), map[string]bool{}
	for _, test := range tests {
		t.Run(test.row, func(t *testing.T) {
			var others []string
			for _, e := range builtin.Explain(test.device) {
				if e.ID == test.row {
					assert.Equal(t, "optional", e.Off)
				} else {
					others = append(others, strconv.Quote(e.ID))
				}
			}
			table, err := builtin.Extend("test.toml", []byte(`[[quirk]]
id = "on"
reader = ["*:*"]
enable = ["`+test.row+`"]
disable = [`+strings.Join(others, ", ")+`]
`))
			require.NoError(t, err)
			assert.Equal(t, test.want, table.Lookup(test.device))
			shown[test.row] = true
		})
	}
	for _, r := range builtin.rows {
		assert.True(t, !r.Optional || shown[string(r.ID)], "row %s has no test", r.ID)
	}
}

// TestBuiltinProvenance keeps the table fit for people: who, why, and where that is known from.
func TestBuiltinProvenance(t *testing.T) {
	for _, r := range load(t).rows {
		assert.NotEmpty(t, r.Name, r.ID)
		assert.NotEmpty(t, r.Reason, r.ID)
		assert.Regexp(t, `^libccid [0-9.]+ src/[a-z_]+\.c:[0-9]+`, r.Source, r.ID)
		assert.Regexp(t, `^builtin\.toml:[0-9]+$`, r.origin)
	}
}
