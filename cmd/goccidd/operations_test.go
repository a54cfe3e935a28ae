//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	golog "log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/internal/pintest"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/wire"
	"github.com/goccid/goccid/usbtransport"
)

func TestStatusTellsWhoHoldsWhat(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard)
	c := h.client(t)
	connected, err := c.Connect(names(t, c)[0], wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	require.NoError(t, c.Begin(connected.Card))

	code, stdout, stderr := call(t, nil, "status", "--json", "--socket", h.socket())
	require.Zero(t, code, stderr)
	var r statusReport
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&r))
	assert.Equal(t, d.cmd.Process.Pid, r.PID)
	assert.Equal(t, h.socket(), r.Socket)
	assert.Equal(t, 1, r.Clients.Connected)
	require.Len(t, r.Readers, 1)
	reader := r.Readers[0]
	assert.Equal(t, "Gemalto PC Twin Reader 00 00", reader.Name)
	require.Len(t, reader.Handles, 1)
	assert.Equal(t, int32(os.Getpid()), reader.Handles[0].Client.PID)
	require.NotNil(t, reader.Lock)
	assert.Equal(t, int32(os.Getpid()), reader.Lock.Client.PID)

	code, stdout, stderr = call(t, nil, "status", "--socket", h.socket())
	require.Zero(t, code, stderr)
	assert.Contains(t, stdout, "Gemalto PC Twin Reader 00 00\n")
	assert.Contains(t, stdout, "held in a transaction by ")
}

func TestStatusNamesProgramsThatTheSandboxedDaemonMayNotLookAt(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	h := newHome(t)
	h.start(t, "--virtual", oneCard)
	c := h.client(t)
	require.NoError(t, c.Begin(connect(t, c)))
	reader := h.report(t).Readers[0]
	require.Equal(t, self, reader.Handles[0].Client.Executable)
	require.Equal(t, self, reader.Lock.Client.Executable)
	_, stdout, _ := call(t, nil, "status", "--socket", h.socket())
	require.Contains(t, stdout, "shared by "+self+" (PID")
}

func TestProgramsAreNamedByWhatStillRuns(t *testing.T) {
	h := newHome(t)
	require.NoError(t, os.Mkdir(h.path("7"), 0o700))
	h.file(t, "7/comm", "gpg-agent\n")
	require.NoError(t, os.Symlink("/usr/bin/gpg-agent", h.path("7/exe")))
	for name, want := range map[string]string{"gpg-agent": "/usr/bin/gpg-agent", "scdaemon": "scdaemon", "/opt/gpg-agent": "/opt/gpg-agent", "": ""} {
		require.Equal(t, want, programPath(h.dir, pcscd.Client{PID: 7, Executable: name}))
	}
	require.Equal(t, "gpg-agent", programPath(h.dir, pcscd.Client{PID: 8, Executable: "gpg-agent"}), "which has ended")
}

func TestStatusWithoutADaemonSaysSo(t *testing.T) {
	h := newHome(t)
	code, stdout, stderr := call(t, nil, "status", "--socket", h.socket())
	require.Equal(t, exitFailure, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "goccidd: no goccidd runs: nobody answers at "+h.path("pcscd.status"))
}

