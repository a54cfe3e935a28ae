package pcscd_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/pcsctest"
	"github.com/goccid/goccid/pcscd/wire"
)

// conversation is what a fuzzed script does with a server over a real manager: clients that ask for anything, right or wrong, at
// once or after having left, while cards and readers come and go.
type conversation struct {
	testing.TB
	script  []byte
	driver  *pcscdtest.Driver
	manager *pcscd.Manager
	path    string
	talkers [3]talker
}

// talker is one client of a conversation, which may have left, as client nil says.
type talker struct {
	client  *pcsctest.Client
	cards   []int32
	waiting bool // a message may come in place of a reply
}

var (
	conversationReaders = []string{"First 00 00", "Second 01 00"}
	conversationCards   = []*pcscdtest.Card{nil, {ATR: []byte{0x3B, 0x00}}, {ATR: []byte{0x3B, 0x80, 0x01, 0x81}}, {}}
)

// What a byte of a script stands for.
const (
	stepConnect = iota
	stepTransmit
	stepBegin
	stepEnd
	stepReconnect
	stepDisconnect
	stepStatus
	stepControl
	stepAttributes
	stepWait
	stepStopWaiting
	stepCancel
	stepRelease
	stepList
	stepNonsense
	stepLeave
	stepExchangeCard
	stepReplug
	steps
)

var conversationSteps = [steps]func(*conversation, *talker) error{
	stepConnect:      (*conversation).connect,
	stepTransmit:     (*conversation).transmit,
	stepBegin:        (*conversation).begin,
	stepEnd:          (*conversation).end,
	stepReconnect:    (*conversation).reconnect,
	stepDisconnect:   (*conversation).disconnect,
	stepStatus:       (*conversation).status,
	stepControl:      (*conversation).control,
	stepAttributes:   (*conversation).attributes,
	stepWait:         (*conversation).wait,
	stepStopWaiting:  (*conversation).stopWaiting,
	stepCancel:       (*conversation).cancel,
	stepRelease:      (*conversation).release,
	stepList:         (*conversation).list,
	stepNonsense:     (*conversation).nonsense,
	stepLeave:        (*conversation).leave,
	stepExchangeCard: (*conversation).exchangeCard,
	stepReplug:       (*conversation).replug,
}

// next takes a byte of the script; 0 is behind its end.
func (c *conversation) next() int {
	if len(c.script) == 0 {
		return 0
	}
	b := c.script[0]
	c.script = c.script[1:]
	return int(b)
}

// handle chooses a card handle: the talker's own, another's, or none at all.
func (c *conversation) handle(w *talker) int32 {
	n := c.next()
	if n >= 240 {
		w = &c.talkers[n%len(c.talkers)]
	}
	if len(w.cards) == 0 {
		return int32(n)
	}
	return w.cards[n%len(w.cards)]
}

func (c *conversation) disposition() wire.Disposition { return wire.Disposition(c.next() % 5) }

func (c *conversation) mode() wire.ShareMode { return wire.ShareMode(c.next() % 5) }

func (c *conversation) connect(w *talker) error {
	m, err := w.client.Connect(conversationReaders[c.next()%len(conversationReaders)], c.mode(), wire.Protocol(c.next()))
	if err == nil {
		w.cards = append(w.cards, m.Card)
	}
	return err
}

func (c *conversation) reconnect(w *talker) error {
	_, err := w.client.Reconnect(c.handle(w), c.mode(), wire.Protocol(c.next()), c.disposition())
	return err
}

func (c *conversation) disconnect(w *talker) error {
	return w.client.Disconnect(c.handle(w), c.disposition())
}

func (c *conversation) begin(w *talker) error { return w.client.Begin(c.handle(w)) }

func (c *conversation) end(w *talker) error { return w.client.End(c.handle(w), c.disposition()) }

func (c *conversation) status(w *talker) error { return w.client.Status(c.handle(w)) }

func (c *conversation) transmit(w *talker) error {
	command := make([]byte, c.next())
	room := uint32(c.next()) * 2
	response, _, err := w.client.Transmit(c.handle(w), wire.Protocol(c.next()%5), command, room)
	if err == nil && !w.waiting {
		require.Len(c, response, len(command)+2)
	}
	return err
}

