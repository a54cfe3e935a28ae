package apdu_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/apdu"
)

func TestSensitiveLooksAtINSInEveryClass(t *testing.T) {
	pin := map[byte]bool{0x20: true, 0x21: true, 0x24: true, 0x25: true, 0x26: true, 0x28: true, 0x2C: true, 0x2D: true, 0xC2: true, 0xC3: true}
	for _, cla := range []byte{0x00, 0x01, 0x0C, 0x10, 0x13, 0x40, 0x5F, 0x80, 0xFF} {
		for ins := range 256 {
			assert.Equal(t, pin[byte(ins)], apdu.Sensitive([]byte{cla, byte(ins), 0, 0, 0}), "%02X %02X", cla, ins)
		}
	}
	assert.False(t, apdu.Sensitive(nil))
	assert.False(t, apdu.Sensitive([]byte{0x20}))
	assert.True(t, apdu.Sensitive([]byte{0x00, 0x20}))
}

func TestRedact(t *testing.T) {
	tests := []struct{ name, command, want string }{
		{"VERIFY", "00200080 04 31323334", "00200080 04 2A2A2A2A"},
		{"VERIFY, chained on channel 1", "11200080 04 31323334", "11200080 04 2A2A2A2A"},
		{"VERIFY with Le", "00200080 04 31323334 00", "00200080 04 2A2A2A2A 2A"},
		{"VERIFY, extended", "00200080 000004 31323334", "00200080 000004 2A2A2A2A"},
		{"VERIFY, extended with Le", "00200080 000004 31323334 0000", "00200080 000004 2A2A2A2A 2A2A"},
		{"VERIFY for the retry counter", "00200080", "00200080"},
		{"VERIFY with P3 = 00", "00200080 00", "00200080 00"},
		{"VERIFY, header of a T=0 TPDU", "00200080 08", "00200080 08"},
		{"VERIFY, wrong Lc", "00200080 06 31323334", "00200080 2A 2A2A2A2A"},
		{"VERIFY, Lc forgotten", "00200080 31323334", "00200080 2A2A2A2A"},
		{"VERIFY, PIN where an extended Le would be", "00200080 00 3132", "00200080 00 2A2A"},
		{"VERIFY, no more than three bytes", "002000", "002000"},
		{"CHANGE REFERENCE DATA", "0024008108 3132333435363738", "0024008108 2A2A2A2A2A2A2A2A"},
		{"DISABLE VERIFICATION REQUIREMENT", "0026000108 3132333435363738", "0026000108 2A2A2A2A2A2A2A2A"},
		{"ENABLE VERIFICATION REQUIREMENT", "0028000108 3132333435363738", "0028000108 2A2A2A2A2A2A2A2A"},
		{"RESET RETRY COUNTER", "002C000108 3132333435363738", "002C000108 2A2A2A2A2A2A2A2A"},
		{"ENVELOPE", "00C2000009 002000810431323334", "00C2000009 2A2A2A2A2A2A2A2A2A"},
		{"ENVELOPE with Le, chained", "10C2000006 043132333435 00", "10C2000006 2A2A2A2A2A2A 2A"},
		{"ENVELOPE, extended", "00C20000 000009 002000810431323334 0000", "00C20000 000009 2A2A2A2A2A2A2A2A2A 2A2A"},
		{"ENVELOPE of data objects", "00C300000B 5209002000810431323334", "00C300000B 2A2A2A2A2A2A2A2A2A2A2A"},
		{"SELECT", "00A4040002 1122 00", "00A4040002 1122 00"},
		{"nothing", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			command := unhex(t, tt.command)
			before := bytes.Clone(command)
			got := apdu.Redact(command)
			assert.Equal(t, string(unhex(t, tt.want)), string(got))
			assert.Equal(t, before, command, "the command itself is left alone")
			if len(got) > 0 {
				got[0] = ^got[0]
				assert.Equal(t, before, command, "the result is a copy")
			}
		})
	}
}

// checkRedact holds what must be true of each result of Redact.
func checkRedact(t reporter, command []byte) {
	got := apdu.Redact(command)
	require.Len(t, got, len(command))
	if !apdu.Sensitive(command) {
		require.True(t, bytes.Equal(command, got))
		return
	}
	n := min(len(command), apdu.HeaderLength)
	require.Equal(t, command[:n], got[:n])
	// At most the length field is shown besides the header.
	for _, v := range got[min(len(got), apdu.HeaderLength+3):] {
		require.Equal(t, byte('*'), v)
	}
}
