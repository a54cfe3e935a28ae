package capture

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/t1"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// hidden runs messages through a redactor and returns the data of each as hexadecimal digits.
func hidden(t testing.TB, messages ...ccid.Command) []string {
	t.Helper()
	r := newRedactor()
	var list []string
	for _, m := range messages {
		b, err := m.AppendBinary(nil)
		require.NoError(t, err)
		original := bytes.Clone(b)
		out := r.hide(b)
		require.Equal(t, original, b, "the message that is sent must not change")
		require.Len(t, out, len(b))
		require.Equal(t, b[:ccid.HeaderLength], out[:ccid.HeaderLength])
		list = append(list, strings.ToUpper(hex.EncodeToString(out[ccid.HeaderLength:])))
	}
	return list
}

func TestSecretsOfMessages(t *testing.T) {
	xfr := func(level uint16, data string) ccid.Command { return ccid.XfrBlock(0, 0, level, unhex(t, data)) }
	secure := func(level uint16, data string) ccid.Command { return ccid.Secure(0, 0, level, unhex(t, data)) }
	block := func(pcb t1.PCB, edc t1.EDC, inf string) string {
		b, err := t1.AppendBlock(nil, t1.Block{PCB: pcb, INF: unhex(t, inf)}, edc)
		require.NoError(t, err)
		return strings.ToUpper(hex.EncodeToString(b))
	}
	i := func(pcb t1.PCB, edc t1.EDC, inf string) ccid.Command { return xfr(0, block(pcb, edc, inf)) }
	first, second := t1.IPCB(0, false), t1.IPCB(1, false)
	firstMore, secondMore := t1.IPCB(0, true), t1.IPCB(1, true)
	tests := map[string]struct {
		messages []ccid.Command
		want     []string
	}{
		"VERIFY": {
			[]ccid.Command{xfr(0, "0020008104 31323334")}, []string{"00200081042A2A2A2A"},
		},
		"CHANGE REFERENCE DATA, chained by CLA": {
			[]ccid.Command{xfr(0, "1024008102 3132"), xfr(0, "0024008102 3334")},
			[]string{"10240081022A2A", "00240081022A2A"},
		},
		"RESET RETRY COUNTER with a long Lc": {
			[]ccid.Command{xfr(0, "002C008100 0004 31323334")}, []string{"002C00810000042A2A2A2A"},
		},
		"DISABLE and ENABLE VERIFICATION REQUIREMENT": {
			[]ccid.Command{xfr(0, "0026008104 31323334"), xfr(1, "0028008102 31"), xfr(2, "32")},
			[]string{"00260081042A2A2A2A", "002800812A2A", "2A"},
		},
		"other commands": {
			[]ccid.Command{xfr(0, "00A4040002 3F00"), xfr(0, "00B0000000")}, []string{"00A40400023F00", "00B0000000"},
		},
		"chained messages of the extended APDU level": {
			[]ccid.Command{xfr(1, "0020008104 31"), xfr(3, "3233"), xfr(2, "34"), xfr(0, "00A4040001 3F")},
			[]string{"002000812A2A", "2A2A", "2A", "00A40400013F"},
		},
		"chained messages without a secret": {
			[]ccid.Command{xfr(1, "00D6008104 31"), xfr(3, "3233"), xfr(2, "34")}, []string{"00D600810431", "3233", "34"},
		},
		"character level: data after the header": {
			[]ccid.Command{xfr(1, "0020008104"), xfr(2, "31323334"), xfr(1, "00A4000002"), xfr(2, "3F00")},
			[]string{"0020008104", "2A2A2A2A", "00A4000002", "3F00"},
		},
		"character level: one byte at a time": {
			[]ccid.Command{xfr(1, "0020008103"), xfr(1, "31"), xfr(1, "32"), xfr(2, "33"), xfr(1, "00B0000000")},
			[]string{"0020008103", "2A", "2A", "2A", "00B0000000"},
		},
		"a card that was reset expects no data": {
			[]ccid.Command{xfr(1, "0020008104"), ccid.IccPowerOn(0, 0), xfr(1, "00B0000000")},
			[]string{"0020008104", "", "00B0000000"},
		},
		"T=1 block with an LRC": {
			[]ccid.Command{i(first, t1.LRC, "0020008104 31323334")}, []string{block(first, t1.LRC, "00200081042A2A2A2A")},
		},
		"T=1 block with a CRC": {
			[]ccid.Command{i(first, t1.CRC, "0020008104 31323334")}, []string{block(first, t1.CRC, "00200081042A2A2A2A")},
		},
		"T=1 chain": {
			[]ccid.Command{
				i(firstMore, t1.LRC, "002000"), i(secondMore, t1.LRC, "810431"), i(firstMore, t1.LRC, "3233"), i(second, t1.LRC, "34"),
				i(first, t1.LRC, "00A4040002 3F00"),
			},
			[]string{
				block(firstMore, t1.LRC, "002000"), block(secondMore, t1.LRC, "812A2A"), block(firstMore, t1.LRC, "2A2A"),
				block(second, t1.LRC, "2A"), block(first, t1.LRC, "00A40400023F00"),
			},
		},
		"T=1 chain whose last block is sent again": {
			[]ccid.Command{i(firstMore, t1.LRC, "0020008104"), i(second, t1.LRC, "31A43334"), i(second, t1.LRC, "31A43334")},
			[]string{block(firstMore, t1.LRC, "002000812A"), block(second, t1.LRC, "2A2A2A2A"), block(second, t1.LRC, "2A2A2A2A")},
		},
		"T=1 chain that is given up": {
			[]ccid.Command{i(firstMore, t1.LRC, "0020008104"), xfr(0, block(t1.ResynchRequest, t1.LRC, "")), i(first, t1.LRC, "00B0000000")},
			[]string{block(firstMore, t1.LRC, "002000812A"), block(t1.ResynchRequest, t1.LRC, ""), block(first, t1.LRC, "00B0000000")},
		},
		"T=1 chained block with a PCB like VERIFY": {
			[]ccid.Command{i(firstMore, t1.LRC, "00D6000004 3132"), i(second, t1.LRC, "3334")},
			[]string{block(firstMore, t1.LRC, "00D60000043132"), block(second, t1.LRC, "3334")},
		},
		"ENVELOPE": {
			[]ccid.Command{
				xfr(0, "00C2000006 002000810000"), xfr(0, "00C2000006 043132333435"), xfr(0, "00C0000000"),
				xfr(0, "00A4040002 3F00"), xfr(0, "00C2000007 00D60000023132"),
			},
			[]string{
				"00C2000006002000812A2A", "00C20000062A2A2A2A2A2A", "00C0000000", "00A40400023F00", "00C200000700D60000023132",
			},
		},
		"ENVELOPE after ENVELOPE": {
			[]ccid.Command{xfr(0, "00C2000007 00D60000023132"), xfr(0, "00C2000007 00200081023132")},
			[]string{"00C200000700D60000023132", "00C2000007002000812A2A2A"},
		},
		"ENVELOPE at the character level": {
			[]ccid.Command{xfr(1, "00C2000007"), xfr(2, "00200081023132"), xfr(1, "00C2000002"), xfr(2, "3334")},
			[]string{"00C2000007", "002000812A2A2A", "00C2000002", "2A2A"},
		},
		"ENVELOPE in a T=1 chain": {
			[]ccid.Command{i(firstMore, t1.LRC, "00C20000070020"), i(second, t1.LRC, "0081023132")},
			[]string{block(firstMore, t1.LRC, "00C20000070020"), block(second, t1.LRC, "00812A2A2A")},
		},
		"ENVELOPE after the last byte of an earlier command": {
			[]ccid.Command{xfr(0, "00C2000006 00D600000231"), xfr(0, "00C2000001 32"), xfr(0, "00C2000007 00200081023132")},
			[]string{"00C200000600D600000231", "00C200000132", "00C2000007002000812A2A2A"},
		},
		"ENVELOPE of one byte after the last byte of an earlier command": {
			[]ccid.Command{
				xfr(0, "00C2000006 00D600000231"), xfr(0, "00C2000001 32"), xfr(0, "00C2000001 00"), xfr(0, "00C2000006 200081023132"),
				xfr(0, "00C2000001 33"),
			},
			[]string{"00C200000600D600000231", "00C200000132", "00C200000100", "00C20000062000812A2A2A", "00C20000012A"},
		},
		"ENVELOPE of data objects": {
			[]ccid.Command{xfr(0, "00C300000B 5209 0020008104 31323334"), xfr(1, "00C3000002"), xfr(2, "3132")},
			[]string{"00C300000B2A2A2A2A2A2A2A2A2A2A2A", "00C3000002", "2A2A"},
		},
		"header in pieces": {
			[]ccid.Command{xfr(1, "00200081"), xfr(1, "04"), xfr(1, "31323334"), xfr(1, "00B0000000")},
			[]string{"00200081", "04", "2A2A2A2A", "00B0000000"},
		},
		"header byte by byte": {
			[]ccid.Command{xfr(1, "00"), xfr(1, "20"), xfr(1, "00"), xfr(1, "81"), xfr(1, "02"), xfr(1, "31"), xfr(1, "32"), xfr(1, "00B0000000")},
			[]string{"00", "20", "00", "81", "02", "2A", "2A", "00B0000000"},
		},
		"header in pieces, the last one with data": {
			[]ccid.Command{xfr(0, "0020"), xfr(0, "0081043132"), xfr(0, "3334"), xfr(0, "00200081"), xfr(0, "0431323334"), xfr(0, "00B0000000")},
			[]string{"0020", "0081042A2A", "2A2A", "00200081", "042A2A2A2A", "00B0000000"},
		},
		"header of an ENVELOPE in pieces": {
			[]ccid.Command{xfr(1, "00C200"), xfr(1, "0007"), xfr(1, "00200081023132"), xfr(1, "00B0000000")},
			[]string{"00C200", "0007", "002000812A2A2A", "00B0000000"},
		},
		"the retry counter is asked for": {
			[]ccid.Command{xfr(0, "00200081"), xfr(0, "00B0000000"), xfr(0, "00200081"), xfr(0, "00A4040002 3F00"), xfr(0, "00200081"), xfr(0, "0020008102 3132")},
			[]string{"00200081", "00B0000000", "00200081", "00A40400023F00", "00200081", "00200081022A2A"},
		},
		"chained messages with a short first part": {
			[]ccid.Command{
				xfr(1, "00200081"), xfr(3, "043132"), xfr(2, "3334"), xfr(1, "0020"), xfr(3, "0081043132"), xfr(2, "3334"),
				xfr(1, "0020008104"), xfr(3, "3132"), xfr(2, "3334"), xfr(0, "00A4040002 3F00"),
			},
			[]string{"00200081", "042A2A", "2A2A", "0020", "0081042A2A", "2A2A", "0020008104", "2A2A", "2A2A", "00A40400023F00"},
		},
		"chained messages with a short first part and a long Lc": {
			[]ccid.Command{xfr(1, "0020008100"), xfr(3, "00043132"), xfr(2, "3334"), xfr(0, "00B0000000")},
			[]string{"0020008100", "2A2A2A2A", "2A2A", "00B0000000"},
		},
		"chained messages of an ENVELOPE with a short first part": {
			[]ccid.Command{xfr(1, "00C2"), xfr(3, "000009002000"), xfr(3, "81043132"), xfr(2, "3334"), xfr(0, "00B0000000")},
			[]string{"00C2", "000009002000", "812A2A2A", "2A2A", "00B0000000"},
		},
		"chained messages of an ENVELOPE with a short first part and a long Lc": {
			[]ccid.Command{
				xfr(1, "00C20000"), xfr(3, "000009 0020"), xfr(2, "00810431323334"), xfr(0, "00C2000002 3132"), xfr(0, "00B0000000"),
				xfr(0, "00C2000005 00D6008100"),
			},
			[]string{"00C20000", "2A2A2A2A2A", "2A2A2A2A2A2A2A", "00C20000022A2A", "00B0000000", "00C200000500D6008100"},
		},
		"chained messages with a short first part, without a secret": {
			[]ccid.Command{xfr(1, "00D60081"), xfr(3, "043132"), xfr(2, "3334")}, []string{"00D60081", "043132", "3334"},
		},
		"T=1 block with a wrong EDC": {
			[]ccid.Command{xfr(0, "000009 0020008104 31323334 FF"), xfr(0, "00400A 0020008104 31323334 00 FFFF"), xfr(0, "000005 00B0000000 FF")},
			[]string{"00000900200081042A2A2A2A2A", "00400A00200081042A2A2A2A2A2A2A", "00000500B0000000FF"},
		},
		"T=1 chain with a wrong EDC": {
			[]ccid.Command{
				xfr(0, "002007 0020008104 3132 FF"), xfr(0, "004002 3334 FF"), i(second, t1.LRC, "3334"), i(first, t1.LRC, "00B0000000"),
			},
			[]string{"002007002A2A2A2A2A2A2A", "0040022A2A2A", block(second, t1.LRC, "2A2A"), block(first, t1.LRC, "00B0000000")},
		},
		"PIN verification": {
			[]ccid.Command{secure(0, "00 1E 82 04 00 0804 02 01 0904 00 000000 00200081 08 3132333435363738")},
			[]string{"001E820400080402010904000000000020008108" + "2A2A2A2A2A2A2A2A"},
		},
		"PIN modification": {
			[]ccid.Command{secure(0, "01 1E 82 04 00 00 08 0804 03 02 03 0904 00 01 02 000000 00240081 10 31323334")},
			[]string{"011E82040000080804030203090400010200000000240" + "02A2A" + "2A2A2A2A"},
		},
		"the rest of a PIN command": {
			[]ccid.Command{secure(3, "31323334"), secure(0, "06 3132")}, []string{"2A2A2A2A", "062A2A"},
		},
		"another slot": {
			[]ccid.Command{xfr(1, "0020008104"), ccid.XfrBlock(1, 0, 2, unhex(t, "31323334")), xfr(2, "31323334")},
			[]string{"0020008104", "31323334", "2A2A2A2A"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, hidden(t, tt.messages...)) })
	}
}

