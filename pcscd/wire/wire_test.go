package wire

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// field is one field of a message as a C compiler laid it out.
type field struct {
	name           string
	offset, length int
}

// layout is what testdata/layout-*.txt say.
type layout struct {
	constants map[string]int64
	sizes     map[string]int
	fields    map[string][]field
}

func readLayout(t *testing.T, path string) layout {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	l := layout{constants: map[string]int64{}, sizes: map[string]int{}, fields: map[string][]field{}}
	var current string
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 0, 64)
		require.NoError(t, err)
		return n
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "const":
			l.constants[words[1]] = number(words[2])
		case "struct":
			current = words[1]
			l.sizes[current] = int(number(words[2]))
		case "field":
			l.fields[current] = append(l.fields[current], field{words[1], int(number(words[2])), int(number(words[3]))})
		}
	}
	return l
}

// sample is a message whose every field has a value of its own, and those values by the names of the C fields.
type sample struct {
	encoded []byte
	values  map[string][]byte
}

func le(v uint32) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)} }

func padded(s string, n int) []byte { return append([]byte(s), make([]byte, n-len(s))...) }

func samples() map[string]sample {
	atr := bytes.Repeat([]byte{0x3B}, MaxATR)
	attribute := &Attribute{Card: 0x11121314, ID: 0x21222324, Length: 0x31323334, Code: 0x41424344}
	for i := range attribute.Data {
		attribute.Data[i] = byte(i) | 1
	}
	return map[string]sample{
		"Version": {
			Version{Major: 0x01020304, Minor: 0x11121314, Code: 0x21222324}.Append(nil),
			map[string][]byte{"major": le(0x01020304), "minor": le(0x11121314), "rv": le(0x21222324)},
		},
		"Establish": {
			Establish{Scope: 0x01020304, Context: 0x11121314, Code: 0x21222324}.Append(nil),
			map[string][]byte{"dwScope": le(0x01020304), "hContext": le(0x11121314), "rv": le(0x21222324)},
		},
		"Release": {
			Release{Context: 0x01020304, Code: 0x11121314}.Append(nil),
			map[string][]byte{"hContext": le(0x01020304), "rv": le(0x11121314)},
		},
		"Connect": {
			Connect{
				Context: 0x01020304, Reader: "Reader 00 00", ShareMode: 0x11121314, PreferredProtocols: 0x21222324,
				Card: 0x31323334, ActiveProtocol: 0x41424344, Code: 0x51525354,
			}.Append(nil),
			map[string][]byte{
				"hContext": le(0x01020304), "szReader": padded("Reader 00 00", 128), "dwShareMode": le(0x11121314),
				"dwPreferredProtocols": le(0x21222324), "hCard": le(0x31323334), "dwActiveProtocol": le(0x41424344), "rv": le(0x51525354),
			},
		},
		"Reconnect": {
			Reconnect{
				Card: 0x01020304, ShareMode: 0x11121314, PreferredProtocols: 0x21222324, Initialization: 0x31323334,
				ActiveProtocol: 0x41424344, Code: 0x51525354,
			}.Append(nil),
			map[string][]byte{
				"hCard": le(0x01020304), "dwShareMode": le(0x11121314), "dwPreferredProtocols": le(0x21222324),
				"dwInitialization": le(0x31323334), "dwActiveProtocol": le(0x41424344), "rv": le(0x51525354),
			},
		},
		"Disconnect": {
			Disconnect{Card: 0x01020304, Disposition: 0x11121314, Code: 0x21222324}.Append(nil),
			map[string][]byte{"hCard": le(0x01020304), "dwDisposition": le(0x11121314), "rv": le(0x21222324)},
		},
		"Begin": {
			Begin{Card: 0x01020304, Code: 0x11121314}.Append(nil),
			map[string][]byte{"hCard": le(0x01020304), "rv": le(0x11121314)},
		},
		"End": {
			End{Card: 0x01020304, Disposition: 0x11121314, Code: 0x21222324}.Append(nil),
			map[string][]byte{"hCard": le(0x01020304), "dwDisposition": le(0x11121314), "rv": le(0x21222324)},
		},
		"Cancel": {
			Cancel{Context: 0x01020304, Code: 0x11121314}.Append(nil),
			map[string][]byte{"hContext": le(0x01020304), "rv": le(0x11121314)},
		},
		"Status": {
			Status{Card: 0x01020304, Code: 0x11121314}.Append(nil),
			map[string][]byte{"hCard": le(0x01020304), "rv": le(0x11121314)},
		},
		"Transmit": {
			Transmit{
				Card: 0x01020304, SendPCI: PCI{0x11121314, 0x21222324}, SendLength: 0x31323334,
				ReceivePCI: PCI{0x41424344, 0x51525354}, ReceiveLength: 0x61626364, Code: 0x71727374,
			}.Append(nil),
			map[string][]byte{
				"hCard": le(0x01020304), "ioSendPciProtocol": le(0x11121314), "ioSendPciLength": le(0x21222324), "cbSendLength": le(0x31323334),
				"ioRecvPciProtocol": le(0x41424344), "ioRecvPciLength": le(0x51525354), "pcbRecvLength": le(0x61626364), "rv": le(0x71727374),
			},
		},
		"Control": {
			Control{
				Card: 0x01020304, ControlCode: 0x11121314, SendLength: 0x21222324, ReceiveLength: 0x31323334,
				Returned: 0x41424344, Code: 0x51525354,
			}.Append(nil),
			map[string][]byte{
				"hCard": le(0x01020304), "dwControlCode": le(0x11121314), "cbSendLength": le(0x21222324),
				"cbRecvLength": le(0x31323334), "dwBytesReturned": le(0x41424344), "rv": le(0x51525354),
			},
		},
		"Attribute": {
			attribute.Append(nil),
			map[string][]byte{
				"hCard": le(0x11121314), "dwAttrId": le(0x21222324), "pbAttr": attribute.Data[:],
				"cbAttrLen": le(0x31323334), "rv": le(0x41424344),
			},
		},
		"ReaderState": {
			ReaderState{
				Name: "Reader 00 00", EventCounter: 0x01020304, State: 0x11121314, Sharing: 0x21222324, ATR: atr, Known: true,
				Protocol: 0x31323334,
			}.Append(nil),
			map[string][]byte{
				"readerName": padded("Reader 00 00", 128), "eventCounter": le(0x01020304), "readerState": le(0x11121314),
				"readerSharing": le(0x21222324), "cardAtr": atr, "cardAtrLength": le(MaxATR), "cardProtocol": le(0x31323334),
			},
		},
	}
}

