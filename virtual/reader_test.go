package virtual

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual/card"
)

// rules lists the rules that were broken.
func rules(r *Reader) []Rule {
	var list []Rule
	for _, v := range r.Violations() {
		list = append(list, v.Rule)
	}
	return list
}

const tpduT0 = "reader=gempctwin,level=tpdu,card=t0"

func TestReaderCatchesHostsThatBreakTheRules(t *testing.T) {
	on := ccid.IccPowerOn(0, ccid.Power5V)
	t0 := ccid.ParametersT0{BmFindexDindex: 0x11, BWaitingIntegerT0: 10}
	t1 := ccid.ParametersT1{BmFindexDindex: 0x11, BmTCCKST1: 0x10, BmWaitingIntegersT1: 0x45, BIFSC: 254}
	const (
		failed = ccid.CommandFailed
		ok     = ccid.CommandOK
	)
	selectMF := unhex(t, "00a4000c023f00")
	block := unhex(t, "00000700a4000c023f0092")
	for _, tc := range []struct {
		name, spec string
		before     []ccid.Command
		command    ccid.Command
		rules      []Rule
		status     ccid.CommandStatus
		code       ccid.ErrorCode
	}{
		{"power on", tpduT0, nil, on, nil, ok, 0},
		{"automatic voltage on a reader without it", tpduT0, nil, ccid.IccPowerOn(0, 0), []Rule{RulePower}, failed, 7},
		{"voltage that does not exist", tpduT0, nil, ccid.IccPowerOn(0, 4), []Rule{RulePower}, failed, 7},
		{"voltage that the reader lacks", "reader=scr3310,card=t0,features=0x10030", nil, ccid.IccPowerOn(0, ccid.Power18V), []Rule{RulePower}, failed, 7},
		{"voltage where the reader chooses", "reader=yubikey", nil, on, []Rule{RulePower}, failed, 7},
		{"reserved bytes", tpduT0, nil, ccid.Command{Type: ccid.TypeGetSlotStatus, Specific: [3]byte{0, 1, 0}}, []Rule{RuleReserved}, ok, 0},
		{"reserved bytes of power on", tpduT0, nil, ccid.Command{Type: ccid.TypeIccPowerOn, Specific: [3]byte{1, 1, 1}}, []Rule{RuleReserved, RuleReserved}, ok, 0},
		{"data where there are none", tpduT0, nil, ccid.Command{Type: ccid.TypeGetSlotStatus, Data: []byte{1}}, []Rule{RuleDataLength}, failed, 1},
		{"slot that does not exist", tpduT0, nil, ccid.GetSlotStatus(1), []Rule{RuleSlot}, failed, 5},
		{"exchange before power on", tpduT0, nil, ccid.XfrBlock(0, 0, 0, selectMF), []Rule{RuleInactive}, failed, ccid.ErrorICCMute},
		{"exchange after power off", tpduT0, []ccid.Command{on, ccid.IccPowerOff(0)}, ccid.XfrBlock(0, 0, 0, selectMF), []Rule{RuleInactive}, failed, ccid.ErrorICCMute},
		{"parameters before power on", tpduT0, nil, ccid.SetParametersT0(0, t0), []Rule{RuleInactive}, failed, ccid.ErrorICCMute},
		{"T=0 TPDU", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, selectMF), nil, ok, 0},
		{"wLevelParameter at TPDU level", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 0, 1, selectMF), []Rule{RuleLevel}, ok, 0},
		{"bBWI for T=0", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 2, 0, selectMF), []Rule{RuleBWI}, ok, 0},
		{"TPDU without P3", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, selectMF[:4]), nil, ok, 0},
		{"TPDU without P2", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, selectMF[:3]), []Rule{RuleTPDU}, failed, 1},
		{"TPDU with Lc and Le", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, append(selectMF[:7:7], 0)), []Rule{RuleTPDU}, failed, 1},
		{"empty TPDU", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, nil), []Rule{RuleTPDU}, failed, 1},
		{"T=1 block without parameters", "reader=gempctwin,card=t1", []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, block), []Rule{RuleNotConfigured}, failed, ccid.ErrorICCMute},
		{"T=1 block", "reader=gempctwin,card=t1", []ccid.Command{on, ccid.SetParametersT1(0, t1)}, ccid.XfrBlock(0, 0, 0, block), nil, ok, 0},
		{"T=1 block that is none", "reader=gempctwin,card=t1", []ccid.Command{on, ccid.SetParametersT1(0, t1)}, ccid.XfrBlock(0, 0, 0, selectMF), []Rule{RuleTPDU}, ok, 0},
		{"parameters of another protocol", tpduT0, []ccid.Command{on}, ccid.SetParametersT1(0, t1), []Rule{RuleProtocol}, failed, 7},
		{"parameters of T=2", tpduT0, []ccid.Command{on}, ccid.Command{Type: ccid.TypeSetParameters, Specific: [3]byte{2}, Data: t0.Bytes()}, []Rule{RuleProtocol}, failed, 7},
		{"parameters too short", tpduT0, []ccid.Command{on}, ccid.Command{Type: ccid.TypeSetParameters, Data: t0.Bytes()[:4]}, []Rule{RuleDataLength}, failed, 1},
		{"parameters of a protocol that the reader lacks", "reader=yubikey,card=t0", []ccid.Command{ccid.IccPowerOn(0, 0)}, ccid.SetParametersT0(0, t0), []Rule{RuleProtocol}, failed, 7},
		{"parameters with a reserved F", tpduT0, []ccid.Command{on}, ccid.SetParametersT0(0, ccid.ParametersT0{BmFindexDindex: 0x71}), []Rule{RuleParameters}, failed, 10},
		{"parameters with a wrong clock stop", tpduT0, []ccid.Command{on}, ccid.SetParametersT0(0, ccid.ParametersT0{BmFindexDindex: 0x11, BClockStop: 4}), []Rule{RuleParameters}, failed, 14},
		{"parameters with a wrong TCCKST0", tpduT0, []ccid.Command{on}, ccid.SetParametersT0(0, ccid.ParametersT0{BmFindexDindex: 0x11, BmTCCKST0: 1}), []Rule{RuleParameters}, failed, 11},
		{"parameters faster than the card", tpduT0, []ccid.Command{on}, ccid.SetParametersT0(0, ccid.ParametersT0{BmFindexDindex: 0x94}), []Rule{RuleNotConfigured}, ok, 0},
		{"parameters without the fixed bit", "reader=gempctwin,card=t1", []ccid.Command{on}, ccid.SetParametersT1(0, ccid.ParametersT1{BmFindexDindex: 0x11, BIFSC: 32}), []Rule{RuleParameters}, failed, 11},
		{"parameters with another EDC", "reader=gempctwin,card=t1", []ccid.Command{on}, ccid.SetParametersT1(0, ccid.ParametersT1{BmFindexDindex: 0x11, BmTCCKST1: 0x11, BIFSC: 32}), []Rule{RuleNotConfigured}, failed, 11},
		{"parameters with IFSC 255", "reader=gempctwin,card=t1", []ccid.Command{on}, ccid.SetParametersT1(0, ccid.ParametersT1{BmFindexDindex: 0x11, BmTCCKST1: 0x10, BIFSC: 255}), []Rule{RuleParameters}, failed, 15},
		{"PPS where the reader does it", "reader=gempctwin,card=t0,features=0x100b0", []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, unhex(t, "ff10947b")), []Rule{RulePPS}, ok, 0},
		{"PPS", tpduT0, []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, unhex(t, "ff10947b")), nil, ok, 0},
		{"PPS, then the old parameters", tpduT0, []ccid.Command{on, ccid.XfrBlock(0, 0, 0, unhex(t, "ff10947b"))}, ccid.XfrBlock(0, 0, 0, selectMF), []Rule{RuleNotConfigured}, failed, ccid.ErrorICCMute},
		{"PPS at APDU level", "reader=gempctwin,level=short", []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, unhex(t, "ff119678")), []Rule{RulePPS}, ok, 0},
		{"extended APDU at short APDU level", "reader=gempctwin,level=short", []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, unhex(t, "00b0000000ffff")), []Rule{RuleAPDU}, failed, 1},
		{"wLevelParameter at short APDU level", "reader=gempctwin,level=short", []ccid.Command{on}, ccid.XfrBlock(0, 0, 1, selectMF), []Rule{RuleLevel}, ok, 0},
		{"wLevelParameter that does not exist", "reader=gempctwin,level=extended", []ccid.Command{on}, ccid.XfrBlock(0, 0, 4, selectMF), []Rule{RuleLevel}, failed, 8},
		{"end of a chain without its begin", "reader=gempctwin,level=extended", []ccid.Command{on}, ccid.XfrBlock(0, 0, ccid.ChainEnd, selectMF), []Rule{RuleChain}, failed, 8},
		{"next part of no response", "reader=gempctwin,level=extended", []ccid.Command{on}, ccid.XfrBlock(0, 0, ccid.ChainContinue, nil), []Rule{RuleChain}, failed, 8},
		{"command in a chain", "reader=gempctwin,level=extended", []ccid.Command{on, ccid.XfrBlock(0, 0, ccid.ChainBegin, selectMF)}, ccid.XfrBlock(0, 0, 0, selectMF), []Rule{RuleChain}, ok, 0},
		{"nothing to send or receive at character level", "reader=gempctwin,level=character", []ccid.Command{on}, ccid.XfrBlock(0, 0, 0, nil), []Rule{RuleLevel}, failed, 8},
		{"unknown message", tpduT0, nil, ccid.Command{Type: 0x70}, []Rule{RuleMessageType}, failed, 0},
		{"clock command that does not exist", tpduT0, []ccid.Command{on}, ccid.IccClock(0, 2), []Rule{RuleField}, failed, 7},
		{"clock on a reader that can't", tpduT0, []ccid.Command{on}, ccid.IccClock(0, ccid.ClockStop), nil, failed, 0},
		{"rate without its numbers", tpduT0, []ccid.Command{on}, ccid.Command{Type: ccid.TypeSetDataRateAndClockFrequency}, []Rule{RuleDataLength}, failed, 1},
		{"mechanics", tpduT0, nil, ccid.MechanicalCommand(0, ccid.EjectCard), nil, failed, 0},
		{"PIN entry", tpduT0, nil, ccid.Secure(0, 0, 0, []byte{0}), nil, failed, 0},
		{"T0APDU at TPDU level", tpduT0, nil, ccid.T0APDU(0, 1, 0, 0), nil, failed, 0},
		{"T0APDU", "reader=gempctwin,level=short", nil, ccid.T0APDU(0, 3, 0xFF, 0xFF), nil, ok, 0},
		{"no card", "reader=gempctwin,card=none", nil, on, nil, failed, ccid.ErrorICCMute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, station, _ := newHost(t, tc.spec)
			for _, c := range tc.before {
				h.succeed(c)
			}
			require.Empty(t, station.Violations())
			c := h.send(tc.command)
			r := h.receive()
			require.Equal(t, tc.rules, rules(station.Reader), "%v", station.Violations())
			require.Equal(t, tc.status, r.Status.Command())
			require.Equal(t, tc.code, r.Error)
			require.Equal(t, c.Seq, r.Seq)
			require.Equal(t, c.Slot, r.Slot)
		})
	}
}

