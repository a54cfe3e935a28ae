package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

// rawPacket is a packet of a trace, before it is decoded.
type rawPacket struct {
	time time.Time
	data []byte
}

// rawPackets reads a trace with pcapgo alone.
func rawPackets(t testing.TB, name string) []rawPacket {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.DefaultNgReaderOptions)
	require.NoError(t, err)
	var list []rawPacket
	for {
		data, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return list
		}
		require.NoError(t, err)
		list = append(list, rawPacket{info.Timestamp, data})
	}
}

// writePcap writes the older format, which pcapgo writes in little-endian order only.
func writePcap(link uint32, order binary.AppendByteOrder, packets []rawPacket) []byte {
	b := order.AppendUint32(nil, 0xA1B2C3D4)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	for _, v := range []uint32{0, 0, 1 << 18, link} {
		b = order.AppendUint32(b, v)
	}
	for _, p := range packets {
		for _, v := range []uint32{uint32(p.time.Unix()), uint32(p.time.Nanosecond() / 1000), uint32(len(p.data)), uint32(len(p.data))} {
			b = order.AppendUint32(b, v)
		}
		b = append(b, p.data...)
	}
	return b
}

func writePcapng(t testing.TB, link layers.LinkType, packets []rawPacket) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, link)
	require.NoError(t, err)
	for _, p := range packets {
		require.NoError(t, w.WritePacket(gopacket.CaptureInfo{Timestamp: p.time, CaptureLength: len(p.data), Length: len(p.data)}, p.data))
	}
	require.NoError(t, w.Flush())
	return b.Bytes()
}

// bigEndian turns the numbers of a usbmon header around.
func bigEndian(b []byte) []byte {
	b = bytes.Clone(b)
	for _, field := range [][2]int{{0, 8}, {12, 14}, {16, 24}, {24, 28}, {28, 32}, {32, 36}, {36, 40}, {48, 52}, {52, 56}, {56, 60}, {60, 64}} {
		slices.Reverse(b[field[0]:field[1]])
	}
	return b
}

// usbpcap makes a USBPcap packet of a usbmon packet.
func usbpcap(b []byte) []byte {
	le := binary.LittleEndian
	kinds := [...]byte{0: 0, 1: 1, 2: 2, 3: 3} // both number isochronous, interrupt, control, bulk
	payload, header, info := b[64:], 27, byte(0)
	if b[8] == 'C' {
		info = 1
	}
	if b[9] == 2 {
		header = 28
		if b[8] == 'S' {
			payload = append(bytes.Clone(b[40:48]), payload...)
		}
	}
	out := le.AppendUint16(nil, uint16(header))
	out = append(out, b[:8]...)
	status := map[int32]uint32{-32: 0xC0000004, -2: 0xC0010000, -104: 0xC0010000}
	out = le.AppendUint32(out, status[int32(le.Uint32(b[28:]))])
	out = le.AppendUint16(out, 9) // URB_FUNCTION_BULK_OR_INTERRUPT_TRANSFER
	out = append(out, info)
	out = append(out, b[12:14]...)
	out = le.AppendUint16(out, uint16(b[11]))
	out = append(out, b[10], kinds[b[9]])
	out = le.AppendUint32(out, uint32(len(payload)))
	if header == 28 {
		stage := byte(0)
		if b[8] == 'C' {
			stage = 3
		}
		out = append(out, stage)
	}
	return append(out, payload...)
}

