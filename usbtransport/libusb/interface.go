//go:build libusb

package libusb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/gousb"

	"github.com/goccid/goccid/usbtransport"
)

const (
	// removalGrace is how long a failed transfer waits before it asks whether the device is gone: one that is pulled out
	// fails its transfers some milliseconds before the hub tells.
	removalGrace = 30 * time.Millisecond
	// deadlineGrace is how much later than its context a control request ends by itself: what ends with its context is to be told
	// as that, and not as a transfer that failed. libusb cuts the time to whole milliseconds.
	deadlineGrace = 10 * time.Millisecond
)

// claimed is one claimed interface: a usbtransport.Interface.
type claimed struct {
	info      usbtransport.DeviceInfo
	number    uint8
	endpoints usbtransport.Endpoints
	leave     func()

	device        *gousb.Device
	configuration *gousb.Config
	claim         *gousb.Interface
	out           map[uint8]*gousb.OutEndpoint
	in            map[uint8]*gousb.InEndpoint

	// closing ends with the first Close; closed is closed when Close has done its work.
	closing context.Context
	stop    context.CancelFunc
	closed  chan struct{}

	// control is held by the control request under way: its time limit is a field of gousb's device. A channel, so that a context
	// ends the wait for it.
	control chan struct{}

	// mu protects the fields below.
	mu        sync.Mutex
	isClosing bool
	isGone    bool
	// resets counts the resets under way and those done.
	resetting, resets int
	// calls counts the calls under way. Add happens under mu and only while isClosing is false, so that Close can wait.
	calls sync.WaitGroup
}

var _ usbtransport.Interface = (*claimed)(nil)

// newClaimed opens the endpoints of a claimed interface.
func newClaimed(info usbtransport.DeviceInfo, number uint8, endpoints usbtransport.Endpoints,
	device *gousb.Device, configuration *gousb.Config, claim *gousb.Interface,
) (*claimed, error) {
	c := &claimed{
		info: info, number: number, endpoints: endpoints,
		device: device, configuration: configuration, claim: claim,
		out: make(map[uint8]*gousb.OutEndpoint), in: make(map[uint8]*gousb.InEndpoint),
		closed: make(chan struct{}), control: make(chan struct{}, 1),
	}
	for address, e := range endpoints {
		var err error
		if e.In() {
			c.in[address], err = claim.InEndpoint(int(address & 0x0F))
		} else {
			c.out[address], err = claim.OutEndpoint(int(address & 0x0F))
		}
		if err != nil {
			claim.Close()
			configuration.Close()
			return nil, openError(info, usbtransport.ErrIO, err)
		}
	}
	c.closing, c.stop = context.WithCancel(context.Background())
	return c, nil
}

func (c *claimed) Device() usbtransport.DeviceInfo { return c.info }

func (c *claimed) Number() uint8 { return c.number }

// Control runs in a goroutine of its own, with a buffer of its own: libusb's request can't be taken back. It ends by itself after 5 s at
// the latest.
func (c *claimed) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	const op = "control"
	if err := usbtransport.CheckControl(len(data)); err != nil {
		return 0, c.fail(op, 0, usbtransport.ErrInvalid, err)
	}
	buffer := make([]byte, len(data), len(data)+1) // gousb takes the address of an empty one, too
	copy(buffer, data)
	n := 0
	err := c.detached(ctx, op, 0, func() (err error) {
		select {
		case c.control <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-c.control }()
		c.device.ControlTimeout = requestTimeout
		if deadline, ok := ctx.Deadline(); ok {
			c.device.ControlTimeout = min(max(time.Until(deadline), 0)+deadlineGrace, requestTimeout)
		}
		n, err = c.device.Control(setup.RequestType, setup.Request, setup.Value, setup.Index, buffer)
		if setup.RequestType&0x80 == 0 {
			clear(buffer) // here, for it is libusb's until now, whoever waits
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if setup.RequestType&0x80 != 0 {
		copy(data, buffer[:n])
		clear(buffer)
	}
	return n, nil
}

// BulkOut sends the closing empty packet as a transfer of its own: gousb has no way to ask libusb for it.
func (c *claimed) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	const op = "bulk out"
	descriptor, err := c.endpoints.CheckOut(endpoint, len(data))
	if err != nil {
		return 0, c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	n, err := c.run(ctx, op, endpoint, data, c.out[endpoint].WriteContext)
	if err != nil || len(data) == 0 || len(data)%descriptor.MaxPacketSize != 0 {
		return n, err
	}
	_, err = c.run(ctx, op, endpoint, nil, c.out[endpoint].WriteContext)
	return n, err
}

func (c *claimed) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return c.read(ctx, "bulk in", usbtransport.TransferBulk, endpoint, buf)
}

func (c *claimed) InterruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return c.read(ctx, "interrupt in", usbtransport.TransferInterrupt, endpoint, buf)
}

