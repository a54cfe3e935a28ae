package apdu_test

import (
	"testing"

	"github.com/goccid/goccid/apdu"
)

func BenchmarkParseCommand(b *testing.B) {
	command := unhex(b, "00A404000E315041592E5359532E444446303100")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := apdu.ParseCommand(command); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendBinary(b *testing.B) {
	c := apdu.Command{INS: 0xD6, Data: make([]byte, apdu.MaxData), Ne: apdu.MaxNe, Extended: true}
	buf := make([]byte, 0, apdu.MaxCommandLength)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.AppendBinary(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	response := make([]byte, apdu.MaxResponseLength)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := apdu.ParseResponse(response); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRedact(b *testing.B) {
	command := unhex(b, "002000800831323334FFFFFFFF")
	b.ReportAllocs()
	for b.Loop() {
		apdu.Redact(command)
	}
}
