//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	golog "log"
	"log/syslog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
)

// logging is the daemon's log. In the foreground it goes to standard error, in the background to syslog.
type logging struct {
	*logrus.Logger
	journal bool
	apdu    atomic.Bool
	// apdus writes APDUs, which do not depend on the level.
	apdus *logrus.Logger
}

// newLogging makes the log of a daemon that begins.
func (p *program) newLogging(s logSettings) *logging {
	l := &logging{Logger: logrus.New(), apdus: logrus.New()}
	var out io.Writer = p.stderr
	if p.isChild() {
		log, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "goccidd")
		if err != nil {
			// A machine without syslog: the log is lost, as pcscd's is.
			out = io.Discard
		} else {
			out = &syslogWriter{log}
		}
	}
	l.journal = p.isChild() || isJournal(p.getenv("JOURNAL_STREAM"), p.stderr)
	for _, logger := range []*logrus.Logger{l.Logger, l.apdus} {
		logger.SetOutput(out)
	}
	l.configure(s)
	return l
}

// configure takes new settings.
func (l *logging) configure(s logSettings) {
	var format logrus.Formatter = &logrus.TextFormatter{
		DisableColors: !s.Color, ForceColors: s.Color, FullTimestamp: true, DisableTimestamp: l.journal,
		TimestampFormat: "15:04:05.000000",
	}
	if s.Format.name == "json" {
		format = &logrus.JSONFormatter{DisableTimestamp: l.journal, TimestampFormat: "2006-01-02T15:04:05.000000Z07:00"}
	}
	if l.journal {
		format = priorityFormatter{format}
	}
	for _, logger := range []*logrus.Logger{l.Logger, l.apdus} {
		logger.SetFormatter(format)
	}
	l.SetLevel(s.Level.Level)
	l.apdu.Store(s.APDU)
}

// takeLibraries has libraries that write to Go's own log write to ours, until giveBack.
func (l *logging) takeLibraries() (giveBack func()) {
	out, flags := golog.Writer(), golog.Flags()
	golog.SetOutput(libraryLog{l})
	golog.SetFlags(0) // the time is ours to tell
	return func() {
		golog.SetOutput(out)
		golog.SetFlags(flags)
	}
}

// libraryLog takes the lines of Go's own log, which has no levels: libraries write what somebody should see.
type libraryLog struct{ log *logging }

// Write implements io.Writer.
func (w libraryLog) Write(line []byte) (int, error) {
	w.log.Warn(strings.TrimRight(string(line), "\n"))
	return len(line), nil
}

// isJournal tells whether a file is the stream to the journal that systemd says our output is: "device:inode".
func isJournal(stream string, w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &stat); err != nil {
		return false
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino) == stream
}

// priorityFormatter puts the level where the journal looks for it: "<3>" at the beginning of the line.
type priorityFormatter struct{ logrus.Formatter }

// Format implements logrus.Formatter.
func (f priorityFormatter) Format(e *logrus.Entry) ([]byte, error) {
	line, err := f.Formatter.Format(e)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "<%d>", priority(e.Level)), line...), nil
}

// priority is a level as syslog counts (sd-daemon(3)).
func priority(l logrus.Level) int {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel:
		return 2
	case logrus.ErrorLevel:
		return 3
	case logrus.WarnLevel:
		return 4
	case logrus.InfoLevel:
		return 6
	}
	return 7
}

// syslogWriter writes lines that begin with their priority to syslog.
type syslogWriter struct{ log *syslog.Writer }

// Write implements io.Writer.
func (w *syslogWriter) Write(line []byte) (int, error) {
	number, text, _ := strings.Cut(strings.TrimPrefix(string(bytes.TrimRight(line, "\n")), "<"), ">")
	write := w.log.Debug
	switch number {
	case "2":
		write = w.log.Crit
	case "3":
		write = w.log.Err
	case "4":
		write = w.log.Warning
	case "6":
		write = w.log.Info
	}
	return len(line), write(text)
}

// driver is a driver whose APDUs are logged when that is asked for.
func (l *logging) driver(d *ifdhandler.Handler) pcscd.Driver { return apduLog{Handler: d, log: l} }

// apduLog logs what is sent to cards, and what they answer.
type apduLog struct {
	*ifdhandler.Handler
	log *logging
}

// TransmitToICC implements pcscd.Driver. PINs are hidden, and nothing that a card answers: it does not answer with one.
func (a apduLog) TransmitToICC(ctx context.Context, lun ifdhandler.Lun, send ifdhandler.Protocol, command []byte) ([]byte, error) {
	if !a.log.apdu.Load() {
		return a.Handler.TransmitToICC(ctx, lun, send, command)
	}
	log := a.log.apdus.WithField("lun", lun)
	log.Infof("APDU: %s", shownCommand(send, command))
	response, err := a.Handler.TransmitToICC(ctx, lun, send, command)
	if err != nil {
		log.Infof("SW: none: %v", err)
		return response, err
	}
	log.Infof("SW: % X", response)
	return response, nil
}

// shownCommand is a command without PINs. Of what goes to the card as it is nothing is shown: it may be a T=1 block in the
// middle of a chain, or the data that belong to an earlier header, and nothing in it tells.
func shownCommand(send ifdhandler.Protocol, command []byte) string {
	if send == ifdhandler.ProtocolRaw {
		return fmt.Sprintf("(%d bytes hidden)", len(command))
	}
	return fmt.Sprintf("% X", apdu.Redact(command))
}
