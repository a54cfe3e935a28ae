package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/usbtransport"
)

func devicesListed(e *env) {
	assert.NotEmpty(e, e.Backend.Name())
	d := e.device()
	assert.NotEmpty(e, d.Key)
	assert.NotEmpty(e, d.PortPath)
	assert.NotZero(e, d.Bus)
	assert.InDelta(e, 64, d.Address, 63, "an address is 1 to 127")
	assert.NoError(e, d.Unreadable)
	require.GreaterOrEqual(e, len(d.Descriptors), 27, "a device and a configuration descriptor")
	assert.Equal(e, []byte{18, usbtransport.DescriptorDevice}, d.Descriptors[:2])
	assert.Equal(e, d.IDVendor, le16(d.Descriptors[8:]), "IDVendor")
	assert.Equal(e, d.IDProduct, le16(d.Descriptors[10:]), "IDProduct")
	assert.Equal(e, d.BCDDevice, le16(d.Descriptors[12:]), "BCDDevice")
	assert.Equal(e, byte(usbtransport.DescriptorConfiguration), d.Descriptors[19])
	assert.Equal(e, int(le16(d.Descriptors[20:])), len(d.Descriptors)-18, "one configuration, whole")
}

func le16(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }

func devicesStable(e *env) {
	first, err := e.Backend.Devices(e.context())
	require.NoError(e, err)
	second, err := e.Backend.Devices(e.context())
	require.NoError(e, err)
	require.Len(e, second, len(first))
	keys := make(map[string]bool)
	for i, d := range first {
		assert.Equal(e, d.Key, second[i].Key)
		assert.False(e, keys[d.Key], "key %q is there twice", d.Key)
		keys[d.Key] = true
		if i > 0 {
			assert.LessOrEqual(e, first[i-1].Bus, d.Bus, "order by bus")
		}
	}
}

func devicesCancelled(e *env) {
	_, err := e.Backend.Devices(ended())
	require.ErrorIs(e, err, usbtransport.ErrCancelled)
	_, err = e.Backend.Watch(ended())
	require.ErrorIs(e, err, usbtransport.ErrCancelled)
	_, err = e.Backend.Open(ended(), e.device(), e.Interface)
	require.ErrorIs(e, err, usbtransport.ErrCancelled)
	e.open().exchange()
}

func openClaims(e *env) {
	d := e.device()
	p := e.open()
	assert.Equal(e, e.Interface, p.Number())
	assert.Equal(e, d.Key, p.Device().Key)
	assert.Equal(e, d.Descriptors, p.Device().Descriptors)
	p.exchange()
}

func openBusy(e *env) {
	p := e.open()
	_, err := e.Backend.Open(e.context(), e.device(), e.Interface)
	e.isKind(err, usbtransport.ErrBusy, "open", p.device, 0)
	if !e.AnonymousHolders {
		var busy *usbtransport.BusyError
		require.ErrorAs(e, err, &busy, "the cause of ErrBusy")
		require.NotEmpty(e, busy.Holders)
	}
	p.exchange()
	require.NoError(e, p.Close())
	e.open().exchange()
}

func openStale(e *env) {
	d := e.device()
	d.Key += "?"
	_, err := e.Backend.Open(e.context(), d, e.Interface)
	e.isKind(err, usbtransport.ErrRemoved, "open", d, 0)
	d.PortPath = "99-9.9"
	_, err = e.Backend.Open(e.context(), d, e.Interface)
	e.isKind(err, usbtransport.ErrRemoved, "open", d, 0)
}

func openUnknown(e *env) {
	d := e.device()
	_, err := e.Backend.Open(e.context(), d, 0xEE)
	e.isKind(err, usbtransport.ErrInvalid, "open", d, 0)
	e.open().exchange()
}

