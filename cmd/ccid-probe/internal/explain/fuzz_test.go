package explain_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/cmd/ccid-probe/internal/explain"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// fuzzedReaders are traces of readers of each kind; the first byte of a fuzzer's input says whose descriptors come first.
var fuzzedReaders = []string{"virtual-character-t0", "virtual-tpdu-t1", "virtual-extended-t1", "qemu-ccid-libccid-zero-length"}

// FuzzExplain makes transfers of random bytes, to a reader whose descriptors are known, and wants each form of the transcript
// to be written.
func FuzzExplain(f *testing.F) {
	const window = 6 // transfers of a seed: short ones are faster to work with
	var introductions [][]capture.Transfer
	for i, name := range fuzzedReaders {
		c, err := capture.ReadFile(filepath.Join(traces, name+".pcapng"))
		require.NoError(f, err)
		first := 0
		for c.Transfers[first].Type == usbtransport.TransferControl {
			first++
		}
		introductions = append(introductions, c.Transfers[:first])
		for rest := c.Transfers[first:]; len(rest) > 0; rest = rest[min(window, len(rest)):] {
			f.Add(append([]byte{byte(i)}, encode(rest[:min(window, len(rest))])...))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		introduction := introductions[int(data[0])%len(introductions)]
		transfers := append(slices.Clone(introduction), decode(data[1:], introduction[0], 2*len(introduction))...)
		c := &capture.Capture{Transfers: transfers, Packets: 2 * len(transfers)}
		for _, step := range explain.Plan(c) {
			step.Exchange()
		}
		transcript := explain.Build(c, explain.Options{Name: "fuzz"})
		require.Len(t, transcript.Transfers, len(transfers)-transcript.Capture.Other)
		for _, a := range transcript.APDUs {
			require.NotEmpty(t, a.Transfers)
			require.Equal(t, a.Problem == "", a.SW != "")
		}
		require.NoError(t, transcript.WriteText(io.Discard))
		require.NoError(t, transcript.WriteHTML(io.Discard))
		var b bytes.Buffer
		require.NoError(t, transcript.WriteJSON(&b))
		require.True(t, json.Valid(b.Bytes()))
	})
}

// FuzzExplainFile takes whole files.
func FuzzExplainFile(f *testing.F) {
	for _, file := range traceFiles(f) {
		b, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := capture.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		transcript := explain.Build(c, explain.Options{Name: "fuzz"})
		require.NoError(t, transcript.WriteText(io.Discard))
		require.NoError(t, transcript.WriteHTML(io.Discard))
	})
}

// encode and decode turn transfers into bytes for the fuzzer: endpoint, type, whether it goes to another device, setup, whether
// it failed, length and data.
func encode(transfers []capture.Transfer) []byte {
	var b []byte
	for _, t := range transfers {
		b = append(b, t.Endpoint, byte(t.Type), 0, t.Setup.RequestType, t.Setup.Request)
		b = binary.LittleEndian.AppendUint16(b, t.Setup.Value)
		b = append(b, byte(t.Setup.Index), 0)
		if t.Err != nil {
			b[len(b)-1] = 1
		}
		n := min(len(t.Data), 0xFFFF)
		b = append(binary.LittleEndian.AppendUint16(b, uint16(n)), t.Data[:n]...)
	}
	return b
}

func decode(b []byte, like capture.Transfer, packet int) []capture.Transfer {
	const header, most = 11, 500
	var list []capture.Transfer
	for len(b) >= header && len(list) < most {
		t := capture.Transfer{
			Bus: like.Bus, Address: like.Address, Endpoint: b[0], Type: usbtransport.TransferType(b[1] & 3),
			Submitted: packet + 2*len(list) + 1, Completed: packet + 2*len(list) + 2,
			HasSetup: b[1]&3 == 0, Setup: usbtransport.Setup{RequestType: b[3], Request: b[4], Value: binary.LittleEndian.Uint16(b[5:]), Index: uint16(b[7])},
			Start: time.Unix(0, int64(len(list))*1000), End: time.Unix(0, int64(len(list))*1000+500),
		}
		t.Address += int(b[2] & 1)
		if b[8]&1 != 0 {
			t.Err = usbtransport.ErrStalled
		}
		n := min(int(binary.LittleEndian.Uint16(b[9:])), len(b)-header)
		t.Data = bytes.Clone(b[header : header+n])
		t.Moved = n
		b = b[header+n:]
		list = append(list, t)
	}
	return list
}
