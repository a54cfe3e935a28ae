package usbip

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/usbtransport"
)

// What a client may have under way at once.
const (
	maxPending      = 256
	maxPendingBytes = 4 << 20 // sent to OUT endpoints, and not taken by them yet
)

// session carries the transfers of one imported device.
type session struct {
	conn       net.Conn
	info       usbtransport.DeviceInfo
	record     deviceRecord
	interfaces []usbtransport.Interface
	endpoints  map[uint8]endpoint
	log        logrus.FieldLogger
	lanes      sync.WaitGroup // those at work

	// These belong to the goroutine that receives: the last sequence number of a transfer, and the requests to take back one that
	// has not come yet, by its number.
	last  uint32
	early map[uint32]command

	// writing is held while replies are decided on and written, so that those which belong together keep their order. It comes
	// before mu.
	writing sync.Mutex

	// mu protects the fields below.
	mu      sync.Mutex
	isOver  bool
	err     error
	cancel  context.CancelFunc
	pending map[uint32]*job
	bytes   int              // of the pending jobs' data
	queues  map[uint8][]*job // what waits at each endpoint, the one at work first
	working map[uint8]bool   // whether an endpoint has a goroutine at work
}

// endpoint is one endpoint of the device, and the interface that it belongs to.
type endpoint struct {
	usbtransport.EndpointDescriptor
	of usbtransport.Interface
	// unended says that the last OUT transfer was a whole number of packets, without the empty packet at its end. It belongs to the
	// endpoint's goroutine.
	unended *bool
}

// job is one transfer that a client has submitted. session.mu guards unlink.
type job struct {
	command
	data   []byte // of an OUT transfer
	ctx    context.Context
	cancel context.CancelFunc
	unlink *command // the request to take it back, if there was one
}

// result is how a job ended.
type result struct {
	data   []byte // of an IN transfer; n of them count
	n      int    // bytes moved
	status status
	gone   bool // with the device
}

func newSession(conn net.Conn, info usbtransport.DeviceInfo, record deviceRecord, interfaces []usbtransport.Interface, log logrus.FieldLogger) *session {
	s := &session{
		conn: conn, info: info, record: record, interfaces: interfaces, endpoints: map[uint8]endpoint{}, log: log,
		cancel: func() {}, early: map[uint32]command{}, pending: map[uint32]*job{}, queues: map[uint8][]*job{}, working: map[uint8]bool{},
	}
	descriptors, _ := usbtransport.ParseInterfaces(info.Descriptors) // checked when they were claimed
	for _, d := range descriptors {
		for _, i := range interfaces {
			if i.Number() != d.Number || d.AlternateSetting != 0 {
				continue
			}
			for _, e := range d.Endpoints {
				s.endpoints[e.Address] = endpoint{EndpointDescriptor: e, of: i, unended: new(bool)}
			}
		}
	}
	return s
}

// giveBack releases the device.
func (s *session) giveBack() {
	for _, i := range s.interfaces {
		if err := i.Close(); err != nil {
			s.log.WithError(err).Debug("usbip: an interface was not given back cleanly")
		}
	}
}

// serve reads commands until the connection or the device is gone, or the client breaks a rule. It returns when no
// transfer is under way and the device is given back.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.cancel = cancel
	s.mu.Unlock()
	err := s.conn.SetDeadline(time.Time{})
	if err == nil {
		err = s.receive(ctx, newFrames(s.conn))
	}
	s.end(err)
	s.lanes.Wait()
	s.giveBack()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// end closes the connection and cancels what is under way, for the first reason that is given.
func (s *session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOver {
		return
	}
	s.isOver, s.err = true, err
	_ = s.conn.Close() // what it would say, err says
	s.cancel()
}

func (s *session) receive(ctx context.Context, f *frames) error {
	for {
		b, err := f.header()
		if err != nil {
			return err
		}
		c, err := parseCommand(b)
		if err != nil {
			return err
		}
		if c.device != s.record.id() {
			return violation("devid 0x%08x, the imported device has 0x%08x", c.device, s.record.id())
		}
		if c.kind == commandUnlink {
			err = s.takeBack(c)
		} else {
			err = s.submit(ctx, f, c)
		}
		if err != nil {
			return err
		}
	}
}

// submit takes a transfer in: it waits for its turn at its endpoint.
func (s *session) submit(ctx context.Context, f *frames, c command) error {
	if err := s.admit(c); err != nil {
		return err
	}
	data, err := f.payload(c.payload())
	if err != nil {
		return err
	}
	s.last = c.sequence
	if unlink, ok := s.early[c.sequence]; ok {
		delete(s.early, c.sequence)
		s.answer(unlink, statusTakenBack)
		return nil
	}
	j := &job{command: c, data: data}
	j.ctx, j.cancel = context.WithCancel(ctx)
	lane := c.lane()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[c.sequence] = j
	s.bytes += len(data)
	s.queues[lane] = append(s.queues[lane], j)
	if !s.working[lane] {
		s.working[lane] = true
		s.lanes.Go(func() { s.work(lane) })
	}
	return nil
}

