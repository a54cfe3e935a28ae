package card

import (
	"encoding/hex"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestT0Characters plays exchanges character by character: ">" is what the reader sends, "<" what the card answers
// until it waits again.
func TestT0Characters(t *testing.T) {
	for _, tc := range []struct {
		name      string
		behaviour Behaviour
		script    string
	}{
		{"case 1", Behaviour{}, "> 0020000100 < 63C3"},
		{"case 2, Le accepted", Behaviour{}, "> 0084000004 < 84 00042021 9000"},
		{"case 2, wrong Le", Behaviour{}, "> 00CA006600 < 6C04 > 00CA006604 < CA 66026700 9000"},
		{"case 2, Le too short", Behaviour{}, "> 00CA006602 < CA 6602 6102 > 00C0000002 < C0 6700 9000"},
		{"case 2, 6C, then another command", Behaviour{}, "> 00CA006600 < 6C04 > 0084000004 < 84 00042021 9000"},
		{"case 3", Behaviour{}, "> 0020000104 < 20 > 31323334 < 9000"},
		{"case 3, data singly", Behaviour{Singly: true}, "> 0020000104 < DF > 31 < DF > 32 < DF > 33 < 20 > 34 < 9000"},
		{"case 2, data singly", Behaviour{Singly: true}, "> 00CA006604 < 35 66 35 02 35 67 CA 00 9000"},
		{"case 4", Behaviour{}, "> 80EC000003 < EC > 010203 < 6103 > 00C0000003 < C0 010203 9000"},
		{"case 4, GET RESPONSE in parts", Behaviour{}, "> 80EC000003 < EC > 010203 < 6103 > 00C0000002 < C0 0102 6101 > 00C0000001 < C0 03 9000"},
		{"case 4, GET RESPONSE with wrong Le", Behaviour{}, "> 80EC000003 < EC > 010203 < 6103 > 00C0000000 < 6C03 > 00C0000003 < C0 010203 9000"},
		{"NULLs", Behaviour{Extensions: []byte{1, 1}}, "> 00CA006604 < 6060 CA 66026700 9000"},
		{"GET RESPONSE for nothing", Behaviour{}, "> 00C0000004 < 6985"},
		{"INS 6x", Behaviour{}, "> 0060000000 < 6D00"},
		{"INS 9x", Behaviour{}, "> 0092000000 < 6D00"},
		{"unknown INS", Behaviour{}, "> 00FE000000 < 6D00"},
		{"header in two parts", Behaviour{}, "> 00200001 < > 00 < 63C3"},
		{"no answer", Behaviour{Mute: true}, "> 00CA006604 <"},
		{"ENVELOPE of a short command", Behaviour{}, "> 00C2000005 < C2 > 0020000100 < 63C3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := powered(t, NewISO(), Options{Behave: func([]byte) Behaviour { return tc.behaviour }})
			for _, turn := range strings.Split(tc.script, ">")[1:] {
				out, in, _ := strings.Cut(turn, "<")
				got := say(t, c, unhex(t, strings.TrimSpace(out)))
				require.Equal(t, strings.ToLower(strings.ReplaceAll(in, " ", "")), hex.EncodeToString(got), "after %s", out)
			}
		})
	}
}

// t0Exchange gives a TPDU to the card as a reader does at TPDU level.
func t0Exchange(t testing.TB, c *ICC, tpdu []byte) (data []byte, sw uint16) {
	t.Helper()
	got := say(t, c, tpdu[:5])
	if len(tpdu) > 5 {
		require.Equal(t, []byte{tpdu[1]}, got)
		got = say(t, c, tpdu[5:])
	}
	n := len(got) - 2
	require.GreaterOrEqual(t, n, 0)
	sw = uint16(got[n])<<8 | uint16(got[n+1])
	if n > 0 {
		require.Equal(t, tpdu[1], got[0])
		data = got[1:n]
	}
	return data, sw
}

