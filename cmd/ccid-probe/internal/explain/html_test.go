package explain_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/cmd/ccid-probe/internal/explain"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/capture"
)

func html(t testing.TB, transcript *explain.Transcript) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, transcript.WriteHTML(&b))
	return b.String()
}

// TestPagesNeedNothingElse: no address is in a page, beside those of its own parts.
func TestPagesNeedNothingElse(t *testing.T) {
	for _, file := range traceFiles(t) {
		page := html(t, build(t, file, explain.Options{}))
		assert.NotContains(t, page, "ZgotmplZ", "nothing was refused by the template")
		assert.NotRegexp(t, regexp.MustCompile(`(?i)https?://|src=|url\(|@import|<link|<iframe|<object|<embed|<img`), page, file)
		for _, match := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
			assert.True(t, strings.HasPrefix(match[1], "#"), match[1])
		}
		assert.Contains(t, page, `<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; script-src &#39;sha256-`)
	}
}

// hostile is a capture whose every text wants to be a script, a terminal's command or another line.
func hostile() *capture.Capture {
	const evil = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\x1b[2J\r\n' \" ` javascript:alert(1) \u202e"
	text := func(index byte, s string) capture.Transfer {
		b := []byte{0, 3}
		for _, r := range s {
			b = append(b, byte(r), byte(r>>8))
		}
		b = b[:min(254, len(b))]
		b[0] = byte(len(b))
		return capture.Transfer{Setup: usbtransport.Setup{RequestType: 0x80, Request: 6, Value: 0x0300 | uint16(index), Index: 0x0409}, HasSetup: true, Data: b}
	}
	device := []byte{18, 1, 0, 2, 0, 0, 0, 64, 0xE6, 0x08, 0x37, 0x34, 0, 1, 1, 2, 3, 1}
	request := func(value uint16, data []byte) capture.Transfer {
		return capture.Transfer{Setup: usbtransport.Setup{RequestType: 0x80, Request: 6, Value: value}, HasSetup: true, Data: data}
	}
	power := []byte{0x62, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	c := &capture.Capture{Comment: evil, Transfers: []capture.Transfer{
		request(0x0100, device), text(1, evil), text(2, evil), text(3, evil),
		{Endpoint: 1, Type: usbtransport.TransferBulk, Data: power},
	}}
	for i := range c.Transfers {
		x := &c.Transfers[i]
		x.Bus, x.Address, x.Submitted, x.Completed, x.Comments = 1, 2, 2*i+1, 2*i+2, []string{evil}
		x.Start = time.Unix(int64(i), 0)
		x.End = x.Start.Add(time.Millisecond)
		if x.Type == usbtransport.TransferControl {
			x.Endpoint = 0x80
		}
	}
	return c
}

func TestHostileTextsStayTexts(t *testing.T) {
	transcript := explain.Build(hostile(), explain.Options{Name: "<b>name\x1b"})
	require.True(t, transcript.Devices[0].Reader)
	page := html(t, transcript)
	assert.NotContains(t, page, "<script>document")
	assert.NotContains(t, page, "<img")
	assert.NotContains(t, page, "<b>name")
	assert.Contains(t, page, "&lt;script&gt;document")
	printed := text(t, transcript)
	for _, c := range "\x1b\r\u202e" {
		assert.NotContains(t, printed, string(c))
	}
	assert.Contains(t, printed, "<script>document")
	var b bytes.Buffer
	require.NoError(t, transcript.WriteJSON(&b))
	assert.True(t, json.Valid(b.Bytes()))
	assert.NotContains(t, b.String(), "\x1b")
}

// browser is a real one, without a window. In CI a missing one is a failure.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("chromium is not installed")
	}
	t.Skip("needs a browser: apt-get install chromium")
	return ""
}

// visit opens an address and returns what chromium prints, what it logs, and what it asked a network for: all of that goes to
// a proxy of ours, which takes it down and answers nothing.
func visit(t *testing.T, path, address string, flags ...string) (dom, log string, requests []string) {
	t.Helper()
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	taken := make(chan []string, 1)
	go func() { taken <- takeRequests(proxy) }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	arguments := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr", "--user-data-dir=" + t.TempDir(),
		"--proxy-server=" + proxy.Addr().String(), "--proxy-bypass-list=<-loopback>", "--virtual-time-budget=5000",
	}, append(flags, address)...)
	command := exec.CommandContext(ctx, path, arguments...)
	command.WaitDelay = 10 * time.Second
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	require.NoError(t, command.Run(), errOut.String())
	require.NoError(t, proxy.Close())
	return out.String(), errOut.String(), <-taken
}

// browsersOwn are the hosts that the browser asks for its own purposes, whatever page it shows.
var browsersOwn = regexp.MustCompile(`(\.google|\.googleapis|\.gvt1|\.gstatic)\.com(:\d+|/)`)

// takeRequests returns the first lines of the requests to a proxy that are not the browser's own.
func takeRequests(proxy net.Listener) []string {
	var list []string
	for {
		connection, err := proxy.Accept()
		if err != nil {
			return list
		}
		_ = connection.SetReadDeadline(time.Now().Add(5 * time.Second))
		line, _ := bufio.NewReader(connection).ReadString('\n')
		_ = connection.Close()
		if line != "" && !browsersOwn.MatchString(line) {
			list = append(list, strings.TrimSpace(line))
		}
	}
}