func TestReaderCatchesBadMessageLengths(t *testing.T) {
	for _, tc := range []struct {
		name, message string
		rule          Rule
		answered      bool
	}{
		{"dwLength too small", "65000000000000000000ff", RuleLength, true},
		{"dwLength too large", "6f050000000000000000aabb", RuleLength, true},
		{"dwLength of 4 GiB", "6fffffffff0000000000", RuleLength, true},
		{"half a header", "650000", RuleLength, false},
		{"empty", "", RuleLength, false},
		{"too long", "6f060100000000000000" + fmt.Sprintf("%0524x", 0), RuleTooLong, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, station, _ := newHost(t, tpduT0)
			h.raw(unhex(t, tc.message))
			require.Equal(t, []Rule{tc.rule}, rules(station.Reader))
			if tc.answered {
				r := h.receive()
				require.Equal(t, ccid.CommandFailed, r.Status.Command())
				require.Equal(t, ccid.ErrorBadLength, r.Error)
			}
			h.seq = 9
			h.succeed(ccid.GetSlotStatus(0))
		})
	}
}

func TestReaderCatchesBSeqUsedAgain(t *testing.T) {
	h, station, _ := newHost(t, tpduT0)
	h.succeed(ccid.GetSlotStatus(0))
	h.seq--
	h.succeed(ccid.GetSlotStatus(0))
	require.Equal(t, []Rule{RuleSequence}, rules(station.Reader))
	require.Equal(t, "slot 0 seq 0: bSeq was used by the command before: PC_to_RDR_GetSlotStatus", station.Violations()[0].String())
	station.ForgetViolations()
	require.Empty(t, station.Violations())
}