func TestStatusForPeople(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := func(d time.Duration) time.Time { return now.Add(-d) }
	alice := pcscd.Client{PID: 100, UID: 1000, Executable: "/usr/bin/alice"}
	bob := pcscd.Client{PID: 200, UID: 1001, Executable: "/tmp/\x1b[2Jbob"}
	r := statusReport{
		PID: 7, Since: before(3 * time.Hour), Socket: "/run/pcscd/pcscd.comm",
		Clients:  clientCounts{Connected: 2, Served: 10, Refused: 1},
		Problems: []unusableReader{{Device: "1-4 08e6:3437", Reason: "interface is in use", Since: before(time.Minute)}},
		Report: pcscd.Report{Readers: []pcscd.ReaderReport{
			{
				Name: "A 00 00", State: "present|powered", ATR: "3b00", Protocol: "T=1", Powered: true, Busy: true,
				Handles:   []pcscd.HandleReport{{Client: alice, Mode: "shared", Since: before(time.Minute), Pending: "reset"}},
				Lock:      &pcscd.LockReport{Client: alice, Since: before(2 * time.Second), Depth: 1},
				Queue:     []pcscd.WaiterReport{{Client: bob, For: "connect", Since: before(time.Second)}},
				LastError: &pcscd.ErrorReport{Time: before(time.Hour), Text: "card mute"},
				Counters:  pcscd.Counters{Insertions: 1, Removals: 2, PowerUps: 3, Resets: 4, AutoPowerOffs: 5, Connects: 6, Transactions: 7, Transmits: 8, Controls: 9, DriverErrors: 10},
			},
			{Name: "B 01 00", State: "absent"},
		}},
	}
	require.Equal(t, `goccidd, PID 7, up 3h0m0s, serving /run/pcscd/pcscd.comm
2 clients, 10 served so far, 1 refused; 2 readers

A 00 00
  present|powered, ATR 3b00, T=1, at work
  shared by /usr/bin/alice (PID 100, uid 1000) since 1m0s, not told yet: reset
  held in a transaction by /usr/bin/alice (PID 100, uid 1000) since 2s
  /tmp/.[2Jbob (PID 200, uid 1001) waits since 1s for: connect
  1 inserted, 2 removed, 3 powered up, 4 reset, 5 powered off unused; 6 connects, 7 transactions, 8 APDUs, 9 controls, 10 errors
  last error, 1h0m0s ago: card mute

B 01 00
  absent
  0 inserted, 0 removed, 0 powered up, 0 reset, 0 powered off unused; 0 connects, 0 transactions, 0 APDUs, 0 controls, 0 errors

1-4 08e6:3437  can't be used, since 1m0s
  interface is in use
`, describe(r, now))
}

// metrics leads every address to the socket of metrics.
func (h *home) metrics() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", h.path("metrics"))
	}}
}

// TestACrowdHasTwoProcessors, and a client that is alone has one.
func TestACrowdHasTwoProcessors(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 || os.Getenv("GOMAXPROCS") != "" {
		t.Skip("there is one processor, or GOMAXPROCS says how many")
	}
	h := newHome(t)
	h.start(t, "--metrics", "unix:"+h.path("metrics"))
	client := &http.Client{Transport: h.metrics(), Timeout: patience}
	processors := func() float64 {
		answer, err := client.Get("http://goccidd/metrics")
		require.NoError(t, err)
		defer answer.Body.Close()
		return scrape(t, answer)["go_gomaxprocs"].value
	}
	require.EqualValues(t, 1, processors())
	a, b := h.client(t), h.client(t)
	eventually(t, "the crowd has two", func() bool {
		names(t, a)
		names(t, b)
		return processors() == 2
	})
	eventually(t, "who is left has one", func() bool {
		names(t, a)
		return processors() == 1
	})
}

func TestMetricsAreServedWhereAskedFor(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--virtual", oneCard, "--metrics", "unix:"+h.path("metrics"))
	transport := h.metrics()
	answer, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://goccidd/metrics")
	require.NoError(t, err)
	defer answer.Body.Close()
	values := scrape(t, answer)
	assert.Equal(t, sample{"gauge", 1}, values["goccidd_readers"])
	assert.Equal(t, sample{"gauge", 1}, values["goccidd_card_present Gemalto PC Twin Reader 00 00"])
	assert.Positive(t, values["process_open_fds"].value)
	assert.Positive(t, values["go_goroutines"].value)
	for _, tt := range []struct {
		method, path string
		want         int
	}{{"HEAD", "/metrics", http.StatusOK}, {"POST", "/metrics", http.StatusMethodNotAllowed}, {"GET", "/", http.StatusNotFound}, {"GET", "/metrics/x", http.StatusNotFound}} {
		request, err := http.NewRequestWithContext(t.Context(), tt.method, "http://goccidd"+tt.path, nil)
		require.NoError(t, err)
		answer, err := transport.RoundTrip(request)
		require.NoError(t, err)
		answer.Body.Close()
		assert.Equal(t, tt.want, answer.StatusCode, "%s %s", tt.method, tt.path)
	}
	d.stop(t)
	assert.True(t, gone(h.path("metrics")))
	assert.NotContains(t, d.stderr.String(), "ERROR: metrics:", "the sandbox leaves the library what it reads")
}

