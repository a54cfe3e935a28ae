//go:build linux

package cross

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
)

func TestDifferences(t *testing.T) {
	on := exchange{command: ccid.IccPowerOn(0, 0), answers: []ccid.Response{{Type: ccid.TypeDataBlock, Data: []byte{0x3B}}}}
	onAt5V := exchange{command: ccid.IccPowerOn(0, ccid.Power5V), answers: on.answers}
	off := exchange{command: ccid.IccPowerOff(0)}
	transfer := func(data, answer byte) exchange {
		return exchange{command: ccid.XfrBlock(0, 0, 0, []byte{data}), answers: []ccid.Response{{Type: ccid.TypeDataBlock, Data: []byte{answer}}}}
	}
	assert.Empty(t, differences([]exchange{on, transfer(1, 2), off}, []exchange{on, transfer(1, 2), off}))
	assert.Equal(t, []string{
		"PC_to_RDR_IccPowerOn byte 7: libccid 0, goccid 1",
		"PC_to_RDR_XfrBlock answer's abData: libccid 02, goccid 03",
		"only goccid: PC_to_RDR_XfrBlock 07",
		"only libccid: GET_DATA_RATES",
		"only libccid: PC_to_RDR_IccPowerOff",
	}, differences(
		[]exchange{{control: "GET_DATA_RATES"}, on, transfer(1, 2), off},
		[]exchange{onAt5V, transfer(7, 7), transfer(1, 3)},
	))
}

func TestSessionsAreSimplified(t *testing.T) {
	transfer := func(data, answer []byte) exchange {
		return exchange{command: ccid.XfrBlock(0, 0, 1, data), answers: []ccid.Response{{Data: answer}}}
	}
	t.Run("power that is not used", func(t *testing.T) {
		on, off := exchange{command: ccid.IccPowerOn(0, 0)}, exchange{command: ccid.IccPowerOff(0)}
		assert.Len(t, withoutIdlePower([]exchange{off, on, off, on, transfer(nil, nil), off}), 4)
	})
	t.Run("characters", func(t *testing.T) {
		joined := joinCharacters([]exchange{transfer([]byte{1}, []byte{2}), transfer(nil, []byte{3}), transfer(nil, []byte{4}), transfer([]byte{5}, nil)})
		require.Len(t, joined, 2)
		assert.Equal(t, []byte{2, 3, 4}, joined[0].answers[0].Data)
	})
	t.Run("blocks", func(t *testing.T) {
		joined := joinBlocks([]exchange{
			transfer([]byte{0, 0xC1, 1, 0xFE, 0x3E}, []byte{0, 0xE1, 1, 0xFE, 0x1E}),
			transfer([]byte{0, 0x20, 1, 7, 0x26}, []byte{0, 0x90, 0, 0x90}),
			transfer([]byte{0, 0x40, 1, 8, 0x49}, []byte{0, 0x20, 1, 9, 0x28}),
			transfer([]byte{0, 0x90, 0, 0x90}, []byte{0, 0x40, 1, 10, 0x4B}),
		})
		require.Len(t, joined, 2)
		assert.Equal(t, []byte{7, 8}, joined[1].command.Data)
		assert.Equal(t, []byte{9, 10}, joined[1].answers[0].Data)
	})
}

func TestDifferencesTableIsWellFormed(t *testing.T) {
	table, err := parseWanted(differencesTable)
	require.NoError(t, err)
	assert.NotEmpty(t, table)
	_, err = parseWanted("a | b\n")
	assert.Error(t, err)
}
