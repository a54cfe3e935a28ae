//go:build !libusb

package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestWithoutLibusbItIsSaidHowToGetIt(t *testing.T) {
	got := probe(t, "list", "--usb", "libusb")
	assert.Equal(t, exitUsage, got.code)
	assert.Contains(t, got.stderr, "built without libusb")
	assert.Contains(t, got.stderr, "-tags libusb")
}
