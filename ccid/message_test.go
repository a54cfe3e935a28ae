package ccid

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCommandsAreTheBytesOfTheSpecification(t *testing.T) {
	for _, tc := range []struct {
		name    string
		command Command
		want    string
	}{
		{"IccPowerOn", IccPowerOn(1, Power3V), "62 00000000 01 07 02 0000"},
		{"IccPowerOff", IccPowerOff(1), "63 00000000 01 07 000000"},
		{"GetSlotStatus", GetSlotStatus(0), "65 00000000 00 07 000000"},
		{"XfrBlock", XfrBlock(2, 3, ChainContinue, []byte{0xAA, 0xBB}), "6F 02000000 02 07 03 1000 AABB"},
		{"XfrBlock at character level", XfrBlock(0, 0, 0x1234, nil), "6F 00000000 00 07 00 3412"},
		{"GetParameters", GetParameters(0), "6C 00000000 00 07 000000"},
		{"ResetParameters", ResetParameters(0), "6D 00000000 00 07 000000"},
		{"SetParameters T=0", SetParametersT0(0, ParametersT0{0x11, 2, 3, 4, 1}), "61 05000000 00 07 00 0000 11 02 03 04 01"},
		{"SetParameters T=1", SetParametersT1(0, ParametersT1{0x96, 0x10, 0, 0x45, 0, 254, 0}), "61 07000000 00 07 01 0000 96 10 00 45 00 FE 00"},
		{"Escape", Escape(0, []byte{1}), "6B 01000000 00 07 000000 01"},
		{"IccClock", IccClock(0, ClockStop), "6E 00000000 00 07 01 0000"},
		{"T0APDU", T0APDU(0, 3, 0xFF, 0x80), "6A 00000000 00 07 03 FF 80"},
		{"Secure", Secure(0, 1, 2, []byte{0}), "69 01000000 00 07 01 0200 00"},
		{"Mechanical", MechanicalCommand(0, LockCard), "71 00000000 00 07 04 0000"},
		{"Abort", AbortCommand(0), "72 00000000 00 07 000000"},
		{"SetDataRateAndClockFrequency", SetDataRateAndClockFrequency(0, 4000, 9600), "73 08000000 00 07 000000 A00F0000 80250000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := tc.command
			c.Seq = 7
			b, err := c.AppendBinary([]byte{0xEE})
			require.NoError(t, err)
			require.Equal(t, unhex(t, "EE"+tc.want), b)
			again, err := ParseCommand(b[1:])
			require.NoError(t, err)
			require.Equal(t, hex.EncodeToString(c.Data), hex.EncodeToString(again.Data))
			c.Data, again.Data = nil, nil
			require.Equal(t, c, again)
			require.Contains(t, c.Type.String(), "PC_to_RDR_"+strings.Fields(tc.name)[0])
		})
	}
	require.Equal(t, uint16(0x1234), XfrBlock(0, 0, 0x1234, nil).LevelParameter())
	require.Equal(t, uint16(0x0502), AbortValue(2, 5))
}

func TestMessagesThatAreMalformed(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		want          string
	}{
		{"empty", "", "0 bytes, needs 10"},
		{"half a header", "800000", "RDR_to_PC_DataBlock: 3 bytes, needs 10"},
		{"dwLength beyond the end", "80 05000000 0000000000 AABB", "12 bytes, needs 15"},
		{"dwLength of 4 GiB", "80 FFFFFFFF 0000000000", "10 bytes, needs 2147483647"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseResponse(unhex(t, tc.message))
			require.ErrorIs(t, err, ErrMessage)
			require.ErrorContains(t, err, tc.want)
			var length *LengthError
			require.ErrorAs(t, err, &length)
			require.Equal(t, len(unhex(t, tc.message)), length.Received)
			_, err = ParseCommand(unhex(t, tc.message))
			require.ErrorIs(t, err, ErrMessage)
		})
	}
	_, err := ParseCommand(unhex(t, "65 00000000 0000000000 AA"))
	require.ErrorIs(t, err, ErrMessage)
	require.ErrorContains(t, err, "PC_to_RDR_GetSlotStatus: 1 bytes more than dwLength says")
}

func TestResponseWithTrailingBytes(t *testing.T) {
	r, err := ParseResponse(unhex(t, "80 02000000 01 02 41 FE 03 9000 EEEEEE"))
	require.NoError(t, err)
	require.Equal(t, Response{
		Type: TypeDataBlock, Slot: 1, Seq: 2, Status: NewStatus(ICCInactive, CommandFailed), Error: ErrorICCMute, Specific: 3,
		Data: []byte{0x90, 0x00}, Trailing: 3,
	}, r)
	require.Equal(t, 2, cap(r.Data), "appending to Data can't reach the trailing bytes")
}

func TestMessagesSurviveARoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "data")
		c := Command{
			Type: MessageType(rapid.Byte().Draw(t, "type")), Slot: rapid.Byte().Draw(t, "slot"), Seq: rapid.Byte().Draw(t, "seq"),
			Specific: [3]byte(rapid.SliceOfN(rapid.Byte(), 3, 3).Draw(t, "specific")), Data: data,
		}
		b, err := c.AppendBinary(nil)
		require.NoError(t, err)
		again, err := ParseCommand(b)
		require.NoError(t, err)
		require.Equal(t, len(data), len(again.Data))
		b2, err := again.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, b, b2)
		r := Response{Type: c.Type, Slot: c.Slot, Seq: c.Seq, Status: Status(c.Specific[0]), Error: ErrorCode(c.Specific[1]), Specific: c.Specific[2], Data: data}
		b, err = r.AppendBinary(nil)
		require.NoError(t, err)
		response, err := ParseResponse(append(b, 0xEE))
		require.NoError(t, err)
		require.Equal(t, 1, response.Trailing)
		response.Trailing = 0
		b2, err = response.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, b, b2)
	})
}

func TestEveryCommandHasAnAnswer(t *testing.T) {
	commands := 0
	for i := range 256 {
		kind := MessageType(i)
		answer, ok := kind.ResponseType()
		isCommand := strings.HasPrefix(kind.String(), "PC_to_RDR")
		require.Equal(t, isCommand, ok, "%v", kind)
		if ok {
			commands++
			require.True(t, strings.HasPrefix(answer.String(), "RDR_to_PC"), "%v", answer)
		}
	}
	require.Equal(t, 14, commands)
	require.Equal(t, "message 0x55", MessageType(0x55).String())
}

func TestCheckTellsForeignAnswers(t *testing.T) {
	c := XfrBlock(1, 0, 0, nil)
	c.Seq = 5
	good := Response{Type: TypeDataBlock, Slot: 1, Seq: 5}
	require.NoError(t, good.Check(c))
	for name, change := range map[string]func(*Response){
		"type": func(r *Response) { r.Type = TypeSlotStatus }, "slot": func(r *Response) { r.Slot = 0 }, "seq": func(r *Response) { r.Seq = 4 },
	} {
		r := good
		change(&r)
		err := r.Check(c)
		require.ErrorIs(t, err, ErrMessage, name)
		var mismatch *MismatchError
		require.ErrorAs(t, err, &mismatch)
		require.Equal(t, TypeDataBlock, mismatch.Want)
		require.Contains(t, err.Error(), "expected RDR_to_PC_DataBlock slot 1 seq 5, got ")
	}
	refusal := Response{Type: TypeSlotStatus, Slot: 1, Seq: 5, Status: NewStatus(ICCActive, CommandFailed)}
	require.NoError(t, refusal.Check(c), "a refusal may come as RDR_to_PC_SlotStatus")
	refusal.Seq = 4
	require.Error(t, refusal.Check(c), "a refusal of another command")
}

func TestParameters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "parameters")
		p0, err := ParseParametersT0(b)
		if len(b) == ParametersT0Length {
			require.NoError(t, err)
			require.Equal(t, b, p0.Bytes())
		} else {
			require.ErrorIs(t, err, ErrMessage)
		}
		p1, err := ParseParametersT1(b)
		if len(b) == ParametersT1Length {
			require.NoError(t, err)
			require.Equal(t, b, p1.Bytes())
		} else {
			require.ErrorIs(t, err, ErrMessage)
		}
	})
}

func TestParseFrequencies(t *testing.T) {
	require.Equal(t, []uint32{4000, 9600}, ParseFrequencies(unhex(t, "A00F0000 00000000 80250000 FFFF")), "zeros and a rest are dropped")
	require.Empty(t, ParseFrequencies(nil))
	require.Empty(t, ParseFrequencies([]byte{1, 2, 3}))
}

func TestNotifySlotChange(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		slots         int
		want          []SlotChange
	}{
		{"card in", "5003", 1, []SlotChange{{0, true, true}}},
		{"card out", "5002", 1, []SlotChange{{0, false, true}}},
		{"five slots", "50 10 02", 5, []SlotChange{{0, false, false}, {1, false, false}, {2, true, false}, {3, false, false}, {4, false, true}}},
		{"fewer slots than bits", "50FF", 2, []SlotChange{{0, true, true}, {1, true, true}}},
		{"fewer bits than slots", "5001", 8, []SlotChange{{0, true, false}, {1, false, false}, {2, false, false}, {3, false, false}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseNotifySlotChange(unhex(t, tc.message), tc.slots)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
	for _, bad := range []string{"", "50", "51000000", "8050"} {
		_, err := ParseNotifySlotChange(unhex(t, bad), 1)
		require.ErrorIs(t, err, ErrMessage, bad)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 256).Draw(t, "slots")
		changes := make([]SlotChange, n)
		for i := range changes {
			changes[i] = SlotChange{Slot: i, Present: rapid.Bool().Draw(t, "present"), Changed: rapid.Bool().Draw(t, "changed")}
		}
		got, err := ParseNotifySlotChange(AppendNotifySlotChange(nil, changes), n)
		require.NoError(t, err)
		require.Equal(t, changes, got)
	})
}

