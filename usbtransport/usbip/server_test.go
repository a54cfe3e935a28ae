package usbip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// pipeListener is a listener in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	fail   chan error
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{}), fail: make(chan error)}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case err := <-l.fail:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(testing.TB) net.Conn {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
	case <-l.closed:
		_ = far.Close()
	}
	return near
}

// rig is a server with a loopback device on a virtual bus.
type rig struct {
	*pipeListener
	bus    *virtual.Bus
	device *virtual.Loopback
	stop   func()
}

// newRig starts a server; what it leaves open is found by synctest.
func newRig(t testing.TB, server Server) *rig {
	t.Helper()
	r := &rig{pipeListener: newPipeListener(), bus: virtual.NewBus(), device: virtual.NewLoopback()}
	_, err := r.bus.Plug(r.device)
	require.NoError(t, err)
	if server.Backend == nil {
		server.Backend = r.bus
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, r.pipeListener) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-served)
		_ = r.bus.Close()
	})
	t.Cleanup(r.stop)
	return r
}

// peer is a client whose every byte a test chooses.
type peer struct {
	testing.TB
	conn    net.Conn
	record  deviceRecord
	replies chan answer // closed when the connection ends

	mu       sync.Mutex
	sequence uint32
	in       map[uint32]bool
}

// answer is a reply with its data.
type answer struct {
	reply
	data string
}

// attach imports the device 1-1.
func (r *rig) attach(t testing.TB) *peer {
	t.Helper()
	p := &peer{TB: t, conn: r.dial(t), replies: make(chan answer, 1024), in: map[uint32]bool{}}
	t.Cleanup(func() { _ = p.conn.Close() })
	_, err := p.conn.Write(appendImportRequest(nil, "1-1"))
	require.NoError(t, err)
	p.record, err = readImportReply(p.conn)
	require.NoError(t, err)
	go p.read()
	return p
}

func (p *peer) read() {
	defer close(p.replies)
	for {
		b := make([]byte, headerSize)
		if _, err := io.ReadFull(p.conn, b); err != nil {
			return
		}
		r, err := parseReply(b)
		if !assert.NoError(p, err) {
			return
		}
		var data []byte
		p.mu.Lock()
		in := p.in[r.sequence]
		p.mu.Unlock()
		if r.kind == replySubmit && in {
			data = make([]byte, r.length)
			if _, err := io.ReadFull(p.conn, data); err != nil {
				return
			}
		}
		p.replies <- answer{reply: r, data: string(data)}
	}
}

// submit sends a command, and returns its sequence number. A connection that has ended is not an error here.
func (p *peer) submit(c command, data []byte) uint32 {
	p.mu.Lock()
	p.sequence++
	if c.sequence == 0 {
		c.sequence = p.sequence
	}
	p.in[c.sequence] = c.in
	p.mu.Unlock()
	if c.device == 0 {
		c.device = p.record.id()
	}
	_, _ = p.conn.Write(append(c.append(nil), data...))
	return c.sequence
}

func (p *peer) out(data string, flags uint32) uint32 {
	c := command{kind: commandSubmit, endpoint: virtual.LoopbackOut, length: len(data), flags: flags}
	return p.submit(c, []byte(data))
}

func (p *peer) read1(length int, flags uint32) uint32 {
	return p.submit(command{kind: commandSubmit, in: true, endpoint: virtual.LoopbackIn & 0x0F, length: length, flags: flagIn | flags}, nil)
}

func (p *peer) unlink(target uint32) uint32 {
	return p.submit(command{kind: commandUnlink, target: target}, nil)
}

// control makes a control transfer and waits for its end.
func (p *peer) control(requestType, request uint8, value, index, length uint16, data string) (string, status) {
	p.Helper()
	setup := usbtransport.Setup{RequestType: requestType, Request: request, Value: value, Index: index}
	in := requestType&0x80 != 0
	n := p.submit(command{kind: commandSubmit, in: in, length: int(length), setup: packSetup(setup, int(length))}, []byte(data))
	a := p.next()
	require.Equal(p, n, a.sequence)
	return a.data, a.status
}

