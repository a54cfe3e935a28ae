package usbip

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/goccid/goccid/usbtransport"
)

// removalGrace is how long a transfer that failed on the bus waits for the end of the connection. A device that is pulled out
// fails its transfers first, and its server notices some milliseconds later.
const removalGrace = 100 * time.Millisecond

// claimed is one open interface: a usbtransport.Interface.
type claimed struct {
	info       usbtransport.DeviceInfo
	number     uint8
	endpoints  usbtransport.Endpoints
	attachment *attachment
	release    func()

	// closing is closed by the first Close, closed when it has done its work.
	closing, closed chan struct{}

	// mu protects the fields below.
	mu        sync.Mutex
	isClosing bool
	// calls counts the calls under way. Add happens under mu and only while isClosing is false, so that Close can wait.
	calls sync.WaitGroup
}

var _ usbtransport.Interface = (*claimed)(nil)

func newClaimed(info usbtransport.DeviceInfo, d usbtransport.InterfaceDescriptor, a *attachment, release func()) *claimed {
	return &claimed{
		info: info, number: d.Number, endpoints: usbtransport.NewEndpoints(d.Endpoints), attachment: a, release: release,
		closing: make(chan struct{}), closed: make(chan struct{}),
	}
}

// Device implements usbtransport.Interface.
func (c *claimed) Device() usbtransport.DeviceInfo { return c.info }

// Number implements usbtransport.Interface.
func (c *claimed) Number() uint8 { return c.number }

// Control implements usbtransport.Interface.
func (c *claimed) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	const op = "control"
	if err := usbtransport.CheckControl(len(data)); err != nil {
		return 0, c.fail(op, 0, usbtransport.ErrInvalid, err)
	}
	return c.call(ctx, op, 0, func() outcome {
		return c.attachment.runControl(ctx, c.closing, setup, data).handOver(data)
	})
}

// BulkOut implements usbtransport.Interface.
func (c *claimed) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	const op = "bulk out"
	descriptor, err := c.endpoints.CheckOut(endpoint, len(data))
	if err != nil {
		return 0, c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	s := command{kind: commandSubmit, endpoint: endpoint & 0x0F, length: len(data)}
	if len(data) > 0 && len(data)%descriptor.MaxPacketSize == 0 {
		s.flags = flagZeroPacket
	}
	return c.call(ctx, op, endpoint, func() outcome { return c.attachment.run(ctx, c.closing, s, data) })
}

// BulkIn implements usbtransport.Interface.
func (c *claimed) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return c.in(ctx, "bulk in", usbtransport.TransferBulk, endpoint, buf)
}

// InterruptIn implements usbtransport.Interface.
func (c *claimed) InterruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return c.in(ctx, "interrupt in", usbtransport.TransferInterrupt, endpoint, buf)
}

