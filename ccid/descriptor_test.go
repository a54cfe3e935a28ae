package ccid

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// reader is what a line of ../virtual/readers.jsonl has of one interface of a real reader.
type reader struct {
	Name       string
	Descriptor string
	Fields     []uint64 // in the order of ClassDescriptor's
}

func realReaders(t testing.TB) []reader {
	t.Helper()
	f, err := os.Open("../virtual/readers.jsonl")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	var list []reader
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r reader
		require.NoError(t, json.Unmarshal(lines.Bytes(), &r))
		list = append(list, r)
	}
	return list
}

func fieldsOf(d *ClassDescriptor) []uint64 {
	return []uint64{
		uint64(d.BLength), uint64(d.BDescriptorType), uint64(d.BcdCCID), uint64(d.BMaxSlotIndex), uint64(d.BVoltageSupport),
		uint64(d.DwProtocols), uint64(d.DwDefaultClock), uint64(d.DwMaximumClock), uint64(d.BNumClockSupported),
		uint64(d.DwDataRate), uint64(d.DwMaxDataRate), uint64(d.BNumDataRatesSupported), uint64(d.DwMaxIFSD),
		uint64(d.DwSynchProtocols), uint64(d.DwMechanical), uint64(d.DwFeatures), uint64(d.DwMaxCCIDMessageLength),
		uint64(d.BClassGetResponse), uint64(d.BClassEnvelope), uint64(d.WLcdLayout), uint64(d.BPINSupport), uint64(d.BMaxCCIDBusySlots),
	}
}

func TestRealReadersDecodeToTheirFields(t *testing.T) {
	readers := realReaders(t)
	require.Len(t, readers, 615)
	for _, r := range readers {
		raw := unhex(t, r.Descriptor)
		d, err := ParseClassDescriptor(raw)
		require.NoError(t, err, r.Name)
		require.Equal(t, r.Fields, fieldsOf(d), r.Name)
		again, err := d.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, raw, again, r.Name)
	}
}

func TestClassDescriptorJSONHasTheNamesOfTheSpecification(t *testing.T) {
	b, err := json.Marshal(ClassDescriptor{BLength: 54, BMaxSlotIndex: 2, DwFeatures: 0x10030})
	require.NoError(t, err)
	var m map[string]float64
	require.NoError(t, json.Unmarshal(b, &m), "numbers only")
	require.Len(t, m, 22)
	require.InEpsilon(t, float64(0x10030), m["dwFeatures"], 0)
	require.InEpsilon(t, float64(2), m["bMaxSlotIndex"], 0)
	require.Contains(t, m, "bMaxCCIDBusySlots")
}

// valid is the Gemalto PC Twin Reader's.
const valid = "36210101000703000000C0120000C01200000067320000CE990C0035FE0000000000000000000000300201000F010000000000000001"

func TestClassDescriptorThatIsNone(t *testing.T) {
	good := unhex(t, valid)
	for _, tc := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "0 bytes, needs 54"},
		{"short", good[:53], "53 bytes, needs 54"},
		{"long", append(bytes.Clone(good), 0), "55 bytes, needs 54"},
		{"wrong bLength", append([]byte{53}, good[1:]...), "offset 0: bLength is 53"},
		{"wrong type", append([]byte{54, 0x22}, good[2:]...), "offset 1: bDescriptorType is 0x22"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := ParseClassDescriptor(tc.b)
			require.Nil(t, d)
			require.ErrorIs(t, err, ErrDescriptor)
			require.ErrorContains(t, err, tc.want)
		})
	}
	_, err := ParseClassDescriptor(append([]byte{54, 0xFF}, good[2:]...))
	require.NoError(t, err, "some readers say type FF")
}

