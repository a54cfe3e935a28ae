package pcscd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

// The model says, call by call, what three clients of one reader are told, from the rules of pcsc-lite. It knows nothing of
// waits: each call is done when the one before has ended and its place in the queue has expired.

const (
	modelClients = 3
	modelGrace   = time.Hour
	// patience is how long a client of the model waits for a Connect or Disconnect.
	patience = time.Second
)

type modelHandle struct {
	client int
	number int32
	mode   wire.ShareMode
	event  wire.Code
	uses   bool
	gone   bool // the reader
}

type model struct {
	card      *pcscdtest.Card
	state     wire.State
	protocol  wire.Protocol
	powered   bool
	counter   uint32
	gone      bool
	handles   []*modelHandle
	owner     *modelHandle
	depth     int
	exclusive *modelHandle
}

func (m *model) mute() bool { return m.card.ATR == nil }

// power is a power-up or reset.
func (m *model) power() wire.Code {
	m.protocol = wire.ProtocolUndefined
	m.powered = !m.mute()
	if m.mute() {
		m.state = 0x0C
		return wire.ErrUnresponsiveCard
	}
	m.state = 0x34
	return wire.Success
}

func (m *model) disturb(c wire.Code) {
	for _, h := range m.handles {
		h.event = c
	}
}

func (m *model) lockedFor(h *modelHandle) bool {
	return m.owner != nil && m.owner != h || m.exclusive != nil && m.exclusive != h
}

// offers is what a card can do, by the cards of this test.
func offers(c *pcscdtest.Card) wire.Protocol {
	if len(c.ATR) == 2 {
		return wire.ProtocolT0
	}
	return wire.ProtocolAny
}

func (m *model) negotiate(preferred wire.Protocol) wire.Code {
	if m.protocol == wire.ProtocolUndefined && preferred&wire.ProtocolAnyOld != 0 {
		preferred |= wire.ProtocolAny
	}
	both := offers(m.card) & preferred
	switch {
	case preferred&wire.ProtocolRaw != 0:
		m.protocol = wire.ProtocolRaw
	case m.protocol != wire.ProtocolUndefined && m.protocol&preferred != 0:
	case m.protocol != wire.ProtocolUndefined:
		return wire.ErrProtoMismatch
	case both&wire.ProtocolT1 != 0:
		m.protocol = wire.ProtocolT1
	case both&wire.ProtocolT0 != 0:
		m.protocol = wire.ProtocolT0
	default:
		return wire.ErrProtoMismatch
	}
	return wire.Success
}

func (m *model) connect(client int, mode wire.ShareMode, preferred wire.Protocol) (*modelHandle, wire.Code) {
	switch {
	case m.gone:
		return nil, wire.ErrUnknownReader
	case m.exclusive != nil:
		return nil, wire.ErrSharingViolation
	case m.owner != nil && m.owner.client == client:
		return nil, wire.ErrSharingViolation
	case m.owner != nil:
		return nil, wire.ErrCancelled // the client loses patience
	}
	if mode == wire.Direct && preferred&wire.ProtocolRaw != 0 {
		m.protocol = wire.ProtocolRaw
	}
	if mode != wire.Direct {
		if m.card == nil {
			return nil, wire.ErrNoSmartcard
		}
		if !m.powered && m.power() != wire.Success {
			return nil, wire.ErrUnpoweredCard
		}
		if code := m.negotiate(preferred); code != wire.Success {
			return nil, code
		}
	}
	if mode == wire.Exclusive && len(m.handles) > 0 {
		return nil, wire.ErrSharingViolation
	}
	h := &modelHandle{client: client, mode: mode, uses: mode != wire.Direct}
	m.handles = append(m.handles, h)
	if mode == wire.Exclusive {
		m.exclusive = h
	}
	return h, wire.Success
}

