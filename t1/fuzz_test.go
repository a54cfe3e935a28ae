package t1

import (
	"bytes"
	"errors"
	"testing"
)

// A block that parses is written again as it was, and means something.
func FuzzParseBlock(f *testing.F) {
	for _, seed := range []struct {
		edc byte
		raw string
	}{
		{0, "00 C1 01 FE 3E"},
		{0, "00 40 02 6D 00 2F"},
		{0, "00 92 00 92"},
		{0, "21 C3 01 1E FD"},
		{0, "21 E0 00 C1"},
		{0, "00 00 28 90 00 B8"},
		{0, "00"},
		{1, "00 00 00 00 00"},
		{2, "00 60 07 00 02 8A 01 AA 90 00 A6 33"},
	} {
		f.Add(seed.edc, unhex(f, seed.raw))
	}
	f.Fuzz(func(t *testing.T, code byte, raw []byte) {
		edc := EDC(code % 3)
		b, err := ParseBlock(raw, edc)
		if err != nil {
			if b.INF != nil || b.PCB != 0 || b.NAD != 0 {
				t.Fatalf("%v with a block", err)
			}

			return
		}
		if b.PCB.Kind() == Reserved || b.String() == "" || len(b.INF) > maxINF {
			t.Fatalf("%s", b)
		}
		again, err := AppendBlock(nil, b, edc)
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("% X, %v", again, err)
		}
	})
}

// An arbitrary card: the script is read as events, each a block (right or wrong
// in all its parts), silence or a parity error. Whatever it does, the engine sends
// well-formed blocks and ends with an answer made of what the card sent, or with a
// typed error. A raw event (FD) may hold a valid I-block too, which then counts as
// offered.
func FuzzEngine(f *testing.F) {
	f.Add(byte(0), byte(1), []byte{1, 2, 3}, []byte{0x90, 0, 0x80, 0, 0x00, 1, 0xAA})
	f.Add(byte(1), byte(32), []byte{1}, []byte{0xC3, 1, 9, 0x00, 2, 0x90, 0x00})
	f.Add(byte(2), byte(254), []byte{1}, []byte{0x20, 1, 7, 0x40, 1, 8})
	f.Add(byte(8), byte(2), []byte{1, 2, 3, 4, 5}, []byte{0xC1, 1, 1, 0xFF, 0xFE, 0x90, 0, 0xC2, 0, 0xFE, 0xE0, 0})
	f.Add(byte(16), byte(2), []byte{1}, []byte{0xFD, 5, 0, 0, 0x28, 0x90, 0, 0x00, 1, 1})
	f.Add(byte(36), byte(1), []byte{1, 2}, []byte{0x90, 0, 0xE2, 0, 0xE0, 0, 0x00, 0})
	f.Fuzz(func(t *testing.T, mode, ifsc byte, command, script []byte) {
		edc := EDC(mode & 3 % 3)
		e, err := New(Config{EDC: edc, IFSC: int(ifsc)})
		if err != nil {
			if ifsc != 255 {
				t.Fatal(err)
			}

			return
		}
		var step Step
		switch mode >> 3 & 3 {
		case 1:
			step, err = e.NegotiateIFSD(int(mode>>3) | 1)
		case 2:
			if _, fault := e.Delegate(len(command) % (e.IFSC() + 1)); fault != nil {
				t.Fatal(fault)
			}
		default:
			step, err = e.Transmit(command)
		}
		if mode&0x20 != 0 {
			e.Abort()
		}
		mute := 0
		var offered []byte // the information fields of all I-blocks of the card
		for {
			if err != nil {
				checkFailure(t, err)

				return
			}
			if step.Done {
				if !subsequence(step.Response, offered) {
					t.Fatalf("answer % X of % X", step.Response, offered)
				}

				return
			}
			if step.Send != nil {
				checkSend(t, step, edc)
			}
			if len(script) < 2 { // a mute card: the budget ends the exchange
				script = nil
				if mute++; mute > maxRepeats+maxResynch+1 {
					t.Fatal("the exchange outlives its budget")
				}
				step, err = e.NoAnswer()

				continue
			}
			kind, size := script[0], int(script[1])
			inf := script[2:min(2+size, len(script))]
			script = script[2+len(inf):]
			switch kind {
			case 0xFF:
				step, err = e.NoAnswer()
			case 0xFE:
				step, err = e.BadParity()
			case 0xFD:
				offered = append(offered, inf...)
				step, err = e.Receive(inf) // bytes as they are
			default:
				if kind < 0x80 {
					offered = append(offered, inf...)
				}
				step, err = e.Receive(encode(wire{true, PCB(kind), string(inf)}, 0, edc))
			}
		}
	})
}

func checkFailure(t *testing.T, err error) {
	t.Helper()
	var failure *Error
	if !errors.As(err, &failure) || failure.Cause == nil || err.Error() == "" {
		t.Fatalf("%v", err)
	}
}

func checkSend(t *testing.T, step Step, edc EDC) {
	t.Helper()
	_, err := ParseBlock(step.Send, edc)
	if err != nil || step.WTX < 1 || step.WTX > 255 {
		t.Fatalf("% X: %v", step.Send, err)
	}
}

// subsequence reports whether b is what remains of all when bytes are left out.
func subsequence(b, all []byte) bool {
	for _, c := range b {
		i := bytes.IndexByte(all, c)
		if i < 0 {
			return false
		}
		all = all[i+1:]
	}

	return true
}
