package capture_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
	"github.com/goccid/goccid/usbtransport/transporttest"
)

// impatient is a context that ends when somebody begins to wait for its end: in a replay without delays, what has to be
// waited for does not come.
type impatient struct {
	context.Context
	waited bool
}

func (c *impatient) Done() <-chan struct{} {
	c.waited = true
	done := make(chan struct{})
	close(done)
	return done
}

func (c *impatient) Err() error {
	if c.waited {
		return context.Canceled
	}
	return nil
}

// useAll does to every interface of a capture what its host did, and reads what comes.
func useAll(t testing.TB, c *capture.Capture, mode capture.Mode) {
	t.Helper()
	replay, err := capture.NewReplay(c, mode, capture.AtOnce)
	if err != nil {
		return
	}
	for _, d := range c.Devices() {
		interfaces, _ := usbtransport.ParseInterfaces(d.Info.Descriptors)
		for _, descriptor := range interfaces {
			i, err := replay.Open(t.Context(), d.Info, descriptor.Number)
			if err != nil {
				continue
			}
			useInterface(t, i, descriptor, d.Transfers)
			require.NoError(t, i.Close())
		}
	}
	_ = replay.Close() // whatever it says
}

func useInterface(t testing.TB, i usbtransport.Interface, descriptor usbtransport.InterfaceDescriptor, transfers []capture.Transfer) {
	t.Helper()
	size := map[uint8]int{}
	for _, e := range descriptor.Endpoints {
		size[e.Address] = max(1, e.MaxPacketSize)
	}
	for _, transfer := range transfers[:min(len(transfers), 200)] {
		var err error
		ctx := &impatient{Context: t.Context()}
		switch {
		case transfer.Type == usbtransport.TransferControl && transfer.HasSetup:
			_, err = i.Control(ctx, transfer.Setup, make([]byte, min(4096, max(0, transfer.Requested))))
		case transfer.Type == usbtransport.TransferBulk && !transfer.In():
			_, err = i.BulkOut(ctx, transfer.Endpoint, transfer.Data)
		case transfer.Type == usbtransport.TransferBulk && len(transfer.Data) > 0:
			_, err = i.BulkIn(ctx, transfer.Endpoint, make([]byte, 64*size[transfer.Endpoint]))
		case transfer.Type == usbtransport.TransferInterrupt && transfer.In() && len(transfer.Data) > 0:
			_, err = i.InterruptIn(ctx, transfer.Endpoint, make([]byte, size[transfer.Endpoint]))
		}
		var typed *usbtransport.Error
		require.True(t, err == nil || errors.As(err, &typed), "%v", err)
	}
}

// TestTracesReplayThemselves plays the host's side of each trace against its device's side: adding a trace to the folder
// tests it.
func TestTracesReplayThemselves(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(traces, "*.pcapng"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c := readTrace(t, file)
			replay, err := capture.NewReplay(c, capture.Strict{}, capture.AtOnce)
			require.NoError(t, err)
			for _, d := range c.Devices() {
				functions, err := host.Functions(d.Info)
				require.NoError(t, err)
				for _, f := range functions {
					require.NoError(t, f.Unusable)
					replaySelf(t, replay, f, d.Transfers)
				}
			}
			require.NoError(t, replay.Close())
		})
	}
}

