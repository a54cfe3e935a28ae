package host_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid/host"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/virtual"
)

// countsOpens is a bus that counts how often an interface was asked for.
type countsOpens struct {
	*virtual.Bus
	opens atomic.Int32
}

func (c *countsOpens) Open(ctx context.Context, d usbtransport.DeviceInfo, number uint8) (usbtransport.Interface, error) {
	c.opens.Add(1)
	return c.Bus.Open(ctx, d, number)
}

// TestIgnoredReadersAreLeftAlone: they are told of once, are there for others, and take no number where the name is known
// before they are opened.
func TestIgnoredReadersAreLeftAlone(t *testing.T) {
	plain := func(r *virtual.Reader) virtual.Device { return r }
	named := func(r *virtual.Reader) virtual.Device { return withInterfaceName{r} }
	tests := []struct {
		name    string
		device  func(*virtual.Reader) virtual.Device
		ignored string
		opens   int32
		next    string // reader that is not ignored
	}{
		{"by model and serial number", plain, "Gemalto PC Twin Reader (70D7E2EE)", 0, "Alcor Micro AU9540, mine 00 00"},
		{"by the whole name", named, "Gemalto PC Twin Reader [Contact] (70D7E2EE)", 1, "Alcor Micro AU9540, mine 01 00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := &countsOpens{Bus: virtual.NewBus()}
				ignored, err := virtual.NewReader(virtual.Config{Product: "Contact", SerialNumber: "70D7E2EE"})
				require.NoError(t, err)
				other, err := virtual.NewReader(virtual.Config{Model: "au9540"})
				require.NoError(t, err)
				options := host.Options{Ignore: func(name string) bool { return name == tt.ignored }, NameExtension: ", mine"}
				monitor, err := host.NewMonitor(t.Context(), bus, options)
				require.NoError(t, err)
				p := &plugs{bus: bus.Bus, monitor: monitor}
				t.Cleanup(func() { require.NoError(t, errors.Join(monitor.Close(), bus.Close(), ignored.Close(), other.Close())) })

				_, err = bus.Plug(tt.device(ignored))
				require.NoError(t, err)
				e := p.next(t)
				require.Equal(t, host.ReaderUnusable, e.Kind)
				require.ErrorIs(t, e.Err, host.ErrIgnored)
				require.ErrorContains(t, e.Err, tt.ignored)
				time.Sleep(time.Hour)
				require.Equal(t, tt.opens, bus.opens.Load(), "no other try")
				free, err := host.OpenFirst(t.Context(), bus.Bus, host.Options{})
				require.NoError(t, err, "it is there for others")
				require.NoError(t, free.Close())

				_, err = bus.Plug(other)
				require.NoError(t, err)
				e = p.next(t)
				require.Equal(t, host.ReaderArrived, e.Kind, "%v", e.Err)
				require.Equal(t, tt.next, e.Reader.Name())
			})
		})
	}
}
