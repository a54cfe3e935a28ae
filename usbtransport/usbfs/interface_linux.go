package usbfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/goccid/goccid/usbtransport"
)

const (
	setupSize = 8

	// removalGrace is how long a failed transfer waits to learn whether the device is gone. A device that is pulled
	// out fails its transfers with EPROTO or EILSEQ first; the hub reports the empty port some milliseconds later.
	removalGrace = 30 * time.Millisecond
)

// claimed is one claimed interface: a usbtransport.Interface.
type claimed struct {
	info      usbtransport.DeviceInfo
	number    uint8
	endpoints usbtransport.Endpoints
	node      node
	log       logrus.FieldLogger

	// closing ends with the first Close, gone with the first news that the device is no more, closed when Close has
	// done its work, reaped when the reaper has ended.
	closing, gone, closed, reaped chan struct{}

	// mu protects the fields below.
	mu        sync.Mutex
	isClosing bool
	isGone    bool
	closeErr  error
	// pending holds the transfers that the kernel has, by the address of their urb.
	pending map[uintptr]*transfer
	// calls counts the calls under way. Add happens under mu and only while isClosing is false, so that Close can wait.
	calls sync.WaitGroup

	// reaping is held while urbs are reaped, and protects reapedAll. It comes before mu.
	reaping sync.Mutex
	// reapedAll says that the device is gone and nothing may be reaped any more, see reap.
	reapedAll bool
}

// transfer is one urb on its way through the kernel.
type transfer struct {
	urb    urb
	pinner runtime.Pinner
	// taken says that the kernel was asked to give the transfer back. It belongs to the call that submitted it.
	taken bool
	// lost says that the device went away while the kernel held the urb. It is valid when done is closed.
	lost bool
	// done is closed when the kernel has no more business with the urb and its buffer.
	done chan struct{}
}

var _ usbtransport.Interface = (*claimed)(nil)

// newClaimed starts the reaper of a node on which the interface has been claimed. It owns the node from now on.
func newClaimed(info usbtransport.DeviceInfo, number uint8, endpoints usbtransport.Endpoints, n node, log logrus.FieldLogger) *claimed {
	c := &claimed{
		info: info, number: number, endpoints: endpoints, node: n, log: log,
		closing: make(chan struct{}), gone: make(chan struct{}), closed: make(chan struct{}), reaped: make(chan struct{}),
		pending: make(map[uintptr]*transfer),
	}
	go c.reapUntilGone()
	return c
}

func (c *claimed) Device() usbtransport.DeviceInfo { return c.info }

func (c *claimed) Number() uint8 { return c.number }

func (c *claimed) Control(ctx context.Context, setup usbtransport.Setup, data []byte) (int, error) {
	const op = "control"
	if err := usbtransport.CheckControl(len(data)); err != nil {
		return 0, c.fail(op, 0, usbtransport.ErrInvalid, err)
	}
	// The kernel wants the SETUP packet and the data in one piece (usbfs; USB 2.0 table 9-2).
	packet := make([]byte, setupSize+len(data))
	defer clear(packet)
	packet[0], packet[1] = setup.RequestType, setup.Request
	binary.LittleEndian.PutUint16(packet[2:], setup.Value)
	binary.LittleEndian.PutUint16(packet[4:], setup.Index)
	binary.LittleEndian.PutUint16(packet[6:], uint16(len(data)))
	in := setup.RequestType&0x80 != 0
	if !in {
		copy(packet[setupSize:], data)
	}
	n, err := c.run(ctx, op, urb{kind: urbControl}, packet)
	n = min(n, len(data))
	if in {
		copy(data, packet[setupSize:setupSize+n])
	}
	return n, err
}

func (c *claimed) BulkOut(ctx context.Context, endpoint uint8, data []byte) (int, error) {
	const op = "bulk out"
	descriptor, err := c.endpoints.CheckOut(endpoint, len(data))
	if err != nil {
		return 0, c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	u := urb{kind: urbBulk, endpoint: endpoint}
	if len(data) > 0 && len(data)%descriptor.MaxPacketSize == 0 {
		u.flags = urbZeroPacket
	}
	return c.run(ctx, op, u, data)
}

func (c *claimed) BulkIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return c.in(ctx, "bulk in", usbtransport.TransferBulk, urb{kind: urbBulk, endpoint: endpoint}, buf)
}

func (c *claimed) InterruptIn(ctx context.Context, endpoint uint8, buf []byte) (int, error) {
	return c.in(ctx, "interrupt in", usbtransport.TransferInterrupt, urb{kind: urbInterrupt, endpoint: endpoint}, buf)
}