// replaySelf sends what the recorded host sent and expects what it received, transfer by transfer.
func replaySelf(t *testing.T, replay *capture.Replay, f host.Function, transfers []capture.Transfer) {
	t.Helper()
	i, err := replay.Open(t.Context(), f.Device, f.Interface.Number)
	require.NoError(t, err)
	defer func() { require.NoError(t, i.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, x := range transfers {
		switch {
		case !x.Ended() || x.Err != nil:
		case x.Type == usbtransport.TransferControl && x.HasSetup && x.Setup.RequestType == ccid.RequestTypeOut:
			_, err := i.Control(ctx, x.Setup, x.Data)
			require.NoError(t, err, "packet %d", x.Submitted)
		case x.Type == usbtransport.TransferControl && x.HasSetup && x.Setup.RequestType == ccid.RequestTypeIn:
			buf := make([]byte, max(0, x.Requested))
			n, err := i.Control(ctx, x.Setup, buf)
			require.NoError(t, err, "packet %d", x.Submitted)
			require.Equal(t, string(x.Data), string(buf[:n]), "packet %d", x.Completed)
		case f.Token():
		case x.Endpoint == f.BulkOut.Address && x.Type == usbtransport.TransferBulk:
			_, err := i.BulkOut(ctx, x.Endpoint, x.Data)
			require.NoError(t, err)
		case x.Endpoint == f.BulkIn.Address && x.Type == usbtransport.TransferBulk:
			size := f.BulkIn.MaxPacketSize
			buf := make([]byte, max(1, (x.Requested+size-1)/size)*size)
			n, err := i.BulkIn(ctx, x.Endpoint, buf)
			require.NoError(t, err, "packet %d", x.Completed)
			require.Equal(t, string(x.Data), string(buf[:n]), "packet %d", x.Completed)
		}
	}
}

// TestLenientReplayKeepsTheRulesOfBackends runs the suite on the reader in a trace, as far as it can be shown there.
func TestLenientReplayKeepsTheRulesOfBackends(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		if strings.Contains(t.Name(), "exact_multiple") {
			t.Skip("not shown here: the trace has no answer to the block that this case sends")
		}
		replay, err := capture.NewReplay(readTrace(t, filepath.Join(traces, "qemu-ccid-libccid.pcapng")), capture.Lenient{}, capture.AtOnce)
		require.NoError(t, err)
		return transporttest.Fixture{Backend: replay, Match: func(d usbtransport.DeviceInfo) bool { return d.IDVendor == 0x08E6 }}
	})
}

func message(t testing.TB, c ccid.Command) []byte {
	t.Helper()
	b, err := c.AppendBinary(nil)
	require.NoError(t, err)
	return b
}

// openTrace opens the reader in the trace of QEMU's reader, without a driver.
func openTrace(t testing.TB, mode capture.Mode, pace capture.Pace) (*capture.Replay, usbtransport.Interface) {
	t.Helper()
	replay, err := capture.NewReplay(readTrace(t, filepath.Join(traces, "qemu-ccid-libccid.pcapng")), mode, pace)
	require.NoError(t, err)
	return replay, openFirst(t, replay)
}

const traceOut, traceIn = 0x03, 0x82

func exchange(t testing.TB, i usbtransport.Interface, c ccid.Command) ccid.Response {
	t.Helper()
	_, err := i.BulkOut(t.Context(), traceOut, message(t, c))
	require.NoError(t, err)
	buf := make([]byte, 1024)
	n, err := i.BulkIn(t.Context(), traceIn, buf)
	require.NoError(t, err)
	r, err := ccid.ParseResponse(buf[:n])
	require.NoError(t, err)
	require.NoError(t, r.Check(c))
	return r
}

// TestDivergenceSaysWhereAndWhat sends one message that differs from the first of a strict replay.
func TestDivergenceSaysWhereAndWhat(t *testing.T) {
	first := ccid.GetSlotStatus(0) // packet 31 of the trace
	tests := map[string]struct {
		change func(*ccid.Command)
		field  string
	}{
		"another message": {func(c *ccid.Command) { c.Type = ccid.TypeIccPowerOff }, "bMessageType"},
		"another slot":    {func(c *ccid.Command) { c.Slot = 1 }, "bSlot"},
		"another number":  {func(c *ccid.Command) { c.Seq = 9 }, "bSeq"},
		"reserved bytes":  {func(c *ccid.Command) { c.Specific[1] = 1 }, "abRFU[1]"},
		"data":            {func(c *ccid.Command) { c.Data = []byte{1} }, "dwLength"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			replay, i := openTrace(t, capture.Strict{}, capture.AtOnce)
			c := first
			tt.change(&c)
			_, err := i.BulkOut(t.Context(), traceOut, message(t, c))
			require.ErrorIs(t, err, usbtransport.ErrStalled)
			var d *capture.Divergence
			require.ErrorAs(t, err, &d)
			require.Equal(t, 31, d.Packet)
			require.Equal(t, tt.field, d.Field)
			require.Contains(t, d.Host, c.Type.String())
			require.Contains(t, d.Recording, "PC_to_RDR_GetSlotStatus")

			_, err = i.BulkOut(t.Context(), traceOut, message(t, first))
			require.ErrorIs(t, err, capture.ErrDivergence, "a strict replay does not go on")
			err = replay.Close()
			require.ErrorAs(t, err, &d)
			var unused *capture.UnusedError
			require.ErrorAs(t, err, &unused)
			require.Equal(t, 31, unused.Packets[0])
		})
	}
}

