package usbip

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// unlinkGrace is how long a server may take to give a transfer back. One that does not is not worth talking to.
	unlinkGrace = 5 * time.Second
	// overtakenGrace is how long to wait for a result that the reply to the unlink says was sent. The two are sent by the
	// same task of the server, one right after the other; Linux may send them in either order.
	overtakenGrace = 200 * time.Millisecond
	// maxOrphans bounds how many results are still expected of transfers that have been given up.
	maxOrphans = 64
)

// errHungUp is the end of a connection that this side has closed.
var errHungUp = errors.New("the connection was closed")

// errUnlinkIgnored is the end of a connection whose server does not give transfers back.
var errUnlinkIgnored = errors.New("the server does not give a transfer back")

// attachment is one imported device: a connection on which transfers are made.
type attachment struct {
	conn   net.Conn
	record deviceRecord
	log    logrus.FieldLogger

	// writing is held by who writes; a channel, so that a context ends the wait for it.
	writing chan struct{}
	// dead is closed when the connection is over, and err says why by then. read is closed when the reader has ended.
	dead, read chan struct{}

	// mu protects the fields below.
	mu       sync.Mutex
	isDead   bool
	err      error
	sequence uint32
	// pending says what is expected for a sequence number.
	pending map[uint32]expectation
	// orphans are the sequence numbers of transfers given up that are still in pending, the oldest first.
	orphans []uint32
	// abort is closed, and replaced, when all transfers are to be taken back.
	abort chan struct{}
}

// expectation is a RET_SUBMIT that is expected for a transfer, or the RET_UNLINK for one.
type expectation struct {
	*urb
	unlink bool
}

// urb is one transfer. attachment.mu guards what is said of its end until the channel that tells of it is closed.
type urb struct {
	sequence uint32
	command  command
	// done is closed when the server has no more to do with the transfer; data, n and status are valid then.
	done     chan struct{}
	finished bool
	data     []byte // what an IN transfer has brought
	n        int
	status   status
	// overtaken is closed when the server says that the transfer had ended before it was to be taken back.
	overtaken   chan struct{}
	isOvertaken bool
}

// outcome is how a transfer ended.
type outcome struct {
	n      int
	data   []byte
	status status
	// taken says that the transfer was taken back, or never sent.
	taken bool
	// err is why the connection is over, if that is what ended the transfer.
	err error
}

// handOver moves the data to their owner, and leaves no copy.
func (o outcome) handOver(buf []byte) outcome {
	copy(buf, o.data)
	clear(o.data)
	return o
}

// attach takes a connection on which a device has been imported. lost is called once, when the connection is over.
func attach(conn net.Conn, record deviceRecord, log logrus.FieldLogger, lost func(*attachment)) *attachment {
	a := &attachment{
		conn: conn, record: record, log: log, writing: make(chan struct{}, 1), dead: make(chan struct{}), read: make(chan struct{}),
		pending: map[uint32]expectation{}, abort: make(chan struct{}),
	}
	go func() {
		defer close(a.read)
		a.fail(a.receive(newFrames(conn)))
		lost(a)
	}()
	return a
}

// close ends the connection and waits for the reader.
func (a *attachment) close() {
	a.fail(errHungUp)
	<-a.read
}

// alive reports whether transfers can be made.
func (a *attachment) alive() bool {
	select {
	case <-a.dead:
		return false
	default:
		return true
	}
}

// fail ends the connection, for the first reason that is given.
func (a *attachment) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isDead {
		return
	}
	a.isDead, a.err = true, err
	_ = a.conn.Close() // what it would say, err says
	close(a.dead)
	if !errors.Is(err, errHungUp) {
		a.log.WithError(err).Debug("usbip: a device's connection is over")
	}
}

// why says why the connection is over.
func (a *attachment) why() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// abortAll takes all transfers back that are under way.
func (a *attachment) abortAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.abort)
	a.abort = make(chan struct{})
}

// run makes one transfer. When ctx ends, stop is closed, or all transfers are aborted, it takes the transfer back.
func (a *attachment) run(ctx context.Context, stop <-chan struct{}, c command, data []byte) outcome {
	u, abort := a.enter(c)
	if !a.lock(ctx, stop) {
		a.forget(u)
		return a.unsent()
	}
	message := append(u.command.append(make([]byte, 0, headerSize+len(data))), data...)
	err := a.write(message)
	clear(message) // the data may be a PIN
	<-a.writing
	if err != nil {
		a.fail(err)
	}
	select {
	case <-u.done:
		return a.outcome(u, false)
	case <-a.dead:
		return a.lostWith(u)
	case <-ctx.Done():
	case <-stop:
	case <-abort:
	}
	return a.takeBack(u)
}

// enter gives a transfer its sequence number and makes it pending.
func (a *attachment) enter(c command) (u *urb, abort <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.device = a.record.id()
	c.sequence = a.nextSequence()
	u = &urb{sequence: c.sequence, command: c, done: make(chan struct{}), overtaken: make(chan struct{})}
	a.pending[u.sequence] = expectation{urb: u}
	return u, a.abort
}

// nextSequence wants mu held. 0 is left out, as Linux does.
func (a *attachment) nextSequence() uint32 {
	for {
		a.sequence++
		if _, taken := a.pending[a.sequence]; !taken && a.sequence != 0 {
			return a.sequence
		}
	}
}

