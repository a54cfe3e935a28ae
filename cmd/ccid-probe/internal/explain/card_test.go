package explain_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/cmd/ccid-probe/internal/explain"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// dialogue makes a capture of a reader whose descriptors are those of a trace, and of commands with their answers.
type dialogue struct {
	t testing.TB
	c *capture.Capture
	// endpoints of the trace
	out, in   uint8
	bus, addr int
	seq       uint8
}

func newDialogue(t testing.TB, trace string) *dialogue {
	t.Helper()
	c, err := capture.ReadFile(traces + "/" + trace + ".pcapng")
	require.NoError(t, err)
	d := &dialogue{t: t, c: c, bus: c.Transfers[0].Bus, addr: c.Transfers[0].Address}
	end := 0
	for i, x := range c.Transfers {
		switch {
		case x.Type == usbtransport.TransferControl && d.out == 0:
			end = i + 1
		case x.Type == usbtransport.TransferBulk && !x.In() && d.out == 0:
			d.out = x.Endpoint
		case x.Type == usbtransport.TransferBulk && x.In() && d.in == 0:
			d.in = x.Endpoint
		}
	}
	c.Transfers = c.Transfers[:end]
	return d
}

func (d *dialogue) add(endpoint uint8, data []byte) {
	n := 2 * len(d.c.Transfers)
	at := time.Unix(1000, int64(n)*1e6)
	d.c.Transfers = append(d.c.Transfers, capture.Transfer{
		Bus: d.bus, Address: d.addr, Submitted: n + 1, Completed: n + 2, Start: at, End: at.Add(time.Millisecond), Endpoint: endpoint,
		Type: usbtransport.TransferBulk, Data: data, Moved: len(data), Requested: len(data),
	})
}

// say adds a command and the answer to it.
func (d *dialogue) say(c ccid.Command, r ccid.Response) {
	d.t.Helper()
	d.seq++
	c.Seq, r.Seq = d.seq, d.seq
	message, err := c.AppendBinary(nil)
	require.NoError(d.t, err)
	d.add(d.out, message)
	message, err = r.AppendBinary(nil)
	require.NoError(d.t, err)
	d.add(d.in, message)
}

func (d *dialogue) power(atr string) {
	d.say(ccid.IccPowerOn(0, ccid.PowerAutomatic), ccid.Response{Type: ccid.TypeDataBlock, Data: unhex(d.t, atr)})
}

func (d *dialogue) block(command, response string) {
	d.say(ccid.XfrBlock(0, 0, 0, unhex(d.t, command)), ccid.Response{Type: ccid.TypeDataBlock, Data: unhex(d.t, response)})
}

func (d *dialogue) explain() *explain.Transcript { return explain.Build(d.c, explain.Options{}) }

const (
	atrT0 = "3B 00"
	atrT1 = "3B 80 01 81"
)

// TestTPDUsBecomeAPDUs follows what a card is asked to complete a command.
func TestTPDUsBecomeAPDUs(t *testing.T) {
	d := newDialogue(t, "virtual-tpdu-t0")
	d.power(atrT0)
	d.block("00 A4 04 00 02 3F 00", "61 03")
	d.block("00 C0 00 00 03", "01 02 03 90 00")
	d.block("00 B0 00 00 00", "6C 02")
	d.block("00 B0 00 00 02", "AA BB 90 00")
	d.block("00 B0 00 00 02", "69 82")
	list := d.explain().APDUs
	require.Len(t, list, 3)
	assert.Equal(t, []string{"00A40400023F00", "010203", "9000", "SELECT"}, []string{list[0].Command, list[0].Response, list[0].SW, list[0].Name})
	assert.Equal(t, []string{"00B0000000", "AABB", "9000"}, []string{list[1].Command, list[1].Response, list[1].SW})
	assert.Equal(t, []string{"", "6982", "security status not satisfied"}, []string{list[2].Response, list[2].SW, list[2].Meaning})
	assert.Len(t, list[0].Transfers, 4)
	assert.Len(t, list[0].TPDUs, 2)
}

// TestBlocksBecomeAPDUs chains a command and its response, with a block that is lost, a time extension, and one that is sent again.
func TestBlocksBecomeAPDUs(t *testing.T) {
	d := newDialogue(t, "virtual-tpdu-t1")
	d.power(atrT1)
	d.block("00 20 03 00 B0 00 93", "00 90 00 90")          // I(0,1), R(1)
	d.block("00 40 02 00 05 47", "00 C3 01 02 C0")          // I(1,0), S(WTX request)
	d.block("00 E3 01 02 E0", "00 20 02 01 02 21")          // S(WTX response), I(0,1)
	d.block("00 90 00 90", "00 40 03 03 90 00 DF")          // R(1), I with a wrong EDC
	d.block("00 91 00 91", "00 40 03 03 90 00 D0")          // R(1, EDC error), I(1,0)
	d.block("00 00 04 00 A4 00 0C AC", "00 00 02 90 00 92") // the next
	d.block("00 40 04 00 A4 00 0C EC", "00 82 00 82")       // not understood
	d.block("00 40 04 00 A4 00 0C EC", "00 40 02 6A 82 AA") // sent again
	transcript := d.explain()
	list := transcript.APDUs
	require.Len(t, list, 3)
	assert.Equal(t, []string{"00B0000005", "010203", "9000"}, []string{list[0].Command, list[0].Response, list[0].SW})
	assert.Equal(t, []string{"00A4000C", "9000"}, []string{list[1].Command, list[1].SW})
	assert.Equal(t, []string{"00A4000C", "6A82"}, []string{list[2].Command, list[2].SW})
	printed := text(t, transcript)
	for _, want := range []string{
		"R-block, N(R) = 1: the I-block with that number is expected", "block waiting time × 2", "LRC is wrong",
		"! the card's block: ", "after a parity or EDC error", "sent again",
	} {
		assert.Contains(t, printed, want)
	}
}