func TestHardwareError(t *testing.T) {
	e, err := ParseHardwareError([]byte{0x51, 2, 7, 1})
	require.NoError(t, err)
	require.Equal(t, HardwareError{Slot: 2, Seq: 7, Code: 1}, e)
	for _, bad := range [][]byte{nil, {0x51, 0, 0}, {0x50, 0, 0, 0}} {
		_, err := ParseHardwareError(bad)
		require.ErrorIs(t, err, ErrMessage)
	}
}

func TestStatus(t *testing.T) {
	for i := range 256 {
		s := Status(i)
		require.Equal(t, s&^0x3C, NewStatus(s.ICC(), s.Command()))
	}
	require.Equal(t, "card active, processed", Status(0).String())
	require.Equal(t, "card absent, failed", Status(0x42).String())
	require.Equal(t, "card inactive, time extension", Status(0x81).String())
	require.Equal(t, "card reserved, reserved", Status(0xC3).String())
	require.True(t, ICCActive.Present())
	require.True(t, ICCInactive.Present())
	require.False(t, ICCAbsent.Present())
	require.False(t, ICCReserved.Present())
}

func TestErrorCodes(t *testing.T) {
	for code, want := range map[ErrorCode]string{
		0x00: "command not supported", 0x01: "wrong dwLength", 0x05: "slot does not exist", 0x07: "refused the byte at offset 7",
		0x7F: "refused the byte at offset 127", 0x80: "reserved error 0x80", 0x81: "vendor error 0x81", 0xC0: "vendor error 0xC0",
		0xC1: "reserved error 0xC1", 0xE0: "slot is busy", 0xEF: "PIN entry cancelled", 0xF0: "PIN entry timed out", 0xFE: "card is mute",
		0xFF: "command aborted",
	} {
		require.Equal(t, want, code.String())
		require.Equal(t, want, code.Error())
	}
	for i := range 256 {
		offset, ok := ErrorCode(i).Offset()
		require.Equal(t, i, offset)
		require.Equal(t, i >= 1 && i <= 127, ok)
	}
	err := error(&CommandError{Command: TypeXfrBlock, Slot: 1, Status: NewStatus(ICCActive, CommandFailed), Code: ErrorICCMute})
	require.EqualError(t, err, "ccid: PC_to_RDR_XfrBlock failed on slot 1: card is mute (bError 0xFE, card active)")
	require.ErrorIs(t, err, ErrorICCMute)
	require.NotErrorIs(t, err, ErrorSlotBusy)
	require.False(t, errors.Is(err, ErrMessage))
}

func TestPowerSelectHasNames(t *testing.T) {
	for p, want := range map[PowerSelect]string{PowerAutomatic: "automatic", Power5V: "5 V", Power3V: "3 V", Power18V: "1.8 V", 4: "reserved"} {
		require.Equal(t, want, p.String())
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add(unhex(f, "80 02000000 01 02 41 FE 03 9000 EEEEEE"))
	f.Add(unhex(f, "8100000000000542FE01"))
	f.Add(unhex(f, "80FFFFFFFF0000000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseResponse(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMessage)
			return
		}
		again, err := r.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, b[:len(b)-r.Trailing], again)
		_ = r.Check(XfrBlock(0, 0, 0, nil))
		require.NotEmpty(t, r.Type.String()+r.Status.String()+r.Error.String())
	})
}

func FuzzParseCommand(f *testing.F) {
	f.Add(unhex(f, "6F 02000000 02 07 03 1000 AABB"))
	f.Add(unhex(f, "65000000000005000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCommand(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMessage)
			return
		}
		again, err := c.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, b, again)
	})
}

func FuzzInterruptMessages(f *testing.F) {
	f.Add([]byte{0x50, 0x03}, 1)
	f.Add([]byte{0x51, 0, 7, 1}, 8)
	f.Fuzz(func(t *testing.T, b []byte, slots int) {
		slots &= 0xFF
		if list, err := ParseNotifySlotChange(b, slots); err == nil {
			require.LessOrEqual(t, len(list), slots)
			for i, c := range list {
				require.Equal(t, i, c.Slot)
			}
		}
		if e, err := ParseHardwareError(b); err == nil {
			require.Equal(t, b[1], e.Slot)
		}
		for _, v := range ParseFrequencies(b) {
			require.NotZero(t, v)
		}
	})
}
