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

	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
)

// fakeServer is a server whose every byte a test chooses. Its methods are called from goroutines of the connections.
type fakeServer struct {
	testing.TB
	// list and refuse are what it answers to questions. refuse is asked for the status of each import.
	list   func() []listed
	refuse func(busID string) uint32
	// answer returns what it writes when a command has come, all at once; nil is nothing.
	answer func(c command, data []byte) []byte
	// raw, when set, has the connection to itself.
	raw func(conn net.Conn)

	mu      sync.Mutex
	dials   int
	imports int
	inUse   int
	conns   []net.Conn
}

// backend makes a client whose connections lead to this server.
func (f *fakeServer) backend() *Backend {
	return New(Options{Address: "test", Dial: f.dial})
}

func (f *fakeServer) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	f.mu.Lock()
	f.dials++
	f.conns = append(f.conns, far)
	f.mu.Unlock()
	go f.converse(far)
	return near, nil
}

// hangUp closes all connections.
func (f *fakeServer) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

func (f *fakeServer) count(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *n
}

func (f *fakeServer) converse(conn net.Conn) {
	defer conn.Close()
	if f.raw != nil {
		f.raw(conn)
		return
	}
	header, err := readOpHeader(conn)
	if err != nil {
		return
	}
	if header.code == opRequestDevlist {
		_, _ = conn.Write(appendDevlist(nil, f.list()))
		return
	}
	busID, err := readImportRequest(conn)
	if err != nil {
		return
	}
	if status := f.refuse(busID); status != statusOK {
		_, _ = conn.Write(opHeader{code: opReplyImport, status: status}.append(nil))
		return
	}
	f.mu.Lock()
	f.imports++
	f.inUse++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.inUse--
	}()
	_, _ = conn.Write(testDevice().append(opHeader{code: opReplyImport}.append(nil)))
	f.serveCommands(conn)
}

// serveCommands answers the commands to an imported device.
func (f *fakeServer) serveCommands(conn net.Conn) {
	for {
		b := make([]byte, headerSize)
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		c, err := parseCommand(b)
		if !assert.NoError(f, err) {
			return
		}
		data := make([]byte, c.payload())
		if _, err := io.ReadFull(conn, data); err != nil {
			return
		}
		if _, err := conn.Write(f.answer(c, data)); err != nil {
			return
		}
	}
}

const (
	testOut       = 0x01
	testIn        = 0x82
	testInterrupt = 0x83
)

// testDescriptors are those of a device with two interfaces; the second has endpoint 4 IN.
func testDescriptors() []byte {
	return []byte{
		18, 1, 0x00, 0x02, 0, 0, 0, 64, 0xE6, 0x08, 0x33, 0x44, 0x00, 0x01, 1, 2, 0, 1,
		9, 2, 55, 0, 2, 1, 0, 0x80, 50,
		9, 4, 0, 0, 3, 0x0B, 0, 0, 0,
		7, 5, testOut, 2, 64, 0, 0,
		7, 5, testIn, 2, 64, 0, 0,
		7, 5, testInterrupt, 3, 8, 0, 5,
		9, 4, 1, 0, 1, 0x0B, 0, 0, 0,
		7, 5, 0x84, 2, 64, 0, 0,
	}
}

func testDevice() listed {
	return listed{
		deviceRecord: deviceRecord{
			path: "/sys/1-1", busID: "1-1", bus: 1, address: 2, speed: speedFull, vendor: 0x08E6, product: 0x4433, bcdDevice: 0x0100,
			configurations: 1, interfaces: 2,
		},
		classes: [][3]uint8{{0x0B}, {0x0B}},
	}
}

// newFake makes a server with one well-behaved device, which answers no transfers but those on endpoint 0.
func newFake(t testing.TB) *fakeServer {
	f := &fakeServer{TB: t, list: func() []listed { return []listed{testDevice()} }, refuse: func(string) uint32 { return statusOK }}
	f.answer = f.standard
	return f
}

