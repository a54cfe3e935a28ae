package transporttest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
)

const (
	// settle is how long calls get to reach the device before something is done to them. Nothing can tell from outside
	// when a call waits; if they don't make it, the case shows less, and does not fail.
	settle = 20 * time.Millisecond
	// promptly is how long a call may take that has nothing to wait for.
	promptly = 3 * time.Second
)

// env is one case at work.
type env struct {
	testing.TB
	Fixture
}

// context returns a context that bounds a call which should succeed.
func (e *env) context() context.Context {
	return e.timeout(e.Patience)
}

func (e *env) timeout(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	e.Cleanup(cancel)
	return ctx
}

// ended returns a context that is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// within fails the case if f does not return in time.
func (e *env) within(limit time.Duration, what string, f func()) {
	e.Helper()
	done := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit + e.Patience):
		require.FailNow(e, what+" hangs")
	}
	assert.LessOrEqual(e, time.Since(start), limit, what)
}

// device finds the device under test.
func (e *env) device() usbtransport.DeviceInfo {
	e.Helper()
	devices, err := e.Backend.Devices(e.context())
	require.NoError(e, err)
	for _, d := range devices {
		if e.Match(d) {
			return d
		}
	}
	require.FailNow(e, "the device is not in the list of Devices")
	return usbtransport.DeviceInfo{}
}

// open opens the interface under test.
func (e *env) open() *peer {
	e.Helper()
	i, err := e.Backend.Open(e.context(), e.device(), e.Interface)
	require.NoError(e, err)
	e.Cleanup(func() { _ = i.Close() })
	return e.peer(i)
}

// peer finds the endpoints of an open interface.
func (e *env) peer(i usbtransport.Interface) *peer {
	e.Helper()
	p := &peer{env: e, Interface: i, device: i.Device()}
	interfaces, err := usbtransport.ParseInterfaces(p.device.Descriptors)
	require.NoError(e, err)
	for _, descriptor := range interfaces {
		if descriptor.Number != i.Number() || descriptor.AlternateSetting != 0 {
			continue
		}
		for _, endpoint := range descriptor.Endpoints {
			switch {
			case endpoint.Type == usbtransport.TransferBulk && endpoint.In():
				p.in = endpoint
			case endpoint.Type == usbtransport.TransferBulk:
				p.out = endpoint
			case endpoint.Type == usbtransport.TransferInterrupt && endpoint.In():
				p.interrupt = endpoint
			}
		}
	}
	require.NotZero(e, p.in.MaxPacketSize, "the interface under test needs a bulk IN endpoint")
	require.NotZero(e, p.out.MaxPacketSize, "the interface under test needs a bulk OUT endpoint")
	if !e.Loopback {
		p.drain()
	}
	return p
}

// isKind checks an error as a caller sees it: typed, with the kind, the operation and the place.
func (e *env) isKind(err error, kind error, op string, device usbtransport.DeviceInfo, endpoint uint8) {
	e.Helper()
	if !assert.ErrorIs(e, err, kind, op) {
		return
	}
	var typed *usbtransport.Error
	if assert.ErrorAs(e, err, &typed, "%s: the error is not a *usbtransport.Error", op) {
		assert.Equal(e, op, typed.Op)
		assert.Equal(e, device.PortPath, typed.Device, "%s: Device", op)
		assert.Equal(e, endpoint, typed.Endpoint, "%s: Endpoint", op)
		assert.Equal(e, errors.Is(kind, usbtransport.ErrTimedOut), typed.Timeout(), "%s: Timeout", op)
	}
}

// peer is the open interface and what is known of the device behind it.
type peer struct {
	*env
	usbtransport.Interface
	device             usbtransport.DeviceInfo
	in, out, interrupt usbtransport.EndpointDescriptor
	sequence           uint8
}

// buffer is long enough for any answer of a CCID reader that the suite provokes.
func (p *peer) buffer() []byte {
	size := p.in.MaxPacketSize
	return make([]byte, (271+size-1)/size*size)
}

