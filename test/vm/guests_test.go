package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPrefixerMarksEachLine(t *testing.T) {
	var mu sync.Mutex
	var out strings.Builder
	p := &prefixer{prefix: "[guest 2] ", mu: &mu, out: &out}
	for _, text := range []string{"a\n", "b\nc\n"} {
		n, err := p.Write([]byte(text))
		require.NoError(t, err)
		assert.Equal(t, len(text), n)
	}
	assert.Equal(t, "[guest 2] a\n[guest 2] b\n[guest 2] c\n", out.String())
}

func TestClearLeavesOnlyWhatSuitesNeed(t *testing.T) {
	g := guest{lab: &lab{share: t.TempDir()}}
	for _, name := range []string{"script", "a.test", "a.out", "a.status", "a.ready", "figures-goccid-usbfs.json"} {
		require.NoError(t, os.WriteFile(filepath.Join(g.share, name), nil, 0o600))
	}
	require.NoError(t, g.clear())
	left, err := filepath.Glob(filepath.Join(g.share, "*"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(g.share, "a.test"), filepath.Join(g.share, "script")}, left)
}