func (a *attachment) forget(u *urb) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, u.sequence)
}

// lock waits for the right to write.
func (a *attachment) lock(ctx context.Context, stop <-chan struct{}) bool {
	select {
	case <-a.dead:
		return false
	case <-stop:
		return false
	default:
	}
	if ctx.Err() != nil {
		return false
	}
	select {
	case a.writing <- struct{}{}:
		return true
	case <-a.dead:
	case <-ctx.Done():
	case <-stop:
	}
	return false
}

// write sends one message, whole; who calls it has the right to.
func (a *attachment) write(message []byte) error {
	if err := a.conn.SetWriteDeadline(time.Now().Add(restDeadline)); err != nil {
		return err
	}
	_, err := a.conn.Write(message)
	return err
}

// unsent is the outcome of a transfer that never left.
func (a *attachment) unsent() outcome {
	if !a.alive() {
		return outcome{err: a.why()}
	}
	return outcome{taken: true, status: statusTakenBack}
}

func (a *attachment) outcome(u *urb, taken bool) outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	return outcome{n: u.n, data: u.data, status: u.status, taken: taken}
}

// lostWith is the outcome of a transfer whose connection is over, unless its result came before.
func (a *attachment) lostWith(u *urb) outcome {
	select {
	case <-u.done:
		return a.outcome(u, false)
	default:
		return outcome{err: a.why()}
	}
}

// takeBack asks the server for a transfer. Whatever the server does, it ends: a result that had been sent counts, even if the
// answer to the request overtakes it.
func (a *attachment) takeBack(u *urb) outcome {
	grace := time.NewTimer(unlinkGrace)
	defer grace.Stop()
	a.mu.Lock()
	unlink := command{kind: commandUnlink, sequence: a.nextSequence(), device: a.record.id(), target: u.sequence}
	a.pending[unlink.sequence] = expectation{urb: u, unlink: true}
	a.mu.Unlock()

	select {
	case a.writing <- struct{}{}:
		err := a.write(unlink.append(make([]byte, 0, headerSize)))
		<-a.writing
		if err != nil {
			a.fail(err)
		}
	case <-a.dead:
	case <-grace.C:
		a.fail(errUnlinkIgnored)
	}
	select {
	case <-u.done:
		return a.outcome(u, true)
	case <-u.overtaken:
	case <-a.dead:
		return a.lostWith(u)
	case <-grace.C:
		a.fail(errUnlinkIgnored)
		return a.lostWith(u)
	}
	rest := time.NewTimer(overtakenGrace)
	defer rest.Stop()
	select {
	case <-u.done:
	case <-a.dead:
		return a.lostWith(u)
	case <-rest.C:
		// Linux says so too when the transfer ended while it was being taken back, and sends no result then.
		a.abandon(u)
	}
	return a.outcome(u, true)
}

// abandon ends a transfer without a result.
func (a *attachment) abandon(u *urb) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u.finished {
		return
	}
	if u.command.in {
		a.log.Warn("usbip: the server has taken a read back that was over already; what it had read is lost")
	}
	u.status = statusTakenBack
	a.orphan(u)
}

// orphan ends a transfer for which a result may yet come; to read past that, one must know its direction. It wants mu held.
func (a *attachment) orphan(u *urb) {
	u.finish()
	a.orphans = append(a.orphans, u.sequence)
	if len(a.orphans) > maxOrphans {
		delete(a.pending, a.orphans[0])
		a.orphans = a.orphans[1:]
	}
}

// finish wants attachment.mu held.
func (u *urb) finish() {
	u.finished = true
	close(u.done)
}

// receive reads replies until the connection ends, or the server breaks a rule.
func (a *attachment) receive(f *frames) error {
	for {
		b, err := f.header()
		if err != nil {
			return err
		}
		r, err := parseReply(b)
		if err != nil {
			return err
		}
		if r.kind == replyUnlink {
			err = a.unlinked(r)
		} else {
			err = a.result(f, r)
		}
		if err != nil {
			return err
		}
	}
}

// result takes a RET_SUBMIT in.
func (a *attachment) result(f *frames, r reply) error {
	a.mu.Lock()
	e, known := a.pending[r.sequence]
	a.mu.Unlock()
	switch {
	case !known || e.unlink:
		return violation("a result for sequence number %d, which no transfer has", r.sequence)
	case r.length > e.command.length:
		return violation("actual_length %d of a transfer of %d bytes", r.length, e.command.length)
	}
	var data []byte
	if e.command.in {
		var err error
		if data, err = f.payload(r.length); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, r.sequence)
	if e.finished {
		clear(data)
		if r.length > 0 {
			a.log.WithField("bytes", r.length).Warn("usbip: the result of a transfer came after the transfer had been given up")
		}
		return nil
	}
	e.data, e.n, e.status = data, r.length, r.status
	e.finish()
	return nil
}

// unlinked takes a RET_UNLINK in.
func (a *attachment) unlinked(r reply) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, known := a.pending[r.sequence]
	if !known || !e.unlink {
		return violation("an unlink's reply for sequence number %d, which no unlink has", r.sequence)
	}
	delete(a.pending, r.sequence)
	switch {
	case e.finished:
	case r.status == statusSuccess:
		if !e.isOvertaken {
			e.isOvertaken = true
			close(e.overtaken)
		}
	default:
		e.status = r.status
		a.orphan(e.urb)
	}
	return nil
}