// TestSecretsOfTransfersThatTheCaptureHasNotWhole: a snapshot length cuts T=1 blocks before their EDC.
func TestSecretsOfTransfersThatTheCaptureHasNotWhole(t *testing.T) {
	b, err := ccid.XfrBlock(0, 0, 0, unhex(t, "000009 0020008104 31323334 89")).AppendBinary(nil)
	require.NoError(t, err)
	for cut := range 5 {
		out := newRedactor().hide(b[:len(b)-cut])
		require.NotContains(t, string(out), "1", "%d bytes less", cut)
		require.Equal(t, b[:ccid.HeaderLength+7], out[:ccid.HeaderLength+7])
	}
}

// TestSWEndsAHeader: a VERIFY that asks for the retry counter has had its answer, so a single byte is no P3.
func TestSWEndsAHeader(t *testing.T) {
	r := newRedactor()
	send := func(level uint16, data string) string {
		b, err := ccid.XfrBlock(0, 0, level, unhex(t, data)).AppendBinary(nil)
		require.NoError(t, err)
		return strings.ToUpper(hex.EncodeToString(r.hide(b)[ccid.HeaderLength:]))
	}
	for _, level := range []uint16{ccid.ChainSingle, ccid.ChainBegin} {
		send(level, "00200081")
		answer, err := ccid.Response{Type: ccid.TypeDataBlock, Data: unhex(t, "63C2")}.AppendBinary(nil)
		require.NoError(t, err)
		r.learn(answer)
		require.Equal(t, "0531323334", send(ccid.ChainEnd, "0531323334"))
		require.Equal(t, "04A40000", send(0, "04A40000"))
	}
}

