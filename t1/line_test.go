package t1

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// line connects an engine with a card and ruins blocks on the way.
type line struct {
	edc  EDC
	nad  byte
	card *card
	// ruin decides about the next block in either direction: 0 leaves it alone,
	// 1 damages it, 2 loses it. ask makes the card ask for something first.
	ruin   func() int
	ask    func() int
	blocks int // from the host
}

// exchange carries one block to the card and tells the engine what comes back.
func (l *line) exchange(e *Engine, step Step) (Step, error) {
	l.blocks++
	b, ok := decode(step.Send, l.edc)
	if !ok {
		return Step{}, errors.New("the host sends a bad block")
	}
	var reply wire
	switch l.ruin() {
	case 1:
		reply = l.card.damaged(1)
	case 2:
		return e.NoAnswer()
	default:
		reply = l.card.take(b)
	}
	if !l.card.request.set && reply.pcb&0xC0 != 0xC0 {
		switch n := l.ask(); {
		case n == 0:
		case n < 255:
			reply = l.card.instead(reply, 0xC1, string([]byte{byte(n)}))
		default:
			reply = l.card.instead(reply, 0xC3, "\x02")
		}
	}
	raw := encode(reply, l.nad<<4|l.nad>>4, l.edc)
	switch l.ruin() {
	case 1:
		raw[l.blocks%len(raw)] ^= 0x20

		return e.Receive(raw)
	case 2:
		return e.NoAnswer()
	}

	return e.Receive(raw)
}

func (l *line) run(e *Engine, step Step, err error) ([]byte, error) {
	for err == nil && !step.Done {
		step, err = l.exchange(e, step)
	}

	return step.Response, err
}

// Every information field size of either side, every error detection code, and
// lengths around the edges of a block: nothing is lost, doubled or exchanged.
func TestEveryIFS(t *testing.T) {
	for ifs := 1; ifs <= maxINF; ifs++ {
		edc := EDC(ifs % 3)
		lengths := []int{0, 1, ifs - 1, ifs, ifs + 1, 3*ifs + 1}
		if ifs%50 == 1 || ifs == maxINF {
			lengths = append(lengths, MaxResponse)
		}
		for _, length := range lengths {
			command := pattern(length, byte(ifs))
			answer := pattern(length, byte(length))
			l := &line{edc: edc, nad: 0x21, ruin: never, ask: never}
			l.card = newCard(ifs, ifs, func(got []byte) []byte {
				require.Equal(t, command, append([]byte{}, got...))

				return answer
			})
			e, err := New(Config{EDC: edc, IFSC: ifs, IFSD: ifs, NAD: l.nad})
			require.NoError(t, err)
			for range 3 {
				step, err := e.Transmit(command)
				got, err := l.run(e, step, err)
				require.NoError(t, err)
				require.Equal(t, answer, append([]byte{}, got...))
			}
			require.Equal(t, 3, l.card.executed)
		}
	}
}

func never() int { return 0 }

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i) + byte(i>>8)*31
	}

	return b
}