// TestDivergencesHideSecrets: neither the host's PIN nor the recorded one is in the error.
func TestDivergencesHideSecrets(t *testing.T) {
	for name, mode := range map[string]capture.Mode{"strict": capture.Strict{}, "lenient": capture.Lenient{}} {
		for level, want := range map[ccid.ExchangeLevel]string{ccid.LevelCharacter: "abData[0]", ccid.LevelTPDU: "abData[5]"} {
			t.Run(name+" "+level.String(), func(t *testing.T) {
				session := [][]byte{append([]byte{0x00, 0x20, 0x00, 0x01, 0x08}, pin...)}
				recording, _ := record(t, level, 0, session, capture.Options{IncludeSecrets: true})
				replay, err := capture.NewReplay(read(t, recording), mode, capture.AtOnce)
				require.NoError(t, err)
				reader, err := host.OpenFirst(t.Context(), replay, host.Options{})
				require.NoError(t, err)
				defer func() { require.NoError(t, reader.Close()) }()
				_, err = reader.Slot(0).Connect(t.Context())
				require.NoError(t, err)
				_, err = reader.Slot(0).Transmit(t.Context(), []byte("\x00\x20\x00\x01\x0865657878"))
				var d *capture.Divergence
				require.ErrorAs(t, err, &d)
				require.Equal(t, want, d.Field)
				require.Contains(t, d.Error(), "2A 2A 2A")
				require.NotContains(t, d.Error(), fmt.Sprintf("% X", pin[:2]))
				require.NotContains(t, d.Error(), "36 35")
			})
		}
	}
}

func TestLenientReplayGoesOnAfterADivergence(t *testing.T) {
	replay, i := openTrace(t, capture.Lenient{}, capture.AtOnce)
	atr := exchange(t, i, ccid.IccPowerOn(0, ccid.Power5V)).Data
	require.NotEmpty(t, atr)
	_, err := i.BulkOut(t.Context(), traceOut, message(t, ccid.XfrBlock(0, 0, 0, []byte{0, 0xA4, 4, 0, 7, 0xA0, 0, 0, 0, 0x79, 1, 0x77})))
	var d *capture.Divergence
	require.ErrorAs(t, err, &d)
	require.Equal(t, "abData[11]", d.Field)
	require.Equal(t, 82, d.Packet)
	require.NotErrorIs(t, replay.Close(), errors.ErrUnsupported)
	answer := exchange(t, i, ccid.XfrBlock(0, 0, 0, []byte{0, 0xA4, 4, 0, 7, 0xA0, 0, 0, 0, 0x79, 1, 0}))
	require.Equal(t, []byte{0x61, 0x0D}, answer.Data)
	require.ErrorIs(t, replay.Close(), capture.ErrDivergence)
}

