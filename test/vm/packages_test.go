package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParsePackages(t *testing.T) {
	w, err := parsePackages("# comment\n\ninstall a\ninstall b\nunpack c\ndepends d\n")
	require.NoError(t, err)
	assert.Equal(t, wanted{install: []string{"a", "b"}, unpack: []string{"c"}, depends: []string{"d"}}, w)

	for _, list := range []string{"install\n", "install a b\n", "remove a\n"} {
		_, err := parsePackages(list)
		assert.Error(t, err, list)
	}
}

func TestPackageListIsWellFormed(t *testing.T) {
	w, err := parsePackages(packageList)
	require.NoError(t, err)
	assert.Equal(t, []string{"linux-image-amd64"}, w.depends)
	assert.Contains(t, w.install, "qemu-system-x86")
}