func TestMessagesHaveTheLayoutThatCCompilersGaveThem(t *testing.T) {
	for _, file := range []string{"testdata/layout-1.9.5.txt", "testdata/layout-2.5.1.txt"} {
		l := readLayout(t, file)
		known := samples()
		require.Len(t, l.sizes, len(known), file)
		for name, size := range l.sizes {
			s, ok := known[name]
			require.True(t, ok, "%s: %s", file, name)
			require.Len(t, s.encoded, size, "%s: %s", file, name)
			require.NotEmpty(t, l.fields[name])
			for _, f := range l.fields[name] {
				want, ok := s.values[f.name]
				require.True(t, ok, "%s: %s.%s", file, name, f.name)
				require.Equal(t, want, s.encoded[f.offset:f.offset+f.length], "%s: %s.%s", file, name, f.name)
			}
		}
	}
}

func TestEveryByteOfAMessageBelongsToAField(t *testing.T) {
	padding := map[string][]byte{"ReaderState": make([]byte, 3)}
	for name, s := range samples() {
		n := len(padding[name])
		for _, v := range s.values {
			n += len(v)
		}
		assert.Equal(t, len(s.encoded), n, name)
	}
	assert.Equal(t, make([]byte, 3), samples()["ReaderState"].encoded[173:176])
}