// TestLenientReplayAnswersWhatWasNotAsked sends what the recorded driver did not.
func TestLenientReplayAnswersWhatWasNotAsked(t *testing.T) {
	_, i := openTrace(t, capture.Lenient{}, capture.AtOnce)
	status := exchange(t, i, ccid.Command{Type: ccid.TypeGetSlotStatus, Seq: 77}).Status
	require.True(t, status.ICC().Present())
	require.NotEmpty(t, exchange(t, i, ccid.IccPowerOn(0, ccid.Power18V)).Data)
	require.Equal(t, ccid.ICCActive, exchange(t, i, ccid.GetSlotStatus(0)).Status.ICC())
	set := ccid.ParametersT0{BmFindexDindex: 0x95, BWaitingIntegerT0: 10}
	require.Equal(t, set.Bytes(), exchange(t, i, ccid.SetParametersT0(0, set)).Data)
	require.Equal(t, set.Bytes(), exchange(t, i, ccid.GetParameters(0)).Data)
	require.Equal(t, ccid.CommandOK, exchange(t, i, ccid.AbortCommand(0)).Status.Command())
	refused := exchange(t, i, ccid.Escape(0, []byte{1, 2, 3}))
	require.Equal(t, ccid.CommandFailed, refused.Status.Command())
	require.Equal(t, ccid.ErrorCommandNotSupported, refused.Error)
	require.Equal(t, ccid.ICCInactive, exchange(t, i, ccid.IccPowerOff(0)).Status.ICC())
	require.Equal(t, ccid.ICCInactive, exchange(t, i, ccid.GetSlotStatus(0)).Status.ICC())
	_, err := i.Control(t.Context(), usbtransport.Setup{RequestType: ccid.RequestTypeOut, Request: ccid.RequestAbort, Value: ccid.AbortValue(0, 1)}, nil)
	require.NoError(t, err)
	_, err = i.Control(t.Context(), usbtransport.Setup{RequestType: ccid.RequestTypeIn, Request: ccid.RequestGetDataRates}, make([]byte, 4))
	require.ErrorIs(t, err, usbtransport.ErrStalled)
}

// TestNotificationsComeAtTheirPlace: the trace's only one comes before the host has asked for anything.
func TestNotificationsComeAtTheirPlace(t *testing.T) {
	for _, mode := range []capture.Mode{capture.Strict{}, capture.Lenient{}} {
		_, i := openTrace(t, mode, capture.AtOnce)
		buf := make([]byte, 64)
		n, err := i.InterruptIn(t.Context(), 0x81, buf)
		require.NoError(t, err)
		require.Equal(t, []byte{0x50, 0x03}, buf[:n])
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err = i.InterruptIn(ctx, 0x81, buf)
		cancel()
		require.ErrorIs(t, err, usbtransport.ErrTimedOut)
	}
}

// TestPaceHoldsAnswersBack gives the pace what was recorded, and obeys it.
func TestPaceHoldsAnswersBack(t *testing.T) {
	const delay = 30 * time.Millisecond
	var recorded []time.Duration
	_, i := openTrace(t, capture.Strict{}, func(d time.Duration) time.Duration {
		recorded = append(recorded, d)
		return delay
	})
	start := time.Now()
	c := ccid.GetSlotStatus(0)
	exchange(t, i, c)
	require.GreaterOrEqual(t, time.Since(start), delay)
	require.Len(t, recorded, 2)
	require.Zero(t, recorded[0], "the notification before the first command")
	require.Equal(t, 875*time.Microsecond, recorded[1], "packets 31 to 34 of the trace")
	require.Equal(t, time.Second, capture.AsRecorded(time.Second))
	require.Equal(t, 10*time.Minute, capture.AsRecorded(time.Hour))
	require.Zero(t, capture.AsRecorded(-time.Second))
	require.Zero(t, capture.AtOnce(time.Second))
}

// synthetic makes a capture of a reader from what is told of its transfers.
type synthetic struct {
	transfers []capture.Transfer
	packet    int
}

func newSynthetic(t testing.TB) *synthetic {
	t.Helper()
	s := &synthetic{}
	for _, x := range readTrace(t, filepath.Join(traces, "qemu-ccid-libccid.pcapng")).Transfers {
		if x.Type == usbtransport.TransferControl && x.Setup.Request == 6 {
			s.transfers, s.packet = append(s.transfers, x), max(x.Submitted, x.Completed)
		}
	}
	return s
}

func (s *synthetic) add(endpoint uint8, kind usbtransport.TransferType, data []byte, failure error) {
	last := s.transfers[len(s.transfers)-1]
	s.transfers = append(s.transfers, capture.Transfer{
		Submitted: s.packet + 1, Completed: s.packet + 2, Bus: last.Bus, Address: last.Address, Endpoint: endpoint, Type: kind,
		Requested: 1024, Moved: len(data), Data: data, Err: failure,
	})
	s.packet += 2
}

func (s *synthetic) replay(t testing.TB, mode capture.Mode) (*capture.Replay, usbtransport.Interface) {
	t.Helper()
	replay, err := capture.NewReplay(&capture.Capture{Transfers: s.transfers}, mode, capture.AtOnce)
	require.NoError(t, err)
	return replay, openFirst(t, replay)
}

