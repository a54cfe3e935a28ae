package t1

import "testing"

func TestSmoke(t *testing.T) {
	e, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Transmit([]byte{0, 0xA4, 0, 0, 0})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("% X", s.Send)
	s, err = e.Receive([]byte{0, 0, 2, 0x6D, 0, 0x6F})
	if err != nil || !s.Done {
		t.Fatal(err)
	}
	t.Logf("%X %X %X", CRC.compute([]byte{0, 0xc1, 1, 0xfe}), CRCPlain.compute([]byte{0, 0xc1, 1, 0xfe}), CRC.compute([]byte{0x0a, 0x12, 0x34, 0x56}))
}
