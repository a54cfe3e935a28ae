//go:build unix

package main

import (
	"context"
	"encoding/json"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/usbip"
	"github.com/goccid/goccid/virtual"
	"github.com/goccid/goccid/virtual/card"
)

// pcTwin is the name of oneCard's reader.
const pcTwin = "Gemalto PC Twin Reader 00 00"

// reload has a daemon read its settings anew.
func (h *home) reload(t *testing.T, d *process) {
	t.Helper()
	d.signal(t, syscall.SIGHUP)
	require.Contains(t, h.told(t), "RELOADING=1")
	require.Equal(t, "READY=1", h.told(t))
}

// report asks a daemon for its status.
func (h *home) report(t *testing.T) (r statusReport) {
	t.Helper()
	code, stdout, stderr := call(t, nil, "status", "--json", "--socket", h.socket())
	require.Zero(t, code, stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	return r
}

// connect connects to the reader of oneCard.
func connect(t *testing.T, c *pcsctest.Client) int32 {
	t.Helper()
	connected, err := c.Connect(pcTwin, wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	return connected.Card
}

func TestReloadExchangesTheQuirks(t *testing.T) {
	h := newHome(t)
	require.NoError(t, os.Mkdir(h.path("quirks.d"), 0o700))
	config := h.file(t, "goccidd.toml", "[readers]\nquirks-dir = \""+h.path("quirks.d")+"\"\n")
	d := h.start(t, "--config", config, "--virtual", oneCard, "--virtual-control", h.path("bench"))
	c := h.client(t)
	require.Equal(t, []string{pcTwin}, names(t, c))
	h.file(t, "quirks.d/desk.toml", "[[quirk]]\nid = \"desk\"\nreader = [\"08E6:3437\"]\nset.name = \"Front desk\"\n")
	h.reload(t, d)
	h.bench(t, "unplug")
	eventually(t, "the reader is gone", func() bool { return len(names(t, c)) == 0 })
	h.bench(t, "plug")
	eventually(t, "the reader is back", func() bool { return len(names(t, c)) == 1 })
	require.Equal(t, []string{"Front desk 00 00"}, names(t, c))
}

func TestTheLimitsOfTheOptionsHold(t *testing.T) {
	h := newHome(t)
	h.start(t, "--virtual", oneCard, "-t", "2", "-s", "2", "-r", "3")
	first, second := h.client(t), h.client(t)
	_, err := pcsctest.Open(h.socket(), wire.Minor5)
	require.Error(t, err, "-t")
	connect(t, first)
	connect(t, first)
	_, err = first.Connect(pcTwin, wire.Shared, wire.ProtocolAny)
	require.ErrorIs(t, err, wire.ErrNoMemory, "-s")
	connect(t, second)
	_, err = second.Connect(pcTwin, wire.Shared, wire.ProtocolAny)
	require.ErrorIs(t, err, wire.ErrInternalError, "-r")
}

func TestASocketThatWasHiddenComesBack(t *testing.T) {
	h := newHome(t)
	p := &program{environment: environment{stderr: os.Stderr, getenv: func(string) string { return "" }}}
	d := &daemon{log: p.newLogging(defaults().Log)}
	d.settings.Socket = h.socket()
	require.NoError(t, d.listen())
	show := d.hide()
	_, err := pcsctest.Dial(h.socket())
	require.ErrorIs(t, err, syscall.ENOENT)
	show()
	c, err := pcsctest.Dial(h.socket())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, d.listener.Close())
	require.True(t, gone(h.socket()), "and goes with its listener")
}

// namedInterface is a reader whose interface has the product's string as its own.
type namedInterface struct{ *virtual.Reader }

// Describe implements virtual.Device.
func (r namedInterface) Describe() usbtransport.DeviceInfo {
	const (
		iInterface = 18 + 9 + 8 // after the device, the configuration, and what stands before it in the interface descriptor
		iProduct   = 2
	)
	d := r.Reader.Describe()
	d.Descriptors[iInterface] = iProduct
	return d
}

// watchedCard is a card that tells whether it has power.
type watchedCard struct {
	card.Card
	powered atomic.Bool
}

// PowerOn implements card.Card.
func (c *watchedCard) PowerOn(ctx context.Context, class card.Class) ([]byte, error) {
	c.powered.Store(true)
	return c.Card.PowerOn(ctx, class)
}

// PowerOff implements card.Card.
func (c *watchedCard) PowerOff() {
	c.powered.Store(false)
	c.Card.PowerOff()
}

// remote is a reader with a card at a USB/IP server in the test, which can look at it from behind.
type remote struct {
	net.Listener
	target string
	card   *watchedCard
	asked  atomic.Int32 // how often it was connected to
}

// Accept implements net.Listener.
func (r *remote) Accept() (net.Conn, error) {
	conn, err := r.Listener.Accept()
	r.asked.Add(1)
	return conn, err
}

func newRemote(t *testing.T) *remote {
	t.Helper()
	reader, err := virtual.NewReader(virtual.Config{Product: "Contact", SerialNumber: "70D7"})
	require.NoError(t, err)
	r := &remote{card: &watchedCard{Card: card.NewT1()}}
	_, err = reader.SetCard(0, r.card)
	require.NoError(t, err)
	bus := virtual.NewBus()
	_, err = bus.Plug(namedInterface{reader})
	require.NoError(t, err)
	r.Listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.target = r.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- (&usbip.Server{Backend: bus}).Serve(ctx, r) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
		require.NoError(t, bus.Close())
		require.NoError(t, reader.Close())
	})
	return r
}

