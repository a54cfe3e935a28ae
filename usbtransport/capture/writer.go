package capture

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"unicode/utf8"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/pcapgo"
)

// maxComment bounds a comment in bytes. pcapng's length field has 16 bits, and pcapgo doesn't check.
const maxComment = 4096

// writer writes packets to a pcapng file, each as one Write: whoever is killed leaves whole packets, and at most one cut
// off at the end. It is not for concurrent use.
type writer struct {
	w      io.Writer
	ng     *pcapgo.NgWriter
	buffer bytes.Buffer // what ng has written and w not yet
	packet []byte
	size   int64
	limit  int64
	// err is why nothing is written any more.
	err error
}

// newWriter writes the section header and the description of the interface.
func newWriter(w io.Writer, backend, comment string, limit int64) (*writer, error) {
	out := &writer{w: w, limit: limit}
	section := pcapgo.NgSectionInfo{Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: "goccid", Comment: comment}
	device := pcapgo.NgInterface{Name: backend, LinkType: linkUSBLinuxMapped, OS: runtime.GOOS, TimestampResolution: 9}
	ng, err := pcapgo.NewNgWriterInterface(&out.buffer, device, pcapgo.NgWriterOptions{SectionInfo: section})
	if err != nil {
		return nil, err
	}
	out.ng = ng
	out.flush()
	return out, out.err
}

// write writes one packet, unless an earlier one could not be written.
func (w *writer) write(p usbmonPacket, comments []string) {
	if w.err != nil {
		return
	}
	w.packet = appendUsbmon(w.packet[:0], p)
	if w.size+int64(len(w.packet)) > w.limit {
		w.err = fmt.Errorf("%w: recording ends at %d bytes", ErrTooLarge, w.size)
		return
	}
	short := make([]string, len(comments))
	for i, c := range comments {
		short[i] = cut(c)
	}
	info := gopacket.CaptureInfo{Timestamp: p.time, CaptureLength: len(w.packet), Length: len(w.packet)}
	if w.err = w.ng.WritePacketWithOptions(info, w.packet, pcapgo.NgPacketOptions{Comments: short}); w.err == nil {
		w.flush()
	}
}

func (w *writer) flush() {
	if w.err = w.ng.Flush(); w.err != nil {
		return
	}
	n, err := w.w.Write(w.buffer.Bytes())
	w.size += int64(n)
	w.buffer.Reset()
	w.err = err
}

// cut shortens a comment that is too long, at the end of a character.
func cut(comment string) string {
	if len(comment) <= maxComment {
		return comment
	}
	end := maxComment - len("…")
	for end > 0 && !utf8.RuneStart(comment[end]) {
		end--
	}
	return comment[:end] + "…"
}
