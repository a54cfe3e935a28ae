package card

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestISO runs scripts of command and response APDUs.
func TestISO(t *testing.T) {
	for _, tc := range []struct {
		name   string
		script []string // command, response, command, response …
	}{
		{"select the MF", []string{"00A4000000", "6F 07 82 01 38 83 02 3F00 9000", "00A4000C023F00", "9000", "00A40004023F0000", "62 07 82 01 38 83 02 3F00 9000"}},
		{"select EF.DIR", []string{"00A4020C022F00", "9000", "00B0000000", "61 12 4F 08 F0474F4343494401 50 06 676F63636964 9000"}},
		{"select by name", []string{
			"00A4040008F0474F434349440100", "6F 11 82 01 38 83 02 5000 84 08 F0474F4343494401 9000", "00A4040C03F0474F", "9000",
			"00A4040C02F048", "6A82", "00A4040C", "6A82",
		}},
		{"select by path", []string{"00A4080C0450000201", "9000", "00A4030C", "9000", "00A4080C020201", "6A82", "00A4090C0450000201", "9000", "00A4090C0450000201", "6A82", "00A4080C03500002", "6A82"}},
		{"select child, parent", []string{"00A4010C025000", "9000", "00A4010C025000", "6A82", "00A4020C020201", "9000", "00A4030C", "9000", "00A4030C", "6A82"}},
		{"select with wrong P1 P2", []string{"00A40A0C023F00", "6A86", "00A40080023F00", "6A86", "00A4000C013F", "6A82", "00A4020C025000", "6A82"}},
		{"select a DF beside", []string{"00A4000C025000", "9000", "00A4000C025000", "9000", "00A4000C020101", "6A82"}},
		{"read by short identifier", []string{"00B09E0002", "6112 9000", "00B09E0502", "474F 9000", "00B0850001", "6A82", "00B0E00001", "6A86"}},
		{"read without a file", []string{"00B0000000", "6986", "00B0800000", "6986"}},
		{"read beyond the end", []string{"00B0810104", "00000000 9000", "00B0010000", "6B00", "00B000FE04", "0000 6282", "00B0FFFF00", "6A86"}},
		{"update and read", []string{"00D6810203AABBCC", "9000", "00B0810105", "00AABBCC00 9000", "00D600FF02AABB", "6A84", "00D69E0001AA", "6985"}},
		{"verify", []string{
			"00200001", "63C3", "002000010430303030", "63C2", "00200001", "63C2", "002000010431323334", "9000", "00200001", "9000",
			"0020FF01", "9000", "00200001", "63C3", "002000020431323334", "6A88", "002001010431323334", "6A86",
		}},
		{"blocked and unblocked", []string{
			"002000010430303030", "63C2", "002000010430303030", "63C1", "002000010430303030", "63C0", "002000010431323334", "6983", "00200001", "6983",
			"002C0001083030303030303030", "63C4", "002C000103303030", "6A80", "002C00010C313233343536373839393939", "9000", "002000010439393939", "9000",
		}},
		{"change", []string{"00240001083132333435363738", "9000", "002000010431323334", "63C2", "002000010435363738", "9000", "002400010431323334", "6A80", "0024000208", "6A88"}},
		{"protected file", []string{"00A4080C0450000201", "9000", "00B0000000", "6982", "00D6000001AA", "6982", "002000010431323334", "9000", "00B0000004", "6F6E6C79 9000"}},
		{"get data", []string{"00CA006600", "66026700 9000", "00CA5F5200", hex.EncodeToString(historical) + "9000", "00CA000000", "6A88"}},
		{"get challenge", []string{"0084000004", "00042021 9000", "0084010004", "6A86"}},
		{"echo", []string{"80EC000003010203", "9000", "80EC00000301020300", "010203 9000", "80EC000503010203 00", "0102030102 9000", "80EC000000", "9000"}},
		{"produce", []string{"80EE000004", "00010203 9000", "80EE000204", "0001 9000", "80EE000602", "0001 6104", "00C0000002", "0203 6102", "00C0000000", "0405 9000"}},
		{"get response for nothing", []string{"00C0000000", "6985"}},
		{"classes and instructions that are not there", []string{"01B0000000", "6E00", "00FE0000", "6D00", "00B00000", "6986"}},
		{"no APDU", []string{"00B0", "6700", "00D6000005AA", "6700"}},
		{"chained commands", []string{"90EC000002AABB", "9000", "80EC000002CCDD00", "AABBCCDD 9000", "90EC000002AABB", "9000", "0084000001", "00 9000", "80EC000001CC00", "CC 9000"}},
		{"extended", []string{"80EC0000000002AABB0000", "AABB 9000", "80EE0000000003", "000102 9000"}},
		{"envelope", []string{"00C200000500200001 00", "63C3", "00C2000000", "6985"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := powered(t, NewISO(), Options{Protocol: 1})
			for i := 0; i < len(tc.script); i += 2 {
				got, err := c.Transmit(t.Context(), unhex(t, tc.script[i]), nil)
				require.NoError(t, err)
				require.Equal(t, strings.ToLower(strings.ReplaceAll(tc.script[i+1], " ", "")), hex.EncodeToString(got), "answer %d, to %s", i/2, tc.script[i])
			}
		})
	}
}