func writePage(t *testing.T, page string) (address string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "page.html")
	require.NoError(t, os.WriteFile(file, []byte(page), 0o644))
	return "file://" + file
}

// told is what the page's script says of the page.
func told(t *testing.T, dom string) map[string]string {
	t.Helper()
	root := regexp.MustCompile(`<html[^>]*>`).FindString(dom)
	values := map[string]string{}
	for _, match := range regexp.MustCompile(`data-([a-z]+)="([^"]*)"`).FindAllStringSubmatch(root, -1) {
		values[match[1]] = match[2]
	}
	return values
}

// TestPagesInABrowser opens the pages in Chromium: they render, search works, nothing is logged and nothing is loaded.
func TestPagesInABrowser(t *testing.T) {
	path := browser(t)
	transcript := build(t, filepath.Join(traces, "virtual-tpdu-t1.pcapng"), explain.Options{})
	address := writePage(t, html(t, transcript))
	problems := build(t, filepath.Join(traces, "qemu-ccid-libccid-zero-length.pcapng"), explain.Options{})
	tests := map[string]struct {
		address string
		want    map[string]string
	}{
		"as it is": {address, map[string]string{
			"ready": "true", "theme": "light", "transfers": fmt.Sprint(len(transcript.Transfers)), "shown": fmt.Sprint(len(transcript.Transfers)),
			"apdus": fmt.Sprint(len(transcript.APDUs)), "points": fmt.Sprint(len(transcript.APDUs)),
		}},
		// The message that ends the APDU, which has its name.
		"searched":      {address + "#q=change%20reference&kind=in", map[string]string{"ready": "true", "shown": "1"}},
		"other driver":  {writePage(t, html(t, problems)) + "#theme=dark&open=1", map[string]string{"ready": "true", "theme": "dark", "transfers": fmt.Sprint(len(problems.Transfers))}},
		"hostile":       {writePage(t, html(t, explain.Build(hostile(), explain.Options{Name: "<b>name"}))), map[string]string{"ready": "true", "transfers": "5"}},
		"with problems": {writePage(t, html(t, problems)) + "#kind=problem", map[string]string{"ready": "true", "shown": "1"}},
		"of nothing":    {writePage(t, html(t, explain.Build(&capture.Capture{}, explain.Options{}))), map[string]string{"ready": "true", "transfers": "0"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dom, log, requests := visit(t, path, tt.address, "--dump-dom")
			got := told(t, dom)
			for key, want := range tt.want {
				assert.Equal(t, want, got[key], key)
			}
			assert.NotContains(t, log, "CONSOLE", "no errors on the console")
			assert.Empty(t, requests, "nothing was loaded")
			assert.NotContains(t, dom, "<title>owned</title>")
		})
	}
}

// TestTheBrowserEnforcesThePolicy puts into a page what its Content-Security-Policy is against, so that the test above is
// known to see it.
func TestTheBrowserEnforcesThePolicy(t *testing.T) {
	path := browser(t)
	page := html(t, build(t, filepath.Join(traces, "virtual-short-t1.pcapng"), explain.Options{}))
	page = strings.Replace(page, "</main>", `<img src="http://goccid.invalid/x.png"><script>document.title = "owned"</script></main>`, 1)
	dom, log, requests := visit(t, path, writePage(t, page), "--dump-dom")
	assert.Contains(t, log, "CONSOLE")
	assert.Contains(t, log, "Content Security Policy")
	assert.NotContains(t, dom, "<title>owned</title>")
	assert.Empty(t, requests)
	unprotected := regexp.MustCompile(`<meta http-equiv[^>]*>`).ReplaceAllString(page, "")
	dom, _, requests = visit(t, path, writePage(t, unprotected), "--dump-dom")
	assert.Contains(t, dom, "<title>owned</title>")
	assert.Contains(t, strings.Join(requests, "\n"), "goccid.invalid", "the proxy would have told")
}

// TestPagesAreDrawn takes a picture, wide and narrow, and looks for ink in the places where the plots are.
func TestPagesAreDrawn(t *testing.T) {
	path := browser(t)
	address := writePage(t, html(t, build(t, filepath.Join(traces, "virtual-tpdu-t1.pcapng"), explain.Options{})))
	for _, size := range []string{"1280,1600", "500,1600"} {
		picture := filepath.Join(t.TempDir(), "page.png")
		visit(t, path, address, "--window-size="+size, "--screenshot="+picture)
		f, err := os.Open(picture)
		require.NoError(t, err)
		image, err := png.Decode(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		colours := map[[3]uint32]int{}
		for y := range image.Bounds().Dy() {
			for x := range image.Bounds().Dx() {
				r, g, b, _ := image.At(x, y).RGBA()
				colours[[3]uint32{r >> 8, g >> 8, b >> 8}]++
			}
		}
		assert.Greater(t, len(colours), 100, "text is drawn")
		coloured := 0
		for c, n := range colours {
			if max(c[0], c[1], c[2])-min(c[0], c[1], c[2]) > 60 {
				coloured += n
			}
		}
		assert.Greater(t, coloured, 2000, "the plots are drawn")
	}
}
