package hotplug_test

import (
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/goccid/goccid/test/vm/hotplug"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRequestsAreAnsweredInOrder(t *testing.T) {
	guest, host := net.Pipe()
	var got []hotplug.Request
	served := make(chan error, 1)
	go func() {
		served <- hotplug.Serve(host, func(request hotplug.Request) error {
			got = append(got, request)
			if request.Action == hotplug.Unplug {
				return errors.New("glued in")
			}
			return nil
		})
	}()

	plug := hotplug.Request{ID: 1, Action: hotplug.Plug, Port: 3}
	require.NoError(t, hotplug.Do(guest, plug))
	unplug := hotplug.Request{ID: 2, Action: hotplug.Unplug}
	require.ErrorContains(t, hotplug.Do(guest, unplug), "glued in")

	require.NoError(t, guest.Close())
	require.NoError(t, <-served)
	assert.Equal(t, []hotplug.Request{plug, unplug}, got)
}

func TestAnswersToAnotherClientAreSkipped(t *testing.T) {
	guest, host := net.Pipe()
	defer guest.Close()
	defer host.Close()
	go func() {
		_, _ = host.Read(make([]byte, 200))
		_, _ = host.Write([]byte("{\"id\":6,\"error\":\"late\"}\n{\"id\":7}\n"))
	}()
	assert.NoError(t, hotplug.Do(guest, hotplug.Request{ID: 7, Action: hotplug.Plug}))
}

func TestAHostThatEndsIsAnError(t *testing.T) {
	guest, host := net.Pipe()
	defer guest.Close()
	go func() {
		_, _ = host.Read(make([]byte, 200))
		_ = host.Close()
	}()
	assert.Error(t, hotplug.Do(guest, hotplug.Request{ID: 1, Action: hotplug.Plug}))
}