// standard answers control requests and unlinks.
func (f *fakeServer) standard(c command, _ []byte) []byte {
	if c.kind == commandUnlink {
		return reply{kind: replyUnlink, sequence: c.sequence, status: statusTakenBack}.append(nil)
	}
	if c.endpoint != 0 {
		return nil
	}
	setup, _ := setupOf(c.setup)
	raw := testDescriptors()
	var data []byte
	switch {
	case setup.Request == requestGetDescriptor && setup.Value == 0x0100:
		data = raw[:18]
	case setup.Request == requestGetDescriptor && setup.Value == 0x0200:
		data = raw[18:]
	case setup.Request == requestGetDescriptor && setup.Value == 0x0300:
		data = []byte{4, 3, 7, 4}
	case setup.Request == requestGetDescriptor && setup.Value == 0x0302 && setup.Index == 0x0407:
		data = []byte{8, 3, 'A', 0, '\n', 0, 'B', 0}
	case setup.Request == requestGetDescriptor:
		return resultOf(c, statusStalled, nil)
	}
	return resultOf(c, statusSuccess, data[:min(len(data), c.length)])
}

// resultOf is a RET_SUBMIT for a command.
func resultOf(c command, s status, data []byte) []byte {
	return append(reply{kind: replySubmit, sequence: c.sequence, status: s, length: len(data)}.append(nil), data...)
}

// on lets the server answer transfers of one endpoint, and unlinks, in another way.
func (f *fakeServer) on(answer func(c command, data []byte) []byte) {
	f.answer = func(c command, data []byte) []byte {
		if c.kind == commandSubmit && c.endpoint == 0 {
			return f.standard(c, data)
		}
		return answer(c, data)
	}
}

// open opens an interface of the only device.
func open(t testing.TB, b *Backend, number uint8) usbtransport.Interface {
	t.Helper()
	devices, err := b.Devices(t.Context())
	require.NoError(t, err)
	require.Len(t, devices, 1)
	i, err := b.Open(t.Context(), devices[0], number)
	require.NoError(t, err)
	t.Cleanup(func() { _ = i.Close() })
	return i
}

// readFor reads for a while.
func readFor(i usbtransport.Interface, d time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	buf := make([]byte, 64)
	n, err := i.BulkIn(ctx, testIn, buf)
	return string(buf[:n]), err
}

func TestDevicesAreDescribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		devices, err := f.backend().Devices(t.Context())
		require.NoError(t, err)
		require.Len(t, devices, 1)
		d := devices[0]
		assert.Equal(t, testDescriptors(), d.Descriptors)
		assert.Equal(t, "AB", d.Product, "what can't be printed is left out")
		assert.Empty(t, d.Manufacturer, "a string that the device refuses")
		assert.Equal(t, "1-1 08e6:4433", d.String())
		assert.NoError(t, d.Unreadable)
	})
}

func TestOtherDevicesAreNotImported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.list = func() []listed {
			disk := testDevice()
			disk.classes = [][3]uint8{{8, 6, 80}, {3, 0, 0}}
			hub := testDevice()
			hub.busID, hub.classes, hub.interfaces = "1-10", [][3]uint8{{9}}, 1
			return []listed{hub, disk}
		}
		devices, err := f.backend().Devices(t.Context())
		require.NoError(t, err)
		require.Len(t, devices, 2)
		assert.Equal(t, "1-1", devices[0].PortPath)
		assert.ErrorIs(t, devices[0].Unreadable, errNoReader)
		assert.Nil(t, devices[0].Descriptors)
		assert.Zero(t, f.count(&f.imports))

		only := New(Options{Address: "test", Dial: f.dial, BusID: "1-10"})
		devices, err = only.Devices(t.Context())
		require.NoError(t, err)
		require.Len(t, devices, 1)
		assert.Equal(t, "1-10", devices[0].PortPath)
	})
}

