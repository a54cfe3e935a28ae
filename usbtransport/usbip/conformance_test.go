package usbip_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/transporttest"
	"github.com/goccid/goccid/usbtransport/usbip"
	"github.com/goccid/goccid/virtual"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve exports a backend at a loopback address until the test ends.
func serve(t testing.TB, server *usbip.Server) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-served:
			assert.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Error("Serve does not return")
		}
	})
	address = listener.Addr().String()
	require.NotEmpty(t, ask(t, address, []byte{0x01, 0x11, 0x80, 0x05, 0, 0, 0, 0}), "the server is up")
	return address
}

// ask sends bytes to a server, and returns what it answers before it closes the connection.
func ask(t testing.TB, address string, question []byte) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = conn.Write(question)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	return answer
}

// pollInterval is short, so that a test need not wait for the next look.
const pollInterval = 20 * time.Millisecond

func client(address string) *usbip.Backend {
	return usbip.New(usbip.Options{Address: address, PollInterval: pollInterval})
}

// fixture is a client of a server that exports a device of a virtual bus.
func fixture(t testing.TB, device virtual.Device) transporttest.Fixture {
	bus := virtual.NewBus()
	_, err := bus.Plug(device)
	require.NoError(t, err)
	address := serve(t, &usbip.Server{Backend: bus})
	t.Cleanup(func() { _ = bus.Close() })
	id := device.Describe()
	return transporttest.Fixture{
		Backend:     client(address),
		Match:       func(d usbtransport.DeviceInfo) bool { return d.IDVendor == id.IDVendor && d.IDProduct == id.IDProduct },
		RemovalTime: time.Second, // a removal that no open interface tells of is found by polling
		Unplug:      func() error { bus.Unplug(device); return nil },
		Plug:        func() error { _, err := bus.Plug(device); return err },
	}
}

func TestClientAndServerKeepTheRulesOfUSBTransport(t *testing.T) {
	t.Run("loopback", func(t *testing.T) {
		transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
			device := virtual.NewLoopback()
			f := fixture(t, device)
			f.Loopback = true
			f.Stall = func(endpoint uint8) error { device.Stall(endpoint); return nil }
			f.QueueInterrupt = func(data []byte) error { device.Interrupt(data); return nil }
			return f
		})
	})
	t.Run("reader", func(t *testing.T) {
		transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
			level := ccid.LevelTPDU
			reader, err := virtual.NewReader(virtual.Config{Level: &level})
			require.NoError(t, err)
			return fixture(t, reader)
		})
	})
}