// TestStrictReplayRepeatsFailures has a reader that stalls, sends part of an answer, and is unplugged.
func TestStrictReplayRepeatsFailures(t *testing.T) {
	s := newSynthetic(t)
	status := message(t, ccid.GetSlotStatus(0))
	s.add(traceOut, usbtransport.TransferBulk, status, nil)
	s.add(traceIn, usbtransport.TransferBulk, nil, usbtransport.ErrStalled)
	s.add(traceOut, usbtransport.TransferBulk, status, usbtransport.ErrStalled)
	s.add(traceOut, usbtransport.TransferBulk, status, nil)
	s.add(traceIn, usbtransport.TransferBulk, []byte{0x81, 0}, usbtransport.ErrTimedOut)
	s.add(0x81, usbtransport.TransferInterrupt, nil, usbtransport.ErrRemoved)
	replay, i := s.replay(t, capture.Strict{})
	w, err := replay.Watch(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	_, err = w.Next(t.Context())
	require.NoError(t, err)

	buf := make([]byte, 64)
	_, err = i.BulkOut(t.Context(), traceOut, status)
	require.NoError(t, err)
	_, err = i.BulkIn(t.Context(), traceIn, buf)
	require.ErrorIs(t, err, usbtransport.ErrStalled)
	_, err = i.BulkOut(t.Context(), traceOut, status)
	require.ErrorIs(t, err, usbtransport.ErrStalled)
	require.NotErrorIs(t, err, capture.ErrDivergence)
	_, err = i.BulkOut(t.Context(), traceOut, status)
	require.NoError(t, err)
	n, err := i.BulkIn(t.Context(), traceIn, buf)
	require.NoError(t, err)
	require.Equal(t, []byte{0x81, 0}, buf[:n])
	_, err = i.InterruptIn(t.Context(), 0x81, buf)
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	_, err = i.BulkOut(t.Context(), traceOut, status)
	require.ErrorIs(t, err, usbtransport.ErrRemoved)
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, usbtransport.Removed, e.Kind)
	require.NoError(t, replay.Close())
}

// TestLenientReplayOfAnInsertion: a notification waits for the exchange before it, and changes the state that is told.
func TestLenientReplayOfAnInsertion(t *testing.T) {
	s := newSynthetic(t)
	response := func(r ccid.Response) []byte {
		b, err := r.AppendBinary(nil)
		require.NoError(t, err)
		return b
	}
	absent := ccid.NewStatus(ccid.ICCAbsent, ccid.CommandOK)
	active := ccid.NewStatus(ccid.ICCActive, ccid.CommandOK)
	bulk, interrupt := usbtransport.TransferBulk, usbtransport.TransferInterrupt
	s.add(traceOut, bulk, message(t, ccid.GetSlotStatus(0)), nil)
	s.add(traceIn, bulk, response(ccid.Response{Type: ccid.TypeSlotStatus, Status: absent}), nil)
	s.add(0x81, interrupt, []byte{0x50, 3}, nil)
	s.add(traceOut, bulk, message(t, ccid.IccPowerOn(0, ccid.Power5V)), nil)
	s.add(traceIn, bulk, response(ccid.Response{Type: ccid.TypeDataBlock, Status: active, Data: []byte{0x3B, 0x00}}), nil)
	s.add(0x81, interrupt, []byte{0x50, 2}, nil)
	_, i := s.replay(t, capture.Lenient{})
	buf := make([]byte, 64)
	notification := func() []byte {
		n, err := i.InterruptIn(t.Context(), 0x81, buf)
		require.NoError(t, err)
		return buf[:n]
	}
	require.Equal(t, []byte{0x50, 3}, notification())
	require.Equal(t, ccid.ICCInactive, exchange(t, i, ccid.GetSlotStatus(0)).Status.ICC())
	require.Equal(t, []byte{0x3B, 0x00}, exchange(t, i, ccid.IccPowerOn(0, ccid.PowerAutomatic)).Data)
	require.Equal(t, []byte{0x50, 2}, notification())
	require.Equal(t, ccid.ICCAbsent, exchange(t, i, ccid.GetSlotStatus(0)).Status.ICC())
	require.Equal(t, []byte{0x3B, 0x00}, exchange(t, i, ccid.IccPowerOn(0, ccid.Power3V)).Data, "a power-on without any left repeats the last")
}

