package host_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// lyingToken answers control requests with what the fuzzer says: the length of the answer, FF to stall, and its bytes. After the
// end of its tape it is at work for a while, and then stalls. (TestTokenThatIsAtWorkForEverIsGivenUp has one that does not end.)
type lyingToken struct {
	virtual.Device
	tape []byte
	sent int // bytes that it gave to the host
	idle int // answers after the end of the tape
}

func (l *lyingToken) Attach(*virtual.Port) {}
func (l *lyingToken) Detach()              {}

func (l *lyingToken) Control(setup usbtransport.Setup, data []byte) (int, bool) {
	if len(l.tape) == 0 {
		const atWork = 40
		if l.idle++; l.idle > atWork {
			return 0, false
		}
		busy := []byte{byte(ccid.ICCDPolling), 0, 0}
		if setup.Request == ccid.ICCDGetStatus {
			busy = []byte{byte(ccid.ICCDBusy)}
		}
		return l.give(setup, data, busy)
	}
	n := int(l.tape[0])
	l.tape = l.tape[1:]
	if n == 0xFF {
		return 0, false
	}
	n = min(n, len(l.tape))
	answer := l.tape[:n]
	l.tape = l.tape[n:]
	return l.give(setup, data, answer)
}

func (l *lyingToken) give(setup usbtransport.Setup, data, answer []byte) (int, bool) {
	if setup.RequestType&0x80 == 0 {
		return len(data), true
	}
	l.sent += len(answer)
	return copy(data, answer), true
}

// FuzzToken drives the whole stack against tokens of both versions that answer with arbitrary bytes. It must not panic, hang
// beyond its limits, or return what no token sent.
func FuzzToken(f *testing.F) {
	record := func(answers ...[]byte) []byte {
		var tape []byte
		for _, a := range answers {
			tape = append(append(tape, byte(len(a))), a...)
		}
		return tape
	}
	atrT0, atrT1 := []byte{0x3B, 0x00}, []byte{0x3B, 0x80, 0x81, 0x01, 0x00}
	stall := []byte{0xFF}
	// A: off, status, off, status, ATR, header, status, SW; header, status, data, status, SW.
	f.Add(false, record(nil, []byte{0}, nil, []byte{0x40}, []byte{0}, atrT0, nil, []byte{0x20}, []byte{0x90, 0}, nil, []byte{0x41}, []byte{0x10}, []byte{1, 2, 3}, []byte{0x20}, []byte{0x90, 0}))
	f.Add(false, record(nil, []byte{0}, nil, []byte{0}, atrT0, nil, []byte{0x10}, nil, []byte{0x10}, []byte{0x80}))
	f.Add(false, slices.Concat(record(nil, []byte{0}, nil, []byte{0}, atrT0, nil), stall))
	f.Add(false, record(nil, nil, nil, []byte{0x30}, []byte{0x80}, atrT0, nil, []byte{0x20}, []byte{0x90}))
	// B: off, status, off, on, ATR, then APDUs: whole, in parts, with polling, with a failure, with a type that is not known.
	b := func(more ...[]byte) []byte {
		return record(append([][]byte{nil, {0x40, 1, 0}, nil, nil, append([]byte{0}, atrT1...), nil}, more...)...)
	}
	f.Add(true, b([]byte{0, 0x90, 0}, nil, []byte{1, 1, 2}, nil, []byte{3, 3}, nil, []byte{2, 0x90, 0}, nil, []byte{0x40, 0x40, 0xFE}))
	f.Add(true, b([]byte{0x80, 0xFF, 0xFF}, []byte{0x80, 1, 0}, []byte{0, 0x90, 0}, nil, nil, nil, []byte{0x10}, nil, []byte{0x10}))
	f.Add(true, b([]byte{0x81}, stall, []byte{0x40}, []byte{0x80}, []byte{0}, []byte{0, 0x90}))
	f.Add(true, slices.Concat(b(), stall, stall, stall))
	f.Add(true, []byte{})
	f.Fuzz(func(t *testing.T, versionB bool, tape []byte) {
		synctest.Test(t, func(t *testing.T) { driveToken(t, versionB, tape) })
	})
}

func driveToken(t *testing.T, versionB bool, tape []byte) {
	model := tokenA
	if versionB {
		model = tokenB
	}
	shell, err := virtual.NewReader(virtual.Config{Model: model})
	require.NoError(t, err)
	bus := virtual.NewBus()
	liar := &lyingToken{Device: shell, tape: tape}
	_, err = bus.Plug(liar)
	require.NoError(t, err)
	defer func() { require.NoError(t, bus.Close()) }()
	before := time.Now()
	reader, err := host.OpenFirst(t.Context(), bus, host.Options{})
	require.Less(t, time.Since(before), 20*time.Minute, "opening")
	if err != nil {
		return
	}
	session(t, reader)
	sent := liar.sent
	if response, err := reader.Slot(0).Transmit(t.Context(), []byte{0, 0xB0, 0, 0, 0}); err == nil {
		require.LessOrEqual(t, len(response), liar.sent-sent, "bytes that no token sent")
	}
	before = time.Now()
	require.NoError(t, reader.Close())
	require.Less(t, time.Since(before), 20*time.Second, "closing")
}