func TestReadersAreNamedAsTheOptionsSay(t *testing.T) {
	for want, args := range map[string][]string{
		"Gemalto PC Twin Reader [Contact] (70D7) 00 00": nil,
		"Gemalto PC Twin Reader [Contact] 00 00":        {"-S"},
		"Gemalto PC Twin Reader (70D7) 00 00":           {"-I"},
	} {
		t.Run(want, func(t *testing.T) {
			h := newHome(t)
			h.start(t, append(args, "--usbip", newRemote(t).target)...)
			require.Equal(t, []string{want}, names(t, h.client(t)))
		})
	}
	h := newHome(t)
	h.start(t, "--virtual", oneCard, "--config", h.file(t, "goccidd.toml", "[readers]\nname-extension = \" (lab)\"\n"))
	require.Equal(t, []string{"Gemalto PC Twin Reader (lab) 00 00"}, names(t, h.client(t)))
}

func TestCardsHaveNoPowerAfterTheEnd(t *testing.T) {
	h, r := newHome(t), newRemote(t)
	d := h.start(t, "--usbip", r.target)
	c := h.client(t)
	_, err := c.Connect(names(t, c)[0], wire.Shared, wire.ProtocolAny)
	require.NoError(t, err)
	require.True(t, r.card.powered.Load())
	d.stop(t)
	require.False(t, r.card.powered.Load())
}

func TestAnUnusedCardLosesItsPowerAfterTheTimeThatIsSet(t *testing.T) {
	h := newHome(t)
	h.start(t, "--virtual", oneCard, "--config", h.file(t, "goccidd.toml", "[readers]\npower-off-after = \"50ms\"\n"))
	c := h.client(t)
	require.NoError(t, c.Disconnect(connect(t, c), wire.LeaveCard))
	left := time.Now()
	eventually(t, "the card has no power", func() bool { return !h.report(t).Readers[0].Powered })
	require.Less(t, time.Since(left), defaults().Readers.PowerOff.Duration/2)
	require.Negative(t, powerOffGrace(duration{}), "0s is never")
}

func TestVendorCommandsAreForThoseWhoAreAllowedThem(t *testing.T) {
	for text, allowed := range map[string]bool{"": false, "[readers]\nallow-escape = true\n": true} {
		h := newHome(t)
		h.start(t, "--virtual", oneCard, "--config", h.file(t, "goccidd.toml", text))
		c := h.client(t)
		handle := connect(t, c)
		answer, _, err := c.Control(handle, ifdhandler.ControlEscape, []byte{0x99}, 64)
		if allowed {
			require.NoError(t, err)
			require.Equal(t, []byte{0x99}, answer)
		} else {
			require.ErrorIs(t, err, wire.ErrUnsupportedFeature)
		}
		features, _, err := c.Control(handle, ifdhandler.ControlGetFeatureRequest, nil, 264)
		require.NoError(t, err)
		told := false
		for ; len(features) >= 6; features = features[6:] {
			told = told || features[0] == byte(ifdhandler.FeatureCCIDEscCommand)
		}
		require.Equal(t, allowed, told, "applications are told what they may")
	}
}

func TestHotplugAsksTheBackendsForTheirReaders(t *testing.T) {
	h, r := newHome(t), newRemote(t)
	d := h.start(t, "--usbip", r.target)
	began := time.Now()
	for range 10 {
		asked := r.asked.Load()
		d.signal(t, syscall.SIGUSR1)
		eventually(t, "the server is asked", func() bool { return r.asked.Load() > asked })
	}
	require.Less(t, time.Since(began), 5*time.Second, "without the signal it is asked once a second")
}

func TestSyslogIsToldTheLevels(t *testing.T) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "log"), Net: "unixgram"})
	require.NoError(t, err)
	defer socket.Close()
	log, err := syslog.Dial("unixgram", socket.LocalAddr().String(), syslog.LOG_DAEMON|syslog.LOG_INFO, "goccidd")
	require.NoError(t, err)
	defer log.Close()
	getenv := func(name string) string { return map[string]string{readyVariable: "3"}[name] }
	l := (&program{environment: environment{stderr: os.Stderr, getenv: getenv}}).newLogging(logSettings{Level: logLevel{logrus.TraceLevel}, Format: logFormat{"text"}})
	l.SetOutput(&syslogWriter{log})
	for _, tt := range []struct {
		write func(...any)
		want  string
	}{{l.Error, "<27>"}, {l.Warn, "<28>"}, {l.Info, "<30>"}, {l.Debug, "<31>"}, {l.Trace, "<31>"}} {
		tt.write("words")
		require.NoError(t, socket.SetReadDeadline(time.Now().Add(patience)))
		b := make([]byte, 1024)
		n, err := socket.Read(b)
		require.NoError(t, err)
		line := string(b[:n])
		assert.True(t, strings.HasPrefix(line, tt.want), line)
		assert.Contains(t, line, "goccidd")
		assert.Regexp(t, `: level=\w+ msg=words`, line, "without the number that stood for the level, and without a second time")
	}
}