func controlRequests(e *env) {
	p := e.open()
	device := usbtransport.Setup{RequestType: 0x80, Request: 6, Value: usbtransport.DescriptorDevice << 8} // GET_DESCRIPTOR
	for _, length := range []int{18, 8, 64} {
		data := make([]byte, length)
		n, err := p.Control(e.context(), device, data)
		require.NoError(e, err)
		want := min(length, 18)
		require.Equal(e, want, n, "bytes of a device descriptor for wLength %d", length)
		require.Equal(e, p.device.Descriptors[:want], data[:n])
	}
	status := usbtransport.Setup{RequestType: 0x80, Request: 0} // GET_STATUS
	n, err := p.Control(e.context(), status, make([]byte, 2))
	require.NoError(e, err)
	require.Equal(e, 2, n)

	unknown := usbtransport.Setup{RequestType: 0x80, Request: 6, Value: 0x77 << 8}
	n, err = p.Control(e.context(), unknown, make([]byte, 64))
	e.isKind(err, usbtransport.ErrStalled, "control", p.device, 0)
	require.Zero(e, n)
	n, err = p.Control(e.context(), device, make([]byte, 18))
	require.NoError(e, err, "a refused control request does not last (USB 2.0 §8.5.3.4)")
	require.Equal(e, 18, n)

	_, err = p.Control(e.context(), device, make([]byte, 4097))
	e.isKind(err, usbtransport.ErrInvalid, "control", p.device, 0)
	_, err = p.Control(ended(), device, make([]byte, 18))
	e.isKind(err, usbtransport.ErrCancelled, "control", p.device, 0)
}

func transfersMove(e *env) {
	p := e.open()
	for range 50 {
		p.exchange()
	}
	p.silent()
}

// exactMultipleOut sends a message of one full packet. A device can't know that it is complete until an empty packet follows.
func exactMultipleOut(e *env) {
	p := e.open()
	if e.Loopback {
		p.echo(random(p.out.MaxPacketSize))
		return
	}
	// The card is switched off first, so that the reader can only answer that there is none it could talk to.
	power := []byte{0x63, 0, 0, 0, 0, 0, 0xA0, 0, 0, 0} // PC_to_RDR_IccPowerOff, CCID 1.1 §6.1.2
	p.send(power)
	p.receive(p.buffer())
	block := make([]byte, p.out.MaxPacketSize) // PC_to_RDR_XfrBlock, CCID 1.1 §6.1.4
	block[0], block[6] = 0x6F, 0xA1
	length := len(block) - 10
	block[1], block[2] = byte(length), byte(length>>8)
	for i := range length {
		block[10+i] = 0
	}
	n, err := p.BulkOut(e.context(), p.out.Address, block)
	if errors.Is(err, usbtransport.ErrStalled) {
		// QEMU's reader does. It has had the whole message all the same, and answers.
		require.Equal(e, len(block), n, "bytes taken before the empty packet was refused")
		p.drain()
		e.Skip("not shown here: this reader stalls the empty packet that ends an exact multiple of packets")
	}
	require.NoError(e, err)
	require.Equal(e, len(block), n)
	answer := p.receive(p.buffer())
	require.GreaterOrEqual(e, len(answer), 10)
	require.Equal(e, byte(0x80), answer[0], "bMessageType")
	require.Equal(e, byte(0xA1), answer[6], "bSeq")
	p.exchange()
}

func packetBounds(e *env) {
	p := e.open()
	size := p.out.MaxPacketSize
	for _, length := range []int{0, 1, size - 1, size, size + 1, 2*size - 1, 2 * size, 2*size + 1, 16 * size, 4096, 65_536, 65_556} {
		p.echo(random(length))
	}
	p.silent()
	for range 3 {
		p.send(nil)
	}
	for range 3 {
		require.Empty(e, p.receive(p.buffer()), "an empty transfer")
	}
	p.silent()
}

