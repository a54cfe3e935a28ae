//go:build unix

package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzConfig: a file is taken whole or not at all, whatever is in it.
func FuzzConfig(f *testing.F) {
	example, err := os.ReadFile("../../packaging/goccidd.toml")
	require.NoError(f, err)
	f.Add(example)
	for _, text := range []string{
		"", "socket = \"/x\"\nauto-exit = 60\n", "[limits]\nconnections = 0x10\n", "[readers]\nusbip = [\"a:1/b\"]\nvirtual = [\"card=t1\"]\n",
		"[log]\nlevel = 'debug'\nlevel = 'info'\n", "[access]\nusers = [1]\n", "log.level = \"\\u0030\"\n", "[metrics]\nlisten = \"unix:/x\"\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		line := lineOf(data, "log.level")
		require.True(t, line >= 0 && line <= 1+bytes.Count(data, []byte("\n")), line)
		got := defaults()
		if err := decodeConfig("f.toml", data, &got); err != nil {
			require.Equal(t, defaults(), got)
			require.NotEmpty(t, err.Error())
			return
		}
		again := defaults()
		require.NoError(t, decodeConfig("f.toml", data, &again))
		require.Equal(t, got, again)
		_ = got.check()
	})
}
