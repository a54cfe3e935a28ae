//go:build linux

package cross

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/test/vm/vmtest"
	"github.com/goccid/goccid/virtual/card"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kind is a kind of virtual reader, with its card.
type kind struct {
	name, spec string
	protocol   string // of the card, for client.connect
	// refusesExtended says that libccid takes no APDUs of extended length for this kind.
	refusesExtended bool
	// tpdu says that applications send TPDUs: T=0 below APDU level.
	tpdu bool
	// dense is up to which length all edges are tried, long are lengths beyond that. libccid leaves the blocks of a character
	// level reader at 32 bytes, each of which takes three messages there and back, so 64 KiB take half a minute.
	dense int
	long  []int
	// simplify are what is done to both drivers' sessions before they are compared.
	simplify []func([]exchange) []exchange
}

// kinds are readers that libccid knows, some at other exchange levels than theirs.
func kinds() []kind {
	characters, blocks := []func([]exchange) []exchange{joinCharacters}, []func([]exchange) []exchange{joinCharacters, joinBlocks}
	const short, extended = 256, 1100
	tooLong, few, most := []int{257, 5000, 65535}, []int{4096, 65535}, []int{2048, 4096, 16384, 32767, 32768, 65534, 65535, 65536}
	return []kind{
		{name: "character-t0", spec: "reader=gempctwin,level=character,card=t0", protocol: "t0", refusesExtended: true, tpdu: true, dense: short, long: tooLong, simplify: characters},
		{name: "character-t1", spec: "reader=gempctwin,level=character,card=t1", protocol: "t1", dense: short, long: []int{257, 1024}, simplify: blocks},
		{name: "tpdu-t0", spec: "reader=scr3310,card=t0", protocol: "t0", refusesExtended: true, tpdu: true, dense: short, long: tooLong},
		{name: "tpdu-t1", spec: "reader=scr3310,card=t1", protocol: "t1", dense: extended, long: few},
		{name: "short-t0", spec: "reader=gempctwin,level=short,card=t0", protocol: "t0", refusesExtended: true, dense: short, long: tooLong},
		{name: "short-t1", spec: "reader=gempctwin,level=short,card=t1", protocol: "t1", refusesExtended: true, dense: short, long: tooLong},
		{name: "extended-t0", spec: "reader=gempctwin,level=extended,message=65556,card=t0", protocol: "t0", dense: extended, long: most},
		{name: "extended-t1", spec: "reader=yubikey-4,card=t1", protocol: "t1", dense: extended, long: most},
	}
}

// TestVMStockDriver has the stock daemon, driver and tools use a virtual reader of each kind.
func TestVMStockDriver(t *testing.T) {
	vmtest.Require(t)
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			requireVM(t)
			e := plugIn(t, k.spec)
			startDaemon(t)
			c := startClient(t)
			name := c.readers(t, 1)[0]
			atr, err := c.connect(name, k.protocol)
			require.NoError(t, err)
			t.Run("tools", func(t *testing.T) { useTools(t, name, atr) })
			t.Run("lengths", func(t *testing.T) { exchangeAllLengths(t, c, k) })
			logViolations(t, e)
		})
	}
}

func useTools(t *testing.T, name string, atr []byte) {
	assert.Contains(t, succeed(t, "opensc-tool", "-l"), name)
	colons := strings.ReplaceAll(fmt.Sprintf("% x", atr), " ", ":")
	assert.Contains(t, succeed(t, "opensc-tool", "-c", "default", "-a"), colons)
	sent := "00:A4:04:00:08:" + strings.ReplaceAll(fmt.Sprintf("% X", card.AID()), " ", ":")
	assert.Contains(t, succeed(t, "opensc-tool", "-c", "default", "-s", sent), "SW1=0x90, SW2=0x00")
	scanned := succeed(t, "pcsc_scan", "-n", "-t", "1")
	assert.Contains(t, scanned, name)
	assert.Contains(t, scanned, fmt.Sprintf("% X", atr))
}

func logViolations(t *testing.T, e *exported) {
	t.Helper()
	count := map[string]int{}
	for _, v := range e.Violations() {
		count[fmt.Sprintf("%s: %s", v.Rule, v.Detail)]++
	}
	for text, n := range count {
		t.Logf("libccid broke a rule %d times: %s", n, text)
	}
}