func fullBuffer(e *env) {
	p := e.open()
	size := p.in.MaxPacketSize
	data := random(2 * size)
	p.send(data)
	require.Equal(e, data, p.receive(make([]byte, 2*size)), "the buffer is full")
	require.Empty(e, p.receive(make([]byte, size)), "the empty packet that ended the transfer")
	data = random(3*size + 1)
	p.send(data)
	require.Equal(e, data[:size], p.receive(make([]byte, size)))
	require.Equal(e, data[size:], p.receive(make([]byte, 4*size)), "the rest of a transfer whose first buffer was full")
	p.exchange()
}

func random(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}

func invalidArguments(e *env) {
	p := e.open()
	refused := func(op string, endpoint uint8, call func(context.Context) (int, error)) {
		e.Helper()
		e.within(promptly, op, func() {
			n, err := call(e.timeout(promptly))
			e.isKind(err, usbtransport.ErrInvalid, op, p.device, endpoint)
			assert.Zero(e, n)
		})
	}
	bulkIn := func(endpoint uint8, length int) {
		e.Helper()
		refused("bulk in", endpoint, func(ctx context.Context) (int, error) { return p.BulkIn(ctx, endpoint, make([]byte, length)) })
	}
	interruptIn := func(endpoint uint8, length int) {
		e.Helper()
		refused("interrupt in", endpoint, func(ctx context.Context) (int, error) {
			return p.InterruptIn(ctx, endpoint, make([]byte, length))
		})
	}
	bulkOut := func(endpoint uint8) {
		e.Helper()
		refused("bulk out", endpoint, func(ctx context.Context) (int, error) { return p.BulkOut(ctx, endpoint, []byte{1}) })
	}
	size := p.in.MaxPacketSize
	for _, length := range []int{0, 1, size - 1, size + 1, 2*size - 1} {
		bulkIn(p.in.Address, length)
	}
	bulkIn(p.out.Address, size)
	bulkIn(0x8E, size)
	bulkOut(p.in.Address)
	bulkOut(0x0E)
	interruptIn(p.in.Address, size)
	refused("clear halt", 0x0E, func(ctx context.Context) (int, error) { return 0, p.ClearHalt(ctx, 0x0E) })
	if p.interrupt.MaxPacketSize > 1 {
		interruptIn(p.interrupt.Address, 0)
		interruptIn(p.interrupt.Address, p.interrupt.MaxPacketSize+1)
		bulkIn(p.interrupt.Address, p.interrupt.MaxPacketSize)
	}
	p.exchange()
}

func endedContext(e *env) {
	p := e.open()
	n, err := p.BulkOut(ended(), p.out.Address, p.request())
	e.isKind(err, usbtransport.ErrCancelled, "bulk out", p.device, p.out.Address)
	require.Zero(e, n)
	p.silent()
	n, err = p.BulkIn(ended(), p.in.Address, p.buffer())
	e.isKind(err, usbtransport.ErrCancelled, "bulk in", p.device, p.in.Address)
	require.Zero(e, n)
	e.isKind(p.ClearHalt(ended(), p.in.Address), usbtransport.ErrCancelled, "clear halt", p.device, p.in.Address)
	p.exchange()
}

func deadlines(e *env) {
	p := e.open()
	const wait = 50 * time.Millisecond
	start := time.Now()
	e.within(wait+promptly, "a transfer with a deadline", func() {
		n, err := p.BulkIn(e.timeout(wait), p.in.Address, p.buffer())
		e.isKind(err, usbtransport.ErrTimedOut, "bulk in", p.device, p.in.Address)
		assert.ErrorIs(e, err, context.DeadlineExceeded)
		assert.Zero(e, n)
	})
	require.GreaterOrEqual(e, time.Since(start), wait)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(wait, cancel)
	e.within(wait+promptly, "a transfer that is cancelled", func() {
		n, err := p.BulkIn(ctx, p.in.Address, p.buffer())
		e.isKind(err, usbtransport.ErrCancelled, "bulk in", p.device, p.in.Address)
		assert.ErrorIs(e, err, context.Canceled)
		assert.Zero(e, n)
	})
	if p.interrupt.MaxPacketSize > 0 {
		e.within(wait+promptly, "an interrupt transfer with a deadline", func() {
			for ctx := e.timeout(wait); ; { // a reader may have something to say first
				_, err := p.InterruptIn(ctx, p.interrupt.Address, make([]byte, p.interrupt.MaxPacketSize))
				if err != nil {
					e.isKind(err, usbtransport.ErrTimedOut, "interrupt in", p.device, p.interrupt.Address)
					return
				}
			}
		})
	}
	p.exchange()
}

