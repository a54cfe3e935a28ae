package host_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/virtual"
)

// trickler is a reader that answers an Escape with the longest message there is, one byte at a time.
type trickler struct {
	*virtual.Reader
	port *virtual.Port
	stop context.CancelFunc
	work sync.WaitGroup
}

func (d *trickler) Attach(p *virtual.Port) {
	d.port = p
	d.Reader.Attach(p)
}

func (d *trickler) Out(endpoint uint8, data []byte) {
	c, err := ccid.ParseCommand(data)
	if err != nil || c.Type != ccid.TypeEscape {
		d.Reader.Out(endpoint, data)
		return
	}
	r := ccid.Response{Type: ccid.TypeEscapeResponse, Slot: c.Slot, Seq: c.Seq, Data: make([]byte, ccid.MaxMessageLength-ccid.HeaderLength)}
	b, _ := r.AppendBinary(nil)
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.work.Go(func() {
		for ; len(b) > 0 && ctx.Err() == nil; b = b[1:] {
			d.port.Send(0x82, b[:1:1])
			time.Sleep(190 * time.Millisecond) // in time for the next part, and no byte comes just as the message is given up
		}
	})
}

// TestMessageThatTricklesIsGivenUp has a message never end, though its bytes come in time each.
func TestMessageThatTricklesIsGivenUp(t *testing.T) {
	bubble(t, "one byte at a time", func(t *testing.T) {
		shell, err := virtual.NewReader(virtual.Config{})
		require.NoError(t, err)
		device := &trickler{Reader: shell, stop: func() {}}
		bus := virtual.NewBus()
		_, err = bus.Plug(device)
		require.NoError(t, err)
		defer func() { require.NoError(t, bus.Close()) }()
		r, err := host.OpenFirst(t.Context(), bus, host.Options{})
		require.NoError(t, err)
		begun := time.Now()
		_, err = r.Slot(0).Escape(timeout(t, time.Second), []byte{1})
		require.Error(t, err)
		require.Less(t, time.Since(begun), 15*time.Second)
		device.stop()
		device.work.Wait()
		_, err = r.Slot(0).Status(t.Context())
		require.NoError(t, err)
		require.NoError(t, r.Close())
	})
}