func (m *model) reconnect(h *modelHandle, mode wire.ShareMode, preferred wire.Protocol, d wire.Disposition) wire.Code {
	switch {
	case d > wire.UnpowerCard:
		return wire.ErrInvalidValue
	case h.gone:
		return wire.ErrInvalidValue
	case m.lockedFor(h):
		return wire.ErrSharingViolation
	}
	if d != wire.LeaveCard {
		m.disturb(wire.ErrResetCard)
		if m.card == nil {
			return wire.ErrNoSmartcard
		}
		if code := m.power(); code != wire.Success {
			return code
		}
	}
	switch {
	case m.card == nil:
		return wire.ErrNoSmartcard
	case m.state == 0x0C:
		return wire.ErrUnresponsiveCard
	case mode != wire.Direct && !m.powered:
		if code := m.power(); code != wire.Success {
			return code
		}
	}
	if mode != wire.Direct || preferred&wire.ProtocolRaw != 0 {
		if code := m.negotiate(preferred); code != wire.Success {
			return code
		}
	}
	if mode == wire.Exclusive && len(m.handles) > 1 {
		return wire.ErrSharingViolation
	}
	m.exclusive = nil
	if mode == wire.Exclusive {
		m.exclusive = h
	}
	h.mode, h.event, h.uses = mode, wire.Success, true
	return wire.Success
}

func (m *model) drop(h *modelHandle) {
	m.handles = slices.DeleteFunc(m.handles, func(o *modelHandle) bool { return o == h })
	if m.owner == h {
		m.owner, m.depth = nil, 0
	}
	if m.exclusive == h {
		m.exclusive = nil
	}
}

func (m *model) disconnect(h *modelHandle, d wire.Disposition) wire.Code {
	if h.gone {
		return wire.Success
	}
	if d != wire.LeaveCard && m.owner != nil && m.owner != h {
		if m.owner.client == h.client {
			return wire.ErrSharingViolation
		}
		return wire.ErrCancelled
	}
	switch d {
	case wire.ResetCard:
		m.disturb(wire.ErrResetCard)
		if m.card != nil {
			m.power()
		}
	case wire.UnpowerCard:
		m.disturb(wire.ErrResetCard)
		if m.card != nil {
			m.state, m.powered, m.protocol = 0x04, false, wire.ProtocolUndefined
		}
	}
	m.drop(h)
	return wire.Success
}

func (m *model) begin(h *modelHandle) wire.Code {
	switch {
	case h.gone:
		return wire.ErrInvalidValue
	case h.event != wire.Success:
		return h.event
	case m.lockedFor(h):
		return wire.ErrSharingViolation
	}
	m.owner = h
	m.depth++
	return wire.Success
}

func (m *model) end(h *modelHandle, d wire.Disposition) wire.Code {
	switch {
	case h.gone:
		return wire.ErrInvalidValue
	case h.event != wire.Success:
		return h.event
	case m.lockedFor(h):
		return wire.ErrSharingViolation
	}
	result := wire.Success
	switch {
	case d == wire.EjectCard:
		result = wire.ErrUnsupportedFeature
	case d != wire.LeaveCard:
		m.disturb(wire.ErrResetCard)
		if m.card == nil {
			result = wire.ErrRemovedCard
		} else if m.power() != wire.Success {
			result = wire.ErrNotTransacted
		}
	}
	if m.owner == nil {
		return wire.ErrNotTransacted
	}
	if m.depth--; m.depth == 0 {
		m.owner = nil
	}
	return result
}

func (m *model) status(h *modelHandle) wire.Code {
	switch {
	case h.gone:
		return wire.ErrInvalidValue
	case m.lockedFor(h):
		return wire.ErrSharingViolation
	}
	return h.event
}

func (m *model) transmit(h *modelHandle, p wire.Protocol) wire.Code {
	if code := m.status(h); code != wire.Success {
		return code
	}
	switch {
	case p != wire.ProtocolRaw && m.card == nil:
		return wire.ErrNoSmartcard
	case p == wire.ProtocolRaw:
	case p != wire.ProtocolAnyOld && p != m.protocol:
		return wire.ErrProtoMismatch
	}
	if m.card == nil {
		return wire.ErrNoSmartcard
	}
	if !m.powered {
		return wire.ErrNotTransacted
	}
	return wire.Success
}

func (m *model) control(h *modelHandle) wire.Code {
	switch {
	case h.gone:
		return wire.ErrInvalidValue
	case m.lockedFor(h):
		return wire.ErrSharingViolation
	}
	return wire.Success
}