// cancelKeepsBytes cancels reads around the moment at which the answer comes.
func cancelKeepsBytes(e *env) {
	p := e.open()
	start := time.Now()
	p.exchange()
	span := 2*time.Since(start) + 100*time.Microsecond
	// A fast backend's reads are mostly over before their time is.
	for tries, cuts := 0, 0; tries < 200 || cuts < 40 && tries < 5000; tries++ {
		request := p.request()
		p.send(request)
		answer, how := p.cancelledRead(rand.N(span), len(p.buffer()), len(request))
		if how != inOne {
			cuts++
		}
		p.isAnswer(request, answer)
	}
	p.silent()
}

// cancelled is how a read went that was to be cancelled.
type cancelled int

const (
	inOne   cancelled = iota // it was over before its time was
	before                   // it had nothing yet
	between                  // it had some packets
)

// cancelledRead reads one transfer of want bytes, once more if the time that it gets at first ends before the transfer does.
func (p *peer) cancelledRead(first time.Duration, length, want int) (data []byte, how cancelled) {
	p.Helper()
	buf := make([]byte, length)
	n, err := p.BulkIn(p.timeout(first), p.in.Address, buf)
	if err == nil {
		return buf[:n], inOne
	}
	require.ErrorIs(p, err, usbtransport.ErrTimedOut)
	require.Less(p, n, want, "a read that got the whole transfer is no failure: %v", err)
	how = before
	if n > 0 {
		how = between
	}
	return append(buf[:n:n], p.receive(make([]byte, length))...), how
}

func cancelBetweenPackets(e *env) {
	p := e.open()
	size := p.in.MaxPacketSize
	const packets = 32
	span := time.Second
	for range 5 {
		start := time.Now()
		p.echo(random(packets*size + 1))
		span = min(span, time.Since(start)) // the first takes longer
	}
	// It takes some luck to end a read just then.
	for tries, hits := 0, 0; tries < 500 && hits < 10; tries++ {
		data := random(packets*size + 1)
		p.send(data)
		answer, how := p.cancelledRead(rand.N(span), (packets+1)*size, len(data))
		if how == between {
			hits++
		}
		require.True(e, bytes.Equal(data, answer), "%d bytes sent, %d came back, or other ones", len(data), len(answer))
	}
	p.silent()
}

// endpointsIndependent lets transfers wait on two endpoints while the others work.
func endpointsIndependent(e *env) {
	p := e.open()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var interrupts sync.WaitGroup
	if p.interrupt.MaxPacketSize > 0 {
		interrupts.Go(func() {
			for {
				_, err := p.InterruptIn(ctx, p.interrupt.Address, make([]byte, p.interrupt.MaxPacketSize))
				if err != nil {
					assert.ErrorIs(e, err, usbtransport.ErrCancelled)
					return
				}
			}
		})
	}
	var controls sync.WaitGroup
	controls.Go(func() {
		for range 50 {
			n, err := p.Control(ctx, usbtransport.Setup{RequestType: 0x80, Request: 0}, make([]byte, 2))
			if !assert.NoError(e, err) || !assert.Equal(e, 2, n) {
				return
			}
		}
	})
	// The read waits before its answer is asked for.
	for range 50 {
		request := p.request()
		answers := make(chan []byte, 1)
		go func() {
			buf := p.buffer()
			n, err := p.BulkIn(ctx, p.in.Address, buf)
			assert.NoError(e, err)
			answers <- buf[:n]
		}()
		p.send(request)
		select {
		case answer := <-answers:
			p.isAnswer(request, answer)
		case <-time.After(e.Patience):
			require.FailNow(e, "the answer does not come")
		}
	}
	e.within(e.Patience, "control transfers", controls.Wait)
	cancel()
	e.within(promptly, "a cancelled interrupt transfer", interrupts.Wait)
}