func TestISOKeepsFilesAndCountersAcrossResets(t *testing.T) {
	c := powered(t, NewISO(), Options{})
	exchange := func(command string) string {
		got, err := c.Transmit(t.Context(), unhex(t, command), nil)
		require.NoError(t, err)
		return hex.EncodeToString(got)
	}
	require.Equal(t, "63c2", exchange("002000010430303030"))
	require.Equal(t, "9000", exchange("00D6810002CAFE"))
	for range 2 {
		_, err := c.PowerOn(t.Context(), ClassB)
		require.NoError(t, err)
		require.Equal(t, "63c2", exchange("00200001"))
		require.Equal(t, "cafe9000", exchange("00B0810002"))
	}
	require.Equal(t, "9000", exchange("002000010431323334"))
	c.PowerOff()
	_, err := c.Transmit(t.Context(), unhex(t, "00200001"), nil)
	require.ErrorIs(t, err, ErrMute)
	_, err = c.PowerOn(t.Context(), ClassB)
	require.NoError(t, err)
	require.Equal(t, "63c3", exchange("00200001"), "the security status is lost")
}

func TestISOReads64KB(t *testing.T) {
	c := powered(t, NewISO(), Options{})
	got, err := c.Transmit(t.Context(), unhex(t, "00B08200 000000"), nil)
	require.NoError(t, err)
	require.Equal(t, append(pattern(65536), 0x90, 0x00), got)
}

func TestISOProducesEveryLength(t *testing.T) {
	c := powered(t, NewISO(), Options{})
	for _, n := range []int{1, 255, 256, 257, 4096, 65535, 65536} {
		got, err := c.Transmit(t.Context(), unhex(t, fmt.Sprintf("80EE000000%04X", n&0xFFFF)), nil)
		require.NoError(t, err)
		require.Equal(t, append(pattern(n), 0x90, 0x00), got)
	}
}

func TestVoltageThatTheCardDoesNotTake(t *testing.T) {
	c := New(NewISO(), Options{Classes: ClassB})
	_, err := c.PowerOn(t.Context(), ClassA)
	require.ErrorIs(t, err, ErrMute)
	atr, err := c.PowerOn(t.Context(), ClassB)
	require.NoError(t, err)
	require.NotEmpty(t, atr)
	require.NoError(t, c.Close())
}

func TestATRs(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options Options
		atr     string
		traits  Traits
	}{
		{"T=0", Options{}, "3B1C94 8073C001C066676F63636964", Traits{Protocols: []byte{0}, TA1: 0x94, WI: 10, IFSC: 32, WaitingIntegers: 0x4D}},
		{"T=1", Options{Protocol: 1}, "3B9C968131FE45 8073C001C066676F63636964", Traits{Protocols: []byte{1}, TA1: 0x96, WI: 10, IFSC: 254, WaitingIntegers: 0x45}},
		{"T=1 with CRC", Options{Protocol: 1, CRC: true, IFSC: 32}, "3B9C9681712045018073C001C066676F63636964", Traits{Protocols: []byte{1}, TA1: 0x96, WI: 10, IFSC: 32, WaitingIntegers: 0x45, CRC: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			atr := makeATR(tc.options)
			want := unhex(t, tc.atr)
			require.Equal(t, want, atr[:len(want)])
			if tc.options.Protocol == 1 {
				var sum byte
				for _, b := range atr[1:] {
					sum ^= b
				}
				require.Zero(t, sum, "TCK")
			}
			require.Equal(t, tc.traits, ReadATR(atr))
		})
	}
	require.Equal(t, Traits{Protocols: []byte{1}, TA1: 0x18, WI: 10, IFSC: 0xFE, WaitingIntegers: 0x45, GuardTime: 0xFF}, ReadATR(unhex(t, "3BDA18FF81B1FE451F030031C573C001400090000C")))
	require.Equal(t, []byte{0}, ReadATR(nil).Protocols)
	require.Equal(t, []byte{1}, ReadATR([]byte{0x3B, 0xF0, 1, 2, 3, 0x81}).Protocols)
}

func FuzzReadATR(f *testing.F) {
	f.Add([]byte{0x3B, 0x9C, 0x96, 0x81, 0x31, 0xFE, 0x45})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := ReadATR(b)
		require.NotEmpty(t, got.Protocols)
		require.NotContains(t, []byte{0, 255}, got.IFSC)
	})
}

func FuzzISO(f *testing.F) {
	f.Add([]byte{4, 0, 0xA4, 0, 0, 5, 0, 0xB0, 0x81, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(NewISO(), Options{})
		defer func() { require.NoError(t, c.Close()) }()
		_, err := c.PowerOn(t.Context(), ClassA)
		require.NoError(t, err)
		for len(b) > 0 {
			n := min(int(b[0]), len(b)-1)
			got, err := c.Transmit(t.Context(), b[1:1+n], nil)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(got), 2)
			b = b[1+n:]
		}
	})
}