// slowCard works for as long as the test says.
func slowCard(behaviour card.Behaviour) card.Card {
	return card.New(card.NewISO(), card.Options{Protocol: 1, Patience: -1, Behave: func([]byte) card.Behaviour { return behaviour }})
}

func (s *Station) put(t testing.TB, slot int, c card.Card) {
	t.Helper()
	old, err := s.SetCard(slot, c)
	require.NoError(t, err)
	if old != nil {
		require.NoError(t, old.Close())
	}
}

func TestSecondCommandOnABusySlot(t *testing.T) {
	h, station, _ := newHost(t, "reader=gempctwin,level=short,slots=2,card=none+none")
	station.put(t, 0, slowCard(card.Behaviour{Delay: time.Hour}))
	station.put(t, 1, card.NewT1())
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	h.succeed(ccid.IccPowerOn(1, ccid.Power5V))
	first := h.send(ccid.XfrBlock(0, 0, 0, unhex(t, "0084000008")))
	second := h.send(ccid.GetSlotStatus(0))
	r := h.receive()
	require.NoError(t, r.Check(second))
	require.Equal(t, ccid.ErrorSlotBusy, r.Error)
	require.Equal(t, []Rule{RuleBusySlot}, rules(station.Reader))
	h.succeed(ccid.GetSlotStatus(1)) // costs the reader nothing
	require.Equal(t, ccid.ErrorSlotBusy, h.exchange(ccid.XfrBlock(1, 0, 0, unhex(t, "0084000008"))).Error)
	require.Equal(t, []Rule{RuleBusySlot, RuleBusySlots}, rules(station.Reader))
	_, err := station.SetCard(0, nil)
	require.NoError(t, err)
	r = h.receive()
	require.NoError(t, r.Check(first))
	require.Equal(t, ccid.ErrorICCMute, r.Error)
	require.Equal(t, ccid.ICCAbsent, r.Status.ICC())
	station.ForgetViolations()
	require.Equal(t, ccid.ErrorICCMute, h.exchange(ccid.XfrBlock(0, 0, 0, unhex(t, "0084000008"))).Error)
	require.Empty(t, station.Violations(), "the host could not know")
}

func TestSlotsWorkAtTheSameTime(t *testing.T) {
	h, station, _ := newHost(t, "reader=gempctwin,level=short,slots=2,busy=2,card=none+t1")
	station.put(t, 0, slowCard(card.Behaviour{Delay: time.Hour}))
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	h.succeed(ccid.IccPowerOn(1, ccid.Power5V))
	h.send(ccid.XfrBlock(0, 0, 0, unhex(t, "0084000008")))
	require.Len(t, h.succeed(ccid.XfrBlock(1, 0, 0, unhex(t, "0084000008"))).Data, 10)
	require.Empty(t, station.Violations())
}

func TestAbort(t *testing.T) {
	start := func(t *testing.T) (*host, *Station, ccid.Command) {
		h, station, _ := newHost(t, "reader=gempctwin,level=short,card=none")
		station.put(t, 0, slowCard(card.Behaviour{Delay: time.Hour}))
		h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
		return h, station, h.send(ccid.XfrBlock(0, 0, 0, unhex(t, "0084000008")))
	}
	request := func(h *host, seq uint8) {
		setup := usbtransport.Setup{RequestType: ccid.RequestTypeOut, Request: ccid.RequestAbort, Value: ccid.AbortValue(0, seq)}
		_, err := h.Control(h.Context(), setup, nil)
		require.NoError(h, err)
	}
	t.Run("request, then message", func(t *testing.T) {
		h, station, under := start(t)
		request(h, h.seq)
		r := h.receive()
		require.NoError(t, r.Check(under))
		require.Equal(t, ccid.ErrorCommandAborted, r.Error)
		other := ccid.GetSlotStatus(0)
		other.Seq = 0x77
		b, err := other.AppendBinary(nil)
		require.NoError(t, err)
		h.raw(b)
		require.Equal(t, ccid.ErrorCommandAborted, h.receive().Error, "between the halves all else fails")
		require.Equal(t, ccid.CommandOK, h.succeed(ccid.AbortCommand(0)).Status.Command())
		h.succeed(ccid.GetSlotStatus(0))
		require.Empty(t, station.Violations())
	})
	t.Run("message first", func(t *testing.T) {
		h, station, under := start(t)
		abort := h.send(ccid.AbortCommand(0))
		request(h, abort.Seq)
		require.NoError(t, h.receive().Check(under))
		require.NoError(t, h.receive().Check(abort))
		require.Equal(t, []Rule{RuleAbort}, rules(station.Reader))
	})
	t.Run("wrong slot", func(t *testing.T) {
		h, station, _ := newHost(t, tpduT0)
		setup := usbtransport.Setup{RequestType: ccid.RequestTypeOut, Request: ccid.RequestAbort, Value: ccid.AbortValue(3, 0)}
		_, err := h.Control(t.Context(), setup, nil)
		require.ErrorIs(t, err, usbtransport.ErrStalled)
		require.Equal(t, []Rule{RuleRequest}, rules(station.Reader))
	})
}