// die is the end of a client that did not tidy up.
func (m *model) die(client int) {
	for _, h := range slices.Clone(m.handles) {
		if h.client != client {
			continue
		}
		if !m.gone && (m.owner == h || m.exclusive == h) && h.event == wire.Success {
			m.disturb(wire.ErrResetCard)
			if m.card != nil {
				m.power()
			}
		}
		m.drop(h)
	}
}

func (m *model) insert(c *pcscdtest.Card) {
	m.remove()
	m.card = c
	m.counter++
	m.power()
}

func (m *model) remove() {
	if m.card == nil {
		return
	}
	m.counter++
	m.card, m.state, m.protocol, m.powered = nil, 0x02, wire.ProtocolUndefined, false
	m.disturb(wire.ErrRemovedCard)
	for _, h := range m.handles {
		h.uses = false
	}
	m.owner, m.depth = nil, 0
}

// wait is an hour in which nothing happens.
func (m *model) wait() {
	used := slices.ContainsFunc(m.handles, func(h *modelHandle) bool { return h.uses })
	if m.powered && !used {
		m.powered, m.protocol = false, wire.ProtocolUndefined
	}
}

// plug is the removal of the reader, or its return.
func (m *model) plug() {
	if m.gone {
		*m = model{state: 0x02}
		return
	}
	m.gone = true
	m.owner, m.exclusive, m.depth = nil, nil, 0
}

// play runs calls, three bytes each, against a manager and the model, and returns the first difference.
type play struct {
	w       *world
	model   *model
	clients [modelClients]*client
	stale   []*modelHandle // handles of a reader that is gone
	log     []string
}

const opSize = 3

func (p *play) run(data []byte) error {
	for ; len(data) >= opSize; data = data[opSize:] {
		if err := p.step(data[0], data[1], data[2]); err != nil {
			return fmt.Errorf("%w after\n%s", err, strings.Join(p.log, "\n"))
		}
		// Places in the queue expire, events arrive.
		time.Sleep(400 * time.Millisecond)
		synctest.Wait()
		if err := p.compare(); err != nil {
			return fmt.Errorf("%w after\n%s", err, strings.Join(p.log, "\n"))
		}
	}
	return nil
}

var (
	modelModes     = []wire.ShareMode{wire.Shared, wire.Exclusive, wire.Direct}
	modelPreferred = []wire.Protocol{wire.ProtocolAny, wire.ProtocolT0, wire.ProtocolT1, wire.ProtocolRaw, wire.ProtocolAnyOld}
	modelTransmits = []wire.Protocol{wire.ProtocolT1, wire.ProtocolT0, wire.ProtocolRaw, wire.ProtocolAnyOld, wire.ProtocolUndefined}
)

func pick[T any](from []T, by byte) T { return from[int(by)%len(from)] }

func modelCards() []*pcscdtest.Card { return []*pcscdtest.Card{card(), {ATR: atrT0}, {}} }

// operation is what one call of a play does.
type operation byte

const (
	opConnect operation = iota
	opReconnect
	opDisconnect
	opBegin
	opEnd
	opTransmit
	opControl
	opDie
	opCard
	opHour
	opPlug
)

// mix makes the calls that lead somewhere more frequent.
var mix = []operation{
	opConnect, opReconnect, opDisconnect, opBegin, opEnd, opTransmit, opControl, opDie, opCard, opHour, opPlug,
	opConnect, opConnect, opConnect, opReconnect, opReconnect, opBegin, opBegin, opBegin, opEnd, opEnd, opTransmit,
	opTransmit, opConnect, opBegin,
}

func (p *play) step(op, who, arg byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n := int(who) % modelClients
	switch pick(mix, op) {
	case opConnect:
		return p.connect(ctx, n, pick(modelModes, arg), pick(modelPreferred, arg/3))
	case opDie:
		p.model.die(n)
		p.clients[n].Close(ctx)
		p.clients[n] = p.w.client()
		p.stale = slices.DeleteFunc(p.stale, func(h *modelHandle) bool { return h.client == n })
		return p.check(0, 0, "%d dies", n)
	case opCard:
		return p.card(pick(append(modelCards(), nil), arg))
	case opHour:
		p.model.wait()
		time.Sleep(modelGrace + time.Second)
		return p.check(0, 0, "an hour")
	case opPlug:
		return p.plug()
	}
	all := append(slices.Clone(p.model.handles), p.stale...)
	if len(all) == 0 {
		return nil
	}
	return p.call(ctx, pick(mix, op), pick(all, who), arg)
}

