package capture_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// TestSecretsOfARecordingCanBeHiddenLater compares with what a Recorder hides while it writes: the two sessions are alike.
func TestSecretsOfARecordingCanBeHiddenLater(t *testing.T) {
	forEachReader(t, func(t *testing.T, level ccid.ExchangeLevel, protocol uint8) {
		withSecrets, _ := record(t, level, protocol, commands(), capture.Options{IncludeSecrets: true})
		hidden, _ := record(t, level, protocol, commands(), capture.Options{})
		c, want := read(t, withSecrets), read(t, hidden)
		found := false
		for _, transfer := range c.Transfers {
			found = found || bytes.Contains(transfer.Data, []byte(pin[:1]))
		}
		require.True(t, found, "the PIN was recorded")
		c.HideSecrets()
		assert.Equal(t, outData(want), outData(c))
		assert.NotContains(t, fmt.Sprint(comments(c)), fmt.Sprintf("% X", pin))
	})
}

func outData(c *capture.Capture) []string {
	var list []string
	for _, transfer := range c.Transfers {
		if transfer.Type == usbtransport.TransferBulk && !transfer.In() {
			list = append(list, hex.EncodeToString(transfer.Data))
		}
	}
	return list
}

func TestWhatIsHiddenStaysAsItIs(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(traces, "virtual-*.pcapng"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		c, want := readTrace(t, file), readTrace(t, file)
		c.HideSecrets()
		assert.Equal(t, want, c, file)
	}
}

func TestSecretsInCommentsAreHidden(t *testing.T) {
	var out file
	bus, _ := plug(t, ccid.LevelTPDU, 1)
	recorder, err := capture.NewRecorder(bus, &out, capture.Options{IncludeSecrets: true})
	require.NoError(t, err)
	reader, err := host.OpenFirst(t.Context(), recorder, host.Options{})
	require.NoError(t, err)
	recorder.CommentAPDU(reader.Function().Device, 0, append([]byte{0x00, 0x20, 0x00, 0x01, byte(len(pin))}, pin...))
	_, err = reader.Slot(0).Status(t.Context())
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	c := read(t, out.bytes())
	require.Contains(t, fmt.Sprint(comments(c)), fmt.Sprintf("% X", pin))
	c.HideSecrets()
	assert.NotContains(t, fmt.Sprint(comments(c)), fmt.Sprintf("% X", pin))
	assert.Contains(t, fmt.Sprint(comments(c)), fmt.Sprintf("slot 0: APDU 00 20 00 01 %02X 2A 2A", len(pin)))
}

// TestSecretsOfTokensAreHidden gives ICCD tokens a PIN in each of the ways that their class requests have.
func TestSecretsOfTokensAreHidden(t *testing.T) {
	xfr := func(level uint16, data string) capture.Transfer {
		return capture.Transfer{
			Address: 1, HasSetup: true, Setup: usbtransport.Setup{RequestType: 0x21, Request: 0x65, Value: level << 8}, Data: []byte(data),
		}
	}
	answer := func(data string) capture.Transfer {
		return capture.Transfer{
			Address: 1, Endpoint: 0x80, HasSetup: true, Setup: usbtransport.Setup{RequestType: 0xA1, Request: 0x6F}, Data: []byte(data),
		}
	}
	tests := map[string]struct {
		transfers []capture.Transfer
		want      []string
	}{
		"APDU":              {[]capture.Transfer{xfr(0, "\x00\x20\x00\x01\x041234")}, []string{"\x00\x20\x00\x01\x04****"}},
		"header, then data": {[]capture.Transfer{xfr(0, "\x00\x20\x00\x01\x04"), xfr(0, "1234")}, []string{"\x00\x20\x00\x01\x04", "****"}},
		"header refused": {
			[]capture.Transfer{xfr(0, "\x00\x20\x00\x01\x04"), answer("\x6D\x00"), xfr(0, "\x00\xA4\x00\x0C")},
			[]string{"\x00\x20\x00\x01\x04", "\x6D\x00", "\x00\xA4\x00\x0C"},
		},
		"chained": {
			[]capture.Transfer{xfr(1, "\x00\x20\x00\x01\x0412"), xfr(3, "3"), xfr(2, "4")},
			[]string{"\x00\x20\x00\x01***", "*", "*"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := &capture.Capture{Transfers: tt.transfers}
			for i := range c.Transfers {
				c.Transfers[i].Submitted, c.Transfers[i].Completed = 2*i+1, 2*i+2
			}
			c.HideSecrets()
			var got []string
			for _, transfer := range c.Transfers {
				got = append(got, string(transfer.Data))
			}
			assert.Equal(t, tt.want, got)
		})
	}
}