func TestInterfacesOfADeviceShareAnImport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.on(func(c command, _ []byte) []byte { return resultOf(c, statusSuccess, []byte{c.endpoint}) })
		b := f.backend()
		first, second := open(t, b, 0), open(t, b, 1)
		assert.Equal(t, 2, f.count(&f.imports), "one to look at it, one to use it")
		buf := make([]byte, 64)
		n, err := second.BulkIn(t.Context(), 0x84, buf)
		require.NoError(t, err)
		assert.Equal(t, []byte{4}, buf[:n])
		_, err = second.BulkIn(t.Context(), testIn, buf)
		assert.ErrorIs(t, err, usbtransport.ErrInvalid, "an endpoint of the other interface")
		require.NoError(t, first.Close())
		_, err = second.BulkIn(t.Context(), 0x84, buf)
		require.NoError(t, err)
		require.NoError(t, second.Close())
		synctest.Wait()
		assert.Zero(t, f.count(&f.inUse), "given back with the last interface")
	})
}

func TestTransfersAreSubmittedAsLinuxDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		var seen []command
		f.on(func(c command, data []byte) []byte {
			seen = append(seen, c)
			return append(reply{kind: replySubmit, sequence: c.sequence, length: len(data)}.append(nil), []byte{}...)
		})
		i := open(t, f.backend(), 0)
		for _, length := range []int{0, 63, 64, 65, 128} {
			n, err := i.BulkOut(t.Context(), testOut, make([]byte, length))
			require.NoError(t, err)
			require.Equal(t, length, n)
		}
		_, err := i.InterruptIn(t.Context(), testInterrupt, make([]byte, 8))
		require.NoError(t, err)
		require.Len(t, seen, 6)
		for k, flags := range []uint32{0, 0, flagZeroPacket, 0, flagZeroPacket, flagIn} {
			assert.Equal(t, flags, seen[k].flags, k)
			assert.Equal(t, uint32(0x1_0002), seen[k].device)
		}
		assert.Equal(t, uint32(5), seen[5].interval)
		_, err = i.BulkOut(t.Context(), testOut, make([]byte, usbtransport.MaxTransfer+1))
		assert.ErrorIs(t, err, usbtransport.ErrInvalid)
	})
	c := &claimed{attachment: &attachment{record: deviceRecord{speed: speedHigh}}}
	for interval, want := range map[uint8]uint32{0: 1, 1: 1, 4: 8, 16: 1 << 15, 255: 1 << 15} {
		assert.Equal(t, want, c.interval(usbtransport.EndpointDescriptor{Interval: interval}))
	}
}

func TestStatusesBecomeErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		var with status
		f.on(func(c command, _ []byte) []byte { return resultOf(c, with, []byte("abc")) })
		b := f.backend()
		for s, kind := range map[status]error{
			statusStalled: usbtransport.ErrStalled, statusOverflow: usbtransport.ErrOverflow, statusProtocol: usbtransport.ErrIO,
			statusTakenBack: usbtransport.ErrIO, -1000: usbtransport.ErrIO, 1: usbtransport.ErrIO,
		} {
			with = s
			i := open(t, b, 0)
			got, err := readFor(i, time.Minute)
			assert.ErrorIs(t, err, kind)
			assert.ErrorIs(t, err, s)
			assert.Equal(t, "abc", got, "bytes that came with it")
			require.NoError(t, i.Close())
		}
		with = statusGone
		i := open(t, b, 0)
		_, err := readFor(i, time.Minute)
		assert.ErrorIs(t, err, usbtransport.ErrRemoved)
		_, err = i.Control(t.Context(), usbtransport.Setup{RequestType: 0x80}, make([]byte, 2))
		assert.ErrorIs(t, err, usbtransport.ErrRemoved, "from then on")
	})
}

func TestAFailureJustBeforeTheEndIsARemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.on(func(c command, _ []byte) []byte {
			time.AfterFunc(removalGrace/2, f.hangUp)
			return resultOf(c, statusProtocol, nil)
		})
		i := open(t, f.backend(), 0)
		_, err := readFor(i, time.Minute)
		assert.ErrorIs(t, err, usbtransport.ErrRemoved)
	})
}