// TestFormatsTellTheSame writes a recording of usbmon in the other formats and expects the same transfers.
func TestFormatsTellTheSame(t *testing.T) {
	name := filepath.Join(traces, "qemu-ccid-libccid.pcapng")
	want := readTrace(t, name).Transfers
	require.NotEmpty(t, want)
	packets := rawPackets(t, name)
	convert := func(f func([]byte) []byte) []rawPacket {
		var list []rawPacket
		for _, p := range packets {
			list = append(list, rawPacket{p.time, f(p.data)})
		}
		return list
	}
	short := func(b []byte) []byte { return append(bytes.Clone(b[:48]), b[64:]...) }
	tests := map[string]struct {
		file    []byte
		unknown bool // the length of the host's buffer is not told
	}{
		"220 in pcapng":           {writePcapng(t, 220, packets), false},
		"220 in pcap":             {writePcap(220, binary.LittleEndian, packets), false},
		"220 in pcap, big-endian": {writePcap(220, binary.BigEndian, convert(bigEndian)), false},
		"189 in pcapng":           {writePcapng(t, 189, convert(short)), false},
		"189 in pcap, big-endian": {writePcap(189, binary.BigEndian, convert(func(b []byte) []byte { return short(bigEndian(b)) })), false},
		"USBPcap in pcapng":       {writePcapng(t, 249, convert(usbpcap)), true},
		"USBPcap in pcap":         {writePcap(249, binary.LittleEndian, convert(usbpcap)), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := read(t, tt.file).Transfers
			require.Len(t, got, len(want))
			for i := range want {
				w, g := want[i], got[i]
				w.Comments, g.Comments = nil, nil
				w.Start, w.End, g.Start, g.End = w.Start.UTC(), w.End.UTC(), g.Start.UTC(), g.End.UTC()
				if tt.unknown {
					w.Requested, g.Requested = 0, 0
				}
				if len(w.Data) == 0 && len(g.Data) == 0 {
					w.Data, g.Data = nil, nil
				}
				require.Equal(t, w, g, "transfer %d", i)
			}
		})
	}
}

// TestUSBPcapStages has the packets of a control transfer as versions before 1.3 write them.
func TestUSBPcapStages(t *testing.T) {
	stage := func(stage, info byte, payload ...byte) rawPacket {
		b := append([]byte{28, 0}, 1, 2, 3, 4, 5, 6, 7, 8)
		b = append(b, 0, 0, 0, 0, 8, 0, info, 1, 0, 5, 0, 0x80, 2)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
		return rawPacket{time.Unix(1, 0), append(append(b, stage), payload...)}
	}
	c := read(t, writePcapng(t, 249, []rawPacket{
		stage(0, 0, 0x80, 6, 0, 1, 0, 0, 4, 0), stage(1, 1, 0x12, 1, 0, 2), stage(2, 1),
	}))
	require.Len(t, c.Transfers, 1)
	got := c.Transfers[0]
	require.Equal(t, usbtransport.Setup{RequestType: 0x80, Request: 6, Value: 0x100}, got.Setup)
	require.Equal(t, []byte{0x12, 1, 0, 2}, got.Data)
	require.Equal(t, 4, got.Moved)
	require.Equal(t, 1, got.Submitted)
	require.Equal(t, 3, got.Completed)
}