func (c *conversation) control(w *talker) error {
	_, _, err := w.client.Control(c.handle(w), ifdhandler.ControlEscape+uint32(c.next()%2), make([]byte, c.next()), uint32(c.next()))
	return err
}

func (c *conversation) attributes(w *talker) error {
	if _, _, err := w.client.GetAttrib(c.handle(w), uint32(ifdhandler.AttrVendorName)+uint32(c.next()%2)); err != nil {
		return err
	}
	return w.client.SetAttrib(c.handle(w), uint32(c.next()), make([]byte, c.next()%wire.MaxAttribute))
}

func (c *conversation) wait(w *talker) error {
	w.waiting = true
	return w.client.Register()
}

func (c *conversation) stopWaiting(w *talker) error { return w.client.Stop() }

func (c *conversation) cancel(w *talker) error {
	number := uint32(c.next())
	if other := c.talkers[int(number)%len(c.talkers)].client; other != nil {
		number = other.Context
	}
	return w.client.Cancel(number)
}

func (c *conversation) release(w *talker) error { return w.client.Release() }

func (c *conversation) list(w *talker) error {
	_, err := w.client.Readers()
	return err
}

// nonsense sends bytes of the script as they are.
func (c *conversation) nonsense(w *talker) error {
	n := min(c.next(), len(c.script))
	w.waiting = true // whatever comes of it
	_, err := w.client.Conn.Write(c.script[:n])
	c.script = c.script[n:]
	return err
}

func (c *conversation) leave(*talker) error { return errors.New("leaves") }

func (c *conversation) exchangeCard(*talker) error {
	reader := ifdhandler.Lun(c.next()%len(conversationReaders)) << 16
	c.driver.Insert(reader, conversationCards[c.next()%len(conversationCards)])
	return nil
}

// replug pulls a reader out and plugs it in again.
func (c *conversation) replug(*talker) error {
	n := c.next() % len(conversationReaders)
	lun := ifdhandler.Lun(n) << 16
	c.driver.Unplug(lun.Reader())
	require.NoError(c, c.manager.RemoveReader(c.Context(), lun))
	c.plug(n, conversationCards[c.next()%len(conversationCards)])
	return nil
}

func (c *conversation) plug(n int, card *pcscdtest.Card) {
	lun := ifdhandler.Lun(n) << 16
	c.driver.Open(lun, card)
	require.NoError(c, c.manager.AddReader(pcscd.Reader{Name: conversationReaders[n], Lun: lun}))
}

// step has a talker do what the script says. Who waits too long for an answer leaves.
func (c *conversation) step(w *talker) {
	const patience = 20 * time.Millisecond
	if w.client == nil {
		c.come(w)
	}
	client := w.client
	impatient := time.AfterFunc(patience, func() { client.Close() })
	err := conversationSteps[c.next()%steps](c, w)
	if !impatient.Stop() {
		err = errors.Join(err, errors.New("has left"))
	}
	if code := wire.Code(0); errors.As(err, &code) {
		if !w.waiting {
			require.False(c, strings.HasPrefix(code.Error(), "unknown"), "%v", code)
		}
		return
	}
	if err != nil {
		client.Close()
		*w = talker{}
	}
}

// come connects a talker, mostly with a handshake and a context.
func (c *conversation) come(w *talker) {
	client, err := pcsctest.Dial(c.path)
	require.NoError(c, err)
	w.client = client
	n := c.next()
	client.Minor = int32(3 + n%4)
	if n < 240 {
		_, err = client.Handshake(wire.MajorVersion, client.Minor)
		require.NoError(c, err)
	}
	if n < 250 {
		_, err = client.Establish(wire.ScopeSystem)
		require.NoError(c, err)
	}
}

