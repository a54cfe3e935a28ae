//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/wire"
)

// maxStatus bounds what is read from a daemon, in bytes.
const maxStatus = 16 << 20

func (p *program) statusCommand() *cobra.Command {
	var socket, config string
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell what the running daemon does: readers, cards, who holds what, errors",
		Long: `status asks the running daemon for its readers and cards, who holds them and since when, who waits, what happened, and the
last errors. Only root may ask.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			s := defaults()
			if err := p.loadFile(config, &s); err != nil {
				return err
			}
			if socket != "" {
				s.Socket = socket
			}
			return p.status(c.Context(), s.statusSocket(), asJSON)
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&socket, "socket", "", "the `PATH` at which the daemon serves its clients (default "+defaultSocket+")")
	c.Flags().StringVarP(&config, "config", "c", "", "the daemon's configuration `FILE`")
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON for programs")
	return c
}

// status asks the daemon behind a socket and prints what it says.
func (p *program) status(ctx context.Context, socket string, asJSON bool) error {
	data, err := fetchStatus(ctx, socket)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: only root may ask", err)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no goccidd runs: nobody answers at %s (with another --socket, give the same one here)", socket)
	case err != nil:
		return err
	}
	var r statusReport
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("the daemon's answer is not understood: %w", err)
	}
	r.eachClient(func(c *pcscd.Client) { c.Executable = programPath("/proc", *c) })
	if asJSON {
		return r.encode(p.stdout)
	}
	_, err = io.WriteString(p.stdout, describe(r, time.Now()))
	return err
}

// eachClient calls a function with each client that holds something, or waits for it.
func (r *statusReport) eachClient(do func(*pcscd.Client)) {
	for _, reader := range r.Readers {
		for i := range reader.Handles {
			do(&reader.Handles[i].Client)
		}
		for i := range reader.Queue {
			do(&reader.Queue[i].Client)
		}
		if reader.Lock != nil {
			do(&reader.Lock.Client)
		}
	}
}

// programPath is the path of a client's program. The daemon in its sandbox (Landlock) may read no more of other processes than
// their short names, which we may, outside of it. A process that has another name than the client had is another one, with its
// number.
func programPath(proc string, c pcscd.Client) string {
	dir := filepath.Join(proc, strconv.Itoa(int(c.PID)))
	name, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil || strings.TrimSuffix(string(name), "\n") != c.Executable {
		return c.Executable
	}
	path, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return c.Executable
	}
	return path
}

// fetchStatus returns the daemon's answer as it is.
func fetchStatus(ctx context.Context, socket string) ([]byte, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	ctx, cancel := context.WithTimeout(ctx, 2*httpTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://goccidd/status", nil)
	if err != nil {
		return nil, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxStatus))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the daemon answers: %s", answer.Status)
	}
	return data, err
}

// describe is a report for people.
func describe(r statusReport, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "goccidd, PID %d, up %s, serving %s\n", r.PID, ago(now, r.Since), r.Socket)
	fmt.Fprintf(&b, "%s, %d served so far, %d refused; %s\n",
		plural(r.Clients.Connected, "client"), r.Clients.Served, r.Clients.Refused, plural(len(r.Readers), "reader"))
	for _, reader := range r.Readers {
		describeReader(&b, reader, now)
	}
	for _, u := range r.Problems {
		fmt.Fprintf(&b, "\n%s  can't be used, since %s\n  %s\n", visible(u.Device), ago(now, u.Since), visible(u.Reason))
	}
	return b.String()
}

func describeReader(b *strings.Builder, r pcscd.ReaderReport, now time.Time) {
	fmt.Fprintf(b, "\n%s\n  %s", visible(r.Name), r.State)
	if r.ATR != "" {
		fmt.Fprintf(b, ", ATR %s", r.ATR)
	}
	switch {
	case r.ATR != "" && !r.Powered:
		b.WriteString(", without power since nobody uses it")
	case r.ATR != "" && r.Protocol != wire.ProtocolUndefined.String():
		fmt.Fprintf(b, ", %s", r.Protocol)
	}
	if r.Busy {
		b.WriteString(", at work")
	}
	b.WriteByte('\n')
	for _, h := range r.Handles {
		fmt.Fprintf(b, "  %s by %s since %s", h.Mode, who(h.Client), ago(now, h.Since))
		if h.Pending != "" {
			fmt.Fprintf(b, ", not told yet: %s", h.Pending)
		}
		b.WriteByte('\n')
	}
	if l := r.Lock; l != nil {
		what := "in a transaction"
		if l.Exclusive {
			what = "for itself alone"
		}
		fmt.Fprintf(b, "  held %s by %s since %s\n", what, who(l.Client), ago(now, l.Since))
	}
	for _, w := range r.Queue {
		fmt.Fprintf(b, "  %s waits since %s for: %s\n", who(w.Client), ago(now, w.Since), w.For)
	}
	n := r.Counters
	fmt.Fprintf(b, "  %d inserted, %d removed, %d powered up, %d reset, %d powered off unused; %d connects, %d transactions, %d APDUs, %d controls, %d errors\n",
		n.Insertions, n.Removals, n.PowerUps, n.Resets, n.AutoPowerOffs, n.Connects, n.Transactions, n.Transmits, n.Controls, n.DriverErrors)
	if e := r.LastError; e != nil {
		fmt.Fprintf(b, "  last error, %s ago: %s\n", ago(now, e.Time), visible(e.Text))
	}
}

func who(c pcscd.Client) string {
	name := c.Executable
	if name == "" {
		name = "a program"
	}
	return fmt.Sprintf("%s (PID %d, uid %d)", visible(name), c.PID, c.UID)
}

// ago is a time span as people say it: to the second.
func ago(now, then time.Time) string {
	return max(0, now.Sub(then)).Round(time.Second).String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// visible replaces what would move a terminal's cursor: names come from devices, and paths from clients.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 {
			return '.'
		}
		return r
	}, s)
}
