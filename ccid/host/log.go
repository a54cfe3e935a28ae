package host

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ccid"
)

// tracer is what of logrus' loggers can log at trace level; logrus.FieldLogger can't.
type tracer interface {
	Tracef(format string, args ...any)
}

// discard returns a logger that writes nothing.
func discard() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return l
}

// traceOf returns the logger's trace level, nil when it is switched off: frames are only made readable when somebody
// reads them.
func traceOf(log logrus.FieldLogger) tracer {
	switch l := log.(type) {
	case *logrus.Logger:
		if l.IsLevelEnabled(logrus.TraceLevel) {
			return l
		}
	case *logrus.Entry:
		if l.Logger.IsLevelEnabled(logrus.TraceLevel) {
			return l
		}
	}
	return nil
}

// traceCommand logs a command message. A PIN is hidden: in a PC_to_RDR_Secure, in a request that the caller marked
// secret, and in each block that is, or carries at the start of its information field, a sensitive command.
func (r *Reader) traceCommand(c ccid.Command, secret bool) {
	t := traceOf(r.log)
	if t == nil {
		return
	}
	header, _ := ccid.Command{Type: c.Type, Slot: c.Slot, Seq: c.Seq, Specific: c.Specific}.AppendBinary(nil)
	// What is hidden is not made readable first: strings can't be wiped.
	var data string
	switch {
	case c.Type == ccid.TypeSecure, secret:
		data = fmt.Sprintf("(%d bytes hidden)", len(c.Data))
	case c.Type == ccid.TypeXfrBlock && len(c.Data) > 3 && apdu.Sensitive(c.Data[3:]):
		data = fmt.Sprintf("% X", append(c.Data[:3:3], apdu.Redact(c.Data[3:])...))
	case c.Type == ccid.TypeXfrBlock:
		data = fmt.Sprintf("% X", apdu.Redact(c.Data))
	default:
		data = fmt.Sprintf("% X", c.Data)
	}
	t.Tracef("> %v: % X, %d bytes: %s", c.Type, header, len(c.Data), data)
}

// traceResponse logs an answer message, without its data where they are secret.
func (r *Reader) traceResponse(resp ccid.Response, secret bool) {
	t := traceOf(r.log)
	if t == nil {
		return
	}
	if secret && len(resp.Data) > 0 {
		header, length := resp, uint32(len(resp.Data))
		header.Data = nil
		b, _ := header.AppendBinary(nil)
		binary.LittleEndian.PutUint32(b[1:], length)
		t.Tracef("< %v: % X, %d bytes: (hidden)", resp.Type, b, length)
		return
	}
	b, _ := resp.AppendBinary(nil)
	t.Tracef("< %v: % X", resp.Type, b)
}