// clearHaltInStep clears halts that are not there, after odd numbers of packets: if only one side resets its data toggle, the next
// packet is taken for a repetition and dropped.
func clearHaltInStep(e *env) {
	p := e.open()
	for range 5 {
		p.exchange()
		err := p.ClearHalt(e.context(), p.in.Address)
		if errors.Is(err, usbtransport.ErrStalled) && !e.Loopback {
			p.exchange()
			e.Skip("not shown here: this reader refuses CLEAR_FEATURE(ENDPOINT_HALT)")
		}
		require.NoError(e, err)
		require.NoError(e, p.ClearHalt(e.context(), p.out.Address))
		p.exchange()
		p.exchange()
	}
	p.silent()
}

func stalls(e *env) {
	p := e.open()
	p.exchange()
	require.NoError(e, e.Stall(p.in.Address))
	for range 2 {
		_, err := p.BulkIn(e.context(), p.in.Address, p.buffer())
		e.isKind(err, usbtransport.ErrStalled, "bulk in", p.device, p.in.Address)
	}
	require.NoError(e, p.ClearHalt(e.context(), p.in.Address))
	p.exchange()
	require.NoError(e, e.Stall(p.out.Address))
	for range 2 {
		_, err := p.BulkOut(e.context(), p.out.Address, p.request())
		e.isKind(err, usbtransport.ErrStalled, "bulk out", p.device, p.out.Address)
	}
	require.NoError(e, p.ClearHalt(e.context(), p.out.Address))
	p.exchange()
	p.silent()
}

func interruptsInOrder(e *env) {
	p := e.open()
	read := func(ctx context.Context) ([]byte, error) {
		buf := make([]byte, p.interrupt.MaxPacketSize)
		n, err := p.InterruptIn(ctx, p.interrupt.Address, buf)
		return buf[:n], err
	}
	for i := range 10 {
		require.NoError(e, e.QueueInterrupt([]byte{0x50, byte(2 * i)}))
		require.NoError(e, e.QueueInterrupt([]byte{0x50, byte(2*i + 1)}))
		for j := range 2 {
			data, err := read(e.context())
			require.NoError(e, err)
			require.Equal(e, []byte{0x50, byte(2*i + j)}, data)
		}
	}
	for i := range 50 {
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(time.Millisecond))
		require.NoError(e, e.QueueInterrupt([]byte{0x51, byte(i)}))
		data, err := read(ctx)
		cancel()
		if len(data) == 0 {
			require.ErrorIs(e, err, usbtransport.ErrTimedOut)
			data, err = read(e.context())
			require.NoError(e, err)
		}
		require.Equal(e, []byte{0x51, byte(i)}, data, "each interrupt once")
	}
	_, err := read(e.timeout(settle))
	require.ErrorIs(e, err, usbtransport.ErrTimedOut)
}

func resetKeeps(e *env) {
	p := e.open()
	p.exchange()
	waiting := make(chan error, 1)
	go func() {
		_, err := p.BulkIn(context.Background(), p.in.Address, p.buffer())
		waiting <- err
	}()
	time.Sleep(settle)
	err := p.Reset(e.context())
	if errors.Is(err, usbtransport.ErrNotSupported) {
		require.NoError(e, p.Close())
		e.wakes(closeAfter(waiting), usbtransport.ErrClosed, promptly)
		e.Skip("not shown here: this backend can't reset a device")
	}
	require.NoError(e, err)
	select {
	case err := <-waiting:
		require.Error(e, err, "a transfer that a reset has ended")
	case <-time.After(e.Patience):
		require.FailNow(e, "a transfer goes on after a reset")
	}
	p.exchange()
	_, err = e.Backend.Open(e.context(), p.device, e.Interface)
	require.ErrorIs(e, err, usbtransport.ErrBusy, "the interface is still claimed")
	e.isKind(p.Reset(ended()), usbtransport.ErrCancelled, "reset", p.device, 0)
}

