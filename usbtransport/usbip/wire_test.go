package usbip

import (
	"bytes"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	require.NoError(t, err)
	return b
}

// The first two are the kernel documentation's examples, but for fields that this package does not keep.
func TestHeadersHaveTheBytesOfTheProtocol(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes string
		want  command
	}{
		{
			"interrupt IN", "00000001 00000d05 0001000f 00000001 00000001 00000200 00000040 00000000 00000000 00000004 0000000000000000",
			command{kind: commandSubmit, sequence: 0xD05, device: 0x1000F, in: true, endpoint: 1, flags: flagIn, length: 64, interval: 4},
		},
		{
			"bulk OUT", "00000001 00000d06 0001000f 00000000 00000001 00000040 00000040 00000000 00000000 00000000 0000000000000000",
			command{kind: commandSubmit, sequence: 0xD06, device: 0x1000F, endpoint: 1, flags: flagZeroPacket, length: 64},
		},
		{
			"control IN", "00000001 00000001 00010002 00000001 00000000 00000200 00000012 00000000 00000000 00000000 8006000100001200",
			command{
				kind: commandSubmit, sequence: 1, device: 0x10002, in: true, flags: flagIn, length: 18,
				setup: [8]byte{0x80, 6, 0, 1, 0, 0, 18, 0},
			},
		},
		{
			"unlink", "00000002 00000007 00010002 00000000 00000000 00000005" + strings.Repeat(" 00000000", 6),
			command{kind: commandUnlink, sequence: 7, device: 0x10002, target: 5},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, c.bytes)
			assert.Equal(t, b, c.want.append(nil))
			got, err := parseCommand(b)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
	for _, c := range []struct {
		name  string
		bytes string
		want  reply
	}{
		{
			"result", "00000003 00000d05 00000000 00000000 00000000 00000000 00000040 00000000 00000000 00000000 0000000000000000",
			reply{kind: replySubmit, sequence: 0xD05, length: 64},
		},
		{
			"stall", "00000003 00000d05 00000000 00000000 00000000 ffffffe0 00000000 00000000 00000000 00000000 0000000000000000",
			reply{kind: replySubmit, sequence: 0xD05, status: statusStalled},
		},
		{
			"unlinked", "00000004 00000007 00000000 00000000 00000000 ffffff98" + strings.Repeat(" 00000000", 6),
			reply{kind: replyUnlink, sequence: 7, status: statusTakenBack},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, c.bytes)
			assert.Equal(t, b, c.want.append(nil))
			got, err := parseReply(b)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
}

func TestHeadersThatBreakARuleAreRefused(t *testing.T) {
	submit := command{kind: commandSubmit, sequence: 1, endpoint: 1, in: true, length: 64}.append(nil)
	with := func(base []byte, offset int, word uint32) []byte {
		b := bytes.Clone(base)
		copy(b[offset:], []byte{byte(word >> 24), byte(word >> 16), byte(word >> 8), byte(word)})
		return b
	}
	for name, b := range map[string][]byte{
		"empty":               nil,
		"short":               submit[:47],
		"long":                append(bytes.Clone(submit), 0),
		"a reply":             with(submit, 0, replySubmit),
		"no command":          with(submit, 0, 0),
		"direction":           with(submit, 12, 2),
		"endpoint":            with(submit, 16, 16),
		"length":              with(submit, 24, usbtransport.MaxTransfer+1),
		"negative length":     with(submit, 24, 0xFFFFFFFF),
		"isochronous packets": with(submit, 32, 1),
	} {
		_, err := parseCommand(b)
		var broken *ProtocolError
		assert.ErrorAs(t, err, &broken, name)
	}
	_, err := parseCommand(with(submit, 32, notIsochronous))
	assert.NoError(t, err, "number_of_packets of a transfer that is not isochronous")

	result := reply{kind: replySubmit, sequence: 1}.append(nil)
	for name, b := range map[string][]byte{
		"empty":           nil,
		"short":           result[:47],
		"long":            append(bytes.Clone(result), 0),
		"a command":       with(result, 0, commandUnlink),
		"length":          with(result, 24, usbtransport.MaxTransfer+1),
		"negative length": with(result, 24, 0x80000000),
	} {
		_, err := parseReply(b)
		var broken *ProtocolError
		assert.ErrorAs(t, err, &broken, name)
	}
}

func sampleList() []listed {
	return []listed{
		{
			deviceRecord: deviceRecord{
				path: "/sys/devices/pci0000:00/usb1/1-1", busID: "1-1", bus: 1, address: 2, speed: speedFull, vendor: 0x08E6, product: 0x4433,
				bcdDevice: 0x0100, class: 1, subClass: 2, protocol: 3, configuration: 1, configurations: 1, interfaces: 2,
			},
			classes: [][3]uint8{{0x0B, 0, 0}, {0xFF, 1, 2}},
		},
		{deviceRecord: deviceRecord{path: "/sys/devices/x", busID: "3-1.2", bus: 3, address: 4, speed: speedHigh}},
	}
}

func TestListsHaveTheBytesOfTheProtocol(t *testing.T) {
	b := appendDevlist(nil, sampleList())
	require.Len(t, b, 12+2*312+2*4)
	assert.Equal(t, unhex(t, "0111 0005 00000000 00000002"), b[:12])
	assert.Equal(t, "/sys/devices/pci0000:00/usb1/1-1\x00", string(b[12:12+33]))
	assert.Equal(t, "1-1\x00", string(b[12+256:12+260]))
	assert.Equal(t, unhex(t, "00000001 00000002 00000002 08e6 4433 0100 01 02 03 01 01 02"), b[12+288:12+312])
	assert.Equal(t, unhex(t, "0b000000 ff010200"), b[12+312:12+320])
	list, err := readDevlist(bytes.NewReader(b))
	require.NoError(t, err)
	assert.Equal(t, sampleList(), list)

	request := appendImportRequest(nil, "3-1.2")
	assert.Equal(t, append(unhex(t, "0111 8003 00000000"), append([]byte("3-1.2"), make([]byte, 27)...)...), request)
	busID, err := readImportRequest(bytes.NewReader(request[8:]))
	require.NoError(t, err)
	assert.Equal(t, "3-1.2", busID)

	answer := sampleList()[0].append(opHeader{code: opReplyImport}.append(nil))
	record, err := readImportReply(bytes.NewReader(answer))
	require.NoError(t, err)
	assert.Equal(t, sampleList()[0].deviceRecord, record)
}

func TestListsThatBreakARuleAreRefused(t *testing.T) {
	good := appendDevlist(nil, sampleList())
	change := func(offset int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[offset:], b)
		return c
	}
	for name, b := range map[string][]byte{
		"version":             change(0, 0x01, 0x00),
		"code":                change(2, 0x00, 0x03),
		"status":              change(4, 0, 0, 0, 1),
		"4,294,967,295":       change(8, 0xFF, 0xFF, 0xFF, 0xFF),
		"257":                 change(8, 0, 0, 1, 1),
		"endless path":        change(12, bytes.Repeat([]byte{'x'}, 256)...),
		"path with a newline": change(12, '\n'),
		"no busid":            change(12+256, 0),
		"endless busid":       change(12+256, bytes.Repeat([]byte{'1'}, 32)...),
		"busid with escape":   change(12+256, 0x1B),
	} {
		_, err := readDevlist(bytes.NewReader(b))
		var broken *ProtocolError
		assert.ErrorAs(t, err, &broken, name)
	}
	for length := range good {
		_, err := readDevlist(bytes.NewReader(good[:length]))
		require.Error(t, err, "cut off after %d bytes", length)
	}
	_, err := readImportRequest(bytes.NewReader(bytes.Repeat([]byte{'1'}, 32)))
	assert.Error(t, err)
	_, err = readImportRequest(bytes.NewReader([]byte("1-1")))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = readImportReply(bytes.NewReader(opHeader{code: opReplyDevlist}.append(nil)))
	assert.Error(t, err)
	_, err = readImportReply(bytes.NewReader(nil))
	assert.ErrorIs(t, err, io.EOF)
	for status := uint32(1); status < 8; status++ {
		_, err = readImportReply(bytes.NewReader(opHeader{code: opReplyImport, status: status}.append(nil)))
		assert.Equal(t, refusal(status), err)
		assert.NotEmpty(t, err.Error())
	}
}