func TestFindClassDescriptor(t *testing.T) {
	good := valid
	for _, tc := range []struct {
		name, extra string
		want        string // part of the error, "" for found
	}{
		{"alone", good, ""},
		{"after others", "0921 00 01 00 01 22 00 00" + "0224" + good, ""},
		{"before another", good + "0224", ""},
		{"before garbage", good + "FF", ""},
		{"nothing there", "", "none there"},
		{"only another", "0524010203", "found only type 0x24 with 5 bytes"},
		{"two others", "0221 0224", "found only type 0x21 with 2 bytes, type 0x24 with 2 bytes"},
		{"bLength 0", "0021", "offset 0: bLength 0, but 2 bytes are left"},
		{"bLength 1", "0224 01", "offset 2: bLength 1, but 1 bytes are left"},
		{"past the end", "3621", "offset 0: bLength 54, but 2 bytes are left"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := FindClassDescriptor(unhex(t, tc.extra))
			if tc.want == "" {
				require.NoError(t, err)
				again, err := d.AppendBinary(nil)
				require.NoError(t, err)
				require.Equal(t, unhex(t, good), again)
				return
			}
			require.ErrorIs(t, err, ErrDescriptor)
			require.ErrorContains(t, err, tc.want)
			require.Nil(t, d)
		})
	}
}

func TestClassDescriptorProtocolsAndSlots(t *testing.T) {
	d := ClassDescriptor{DwProtocols: 0x80000002, BMaxSlotIndex: 255}
	require.False(t, d.SupportsProtocol(0))
	require.True(t, d.SupportsProtocol(1))
	require.False(t, d.SupportsProtocol(31), "the upper half is reserved")
	require.False(t, d.SupportsProtocol(255))
	require.Equal(t, 256, d.Slots())
}

func TestExchangeLevels(t *testing.T) {
	for f, want := range map[Features]struct {
		level ExchangeLevel
		text  string
	}{
		0x00000030: {LevelCharacter, "character"}, 0x00010030: {LevelTPDU, "TPDU"}, 0x00020030: {LevelShortAPDU, "short APDU"},
		0x00040030: {LevelExtendedAPDU, "extended APDU"}, 0x00070000: {LevelExtendedAPDU, "extended APDU"}, 0x00030000: {LevelShortAPDU, "short APDU"},
	} {
		require.Equal(t, want.level, f.ExchangeLevel())
		require.Equal(t, want.text, f.ExchangeLevel().String())
	}
	require.Equal(t, "level 9", ExchangeLevel(9).String())
}

func TestBitFieldsHaveNames(t *testing.T) {
	require.Equal(t, "5 V, 3 V, 1.8 V", VoltageSupport(7).String())
	require.Equal(t, "none", VoltageSupport(0).String())
	require.Equal(t, "5 V, bit 7", VoltageSupport(0x81).String())
	require.Equal(t, "none", Features(0).String())
	require.Equal(t, []string{"automatic clock frequency change", "automatic baud rate change", "TPDU level"}, Features(0x10030).Names())
	require.Equal(t, []string{"bit 0", "bit 31"}, Features(0x80000001).Names())
	require.NotContains(t, (FeatureAutoATRConfig | FeatureAutoActivation | FeatureAutoVoltage | FeatureAutoParameters | FeatureAutoPPS |
		FeatureClockStop | FeatureNAD | FeatureAutoIFSD | FeatureICCD | FeatureLevelShortAPDU | FeatureLevelExtendedAPDU | FeatureWakeup).String(), "bit")
	require.NotEqual(t, "none", Mechanical(1).String())
	require.NotEqual(t, "none", PINSupport(3).String())
}

func FuzzParseClassDescriptor(f *testing.F) {
	seen := map[string]bool{}
	for _, r := range realReaders(f) {
		// One of each kind of feature set is seed enough.
		if key := r.Descriptor[80:88]; !seen[key] {
			seen[key] = true
			f.Add(unhex(f, r.Descriptor))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseClassDescriptor(b)
		if err != nil {
			require.ErrorIs(t, err, ErrDescriptor)
			return
		}
		again, err := d.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, hex.EncodeToString(b), hex.EncodeToString(again))
		require.NotEmpty(t, d.DwFeatures.String()+d.BVoltageSupport.String()+d.DwMechanical.String()+d.BPINSupport.String())
	})
}

func FuzzFindClassDescriptor(f *testing.F) {
	f.Add(unhex(f, valid))
	f.Add(unhex(f, "0224"+valid))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := FindClassDescriptor(b)
		if err != nil {
			require.ErrorIs(t, err, ErrDescriptor)
			return
		}
		again, err := d.AppendBinary(nil)
		require.NoError(t, err)
		require.True(t, bytes.Contains(b, again))
	})
}