// TestSW1EndsACommandAtTheCharacterLevel: the card refuses the header, so the next command is no PIN.
func TestSW1EndsACommandAtTheCharacterLevel(t *testing.T) {
	tests := map[string]struct {
		procedure string
		hidden    bool
	}{"SW1": {"69", false}, "9000": {"90", false}, "NULL": {"60", true}, "ACK": {"20", true}, "ACK for one byte": {"DF", true}}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRedactor()
			send := func(data string) []byte {
				b, err := ccid.XfrBlock(0, 0, 1, unhex(t, data)).AppendBinary(nil)
				require.NoError(t, err)
				return r.hide(b)[ccid.HeaderLength:]
			}
			send("0020008104")
			answer, err := ccid.Response{Type: ccid.TypeDataBlock, Data: unhex(t, tt.procedure)}.AppendBinary(nil)
			require.NoError(t, err)
			r.learn(answer)
			require.Equal(t, tt.hidden, bytes.Equal(send("00B00001"), []byte("****")))
		})
	}
}

// carriers are the ways in which a command goes into XfrBlocks. ns is N(S) of the next T=1 block.
var carriers = map[string]func(t *rapid.T, command []byte, ns *byte) []ccid.Command{
	"whole": func(_ *rapid.T, command []byte, _ *byte) []ccid.Command {
		return []ccid.Command{ccid.XfrBlock(0, 0, 0, command)}
	},
	"chained messages": func(t *rapid.T, command []byte, _ *byte) []ccid.Command {
		parts := split(t, command, leastOf(t, command, 6))
		var list []ccid.Command
		for i, p := range parts {
			level := ccid.ChainMiddle
			switch {
			case len(parts) == 1:
				level = ccid.ChainSingle
			case i == 0:
				level = ccid.ChainBegin
			case i == len(parts)-1:
				level = ccid.ChainEnd
			}
			list = append(list, ccid.XfrBlock(0, 0, level, p))
		}
		return list
	},
	"T=1": func(t *rapid.T, command []byte, ns *byte) []ccid.Command {
		edc := rapid.SampledFrom([]t1.EDC{t1.LRC, t1.CRC, t1.CRCPlain}).Draw(t, "EDC")
		parts := split(t, command, 1)
		var list []ccid.Command
		for i, p := range parts {
			b, err := t1.AppendBlock(nil, t1.Block{PCB: t1.IPCB(*ns, i < len(parts)-1), INF: p}, edc)
			require.NoError(t, err)
			*ns ^= 1
			for range rapid.IntRange(1, 3).Draw(t, "times sent") {
				list = append(list, ccid.XfrBlock(0, 0, 0, b))
			}
		}
		return list
	},
	"characters": func(t *rapid.T, command []byte, _ *byte) []ccid.Command {
		var list []ccid.Command
		for _, p := range split(t, command[:5], leastOf(t, command, 5)) {
			list = append(list, ccid.XfrBlock(0, 0, 1, p))
		}
		for _, p := range split(t, command[5:], 1) {
			list = append(list, ccid.XfrBlock(0, 0, rapid.SampledFrom([]uint16{1, 2}).Draw(t, "expected"), p))
		}
		return list
	},
}