func TestTimeExtensions(t *testing.T) {
	for _, tc := range []struct {
		spec      string
		protocol  byte
		behaviour card.Behaviour
		want      []ccid.ErrorCode
	}{
		{"reader=gempctwin,level=short,card=none", 1, card.Behaviour{Extensions: []byte{2, 5}}, []ccid.ErrorCode{2, 5}},
		{"reader=gempctwin,level=tpdu,card=none", 0, card.Behaviour{Extensions: []byte{1, 1}}, []ccid.ErrorCode{1, 1}},
	} {
		t.Run(tc.spec, func(t *testing.T) {
			h, station, _ := newHost(t, tc.spec)
			station.put(t, 0, card.New(card.NewISO(), card.Options{Protocol: tc.protocol, Behave: func([]byte) card.Behaviour { return tc.behaviour }}))
			h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
			c := h.send(ccid.XfrBlock(0, 0, 0, unhex(t, "0084000008")))
			for _, want := range tc.want {
				r := h.receive()
				require.NoError(t, r.Check(c))
				require.Equal(t, ccid.CommandTimeExtension, r.Status.Command())
				require.Equal(t, want, r.Error)
			}
			require.Equal(t, ccid.CommandOK, h.receive().Status.Command())
		})
	}
}

func TestNotifications(t *testing.T) {
	h, station, _ := newHost(t, "reader=gempctwin,slots=6,card=t0+none+t1")
	read := func() []ccid.SlotChange {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		buf := make([]byte, 8)
		n, err := h.InterruptIn(ctx, 0x81, buf)
		require.NoError(t, err)
		list, err := ccid.ParseNotifySlotChange(buf[:n], 6)
		require.NoError(t, err)
		return list
	}
	want := make([]ccid.SlotChange, 6)
	for i := range want {
		want[i].Slot = i
	}
	want[0] = ccid.SlotChange{Slot: 0, Present: true, Changed: true}
	want[2] = ccid.SlotChange{Slot: 2, Present: true, Changed: true}
	require.Equal(t, want, read(), "what is there at the start")
	station.put(t, 5, card.NewT0())
	want[0].Changed, want[2].Changed = false, false
	want[5] = ccid.SlotChange{Slot: 5, Present: true, Changed: true}
	require.Equal(t, want, read())
	station.put(t, 5, nil)
	station.put(t, 2, nil)
	want[5].Present = false
	want[2] = ccid.SlotChange{Slot: 2, Changed: true}
	require.Equal(t, want, read(), "unread changes come in one message")
	_, err := h.InterruptIn(cancelled(), 0x81, make([]byte, 8))
	require.ErrorIs(t, err, usbtransport.ErrCancelled)
	station.NotifyHardwareError(0, 3, 1)
	buf := make([]byte, 8)
	n, err := h.InterruptIn(t.Context(), 0x81, buf)
	require.NoError(t, err)
	e, err := ccid.ParseHardwareError(buf[:n])
	require.NoError(t, err)
	require.Equal(t, ccid.HardwareError{Seq: 3, Code: 1}, e)
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestExtendedAPDUsComeInParts chains commands and responses of every interesting length through readers with short and
// long messages.
func TestExtendedAPDUsComeInParts(t *testing.T) {
	for _, message := range []int{11, 74, 271, 3072, 65556} {
		for _, protocol := range []string{"t0", "t1"} {
			t.Run(fmt.Sprintf("dwMaxCCIDMessageLength %d %s", message, protocol), func(t *testing.T) {
				h, station, _ := newHost(t, fmt.Sprintf("reader=gempctwin,level=extended,message=%d,card=%s", message, protocol))
				h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
				lengths := []int{1, 54, 255, 256, 1000, 65535}
				if message < 50 {
					lengths = []int{1, 54, 300}
				}
				for _, n := range lengths {
					data := bytes.Repeat([]byte{0xA5}, n)
					command := append(binary.BigEndian.AppendUint16([]byte{0x80, 0xEC, 0, 0, 0}, uint16(n)), data...)
					got := h.chain(append(command, 0, 0), message-ccid.HeaderLength)
					require.Equal(t, append(data, 0x90, 0x00), got)
				}
				require.Empty(t, station.Violations())
			})
		}
	}
}

// chain exchanges an APDU at extended APDU level in parts of at most size bytes.
func (h *host) chain(command []byte, size int) []byte {
	h.Helper()
	var r ccid.Response
	for first := true; first || len(command) > 0; first = false {
		n := min(size, len(command))
		level := ccid.ChainMiddle
		switch last := n == len(command); {
		case first && last:
			level = ccid.ChainSingle
		case first:
			level = ccid.ChainBegin
		case last:
			level = ccid.ChainEnd
		}
		r = h.succeed(ccid.XfrBlock(0, 0, level, command[:n]))
		if command = command[n:]; len(command) > 0 {
			require.Equal(h, uint8(chainAwaits), r.Specific)
			require.Empty(h, r.Data)
		}
	}
	response := bytes.Clone(r.Data)
	require.Contains(h, []uint8{chainSingle, chainBegin}, r.Specific)
	for r.Specific == chainBegin || r.Specific == chainMiddle {
		r = h.succeed(ccid.XfrBlock(0, 0, ccid.ChainContinue, nil))
		require.Contains(h, []uint8{chainMiddle, chainEnd}, r.Specific)
		response = append(response, r.Data...)
	}
	return response
}

func TestCharacterLevel(t *testing.T) {
	t.Run("T=0", func(t *testing.T) {
		h, station, _ := newHost(t, "reader=gempctwin,level=character,card=t0")
		h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
		require.Equal(t, unhex(t, "ff10947b"), h.succeed(ccid.XfrBlock(0, 0, 4, unhex(t, "ff10947b"))).Data, "PPS")
		h.succeed(ccid.SetParametersT0(0, ccid.ParametersT0{BmFindexDindex: 0x94, BWaitingIntegerT0: 10}))
		require.Equal(t, []byte{0x20}, h.succeed(ccid.XfrBlock(0, 0, 1, unhex(t, "0020000104"))).Data)
		require.Equal(t, []byte{0x90}, h.succeed(ccid.XfrBlock(0, 0, 1, []byte("1234"))).Data)
		require.Equal(t, []byte{0x00}, h.succeed(ccid.XfrBlock(0, 0, 1, nil)).Data)
		require.Equal(t, []byte{0x84}, h.succeed(ccid.XfrBlock(0, 0, 1, unhex(t, "0084000004"))).Data)
		require.Equal(t, unhex(t, "000420219000"), h.succeed(ccid.XfrBlock(0, 0, 6, nil)).Data)
		require.Equal(t, ccid.ErrorICCMute, h.exchange(ccid.XfrBlock(0, 0, 1, nil)).Error)
		require.Empty(t, station.Violations())
	})
	t.Run("T=1", func(t *testing.T) {
		h, station, _ := newHost(t, "reader=gempctwin,level=character,card=t1")
		h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
		h.succeed(ccid.SetParametersT1(0, ccid.ParametersT1{BmFindexDindex: 0x11, BmTCCKST1: 0x10, BmWaitingIntegersT1: 0x45, BIFSC: 254}))
		require.Equal(t, unhex(t, "00e101"), h.succeed(ccid.XfrBlock(0, 0, 3, unhex(t, "00c101fe3e"))).Data)
		require.Equal(t, unhex(t, "fe1e"), h.succeed(ccid.XfrBlock(0, 0, 2, nil)).Data)
		require.Empty(t, station.Violations())
	})
}

func TestParametersAreKeptAndReset(t *testing.T) {
	h, station, _ := newHost(t, tpduT0)
	require.Equal(t, ccid.ErrorICCMute, h.exchange(ccid.GetParameters(0)).Error)
	require.Equal(t, ccid.ErrorICCMute, h.exchange(ccid.ResetParameters(0)).Error)
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	require.Equal(t, unhex(t, "1100000a00"), h.succeed(ccid.GetParameters(0)).Data)
	set := ccid.ParametersT0{BmFindexDindex: 0x11, BGuardTimeT0: 3, BWaitingIntegerT0: 20, BClockStop: 1}
	require.Equal(t, set.Bytes(), h.succeed(ccid.SetParametersT0(0, set)).Data)
	require.Equal(t, set.Bytes(), h.succeed(ccid.GetParameters(0)).Data)
	require.Equal(t, unhex(t, "1100000a00"), h.succeed(ccid.ResetParameters(0)).Data)
	h.succeed(ccid.SetParametersT0(0, set))
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	require.Equal(t, unhex(t, "1100000a00"), h.succeed(ccid.GetParameters(0)).Data, "a reset of the card is one of the parameters")
	require.Empty(t, station.Violations())
}

func TestReadersThatSetUpTheCardThemselves(t *testing.T) {
	for _, tc := range []struct {
		name, features string
		set            []byte
		want           string
	}{
		{"from the ATR", "0x10032", nil, "11100045" + "00fe00"},
		{"altogether", "0x10072", nil, "96100045" + "00fe00"},
		{"PPS by the parameters", "0x100b0", unhex(t, "96100045"+"00fe00"), "96100045" + "00fe00"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, station, _ := newHost(t, "reader=gempctwin,card=t1,features="+tc.features)
			h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
			if tc.set != nil {
				h.succeed(ccid.Command{Type: ccid.TypeSetParameters, Specific: [3]byte{1}, Data: tc.set})
			}
			r := h.succeed(ccid.GetParameters(0))
			require.Equal(t, uint8(1), r.Specific)
			require.Equal(t, unhex(t, tc.want), r.Data)
			h.succeed(ccid.XfrBlock(0, 0, 0, unhex(t, "00000700a4000c023f0092")))
			require.Empty(t, station.Violations())
		})
	}
}

