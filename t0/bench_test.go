package t0

import "testing"

// benchmarkEngine runs one APDU with its answers over and over.
func benchmarkEngine(b *testing.B, c Config, apdu string, answers ...string) {
	e := newEngine(b, c)
	command := unhex(b, apdu)
	responses := make([][]byte, len(answers))
	for i, a := range answers {
		responses[i] = unhex(b, a)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, err := e.Transmit(command)
		for _, r := range responses {
			if err == nil {
				s, err = e.Receive(r)
			}
		}
		if err != nil || !s.Done {
			b.Fatal("no response", err)
		}
	}
}

func BenchmarkTransparentCase2(b *testing.B) {
	benchmarkEngine(b, Config{}, "00 B0 00 00 00", fill(256)+"90 00")
}

func BenchmarkMapCase2(b *testing.B) {
	benchmarkEngine(b, Config{Mapping: MapAPDU}, "00 B0 00 00 00", fill(256)+"90 00")
}

func BenchmarkMapCase4(b *testing.B) {
	benchmarkEngine(b, Config{Mapping: MapAPDU}, selectPSE+"00", "61 26", pseFCI+"90 00")
}

func BenchmarkMapEnvelope(b *testing.B) {
	benchmarkEngine(b, Config{Mapping: MapAPDU}, "00 D6 00 00 00 01 2C"+fill(300), "90 00", "90 00")
}

func BenchmarkMap65536Bytes(b *testing.B) {
	answers := make([]string, 256)
	for i := range answers {
		answers[i] = fill(256) + "61 00"
	}
	answers[255] = fill(256) + "90 00"
	b.SetBytes(65536)
	benchmarkEngine(b, Config{Mapping: MapAPDU}, "00 B0 00 00 00 00 00", answers...)
}

func BenchmarkCharacterCase2(b *testing.B) {
	c, tpdu, data := NewCharacter(), unhex(b, "00 B0 00 00 00"), unhex(b, fill(256))
	reads := [][]byte{{0xB0}, data, {0x90}, {0x00}}
	b.ReportAllocs()
	for b.Loop() {
		s, err := c.Transmit(tpdu)
		for _, r := range reads {
			if err == nil {
				s, err = c.Receive(r)
			}
		}
		if err != nil || !s.Done {
			b.Fatal("no response", err)
		}
	}
}

// In the steady state nothing is allocated, whatever the APDU.
func TestNothingIsAllocated(t *testing.T) {
	e, c := newEngine(t, Config{Mapping: MapAPDU}), NewCharacter()
	command := unhex(t, selectPSE+"00")
	first, second := unhex(t, "61 26"), unhex(t, pseFCI+"90 00")
	verify, ack, sw1, sw2 := unhex(t, "00 20 00 80 04 31 32 33 34"), []byte{0x20}, []byte{0x90}, []byte{0x00}
	allocs := testing.AllocsPerRun(100, func() {
		_, _ = e.Transmit(command)
		_, _ = e.Receive(first)
		_, _ = e.Receive(second)
		_, _ = c.Transmit(verify)
		_, _ = c.Receive(ack)
		_, _ = c.Receive(sw1)
		_, _ = c.Receive(sw2)
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