// TestPartsBecomeAPDUs chains at the extended APDU level, in both directions.
func TestPartsBecomeAPDUs(t *testing.T) {
	d := newDialogue(t, "virtual-extended-t1")
	d.power(atrT1)
	answer := func(chain uint8, data string) ccid.Response {
		return ccid.Response{Type: ccid.TypeDataBlock, Specific: chain, Data: unhex(t, data)}
	}
	d.say(ccid.XfrBlock(0, 0, ccid.ChainBegin, unhex(t, "00 D6 00")), answer(0x10, ""))
	d.say(ccid.XfrBlock(0, 0, ccid.ChainEnd, unhex(t, "00 02 AA BB")), answer(1, "01"))
	d.say(ccid.XfrBlock(0, 0, ccid.ChainContinue, nil), answer(2, "02 90 00"))
	d.say(ccid.XfrBlock(0, 0, 0, unhex(t, "00 B0 00 00 00")), ccid.Response{Type: ccid.TypeDataBlock, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandTimeExtension), Error: 3})
	list := d.explain().APDUs
	require.Len(t, list, 2)
	assert.Equal(t, []string{"00D6000002AABB", "0102", "9000"}, []string{list[0].Command, list[0].Response, list[0].SW})
	assert.Equal(t, "no answer in the capture", list[1].Problem)
	assert.Contains(t, text(t, d.explain()), "waiting time × 3")
}

func TestFailuresHaveTheirMeaning(t *testing.T) {
	d := newDialogue(t, "virtual-short-t1")
	failed := func(code ccid.ErrorCode) ccid.Response {
		return ccid.Response{Type: ccid.TypeDataBlock, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandFailed), Error: code}
	}
	d.say(ccid.IccPowerOn(0, ccid.PowerAutomatic), failed(ccid.ErrorICCMute))
	d.say(ccid.XfrBlock(0, 0, 0, unhex(t, "00 A4 00 0C")), failed(ccid.ErrorXfrParity))
	d.say(ccid.GetSlotStatus(7), ccid.Response{Type: ccid.TypeSlotStatus, Slot: 7})
	transcript := d.explain()
	printed := text(t, transcript)
	assert.Contains(t, printed, "! PC_to_RDR_IccPowerOn failed: card is mute")
	assert.Contains(t, printed, "! there is no slot 7")
	require.Len(t, transcript.APDUs, 1)
	assert.Equal(t, ccid.ErrorXfrParity.String(), transcript.APDUs[0].Problem)
	assert.EqualValues(t, -1, transcript.APDUs[0].Latency)
}

// TestPINPadMessagesAreExplainedWithoutThePIN gives the reader a template that has the old PIN in it.
func TestPINPadMessagesAreExplainedWithoutThePIN(t *testing.T) {
	const old = "73910264"
	d := newDialogue(t, "virtual-short-t1")
	d.power(atrT1)
	modify, err := ccid.PINModificationData{
		BTimeOut: 30, BmFormatString: ccid.NewPINFormatString(ccid.PINASCII, 0, true, false), BmPINBlockString: 8, WPINMaxExtraDigit: 0x0408,
		BConfirmPIN: ccid.PINConfirmNew, BEntryValidationCondition: ccid.PINKeyPressed, BNumberMessage: 2, WLangID: 0x0409,
		PINAPDU: append(unhex(t, "00 24 00 01 10"), old+"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"...),
	}.AppendBinary(nil)
	require.NoError(t, err)
	d.say(ccid.Secure(0, 0, 0, modify), ccid.Response{Type: ccid.TypeDataBlock, Data: unhex(t, "90 00")})
	shown := text(t, explain.Build(d.c, explain.Options{IncludeSecrets: true}))
	assert.Contains(t, shown, "37 33 39 31 30 32 36 34")
	transcript := d.explain()
	for _, printed := range []string{text(t, transcript), html(t, transcript)} {
		assert.NotContains(t, printed, "37 33 39 31")
		assert.NotContains(t, printed, hex.EncodeToString([]byte(old)))
		for _, want := range []string{"bConfirmPIN", "ASCII, left justified", "4 to 8 digits", "key pressed", "CHANGE REFERENCE DATA"} {
			assert.Contains(t, printed, want)
		}
	}
	require.Len(t, transcript.APDUs, 1)
	assert.Equal(t, "9000", transcript.APDUs[0].SW)
}

// TestCapturesWithoutDescriptors begin after the reader was plugged in.
func TestCapturesWithoutDescriptors(t *testing.T) {
	c, err := capture.ReadFile(traces + "/virtual-tpdu-t1.pcapng")
	require.NoError(t, err)
	for len(c.Transfers) > 0 && c.Transfers[0].Type == usbtransport.TransferControl {
		c.Transfers = c.Transfers[1:]
	}
	transcript := explain.Build(c, explain.Options{})
	require.Len(t, transcript.Devices, 1)
	assert.True(t, transcript.Devices[0].Reader)
	assert.Contains(t, transcript.Devices[0].Problem, "does not have the device's descriptors")
	assert.Len(t, transcript.APDUs, 7)
}