func TestEscapeIsSentBackOrHooked(t *testing.T) {
	h, _, _ := newHost(t, tpduT0)
	require.Equal(t, []byte{1, 2, 3}, h.succeed(ccid.Escape(0, []byte{1, 2, 3})).Data)
}

func TestClockAndRate(t *testing.T) {
	h, station, _ := newHost(t, "reader=gempctwin,card=t0,features=0x10130")
	require.Equal(t, ccid.ErrorICCMute, h.exchange(ccid.IccClock(0, ccid.ClockStop)).Error)
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	require.Equal(t, uint8(ccid.ClockStoppedLow), h.succeed(ccid.IccClock(0, ccid.ClockStop)).Specific)
	require.Equal(t, uint8(ccid.ClockStoppedLow), h.succeed(ccid.GetSlotStatus(0)).Specific)
	require.Equal(t, uint8(ccid.ClockRunning), h.succeed(ccid.IccClock(0, ccid.ClockRestart)).Specific)
	r := h.succeed(ccid.SetDataRateAndClockFrequency(0, 4000, 1<<31))
	class := station.ClassDescriptor(0)
	require.Equal(t, class.DwDefaultClock, binary.LittleEndian.Uint32(r.Data))
	require.LessOrEqual(t, binary.LittleEndian.Uint32(r.Data[4:]), class.DwMaxDataRate)
	require.Empty(t, station.Violations())
}

func TestFrequencyLists(t *testing.T) {
	models, err := Models()
	require.NoError(t, err)
	for _, m := range models {
		i := m.Interfaces[0]
		if len(i.DataRates) == 0 || m.Interfaces[0].Protocol != 0 {
			continue
		}
		class, err := i.ClassDescriptor()
		require.NoError(t, err)
		if class.BNumDataRatesSupported == 0 {
			continue
		}
		h, _, _ := newHost(t, "card=none,reader="+m.Name)
		data := make([]byte, 4*256)
		n, err := h.Control(t.Context(), usbtransport.Setup{RequestType: ccid.RequestTypeIn, Request: ccid.RequestGetDataRates, Index: uint16(i.Number)}, data)
		require.NoError(t, err)
		var want []uint32
		for _, v := range i.DataRates {
			if v != 0 {
				want = append(want, v)
			}
		}
		require.Equal(t, want, ccid.ParseFrequencies(data[:n]), m.Name)
		return
	}
	require.Fail(t, "no model has data rates")
}