func (c *claimed) in(ctx context.Context, op string, want usbtransport.TransferType, u urb, buf []byte) (int, error) {
	descriptor, err := c.endpoints.CheckIn(u.endpoint, want, len(buf))
	if err != nil {
		return 0, c.fail(op, u.endpoint, usbtransport.ErrInvalid, err)
	}
	n, err := c.run(ctx, op, u, buf)
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

func (c *claimed) ClearHalt(ctx context.Context, endpoint uint8) error {
	const op = "clear halt"
	if err := c.endpoints.CheckKnown(endpoint); err != nil {
		return c.fail(op, endpoint, usbtransport.ErrInvalid, err)
	}
	return c.detached(ctx, op, endpoint, func() error { return c.node.clearHalt(endpoint) })
}

func (c *claimed) Reset(ctx context.Context) error {
	return c.detached(ctx, "reset", 0, func() error {
		err := c.node.reset()
		if err != nil {
			return err
		}
		// A reset unbinds the drivers that can't be told of it beforehand, and usbfs is one: claim again. If that
		// fails the interface is lost, whatever became of the device.
		if err := c.node.claim(c.number); err != nil {
			c.removed()
			return fmt.Errorf("claim after the reset: %w", err)
		}
		return nil
	})
}

// Close ends the interface in an order that leaves nobody with a dead buffer: no new calls, every waiting call takes its transfer
// back, then the interface and the node go, and with the node the reaper.
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
		return c.closeErr
	}
	c.calls.Wait()
	err := c.node.release(c.number)
	if closeErr := c.node.close(); err == nil {
		err = closeErr
	}
	<-c.reaped
	if err != nil && !isGone(err) {
		c.closeErr = c.fail("close", 0, usbtransport.ErrIO, err)
	}
	close(c.closed)
	return c.closeErr
}

// begin admits a call, or says why not. An admitted call ends with c.calls.Done.
func (c *claimed) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.isClosing:
		return usbtransport.ErrClosed
	case c.isGone:
		return usbtransport.ErrRemoved
	}
	c.calls.Add(1)
	return nil
}

// run sends one urb through the kernel and waits for its end, or takes it back when ctx or the interface ends first.
func (c *claimed) run(ctx context.Context, op string, u urb, buffer []byte) (int, error) {
	if err := c.begin(); err != nil {
		return 0, c.fail(op, u.endpoint, err, nil)
	}
	defer c.calls.Done()
	if ctx.Err() != nil {
		return 0, c.fail(op, u.endpoint, usbtransport.ContextKind(ctx), nil)
	}

	t := &transfer{urb: u, done: make(chan struct{})}
	t.urb.setBuffer(buffer, &t.pinner)
	defer t.pinner.Unpin()
	if err := c.submit(t); err != nil {
		return 0, c.refused(op, u.endpoint, err)
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		c.takeBack(t)
	case <-c.closing:
		c.takeBack(t)
	}
	return c.outcome(ctx, op, t, len(buffer))
}

// submit hands a transfer to the kernel. It is entered in pending first: the reaper may meet it before the ioctl returns.
func (c *claimed) submit(t *transfer) error {
	c.mu.Lock()
	if c.isGone {
		c.mu.Unlock()
		return unix.ENODEV
	}
	c.pending[t.urb.address()] = t
	c.mu.Unlock()

	err := c.node.submit(&t.urb)
	if err != nil {
		c.mu.Lock()
		delete(c.pending, t.urb.address())
		c.mu.Unlock()
	}
	return err
}

// takeBack asks the kernel for a transfer, and waits until the reaper has it. Whatever the ioctl's result, the urb comes
// back through the reaper: as discarded, as completed just before, or as lost with the device.
func (c *claimed) takeBack(t *transfer) {
	t.taken = true
	if err := c.node.discard(&t.urb); isGone(err) {
		c.removed()
	}
	<-t.done
}

// outcome tells how a finished transfer ended. A transfer that completed is a success even if its context ended
// meanwhile: its bytes must not be lost.
func (c *claimed) outcome(ctx context.Context, op string, t *transfer, size int) (int, error) {
	n := min(max(int(t.urb.actualLength), 0), size)
	if t.lost {
		return n, c.failed(op, t.urb.endpoint, unix.ENODEV)
	}
	if t.urb.status == 0 {
		return n, nil
	}
	status := unix.Errno(-t.urb.status)
	if t.taken && (status == unix.ENOENT || status == unix.ECONNRESET) {
		return n, c.fail(op, t.urb.endpoint, c.whyTaken(ctx), nil)
	}
	return n, c.failed(op, t.urb.endpoint, status)
}

// whyTaken says why a transfer was taken back.
func (c *claimed) whyTaken(ctx context.Context) error {
	switch c.state() {
	case usbtransport.ErrClosed:
		return usbtransport.ErrClosed
	case usbtransport.ErrRemoved:
		return usbtransport.ErrRemoved
	}
	return usbtransport.ContextKind(ctx)
}

// state returns ErrClosed, ErrRemoved, or nil while the interface is in use.
func (c *claimed) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.isClosing:
		return usbtransport.ErrClosed
	case c.isGone:
		return usbtransport.ErrRemoved
	}
	return nil
}