func TestDamagedFilesAreRefused(t *testing.T) {
	at := time.Unix(1, 0)
	header := func(kind, transfer byte) []byte {
		b := make([]byte, 64)
		b[8], b[9] = kind, transfer
		return b
	}
	good := rawPacket{at, header('S', 3)}
	tests := map[string]struct {
		file   []byte
		want   error
		packet int
	}{
		"empty":               {nil, capture.ErrFormat, 0},
		"text":                {[]byte("no capture at all"), capture.ErrFormat, 0},
		"gzip":                {[]byte{0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0}, capture.ErrFormat, 0},
		"Ethernet":            {writePcapng(t, layers.LinkTypeEthernet, []rawPacket{{at, make([]byte, 60)}}), capture.ErrLinkType, 1},
		"short usbmon header": {writePcapng(t, 220, []rawPacket{good, {at, make([]byte, 63)}}), capture.ErrFormat, 2},
		"unknown event":       {writePcapng(t, 220, []rawPacket{good, good, {at, header('X', 3)}}), capture.ErrFormat, 3},
		"unknown transfer":    {writePcapng(t, 220, []rawPacket{{at, header('S', 4)}}), capture.ErrFormat, 1},
		"short USBPcap":       {writePcapng(t, 249, []rawPacket{{at, make([]byte, 26)}}), capture.ErrFormat, 1},
		"USBPcap header that is longer than the packet": {writePcapng(t, 249, []rawPacket{{at, append([]byte{200, 0}, make([]byte, 30)...)}}), capture.ErrFormat, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := capture.Read(bytes.NewReader(tt.file))
			require.ErrorIs(t, err, tt.want)
			var at *capture.PacketError
			require.Equal(t, tt.packet > 0, errors.As(err, &at))
			if tt.packet > 0 {
				require.Equal(t, tt.packet, at.Packet)
			}
		})
	}
	name := filepath.Join(traces, "qemu-ccid-libccid.pcapng")
	whole, err := os.ReadFile(name)
	require.NoError(t, err)
	broken := errors.New("disk error")
	_, err = capture.Read(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken, "an unreadable file is not a short one")
	_, err = capture.ReadFile(filepath.Join(t.TempDir(), "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestAnEndlessFileIsRefused reads a file that never ends.
func TestAnEndlessFileIsRefused(t *testing.T) {
	submission := make([]byte, 1<<17) // of a read, whose data is not kept
	submission[8], submission[9], submission[10] = 'S', 3, 0x82
	begin := writePcapng(t, 220, nil)
	one := writePcapng(t, 220, []rawPacket{{time.Unix(1, 0), submission}})[len(begin):]
	endless := io.MultiReader(bytes.NewReader(begin), &repeat{b: one})
	_, err := capture.Read(endless)
	require.ErrorIs(t, err, capture.ErrTooLarge)
}

// repeat is the same bytes again and again.
type repeat struct {
	b  []byte
	at int
}

func (r *repeat) Read(b []byte) (int, error) {
	n := copy(b, r.b[r.at:])
	r.at = (r.at + n) % len(r.b)
	return n, nil
}

// TestEventsOutOfOrder has ends without beginnings, beginnings without ends, and numbers that are used again.
func TestEventsOutOfOrder(t *testing.T) {
	packet := func(id, kind, endpoint byte, data ...byte) rawPacket {
		b := make([]byte, 64)
		b[0], b[8], b[9], b[10], b[11], b[12] = id, kind, 3, endpoint, 5, 1
		binary.LittleEndian.PutUint32(b[32:], uint32(len(data)))
		binary.LittleEndian.PutUint32(b[36:], uint32(len(data)))
		return rawPacket{time.Unix(1, 0), append(b, data...)}
	}
	c := read(t, writePcapng(t, 220, []rawPacket{
		packet(1, 'C', 0x82, 1),
		packet(2, 'S', 0x82),
		packet(2, 'S', 0x82),
		packet(2, 'C', 0x82, 2),
		packet(3, 'S', 0x01, 3),
		packet(3, 'C', 0x82, 4),
	}))
	type seen struct {
		submitted, completed int
		data                 string
	}
	var got []seen
	for _, x := range c.Transfers {
		got = append(got, seen{x.Submitted, x.Completed, string(x.Data)})
	}
	require.Equal(t, []seen{{0, 1, "\x01"}, {2, 0, ""}, {3, 4, "\x02"}, {5, 0, "\x03"}, {0, 6, "\x04"}}, got)
}

// TestATruncatedPacketTellsWhatIsMissing has a snap length that cuts data off.
func TestATruncatedPacketTellsWhatIsMissing(t *testing.T) {
	b := make([]byte, 64+4)
	b[8], b[9], b[10], b[11] = 'S', 3, 0x01, 5
	binary.LittleEndian.PutUint32(b[32:], 100)
	binary.LittleEndian.PutUint32(b[36:], 100)
	c := read(t, writePcapng(t, 220, []rawPacket{{time.Unix(1, 0), b}}))
	require.Len(t, c.Transfers[0].Data, 4)
	require.Equal(t, 96, c.Transfers[0].Missing)
}

// FuzzRead reads files, and lets a host use what is in them.
func FuzzRead(f *testing.F) {
	names, err := filepath.Glob(filepath.Join(traces, "*.pcapng"))
	require.NoError(f, err)
	for _, name := range names {
		packets := rawPackets(f, name)
		packets = packets[:min(len(packets), 90)] // enumeration, power-up and a few blocks
		f.Add(writePcapng(f, 220, packets))
		var converted []rawPacket
		for _, p := range packets {
			converted = append(converted, rawPacket{p.time, usbpcap(p.data)})
		}
		f.Add(writePcap(249, binary.LittleEndian, converted))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := capture.Read(bytes.NewReader(b))
		if err != nil {
			require.Nil(t, c)
			return
		}
		for _, mode := range []capture.Mode{capture.Strict{}, capture.Lenient{}} {
			useAll(t, c, mode)
		}
	})
}
