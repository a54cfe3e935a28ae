package capture_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
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

// TestEnvelopesInCommentsAreHidden: the second ENVELOPE has nothing but digits, and nothing that tells.
func TestEnvelopesInCommentsAreHidden(t *testing.T) {
	for _, o := range []capture.Options{{}, {IncludeSecrets: true}} {
		c := read(t, recordEnvelopes(t, o))
		said := fmt.Sprint(comments(c))
		require.Equal(t, o.IncludeSecrets, strings.Contains(said, "slot 0: APDU 10 C2 00 00 06 00 20 00 81 00 00"))
		require.Equal(t, o.IncludeSecrets, strings.Contains(said, "slot 0: APDU 00 C2 00 00 09 08 37 33 39 31 30 32 36 34"))
		c.HideSecrets()
		said = fmt.Sprint(comments(c))
		assert.Contains(t, said, "slot 0: APDU 10 C2 00 00 06 2A 2A 2A 2A 2A 2A")
		assert.Contains(t, said, "slot 0: APDU 00 C2 00 00 09 2A 2A 2A 2A 2A 2A 2A 2A 2A")
		assert.NotContains(t, said, "37 33 39 31")
	}
}

// recordEnvelopes records a VERIFY in two ENVELOPEs.
func recordEnvelopes(t *testing.T, o capture.Options) []byte {
	t.Helper()
	first := []byte{0x10, 0xC2, 0x00, 0x00, 0x06, 0x00, 0x20, 0x00, 0x81, 0x00, 0x00}
	second := append([]byte{0x00, 0xC2, 0x00, 0x00, 0x09, 0x08}, pin...)
	recording, _ := record(t, ccid.LevelTPDU, 1, [][]byte{first, second}, o)
	return recording
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