// detached runs a call which the kernel does not take back. If ctx ends first the call goes on by itself; Close waits
// for it.
func (c *claimed) detached(ctx context.Context, op string, endpoint uint8, call func() error) error {
	if err := c.begin(); err != nil {
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
		if err != nil {
			return c.refused(op, endpoint, err)
		}
		return nil
	case <-ctx.Done():
		return c.fail(op, endpoint, usbtransport.ContextKind(ctx), nil)
	case <-c.gone:
		return c.fail(op, endpoint, usbtransport.ErrRemoved, nil)
	case <-c.closing:
		return c.fail(op, endpoint, usbtransport.ErrClosed, nil)
	}
}

// reapUntilGone is the reaper.
func (c *claimed) reapUntilGone() {
	defer close(c.reaped)
	err := c.node.await(c.reap)
	if err != nil && c.state() != usbtransport.ErrClosed {
		c.log.WithError(err).Debug("usbfs: the poller failed")
		c.removed()
	}
}

// reap collects what is finished, and reports whether the device is gone.
//
// The kernel writes to a transfer's memory only while the transfer is reaped. So when it says that the device is gone,
// what had arrived has been reaped, the buffers of the others are free, and nobody needs to wait until they come back. From
// then on nothing is reaped: the kernel would write to memory that its owners have got back.
func (c *claimed) reap() (gone bool) {
	c.reaping.Lock()
	defer c.reaping.Unlock()
	for !c.reapedAll {
		address, err := c.node.reap()
		switch {
		case err == nil:
			c.finish(address)
		case errors.Is(err, unix.EAGAIN):
			return false
		default:
			c.reapedAll = true
			c.markGone()
			c.dropPending()
		}
	}
	return true
}

// removed is called by whoever learns from the kernel that the device is gone: the waiting calls end now, even if the
// kernel has not come to their transfers yet.
func (c *claimed) removed() {
	c.markGone()
	c.reap()
}

func (c *claimed) finish(address uintptr) {
	c.mu.Lock()
	t := c.pending[address]
	delete(c.pending, address)
	c.mu.Unlock()
	if t == nil {
		c.log.Debug("usbfs: the kernel returned a transfer that is not ours")
		return
	}
	close(t.done)
}

// dropPending ends the transfers that went with the device.
func (c *claimed) dropPending() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, t := range c.pending {
		delete(c.pending, address)
		t.lost = true
		close(t.done)
	}
}

// markGone notes that the device is gone.
func (c *claimed) markGone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isGone {
		c.isGone = true
		close(c.gone)
	}
}

// attached waits a moment for the news that the device is gone, and reports whether it still is there.
func (c *claimed) attached() bool {
	if c.disconnected() {
		return false
	}
	grace := time.NewTimer(removalGrace)
	defer grace.Stop()
	select {
	case <-c.gone:
		return false
	case <-c.closing:
		return true
	case <-grace.C:
	}
	return !c.disconnected()
}

// disconnected asks the kernel.
func (c *claimed) disconnected() bool {
	if !isGone(c.node.connected()) {
		return false
	}
	c.removed()
	return true
}

// refused makes an Error of what the kernel said to a request, as opposed to how a transfer ended. ESRCH and ENOENT say
// that the configuration which had the interface is not active any more: for its user the interface is gone.
func (c *claimed) refused(op string, endpoint uint8, cause error) error {
	if errors.Is(cause, unix.ESRCH) || errors.Is(cause, unix.ENOENT) {
		c.markGone()
		return c.fail(op, endpoint, c.state(), cause)
	}
	return c.failed(op, endpoint, cause)
}

// failed makes an Error of a failure.
func (c *claimed) failed(op string, endpoint uint8, cause error) error {
	kind := kindOf(cause)
	switch {
	case kind == usbtransport.ErrRemoved:
		c.removed()
	case kind == usbtransport.ErrIO && !c.attached():
		kind = usbtransport.ErrRemoved
	case errors.Is(cause, unix.ESHUTDOWN):
		cause = fmt.Errorf("%w: %w", usbtransport.ErrReset, cause)
	}
	if state := c.state(); state != nil {
		kind = state
	}
	return c.fail(op, endpoint, kind, cause)
}

func (c *claimed) fail(op string, endpoint uint8, kind, cause error) error {
	return &usbtransport.Error{Op: op, Device: c.info.PortPath, Endpoint: endpoint, Kind: kind, Cause: cause}
}

// kindOf maps a kernel error to a kind.
func kindOf(err error) error {
	switch {
	case isGone(err):
		return usbtransport.ErrRemoved
	case errors.Is(err, unix.EPIPE):
		return usbtransport.ErrStalled
	case errors.Is(err, unix.EOVERFLOW):
		return usbtransport.ErrOverflow
	case errors.Is(err, unix.EBUSY):
		return usbtransport.ErrBusy
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return usbtransport.ErrPermission
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP):
		return usbtransport.ErrNotSupported
	}
	return usbtransport.ErrIO
}

// isGone reports the one error that says for certain that the device is gone. ESHUTDOWN does not: it also ends transfers
// when a driver is unbound, as it is by a reset.
func isGone(err error) bool { return errors.Is(err, unix.ENODEV) }