func TestConstantsAreThoseOfTheCHeaders(t *testing.T) {
	ours := map[string]int64{
		"PROTOCOL_VERSION_MAJOR": MajorVersion, "MAX_READERNAME": MaxReaderName, "MAX_ATR_SIZE": MaxATR, "MAX_BUFFER_SIZE": MaxAttribute,
		"SCARD_ESTABLISH_CONTEXT": int64(CmdEstablishContext), "SCARD_RELEASE_CONTEXT": int64(CmdReleaseContext),
		"SCARD_LIST_READERS": int64(CmdListReaders), "SCARD_CONNECT": int64(CmdConnect), "SCARD_RECONNECT": int64(CmdReconnect),
		"SCARD_DISCONNECT": int64(CmdDisconnect), "SCARD_BEGIN_TRANSACTION": int64(CmdBeginTransaction),
		"SCARD_END_TRANSACTION": int64(CmdEndTransaction), "SCARD_TRANSMIT": int64(CmdTransmit), "SCARD_CONTROL": int64(CmdControl),
		"SCARD_STATUS": int64(CmdStatus), "SCARD_GET_STATUS_CHANGE": int64(CmdGetStatusChange), "SCARD_CANCEL": int64(CmdCancel),
		"SCARD_CANCEL_TRANSACTION": int64(CmdCancelTransaction), "SCARD_GET_ATTRIB": int64(CmdGetAttrib), "SCARD_SET_ATTRIB": int64(CmdSetAttrib),
		"CMD_VERSION": int64(CmdVersion), "CMD_GET_READERS_STATE": int64(CmdGetReadersState),
		"CMD_WAIT_READER_STATE_CHANGE": int64(CmdWait), "CMD_STOP_WAITING_READER_STATE_CHANGE": int64(CmdStopWaiting),
	}
	for file, minor := range map[string]int64{"testdata/layout-1.9.5.txt": Minor4, "testdata/layout-2.5.1.txt": Minor6} {
		constants := readLayout(t, file).constants
		require.Len(t, constants, len(ours)+1, file)
		for name, want := range constants {
			if name == "PROTOCOL_VERSION_MINOR" {
				assert.Equal(t, minor, want, file)
				continue
			}
			got, ok := ours[name]
			require.True(t, ok, name)
			assert.Equal(t, want, got, "%s: %s", file, name)
		}
	}
}

func TestBodySizesAreThoseOfTheMessages(t *testing.T) {
	messages := map[Command]string{
		CmdEstablishContext: "Establish", CmdReleaseContext: "Release", CmdConnect: "Connect", CmdReconnect: "Reconnect",
		CmdDisconnect: "Disconnect", CmdBeginTransaction: "Begin", CmdEndTransaction: "End", CmdTransmit: "Transmit",
		CmdControl: "Control", CmdStatus: "Status", CmdCancel: "Cancel", CmdGetAttrib: "Attribute", CmdSetAttrib: "Attribute",
		CmdVersion: "Version",
	}
	known := samples()
	for c := range Command(0x40) {
		size, ok := c.BodySize()
		if name, has := messages[c]; has {
			assert.True(t, ok, c)
			assert.Len(t, known[name].encoded, size, c)
			continue
		}
		assert.Zero(t, size, c)
		assert.Equal(t, c >= CmdGetReadersState && c <= CmdGetReadersStateArray, ok, c)
	}
}

func TestParsersRefuseEveryOtherLength(t *testing.T) {
	for _, p := range parsers() {
		for n := range 2*p.size + 2 {
			if n == p.size {
				continue
			}
			_, err := p.reencode(make([]byte, n))
			var length *LengthError
			require.ErrorAs(t, err, &length, "%s of %d bytes", p.name, n)
			assert.Equal(t, LengthError{What: p.name, Got: n, Want: p.size}, *length)
		}
	}
}

func TestReaderStateOfAReaderWhoseStatusIsNotKnown(t *testing.T) {
	b := ReaderState{Name: "R 00 00"}.Append(nil)
	assert.Equal(t, le(34), b[176:180])
	s, err := ParseReaderState(b)
	require.NoError(t, err)
	assert.Equal(t, ReaderState{Name: "R 00 00"}, s)
}

func TestReaderStateNeverExceedsTheClientsFields(t *testing.T) {
	b := ReaderState{Name: strings.Repeat("n", 300), ATR: make([]byte, 300), Known: true}.Append(nil)
	require.Len(t, b, ReaderStateSize)
	assert.Equal(t, byte(0), b[127], "the name ends inside its field")
	assert.Equal(t, le(MaxATR), b[176:180])
}

func TestReaderStateRefusesWhatWouldHarmAClient(t *testing.T) {
	good := ReaderState{Name: "R 00 00", Known: true}.Append(nil)
	long := bytes.Clone(good)
	copy(long[176:], le(35))
	_, err := ParseReaderState(long)
	require.Error(t, err)
	endless := bytes.Clone(good)
	copy(endless, bytes.Repeat([]byte{'x'}, 128))
	_, err = ParseReaderState(endless)
	require.ErrorIs(t, err, errNameNotTerminated)
}

func TestTableHasTheAnnouncedLength(t *testing.T) {
	states := []ReaderState{{Name: "A 00 00", Known: true}, {Name: "B 00 00", Known: true}, {Name: "C 00 00", Known: true}}
	for _, entries := range []int{0, 1, 2, 3, 4, 16, 32} {
		b := AppendTable([]byte("x"), states, entries)[1:]
		require.Len(t, b, entries*ReaderStateSize)
		table, err := ParseTable(b)
		require.NoError(t, err)
		for i, s := range table {
			if i < len(states) {
				assert.Equal(t, states[i].Name, s.Name)
			} else {
				assert.Equal(t, ReaderState{}, s)
			}
		}
	}
	_, err := ParseTable(make([]byte, ReaderStateSize+1))
	require.Error(t, err)
}

