package virtual

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
)

// TestPINIsWrittenWhereTheLayoutSays has the examples that cards in the field need.
func TestPINIsWrittenWhereTheLayoutSays(t *testing.T) {
	f := []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
	verify := func(data ...byte) []byte { return append([]byte{0, 0x20, 0, 1, byte(len(data))}, data...) }
	for _, test := range []struct {
		name   string
		apdu   []byte
		layout pinLayout
		offset int
		pin    []byte
		want   []byte
	}{
		{"ASCII, padded block", verify(f...), pinLayout{0x82, 0x08, 0}, 0, []byte{1, 2, 3, 4}, verify('1', '2', '3', '4', 0xFF, 0xFF, 0xFF, 0xFF)},
		{"ASCII, header alone", []byte{0, 0x20, 0, 1}, pinLayout{0x82, 0x00, 0}, 0, []byte{9, 8, 7, 6, 5}, verify('9', '8', '7', '6', '5')},
		{"ASCII, Lc of 0", []byte{0, 0x20, 0, 1, 0}, pinLayout{0x82, 0x00, 0}, 0, []byte{9, 8, 7, 6}, verify('9', '8', '7', '6')},
		{"ASCII, header alone, block", []byte{0, 0x20, 0, 1}, pinLayout{0x82, 0x06, 0}, 0, []byte{9, 8, 7, 6}, verify('9', '8', '7', '6', 0xFF, 0xFF)},
		{"BCD, odd", verify(f[:4]...), pinLayout{0x81, 0x04, 0}, 0, []byte{1, 2, 3, 4, 5}, verify(0x12, 0x34, 0x5F, 0xFF)},
		{"BCD, to the right", verify(f[:4]...), pinLayout{0x85, 0x04, 0}, 0, []byte{1, 2, 3, 4}, verify(0xFF, 0xFF, 0x12, 0x34)},
		{"binary with a prefix", verify(7, 0, 0), pinLayout{0x88, 0x02, 0}, 0, []byte{3, 4}, verify(7, 3, 4)},
		{"global platform", verify(0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF), pinLayout{0x89, 0x47, 0x04}, 0, []byte{1, 2, 3, 4, 5}, verify(0x25, 0x12, 0x34, 0x5F, 0xFF, 0xFF, 0xFF, 0xFF)},
		{"length in a byte, by bytes", verify(0, 0, 0xFF, 0xFF), pinLayout{0x92, 0x82, 0x11}, 0, []byte{1, 2}, verify(0, 2, '1', '2')},
		{"at a bit", verify(0, 0), pinLayout{4<<3 | 1, 0x01, 0}, 0, []byte{0xA, 0xB}, verify(0x0A, 0xB0)},
		{"insertion offset", verify(f...), pinLayout{0x82, 0x04, 0}, 4, []byte{1, 2, 3, 4}, verify(0xFF, 0xFF, 0xFF, 0xFF, '1', '2', '3', '4')},
		{"with Le", append(verify(0xFF, 0xFF), 0), pinLayout{0x82, 0x02, 0}, 0, []byte{1, 2}, append(verify('1', '2'), 0)},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, ok := parsePINCommand(test.apdu)
			require.True(t, ok)
			digits, ok := c.room(test.layout, test.offset)
			require.True(t, ok)
			require.GreaterOrEqual(t, digits, len(test.pin))
			c.write(test.layout, test.offset, test.pin)
			require.Equal(t, test.want, c.bytes())
		})
	}
}

func TestPINThatFitsNowhereIsFound(t *testing.T) {
	c, ok := parsePINCommand([]byte{0, 0x20, 0, 1, 2, 0xFF, 0xFF})
	require.True(t, ok)
	for _, layout := range []pinLayout{{0x82, 0x03, 0}, {0x8A, 0x02, 0}, {0x82, 0x11, 0x12}} {
		_, ok := c.room(layout, 0)
		require.False(t, ok, "%02X", layout)
	}
	_, ok = c.room(pinLayout{0x82, 0, 0}, 2)
	require.False(t, ok, "behind the end")
	for _, apdu := range [][]byte{nil, {0, 0x20, 0}, {0, 0x20, 0, 1, 2, 0}, {0, 0x20, 0, 1, 1, 0, 0, 0}, {0, 0x20, 0, 1, 0, 0, 1}} {
		_, ok := parsePINCommand(apdu)
		require.False(t, ok, "% X", apdu)
	}
}