func TestT0EnvelopeCarriesExtendedCommands(t *testing.T) {
	c := powered(t, NewISO(), Options{})
	for _, tc := range []struct {
		name string
		data int
		le   bool
	}{
		{"with Le", 1000, true},
		{"without Le", 1000, false},
		{"ends with a full ENVELOPE", 4*255 - 9, true},
		{"ends with a full ENVELOPE, without Le", 4*255 - 7, false},
		{"Le alone in the last ENVELOPE", 4*255 - 7, true},
		{"Le parted", 4*255 - 8, true},
		{"longest", 65535, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			command := append([]byte{0x80, insEcho, 0, 0, 0, byte(tc.data >> 8), byte(tc.data)}, pattern(tc.data)...)
			if tc.le {
				command = append(command, 0, 0)
			}
			var sw uint16
			for len(command) > 0 {
				n := min(255, len(command))
				_, sw = t0Exchange(t, c, append([]byte{0, insEnvelope, 0, 0, byte(n)}, command[:n]...))
				command = command[n:]
				if len(command) > 0 {
					require.Equal(t, uint16(swOK), sw)
				}
			}
			if !tc.le {
				require.Contains(t, []uint16{swOK, swMoreAvailable}, sw)
				return
			}
			var data, all []byte
			for sw>>8 == 0x61 {
				data, sw = t0Exchange(t, c, []byte{0, insGetResponse, 0, 0, byte(sw)})
				all = append(all, data...)
			}
			require.Equal(t, uint16(swOK), sw)
			require.Equal(t, pattern(tc.data), all)
		})
	}
}

func TestT0SendsNULLWhileTheApplicationWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := powered(t, NewISO(), Options{Patience: 5 * time.Millisecond, Behave: func([]byte) Behaviour {
			return Behaviour{Delay: 50 * time.Millisecond}
		}})
		got := say(t, c, unhex(t, "0084000004"))
		require.Equal(t, byte(null), got[0])
		require.Equal(t, unhex(t, "84000420219000"), got[len(got)-7:])
	})
}

func TestPPS(t *testing.T) {
	for _, tc := range []struct {
		name     string
		options  Options
		request  string
		accepted bool
		state    State
	}{
		{"to the offered speed", Options{Protocol: 1}, "FF 11 96 78", true, State{Protocol: 1, FD: 0x96}},
		{"to a lower D", Options{Protocol: 1}, "FF 11 94 7A", true, State{Protocol: 1, FD: 0x94}},
		{"without PPS1", Options{Protocol: 1}, "FF 01 FE", true, State{Protocol: 1, FD: 0x11}},
		{"T=0", Options{}, "FF 10 94 7B", true, State{Protocol: 0, FD: 0x94}},
		{"wrong PCK", Options{}, "FF 10 94 7A", false, State{}},
		{"too fast", Options{}, "FF 10 96 79", false, State{}},
		{"protocol that is not offered", Options{}, "FF 11 94 7A", false, State{}},
		{"specific mode", Options{ATR: []byte{0x3B, 0x90, 0x95, 0x10, 0x00}}, "FF 10 95 7A", false, State{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := powered(t, NewISO(), tc.options)
			got := say(t, c, unhex(t, tc.request))
			if !tc.accepted {
				require.NotEqual(t, unhex(t, tc.request), got)
				return
			}
			require.Equal(t, unhex(t, tc.request), got)
			require.Equal(t, tc.state, c.State())
		})
	}
}

func FuzzT0Link(f *testing.F) {
	f.Add([]byte{0, 0x20, 0, 1, 4, 0x31, 0x32, 0x33, 0x34, 0, 0xCA, 0, 0x66, 0})
	f.Add([]byte{0, 0xC2, 0, 0, 5, 0, 0x20, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(NewISO(), Options{Patience: -1, Behave: func(h []byte) Behaviour { return Behaviour{Singly: h[3]&1 != 0} }})
		defer func() { require.NoError(t, c.Close()) }()
		_, err := c.PowerOn(t.Context(), ClassA)
		require.NoError(t, err)
		for len(b) > 0 {
			n := min(int(b[0])&7+1, len(b))
			got := say(t, c, b[:n])
			require.LessOrEqual(t, len(got), 2*256+2)
			b = b[n:]
		}
	})
}