// FuzzConversation has the whole of it, from the socket to the driver, live through a script. At its end nothing may be left of
// the clients, a new one must be served, and the end of the server must be orderly.
func FuzzConversation(f *testing.F) {
	// A step is the talker's number, a byte for how it comes where it is not there, the step and what that takes.
	const minor4, minor6, shared, anyProtocol, t1, card = 1, 3, 2, 3, 2, 0
	first := []byte{0, minor4, stepConnect, 0, shared, anyProtocol, 0, stepBegin, card}
	second := []byte{1, minor6, stepConnect, 0, shared, anyProtocol, 1, stepBegin, card}
	f.Add([]byte{})
	f.Add(slices.Concat(first, []byte{0, stepTransmit, 5, 129, card, t1, 0, stepEnd, card, 1, 0, stepStatus, card, 0, stepDisconnect, card, 2, 0, stepRelease}))
	f.Add(slices.Concat(first, second, []byte{1, stepTransmit, 0, 0, card, t1, 0, stepLeave, 1, stepTransmit, 9, 129, card, t1}))
	f.Add(slices.Concat(first, []byte{1, minor4, stepWait, 2, minor4, stepReplug, 0, 2, 0, stepTransmit, 9, 129, card, t1, 1, stepStopWaiting, 1, stepList}))
	f.Add(slices.Concat(first, []byte{2, minor6, stepExchangeCard, 0, 0, 0, stepStatus, card, 2, stepExchangeCard, 0, 2, 0, stepReconnect, card, shared, anyProtocol, 1}))
	f.Add(slices.Concat(first, []byte{1, minor6, stepStatus, 240, 1, minor4, stepCancel, 0, 1, stepControl, 0, 1, 30, 0, stepAttributes, card, 0, card, 0, 7}))
	f.Add([]byte{0, minor4, stepNonsense, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 249, stepRelease})
	f.Fuzz(func(t *testing.T, script []byte) {
		const maxSteps = 40
		driver := pcscdtest.NewDriver()
		manager := pcscd.NewManager(pcscd.Options{Driver: driver, PowerOffGrace: 2 * time.Millisecond})
		c := &conversation{TB: t, script: script, driver: driver, manager: manager, path: filepath.Join(t.TempDir(), "s")}
		c.plug(0, conversationCards[2])
		c.plug(1, conversationCards[1])
		listener, err := net.Listen("unix", c.path)
		require.NoError(t, err)
		server := pcscd.NewServer(pcscd.ServerOptions{Manager: manager, Limits: pcscd.Limits{Penalty: time.Millisecond}})
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- server.Serve(ctx, listener) }()

		for range maxSteps {
			if len(c.script) == 0 {
				break
			}
			c.step(&c.talkers[c.next()%len(c.talkers)])
		}
		for _, w := range c.talkers {
			if w.client != nil {
				w.client.Close()
			}
		}
		c.requireNothingLeft(server)
		c.requireServed()
		stop()
		select {
		case err := <-served:
			require.NoError(t, err)
		case <-time.After(pcsctest.Patience):
			t.Fatal("Serve does not return")
		}
		listener.Close()
		require.NoError(t, manager.Close(context.Background()))
		require.Zero(t, driver.Channels())
	})
}

func (c *conversation) requireNothingLeft(server *pcscd.Server) {
	require.Eventually(c, func() bool {
		connected, _, _ := server.Clients()
		report := c.manager.Report()
		free := connected == 0 && report.Sessions == 0 && report.Handles == 0
		for _, r := range report.Readers {
			free = free && r.Lock == nil && len(r.Queue) == 0 && len(r.Handles) == 0 && r.Sharing == 0
		}
		return free
	}, pcsctest.Patience, time.Millisecond)
}

// requireServed has a new client use a card.
func (c *conversation) requireServed() {
	c.driver.Insert(0, conversationCards[2])
	client, err := pcsctest.Open(c.path, wire.Minor5)
	require.NoError(c, err)
	defer client.Close()
	require.Eventually(c, func() bool {
		m, err := client.Connect(conversationReaders[0], wire.Exclusive, wire.ProtocolAny)
		if err != nil {
			return false
		}
		response, _, err := client.Transmit(m.Card, wire.ProtocolT1, []byte{1, 2}, 258)
		if err != nil {
			// The card that was there before.
			require.NoError(c, client.Disconnect(m.Card, wire.LeaveCard))
			return false
		}
		require.Equal(c, []byte{1, 2, 0x90, 0x00}, response)
		return true
	}, pcsctest.Patience, time.Millisecond, "the card is not noticed, or can't be used")
}
