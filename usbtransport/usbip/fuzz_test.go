package usbip

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// tape is a connection that plays bytes, after something was written a number of times, and then ends.
type tape struct {
	in      *bytes.Reader
	writes  int
	started chan struct{}

	mu  sync.Mutex
	out bytes.Buffer
}

func newTape(b []byte, writes int) *tape {
	c := &tape{in: bytes.NewReader(b), writes: writes, started: make(chan struct{})}
	if writes == 0 {
		close(c.started)
	}
	return c
}

func (c *tape) Read(b []byte) (int, error) {
	<-c.started
	return c.in.Read(b)
}

func (c *tape) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Write(b)
	if c.writes--; c.writes == 0 {
		close(c.started)
	}
	return len(b), nil
}

func (c *tape) written() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.out.Bytes())
}

func (c *tape) Close() error                     { return nil }
func (c *tape) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *tape) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

func silent() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// FuzzClient has a client read replies to three transfers, of which one is given up: each ends, none has more bytes than were asked for.
func FuzzClient(f *testing.F) {
	good := func(sequence uint32, n int) []byte {
		return append(reply{kind: replySubmit, sequence: sequence, length: n}.append(nil), make([]byte, n)...)
	}
	gone := reply{kind: replyUnlink, sequence: 4, status: statusTakenBack}.append(nil)
	f.Add(bytes.Join([][]byte{good(1, 64), good(2, 18), good(3, 0), gone}, nil))
	f.Add(append(reply{kind: replyUnlink, sequence: 4}.append(nil), good(1, 3)...))
	f.Add(append(gone, good(1, 3)...))
	f.Add(reply{kind: replySubmit, sequence: 1, length: 65}.append(nil))
	f.Add(reply{kind: replySubmit, sequence: 9}.append(nil))
	f.Add(good(1, 64)[:70])
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := newTape(b, 4)
		a := attach(conn, testDevice().deviceRecord, silent(), func(*attachment) {})
		var running sync.WaitGroup
		given, giveUp := context.WithCancel(context.Background())
		commands := []command{
			{kind: commandSubmit, in: true, endpoint: 2, length: 64},
			{kind: commandSubmit, in: true, length: 18},
			{kind: commandSubmit, endpoint: 1, length: 64},
		}
		for k, c := range commands {
			ctx := context.Background()
			if k == 0 {
				ctx = given
			}
			before := len(conn.written())
			running.Go(func() {
				o := a.run(ctx, nil, c, make([]byte, c.payload()))
				if o.n > c.length || len(o.data) > c.length || c.in && o.n != len(o.data) {
					t.Errorf("%d bytes of %d", o.n, c.length)
				}
			})
			for len(conn.written()) == before { // so that sequence numbers are known
				time.Sleep(time.Microsecond)
			}
		}
		giveUp()
		running.Wait()
		a.close()
	})
}

// FuzzLists has a client ask for the list and for a device.
func FuzzLists(f *testing.F) {
	f.Add(appendDevlist(nil, sampleList()), testDevice().append(opHeader{code: opReplyImport}.append(nil)))
	f.Add(appendDevlist(nil, nil), []byte{})
	f.Fuzz(func(t *testing.T, list, imported []byte) {
		b := New(Options{Address: "test", Timeout: time.Second, Dial: func(context.Context, string, string) (net.Conn, error) {
			return &question{tape: newTape(nil, 0), list: list, imported: imported}, nil
		}})
		devices, err := b.Devices(context.Background())
		if err != nil {
			require.Empty(t, devices)
			return
		}
		for _, d := range devices {
			require.NotEmpty(t, d.Key)
			i, err := b.Open(context.Background(), d, 0)
			if err == nil {
				require.NoError(t, i.Close())
			}
		}
	})
}

// question is a tape that depends on what is asked first.
type question struct {
	*tape
	list, imported []byte
	asked          bool
}

func (q *question) Write(b []byte) (int, error) {
	if !q.asked {
		q.asked = true
		if len(b) == opHeaderSize {
			q.in = bytes.NewReader(q.list)
		} else {
			q.in = bytes.NewReader(q.imported)
		}
	}
	return q.tape.Write(b)
}

// FuzzServer has a server read commands: it ends with them, and what it answers are replies.
func FuzzServer(f *testing.F) {
	device := uint32(1<<16 | 1)
	out := append(command{kind: commandSubmit, sequence: 1, device: device, endpoint: 1, length: 3}.append(nil), "abc"...)
	in := command{kind: commandSubmit, sequence: 2, device: device, in: true, endpoint: 2, length: 64}.append(nil)
	unlink := command{kind: commandUnlink, sequence: 3, device: device, target: 2}.append(nil)
	get := packSetup(usbtransport.Setup{RequestType: 0x80, Request: requestGetDescriptor, Value: 0x0200}, 255)
	config := command{kind: commandSubmit, sequence: 4, device: device, in: true, length: 255, setup: get}.append(nil)
	set := packSetup(usbtransport.Setup{Request: requestSetConfiguration, Value: 1}, 0)
	reset := packSetup(usbtransport.Setup{RequestType: recipientPort, Request: requestSetFeature, Value: featurePortReset}, 0)
	f.Add(bytes.Join([][]byte{out, in, unlink}, nil))
	f.Add(bytes.Join([][]byte{in, in}, nil))
	f.Add(bytes.Join([][]byte{in, unlink, config}, nil))
	f.Add(command{kind: commandSubmit, sequence: 5, device: device, setup: set}.append(nil))
	f.Add(command{kind: commandSubmit, sequence: 5, device: device, setup: reset}.append(nil))
	f.Add(out[:50])
	f.Fuzz(func(t *testing.T, b []byte) {
		bus := virtual.NewBus()
		info, err := bus.Plug(virtual.NewLoopback())
		require.NoError(t, err)
		defer bus.Close()
		i, err := bus.Open(context.Background(), info, 0)
		require.NoError(t, err)
		record, _ := recordOf(info)
		require.Equal(t, device, record.id())
		conn := newTape(b, 0)
		s := newSession(conn, info, record, []usbtransport.Interface{i}, silent())
		require.Error(t, s.serve(context.Background()))
		_, err = i.Control(context.Background(), usbtransport.Setup{}, nil)
		require.ErrorIs(t, err, usbtransport.ErrClosed)
		checkReplies(t, b, conn.written())
	})
}

// checkReplies parses what a server wrote, with the directions that the commands had.
func checkReplies(t *testing.T, commands, replies []byte) {
	in := map[uint32]int{}
	for len(commands) >= headerSize {
		c, err := parseCommand(commands[:headerSize])
		if err != nil {
			break
		}
		if c.kind == commandSubmit && c.in {
			in[c.sequence] = c.length
		} else if c.kind == commandSubmit {
			delete(in, c.sequence)
		}
		commands = commands[min(headerSize+c.payload(), len(commands)):]
	}
	if len(in) == 0 {
		return
	}
	for len(replies) > 0 {
		require.GreaterOrEqual(t, len(replies), headerSize)
		r, err := parseReply(replies[:headerSize])
		require.NoError(t, err)
		replies = replies[headerSize:]
		if limit, known := in[r.sequence]; known && r.kind == replySubmit {
			require.LessOrEqual(t, r.length, limit)
			require.GreaterOrEqual(t, len(replies), r.length)
			replies = replies[r.length:]
		}
	}
}