// TestResultsAndUnlinksMayCross goes through the orders in which a server can answer a transfer and the request to take it back.
func TestResultsAndUnlinksMayCross(t *testing.T) {
	for _, c := range []struct {
		name string
		// answer gets the transfer and the unlink.
		answer func(submit, unlink command) []byte
		want   string
		kind   error
	}{
		{"taken back", func(_, u command) []byte {
			return reply{kind: replyUnlink, sequence: u.sequence, status: statusTakenBack}.append(nil)
		}, "", usbtransport.ErrTimedOut},
		{"result first", func(s, u command) []byte {
			return append(resultOf(s, statusSuccess, []byte("late")), reply{kind: replyUnlink, sequence: u.sequence}.append(nil)...)
		}, "late", nil},
		{"part of a result first", func(s, u command) []byte {
			return append(resultOf(s, statusTakenBack, []byte("la")), reply{kind: replyUnlink, sequence: u.sequence}.append(nil)...)
		}, "la", usbtransport.ErrTimedOut},
		{"overtaken result", func(s, u command) []byte {
			return append(reply{kind: replyUnlink, sequence: u.sequence}.append(nil), resultOf(s, statusSuccess, []byte("late"))...)
		}, "late", nil},
		{"no result", func(_, u command) []byte {
			return reply{kind: replyUnlink, sequence: u.sequence}.append(nil)
		}, "", usbtransport.ErrTimedOut},
		{"result all the same", func(s, u command) []byte {
			return append(reply{kind: replyUnlink, sequence: u.sequence, status: statusTakenBack}.append(nil),
				resultOf(s, statusTakenBack, []byte("x"))...)
		}, "", usbtransport.ErrTimedOut},
		{"device switched off", func(_, u command) []byte {
			return reply{kind: replyUnlink, sequence: u.sequence, status: statusShutdown}.append(nil)
		}, "", usbtransport.ErrTimedOut},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				var submitted command
				f.on(func(cmd command, data []byte) []byte {
					if cmd.kind == commandUnlink {
						assert.Equal(t, submitted.sequence, cmd.target)
						return c.answer(submitted, cmd)
					}
					submitted = cmd
					if cmd.in {
						return nil
					}
					return append(reply{kind: replySubmit, sequence: cmd.sequence, length: len(data)}.append(nil), []byte{}...)
				})
				i := open(t, f.backend(), 0)
				for range maxOrphans + 3 {
					got, err := readFor(i, time.Second)
					require.Equal(t, c.want, got)
					if c.kind == nil {
						require.NoError(t, err)
					} else {
						require.ErrorIs(t, err, c.kind)
					}
					n, err := i.BulkOut(t.Context(), testOut, []byte{1})
					require.NoError(t, err, "the connection is in order")
					require.Equal(t, 1, n)
				}
				a := i.(*claimed).attachment
				a.mu.Lock()
				defer a.mu.Unlock()
				assert.LessOrEqual(t, len(a.pending), maxOrphans, "what is remembered is bounded")
				assert.LessOrEqual(t, len(a.orphans), maxOrphans)
			})
		})
	}
}

func TestHostileServersEndTheConnection(t *testing.T) {
	word := func(offset int, value uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[offset:], value); return b }
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"unknown sequence number":    word(4, 0xDEADBEEF),
		"unlink that was not asked":  word(0, replyUnlink),
		"a command":                  word(0, commandSubmit),
		"more than was asked for":    word(24, 65),
		"4,294,967,295 bytes":        word(24, 0xFFFFFFFF),
		"a header that does not end": func(b []byte) []byte { return b[:20] },
		"data that do not end":       func(b []byte) []byte { return b[:headerSize+1] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				spoiled := false
				f.answer = func(c command, data []byte) []byte {
					switch {
					case spoiled:
						return nil
					case c.endpoint == 0:
						return f.standard(c, data)
					}
					spoiled = true
					return spoil(resultOf(c, statusSuccess, []byte("abc")))
				}
				i := open(t, f.backend(), 0)
				others := make(chan error, 1)
				go func() {
					_, err := i.Control(t.Context(), usbtransport.Setup{}, nil)
					for err == nil {
						time.Sleep(time.Second)
						_, err = i.Control(t.Context(), usbtransport.Setup{}, nil)
					}
					others <- err
				}()
				start := time.Now()
				_, err := readFor(i, time.Hour)
				assert.ErrorIs(t, err, usbtransport.ErrRemoved)
				assert.LessOrEqual(t, time.Since(start), restDeadline)
				assert.ErrorIs(t, <-others, usbtransport.ErrRemoved)
				require.NoError(t, i.Close())
			})
		})
	}
}