func (c *claimed) read(ctx context.Context, op string, want usbtransport.TransferType, endpoint uint8, buf []byte) (int, error) {
	descriptor, err := c.endpoints.CheckIn(endpoint, want, len(buf))
	if err != nil {
		return 0, c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	n, err := c.run(ctx, op, endpoint, buf, c.in[endpoint].ReadContext)
	clear(buf[n:]) // gousb copies all of its own memory, beyond what was received too
	if ended(err, n, len(buf), descriptor.MaxPacketSize) {
		return n, nil
	}
	return n, err
}

// ended reports whether a read that was taken back had in fact come to its end: the last packet was a short one, or the
// buffer is full. Host controllers may not have said so yet; it is a success all the same, and its bytes a whole transfer.
func ended(err error, n, size, maxPacketSize int) bool {
	taken := errors.Is(err, usbtransport.ErrTimedOut) || errors.Is(err, usbtransport.ErrCancelled)
	return taken && n > 0 && (n == size || n%maxPacketSize != 0)
}

// run runs one transfer. gousb takes it back when its context ends, and waits until libusb has done so.
func (c *claimed) run(ctx context.Context, op string, endpoint uint8, buf []byte, transfer func(context.Context, []byte) (int, error)) (int, error) {
	resets, err := c.begin()
	if err != nil {
		return 0, c.fail(op, endpoint, err, nil)
	}
	defer c.calls.Done()
	if ctx.Err() != nil {
		return 0, c.fail(op, endpoint, usbtransport.ContextKind(ctx), nil)
	}
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.closing, cancel)()

	n, err := transfer(either, buf)
	n = min(max(n, 0), len(buf))
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, gousb.TransferCancelled) && c.state() != nil:
		return n, c.fail(op, endpoint, c.state(), nil)
	case errors.Is(err, gousb.TransferCancelled) && ctx.Err() != nil:
		return n, c.fail(op, endpoint, usbtransport.ContextKind(ctx), nil)
	case c.hasReset(resets):
		// To libusb, what a reset ends is no different from what a removal ends.
		return n, c.fail(op, endpoint, usbtransport.ErrIO, errors.New("the device was reset"))
	}
	return n, c.failed(op, endpoint, err)
}