func TestEveryModelAnnouncesWhatTheRealOneDoes(t *testing.T) {
	models, err := Models()
	require.NoError(t, err)
	require.Greater(t, len(models), 500)
	names := map[string]bool{}
	tried := 0
	for _, m := range models {
		require.False(t, names[m.Name], "%s is there twice", m.Name)
		names[m.Name] = true
		r, err := NewReader(Config{Model: m.Name})
		require.NoError(t, err, m.Name)
		tried += len(m.Interfaces)
		info := r.Describe()
		require.Equal(t, []uint16{m.IDVendor, m.IDProduct, m.BCDDevice}, []uint16{info.IDVendor, info.IDProduct, info.BCDDevice})
		interfaces, err := usbtransport.ParseInterfaces(info.Descriptors)
		require.NoError(t, err)
		require.Len(t, interfaces, len(m.Interfaces))
		for i, want := range m.Interfaces {
			require.Equal(t, want.Number, interfaces[i].Number)
			require.Equal(t, want.Descriptor, interfaces[i].Extra, "%s: the class descriptor is the real one", m.Name)
			endpoints := want.Endpoints
			if want.Protocol == ccid.ProtocolCCID {
				endpoints = max(2, endpoints)
			}
			require.Len(t, interfaces[i].Endpoints, int(endpoints), m.Name)
		}
	}
	require.Greater(t, tried, 600)
}

func TestFindModel(t *testing.T) {
	for name, want := range map[string]string{
		"gemalto-pc-twin": "gempctwin", "Gemalto PC Twin Reader": "gempctwin", "YubiKey": "yubico-yubikey-4-ccid", "SCR3310": "scr3310",
		"gempctwin": "gempctwin", "tinyumbrella": "",
	} {
		m, err := FindModel(name)
		if want == "" {
			require.ErrorContains(t, err, `reader "tinyumbrella" is not known: ccid-probe virtual --list-models has all names`, "nothing is like it")
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, want, m.Name)
	}
	_, err := FindModel("scr3310q")
	require.ErrorContains(t, err, "did you mean scr3310?")
	_, err = FindModel("cardman")
	require.ErrorContains(t, err, "cardman3121")
	_, err = FindModel("yubico")
	require.ErrorContains(t, err, "which of")
	m, err := FindModel("utrust-3700")
	require.NoError(t, err)
	require.Equal(t, "identiv-utrust-3700-f-cl-reader", m.Name)
	m, err = FindModel("kc1000scdiz")
	require.NoError(t, err)
	require.Equal(t, "cherry-kc-1000-sc-di-z", m.Name, "people leave hyphens out")
	_, err = FindModel("kc1000")
	require.ErrorContains(t, err, "which of cherry-kc-1000-sc, ")
	_, err = FindModel("gemalto-pc-twim")
	require.ErrorContains(t, err, "did you mean gemalto-pc-twin?")
}

func TestParseSpec(t *testing.T) {
	s, err := ParseSpec(" reader=SCR3310 , level=Extended, slots=4, card=t0+none, card=vpcd:localhost:35963, card=vpcd-listen:35963, name=My reader, serial=42, message=0x200, busy=2 ")
	require.NoError(t, err)
	require.Equal(t, []CardSpec{{Kind: CardT0}, {}, {Kind: CardVPCD, Address: "localhost:35963"}, {Kind: CardVPCDListen, Address: "127.0.0.1:35963"}}, s.Cards)
	r, err := NewReader(s.Config)
	require.NoError(t, err)
	d := r.ClassDescriptor(0)
	require.Equal(t, ccid.LevelExtendedAPDU, d.DwFeatures.ExchangeLevel())
	require.Equal(t, []int{4, 0x200, 2}, []int{d.Slots(), int(d.DwMaxCCIDMessageLength), int(d.BMaxCCIDBusySlots)})
	require.Equal(t, "My reader", r.Describe().Product)
	require.Equal(t, "42", r.Describe().SerialNumber)
	s, err = ParseSpec("")
	require.NoError(t, err)
	require.Equal(t, []CardSpec{{Kind: CardT1}}, s.Cards)
	for text, want := range map[string]string{
		"reader":                 `"reader" is not KEY=VALUE`,
		"colour=red":             `key "colour": reader, level, slots, card, name, serial, features, message, busy, pinpad and keys are possible`,
		"level=apdu":             `level "apdu": character, tpdu, short and extended are possible`,
		"slots=9":                `slots "9": a number from 1 to 8 is needed`,
		"slots=0":                `slots "0"`,
		"slots=two":              `slots "two"`,
		"busy=256":               `busy "256"`,
		"card=t2":                `card "t2": t0, t1, none, vpcd:HOST:PORT and vpcd-listen:PORT are possible`,
		"card=t1:x":              `card "t1:x"`,
		"card=vpcd:here":         `card "vpcd:here": vpcd:HOST:PORT is needed`,
		"card=vpcd-listen:x":     `card "vpcd-listen:x"`,
		"card=t0+t1":             "2 cards, but gemalto-pc-twin has 1 slot;",
		"level=":                 "level has no value",
		"level=tpdu,level=short": "level is given twice",
		"reader=no such":         `reader "no such" is not known`,
		"reader=e-gate,slots=2":  "e-gate is a token, which has one slot",
		"message=-1":             `message "-1"`,
		"features=0x1FFFFFFFF":   `features "0x1FFFFFFFF"`,
	} {
		_, err := ParseSpec(text)
		require.ErrorContains(t, err, want, text)
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add("reader=gemalto-pc-twin,level=tpdu,slots=1,card=t1")
	f.Add("card=vpcd:h:1+vpcd-listen:2,slots=8")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSpec(text)
		if err != nil {
			return
		}
		r, err := NewReader(s.Config)
		require.NoError(t, err)
		require.LessOrEqual(t, len(s.Cards), r.Slots())
	})
}