func TestAServerThatDoesNotGiveTransfersBackIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.on(func(command, []byte) []byte { return nil })
		i := open(t, f.backend(), 0)
		start := time.Now()
		_, err := readFor(i, time.Second)
		assert.ErrorIs(t, err, usbtransport.ErrRemoved)
		assert.ErrorIs(t, err, errUnlinkIgnored)
		assert.Equal(t, time.Second+unlinkGrace, time.Since(start))
	})
}

func TestAServerThatDoesNotReadIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		stuck := make(chan struct{})
		f.on(func(command, []byte) []byte { <-stuck; return nil })
		i := open(t, f.backend(), 0)
		defer close(stuck)
		var calls sync.WaitGroup
		start := time.Now()
		for range 3 {
			calls.Go(func() {
				_, err := readFor(i, time.Second)
				assert.Error(t, err)
			})
		}
		calls.Wait()
		assert.LessOrEqual(t, time.Since(start), restDeadline+unlinkGrace)
		require.NoError(t, i.Close())
	})
}

func TestCallsEndWithCloseOfTheInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		i := open(t, f.backend(), 0)
		ended := make(chan error, 1)
		go func() {
			_, err := readFor(i, time.Hour)
			ended <- err
		}()
		synctest.Wait()
		require.NoError(t, i.Close())
		assert.ErrorIs(t, <-ended, usbtransport.ErrClosed)
	})
}

func TestResetEndsTransfersAndChecksThatTheDeviceIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		resetStatus := statusSuccess
		var resets int
		f.answer = func(c command, data []byte) []byte {
			if setup, _ := setupOf(c.setup); c.kind == commandSubmit && setup.RequestType == recipientPort {
				resets++
				return resultOf(c, resetStatus, nil)
			}
			return f.standard(c, data)
		}
		i := open(t, f.backend(), 0)
		for _, s := range []status{statusSuccess, statusStalled} {
			resetStatus = s
			ended := make(chan error, 1)
			go func() {
				_, err := readFor(i, time.Hour)
				ended <- err
			}()
			synctest.Wait()
			require.NoError(t, i.Reset(t.Context()))
			err := <-ended
			assert.ErrorIs(t, err, usbtransport.ErrIO)
			assert.ErrorIs(t, err, errReset)
		}
		resetStatus = statusProtocol
		assert.ErrorIs(t, i.Reset(t.Context()), usbtransport.ErrIO)
		assert.Equal(t, 3, resets)
		assert.ErrorIs(t, i.ClearHalt(t.Context(), 0x07), usbtransport.ErrInvalid)
		assert.NoError(t, i.ClearHalt(t.Context(), testIn))
	})
}

func TestRefusedImportsAreToldApart(t *testing.T) {
	for s, kind := range map[uint32]error{
		statusNA: usbtransport.ErrBusy, statusBusy: usbtransport.ErrBusy, statusDeviceErr: usbtransport.ErrIO,
		statusNoDevice: usbtransport.ErrRemoved, statusError: usbtransport.ErrIO, 77: usbtransport.ErrIO,
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			f.refuse = func(string) uint32 { return s }
			b := f.backend()
			devices, err := b.Devices(t.Context())
			require.NoError(t, err)
			require.Len(t, devices, 1)
			assert.ErrorIs(t, devices[0].Unreadable, refusal(s))
			assert.Nil(t, devices[0].Descriptors)
			_, err = b.Open(t.Context(), devices[0], 0)
			assert.ErrorIs(t, err, kind)
		})
	}
}

