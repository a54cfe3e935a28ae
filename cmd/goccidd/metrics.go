//go:build unix

package main

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/goccid/goccid/pcscd"
)

// newMetrics makes a registry of what a report tells, and of the process.
func newMetrics(report func() statusReport) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newReportCollector(report), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// reportCollector makes figures of reports.
type reportCollector struct {
	report func() statusReport

	connected, served, refused, readers, problems, events *prometheus.Desc
	perReader                                             []readerMetric
}

// readerMetric is one figure that each reader has.
type readerMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(pcscd.ReaderReport) float64
}

func newReportCollector(report func() statusReport) *reportCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("goccidd_"+name, help, labels, nil)
	}
	c := &reportCollector{
		report:    report,
		connected: desc("clients", "Clients that are connected."),
		served:    desc("clients_served_total", "Clients that have connected."),
		refused:   desc("clients_refused_total", "Clients that were refused."),
		readers:   desc("readers", "Reader slots that can be used."),
		problems:  desc("readers_unusable", "Readers that are there and can't be used."),
		events:    desc("reader_events", "The counter of reader events as clients see it; it wraps at 32767."),
	}
	figure := func(name, help string, kind prometheus.ValueType, value func(pcscd.ReaderReport) float64) {
		c.perReader = append(c.perReader, readerMetric{desc(name, help, "reader"), kind, value})
	}
	counter := func(name, help string, value func(pcscd.Counters) uint64) {
		figure("reader_"+name+"_total", help, prometheus.CounterValue, func(r pcscd.ReaderReport) float64 { return float64(value(r.Counters)) })
	}
	figure("card_present", "1 with a card in the reader, else 0.", prometheus.GaugeValue, func(r pcscd.ReaderReport) float64 { return truth(r.ATR != "" || strings.Contains(r.State, "PRESENT")) })
	figure("card_powered", "1 while the card has power, else 0.", prometheus.GaugeValue, func(r pcscd.ReaderReport) float64 { return truth(r.Powered) })
	figure("reader_handles", "Open card handles.", prometheus.GaugeValue, func(r pcscd.ReaderReport) float64 { return float64(len(r.Handles)) })
	figure("reader_locked", "1 while a client has a transaction or the reader for itself, else 0.", prometheus.GaugeValue, func(r pcscd.ReaderReport) float64 { return truth(r.Lock != nil) })
	figure("reader_waiting", "Clients that wait for the end of another's transaction.", prometheus.GaugeValue, func(r pcscd.ReaderReport) float64 { return float64(len(r.Queue)) })
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
	return c
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (c *reportCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *reportCollector) Collect(ch chan<- prometheus.Metric) {
	r := c.report()
	constant := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	constant(c.connected, prometheus.GaugeValue, float64(r.Clients.Connected))
	constant(c.served, prometheus.CounterValue, float64(r.Clients.Served))
	constant(c.refused, prometheus.CounterValue, float64(r.Clients.Refused))
	constant(c.readers, prometheus.GaugeValue, float64(len(r.Readers)))
	constant(c.problems, prometheus.GaugeValue, float64(len(r.Problems)))
	constant(c.events, prometheus.GaugeValue, float64(r.ReaderEvents))
	for _, reader := range r.Readers {
		for _, m := range c.perReader {
			constant(m.desc, m.kind, m.value(reader), reader.Name)
		}
	}
}
