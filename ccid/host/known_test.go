package host_test

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
)

// TestNoKnownReaderNeedsAnotherAlternateSetting holds the known readers against two things that the driver takes for granted: CCID
// functions stand in alternate setting 0, and next to no reader needs SetDataRateAndClockFrequency.
func TestNoKnownReaderNeedsAnotherAlternateSetting(t *testing.T) {
	f, err := os.Open("../../virtual/readers.jsonl")
	require.NoError(t, err)
	defer f.Close()
	readers, setByHand := 0, 0
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r struct {
			Name              string
			BAlternateSetting *uint8
			Descriptor        string
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &r))
		require.NotNil(t, r.BAlternateSetting, r.Name)
		require.Zero(t, *r.BAlternateSetting, r.Name)
		raw, err := hex.DecodeString(r.Descriptor)
		require.NoError(t, err)
		class, err := ccid.ParseClassDescriptor(raw)
		require.NoError(t, err, r.Name)
		if class.DwFeatures&(ccid.FeatureAutoBaudRate|ccid.FeatureAutoParameters|ccid.FeatureAutoPPS) == 0 {
			setByHand++
		}
		readers++
	}
	require.NoError(t, lines.Err())
	require.Equal(t, 615, readers)
	require.Equal(t, 5, setByHand)
}