func TestAnotherDeviceUnderTheBusIDIsNotOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		b := f.backend()
		devices, err := b.Devices(t.Context())
		require.NoError(t, err)
		f.raw = func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, opHeaderSize+busIDSize))
			other := testDevice()
			other.address++
			_, _ = conn.Write(other.append(opHeader{code: opReplyImport}.append(nil)))
		}
		_, err = b.Open(t.Context(), devices[0], 0)
		assert.ErrorIs(t, err, usbtransport.ErrRemoved)
		assert.ErrorIs(t, err, errAnother)
		_, err = b.Open(t.Context(), devices[0], 0)
		assert.ErrorIs(t, err, usbtransport.ErrRemoved)
	})
}

func TestQuestionsAreBounded(t *testing.T) {
	for name, raw := range map[string]func(net.Conn){
		"silence":            func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"a question unread":  func(conn net.Conn) { time.Sleep(time.Minute) },
		"an answer cut off":  func(conn net.Conn) { _, _ = io.ReadFull(conn, make([]byte, 8)); _, _ = conn.Write(make([]byte, 3)) },
		"endless devices":    func(conn net.Conn) { _, _ = io.ReadFull(conn, make([]byte, 8)); endless(conn, 0xFFFFFFFF) },
		"many, never coming": func(conn net.Conn) { _, _ = io.ReadFull(conn, make([]byte, 8)); endless(conn, maxDevices) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.raw = raw
				start := time.Now()
				_, err := f.backend().Devices(t.Context())
				assert.ErrorIs(t, err, usbtransport.ErrIO)
				assert.LessOrEqual(t, time.Since(start), defaultTimeout)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				b := f.backend()
				_, err = b.Devices(ctx)
				assert.Error(t, err)
				f.hangUp()
				time.Sleep(time.Hour)
			})
		})
	}
}

func endless(conn net.Conn, n uint32) {
	_, _ = conn.Write(binary.BigEndian.AppendUint32(opHeader{code: opReplyDevlist}.append(nil), n))
	_, _ = io.Copy(io.Discard, conn)
}

func TestDescriptorsThatAreNoneMakeADeviceUnreadable(t *testing.T) {
	for name, spoil := range map[string]func(setup usbtransport.Setup, data []byte) []byte{
		"short device descriptor": func(s usbtransport.Setup, b []byte) []byte { return cut(s.Value == 0x0100, b, 10) },
		"empty":                   func(s usbtransport.Setup, b []byte) []byte { return cut(s.Value == 0x0200, b, 0) },
		"short configuration":     func(s usbtransport.Setup, b []byte) []byte { return cut(s.Value == 0x0200 && len(b) > 9, b, 20) },
		"wTotalLength too small":  func(s usbtransport.Setup, b []byte) []byte { return patch(s.Value == 0x0200, b, 2, 8, 0) },
		"wTotalLength too large":  func(s usbtransport.Setup, b []byte) []byte { return patch(s.Value == 0x0200, b, 2, 0xFF, 0xFF) },
		"another type":            func(s usbtransport.Setup, b []byte) []byte { return patch(s.Value == 0x0100, b, 1, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.answer = func(c command, data []byte) []byte {
					good := f.standard(c, data)
					setup, _ := setupOf(c.setup)
					return resultOf(c, statusSuccess, spoil(setup, bytes.Clone(good[headerSize:])))
				}
				b := f.backend()
				devices, err := b.Devices(t.Context())
				require.NoError(t, err)
				require.Len(t, devices, 1)
				assert.Nil(t, devices[0].Descriptors)
				assert.ErrorIs(t, devices[0].Unreadable, usbtransport.ErrIO)
				_, err = b.Open(t.Context(), devices[0], 0)
				assert.ErrorIs(t, err, usbtransport.ErrIO)
			})
		})
	}
}

