//go:build linux

package clients

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A T=1 card in a reader of a common kind.
const (
	usual     = "reader=gemalto-pc-twin,card=t1"
	usualName = "Gemalto PC Twin Reader 00 00"
	usualATR  = "3B 9C 96 81 31 FE 45 80 73 C0 01 C0 66 67 6F 63 63 69 64 90"
)

// TestPcscScanShowsReaderAndCard: pcsc_scan runs for ever, so it is stopped when it has shown what it should.
func TestPcscScanShowsReaderAndCard(t *testing.T) {
	need(t, "pcsc-tools", "pcsc_scan")
	d := goccidd(t, "--virtual", usual)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	scan := d.client(ctx, "pcsc_scan", "-n")
	printed := &output{}
	scan.Stdout, scan.Stderr = printed, printed
	require.NoError(t, scan.Start())
	assert.Eventually(t, func() bool {
		s := printed.String()
		return strings.Contains(s, "Reader 0: "+usualName) && strings.Contains(s, "ATR: "+usualATR)
	}, patience, tick, "%s", printed)
	cancel()
	_ = scan.Wait() // stopped
	t.Log(printed)
}

// TestPcscScanSeesReadersComeAndGo: the reader is pulled out and plugged in again while pcsc_scan waits, then the card.
func TestPcscScanSeesReadersComeAndGo(t *testing.T) {
	need(t, "pcsc-tools", "pcsc_scan")
	r := export(t, "--reader", "gemalto-pc-twin", "--card", "t1")
	d := goccidd(t, "--usbip", r.address)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	scan := d.client(ctx, "pcsc_scan", "-n")
	printed := &output{}
	scan.Stdout, scan.Stderr = printed, printed
	require.NoError(t, scan.Start())
	shown := 0
	await := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool {
			i := strings.Index(printed.String()[shown:], text)
			if i < 0 {
				return false
			}
			shown += i + len(text)
			return true
		}, patience, tick, "%q in %s", text, printed)
	}
	await("Card inserted")
	r.do(t, "unplug")
	await("Waiting for the first reader...")
	r.do(t, "plug")
	await("Card inserted")
	r.do(t, "remove")
	await("Card removed")
	r.do(t, "insert t1")
	await("Card inserted")
	cancel()
	_ = scan.Wait() // stopped
	assert.NotContains(t, d.log.String(), "level=error")
	assert.NotContains(t, d.log.String(), "level=warning")
	assert.Equal(t, 1, strings.Count(d.log.String(), "reader removed"), "lines about the removal: %s", d.log)
}

func TestOpenSCTool(t *testing.T) {
	need(t, "opensc", "opensc-tool")
	d := goccidd(t, "--virtual", usual)
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"lists readers", []string{"-l"}, []string{usualName, "Yes"}},
		{"prints the ATR", []string{"-a"}, []string{strings.ToLower(strings.ReplaceAll(usualATR, " ", ":"))}},
		{"sends APDUs", []string{"-s", "00A4000C023F00", "-s", "0084000008"}, []string{"SW1=0x90, SW2=0x00"}},
		{"resets the card", []string{"--reset=cold"}, nil},
		{"resets the card warm", []string{"--reset=warm"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			printed := d.run(t, "opensc-tool", tc.args...)
			for _, want := range tc.want {
				assert.Contains(t, printed, want)
			}
		})
	}
}

// TestScdaemon talks to GnuPG's smart card daemon by its own protocol. Its internal CCID driver is off; it shares the card.
func TestScdaemon(t *testing.T) {
	const program = "/usr/lib/gnupg/scdaemon"
	need(t, "scdaemon", program)
	d := goccidd(t, "--virtual", usual)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	home := t.TempDir()
	c := d.client(ctx, program, "--homedir", home, "--server", "--disable-ccid", "--pcsc-shared")
	c.Stdin = strings.NewReader("SERIALNO undefined\nGETINFO reader_list\nAPDU --atr\nAPDU 00A4000C023F00\nBYE\n")
	printed, err := c.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	t.Logf("%s", printed)
	assert.Contains(t, string(printed), "D "+usualName, "GETINFO reader_list")
	assert.Contains(t, string(printed), "S SERIALNO")
	assert.Contains(t, string(printed), "D \x90", "the answer to SELECT begins with SW1 90")
	assert.NotContains(t, string(printed), "ERR ")
}

// python runs a script with Debian's Python, which has pyscard.
func (d *daemon) python(t *testing.T, script string, args ...string) string {
	t.Helper()
	need(t, "python3-pyscard", "/usr/lib/python3/dist-packages/smartcard")
	return d.run(t, "/usr/bin/python3", append([]string{"programs/" + script}, args...)...)
}

// talk runs a Python script that says on a line what it wants done to the readers, and goes on when it is told.
func (d *daemon) talk(t *testing.T, r *readers, script string) string {
	t.Helper()
	need(t, "python3-pyscard", "/usr/lib/python3/dist-packages/smartcard")
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	c := d.client(ctx, "/usr/bin/python3", "programs/"+script)
	printed := &output{}
	c.Stderr = printed
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	for line := range lines(stdout) {
		_, _ = printed.Write([]byte(line + "\n"))
		if command, ok := strings.CutPrefix(line, "DO "); ok {
			r.do(t, command)
			_, err := stdin.Write([]byte("done\n"))
			require.NoError(t, err, "%s", printed)
		}
	}
	require.NoError(t, c.Wait(), "%s", printed)
	return printed.String()
}

func TestPyscardUsesACard(t *testing.T) {
	d := goccidd(t, "--virtual", usual)
	assert.Contains(t, d.python(t, "apdus.py"), "ok")
}

// TestLastReaderGoes: SCardListReaders says that there are no readers, the context stays, and readers that come later are
// seen in it, again and again.
func TestLastReaderGoes(t *testing.T) {
	r := export(t, "--reader", "gemalto-pc-twin", "--card", "t1")
	d := goccidd(t, "--usbip", r.address)
	printed := d.talk(t, r, "lastreader.py")
	assert.Contains(t, printed, "10 cycles")
	assert.NotContains(t, d.log.String(), "level=error")
	assert.NotContains(t, d.log.String(), "level=warning")
}

// TestPyscardWaitsForCard: CardRequest.waitforcard sees a card in a reader that was plugged in again.
func TestPyscardWaitsForCard(t *testing.T) {
	r := export(t, "--reader", "gemalto-pc-twin", "--card", "t1")
	d := goccidd(t, "--usbip", r.address)
	assert.Contains(t, d.talk(t, r, "waitforcard.py"), "3 cycles")
}

// TestUnplugUnderClients: the reader goes while clients are in Transmit, in GetStatusChange and in a transaction. All are told,
// soon, and the log has one line.
func TestUnplugUnderClients(t *testing.T) {
	r := export(t, "--reader", "gemalto-pc-twin", "--card", "t1")
	d := goccidd(t, "--usbip", r.address)
	printed := d.talk(t, r, "underclients.py")
	assert.Contains(t, printed, "5 cycles")
	t.Log(printed)
	for _, level := range []string{"level=warning", "level=error"} {
		assert.NotContains(t, d.log.String(), level)
	}
	assert.Eventually(t, func() bool { return strings.Count(d.log.String(), "reader removed") == 5 }, 5*time.Second, tick, "%s", d.log)
}