func TestReplugIsANewPlugInAtTheSamePort(t *testing.T) {
	h, station, bus := newHost(t, tpduT0)
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	before := h.Device()
	bus.Unplug(station.Reader)
	_, err := h.BulkIn(t.Context(), h.in, make([]byte, 64))
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	after, err := bus.Plug(station.Reader)
	require.NoError(t, err)
	require.NotEqual(t, before.Key, after.Key)
	require.NotEqual(t, before.Address, after.Address)
	require.Equal(t, before.PortPath, after.PortPath)
	i, err := bus.Open(t.Context(), after, interfaceNumber(station))
	require.NoError(t, err)
	h2 := &host{TB: t, Interface: i, in: h.in, out: h.out}
	require.Equal(t, ccid.ICCInactive, h2.succeed(ccid.GetSlotStatus(0)).Status.ICC(), "the card has lost its power")
	require.NoError(t, i.Close())
	_, err = bus.Plug(station.Reader)
	require.ErrorContains(t, err, "already")
	_, err = bus.PlugAt(NewLoopback(), 1)
	require.ErrorContains(t, err, "taken")
	_, err = bus.PlugAt(NewLoopback(), 0)
	require.Error(t, err)
}

func interfaceNumber(s *Station) uint8 { return s.functions[0].number }

func TestFaults(t *testing.T) {
	status := ccid.GetSlotStatus(0)
	message, err := status.AppendBinary(nil)
	require.NoError(t, err)
	short := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	buf := make([]byte, 64)
	for _, tc := range []struct {
		fault     FaultKind
		index     int // of the transfer: 0 is the command, 1 its answer
		out, in   error
		answer    string
		afterIn   string // what another read gets, "" for nothing
		unplugged bool
	}{
		{NoFault, 0, nil, nil, "81000000000000010001", "", false},
		{RemoveBefore, 0, usbtransport.ErrRemoved, usbtransport.ErrRemoved, "", "", true},
		{RemoveDuring, 0, usbtransport.ErrRemoved, usbtransport.ErrRemoved, "", "", true},
		{RemoveAfter, 0, nil, usbtransport.ErrRemoved, "", "", true},
		{RemoveBefore, 1, nil, usbtransport.ErrRemoved, "", "", true},
		{RemoveDuring, 1, nil, usbtransport.ErrRemoved, "", "", true},
		{RemoveAfter, 1, nil, nil, "81000000000000010001", "", true},
		{Stall, 0, usbtransport.ErrStalled, usbtransport.ErrTimedOut, "", "", false},
		{Stall, 1, nil, usbtransport.ErrStalled, "", "", false},
		{IOError, 0, usbtransport.ErrIO, usbtransport.ErrTimedOut, "", "", false},
		{IOError, 1, nil, usbtransport.ErrIO, "", "81000000000000010001", false},
		{Overflow, 1, nil, usbtransport.ErrOverflow, "", "", false},
		{Timeout, 0, usbtransport.ErrTimedOut, usbtransport.ErrTimedOut, "", "", false},
		{Timeout, 1, nil, usbtransport.ErrTimedOut, "", "81000000000000010001", false},
		{Drop, 0, nil, usbtransport.ErrTimedOut, "", "", false},
		{Drop, 1, nil, usbtransport.ErrTimedOut, "", "", false},
		{Delay, 1, nil, nil, "81000000000000010001", "", false},
		{Truncate, 1, nil, nil, "810000", "", false},
		{Garble, 1, nil, nil, "a5fe57b00962bb146dc6", "", false},
		{WrongSeq, 1, nil, nil, "81000000000055010001", "", false},
		{WrongSlot, 1, nil, nil, "810000000" + "02a00010001", "", false},
		{Duplicate, 1, nil, nil, "81000000000000010001", "81000000000000010001", false},
		{ZeroLength, 1, nil, nil, "", "81000000000000010001", false},
		{Hold, 1, nil, usbtransport.ErrTimedOut, "", "", false},
	} {
		t.Run(fmt.Sprintf("%v at %d", tc.fault, tc.index), func(t *testing.T) {
			h, _, bus := newHost(t, tpduT0)
			bus.Inject(FaultAt(tc.index, Fault{Kind: tc.fault, Delay: time.Millisecond, Length: 3}))
			_, err := h.BulkOut(short(t), h.out, message)
			require.ErrorIs(t, err, tc.out)
			n, err := h.BulkIn(short(t), h.in, buf)
			require.ErrorIs(t, err, tc.in)
			require.Equal(t, unhex(t, tc.answer), append([]byte{}, buf[:n]...))
			require.Equal(t, 2, max(2, bus.Transfers()))
			devices, err := bus.Devices(t.Context())
			require.NoError(t, err)
			require.Equal(t, tc.unplugged, len(devices) == 0)
			if tc.unplugged {
				return
			}
			if tc.fault == Stall {
				require.NoError(t, h.ClearHalt(t.Context(), h.in))
				require.NoError(t, h.ClearHalt(t.Context(), h.out))
				return
			}
			bus.Inject(nil)
			n, err = h.BulkIn(short(t), h.in, buf)
			if tc.afterIn == "" {
				require.ErrorIs(t, err, usbtransport.ErrTimedOut)
			} else {
				require.NoError(t, err)
				require.Equal(t, unhex(t, tc.afterIn), buf[:n])
			}
		})
	}
	t.Run("a late answer comes before the next", func(t *testing.T) {
		h, _, bus := newHost(t, tpduT0)
		bus.Inject(FaultAt(1, Fault{Kind: Hold}))
		first := h.send(ccid.GetSlotStatus(0))
		_, err := h.BulkIn(short(t), h.in, buf)
		require.ErrorIs(t, err, usbtransport.ErrTimedOut)
		second := h.send(ccid.GetSlotStatus(0))
		require.NoError(t, h.receive().Check(first))
		require.NoError(t, h.receive().Check(second))
	})
}