func cut(when bool, b []byte, n int) []byte {
	if when {
		return b[:n]
	}
	return b
}

func patch(when bool, b []byte, offset int, with ...byte) []byte {
	if when {
		copy(b[offset:], with)
	}
	return b
}

func TestADeviceThatDoesNotAnswerIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		silent := false
		f.answer = func(c command, data []byte) []byte {
			if silent && c.kind == commandSubmit {
				return nil
			}
			return f.standard(c, data)
		}
		b := f.backend()
		devices, err := b.Devices(t.Context())
		require.NoError(t, err)
		silent = true
		start := time.Now()
		_, err = b.Open(t.Context(), devices[0], 0)
		assert.ErrorIs(t, err, usbtransport.ErrIO)
		assert.ErrorIs(t, err, errNoAnswer)
		assert.Equal(t, defaultTimeout, time.Since(start))
		synctest.Wait()
		assert.Zero(t, f.count(&f.inUse))

		f.answer = func(c command, data []byte) []byte {
			if c.setup[1] == requestSetConfiguration {
				return resultOf(c, statusStalled, nil)
			}
			return f.standard(c, data)
		}
		_, err = b.Open(t.Context(), devices[0], 0)
		assert.ErrorIs(t, err, usbtransport.ErrIO, "a device that can't be configured")
		synctest.Wait()
		assert.Zero(t, f.count(&f.inUse))
	})
}

// next returns the next event, or false after a while.
func next(t testing.TB, w usbtransport.Watcher, d time.Duration) (usbtransport.Event, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	event, err := w.Next(ctx)
	if err != nil {
		require.ErrorIs(t, err, usbtransport.ErrTimedOut)
		return event, false
	}
	return event, true
}

func TestWatchOutlastsAServerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		away := true
		log, told := logtest.NewNullLogger()
		b := New(Options{Address: "test", Logger: log, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if f.mu.Lock(); away {
				f.mu.Unlock()
				return nil, errors.New("connection refused")
			}
			f.mu.Unlock()
			return f.dial(ctx, network, address)
		}})
		_, err := b.Devices(t.Context())
		require.ErrorIs(t, err, usbtransport.ErrIO)
		w, err := b.Watch(t.Context())
		require.NoError(t, err)
		_, news := next(t, w, 10*time.Minute)
		require.False(t, news)

		f.mu.Lock()
		away = false
		f.mu.Unlock()
		event, news := next(t, w, maxPollInterval+time.Second)
		require.True(t, news)
		require.Equal(t, usbtransport.Arrived, event.Kind)
		require.NotNil(t, event.Device.Descriptors)

		i, err := b.Open(t.Context(), event.Device, 0)
		require.NoError(t, err)
		f.mu.Lock()
		away = true
		f.mu.Unlock()
		_, news = next(t, w, 10*time.Second)
		require.False(t, news, "an open device does not depend on the list")
		f.hangUp()
		gone, news := next(t, w, time.Millisecond)
		require.True(t, news, "the loss of the connection is known at once")
		require.Equal(t, usbtransport.Removed, gone.Kind)
		require.Equal(t, event.Device.Key, gone.Device.Key)
		_, err = i.Control(t.Context(), usbtransport.Setup{}, nil)
		require.ErrorIs(t, err, usbtransport.ErrRemoved)
		require.NoError(t, i.Close())

		f.mu.Lock()
		away = false
		f.mu.Unlock()
		back, news := next(t, w, maxPollInterval+time.Second)
		require.True(t, news)
		require.Equal(t, usbtransport.Arrived, back.Kind)
		require.NotEqual(t, event.Device.Key, back.Device.Key, "another plug-in")
		synctest.Wait() // the line follows the event
		require.NoError(t, w.Close())

		var lines []string
		for _, e := range told.AllEntries() {
			lines = append(lines, e.Level.String()+": "+e.Message)
		}
		gap := []string{"warning: USB/IP server test:3240 does not answer; trying on", "info: USB/IP server test:3240 answers"}
		require.Equal(t, append(gap, gap...), lines, "once for each time that it was away")
	})
}

