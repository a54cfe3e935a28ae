package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// usbLinuxMmapped is the link type of the kernel's usbmon with its 64-byte header.
const usbLinuxMmapped = 220

// TestRecordingsAreWhole checks that the recordings can be read, hold the ATR, and that nothing was cut off.
func TestRecordingsAreWhole(t *testing.T) {
	files, err := filepath.Glob("../../testdata/traces/qemu-*.pcapng")
	require.NoError(t, err)
	require.NotEmpty(t, files)

	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			reader, err := pcapgo.NewNgReader(bytes.NewReader(content), pcapgo.DefaultNgReaderOptions)
			require.NoError(t, err)
			assert.EqualValues(t, usbLinuxMmapped, reader.LinkType())

			atr := []byte{0x3B, 0x7A, 0x18, 0x00, 0x00, 0x73, 0x66, 0x74, 0x65, 0x20, 0x63, 0x64, 0x31, 0x34, 0x34}
			sawATR, packets := false, 0
			for {
				packet, info, err := reader.ReadPacketData()
				if err != nil {
					break
				}
				packets++
				require.GreaterOrEqual(t, len(packet), 64)
				assert.Equal(t, info.Length, info.CaptureLength)
				urbLength, captured := binary.LittleEndian.Uint32(packet[32:]), binary.LittleEndian.Uint32(packet[36:])
				if noData := packet[15] != 0; !noData {
					assert.Equal(t, urbLength, captured, "packet %d is cut off", packets)
				}
				sawATR = sawATR || bytes.Contains(packet[64:], atr)
			}
			assert.Greater(t, packets, 50)
			assert.True(t, sawATR, "no ATR")
		})
	}
}