func TestPINEntry(t *testing.T) {
	for _, test := range []struct {
		name, keys string
		condition  ccid.PINCondition
		want       []byte
		end        outcome
	}{
		{"confirmed", "1234#", ccid.PINKeyPressed, []byte{1, 2, 3, 4}, pinEntered},
		{"corrected", "19<<124<34#", ccid.PINKeyPressed, []byte{1, 2, 3, 4}, pinEntered},
		{"too short to confirm", "12#34#", ccid.PINKeyPressed, []byte{1, 2, 3, 4}, pinEntered},
		{"too many digits", "123456789#", ccid.PINKeyPressed, []byte{1, 2, 3, 4, 5, 6}, pinEntered},
		{"full", "123456", ccid.PINMaxSizeReached, []byte{1, 2, 3, 4, 5, 6}, pinEntered},
		{"cancelled", "12c", ccid.PINKeyPressed, nil, pinCancelled},
		{"nothing", "", ccid.PINKeyPressed, nil, pinTimedOut},
		{"no confirmation", "1234", ccid.PINKeyPressed, nil, pinTimedOut},
		{"time confirms", "1234", ccid.PINTimeOccurred, []byte{1, 2, 3, 4}, pinEntered},
		{"time confirms nothing", "12", ccid.PINTimeOccurred, nil, pinTimedOut},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPad()
				require.NoError(t, p.press(test.keys))
				begun, extensions := time.Now(), 0
				e := entry{
					pad: p, timeOut: 10 * time.Second, min: 4, max: 6, extend: func() { extensions++ },
					atMax: test.condition&1 != 0, atKey: test.condition&2 != 0, atTimeOut: test.condition&4 != 0,
				}
				got, end := e.read(t.Context())
				require.Equal(t, test.end, end)
				require.Equal(t, test.want, got)
				waited := time.Since(begun)
				require.InDelta(t, waited/extensionInterval, extensions, 1)
				require.Contains(t, []time.Duration{0, 10 * time.Second}, waited)
			})
		})
	}
}

func TestPINEntryWaitsForKeysAndEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPad()
		require.Error(t, p.press("12x"))
		e := entry{pad: p, timeOut: time.Minute, min: 1, max: 6, atKey: true, extend: func() {}}
		go func() {
			for _, key := range "789#" {
				time.Sleep(time.Second)
				_ = p.press(string(key))
			}
		}()
		got, end := e.read(t.Context())
		require.Equal(t, pinEntered, end)
		require.Equal(t, []byte{7, 8, 9}, got)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, end = e.read(ctx)
		require.Equal(t, pinAborted, end)
		require.True(t, p.take())
		require.False(t, p.take())
		p.give()
		require.True(t, p.take())
	})
}

func TestKeysNobodyReadsAreBounded(t *testing.T) {
	r, err := NewReader(Config{})
	require.NoError(t, err)
	require.NoError(t, r.Press(string(make0(maxKeys))))
	require.Error(t, r.Press("1"))
	_, err = NewReader(Config{PINPad: PINPad{Keys: "abc"}})
	require.Error(t, err)
	require.NoError(t, r.Close())
}

func make0(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = '0'
	}
	return b
}

func TestSpecOfAPINPad(t *testing.T) {
	for value, want := range map[string]ccid.PINSupport{"yes": 3, "no": 0, "verify": 1} {
		s, err := ParseSpec("reader=cherry-smartterminal-xx44,pinpad=" + value + ",keys=1234#")
		require.NoError(t, err)
		r, err := NewReader(s.Config)
		require.NoError(t, err)
		require.Equal(t, want, r.ClassDescriptor(0).BPINSupport)
		require.Equal(t, "1234#", s.Config.PINPad.Keys)
	}
	for _, bad := range []string{"pinpad=maybe", "keys=hello"} {
		_, err := ParseSpec(bad)
		require.Error(t, err)
	}
}
