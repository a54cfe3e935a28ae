//go:build unix

package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/VictoriaMetrics/metrics"

	"github.com/goccid/goccid/pcscd"
)

// metricsType is the media type of Prometheus' text format.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// newMetrics serves figures of what a report tells, and of the process, at /metrics.
func newMetrics(report func() statusReport) http.Handler {
	// The library leaves the types of its own figures out unless it is told to write them.
	metrics.ExposeMetadata(true)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { // and HEAD
		w.Header().Set("Content-Type", metricsType)
		r := report()
		figures{w, r.Readers}.write(r)
		metrics.WriteProcessMetrics(w)
		metrics.WriteFDMetrics(w)
	})
	return mux
}

// figures writes in Prometheus' text format. The library has no text for HELP, and would repeat HELP and TYPE for each reader,
// which the format forbids.
type figures struct {
	w       io.Writer
	readers []pcscd.ReaderReport
}

// write writes all that a report tells.
func (f figures) write(r statusReport) {
	f.one("clients", "Clients that are connected.", uint64(r.Clients.Connected))
	f.one("clients_served_total", "Clients that have connected.", r.Clients.Served)
	f.one("clients_refused_total", "Clients that were refused.", r.Clients.Refused)
	f.one("readers", "Reader slots that can be used.", uint64(len(r.Readers)))
	f.one("readers_unusable", "Readers that are there and can't be used.", uint64(len(r.Problems)))
	f.one("reader_events", "The counter of reader events as clients see it; it wraps at 32767.", uint64(r.ReaderEvents))
	if len(f.readers) == 0 {
		return
	}
	f.states()
	f.counters()
}

// states writes how each reader is now.
func (f figures) states() {
	f.each("card_present", "1 with a card in the reader, else 0.", func(r pcscd.ReaderReport) uint64 { return truth(r.ATR != "" || strings.Contains(r.State, "present")) })
	f.each("card_powered", "1 while the card has power, else 0.", func(r pcscd.ReaderReport) uint64 { return truth(r.Powered) })
	f.each("reader_handles", "Open card handles.", func(r pcscd.ReaderReport) uint64 { return uint64(len(r.Handles)) })
	f.each("reader_locked", "1 while a client has a transaction or the reader for itself, else 0.", func(r pcscd.ReaderReport) uint64 { return truth(r.Lock != nil) })
	f.each("reader_waiting", "Clients that wait for the end of another's transaction.", func(r pcscd.ReaderReport) uint64 { return uint64(len(r.Queue)) })
}

// counters writes what happened on each reader.
func (f figures) counters() {
	counter := func(name, help string, value func(pcscd.Counters) uint64) {
		f.each("reader_"+name+"_total", help, func(r pcscd.ReaderReport) uint64 { return value(r.Counters) })
	}
	counter("insertions", "Cards that were inserted.", func(n pcscd.Counters) uint64 { return n.Insertions })
	counter("removals", "Cards that were removed.", func(n pcscd.Counters) uint64 { return n.Removals })
	counter("connects", "Handles that were opened.", func(n pcscd.Counters) uint64 { return n.Connects })
	counter("transactions", "Transactions that were begun.", func(n pcscd.Counters) uint64 { return n.Transactions })
	counter("transmits", "Commands that were sent to the card.", func(n pcscd.Counters) uint64 { return n.Transmits })
	counter("controls", "Commands that were sent to the reader.", func(n pcscd.Counters) uint64 { return n.Controls })
	counter("resets", "Resets of the card.", func(n pcscd.Counters) uint64 { return n.Resets })
	counter("power_ups", "Times that the card was powered up.", func(n pcscd.Counters) uint64 { return n.PowerUps })
	counter("auto_power_offs", "Times that an unused card lost its power.", func(n pcscd.Counters) uint64 { return n.AutoPowerOffs })
	counter("driver_errors", "Errors of the driver.", func(n pcscd.Counters) uint64 { return n.DriverErrors })
}

// one writes a figure that there is once.
func (f figures) one(name, help string, value uint64) {
	f.head(name, help)
	fmt.Fprintf(f.w, "goccidd_%s %d\n", name, value)
}

// each writes a figure that each reader has.
func (f figures) each(name, help string, value func(pcscd.ReaderReport) uint64) {
	f.head(name, help)
	for _, r := range f.readers {
		fmt.Fprintf(f.w, "goccidd_%s{reader=\"%s\"} %d\n", name, labelEscapes.Replace(r.Name), value(r))
	}
}

// head writes what stands once before all values of a figure. As everywhere with Prometheus, counters are those whose name ends
// with _total.
func (f figures) head(name, help string) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	fmt.Fprintf(f.w, "# HELP goccidd_%s %s\n# TYPE goccidd_%s %s\n", name, help, name, kind)
}

// labelEscapes has all that the format lets a label's value escape, which is less than Go's %q does.
var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