// ClearHalt uses libusb_clear_halt, see clearHalt.
func (c *claimed) ClearHalt(ctx context.Context, endpoint uint8) error {
	const op = "clear halt"
	if err := c.endpoints.CheckKnown(endpoint); err != nil {
		return c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	return c.detached(ctx, op, endpoint, func() error { return clearHalt(c.device, endpoint) })
}

func (c *claimed) Reset(ctx context.Context) error {
	return c.detached(ctx, "reset", 0, func() error {
		c.countReset(1)
		err := resetDevice(c.device)
		c.countReset(-1)
		if errors.Is(err, gousb.ErrorNotFound) {
			return gousb.ErrorNoDevice // it came back as another one
		}
		return err
	})
}

// Close ends the interface: no new calls, every waiting call takes its transfer back, then interface, device and
// session are left.
func (c *claimed) Close() error {
	c.mu.Lock()
	first := !c.isClosing
	c.isClosing = true
	c.mu.Unlock()
	c.stop()
	if !first {
		<-c.closed
		return nil
	}
	defer close(c.closed)
	c.calls.Wait()
	c.claim.Close()
	// These two refuse only while something of theirs is open, which nothing is.
	_ = c.configuration.Close()
	_ = c.device.Close()
	c.leave()
	return nil
}

// detached runs a call which libusb does not take back. If ctx ends first the call goes on by itself; Close waits for it.
func (c *claimed) detached(ctx context.Context, op string, endpoint uint8, call func() error) error {
	if _, err := c.begin(); err != nil {
		return c.fail(op, endpoint, err, nil)
	}
	if ctx.Err() != nil {
		c.calls.Done()
		return c.fail(op, endpoint, usbtransport.ContextKind(ctx), nil)
	}
	result := make(chan error, 1)
	go func() {
		defer c.calls.Done()
		result <- call()
	}()
	select {
	case err := <-result:
		if err != nil && ctx.Err() != nil && !errors.Is(err, gousb.ErrorNoDevice) {
			return c.fail(op, endpoint, usbtransport.ContextKind(ctx), err)
		}
		if err != nil {
			return c.failed(op, endpoint, err)
		}
		return nil
	case <-ctx.Done():
		return c.fail(op, endpoint, usbtransport.ContextKind(ctx), nil)
	case <-c.closing.Done():
		return c.fail(op, endpoint, usbtransport.ErrClosed, nil)
	}
}

// begin admits a call, or says why not. An admitted call ends with c.calls.Done.
func (c *claimed) begin() (resets int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosing {
		return 0, usbtransport.ErrClosed
	}
	if c.isGone {
		return 0, usbtransport.ErrRemoved
	}
	c.calls.Add(1)
	return c.resets, nil
}

// state returns ErrClosed, ErrRemoved, or nil while the interface is in use.
func (c *claimed) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosing {
		return usbtransport.ErrClosed
	}
	if c.isGone {
		return usbtransport.ErrRemoved
	}
	return nil
}

func (c *claimed) countReset(change int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resetting += change
	c.resets++
}

// hasReset reports whether a reset ran since there were so many.
func (c *claimed) hasReset(since int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resetting > 0 || c.resets != since
}

// attached waits a moment and then asks the device whether it is there. Only the kernel's word that it is not counts.
func (c *claimed) attached() bool {
	grace := time.NewTimer(removalGrace)
	defer grace.Stop()
	select {
	case <-c.closing.Done():
		return true
	case <-grace.C:
	}
	return isConfigured(c.device) && c.state() == nil
}

// failed makes an Error of a failure. libusb says that there is no device for the end of a driver's binding, too, as it comes
// with a reset by another process: what counts is whether the kernel still knows the device by our handle.
func (c *claimed) failed(op string, endpoint uint8, cause error) error {
	kind := kindOf(cause)
	if kind == usbtransport.ErrRemoved && c.state() == nil && isConnected(c.device, c.number) && isConfigured(c.device) {
		kind, cause = usbtransport.ErrIO, fmt.Errorf("%w: %w", usbtransport.ErrReset, cause)
	}
	if kind == usbtransport.ErrRemoved || kind == usbtransport.ErrIO && !c.attached() {
		c.mu.Lock()
		c.isGone = true
		c.mu.Unlock()
	}
	if state := c.state(); state != nil {
		kind = state
	}
	return c.fail(op, endpoint, kind, cause)
}

func (c *claimed) fail(op string, endpoint uint8, kind, cause error) error {
	return &usbtransport.Error{Op: op, Device: c.info.PortPath, Endpoint: endpoint, Kind: kind, Cause: cause}
}