// admit checks what a client may have under way.
func (s *session) admit(c command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.pending[c.sequence] != nil:
		return violation("sequence number %d is used again", c.sequence)
	case len(s.pending) >= maxPending:
		return violation("more than %d transfers under way", maxPending)
	case s.bytes+c.payload() > maxPendingBytes:
		return violation("more than %d bytes under way", maxPendingBytes)
	}
	return nil
}

// lane is the address of the endpoint at which a transfer waits. Endpoint 0 has one for both directions.
func (c command) lane() uint8 {
	if c.in && c.endpoint != 0 {
		return c.endpoint | 0x80
	}
	return c.endpoint
}

// work makes the transfers of one endpoint, one after the other, as long as there are some.
func (s *session) work(lane uint8) {
	for j := s.next(lane); j != nil; j = s.next(lane) {
		s.finish(j, s.transfer(j))
	}
}

// next returns the first transfer that waits at an endpoint. Without one, the endpoint's goroutine is done.
func (s *session) next(lane uint8) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queues[lane]) == 0 {
		s.working[lane] = false
		return nil
	}
	return s.queues[lane][0]
}

// remove wants mu held.
func (s *session) remove(j *job) {
	j.cancel()
	delete(s.pending, j.sequence)
	s.bytes -= len(j.data)
	queue := s.queues[j.lane()]
	for i, other := range queue {
		if other == j {
			s.queues[j.lane()] = append(queue[:i:i], queue[i+1:]...)
		}
	}
}

// finish sends a job's result, and the answer to the request to take it back. A transfer that has moved bytes is reported as
// such even if it was taken back: they would be lost otherwise.
func (s *session) finish(j *job, r result) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	s.remove(j)
	unlink := j.unlink
	s.mu.Unlock()
	var message []byte
	if unlink == nil || r.n > 0 || !r.status.takenBack() {
		message = reply{kind: replySubmit, sequence: j.sequence, status: r.status, length: r.n}.append(message)
		if j.in {
			message = append(message, r.data[:r.n]...)
		}
		r.status = statusSuccess // for the unlink: the transfer was over
	}
	if unlink != nil {
		message = reply{kind: replyUnlink, sequence: unlink.sequence, status: r.status}.append(message)
	}
	s.write(message)
	if r.gone {
		s.end(usbtransport.ErrRemoved)
	}
}

// takeBack takes a transfer back. One that is at work ends later, and one that is not known has ended before, or is still to come.
func (s *session) takeBack(unlink command) error {
	if s.isEarly(unlink) {
		return s.remember(unlink)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	j := s.pending[unlink.target]
	answer := reply{kind: replyUnlink, sequence: unlink.sequence, status: statusSuccess}
	switch {
	case j == nil:
	case j.unlink != nil:
		s.mu.Unlock()
		return violation("sequence number %d is taken back twice", unlink.target)
	case s.queues[j.lane()][0] == j:
		j.unlink = &unlink
		s.mu.Unlock()
		j.cancel()
		return nil
	default:
		s.remove(j)
		answer.status = statusTakenBack
	}
	s.mu.Unlock()
	s.write(answer.append(nil))
	return nil
}

// isEarly reports whether the transfer that is to be taken back has not come yet. Linux's client sends what waits to be sent and
// then what is to be taken back; a transfer that comes between the two is overtaken. It has a lower number than the unlink.
func (s *session) isEarly(unlink command) bool {
	return int32(unlink.target-s.last) > 0 && int32(unlink.sequence-unlink.target) > 0
}

// remember keeps an unlink until its transfer comes. A reply before would be lost: the client does not count the transfer as
// sent yet.
func (s *session) remember(unlink command) error {
	switch _, again := s.early[unlink.target]; {
	case again:
		return violation("sequence number %d is taken back twice", unlink.target)
	case len(s.early) >= maxPending:
		return violation("more than %d transfers taken back that have not come", maxPending)
	}
	s.early[unlink.target] = unlink
	return nil
}

// answer answers an unlink.
func (s *session) answer(unlink command, how status) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.write(reply{kind: replyUnlink, sequence: unlink.sequence, status: how}.append(nil))
}

// write sends replies. It wants writing held. A client that does not take them is sent away.
func (s *session) write(message []byte) {
	err := s.conn.SetWriteDeadline(time.Now().Add(restDeadline))
	if err == nil {
		_, err = s.conn.Write(message)
	}
	if err != nil {
		s.end(err)
	}
}

// transfer makes one transfer.
func (s *session) transfer(j *job) result {
	if j.endpoint == 0 {
		return s.control(j)
	}
	e, known := s.endpoints[j.lane()]
	switch {
	case !known, e.MaxPacketSize == 0, e.Type != usbtransport.TransferBulk && (e.Type != usbtransport.TransferInterrupt || !j.in):
		return result{status: statusStalled}
	case j.in:
		return s.in(j, e)
	}
	return s.out(j, e)
}