func TestMetricsAreReadByPrometheusAsTheyAreMeant(t *testing.T) {
	// The driver makes names of printable ASCII; the format knows no such rule.
	const hostile = "Größe \"A\\B\" \\n [読\n\t] 00 00"
	r := statusReport{
		Clients:  clientCounts{Connected: 2, Served: 10, Refused: 1},
		Problems: make([]unusableReader, 3),
		Report: pcscd.Report{ReaderEvents: 4, Readers: []pcscd.ReaderReport{
			{
				Name: hostile, State: "present|powered", ATR: "3b00", Powered: true,
				Handles: make([]pcscd.HandleReport, 5), Lock: &pcscd.LockReport{}, Queue: make([]pcscd.WaiterReport, 6),
				Counters: pcscd.Counters{Insertions: 11, Removals: 12, PowerUps: 13, Resets: 14, AutoPowerOffs: 15, Connects: 16, Transactions: 17, Transmits: 18, Controls: 19, DriverErrors: 1e15},
			},
			{Name: "B 01 00", State: "absent"},
		}},
	}
	want := map[string]sample{
		"goccidd_clients":               {"gauge", 2},
		"goccidd_clients_served_total":  {"counter", 10},
		"goccidd_clients_refused_total": {"counter", 1},
		"goccidd_readers":               {"gauge", 2},
		"goccidd_readers_unusable":      {"gauge", 3},
		"goccidd_reader_events":         {"gauge", 4},
	}
	for name, s := range map[string]sample{
		"card_present":                 {"gauge", 1},
		"card_powered":                 {"gauge", 1},
		"reader_handles":               {"gauge", 5},
		"reader_locked":                {"gauge", 1},
		"reader_waiting":               {"gauge", 6},
		"reader_insertions_total":      {"counter", 11},
		"reader_removals_total":        {"counter", 12},
		"reader_power_ups_total":       {"counter", 13},
		"reader_resets_total":          {"counter", 14},
		"reader_auto_power_offs_total": {"counter", 15},
		"reader_connects_total":        {"counter", 16},
		"reader_transactions_total":    {"counter", 17},
		"reader_transmits_total":       {"counter", 18},
		"reader_controls_total":        {"counter", 19},
		"reader_driver_errors_total":   {"counter", 1e15},
	} {
		want["goccidd_"+name+" "+hostile] = s
		want["goccidd_"+name+" B 01 00"] = sample{s.kind, 0}
	}
	require.Equal(t, want, scrapeOwn(t, r))
}

func TestMetricsWithoutReadersAreStillMetrics(t *testing.T) {
	require.Equal(t, map[string]sample{
		"goccidd_clients": {"gauge", 0}, "goccidd_clients_served_total": {"counter", 0}, "goccidd_clients_refused_total": {"counter", 0},
		"goccidd_readers": {"gauge", 0}, "goccidd_readers_unusable": {"gauge", 0}, "goccidd_reader_events": {"gauge", 0},
	}, scrapeOwn(t, statusReport{}))
}

func TestAMuteCardIsPresentInMetrics(t *testing.T) {
	for state, want := range map[wire.State]float64{wire.StatePresent | wire.StateSwallowed: 1, wire.StateAbsent: 0} {
		values := scrapeOwn(t, statusReport{Report: pcscd.Report{Readers: []pcscd.ReaderReport{{Name: "A 00 00", State: state.String()}}}})
		require.Equal(t, sample{"gauge", want}, values["goccidd_card_present A 00 00"], state)
	}
}