func TestConnectTakesANameThatFillsItsField(t *testing.T) {
	m := Connect{Reader: strings.Repeat("n", 128)}
	got, err := ParseConnect(m.Append(nil))
	require.NoError(t, err)
	assert.Equal(t, m, got)
}

func TestTableSizeIsNotNegative(t *testing.T) {
	_, err := ParseTableSize(le(0xFFFFFFFF))
	require.Error(t, err)
}

func TestCodesHaveTheNumbersOfTheStandard(t *testing.T) {
	for code, want := range map[Code]string{
		0: "SCARD_S_SUCCESS", 0x80100001: "SCARD_F_INTERNAL_ERROR", 0x80100002: "SCARD_E_CANCELLED", 0x80100003: "SCARD_E_INVALID_HANDLE",
		0x80100004: "SCARD_E_INVALID_PARAMETER", 0x80100006: "SCARD_E_NO_MEMORY", 0x80100008: "SCARD_E_INSUFFICIENT_BUFFER",
		0x80100009: "SCARD_E_UNKNOWN_READER", 0x8010000A: "SCARD_E_TIMEOUT", 0x8010000B: "SCARD_E_SHARING_VIOLATION",
		0x8010000C: "SCARD_E_NO_SMARTCARD", 0x8010000F: "SCARD_E_PROTO_MISMATCH", 0x80100011: "SCARD_E_INVALID_VALUE",
		0x80100013: "SCARD_F_COMM_ERROR", 0x80100014: "SCARD_F_UNKNOWN_ERROR", 0x80100016: "SCARD_E_NOT_TRANSACTED",
		0x80100017: "SCARD_E_READER_UNAVAILABLE", 0x8010001B: "SCARD_E_DUPLICATE_READER", 0x8010001D: "SCARD_E_NO_SERVICE",
		0x8010001E: "SCARD_E_SERVICE_STOPPED", 0x8010001F: "SCARD_E_UNSUPPORTED_FEATURE", 0x8010002E: "SCARD_E_NO_READERS_AVAILABLE",
		0x80100065: "SCARD_W_UNSUPPORTED_CARD", 0x80100066: "SCARD_W_UNRESPONSIVE_CARD", 0x80100067: "SCARD_W_UNPOWERED_CARD",
		0x80100068: "SCARD_W_RESET_CARD", 0x80100069: "SCARD_W_REMOVED_CARD", 0x8010006A: "SCARD_W_SECURITY_VIOLATION",
	} {
		assert.Equal(t, want, code.String())
	}
	assert.Equal(t, "Code(0x80100099)", Code(0x80100099).String())
	assert.Equal(t, "unknown PC/SC code 0x80100099", Code(0x80100099).Error())
	assert.Equal(t, "SCARD_E_NO_SMARTCARD (0x8010000C): no card in the reader", ErrNoSmartcard.Error())
}

func TestEveryCodeHasANameOfItsOwn(t *testing.T) {
	seen := map[string]Code{}
	for c, text := range codeTexts {
		assert.NotContains(t, seen, text.name)
		assert.NotEmpty(t, text.text)
		seen[text.name] = c
	}
}

func TestCodeAsError(t *testing.T) {
	require.NoError(t, Success.Err())
	require.ErrorIs(t, ErrResetCard.Err(), ErrResetCard)
	assert.False(t, errors.Is(ErrResetCard.Err(), ErrRemovedCard))
}

func TestNames(t *testing.T) {
	assert.Equal(t, "TRANSMIT", CmdTransmit.String())
	assert.Equal(t, "Command(0x18)", Command(0x18).String())
	assert.Equal(t, "Command(0x0)", Command(0).String())
	assert.Equal(t, "exclusive shared direct ShareMode(9)", strings.Join([]string{Exclusive.String(), Shared.String(), Direct.String(), ShareMode(9).String()}, " "))
	assert.Equal(t, "leave reset unpower eject Disposition(4)", strings.Join([]string{
		LeaveCard.String(), ResetCard.String(), UnpowerCard.String(), EjectCard.String(), Disposition(4).String(),
	}, " "))
	assert.Equal(t, "T=0|T=1", ProtocolAny.String())
	assert.Equal(t, "undefined", ProtocolUndefined.String())
	assert.Equal(t, "present|powered|negotiable|0x100", (StatePresent | StatePowered | StateNegotiable | 0x100).String())
}