// next waits for the next reply.
func (p *peer) next() answer {
	p.Helper()
	select {
	case a, more := <-p.replies:
		require.True(p, more, "the connection has ended")
		return a
	case <-time.After(time.Hour):
		require.FailNow(p, "no reply")
	}
	return answer{}
}

// nothing checks that no reply comes.
func (p *peer) nothing() {
	p.Helper()
	synctest.Wait()
	require.Empty(p, p.replies)
}

// ended checks that the connection ends, without another reply.
func (p *peer) ended() {
	p.Helper()
	select {
	case _, more := <-p.replies:
		require.False(p, more, "a reply")
	case <-time.After(time.Hour):
		require.FailNow(p, "the connection goes on")
	}
}

func submitted(sequence uint32, s status, data string) answer {
	return answer{reply: reply{kind: replySubmit, sequence: sequence, status: s, length: len(data)}, data: data}
}

func sent(sequence uint32, n int) answer {
	return answer{reply: reply{kind: replySubmit, sequence: sequence, length: n}}
}

func unlinkedAs(sequence uint32, s status) answer {
	return answer{reply: reply{kind: replyUnlink, sequence: sequence, status: s}}
}

func TestLinuxCanEnumerateADevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		assert.Equal(t, uint32(speedFull), p.record.speed)
		raw := string(virtual.NewLoopback().Describe().Descriptors)
		for _, length := range []uint16{8, 18, 64} {
			data, s := p.control(0x80, requestGetDescriptor, 0x0100, 0, length, "")
			assert.Equal(t, raw[:min(length, 18)], data)
			assert.Equal(t, statusSuccess, s)
		}
		_, s := p.control(0, requestSetAddress, 5, 0, 0, "")
		assert.Equal(t, statusSuccess, s)
		for _, length := range []uint16{9, uint16(len(raw) - 18), 4096, 0xFFFF} {
			data, s := p.control(0x80, requestGetDescriptor, 0x0200, 0, length, "")
			assert.Equal(t, raw[18:][:min(int(length), len(raw)-18)], data)
			assert.Equal(t, statusSuccess, s)
		}
		data, _ := p.control(0x80, requestGetDescriptor, 0x0300, 0, 255, "")
		assert.Equal(t, "\x04\x03\x09\x04", data)
		data, _ = p.control(0x80, requestGetDescriptor, 0x0302, 0x0409, 255, "")
		assert.Equal(t, "\x12\x03L\x00o\x00o\x00p\x00", data[:10])
		for _, c := range []struct {
			name                 string
			requestType, request uint8
			value, index         uint16
			want                 status
		}{
			{"device qualifier", 0x80, requestGetDescriptor, 0x0600, 0, statusStalled},
			{"set the only configuration", 0, requestSetConfiguration, 1, 0, statusSuccess},
			{"set no configuration", 0, requestSetConfiguration, 0, 0, statusSuccess},
			{"set another configuration", 0, requestSetConfiguration, 2, 0, statusStalled},
			{"set the only setting", 1, requestSetInterface, 0, 0, statusSuccess},
			{"set another setting", 1, requestSetInterface, 1, 0, statusStalled},
			{"set a setting of another interface", 1, requestSetInterface, 0, 7, statusStalled},
			{"clear the halt of endpoint 0", 2, requestClearFeature, 0, 0, statusSuccess},
			{"clear the halt of an endpoint", 2, requestClearFeature, 0, virtual.LoopbackIn, statusSuccess},
			{"clear the halt of no endpoint", 2, requestClearFeature, 0, 0x87, statusStalled},
			{"a class request to the interface", 0x21, 1, 0, 0, statusStalled},
			{"a class request to no interface", 0x21, 1, 0, 9, statusStalled},
			{"a vendor request to an endpoint", 0x42, 1, 0, virtual.LoopbackIn, statusStalled},
			{"a vendor request", 0x40, 1, 0, 0, statusStalled},
		} {
			_, got := p.control(c.requestType, c.request, c.value, c.index, 0, "")
			assert.Equal(t, c.want, got, c.name)
		}
	})
}

func TestControlRequestsThatContradictThemselvesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		get := packSetup(usbtransport.Setup{RequestType: 0x80, Request: requestGetDescriptor, Value: 0x0100}, 18)
		put := packSetup(usbtransport.Setup{RequestType: 0x40, Request: 1}, 4)
		long := packSetup(usbtransport.Setup{RequestType: 0x40, Request: 1}, usbtransport.MaxControl+1)
		for name, c := range map[string]command{
			"in, sent out":         {kind: commandSubmit, length: 18, setup: get},
			"out, asked for":       {kind: commandSubmit, in: true, length: 4, setup: put},
			"another length":       {kind: commandSubmit, length: 5, setup: put},
			"more than we can do":  {kind: commandSubmit, length: usbtransport.MaxControl + 1, setup: long},
			"no data, but wLength": {kind: commandSubmit, setup: put},
		} {
			n := p.submit(c, make([]byte, c.payload()))
			assert.Equal(t, submitted(n, statusStalled, ""), p.next(), name)
		}
		n := p.submit(command{kind: commandSubmit, in: true, length: 8, setup: get}, nil)
		assert.Len(t, p.next().data, 8, "the client's buffer is shorter than wLength: %d", n)
	})
}

func TestTransfersOfAnEndpointKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		var reads []uint32
		for range 5 {
			reads = append(reads, p.read1(64, 0))
		}
		p.nothing()
		for k, n := range reads {
			text := string(rune('a' + k))
			written := p.out(text, 0)
			got := []answer{p.next(), p.next()}
			assert.ElementsMatch(t, []answer{submitted(n, statusSuccess, text), sent(written, 1)}, got)
		}
	})
}

func TestTransfersAreTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		first, second, third := p.read1(64, 0), p.read1(64, 0), p.read1(64, 0)
		assert.Equal(t, unlinkedAs(p.unlink(second), statusTakenBack), p.next(), "one that waits for its turn")
		assert.Equal(t, unlinkedAs(p.unlink(first), statusTakenBack), p.next(), "one that is at work")
		assert.Equal(t, unlinkedAs(p.unlink(first), statusSuccess), p.next(), "one that has ended")
		assert.Equal(t, unlinkedAs(p.unlink(4711), statusSuccess), p.next(), "one that never was")
		n := p.out("x", 0)
		assert.ElementsMatch(t, []answer{submitted(third, statusSuccess, "x"), sent(n, 1)}, []answer{p.next(), p.next()})
	})
}

// TestTransfersAreTakenBackBeforeTheyCome has unlinks overtake their transfers, as Linux's client lets them.
func TestTransfersAreTakenBackBeforeTheyCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		first, written := p.read1(64, 0), p.out("x", 0)
		assert.ElementsMatch(t, []answer{submitted(first, statusSuccess, "x"), sent(written, 1)}, []answer{p.next(), p.next()})
		p.submit(command{kind: commandUnlink, sequence: 101, target: 100}, nil)
		p.nothing()
		early := command{kind: commandSubmit, sequence: 100, endpoint: virtual.LoopbackOut, length: 4}
		p.submit(early, []byte("lost"))
		assert.Equal(t, unlinkedAs(101, statusTakenBack), p.next())
		p.submit(command{kind: commandUnlink, sequence: 103, target: 100}, nil)
		assert.Equal(t, unlinkedAs(103, statusSuccess), p.next(), "it is over")

		read := command{kind: commandSubmit, sequence: 104, in: true, endpoint: virtual.LoopbackIn & 0x0F, length: 64, flags: flagIn}
		p.submit(read, nil)
		p.submit(command{kind: commandSubmit, sequence: 105, endpoint: virtual.LoopbackOut, length: 4}, []byte("kept"))
		assert.ElementsMatch(t, []answer{submitted(104, statusSuccess, "kept"), sent(105, 4)}, []answer{p.next(), p.next()})

		p.submit(command{kind: commandUnlink, sequence: 107, target: 106}, nil)
		p.submit(command{kind: commandUnlink, sequence: 108, target: 106}, nil)
		p.ended()
	})
}

func TestUnlinksOfWhatNeverComesAreBounded(t *testing.T) {
	s := newSession(newTape(nil, 0), usbtransport.DeviceInfo{}, deviceRecord{}, nil, silent())
	for n := range uint32(maxPending) {
		require.NoError(t, s.takeBack(command{kind: commandUnlink, sequence: 1 << 20, target: 1 + n}))
	}
	var broken *ProtocolError
	require.ErrorAs(t, s.takeBack(command{kind: commandUnlink, sequence: 1 << 20, target: 1 + maxPending}), &broken)
}

func TestReadsEndAsOnAWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		for _, c := range []struct {
			name   string
			data   string
			length int
			flags  uint32
			want   string
			status status
		}{
			{"short", "abc", 64, 0, "abc", statusSuccess},
			{"a buffer of no whole packets", "abc", 10, 0, "abc", statusSuccess},
			{"a full buffer of no whole packets", "abc", 3, 0, "abc", statusSuccess},
			{"more than the buffer", "abcdef", 3, 0, "abc", statusOverflow},
			{"an empty packet", "", 64, 0, "", statusSuccess},
			{"an empty packet, nothing asked for", "", 0, 0, "", statusSuccess},
			{"something, nothing asked for", "abc", 0, 0, "", statusOverflow},
			{"short, which is an error", "abc", 64, flagShortNotOK, "abc", statusShortPacket},
			{"not short, where that is an error", "abc", 3, flagShortNotOK, "abc", statusSuccess},
		} {
			n := p.out(c.data, 0)
			assert.Equal(t, sent(n, len(c.data)), p.next(), c.name)
			n = p.read1(c.length, c.flags)
			assert.Equal(t, submitted(n, c.status, c.want), p.next(), c.name)
		}
	})
}

func TestTheEmptyPacketAtTheEndIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		packet := string(bytes.Repeat([]byte{'x'}, 64))
		var written []uint32
		for _, w := range []struct {
			data  string
			flags uint32
		}{{packet, 0}, {"", 0}, {packet, flagZeroPacket}, {"", 0}, {"", 0}, {packet, 0}, {"y", 0}} {
			written = append(written, p.out(w.data, w.flags))
		}
		for _, n := range written {
			assert.Equal(t, n, p.next().sequence)
		}
		for _, want := range []string{packet, packet, "", "", packet, "y"} {
			n := p.read1(128, 0)
			assert.Equal(t, submitted(n, statusSuccess, want), p.next())
		}
		p.read1(128, 0)
		p.nothing()
	})
}

func TestStallsLastUntilTheyAreCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Server{})
		p := r.attach(t)
		r.device.Stall(virtual.LoopbackIn)
		for range 2 {
			assert.Equal(t, statusStalled, (<-wait(p, p.read1(64, 0))).status)
		}
		_, s := p.control(2, requestClearFeature, featureHalt, virtual.LoopbackIn, 0, "")
		require.Equal(t, statusSuccess, s)
		p.out("a", 0)
		p.next()
		assert.Equal(t, "a", (<-wait(p, p.read1(64, 0))).data)
		for _, clear := range []struct {
			requestType, request uint8
			value                uint16
		}{{0, requestSetConfiguration, 1}, {1, requestSetInterface, 0}} {
			r.device.Stall(virtual.LoopbackOut)
			assert.Equal(t, statusStalled, (<-wait(p, p.out("b", 0))).status)
			_, s = p.control(clear.requestType, clear.request, clear.value, 0, 0, "")
			require.Equal(t, statusSuccess, s)
			assert.Equal(t, statusSuccess, (<-wait(p, p.out("b", 0))).status)
			assert.Equal(t, "b", (<-wait(p, p.read1(64, 0))).data)
		}
	})
}

// wait returns a channel with the next reply, which must be that to a command.
func wait(p *peer, sequence uint32) <-chan answer {
	p.Helper()
	a := p.next()
	require.Equal(p, sequence, a.sequence)
	one := make(chan answer, 1)
	one <- a
	return one
}

func TestAResetOfThePortResetsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		p.out("lost", 0)
		p.next()
		_, s := p.control(recipientPort, requestSetFeature, featurePortReset, 1, 0, "")
		require.Equal(t, statusSuccess, s)
		p.read1(64, 0)
		p.nothing()
	})
}

func TestEndpointsThatCannotBeServedStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRig(t, Server{}).attach(t)
		for _, c := range []command{
			{kind: commandSubmit, endpoint: 9, length: 3},
			{kind: commandSubmit, endpoint: 9, in: true, length: 3},
			{kind: commandSubmit, endpoint: virtual.LoopbackOut, in: true, length: 3},
		} {
			n := p.submit(c, make([]byte, c.payload()))
			assert.Equal(t, submitted(n, statusStalled, ""), p.next())
		}
	})
}

func TestRemovalEndsTheConnection(t *testing.T) {
	for name, use := range map[string]func(*peer){
		"an idle one":             func(*peer) {},
		"one with a transfer":     func(p *peer) { p.read1(64, 0) },
		"one with some transfers": func(p *peer) { p.read1(64, 0); p.read1(64, 0); p.read1(64, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Server{})
				p := r.attach(t)
				use(p)
				synctest.Wait()
				r.bus.Unplug(r.device)
				for a := range p.replies {
					assert.Equal(t, statusGone, a.status)
				}
			})
		})
	}
}

func TestADeviceHasOneClientAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Server{})
		p := r.attach(t)
		refused := func(busID string) error {
			conn := r.dial(t)
			defer conn.Close()
			_, err := conn.Write(appendImportRequest(nil, busID))
			require.NoError(t, err)
			_, err = readImportReply(conn)
			return err
		}
		start := time.Now()
		assert.Equal(t, refusal(statusBusy), refused("1-1"))
		assert.LessOrEqual(t, time.Since(start), handover+handoverInterval)
		assert.Equal(t, refusal(statusNoDevice), refused("1-2"))
		p.read1(64, 0)
		synctest.Wait()
		require.NoError(t, p.conn.Close())
		r.attach(t)
	})
}

func TestClientsThatBreakRulesAreSentAway(t *testing.T) {
	read := command{kind: commandSubmit, in: true, endpoint: virtual.LoopbackIn & 0x0F, length: 64}
	header := func(offset int, value uint32) func(*peer) {
		return func(p *peer) {
			c := read
			c.device, c.sequence = p.record.id(), 1
			b := c.append(nil)
			binary.BigEndian.PutUint32(b[offset:], value)
			_, _ = p.conn.Write(b)
		}
	}
	for name, offend := range map[string]func(*peer){
		"a reply":              header(0, replySubmit),
		"another device":       header(8, 0x7_0007),
		"direction":            header(12, 2),
		"endpoint":             header(16, 16),
		"4,294,967,295 bytes":  header(24, 0xFFFFFFFF),
		"isochronous transfer": header(32, 3),
		"a sequence number used again": func(p *peer) {
			c := read
			c.sequence = 7
			p.submit(c, nil)
			p.submit(c, nil)
		},
		"too many transfers": func(p *peer) {
			for range maxPending + 1 {
				p.submit(read, nil)
			}
		},
		"a command that does not end": func(p *peer) { _, _ = p.conn.Write(read.append(nil)[:30]) },
		"data that do not end": func(p *peer) {
			p.submit(command{kind: commandSubmit, endpoint: virtual.LoopbackOut, length: 64}, []byte("abc"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Server{})
				p := r.attach(t)
				start := time.Now()
				offend(p)
				for range p.replies { // a taken-back transfer may have been answered
				}
				assert.LessOrEqual(t, time.Since(start), restDeadline)
				synctest.Wait()
				r.attach(t) // the device is free
			})
		})
	}
}

func TestATransferIsTakenBackOnce(t *testing.T) {
	s := newSession(newTape(nil, 0), usbtransport.DeviceInfo{}, deviceRecord{}, nil, silent())
	j := &job{command: command{kind: commandSubmit, sequence: 1, in: true, endpoint: 2}, cancel: func() {}}
	s.pending[1], s.queues[j.lane()], s.last = j, []*job{j}, 1
	require.NoError(t, s.takeBack(command{kind: commandUnlink, sequence: 2, target: 1}))
	var broken *ProtocolError
	require.ErrorAs(t, s.takeBack(command{kind: commandUnlink, sequence: 3, target: 1}), &broken)
}

func TestBytesThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Server{})
		r.bus.Inject(func(x virtual.Transfer) virtual.Fault {
			if x.Kind == virtual.BulkOutTransfer {
				return virtual.Fault{Kind: virtual.Timeout}
			}
			return virtual.Fault{}
		})
		p := r.attach(t)
		for range maxPendingBytes/usbtransport.MaxTransfer + 1 {
			p.out(string(make([]byte, usbtransport.MaxTransfer)), 0)
		}
		p.ended()
	})
}

func TestAClientThatDoesNotReadIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Server{})
		conn := r.dial(t)
		defer conn.Close()
		_, err := conn.Write(appendImportRequest(nil, "1-1"))
		require.NoError(t, err)
		record, err := readImportReply(conn)
		require.NoError(t, err)
		setup := packSetup(usbtransport.Setup{RequestType: 0x80}, 2)
		_, err = conn.Write(command{kind: commandSubmit, sequence: 1, device: record.id(), in: true, length: 2, setup: setup}.append(nil))
		require.NoError(t, err)
		time.Sleep(restDeadline + time.Second)
		r.attach(t)
	})
}

func TestQuestionsThatAreNoneAreNotAnswered(t *testing.T) {
	for name, question := range map[string][]byte{
		"nothing":          nil,
		"half a question":  {0x01, 0x11, 0x80},
		"another version":  {0x01, 0x06, 0x80, 0x05, 0, 0, 0, 0},
		"unknown":          {0x01, 0x11, 0x80, 0x09, 0, 0, 0, 0},
		"a reply":          {0x01, 0x11, 0x00, 0x05, 0, 0, 0, 0},
		"half an import":   appendImportRequest(nil, "1-1")[:20],
		"an endless busid": append(opHeader{code: opRequestImport}.append(nil), bytes.Repeat([]byte{'1'}, busIDSize)...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := newRig(t, Server{}).dial(t)
				defer conn.Close()
				start := time.Now()
				_, err := conn.Write(question)
				require.NoError(t, err)
				b, err := io.ReadAll(conn)
				require.NoError(t, err)
				assert.Empty(t, b)
				assert.LessOrEqual(t, time.Since(start), questionTimeout)
			})
		})
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Server{MaxConnections: 2})
		first, second, third := r.dial(t), r.dial(t), r.dial(t)
		defer first.Close()
		defer second.Close()
		_, err := third.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF, "one too many")
		require.NoError(t, first.Close())
		synctest.Wait()
		r.attach(t)
	})
}

func TestServeOutlastsAListenerThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Server{})
		r.fail <- errors.New("too many open files")
		r.attach(t)
	})
	synctest.Test(t, func(t *testing.T) {
		bus, l := virtual.NewBus(), newPipeListener()
		require.NoError(t, l.Close())
		assert.ErrorIs(t, (&Server{Backend: bus}).Serve(t.Context(), l), net.ErrClosed)
	})
}

func TestServeEndsEverythingWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Server{})
		p := r.attach(t)
		p.read1(64, 0)
		idle := r.dial(t)
		defer idle.Close()
		synctest.Wait()
		start := time.Now()
		r.stop()
		assert.Zero(t, time.Since(start))
		_, err := idle.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
		for range p.replies {
		}
	})
}

// brokenBackend is a bus that can do less.
type brokenBackend struct {
	usbtransport.Backend
	list      func() ([]usbtransport.DeviceInfo, error)
	openError error
	closed    int
}

func (b *brokenBackend) Devices(context.Context) ([]usbtransport.DeviceInfo, error) { return b.list() }

func (b *brokenBackend) Watch(context.Context) (usbtransport.Watcher, error) {
	return nil, usbtransport.ErrNotSupported
}

func (b *brokenBackend) Open(ctx context.Context, d usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	if number == 1 {
		return nil, b.openError
	}
	return countCloses{b}, nil
}

type countCloses struct{ *brokenBackend }

func (c countCloses) Close() error                    { c.closed++; return errors.New("not closed") }
func (c countCloses) Device() usbtransport.DeviceInfo { return usbtransport.DeviceInfo{} }
func (c countCloses) Number() uint8                   { return 0 }
func (c countCloses) Control(context.Context, usbtransport.Setup, []byte) (int, error) {
	return 0, usbtransport.ErrNotSupported
}
func (c countCloses) BulkOut(context.Context, uint8, []byte) (int, error)     { return 0, nil }
func (c countCloses) BulkIn(context.Context, uint8, []byte) (int, error)      { return 0, nil }
func (c countCloses) InterruptIn(context.Context, uint8, []byte) (int, error) { return 0, nil }
func (c countCloses) ClearHalt(context.Context, uint8) error                  { return nil }
func (c countCloses) Reset(context.Context) error                             { return nil }