// drain reads what an earlier owner of the device has left behind.
func (p *peer) drain() {
	p.Helper()
	for range 16 {
		ctx, cancel := context.WithTimeout(context.Background(), settle)
		n, err := p.BulkIn(ctx, p.in.Address, p.buffer())
		cancel()
		if n == 0 && errors.Is(err, usbtransport.ErrTimedOut) {
			return
		}
		require.NoError(p, err)
	}
	require.FailNow(p, "the device does not stop to send")
}

// request returns a message that the device answers: PC_to_RDR_GetSlotStatus (CCID 1.1 §6.1.3) of slot 0 with another
// bSeq each time.
func (p *peer) request() []byte {
	p.sequence++
	return []byte{0x65, 0, 0, 0, 0, 0, p.sequence, 0, 0, 0}
}

// isAnswer checks the answer to a request: the same from a loopback device, RDR_to_PC_SlotStatus (CCID 1.1 §6.2.2) from a reader.
func (p *peer) isAnswer(request, answer []byte) {
	p.Helper()
	if p.Loopback {
		require.Equal(p, request, answer)
		return
	}
	require.Len(p, answer, 10)
	require.Equal(p, byte(0x81), answer[0], "bMessageType")
	require.Equal(p, request[6], answer[6], "bSeq")
}

// send sends all of data.
func (p *peer) send(data []byte) {
	p.Helper()
	n, err := p.BulkOut(p.timeout(p.Patience), p.out.Address, data)
	require.NoError(p, err)
	require.Equal(p, len(data), n)
}

// receive reads one transfer.
func (p *peer) receive(buf []byte) []byte {
	p.Helper()
	n, err := p.BulkIn(p.timeout(p.Patience), p.in.Address, buf)
	require.NoError(p, err)
	return buf[:n]
}

// exchange runs one request and its answer.
func (p *peer) exchange() {
	p.Helper()
	request := p.request()
	p.send(request)
	p.isAnswer(request, p.receive(p.buffer()))
}

// echo sends data to a loopback device and reads it back.
func (p *peer) echo(data []byte) {
	p.Helper()
	p.send(data)
	size := p.in.MaxPacketSize
	answer := p.receive(make([]byte, (len(data)/size+1)*size))
	require.True(p, bytes.Equal(data, answer), "%d bytes sent, %d came back, or other ones", len(data), len(answer))
}

// silent checks that the device has nothing more to send.
func (p *peer) silent() {
	p.Helper()
	n, err := p.BulkIn(p.timeout(2*settle), p.in.Address, p.buffer())
	require.ErrorIs(p, err, usbtransport.ErrTimedOut, "nothing is left to be read")
	require.Zero(p, n)
}

// waiting starts calls that wait for data which does not come, and returns where their errors will be.
func (p *peer) waiting() <-chan error {
	errs := make(chan error, 2)
	calls := 1
	go func() {
		_, err := p.BulkIn(context.Background(), p.in.Address, p.buffer())
		errs <- err
	}()
	if p.interrupt.MaxPacketSize > 0 {
		calls++
		go func() {
			// A reader may have something to say first.
			for {
				_, err := p.InterruptIn(context.Background(), p.interrupt.Address, make([]byte, p.interrupt.MaxPacketSize))
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	time.Sleep(settle)
	all := make(chan error, calls)
	go func() {
		defer close(all)
		for range calls {
			all <- <-errs
		}
	}()
	return all
}

// wakes checks that all waiting calls end in time with an error of a kind.
func (e *env) wakes(errs <-chan error, kind error, limit time.Duration) {
	e.Helper()
	deadline := time.After(limit)
	for {
		select {
		case err, more := <-errs:
			if !more {
				return
			}
			require.ErrorIs(e, err, kind)
		case <-deadline:
			require.FailNow(e, "a waiting call has not ended after "+limit.String())
		}
	}
}
