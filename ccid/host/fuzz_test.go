package host_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// liar is a device that answers with what the fuzzer says. Its first bytes are the class descriptor's fields that matter;
// each answer then is one tape record: length, and a byte that says how honest the header is.
type liar struct {
	virtual.Device
	tape []byte
	port *virtual.Port
}

func (l *liar) take() byte {
	if len(l.tape) == 0 {
		return 0
	}
	b := l.tape[0]
	l.tape = l.tape[1:]
	return b
}

func (l *liar) Attach(p *virtual.Port) { l.port = p }
func (l *liar) Detach()                {}

func (l *liar) Control(_ usbtransport.Setup, data []byte) (int, bool) {
	return copy(data, l.tape), l.take()&1 == 0
}

func (l *liar) Out(_ uint8, data []byte) {
	if len(data) < ccid.HeaderLength {
		return
	}
	c, err := ccid.ParseCommand(data)
	if err != nil {
		return
	}
	kind, _ := c.Type.ResponseType()
	for range 1 + l.take()%3 {
		if len(l.tape) == 0 {
			return
		}
		lie := l.take()
		n := min(int(l.take()), len(l.tape))
		r := ccid.Response{Type: kind, Slot: c.Slot, Seq: c.Seq, Data: l.tape[:n]}
		l.tape = l.tape[n:]
		if lie&0x01 != 0 {
			r.Status, r.Error, r.Specific = ccid.Status(l.take()), ccid.ErrorCode(l.take()), l.take()
		}
		b, _ := r.AppendBinary(nil)
		if lie&0x02 != 0 {
			b[1+lie>>6] = l.take()
		}
		if lie&0x04 != 0 {
			b[5+lie>>7] ^= l.take()
		}
		if lie&0x10 != 0 {
			b[0] = l.take()
		}
		if lie&0x08 != 0 {
			b = b[:min(int(l.take()), len(b))]
		}
		l.port.Send(0x82, b)
	}
}

func (l *liar) Describe() usbtransport.DeviceInfo { return l.Device.Describe() }

// FuzzDriver drives the whole stack against a device that answers with arbitrary bytes. It must not panic, hang beyond
// its limits, or return what no device sent: a response of the wrong size.
func FuzzDriver(f *testing.F) {
	atrT1 := []byte{0x3B, 0x9C, 0x96, 0x81, 0x31, 0xFE, 0x45, 0x80, 0x73, 0xC0, 0x01, 0xC0, 0x66, 0x67, 0x6F, 0x63, 0x63, 0x69, 0x64, 0x90}
	honest := func(data ...byte) []byte { return append([]byte{0, 0, byte(len(data))}, data...) }
	record := func(parts ...[]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	for level := range byte(4) {
		f.Add(level, uint32(271), record(honest(), honest(atrT1...), honest(0xFF, 0x11, 0x96, 0x78), honest(), honest(0, 0xE1, 0xFE, 0x1F), honest(0, 0, 2, 0x90, 0, 0x92)))
		f.Add(level, uint32(0), record(honest(), honest(0x3B, 0x00), honest(), honest(0x90, 0x00)))
		f.Add(level, uint32(0xFFFFFFFF), record(honest(), honest(0x3B, 0x00), []byte{0, 1, 2, 0x90, 0, 0, 0, 1}, []byte{0, 1, 0, 0x80, 1, 0}))
	}
	f.Fuzz(func(t *testing.T, level byte, length uint32, tape []byte) {
		// In a bubble with a clock of its own, waiting costs nothing.
		synctest.Test(t, func(t *testing.T) { drive(t, level, length, tape) })
	})
}

func drive(t *testing.T, level byte, length uint32, tape []byte) {
	exchange := ccid.ExchangeLevel(level % 4)
	shell, err := virtual.NewReader(virtual.Config{Level: &exchange, Slots: int(level>>2%4) + 1, Override: func(d *ccid.ClassDescriptor) {
		d.DwMaxCCIDMessageLength = length
		d.DwFeatures ^= ccid.Features(level>>4) << 4
	}})
	require.NoError(t, err)
	bus := virtual.NewBus()
	_, err = bus.Plug(&liar{Device: shell, tape: tape})
	require.NoError(t, err)
	defer func() { require.NoError(t, bus.Close()) }()
	before := time.Now()
	reader, err := host.OpenFirst(t.Context(), bus, host.Options{})
	require.Less(t, time.Since(before), 5*time.Minute, "opening")
	if err != nil {
		return
	}
	session(t, reader)
	before = time.Now()
	require.NoError(t, reader.Close())
	require.Less(t, time.Since(before), 20*time.Second, "closing")
}

// session makes one use of each function of a slot.
func session(t *testing.T, reader *host.Reader) {
	// One operation takes at most Limits.Exchange and the recovery from its last exchange.
	const longest = time.Minute + 30*time.Second
	ctx, begun := t.Context(), time.Now()
	timed := func(err error) error {
		require.Less(t, time.Since(begun), 2*longest)
		begun = time.Now()
		return err
	}
	s := reader.Slot(0)
	atr, err := s.Connect(ctx)
	require.LessOrEqual(t, len(atr), 33)
	err = timed(err)
	if err != nil {
		return
	}
	for _, command := range [][]byte{{0, 0xA4, 0, 0}, {0, 0xB0, 0, 0, 0}, {0, 0xD6, 0, 0, 1, 2}, {0, 0xA4, 4, 0, 1, 2, 0}, {0, 0xB0, 0, 0, 0, 0xFF, 0xFF}} {
		response, err := s.Transmit(ctx, command)
		if timed(err) != nil {
			require.Nil(t, response)
			continue
		}
		require.GreaterOrEqual(t, len(response), 2)
		require.LessOrEqual(t, len(response), apdu.MaxResponseLength)
	}
	_, err = s.Escape(ctx, []byte{1})
	_ = timed(err)
	_, err = s.XfrBlock(ctx, []byte{1}, 0, 0)
	_ = timed(err)
	_ = timed(s.PowerOff(ctx))
}