// closeAfter makes a channel of one error one that ends.
func closeAfter(errs <-chan error) <-chan error {
	all := make(chan error)
	go func() {
		defer close(all)
		all <- <-errs
	}()
	return all
}

// calls are all calls of an interface.
func (p *peer) calls() map[string]func(context.Context) error {
	all := map[string]func(context.Context) error{
		"control": func(ctx context.Context) error {
			_, err := p.Control(ctx, usbtransport.Setup{RequestType: 0x80}, make([]byte, 2))
			return err
		},
		"bulk out": func(ctx context.Context) error {
			_, err := p.BulkOut(ctx, p.out.Address, p.request())
			return err
		},
		"bulk in": func(ctx context.Context) error {
			_, err := p.BulkIn(ctx, p.in.Address, p.buffer())
			return err
		},
		"clear halt": func(ctx context.Context) error { return p.ClearHalt(ctx, p.in.Address) },
		"reset":      p.Reset,
	}
	if p.interrupt.MaxPacketSize > 0 {
		all["interrupt in"] = func(ctx context.Context) error {
			_, err := p.InterruptIn(ctx, p.interrupt.Address, make([]byte, p.interrupt.MaxPacketSize))
			return err
		}
	}
	return all
}

// all checks that every call ends in time with an error of a kind.
func (p *peer) all(kind error, limit time.Duration) {
	p.Helper()
	for op, call := range p.calls() {
		p.within(limit, fmt.Sprintf("%s, which should be %q", op, kind), func() {
			assert.ErrorIs(p, call(p.context()), kind, op)
		})
	}
}

func closeWakes(e *env) {
	p := e.open()
	p.exchange()
	errs := p.waiting()
	e.within(promptly, "Close", func() { assert.NoError(e, p.Close()) })
	e.wakes(errs, usbtransport.ErrClosed, promptly)
	p.all(usbtransport.ErrClosed, promptly)
	assert.Equal(e, p.device.Key, p.Device().Key, "Device after Close")
	e.open().exchange()
}

func closeRepeated(e *env) {
	for range 5 {
		p := e.open()
		errs := p.waiting()
		var closers sync.WaitGroup
		for range 4 {
			closers.Go(func() { assert.NoError(e, p.Close()) })
		}
		e.within(promptly, "Close, four times at once", closers.Wait)
		e.within(promptly, "Close after Close", func() { assert.NoError(e, p.Close()) })
		e.wakes(errs, usbtransport.ErrClosed, promptly)
	}
}

func removalEndsCalls(e *env) {
	p := e.open()
	p.exchange()
	errs := p.waiting()
	require.NoError(e, e.Unplug())
	e.wakes(errs, usbtransport.ErrRemoved, e.RemovalTime)
	p.all(usbtransport.ErrRemoved, e.RemovalTime)
	_, err := p.BulkIn(e.context(), p.in.Address, p.buffer())
	e.isKind(err, usbtransport.ErrRemoved, "bulk in", p.device, p.in.Address)
	e.within(promptly, "Close after a removal", func() { assert.NoError(e, p.Close()) })
	p.all(usbtransport.ErrClosed, promptly)
	_, err = e.Backend.Open(e.context(), p.device, e.Interface)
	e.isKind(err, usbtransport.ErrRemoved, "open", p.device, 0)
	require.NoError(e, e.Plug())
	e.open().exchange()
}