func TestDevicesThatCannotBeExportedAreRefused(t *testing.T) {
	info := usbtransport.DeviceInfo{Key: "k\n", PortPath: "1-1", Bus: 1, Address: 2, Descriptors: testDescriptors()}
	broken := info
	broken.Descriptors = append(bytes.Clone(info.Descriptors), 1)
	bare := info
	bare.Descriptors = info.Descriptors[:27]
	for _, c := range []struct {
		name   string
		info   usbtransport.DeviceInfo
		open   error
		list   error
		want   refusal
		closed int
	}{
		{"an interface in use", info, &usbtransport.Error{Kind: usbtransport.ErrBusy}, nil, statusBusy, 1},
		{"a device that goes", info, &usbtransport.Error{Kind: usbtransport.ErrRemoved}, nil, statusNoDevice, 1},
		{"no permission", info, &usbtransport.Error{Kind: usbtransport.ErrPermission}, nil, statusDeviceErr, 1},
		{"broken descriptors", broken, nil, nil, statusDeviceErr, 0},
		{"no interface", bare, nil, nil, statusDeviceErr, 0},
		{"no descriptors", usbtransport.DeviceInfo{PortPath: "1-1"}, nil, nil, statusNoDevice, 0},
		{"no list", info, nil, usbtransport.ErrIO, statusError, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logrus.New()
				log.SetOutput(io.Discard)
				b := &brokenBackend{openError: c.open, list: func() ([]usbtransport.DeviceInfo, error) {
					return []usbtransport.DeviceInfo{c.info}, c.list
				}}
				r := newRig(t, Server{Backend: b, Logger: log})
				conn := r.dial(t)
				defer conn.Close()
				_, err := conn.Write(appendImportRequest(nil, "1-1"))
				require.NoError(t, err)
				_, err = readImportReply(conn)
				assert.Equal(t, c.want, err)
				assert.Equal(t, c.closed, b.closed)
			})
		})
	}
}

func TestOnlyWhatIsToBeExportedIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := virtual.NewBus()
		multi, err := virtual.NewReader(virtual.Config{Model: "acs-acr1581"})
		require.NoError(t, err)
		for _, d := range []virtual.Device{multi, virtual.NewLoopback()} {
			_, err := bus.Plug(d)
			require.NoError(t, err)
		}
		export := func(d usbtransport.DeviceInfo) bool { return d.IDVendor != virtual.LoopbackVendor }
		conn := newRig(t, Server{Backend: bus, Export: export}).dial(t)
		defer conn.Close()
		_, err = conn.Write(opHeader{code: opRequestDevlist}.append(nil))
		require.NoError(t, err)
		list, err := readDevlist(conn)
		require.NoError(t, err)
		require.Len(t, list, 1)
		assert.Equal(t, "1-1", list[0].busID)
		assert.Len(t, list[0].classes, 3)
		assert.Equal(t, uint8(3), list[0].interfaces)
		assert.Equal(t, [3]uint8{0x0B, 0, 0}, list[0].classes[0])
		assert.Equal(t, "/goccid/virtual-1", list[0].path)
	})
}

func TestSpeedFollowsFromPacketSizes(t *testing.T) {
	for _, c := range []struct {
		kind usbtransport.TransferType
		size int
		want uint32
	}{
		{usbtransport.TransferBulk, 8, speedFull},
		{usbtransport.TransferBulk, 64, speedFull},
		{usbtransport.TransferInterrupt, 64, speedFull},
		{usbtransport.TransferBulk, 512, speedHigh},
		{usbtransport.TransferInterrupt, 1024, speedHigh},
		{usbtransport.TransferBulk, 1024, speedSuper},
	} {
		assert.Equal(t, c.want, speedOf(usbtransport.EndpointDescriptor{Type: c.kind, MaxPacketSize: c.size}), c)
	}
}