// sample is one value as Prometheus reads it.
type sample struct {
	kind  string
	value float64
}

// scrapeOwn serves metrics of a report once, and returns those that are not of the process.
func scrapeOwn(t *testing.T, r statusReport) map[string]sample {
	t.Helper()
	recorder := httptest.NewRecorder()
	newMetrics(func() statusReport { return r }).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	values := scrape(t, recorder.Result())
	maps.DeleteFunc(values, func(name string, _ sample) bool { return !strings.HasPrefix(name, "goccidd_") })
	return values
}

// scrape reads an answer with Prometheus' own parser, and returns each figure by its name and the reader's. It fails where one
// has no type, where one of ours has no help, and where one comes twice, all of which the parser accepts.
func scrape(t *testing.T, answer *http.Response) map[string]sample {
	t.Helper()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Equal(t, expfmt.TypeTextPlain, expfmt.ResponseFormat(answer.Header).FormatType())
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	require.NoError(t, err)
	values := map[string]sample{}
	for name, family := range families {
		kind := strings.ToLower(family.GetType().String())
		require.NotEqual(t, "untyped", kind, name)
		own := strings.HasPrefix(name, "goccidd_")
		require.True(t, !own || family.GetHelp() != "", name)
		for _, m := range family.GetMetric() {
			key := name
			for _, label := range m.GetLabel() {
				require.True(t, !own || label.GetName() == "reader", name)
				key += " " + label.GetValue()
			}
			require.NotContains(t, values, key)
			values[key] = sample{kind, m.GetGauge().GetValue() + m.GetCounter().GetValue()}
		}
	}
	return values
}

// TestLogTellsTheJournalItsLevels starts a daemon whose standard error is what JOURNAL_STREAM says.
func TestLogTellsTheJournalItsLevels(t *testing.T) {
	h := newHome(t)
	log, err := os.Create(h.path("log"))
	require.NoError(t, err)
	defer log.Close()
	var stat syscall.Stat_t
	require.NoError(t, syscall.Fstat(int(log.Fd()), &stat))
	cmd := h.command("--foreground", "--socket", h.socket(), "--usb", "none")
	cmd.Env = append(cmd.Env, "JOURNAL_STREAM="+journalStream(stat))
	cmd.Stderr = log
	require.NoError(t, cmd.Start())
	require.Equal(t, "READY=1", h.told(t))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	text, err := os.ReadFile(h.path("log"))
	require.NoError(t, err)
	require.Contains(t, string(text), "<6>level=info msg=\"serving ")
	for line := range strings.Lines(string(text)) {
		require.Regexp(t, `^<[2-7]>`, line)
	}
}

func TestPrioritiesAreThoseOfSyslog(t *testing.T) {
	for level, want := range map[logrus.Level]string{
		logrus.FatalLevel: "<2>", logrus.ErrorLevel: "<3>", logrus.WarnLevel: "<4>", logrus.InfoLevel: "<6>", logrus.DebugLevel: "<7>", logrus.TraceLevel: "<7>",
	} {
		entry := logrus.NewEntry(logrus.New())
		entry.Level = level
		line, err := priorityFormatter{&logrus.JSONFormatter{}}.Format(entry)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(line, []byte(want+"{")), "%s", line)
	}
}

