package apdu_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/goccid/goccid/apdu"
)

func TestGeneratesKeyPairLooksAtINSInEveryClass(t *testing.T) {
	for _, cla := range []byte{0x00, 0x03, 0x0C, 0x10, 0x1C, 0x40, 0x80} {
		for ins := range 256 {
			want := ins == 0x46 || ins == 0x47
			assert.Equal(t, want, apdu.GeneratesKeyPair([]byte{cla, byte(ins), 0x80, 0, 2, 0xB6, 0, 0}), "%02X %02X", cla, ins)
		}
	}
	assert.False(t, apdu.GeneratesKeyPair(nil))
	assert.False(t, apdu.GeneratesKeyPair([]byte{0x47}))
	assert.True(t, apdu.GeneratesKeyPair([]byte{0x00, 0x47}))
}