// secretByte is what PINs in TestNoSecretByteIsLeft are of, and harmlessByte other data.
const (
	secretByte   = 0xDD
	harmlessByte = 0xDE
)

// leastOf is how short parts of a command may be that has n bytes which tell what it is. Of one without a secret these are in one
// part: pieces of them may look like a PIN command.
func leastOf(t *rapid.T, command []byte, n int) int {
	if bytes.IndexByte(command, secretByte) < 0 {
		return n
	}
	return rapid.SampledFrom([]int{1, n}).Draw(t, "least")
}

// split cuts b into parts of at least least bytes, besides the last.
func split(t *rapid.T, b []byte, least int) [][]byte {
	var parts [][]byte
	for len(b) > 0 {
		n := min(len(b), rapid.IntRange(least, min(254, max(least, len(b)))).Draw(t, "part"))
		parts = append(parts, b[:n])
		b = b[n:]
	}
	return parts
}

// envelopes puts a command into ENVELOPE commands.
func envelopes(t *rapid.T, command []byte) [][]byte {
	var list [][]byte
	for _, p := range split(t, command, 1) {
		list = append(list, append([]byte{0x00, 0xC2, 0x00, 0x00, byte(len(p))}, p...))
	}
	return list
}

// TestNoSecretByteIsLeft sends a PIN command in every way and looks for its bytes, which nothing else has. Another command in
// the same ways is left as it is.
func TestNoSecretByteIsLeft(t *testing.T) {
	for name, carry := range carriers {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			ins := rapid.SampledFrom([]byte{0x20, 0x21, 0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D, 0xD6}).Draw(t, "INS")
			n := rapid.IntRange(1, 40).Draw(t, "PIN length")
			data := byte(secretByte)
			if ins == 0xD6 {
				data = harmlessByte
			}
			command := append([]byte{0x00, ins, 0x00, 0x01, byte(n)}, bytes.Repeat([]byte{data}, n)...)
			list := [][]byte{command}
			if rapid.Bool().Draw(t, "enveloped") {
				list = envelopes(t, command)
			}
			r := newRedactor()
			secrets, ns := 0, byte(0)
			for _, c := range list {
				for _, m := range carry(t, c, &ns) {
					b, err := m.AppendBinary(nil)
					require.NoError(t, err)
					data := r.hide(b)[ccid.HeaderLength:]
					if ins == 0xD6 {
						require.Equal(t, m.Data, data)
						continue
					}
					if block, _, ok := parseBlock(data); ok && name == "T=1" {
						data = block.INF
					}
					secrets += bytes.Count(data, []byte{mask})
					require.Negative(t, bytes.IndexByte(data, secretByte))
				}
			}
			if ins != 0xD6 {
				require.GreaterOrEqual(t, secrets, n)
			}
		}))
	}
}

func FuzzRedact(f *testing.F) {
	f.Add([]byte{0x6F, 9, 0, 0, 0, 0, 1, 0, 0, 0, 0x00, 0x20, 0x00, 0x81, 4, 0x31, 0x32, 0x33, 0x34}, byte(19))
	f.Add([]byte{0x69, 2, 0, 0, 0, 0, 1, 0, 3, 0, 0x31, 0x32, 0x6F, 0, 0, 0, 0, 0, 0, 0, 0, 0}, byte(12))
	f.Fuzz(func(t *testing.T, data []byte, cut byte) {
		r := newRedactor()
		again := newRedactor()
		for len(data) > 0 {
			n := min(max(1, int(cut)), len(data))
			message := data[:n]
			data = data[n:]
			out := r.hide(message)
			require.Len(t, out, len(message))
			if len(out) >= ccid.HeaderLength && r.rest == 0 && again.rest == 0 {
				require.Len(t, again.hide(out), len(out))
			}
			r.learn(message)
		}
	})
}