// TestCardsExchangedAtAnyMoment puts cards in and out while the host uses them, at every level.
func TestCardsExchangedAtAnyMoment(t *testing.T) {
	for _, level := range []string{"character", "tpdu", "short", "extended"} {
		t.Run(level, func(t *testing.T) {
			h, station, _ := newHost(t, "reader=gempctwin,level="+level+",card=t0")
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					for _, c := range []card.Card{card.NewT0(), nil} {
						old, err := station.SetCard(0, c)
						assert.NoError(t, err)
						if old != nil {
							assert.NoError(t, old.Close())
						}
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			}()
			characters := uint16(0)
			if level == "character" {
				characters = 1
			}
			for range 300 {
				h.exchange(ccid.IccPowerOn(0, ccid.Power5V))
				h.exchange(ccid.SetParametersT0(0, ccid.ParametersT0{BmFindexDindex: 0x11, BWaitingIntegerT0: 10}))
				h.exchange(ccid.XfrBlock(0, 0, characters, unhex(t, "0084000008")))
			}
			close(stop)
			<-stopped
		})
	}
}

// TestUnplugWhileACardWorks leaves no goroutine behind: goleak looks.
func TestUnplugWhileACardWorks(t *testing.T) {
	h, station, bus := newHost(t, "reader=gempctwin,level=short,card=none")
	station.put(t, 0, slowCard(card.Behaviour{Delay: time.Hour}))
	h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
	h.send(ccid.XfrBlock(0, 0, 0, unhex(t, "0084000008")))
	start := time.Now()
	bus.Unplug(station.Reader)
	require.Less(t, time.Since(start), time.Second)
	_, err := h.BulkIn(t.Context(), h.in, make([]byte, 64))
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
}

func TestRecordedFramesPlay(t *testing.T) {
	files, err := filepath.Glob("../testdata/frames/*.json")
	require.NoError(t, err)
	require.Len(t, files, 14)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			recording, err := ParseRecording(b)
			require.NoError(t, err)
			require.NotEmpty(t, recording.Source)
			for _, f := range recording.Frames {
				text, err := f.MarshalText()
				require.NoError(t, err)
				var again Frame
				require.NoError(t, again.UnmarshalText(text))
				require.Equal(t, f, again)
			}
			for _, speed := range []int{0, 100} {
				script, err := recording.Script(ScriptConfig{Speed: speed})
				require.NoError(t, err)
				playAgain(t, script, recording)
			}
		})
	}
}

// playAgain sends what the recorded host sent, with other sequence numbers, and expects what it got.
func playAgain(t *testing.T, script *Script, recording *Recording) {
	t.Helper()
	bus := NewBus()
	info, err := bus.Plug(script)
	require.NoError(t, err)
	defer func() { require.NoError(t, bus.Close()) }()
	require.Equal(t, recording.IDVendor, info.IDVendor)
	i, err := bus.Open(t.Context(), info, script.shell.functions[0].number)
	require.NoError(t, err)
	defer func() { require.NoError(t, i.Close()) }()
	_, steps := recording.Steps()
	for number, step := range steps {
		message := bytes.Clone(step.Expect)
		if message == nil {
			// The gap hides what the host sent; an XfrBlock is answered by the same type.
			message, err = ccid.XfrBlock(0, 0, 0, nil).AppendBinary(nil)
			require.NoError(t, err)
		}
		message[offsetSeq] ^= 0x40
		_, err := i.BulkOut(t.Context(), 0x01, message)
		require.NoError(t, err)
		seq, _ := step.recordedSeq()
		for _, want := range step.Answers {
			if want.Direction != FrameIn {
				continue
			}
			buf := make([]byte, 1024)
			n, err := i.BulkIn(t.Context(), 0x82, buf)
			require.NoError(t, err)
			expected := bytes.Clone(want.Data)
			if expected[offsetSeq] == seq {
				expected[offsetSeq] = message[offsetSeq]
			}
			require.Equal(t, expected, buf[:n], "step %d", number)
		}
	}
	require.True(t, script.Done())
	require.Empty(t, script.Unexpected())
	status, err := ccid.GetSlotStatus(0).AppendBinary(nil)
	require.NoError(t, err)
	_, err = i.BulkOut(t.Context(), 0x01, status)
	require.NoError(t, err)
	n, err := i.BulkIn(t.Context(), 0x82, make([]byte, 64))
	require.NoError(t, err)
	require.Equal(t, 10, n)
	require.Len(t, script.Unexpected(), 1)
}

// FuzzReader sends anything to readers of each level.
func FuzzReader(f *testing.F) {
	on, _ := ccid.IccPowerOn(0, ccid.Power5V).AppendBinary(nil)
	xfr, _ := ccid.XfrBlock(0, 0, 0, []byte{0, 0x84, 0, 0, 8}).AppendBinary(nil)
	for level := range byte(4) {
		f.Add(level, append(append([]byte{10}, on...), append([]byte{15}, xfr...)...))
	}
	f.Fuzz(func(t *testing.T, level byte, script []byte) {
		l := ccid.ExchangeLevel(level & 3)
		r, err := NewReader(Config{Level: &l, Slots: 2, Cards: []card.Card{card.NewT0(), card.NewT1()}})
		require.NoError(t, err)
		bus := NewBus()
		info, err := bus.Plug(r)
		require.NoError(t, err)
		i, err := bus.Open(t.Context(), info, 0)
		require.NoError(t, err)
		for len(script) > 0 {
			n := min(int(script[0]), len(script)-1)
			_, err := i.BulkOut(t.Context(), 0x01, script[1:1+n])
			require.NoError(t, err)
			script = script[1+n:]
		}
		require.NoError(t, i.Close())
		require.NoError(t, bus.Close())
		require.NoError(t, r.Close())
	})
}
