package host_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/goccid/goccid/ccid/host"
)

func TestParametersAreReadableInALog(t *testing.T) {
	assert.Equal(t, "T=1, Fi/Di 96, PPS done, IFSC 254, IFSD 254", host.Parameters{T: 1, FD: 0x96, PPS: true, IFSC: 254, IFSD: 254}.String())
	assert.Equal(t, "T=0, Fi/Di 11, set by the reader (no such rate)", host.Parameters{FD: 0x11, Refused: errors.New("no such rate")}.String())
}
