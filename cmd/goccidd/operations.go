//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/virtual/control"
)

// statusReport is what "goccidd status --json" prints. Its keys stay as they are.
type statusReport struct {
	PID    int       `json:"pid"`
	Since  time.Time `json:"since"`
	Socket string    `json:"socket"`
	// Clients are connections: now, in all, and of these refused.
	Clients  clientCounts     `json:"clients"`
	Problems []unusableReader `json:"problems"`
	pcscd.Report
}

// clientCounts count connections.
type clientCounts struct {
	Connected int    `json:"connected"`
	Served    uint64 `json:"served"`
	Refused   uint64 `json:"refused"`
}

// report tells what goes on.
func (d *daemon) report() statusReport {
	r := statusReport{
		PID: os.Getpid(), Since: d.started, Socket: d.settings.Socket, Problems: d.readers.problems(), Report: d.manager.Report(),
	}
	r.Clients.Connected, r.Clients.Served, r.Clients.Refused = d.server.Clients()
	return r
}

// serveOperations serves status, for root alone, and metrics and the virtual readers' bench, if asked for, until ctx ends.
func (d *daemon) serveOperations(ctx context.Context) error {
	l, err := listenBeside("status.socket", d.settings.statusSocket(), 0o600)
	if err != nil {
		return err
	}
	d.serveHTTP(ctx, l, http.HandlerFunc(d.status))
	if err := d.serveBench(ctx); err != nil {
		return err
	}
	if !d.settings.Metrics.Listen.set() {
		return nil
	}
	metrics, err := d.listenMetrics()
	if err != nil {
		return err
	}
	d.log.Infof("serving metrics at %s", metrics.Addr())
	d.serveHTTP(ctx, metrics, newMetrics(d.report))
	return nil
}

// serveBench takes requests for the virtual readers, if a socket for that is set.
func (d *daemon) serveBench(ctx context.Context) error {
	path := d.settings.Readers.Control
	if path == "" || d.readers.bench == nil {
		return nil
	}
	l, err := control.Listen(path)
	if err != nil {
		return wrong("readers.virtual-control", "%w", err)
	}
	d.background.Go(func() {
		if err := d.readers.bench.Serve(ctx, l); ctx.Err() == nil {
			d.log.Errorf("virtual readers take no more requests: %v", err)
		}
	})
	return nil
}

func (d *daemon) listenMetrics() (net.Listener, error) {
	network, address := d.settings.Metrics.Listen.network()
	const setting = "metrics.listen"
	if network == "unix" {
		return listenBeside(setting, address, 0o660)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, wrong(setting, "%w", err)
	}
	return l, nil
}

// listenBeside makes a socket that is not the clients'.
func listenBeside(setting, path string, mode os.FileMode) (net.Listener, error) {
	err := clearSocket(path, func() int { return 0 })
	if errors.As(err, new(*runningError)) {
		return nil, wrong(setting, "another program serves %s: choose another path", path)
	}
	if err != nil {
		return nil, wrong(setting, "%w", err)
	}
	l, err := listenUnix(path, mode)
	if errors.Is(err, os.ErrNotExist) {
		return nil, wrong(setting, "there is no folder %s: make it, or choose another path", filepath.Dir(path))
	}
	if err != nil {
		return nil, wrong(setting, "%w", err)
	}
	return l, nil
}

// httpTime bounds one question and its answer.
const httpTime = 10 * time.Second

// serveHTTP serves one socket in the background. The listener's file goes with it.
func (d *daemon) serveHTTP(ctx context.Context, l net.Listener, h http.Handler) {
	server := &http.Server{
		Handler: http.TimeoutHandler(h, httpTime, "too slow\n"), ReadTimeout: httpTime, WriteTimeout: 2 * httpTime, IdleTimeout: httpTime,
		MaxHeaderBytes: 16 << 10, ErrorLog: nil,
	}
	d.background.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.log.Errorf("serving %s: %v", l.Addr(), err)
		}
	})
	d.background.Go(func() {
		<-ctx.Done()
		// What is under way is not worth the wait at the end.
		_ = server.Close()
	})
}

func (d *daemon) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	r := d.report()
	_ = r.encode(w) // whoever asked may have gone
}

// encode writes a report as JSON.
func (r *statusReport) encode(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}