func TestTargetsAreHostPortAndBusID(t *testing.T) {
	for _, c := range []struct{ target, address, busID string }{
		{"reader.example:3241/1-1.2", "reader.example:3241", "1-1.2"},
		{"reader.example", "reader.example:3240", ""},
		{"192.0.2.1/1-1", "192.0.2.1:3240", "1-1"},
		{"[2001:db8::1]:3240/1-1", "[2001:db8::1]:3240", "1-1"},
		{"[2001:db8::1]", "[2001:db8::1]:3240", ""},
	} {
		address, busID, err := ParseTarget(c.target)
		require.NoError(t, err, c.target)
		assert.Equal(t, c.address, address)
		assert.Equal(t, c.busID, busID)
	}
	for _, target := range []string{"", ":3240", "/1-1", "host/", "host/" + strings.Repeat("1", 32), "host:0", "host:99999", "host:-1", "host:usbip", "host:", "[]:3240"} {
		_, _, err := ParseTarget(target)
		assert.Error(t, err, target)
	}
}

func TestStatusesAreNamedAndMapped(t *testing.T) {
	assert.Equal(t, "status -32 (EPIPE)", statusStalled.Error())
	assert.Equal(t, "status -5", status(-5).Error())
	for _, c := range []struct {
		err  error
		want status
	}{
		{nil, statusSuccess},
		{usbtransport.ErrRemoved, statusGone},
		{usbtransport.ErrStalled, statusStalled},
		{usbtransport.ErrNotSupported, statusStalled},
		{usbtransport.ErrOverflow, statusOverflow},
		{usbtransport.ErrCancelled, statusTakenBack},
		{usbtransport.ErrTimedOut, statusTakenBack},
		{usbtransport.ErrClosed, statusShutdown},
		{usbtransport.ErrInvalid, statusInvalid},
		{usbtransport.ErrIO, statusProtocol},
	} {
		got := statusOf(c.err)
		assert.Equal(t, c.want, got)
		assert.Contains(t, got.Error(), "(")
	}
	for s, kind := range map[status]error{
		statusStalled: usbtransport.ErrStalled, statusOverflow: usbtransport.ErrOverflow, statusGone: usbtransport.ErrRemoved,
		statusShutdown: usbtransport.ErrRemoved, statusProtocol: usbtransport.ErrIO, -5: usbtransport.ErrIO, 7: usbtransport.ErrIO,
		statusShortPacket: usbtransport.ErrIO, statusNotFound: usbtransport.ErrIO,
	} {
		assert.Equal(t, kind, s.kind(), s)
	}
	assert.True(t, statusTakenBack.takenBack())
	assert.True(t, statusNotFound.takenBack())
	assert.False(t, statusStalled.takenBack())
}