func replugIsNew(e *env) {
	old := e.device()
	keys := map[string]bool{old.Key: true}
	for range 3 {
		require.NoError(e, e.Unplug())
		devices, err := e.Backend.Devices(e.context())
		require.NoError(e, err)
		for _, d := range devices {
			assert.False(e, keys[d.Key], "a device that was unplugged is listed")
		}
		require.NoError(e, e.Plug())
		d := e.device()
		require.Equal(e, old.PortPath, d.PortPath)
		require.False(e, keys[d.Key], "the key %q is used again", d.Key)
		keys[d.Key] = true
		_, err = e.Backend.Open(e.context(), old, e.Interface)
		e.isKind(err, usbtransport.ErrRemoved, "open", old, 0)
	}
	e.open().exchange()
}

// watch starts a watcher.
func (e *env) watch() usbtransport.Watcher {
	e.Helper()
	w, err := e.Backend.Watch(e.context())
	require.NoError(e, err)
	e.Cleanup(func() { _ = w.Close() })
	return w
}

// next returns the next event about the device under test. A change may be reported without need, so none is returned.
func (e *env) next(w usbtransport.Watcher) usbtransport.Event {
	e.Helper()
	ctx := e.context()
	for {
		event, err := w.Next(ctx)
		require.NoError(e, err, "the next event")
		if e.Match(event.Device) && event.Kind != usbtransport.Changed {
			return event
		}
	}
}

// quiet checks that a watcher has nothing to say about the device under test.
func (e *env) quiet(w usbtransport.Watcher) {
	e.Helper()
	ctx := e.timeout(2 * settle)
	for {
		event, err := w.Next(ctx)
		if err != nil {
			require.ErrorIs(e, err, usbtransport.ErrTimedOut)
			return
		}
		require.False(e, e.Match(event.Device) && event.Kind != usbtransport.Changed, "%s of a device that is known to be there", event.Kind)
	}
}

func watchPresent(e *env) {
	devices, err := e.Backend.Devices(e.context())
	require.NoError(e, err)
	present := make(map[string]bool)
	for _, d := range devices {
		present[d.Key] = true
	}
	// Devices has asked whoever has to be asked, so they are all known: a watch reports them at once.
	w := e.watch()
	for len(present) > 0 {
		event, err := w.Next(e.context())
		require.NoError(e, err)
		if event.Kind == usbtransport.Changed {
			continue
		}
		require.Equal(e, usbtransport.Arrived, event.Kind)
		require.True(e, present[event.Device.Key], "%s arrives twice, or was not there", event.Device)
		delete(present, event.Device.Key)
		if e.Match(event.Device) {
			assert.NotNil(e, event.Device.Descriptors)
		}
	}
	e.quiet(w)
}

func watchCancelled(e *env) {
	w := e.watch()
	_, err := w.Next(ended())
	e.isKind(err, usbtransport.ErrCancelled, "watch", usbtransport.DeviceInfo{}, 0)
	require.Equal(e, usbtransport.Arrived, e.next(w).Kind)
	const wait = 30 * time.Millisecond
	start := time.Now()
	e.within(wait+promptly, "Next with a deadline", func() {
		for ctx := e.timeout(wait); ; {
			_, err := w.Next(ctx)
			if err != nil {
				e.isKind(err, usbtransport.ErrTimedOut, "watch", usbtransport.DeviceInfo{}, 0)
				return
			}
		}
	})
	require.GreaterOrEqual(e, time.Since(start), wait)
}