func TestAPDUsAreLoggedWithoutPINsWhateverTheLevel(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--apdu", "--log-level", "critical", "--virtual", oneCard)
	c := h.client(t)
	connected, err := c.Connect(names(t, c)[0], wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	for _, command := range [][]byte{
		{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x2F, 0x00},
		append([]byte{0x00, 0x20, 0x00, 0x01, 0x08}, pintest.Digits...),
		append([]byte{0x00, 0x28, 0x00, 0x01, 0x08}, pintest.Digits...),
	} {
		_, _, err := c.Transmit(connected.Card, wire.ProtocolT1, command, 258)
		require.NoError(t, err)
	}
	d.stop(t)
	log := d.stderr.String()
	assert.Contains(t, log, "APDU: 00 A4 00 0C 02 2F 00")
	assert.Contains(t, log, "SW: 90 00")
	assert.Contains(t, log, "APDU: 00 20 00 01 08 2A 2A 2A 2A 2A 2A 2A 2A")
	assert.Contains(t, log, "APDU: 00 28 00 01 08 2A 2A 2A 2A 2A 2A 2A 2A")
	assert.Empty(t, pintest.Find([]byte(log)))
	assert.NotContains(t, log, "serving", "nothing else at this level")
}

// TestNoFormOfAPINIsLogged sends PINs in all forms that clients have, also as what goes to the card as it is, with all logs on.
func TestNoFormOfAPINIsLogged(t *testing.T) {
	for _, spec := range []string{"level=tpdu,card=t0", "level=tpdu,card=t1", "level=short,card=t1", "level=extended,card=t1"} {
		t.Run(spec, func(t *testing.T) {
			h := newHome(t)
			d := h.start(t, "--apdu", "--log-level", "trace", "--virtual", "reader=gemalto-pc-twin,"+spec)
			c := h.client(t)
			connected, err := c.Connect(names(t, c)[0], wire.Shared, wire.ProtocolAny)
			require.NoError(t, err)
			commands, raw := pintest.Messages(pintest.Short(pintest.Instructions()...), pintest.Long(pintest.Instructions()...)), pintest.Messages(pintest.Raw(), pintest.Characters())
			for _, command := range commands {
				_, _, err := c.Transmit(connected.Card, connected.ActiveProtocol, command, 258)
				_ = err // not every card takes all; what counts is the log
			}
			for _, message := range raw {
				_, _, err := c.Transmit(connected.Card, wire.ProtocolRaw, message, 258)
				_ = err
			}
			d.stop(t)
			log := d.stderr.String()
			assert.Equal(t, len(commands)+len(raw), strings.Count(log, "APDU: "))
			assert.Contains(t, log, "APDU: 00 C2 00 00 0D 2A")
			assert.Contains(t, log, "APDU: (17 bytes hidden)")
			assert.Contains(t, log, "XfrBlock", "frames are traced")
			assert.Empty(t, pintest.Find([]byte(log)))
		})
	}
}

func TestJSONLogIsJSON(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--log-format", "json")
	d.stop(t)
	for line := range strings.Lines(d.stderr.String()) {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		require.Contains(t, fields, "level")
		require.Regexp(t, `T\d\d:\d\d:\d\d\.\d{6}`, fields["time"])
	}
}

func TestLibrariesWriteToTheDaemonsLog(t *testing.T) {
	h := newHome(t)
	out := &transcript{more: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		env := environment{stdout: out, stderr: out, getenv: func(string) string { return "" }}
		ended <- run(ctx, env, []string{"--foreground", "--disable-sandbox", "--socket", h.socket(), "--usb", "none", "--disable-polkit", "--virtual", oneCard})
	}()
	out.waitFor(t, "serving")
	golog.Print("words of a library")
	stop()
	require.Zero(t, <-ended)
	require.Regexp(t, `(?m)^time="[^ ]+" level=warning msg="words of a library"$`, out.String())
	require.Equal(t, os.Stderr, golog.Writer(), "which is given back")
}

func TestUsersAndGroupsAreKnownByNameAndNumber(t *testing.T) {
	a, err := newAccess(accessSettings{Users: []string{"root", "4242"}, Groups: []string{"0"}}, logrus.New())
	require.NoError(t, err)
	require.NoError(t, a.Connection(t.Context(), pcscd.Client{UID: 4242, GID: 9}))
	require.NoError(t, a.CardAccess(t.Context(), pcscd.Client{UID: 9, GID: 0}, "x"))
	require.ErrorIs(t, a.Connection(t.Context(), pcscd.Client{UID: 4243, GID: 9, PID: -1}), pcscd.ErrDenied)
	rules, err := newRules(accessSettings{Users: []string{"4243"}}, logrus.New())
	require.NoError(t, err)
	a.replace(rules)
	require.NoError(t, a.Connection(t.Context(), pcscd.Client{UID: 4243, GID: 9}))
	require.NoError(t, a.Close())

	_, err = newAccess(accessSettings{Groups: []string{"no-such-group"}}, logrus.New())
	require.ErrorContains(t, err, `access.groups: there is no group "no-such-group"`)
}

func TestDriverErrorsAreLoggedInPlaceOfAnAnswer(t *testing.T) {
	var out transcript
	log := (&program{environment: environment{stderr: &out, getenv: func(string) string { return "" }}}).newLogging(defaults().Log)
	log.apdu.Store(true)
	_, err := log.driver(ifdhandler.New(ifdhandler.Options{})).TransmitToICC(t.Context(), 1, ifdhandler.ProtocolT1, []byte{0, 1, 2, 3})
	require.Error(t, err)
	require.Contains(t, out.String(), "APDU: 00 01 02 03")
	require.Contains(t, out.String(), "SW: none: ")
}

func TestUnusableReadersAreInTheStatus(t *testing.T) {
	r := &readers{unusable: map[string]unusableReader{}}
	r.note(ifdhandler.ReaderEvent{Kind: ifdhandler.ReaderUnusable, Device: "1-1 08e6:3437", Err: errors.New("busy")})
	r.note(ifdhandler.ReaderEvent{Kind: ifdhandler.ReaderUnusable, Device: "1-1 08e6:3437", Err: errors.New("no right")})
	require.Len(t, r.problems(), 1)
	require.Equal(t, "no right", r.problems()[0].Reason)
	r.note(ifdhandler.ReaderEvent{Kind: ifdhandler.ReaderArrived, Device: "1-1 08e6:3437"})
	require.Empty(t, r.problems())
	r.note(ifdhandler.ReaderEvent{Kind: ifdhandler.ReaderUnusable, Device: "1-1 08e6:3437", Err: errors.New("busy")})
	r.note(ifdhandler.ReaderEvent{Kind: ifdhandler.ReaderUnusable, Device: "1-1 08e6:3437", Err: usbtransport.ErrRemoved})
	require.Empty(t, r.problems(), "it is gone")
}

func TestHelpForACommandThatThereIsNotFails(t *testing.T) {
	code, stdout, stderr := call(t, nil, "help", "foo")
	require.Equal(t, exitUsage, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, `there is no command "foo"`)
	code, stdout, _ = call(t, nil, "help", "status")
	require.Equal(t, exitOK, code)
	require.Contains(t, stdout, "goccidd status")
}

// failing is an output that takes nothing.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestOutputThatIsNotWrittenIsAFailureUnlessNobodyReadsIt(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"--help"}, {"help"}} {
		for _, tt := range []struct {
			err  error
			code int
			want string
		}{
			{&os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}, exitOK, ""},
			{&os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}, exitFailure, "goccidd: can't write the output: write /dev/stdout: no space left on device\n"},
		} {
			var errOut bytes.Buffer
			code := run(t.Context(), environment{stdout: failing{tt.err}, stderr: &errOut, getenv: func(string) string { return "" }}, args)
			require.Equal(t, tt.code, code, args)
			require.Equal(t, tt.want, errOut.String())
		}
	}
}

func TestHelpGoesToStandardOutput(t *testing.T) {
	text, err := newHome(t).command("--help").Output()
	require.NoError(t, err)
	require.Contains(t, string(text), "Usage:\n  goccidd [flags]\n  goccidd [command]")
}

// journalStream is a file as JOURNAL_STREAM names it.
func journalStream(stat syscall.Stat_t) string { return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino) }