func FuzzHeaders(f *testing.F) {
	f.Add(command{kind: commandSubmit, sequence: 1, in: true, endpoint: 2, length: 64, flags: flagIn}.append(nil))
	f.Add(command{kind: commandUnlink, sequence: 2, target: 1}.append(nil))
	f.Add(reply{kind: replySubmit, sequence: 1, length: 10}.append(nil))
	f.Add(reply{kind: replyUnlink, sequence: 2, status: statusTakenBack}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCommand(b); err == nil {
			again, err := parseCommand(c.append(nil))
			require.NoError(t, err)
			require.Equal(t, c, again)
			require.LessOrEqual(t, c.payload(), usbtransport.MaxTransfer)
		}
		if r, err := parseReply(b); err == nil {
			again, err := parseReply(r.append(nil))
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
	})
}

func FuzzOperations(f *testing.F) {
	f.Add(appendDevlist(nil, sampleList()))
	f.Add(sampleList()[0].append(opHeader{code: opReplyImport}.append(nil)))
	f.Add(opHeader{code: opReplyImport, status: statusBusy}.append(nil))
	f.Add(appendImportRequest(nil, "1-1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := readDevlist(bytes.NewReader(b)); err == nil {
			again, err := readDevlist(bytes.NewReader(appendDevlist(nil, list)))
			require.NoError(t, err)
			require.Equal(t, list, again)
		}
		if record, err := readImportReply(bytes.NewReader(b)); err == nil {
			again, err := readDeviceRecord(bytes.NewReader(record.append(nil)))
			require.NoError(t, err)
			require.Equal(t, record, again)
		}
		if busID, err := readImportRequest(bytes.NewReader(b)); err == nil {
			require.Less(t, len(busID), busIDSize)
		}
	})
}
