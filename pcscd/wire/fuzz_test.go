package wire

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// parser is one parse function followed by the append method of what it gave.
type parser struct {
	name     string // as in LengthError
	size     int
	reencode func([]byte) ([]byte, error)
}

type appender interface{ Append([]byte) []byte }

func reencode[M appender](parse func([]byte) (M, error)) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		m, err := parse(b)
		if err != nil {
			return nil, err
		}
		return m.Append(nil), nil
	}
}

func parsers() []parser {
	return []parser{
		{"header", HeaderSize, reencode(ParseHeader)},
		{"version", VersionSize, reencode(ParseVersion)},
		{"establish", EstablishSize, reencode(ParseEstablish)},
		{"release", ReleaseSize, reencode(ParseRelease)},
		{"connect", ConnectSize, reencode(ParseConnect)},
		{"reconnect", ReconnectSize, reencode(ParseReconnect)},
		{"disconnect", DisconnectSize, reencode(ParseDisconnect)},
		{"begin", BeginSize, reencode(ParseBegin)},
		{"end", EndSize, reencode(ParseEnd)},
		{"transmit", TransmitSize, reencode(ParseTransmit)},
		{"control", ControlSize, reencode(ParseControl)},
		{"status", StatusSize, reencode(ParseStatus)},
		{"cancel", CancelSize, reencode(ParseCancel)},
		{"attribute", AttributeSize, reencode(ParseAttribute)},
		{"signal", SignalSize, reencode(ParseSignal)},
		{"reader events", ReaderEventsSize, reencode(ParseReaderEvents)},
		{"table size", TableSizeSize, reencode(ParseTableSize)},
		{"reader state", ReaderStateSize, reencode(ParseReaderState)},
	}
}

// fuzzParser demands: no panic; what is encoded again has the same size; bytes that carry no meaning (a name after its
// NUL, padding, an ATR beyond its length) are the only ones that may change, so a second round changes nothing.
func fuzzParser(f *testing.F, which string, seeds ...[]byte) {
	var p parser
	for _, p = range parsers() {
		if p.name == which {
			break
		}
	}
	f.Add(make([]byte, p.size))
	f.Add(bytes.Repeat([]byte{0xFF}, p.size))
	f.Add(make([]byte, p.size-1))
	for _, s := range seeds {
		f.Add(s)
	}
	meaningless := which == "connect" || which == "reader state"
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := p.reencode(b)
		if err != nil {
			require.Nil(t, once)
			return
		}
		require.Len(t, b, p.size)
		if !meaningless {
			require.Equal(t, b, once)
		}
		twice, err := p.reencode(once)
		require.NoError(t, err)
		require.Equal(t, once, twice)
	})
}

func FuzzHeader(f *testing.F) {
	fuzzParser(f, "header", Header{Size: 12, Command: CmdVersion}.Append(nil), Header{Command: CmdWait}.Append(nil))
}

func FuzzVersion(f *testing.F) {
	fuzzParser(f, "version", Version{Major: 4, Minor: 6}.Append(nil))
}

func FuzzEstablish(f *testing.F) { fuzzParser(f, "establish", samples()["Establish"].encoded) }

func FuzzRelease(f *testing.F) { fuzzParser(f, "release", samples()["Release"].encoded) }

func FuzzConnect(f *testing.F) { fuzzParser(f, "connect", samples()["Connect"].encoded) }

func FuzzReconnect(f *testing.F) { fuzzParser(f, "reconnect", samples()["Reconnect"].encoded) }

func FuzzDisconnect(f *testing.F) { fuzzParser(f, "disconnect", samples()["Disconnect"].encoded) }

func FuzzBegin(f *testing.F) { fuzzParser(f, "begin", samples()["Begin"].encoded) }

func FuzzEnd(f *testing.F) { fuzzParser(f, "end", samples()["End"].encoded) }

func FuzzTransmit(f *testing.F) { fuzzParser(f, "transmit", samples()["Transmit"].encoded) }

func FuzzControl(f *testing.F) { fuzzParser(f, "control", samples()["Control"].encoded) }

func FuzzStatus(f *testing.F) { fuzzParser(f, "status", samples()["Status"].encoded) }

func FuzzCancel(f *testing.F) { fuzzParser(f, "cancel", samples()["Cancel"].encoded) }

func FuzzAttribute(f *testing.F) { fuzzParser(f, "attribute", samples()["Attribute"].encoded) }

func FuzzSignal(f *testing.F) { fuzzParser(f, "signal", Signal{Code: ErrCancelled}.Append(nil)) }

func FuzzReaderEvents(f *testing.F) {
	fuzzParser(f, "reader events", ReaderEvents{Count: 32767}.Append(nil))
}

func FuzzTableSize(f *testing.F) { fuzzParser(f, "table size", TableSize(16).Append(nil)) }

func FuzzReaderState(f *testing.F) {
	fuzzParser(f, "reader state", samples()["ReaderState"].encoded, ReaderState{}.Append(nil))
}

// FuzzTable demands that a table that parses is encoded again to the same size, and to the same states.
func FuzzTable(f *testing.F) {
	f.Add(AppendTable(nil, nil, OldTableLen))
	f.Add(AppendTable(nil, []ReaderState{{Name: "A 00 00", Known: true, ATR: []byte{0x3B, 0}}}, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		states, err := ParseTable(b)
		if err != nil {
			require.Nil(t, states)
			return
		}
		again := AppendTable(nil, states, len(states))
		require.Len(t, again, len(b))
		same, err := ParseTable(again)
		require.NoError(t, err)
		require.Equal(t, states, same)
	})
}