func (p *play) connect(ctx context.Context, n int, mode wire.ShareMode, preferred wire.Protocol) error {
	c := p.clients[n]
	h, want := p.model.connect(n, mode, preferred)
	hCard, _, got := c.Connect(ctx, c.hContext, alpha, mode, preferred)
	if h != nil {
		h.number = hCard
	}
	return p.check(want, got, "%d connect %v %v", n, mode, preferred)
}

func (p *play) card(c *pcscdtest.Card) error {
	switch {
	case p.model.gone:
		return nil
	case c == nil:
		p.model.remove()
	default:
		p.model.insert(c)
	}
	p.w.driver.Insert(alphaLun, c)
	return p.check(0, 0, "card %v", c)
}

// call is a call with a handle.
func (p *play) call(ctx context.Context, op operation, h *modelHandle, arg byte) error {
	m, c := p.model, p.clients[h.client]
	d := wire.Disposition(arg % 4)
	switch op {
	case opReconnect:
		mode, preferred := pick(modelModes, arg/4), pick(modelPreferred, arg/12)
		want := m.reconnect(h, mode, preferred, d)
		_, got := c.Reconnect(ctx, h.number, mode, preferred, d)
		return p.check(want, got, "%d reconnect %v %v %v", h.client, mode, preferred, d)
	case opDisconnect:
		want := m.disconnect(h, d)
		if want == wire.Success {
			p.stale = slices.DeleteFunc(p.stale, func(o *modelHandle) bool { return o == h })
		}
		return p.check(want, c.Disconnect(ctx, h.number, d), "%d disconnect %v", h.client, d)
	case opBegin:
		return p.check(m.begin(h), c.Begin(ctx, h.number), "%d begin", h.client)
	case opEnd:
		return p.check(m.end(h, d), c.End(ctx, h.number, d), "%d end %v", h.client, d)
	case opTransmit:
		protocol := pick(modelTransmits, arg)
		return p.check(m.transmit(h, protocol), c.transmit(h.number, protocol), "%d transmit %v", h.client, protocol)
	}
	_, control := c.Control(ctx, h.number, ifdhandler.ControlEscape, nil)
	if err := p.check(m.control(h), control, "%d control", h.client); err != nil {
		return err
	}
	return p.check(m.status(h), c.Status(h.number), "%d status", h.client)
}

func (p *play) plug() error {
	if p.model.gone {
		p.model.plug()
		p.w.driver.Open(alphaLun, nil)
		return p.check(0, 0, "plugged in: %v", p.w.AddReader(pcscd.Reader{Name: alpha, Lun: alphaLun}))
	}
	for _, h := range p.model.handles {
		h.gone = true
		p.stale = append(p.stale, h)
	}
	p.model.handles = nil
	p.model.plug()
	return p.check(0, 0, "unplugged: %v", p.w.RemoveReader(context.Background(), alphaLun))
}

func (p *play) check(want, got wire.Code, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	p.log = append(p.log, fmt.Sprintf("%s: %v", what, got))
	if want != got {
		return fmt.Errorf("%s: %v, want %v", what, got, want)
	}
	return nil
}

// compare compares what clients see, and who has the lock.
func (p *play) compare() error {
	m := p.model
	states, _ := p.w.States()
	if m.gone {
		if len(states) > 0 {
			return fmt.Errorf("reader is gone but seen")
		}
		return nil
	}
	want := wire.ReaderState{Name: alpha, Known: true, State: m.state, Protocol: m.protocol, EventCounter: m.counter, Sharing: int32(len(m.handles))}
	if m.exclusive != nil {
		want.Sharing = wire.SharingExclusive
	}
	got := states[0]
	if m.card != nil && m.state != 0x0C {
		want.ATR = m.card.ATR
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("clients see %v, want %v", got, want)
	}
	r := p.w.Report().Readers[0]
	depth := 0
	if r.Lock != nil {
		depth = r.Lock.Depth
	}
	if depth != m.depth || (r.Lock != nil) != (m.owner != nil || m.exclusive != nil) || r.Powered != m.powered {
		return fmt.Errorf("lock %+v, powered %v; want depth %d, powered %v", r.Lock, r.Powered, m.depth, m.powered)
	}
	if m.powered != p.w.driver.Powered(alphaLun) {
		return fmt.Errorf("driver's card powered: %v", !m.powered)
	}
	return nil
}

