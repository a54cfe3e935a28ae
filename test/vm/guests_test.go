package main

import (
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
