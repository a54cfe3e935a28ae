package apdu_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/apdu"
)

func TestSplit(t *testing.T) {
	c := apdu.Command{INS: 0xDB, P1: 0x3F, P2: 0xFF, Data: []byte{1, 2, 3, 4, 5}, Ne: 256}
	part := func(cla byte, ne int, data ...byte) apdu.Command {
		p := c
		p.CLA, p.Data, p.Ne = cla, data, ne
		return p
	}
	tests := []struct {
		name string
		max  int
		want []apdu.Command
	}{
		{"fits", 5, []apdu.Command{c}},
		{"two parts", 4, []apdu.Command{part(0x10, 0, 1, 2, 3, 4), part(0, 256, 5)}},
		{"the last part is full", 1, []apdu.Command{part(0x10, 0, 1), part(0x10, 0, 2), part(0x10, 0, 3), part(0x10, 0, 4), part(0, 256, 5)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := apdu.Split(c, tt.max)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestSplitMakesShortCommandsOfALongOne(t *testing.T) {
	chain, err := apdu.Split(apdu.Command{INS: 0xDB, Data: make([]byte, 600)}, 255)
	require.NoError(t, err)
	require.Len(t, chain, 3)
	for _, c := range chain {
		_, err := c.Bytes()
		require.NoError(t, err)
	}
}

func TestSplitRefuses(t *testing.T) {
	tests := []struct {
		name string
		c    apdu.Command
		max  int
		want error
	}{
		{"no room for data", apdu.Command{}, 0, apdu.ErrRange},
		{"256 bytes in a short command", apdu.Command{}, 256, apdu.ErrRange},
		{"65,536 bytes in an extended command", apdu.Command{Extended: true}, 65536, apdu.ErrRange},
		{"an Ne that no short command has", apdu.Command{Ne: 257}, 255, apdu.ErrRange},
		{"a negative Ne", apdu.Command{Ne: -1}, 255, apdu.ErrRange},
		{"part of a chain", apdu.Command{CLA: 0x10}, 255, apdu.ErrChain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := apdu.Split(tt.c, tt.max)
			assert.ErrorIs(t, err, tt.want)
		})
	}
}

func TestJoinRefuses(t *testing.T) {
	first := apdu.Command{CLA: 0x10, INS: 0xDB, P1: 1, P2: 2, Data: []byte{1}}
	last := apdu.Command{CLA: 0x00, INS: 0xDB, P1: 1, P2: 2, Data: []byte{2}}
	with := func(change func(*apdu.Command)) apdu.Command {
		c := last
		change(&c)
		return c
	}
	long := apdu.Command{CLA: 0x10, INS: 0xDB, P1: 1, P2: 2, Data: make([]byte, 65535), Extended: true}
	tests := []struct {
		name  string
		chain []apdu.Command
		want  error
	}{
		{"nothing", nil, apdu.ErrChain},
		{"the last command missing", []apdu.Command{first, first}, apdu.ErrChain},
		{"a command after the last", []apdu.Command{first, last, last}, apdu.ErrChain},
		{"another channel", []apdu.Command{first, with(func(c *apdu.Command) { c.CLA = 1 })}, apdu.ErrChain},
		{"another INS", []apdu.Command{first, with(func(c *apdu.Command) { c.INS = 0xDA })}, apdu.ErrChain},
		{"another P1", []apdu.Command{first, with(func(c *apdu.Command) { c.P1 = 0 })}, apdu.ErrChain},
		{"another P2", []apdu.Command{first, with(func(c *apdu.Command) { c.P2 = 0 })}, apdu.ErrChain},
		{"too much data", []apdu.Command{long, last}, apdu.ErrRange},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := apdu.Join(tt.chain)
			require.ErrorIs(t, err, tt.want)
			assert.Equal(t, apdu.Command{}, got)
		})
	}
}

func TestJoinerStartsAnewAfterABrokenChain(t *testing.T) {
	var j apdu.Joiner
	_, done, err := j.Add(apdu.Command{CLA: 0x10, INS: 0xDB, Data: []byte{1}})
	require.NoError(t, err)
	require.False(t, done)
	_, _, err = j.Add(apdu.Command{INS: 0xA4})
	require.ErrorIs(t, err, apdu.ErrChain)

	whole, done, err := j.Add(apdu.Command{INS: 0xDB, Data: []byte{9}})
	require.NoError(t, err)
	assert.True(t, done)
	assert.Equal(t, apdu.Command{INS: 0xDB, Data: []byte{9}}, whole, "nothing of the broken chain is left")
}

func TestJoinedCommandIsExtendedWhenItMustBe(t *testing.T) {
	chain, err := apdu.Split(apdu.Command{INS: 0xDB, Data: make([]byte, 300), Ne: 5}, 200)
	require.NoError(t, err)
	whole, err := apdu.Join(chain)
	require.NoError(t, err)
	assert.True(t, whole.Extended)
	assert.Equal(t, 5, whole.Ne)
}

func TestJoinedCommandIsExtendedWhenOnePartWas(t *testing.T) {
	whole, err := apdu.Join([]apdu.Command{{CLA: 0x10, INS: 0xDB, Data: []byte{1}}, {INS: 0xDB, Data: []byte{2}, Ne: 5, Extended: true}})
	require.NoError(t, err)
	assert.Equal(t, apdu.Command{INS: 0xDB, Data: []byte{1, 2}, Ne: 5, Extended: true}, whole)
}

func TestJoinerTakesOneChainAfterTheOther(t *testing.T) {
	var j apdu.Joiner
	for _, data := range [][]byte{{1, 2}, {3, 4}} {
		_, done, err := j.Add(apdu.Command{CLA: 0x10, INS: 0xDB, Data: data[:1]})
		require.NoError(t, err)
		require.False(t, done)
		whole, done, err := j.Add(apdu.Command{INS: 0xDB, Data: data[1:]})
		require.NoError(t, err)
		require.True(t, done)
		assert.Equal(t, data, whole.Data)
	}
	_, done, err := j.Add(apdu.Command{INS: 0xA4})
	require.NoError(t, err)
	assert.True(t, done, "a command that stands alone")
}

func TestPropertyJoinUndoesSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCommand(t)
		c.CLA &^= 0x10
		limit := apdu.MaxShortData
		if c.Extended {
			limit = apdu.MaxData
		}
		chain, err := apdu.Split(c, rapid.IntRange(min(limit, 1+len(c.Data)/50), limit).Draw(t, "most"))
		require.NoError(t, err)
		for i, part := range chain {
			require.Equal(t, i < len(chain)-1, part.Chained())
			require.True(t, i == len(chain)-1 || part.Ne == 0)
			_, err := part.Bytes()
			require.NoError(t, err)
		}
		whole, err := apdu.Join(chain)
		require.NoError(t, err)
		require.True(t, bytes.Equal(c.Data, whole.Data))
		whole.Data, c.Data = nil, nil
		require.Equal(t, c, whole)
	})
}