// simulate plays calls in a bubble of its own, from a reader with a card on, and looks for what they have left behind. It
// returns the model as it was after the last call.
func simulate(t *testing.T, data []byte) (m *model, err error) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, card(), pcscd.Options{PowerOffGrace: modelGrace})
		p := &play{w: w, model: &model{card: card(), state: 0x34, powered: true}}
		for i := range p.clients {
			p.clients[i] = w.client()
		}
		m = p.model
		if err = p.run(data); err == nil {
			err = p.tidy()
		}
	})
	return m, err
}

// tidy ends everything and looks for what is left.
func (p *play) tidy() error {
	for _, c := range p.clients {
		c.Close(context.Background())
	}
	report := p.w.Report()
	if report.Handles != 0 {
		return fmt.Errorf("%d handles left", report.Handles)
	}
	for _, r := range report.Readers {
		if r.Lock != nil || len(r.Queue)+len(r.Handles) > 0 || r.Busy {
			return fmt.Errorf("left behind: %+v", r)
		}
	}
	if err := p.w.Close(context.Background()); err != nil {
		return err
	}
	if n := p.w.driver.Channels(); n != 0 {
		return fmt.Errorf("%d channels left", n)
	}
	return nil
}

// sharing describes who has what of the reader.
func (m *model) sharing() string {
	var b strings.Builder
	for _, h := range m.handles {
		fmt.Fprintf(&b, "%d %v %v", h.client, h.mode, h.event)
		if m.owner == h {
			fmt.Fprintf(&b, " owner %d", m.depth)
		}
		b.WriteByte(';')
	}
	return b.String()
}

// TestEveryTransitionOfSharing walks through all that two clients can make of locks and share modes with up to three
// handles and two levels of a transaction, each call from each state.
func TestEveryTransitionOfSharing(t *testing.T) {
	var calls [][]byte
	for who := range byte(2) {
		for mode := range byte(len(modelModes)) {
			calls = append(calls, []byte{byte(opConnect), who, mode})
		}
		calls = append(calls, []byte{byte(opDie), who, 0})
	}
	for handle := range byte(3) {
		for mode := range byte(len(modelModes)) {
			for disposition := range byte(2) {
				calls = append(calls, []byte{byte(opReconnect), handle, 4*mode + disposition})
			}
		}
		calls = append(calls, []byte{byte(opBegin), handle, 0})
		for disposition := range byte(2) {
			calls = append(calls, []byte{byte(opEnd), handle, disposition}, []byte{byte(opDisconnect), handle, disposition})
		}
	}
	seen := map[string]bool{"": true}
	todo := [][]byte{{}}
	for ; len(todo) > 0; todo = todo[1:] {
		for _, call := range calls {
			path := append(slices.Clone(todo[0]), call...)
			m, err := simulate(t, path)
			require.NoError(t, err)
			if key := m.sharing(); !seen[key] && len(m.handles) <= 2 && m.depth <= 2 {
				seen[key] = true
				todo = append(todo, path)
			}
		}
	}
	require.Greater(t, len(seen), 100)
	t.Logf("%d states, %d transitions", len(seen), len(seen)*len(calls))
}

func TestClientsAreToldWhatTheModelSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), opSize, 40*opSize).Draw(rt, "calls")
		if _, err := simulate(t, data); err != nil {
			rt.Fatal(err)
		}
	})
}

// FuzzCalls has the invariant that the model's word holds, whatever clients, cards and readers do.
func FuzzCalls(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 0, 0, 0, 1, 0, 7, 0, 0, 0, 1, 0})
	f.Add([]byte{0, 0, 1, 1, 0, 0, 3, 0, 0, 9, 0, 0, 8, 0, 3, 8, 0, 2, 10, 0, 0, 2, 0, 1, 10, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := simulate(t, data[:min(len(data), 60*opSize)])
		require.NoError(t, err)
	})
}
