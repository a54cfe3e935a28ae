package t1

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)

	return b
}

func TestRecordedBlocks(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		edc  EDC
		text string
	}{
		{"00 C1 01 FE 3E", LRC, "S(IFS request) 254"},
		{"00 E1 01 FE 1E", LRC, "S(IFS response) 254"},
		{"00 40 02 6D 00 2F", LRC, "I(1,0) LEN=2"},
		{"00 00 02 6D 00 6F", LRC, "I(0,0) LEN=2"},
		{"00 82 00 82", LRC, "R(0) other error"},
		{"00 92 00 92", LRC, "R(1) other error"},
		{"00 81 00 81", LRC, "R(0) EDC or parity error"},
		{"12 00 05 20 11 00 00 00 26", LRC, "I(0,0) LEN=5"},
		{"21 C3 01 1E FD", LRC, "S(WTX request) 30"},
		{"12 E3 01 1E EE", LRC, "S(WTX response) 30"},
		{"21 00 02 90 00 B3", LRC, "I(0,0) LEN=2"},
		{"21 92 00 B3", LRC, "R(1) other error"},
		{"12 C0 00 D2", LRC, "S(RESYNCH request)"},
		{"21 E0 00 C1", LRC, "S(RESYNCH response)"},
		{"00 C2 00 C2", LRC, "S(ABORT request)"},
		{"00 20 00 20", LRC, "I(0,1) LEN=0"},
		{"00 90 00 90", LRC, "R(1)"},
		// From the notes of the OsEID card on T=1 with CRC, through a Gemalto
		// 08E6:3437 at TPDU level.
		{"00 C1 01 FE 54 4E", CRCPlain, "S(IFS request) 254"},
		{"00 E1 01 FE 57 75", CRCPlain, "S(IFS response) 254"},
		{"00 00 05 00 A4 00 00 00 B8 DA", CRCPlain, "I(0,0) LEN=5"},
		{"00 20 14 6F 17 81 02 7F FF 82 01 38 83 02 3F 00 86 03 11 3F FF 85 02 10 29", CRCPlain, "I(0,1) LEN=20"},
		{"00 90 00 20 6E", CRCPlain, "R(1)"},
		{"00 60 07 00 02 8A 01 AA 90 00 A6 33", CRCPlain, "I(1,1) LEN=7"},
		{"00 80 00 B5 FF", CRCPlain, "R(0)"},
		{"00 00 00 39 33", CRCPlain, "I(0,0) LEN=0"},
	} {
		t.Run(tt.raw, func(t *testing.T) {
			raw := unhex(t, tt.raw)
			b, err := ParseBlock(raw, tt.edc)
			require.NoError(t, err)
			require.Equal(t, tt.text, b.String())
			again, err := AppendBlock(nil, b, tt.edc)
			require.NoError(t, err)
			require.Equal(t, raw, again)
			require.Equal(t, checksum(raw[:len(raw)-tt.edc.Len()], tt.edc), raw[len(raw)-tt.edc.Len():])
			raw[1] ^= 0x01
			_, err = ParseBlock(raw, tt.edc)
			require.ErrorIs(t, err, ErrEDC)
		})
	}
}

func TestCRCIsTheFrameCheckingSequenceOfISO13239(t *testing.T) {
	for _, tt := range []struct{ data, crc string }{
		{"31 32 33 34 35 36 37 38 39", "6E 90"}, // check value 906E, low byte first
		{"00 00 00", "CC C6"},                   // ISO/IEC 14443-3 Annex B
		{"0F AA FF", "FC D1"},
		{"0A 12 34 56", "2C F6"},
	} {
		sum := CRC.compute(unhex(t, tt.data))
		require.Equal(t, unhex(t, tt.crc), sum[:])
		require.Equal(t, sum[:], checksum(unhex(t, tt.data), CRC))
	}
}