func watchClosed(e *env) {
	w := e.watch()
	e.next(w)
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			for {
				_, err := w.Next(context.Background())
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	time.Sleep(settle)
	e.within(promptly, "Close of a watcher", func() { assert.NoError(e, w.Close()) })
	for range 2 {
		select {
		case err := <-errs:
			e.isKind(err, usbtransport.ErrClosed, "watch", usbtransport.DeviceInfo{}, 0)
		case <-time.After(promptly):
			require.FailNow(e, "Next waits after Close")
		}
	}
	_, err := w.Next(e.context())
	require.ErrorIs(e, err, usbtransport.ErrClosed)
	require.NoError(e, w.Close(), "Close after Close")
}

func watchOrder(e *env) {
	w, other := e.watch(), e.watch()
	first := e.next(w)
	require.Equal(e, usbtransport.Arrived, first.Kind)
	require.Equal(e, first.Device.Key, e.next(other).Device.Key)

	// Nobody reads while it happens.
	const cycles = 3
	for range cycles {
		require.NoError(e, e.Unplug())
		require.NoError(e, e.Plug())
	}
	for _, w := range []usbtransport.Watcher{w, other} {
		key := first.Device.Key
		seen := map[string]bool{key: true}
		for key != e.device().Key {
			event := e.next(w)
			require.Equal(e, usbtransport.Removed, event.Kind, "a removal precedes the next arrival")
			require.Equal(e, key, event.Device.Key)
			event = e.next(w)
			require.Equal(e, usbtransport.Arrived, event.Kind)
			require.Equal(e, first.Device.PortPath, event.Device.PortPath)
			key = event.Device.Key
			require.False(e, seen[key], "the key %q is used again", key)
			seen[key] = true
		}
		e.quiet(w)
	}
	require.NoError(e, e.Unplug())
	start := time.Now()
	require.Equal(e, usbtransport.Removed, e.next(w).Kind)
	require.LessOrEqual(e, time.Since(start), e.RemovalTime, "the time until a removal is reported")
	require.NoError(e, e.Plug())
	event := e.next(w)
	require.Equal(e, usbtransport.Arrived, event.Kind)
	i, err := e.Backend.Open(e.context(), event.Device, e.Interface)
	require.NoError(e, err, "what a watcher reports can be opened")
	defer i.Close()
	e.peer(i).exchange()
}

func watchCancelRace(e *env) {
	w := e.watch()
	key := e.next(w).Device.Key
	for range 3 {
		for _, step := range []struct {
			kind usbtransport.EventKind
			hook func() error
		}{{usbtransport.Removed, e.Unplug}, {usbtransport.Arrived, e.Plug}} {
			e.quiet(w) // a wait that has been cancelled by then
			events := make(chan usbtransport.Event, 1)
			go func() {
				defer close(events)
				for {
					ctx, cancel := context.WithTimeout(context.Background(), rand.N(2*time.Millisecond))
					event, err := w.Next(ctx)
					cancel()
					if err == nil && e.Match(event.Device) && event.Kind != usbtransport.Changed {
						events <- event
						return
					}
					if err != nil && !errors.Is(err, usbtransport.ErrTimedOut) {
						return
					}
				}
			}()
			require.NoError(e, step.hook())
			select {
			case event := <-events:
				require.Equal(e, step.kind, event.Kind)
				require.Equal(e, step.kind == usbtransport.Removed, event.Device.Key == key)
				key = event.Device.Key
			case <-time.After(e.Patience):
				_ = w.Close()
				require.FailNow(e, "the event was lost")
			}
		}
	}
}

func nothingLeft(e *env) {
	before := goleak.IgnoreCurrent()
	w, err := e.Backend.Watch(e.context())
	require.NoError(e, err)
	e.next(w)
	e.quiet(w)
	for range 3 {
		i, err := e.Backend.Open(e.context(), e.device(), e.Interface)
		require.NoError(e, err)
		p := e.peer(i)
		p.exchange()
		_, err = e.Backend.Open(e.context(), p.device, e.Interface)
		require.ErrorIs(e, err, usbtransport.ErrBusy)
		_, err = p.BulkIn(e.timeout(settle), p.in.Address, p.buffer())
		require.ErrorIs(e, err, usbtransport.ErrTimedOut)
		errs := p.waiting()
		require.NoError(e, p.Close())
		e.wakes(errs, usbtransport.ErrClosed, promptly)
	}
	require.NoError(e, w.Close())
	require.NoError(e, goleak.Find(before), "a goroutine is left")
}