func (s *session) out(j *job, e endpoint) result {
	ending := *e.unended && len(j.data) == 0
	*e.unended = j.flags&flagZeroPacket == 0 && len(j.data) > 0 && len(j.data)%e.MaxPacketSize == 0
	if ending {
		return result{} // the backend has sent the empty packet
	}
	n, err := e.of.BulkOut(j.ctx, e.Address, j.data)
	return s.result(nil, n, err)
}

// in reads into whole packets, as a backend wants it. A device that sends more than the client asked for babbles, as on a wire.
func (s *session) in(j *job, e endpoint) result {
	size := e.MaxPacketSize
	buf := make([]byte, max((j.length+size-1)/size, 1)*size)
	read := e.of.BulkIn
	if e.Type == usbtransport.TransferInterrupt {
		read = e.of.InterruptIn
	}
	n, err := read(j.ctx, e.Address, buf)
	r := s.result(buf, min(n, j.length), err)
	switch {
	case n > j.length:
		r.status = statusOverflow
	case err == nil && n < j.length && j.flags&flagShortNotOK != 0:
		r.status = statusShortPacket
	}
	return r
}

func (s *session) result(data []byte, n int, err error) result {
	return result{data: data, n: n, status: statusOf(err), gone: errors.Is(err, usbtransport.ErrRemoved)}
}

// control makes a control transfer, or does what it asks for where a backend does that by other means.
func (s *session) control(j *job) result {
	setup, length := setupOf(j.setup)
	in := setup.RequestType&0x80 != 0
	if length > 0 && in != j.in || !j.in && length != len(j.data) || !in && length > usbtransport.MaxControl {
		return result{status: statusStalled}
	}
	switch {
	case setup.RequestType == recipientDevice && setup.Request == requestSetAddress:
		return result{}
	case setup.RequestType == recipientDevice && setup.Request == requestSetConfiguration:
		return s.setConfiguration(j.ctx, setup)
	case setup.RequestType == recipientInterface && setup.Request == requestSetInterface:
		return s.setInterface(j.ctx, setup)
	case setup.RequestType == recipientEndpoint && setup.Request == requestClearFeature && setup.Value == featureHalt:
		return s.clearHalt(j.ctx, uint8(setup.Index))
	case setup.RequestType == recipientPort && setup.Request == requestSetFeature && setup.Value == featurePortReset:
		return s.result(nil, 0, s.interfaces[0].Reset(j.ctx))
	}
	buf := j.data
	if in {
		buf = make([]byte, min(length, j.length, usbtransport.MaxControl))
	}
	n, err := s.recipient(setup).Control(j.ctx, setup, buf)
	return s.result(buf, min(n, len(buf)), err)
}

// recipient is the interface that has a right to a control request.
func (s *session) recipient(setup usbtransport.Setup) usbtransport.Interface {
	const recipientMask = 0x1F
	switch setup.RequestType & recipientMask {
	case recipientInterface:
		for _, i := range s.interfaces {
			if i.Number() == uint8(setup.Index) {
				return i
			}
		}
	case recipientEndpoint:
		if e, known := s.endpoints[uint8(setup.Index)]; known {
			return e.of
		}
	}
	return s.interfaces[0]
}

// setConfiguration accepts the active configuration, and none. Both end the halts of all endpoints (USB 2.0 §9.1.1.5).
func (s *session) setConfiguration(ctx context.Context, setup usbtransport.Setup) result {
	if setup.Value != 0 && setup.Value != uint16(s.record.configuration) {
		return result{status: statusStalled}
	}
	s.clearHalts(ctx, func(endpoint) bool { return true })
	return result{}
}

// setInterface accepts alternate setting 0, which ends the halts of the interface's endpoints.
func (s *session) setInterface(ctx context.Context, setup usbtransport.Setup) result {
	if setup.Value != 0 {
		return result{status: statusStalled}
	}
	for _, i := range s.interfaces {
		if i.Number() == uint8(setup.Index) {
			s.clearHalts(ctx, func(e endpoint) bool { return e.of == i })
			return result{}
		}
	}
	return result{status: statusStalled}
}

func (s *session) clearHalts(ctx context.Context, which func(endpoint) bool) {
	for address, e := range s.endpoints {
		if !which(e) {
			continue
		}
		if err := e.of.ClearHalt(ctx, address); err != nil {
			s.log.WithError(err).Debug("usbip: a halt was not cleared") // some readers refuse
		}
	}
}

func (s *session) clearHalt(ctx context.Context, address uint8) result {
	e, known := s.endpoints[address]
	if !known {
		if address&0x0F == 0 {
			return result{} // endpoint 0 does not stay halted
		}
		return result{status: statusStalled}
	}
	return s.result(nil, 0, e.of.ClearHalt(ctx, address))
}