func TestParseBlockRefuses(t *testing.T) {
	long := make([]byte, 259)
	long[2] = 255
	long[258] = 255
	for _, tt := range []struct {
		name string
		raw  []byte
		edc  EDC
		want error
	}{
		{"nothing", nil, LRC, ErrLength},
		{"one byte whose LRC is right", []byte{0}, LRC, ErrLength},
		{"prologue without epilogue", unhex(t, "00 00 00"), LRC, ErrLength},
		{"prologue with half a CRC", unhex(t, "00 00 00 39"), CRC, ErrLength},
		{"LEN above the bytes received", unhex(t, "00 00 28 90 00 B8"), LRC, ErrLength},
		{"LEN below the bytes received", unhex(t, "00 00 01 90 00 91"), LRC, ErrLength},
		{"LEN 255", long, LRC, ErrLength},
		{"wrong LRC", unhex(t, "00 00 02 90 00 91"), LRC, ErrEDC},
		{"LRC where CRC is due", unhex(t, "00 00 02 90 00 92 00"), CRC, ErrEDC},
		{"I-block with reserved bit", unhex(t, "00 01 00 01"), LRC, ErrPCB},
		{"R-block with reserved code", unhex(t, "00 83 00 83"), LRC, ErrPCB},
		{"R-block with bit 6", unhex(t, "00 A0 00 A0"), LRC, ErrPCB},
		{"R-block with data", unhex(t, "00 80 01 00 81"), LRC, ErrLength},
		{"S-block of unknown type", unhex(t, "00 C4 00 C4"), LRC, ErrPCB},
		{"S-block with bit 5", unhex(t, "00 D0 00 D0"), LRC, ErrPCB},
		{"S(VPP error response) of old editions", unhex(t, "00 E4 00 E4"), LRC, ErrPCB},
		{"S(RESYNCH response) with data", unhex(t, "00 E0 01 00 E1"), LRC, ErrLength},
		{"S(ABORT request) with data", unhex(t, "00 C2 01 00 C3"), LRC, ErrLength},
		{"S(IFS request) without data", unhex(t, "00 C1 00 C1"), LRC, ErrLength},
		{"S(IFS request) with two bytes", unhex(t, "00 C1 02 20 20 C3"), LRC, ErrLength},
		{"S(IFS request) 0", unhex(t, "00 C1 01 00 C0"), LRC, ErrINF},
		{"S(IFS request) 255", unhex(t, "00 C1 01 FF 3F"), LRC, ErrINF},
		{"S(WTX request) 0", unhex(t, "00 C3 01 00 C2"), LRC, ErrINF},
		{"S(WTX request) without data", unhex(t, "00 C3 00 C3"), LRC, ErrLength},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := ParseBlock(tt.raw, tt.edc)
			require.ErrorIs(t, err, tt.want)
			require.Zero(t, b)
		})
	}
}

func TestAppendBlockRefusesLongFields(t *testing.T) {
	dst, err := AppendBlock([]byte{1}, Block{INF: make([]byte, 255)}, LRC)
	require.ErrorIs(t, err, ErrLength)
	require.Equal(t, []byte{1}, dst)
	raw, err := AppendBlock(nil, Block{INF: make([]byte, 254)}, CRC)
	require.NoError(t, err)
	require.Len(t, raw, 259)
}

func TestEveryPCBHasOneMeaning(t *testing.T) {
	kinds := map[Kind]int{}
	for v := range 256 {
		p := PCB(v)
		kinds[p.Kind()]++
		switch p.Kind() {
		case Information:
			require.Equal(t, p, IPCB(p.NS(), p.More()))
		case ReceiveReady:
			require.Equal(t, p, RPCB(p.NR(), p.Code()))
		case Supervisory:
			require.Equal(t, p.Response(), strings.Contains(p.String(), "response"))
		case Reserved:
			require.Equal(t, "RFU("+strings.ToUpper(hex.EncodeToString([]byte{byte(v)}))+")", p.String())
			require.Equal(t, p.String(), Block{PCB: p}.String())
		}
	}
	require.Equal(t, map[Kind]int{Information: 4, ReceiveReady: 6, Supervisory: 8, Reserved: 238}, kinds)
}

func TestNames(t *testing.T) {
	require.Equal(t, []string{"LRC", "CRC", "CRC (plain)", "EDC(3)"},
		[]string{LRC.String(), CRC.String(), CRCPlain.String(), EDC(3).String()})
	require.Equal(t, "I R S RFU", strings.Join([]string{
		Information.String(), ReceiveReady.String(), Supervisory.String(), Reserved.String(),
	}, " "))
	require.Equal(t, "error 7", RCode(7).String())
	require.Equal(t, "not sent, sent in part, sent completely, Delivery(9)", strings.Join([]string{
		NotSent.String(), PartlySent.String(), FullySent.String(), Delivery(9).String(),
	}, ", "))
}