// TestServersMayHideWhatIsInUse has a server such as newer ones of Linux: a device that is imported is not listed, and for a while
// after that it is neither listed nor given.
func TestServersMayHideWhatIsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		const resetTime = 300 * time.Millisecond
		var free time.Time // guarded by f.mu
		used := func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.inUse > 0 {
				free = time.Now().Add(resetTime)
			}
			return f.inUse > 0 || time.Now().Before(free)
		}
		f.list = func() []listed {
			if used() {
				return nil
			}
			return []listed{testDevice()}
		}
		f.refuse = func(string) uint32 {
			if used() {
				return statusBusy
			}
			return statusOK
		}
		b := f.backend()
		w, err := b.Watch(t.Context())
		require.NoError(t, err)
		event, _ := next(t, w, time.Second)
		require.Equal(t, usbtransport.Arrived, event.Kind)
		for range 3 {
			start := time.Now()
			i, err := b.Open(t.Context(), event.Device, 0)
			require.NoError(t, err)
			require.Less(t, time.Since(start), settleTime)
			_, news := next(t, w, 10*time.Second)
			require.False(t, news, "a device in use is not gone")
			devices, err := b.Devices(t.Context())
			require.NoError(t, err)
			require.Len(t, devices, 1)
			used()
			require.NoError(t, i.Close())
			devices, err = b.Devices(t.Context())
			require.NoError(t, err)
			require.Len(t, devices, 1, "a device that was given back is not gone")
		}
		f.mu.Lock()
		free = time.Now().Add(time.Hour)
		f.mu.Unlock()
		gone, news := next(t, w, settleTime+2*time.Second)
		require.True(t, news, "a device that does not come back is")
		require.Equal(t, usbtransport.Removed, gone.Kind)
		require.NoError(t, w.Close())
	})
}

func TestADeviceThatIsGivenBackElsewhereHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		status := uint32(statusBusy)
		f.refuse = func(string) uint32 {
			f.mu.Lock()
			defer f.mu.Unlock()
			return status
		}
		b := f.backend()
		w, err := b.Watch(t.Context())
		require.NoError(t, err)
		event, _ := next(t, w, time.Second)
		require.Equal(t, usbtransport.Arrived, event.Kind)
		require.Error(t, event.Device.Unreadable)
		_, err = b.Open(t.Context(), event.Device, 0)
		require.ErrorIs(t, err, usbtransport.ErrBusy)
		_, news := next(t, w, 10*time.Minute)
		require.False(t, news)
		f.mu.Lock()
		status = statusOK
		f.mu.Unlock()
		changed, news := next(t, w, 2*maxPollInterval)
		require.True(t, news)
		require.Equal(t, usbtransport.Changed, changed.Kind)
		require.Equal(t, event.Device.Key, changed.Device.Key)
		require.NoError(t, changed.Device.Unreadable)
		require.NotNil(t, changed.Device.Descriptors)
		require.NoError(t, w.Close())
	})
}

func TestOpenReadsWhatCouldNotBeReadBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		status := uint32(statusBusy)
		f.refuse = func(string) uint32 { return status }
		b := f.backend()
		devices, err := b.Devices(t.Context())
		require.NoError(t, err)
		status = statusOK
		i, err := b.Open(t.Context(), devices[0], 0)
		require.NoError(t, err)
		assert.Equal(t, testDescriptors(), i.Device().Descriptors)
		assert.NoError(t, i.Device().Unreadable)
		require.NoError(t, i.Close())
	})
}

func TestOpenWaitsForItsTurnOnlyAsLongAsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		b := f.backend()
		devices, err := b.Devices(t.Context())
		require.NoError(t, err)
		f.raw = func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
		go func() { _, _ = b.Devices(context.Background()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err = b.Open(ctx, devices[0], 0)
		assert.ErrorIs(t, err, usbtransport.ErrTimedOut)
		assert.Equal(t, time.Second, time.Since(start))
		time.Sleep(2 * defaultTimeout)
	})
}