// lengths are those of command and response data: the edges of APDUs, T=1 blocks, USB packets and CCID messages, and some
// between.
func lengths(k kind) []int {
	list := []int{0, 1, 2, 3, 100, 200}
	for _, edge := range []int{16, 32, 54, 64, 118, 128, 182, 246, 252, 255, 257, 261, 300, 502, 508, 512, 1014, 1024} {
		list = append(list, edge-1, edge, edge+1)
	}
	list = slices.DeleteFunc(list, func(n int) bool { return n > k.dense })
	list = append(list, k.long...)
	slices.Sort(list)
	return slices.Compact(list)
}

// operation is a command whose data or response has a length that can be chosen.
type operation struct {
	name string
	// longest is its greatest length, longestShort that of a short APDU.
	longest, longestShort int
	command               func(n int) []byte
	response              func(n int) []byte
}

func operations() []operation {
	data := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = card.Pattern(i)
		}
		return b
	}
	ok := func(b []byte) []byte { return append(b, 0x90, 0x00) }
	return []operation{
		{"produce", 65536, 256, func(n int) []byte {
			if n == 0 {
				return []byte{0x80, 0xEC, 0, 0} // case 1
			}
			return withLe([]byte{0x80, 0xEE, 0, 0}, n)
		}, func(n int) []byte { return ok(data(n)) }},
		{"take", 65535, 255, func(n int) []byte {
			return withData([]byte{0x80, 0xEC, 0, 0}, data(n))
		}, func(int) []byte { return ok(nil) }},
		{"echo", 65535, 255, func(n int) []byte {
			if n == 0 {
				return []byte{0x80, 0xEC, 0, 0}
			}
			return withMaximum(withData([]byte{0x80, 0xEC, 0, 0}, data(n)))
		}, func(n int) []byte { return ok(data(n)) }},
	}
}

// withLe makes an APDU of case 2 for n bytes (1..65,536).
func withLe(header []byte, n int) []byte {
	if n <= 256 {
		return append(header, byte(n))
	}
	return append(header, 0, byte(n>>8), byte(n))
}

// withData makes an APDU of case 3 (1..65,535 bytes), or 1.
func withData(header, data []byte) []byte {
	switch n := len(data); {
	case n == 0:
		return header
	case n <= 255:
		return append(append(header, byte(n)), data...)
	default:
		return append(append(header, 0, byte(n>>8), byte(n)), data...)
	}
}

// withMaximum makes an APDU of case 4 of one of case 3.
func withMaximum(command []byte) []byte {
	if command[4] == 0 {
		return append(command, 0, 0)
	}
	return append(command, 0)
}

// exchangeAllLengths sends APDUs of all lengths. What libccid takes must be answered rightly; it must refuse what the kind says,
// and nothing else.
func exchangeAllLengths(t *testing.T, c *client, k kind) {
	started, exchanged := time.Now(), 0
	refused := map[string][]int{}
	for _, o := range operations() {
		for _, n := range lengths(k) {
			if n > o.longest {
				continue
			}
			response, err := transmitAPDU(c, k, o.command(n))
			exchanged++
			var refusal *failure
			switch {
			case errors.As(err, &refusal) && k.refusesExtended && n > o.longestShort:
				refused[o.name+" "+refusal.code] = append(refused[o.name+" "+refusal.code], n)
			case err != nil:
				require.NoError(t, err, "%s of %d bytes", o.name, n)
			default:
				assert.Equal(t, shortHex(o.response(n)), shortHex(response), "%s of %d bytes", o.name, n)
				assert.True(t, bytes.Equal(o.response(n), response), "%s of %d bytes", o.name, n)
				assert.False(t, k.refusesExtended && n > o.longestShort, "%s of %d bytes should be refused", o.name, n)
			}
		}
	}
	t.Logf("%d APDUs in %s", exchanged, time.Since(started).Round(time.Millisecond))
	for what, list := range refused {
		t.Logf("libccid refuses: %s %v", what, list)
	}
}

// transmitAPDU sends an APDU, or the TPDUs for it where an application has to make them.
func transmitAPDU(c *client, k kind, command []byte) ([]byte, error) {
	if !k.tpdu {
		return c.transmit(command)
	}
	if len(command) == 4 {
		command = append(command, 0)
	}
	wantsData := true
	if n := len(command); n > 5 && command[4] != 0 {
		wantsData = n == 5+int(command[4])+1 // case 4
		command = command[:5+int(command[4])]
	}
	response, err := c.transmit(command)
	if !wantsData && len(response) == 2 && response[0] == 0x61 {
		return []byte{0x90, 0x00}, err
	}
	var all []byte
	for err == nil && len(response) >= 2 && response[len(response)-2] == 0x61 {
		all = append(all, response[:len(response)-2]...)
		response, err = c.transmit([]byte{0x00, 0xC0, 0, 0, response[len(response)-1]})
	}
	return append(all, response...), err
}