// TestLenientReplayDeliversTimeExtensions with the host's bSeq.
func TestLenientReplayDeliversTimeExtensions(t *testing.T) {
	s := newSynthetic(t)
	c := ccid.XfrBlock(0, 0, 0, []byte{0, 0x84, 0, 0, 8})
	s.add(traceOut, usbtransport.TransferBulk, message(t, c), nil)
	for _, r := range []ccid.Response{
		{Type: ccid.TypeDataBlock, Status: ccid.NewStatus(ccid.ICCActive, ccid.CommandTimeExtension), Error: 3},
		{Type: ccid.TypeDataBlock, Data: []byte{0x90, 0}},
	} {
		b, err := r.AppendBinary(nil)
		require.NoError(t, err)
		s.add(traceIn, usbtransport.TransferBulk, b, nil)
	}
	_, i := s.replay(t, capture.Lenient{})
	c.Seq = 200
	require.Equal(t, ccid.CommandTimeExtension, exchange(t, i, c).Status.Command())
	buf := make([]byte, 64)
	n, err := i.BulkIn(t.Context(), traceIn, buf)
	require.NoError(t, err)
	require.Equal(t, byte(200), buf[6])
	require.Equal(t, []byte{0x90, 0}, buf[10:n])
}

func TestACaptureWithoutDescriptorsIsRefused(t *testing.T) {
	c := readTrace(t, filepath.Join(traces, "qemu-ccid-libccid.pcapng"))
	var late capture.Capture
	for _, x := range c.Transfers {
		if x.Type != usbtransport.TransferControl {
			late.Transfers = append(late.Transfers, x)
		}
	}
	_, err := capture.NewReplay(&late, capture.Lenient{}, capture.AtOnce)
	require.ErrorContains(t, err, "begin before the device is plugged in")
}

// drain reads all that waits.
func drain(t testing.TB, i usbtransport.Interface) [][]byte {
	t.Helper()
	var list [][]byte
	for {
		buf := make([]byte, 1024)
		n, err := i.BulkIn(&impatient{Context: t.Context()}, traceIn, buf)
		if errors.Is(err, usbtransport.ErrCancelled) {
			return list
		}
		require.NoError(t, err)
		list = append(list, buf[:n])
	}
}

// FuzzReplay sends what a host may, to a reader that is replayed. data is messages with a length byte before each.
func FuzzReplay(f *testing.F) {
	name := filepath.Join(traces, "qemu-ccid-libccid.pcapng")
	c := readTrace(f, name)
	var seed []byte
	for _, x := range c.Transfers {
		if x.Type == usbtransport.TransferBulk && !x.In() {
			seed = append(append(seed, byte(len(x.Data))), x.Data...)
		}
	}
	f.Add(true, seed)
	f.Add(false, seed)
	for _, pair := range [][]byte{message(f, ccid.IccPowerOn(0, 0)), message(f, ccid.SetParametersT1(0, ccid.ParametersT1{}))} {
		f.Add(true, append([]byte{byte(len(pair))}, pair...))
	}
	f.Fuzz(func(t *testing.T, lenient bool, data []byte) {
		var mode capture.Mode = capture.Strict{}
		if lenient {
			mode = capture.Lenient{}
		}
		replay, err := capture.NewReplay(c, mode, capture.AtOnce)
		require.NoError(t, err)
		i := openFirst(t, replay)
		for len(data) > 0 {
			n := min(int(data[0]), len(data)-1)
			out := data[1 : 1+n]
			data = data[1+n:]
			if _, err := i.BulkOut(t.Context(), traceOut, out); err != nil {
				require.ErrorIs(t, err, capture.ErrDivergence)
				continue
			}
			for _, answer := range drain(t, i) {
				require.GreaterOrEqual(t, len(answer), ccid.HeaderLength)
				require.EqualValues(t, len(answer)-ccid.HeaderLength, binary.LittleEndian.Uint32(answer[1:]))
				require.Equal(t, out[5:7], answer[5:7], "bSlot and bSeq")
			}
		}
		_ = replay.Close() // what it says depends on the input
	})
}