func (c *claimed) in(ctx context.Context, op string, want usbtransport.TransferType, endpoint uint8, buf []byte) (int, error) {
	descriptor, err := c.endpoints.CheckIn(endpoint, want, len(buf))
	if err != nil {
		return 0, c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	s := command{kind: commandSubmit, in: true, endpoint: endpoint & 0x0F, flags: flagIn, length: len(buf)}
	if want == usbtransport.TransferInterrupt {
		s.interval = c.interval(descriptor)
	}
	return c.call(ctx, op, endpoint, func() outcome {
		return c.attachment.run(ctx, c.closing, s, nil).handOver(buf)
	})
}

// interval is an endpoint's polling interval as Linux has it in a transfer: in frames at full speed, in microframes above, where
// bInterval is an exponent (USB 2.0 table 9-13).
func (c *claimed) interval(e usbtransport.EndpointDescriptor) uint32 {
	if c.attachment.record.speed < speedHigh {
		return max(uint32(e.Interval), 1)
	}
	return 1 << (min(max(e.Interval, 1), 16) - 1)
}

// ClearHalt implements usbtransport.Interface. The server does to the host's side of the endpoint what the request does to the device's.
func (c *claimed) ClearHalt(ctx context.Context, endpoint uint8) error {
	const op = "clear halt"
	if err := c.endpoints.CheckKnown(endpoint); err != nil {
		return c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	setup := usbtransport.Setup{RequestType: recipientEndpoint, Request: requestClearFeature, Value: featureHalt, Index: uint16(endpoint)}
	_, err := c.call(ctx, op, endpoint, func() outcome { return c.attachment.runControl(ctx, c.closing, setup, nil) })
	return err
}

// Reset implements usbtransport.Interface: it takes all transfers of the device back and sends the request that would reset
// the device's port to a hub, which servers look out for. Linux resets the device and then passes the request on to it, where it is refused; so a
// refusal says nothing. If the device answers afterwards, it is back.
func (c *claimed) Reset(ctx context.Context) error {
	setup := usbtransport.Setup{RequestType: recipientPort, Request: requestSetFeature, Value: featurePortReset}
	_, err := c.call(ctx, "reset", 0, func() outcome {
		c.attachment.abortAll()
		o := c.attachment.runControl(ctx, c.closing, setup, nil)
		if o.err != nil || o.taken || o.status != statusSuccess && o.status != statusStalled {
			return o
		}
		device := usbtransport.Setup{RequestType: 0x80, Request: requestGetDescriptor, Value: usbtransport.DescriptorDevice << 8}
		return c.attachment.runControl(ctx, c.closing, device, make([]byte, deviceDescriptorSize))
	})
	return err
}

// Close implements usbtransport.Interface.
func (c *claimed) Close() error {
	c.mu.Lock()
	first := !c.isClosing
	if first {
		c.isClosing = true
		close(c.closing)
	}
	c.mu.Unlock()
	if !first {
		<-c.closed
		return nil
	}
	c.calls.Wait()
	c.release()
	close(c.closed)
	return nil
}

// call runs a transfer between the beginning and the end of a call, and says how it ended.
func (c *claimed) call(ctx context.Context, op string, endpoint uint8, transfer func() outcome) (int, error) {
	c.mu.Lock()
	if c.isClosing {
		c.mu.Unlock()
		return 0, c.fail(op, endpoint, usbtransport.ErrClosed, nil)
	}
	c.calls.Add(1)
	c.mu.Unlock()
	defer c.calls.Done()
	if !c.attachment.alive() {
		return 0, c.fail(op, endpoint, usbtransport.ErrRemoved, c.attachment.why())
	}
	return c.judge(ctx, op, endpoint, transfer())
}

// judge makes an error of how a transfer ended. One that succeeded counts even if it was to be taken back.
func (c *claimed) judge(ctx context.Context, op string, endpoint uint8, o outcome) (int, error) {
	switch {
	case o.err != nil:
		return o.n, c.fail(op, endpoint, c.state(usbtransport.ErrRemoved), o.err)
	case o.status == statusSuccess:
		return o.n, nil
	case o.taken && (o.status.takenBack() || o.status == statusShutdown): // the latter if a reset was faster
		return o.n, c.taken(ctx, op, endpoint)
	}
	kind := o.status.kind()
	switch {
	case errors.Is(kind, usbtransport.ErrRemoved):
		c.attachment.fail(o.status)
	case errors.Is(kind, usbtransport.ErrIO) && !c.remains():
		kind = usbtransport.ErrRemoved
	}
	return o.n, c.fail(op, endpoint, c.state(kind), o.status)
}

// errReset ends the transfers that are under way when the device is reset.
var errReset = errors.New("the device was reset")

// taken says why a transfer was taken back.
func (c *claimed) taken(ctx context.Context, op string, endpoint uint8) error {
	switch {
	case c.state(nil) != nil:
		return c.fail(op, endpoint, usbtransport.ErrClosed, nil)
	case ctx.Err() != nil:
		return c.fail(op, endpoint, usbtransport.ContextKind(ctx), nil)
	}
	return c.fail(op, endpoint, usbtransport.ErrIO, errReset)
}

// state returns ErrClosed once the interface is being closed, and kind before.
func (c *claimed) state(kind error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosing {
		return usbtransport.ErrClosed
	}
	return kind
}

// remains waits a moment for the end of the connection, and reports whether there is none.
func (c *claimed) remains() bool {
	grace := time.NewTimer(removalGrace)
	defer grace.Stop()
	select {
	case <-c.attachment.dead:
		return false
	case <-c.closing:
	case <-grace.C:
	}
	return true
}

func (c *claimed) fail(op string, endpoint uint8, kind, cause error) error {
	return &usbtransport.Error{Op: op, Device: c.info.PortPath, Endpoint: endpoint, Kind: kind, Cause: cause}
}