// Any sizes, payloads up to 65 KB, a line that ruins blocks and a card that asks
// for time and changes its IFSC: the answer is right and the command executed
// once, or the caller is told.
func TestLossyLine(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		edc := EDC(rapid.IntRange(0, 2).Draw(r, "edc"))
		ifsc := rapid.IntRange(1, maxINF).Draw(r, "IFSC")
		ifsd := rapid.IntRange(1, maxINF).Draw(r, "IFSD")
		rate := rapid.SampledFrom([]int{0, 0, 1, 3, 10, 40}).Draw(r, "ruined percent")
		asks := rapid.SampledFrom([]int{0, 1, 10}).Draw(r, "asks percent")
		noise := rapid.Uint32Range(1, 1<<31).Draw(r, "noise")
		// The noise itself is not drawn: there may be a hundred thousand blocks.
		next := func(n int) int {
			noise ^= noise << 13
			noise ^= noise >> 17
			noise ^= noise << 5

			return int(noise>>3) % n
		}
		l := &line{edc: edc, ruin: func() int {
			if next(100) < rate {
				return 1 + next(2)
			}

			return 0
		}, ask: func() int {
			if next(100) < asks {
				return 1 + next(255)
			}

			return 0
		}}
		var answer []byte
		l.card = newCard(ifsc, 32, func([]byte) []byte { return answer })
		e, err := New(Config{EDC: edc, IFSC: ifsc})
		require.NoError(r, err)
		step, err := e.NegotiateIFSD(ifsd)
		if _, err = l.run(e, step, err); err == nil {
			require.Equal(r, ifsd, l.card.ifsd)
		}
		for i := range 3 {
			if errors.Is(err, ErrNeedReset) {
				l.card.powerUp()
				require.NoError(r, e.Reset(Config{EDC: edc, IFSC: ifsc}))
			}
			length := rapid.OneOf(rapid.IntRange(0, 600), rapid.IntRange(0, 65544)).Draw(r, "command length")
			command := pattern(length, byte(i))
			answer = pattern(rapid.OneOf(rapid.IntRange(0, 600), rapid.IntRange(0, MaxResponse)).Draw(r, "answer length"), byte(i+7))
			l.card.executed, l.card.taken, l.blocks = 0, nil, 0
			step, err = e.Transmit(command)
			var got []byte
			got, err = l.run(e, step, err)
			require.True(r, bytes.HasPrefix(command, l.card.taken), "the card was given other bytes")
			require.LessOrEqual(r, l.card.executed, 1)
			var failure *Error
			switch {
			case err == nil:
				require.True(r, bytes.Equal(answer, got), "wrong answer")
				require.Equal(r, 1, l.card.executed)
				require.Len(r, l.card.taken, len(command))
			case errors.As(err, &failure) && failure.Delivered == PartlySent:
				require.Zero(r, l.card.executed)
			default:
				require.ErrorAs(r, err, &failure)
				require.NotZero(r, rate, "nothing was ruined, but %v", err)
			}
		}
	})
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	for _, edc := range []EDC{LRC, CRC} {
		x := newSteady(t, edc)
		x.run() // the response buffer grows once
		require.Zero(t, testing.AllocsPerRun(50, x.run))
	}
}

// steady is an exchange that chains both ways, with its blocks made in advance.
type steady struct {
	t       testing.TB
	e       *Engine
	command []byte
	card    [][]byte
}

const steadyBlocks = 8 // from the card, in each exchange

func newSteady(t testing.TB, edc EDC) *steady {
	e, err := New(Config{EDC: edc, IFSC: 254, IFSD: 254})
	require.NoError(t, err)
	x := &steady{t: t, e: e, command: make([]byte, 4*254)}
	put := func(pcb PCB, inf []byte) {
		x.card = append(x.card, appendBlock(nil, Block{PCB: pcb, INF: inf}, edc))
	}
	for i := byte(1); i < 4; i++ {
		put(RPCB(i, RNoError), nil)
	}
	put(WTXRequest, []byte{1})
	for i := byte(0); i < 4; i++ {
		put(IPCB(i, i < 3), make([]byte, 254))
	}

	return x
}

func (x *steady) run() {
	step, err := x.e.Transmit(x.command)
	for i := 0; err == nil && !step.Done; i++ {
		step, err = x.e.Receive(x.card[i])
	}
	if err != nil || len(step.Response) != 4*254 {
		x.t.Fatal(err)
	}
}

func BenchmarkExchange(b *testing.B) {
	for _, edc := range []EDC{LRC, CRC} {
		b.Run(edc.String(), func(b *testing.B) {
			x := newSteady(b, edc)
			x.run()
			b.ReportAllocs()
			b.SetBytes(8 * 254)
			for b.Loop() {
				x.run()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/steadyBlocks, "ns/block")
		})
	}
}

func BenchmarkParseBlock(b *testing.B) {
	for _, edc := range []EDC{LRC, CRC} {
		b.Run(edc.String(), func(b *testing.B) {
			raw := appendBlock(nil, Block{INF: make([]byte, 254)}, edc)
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := ParseBlock(raw, edc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
