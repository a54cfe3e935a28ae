//go:build linux && pcsclite

package clients

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/ebfe/scard"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestScard has github.com/ebfe/scard, the Go binding to libpcsclite, use a card. It runs itself as the client: libpcsclite
// reads the socket's path once in a process.
func TestScard(t *testing.T) {
	if os.Getenv(clientEnv) != "" {
		useScard(t)
		return
	}
	d := goccidd(t, "--virtual", usual)
	inside := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestScard$", "-test.v")
	inside.Env = append(os.Environ(), "PCSCLITE_CSOCK_NAME="+d.socket, clientEnv+"=1")
	printed, err := inside.CombinedOutput()
	require.NoError(t, err, "%s", printed)
}

func useScard(t *testing.T) {
	context, err := scard.EstablishContext()
	require.NoError(t, err)
	defer func() { assert.NoError(t, context.Release()) }()
	names, err := context.ListReaders()
	require.NoError(t, err)
	require.Equal(t, []string{usualName}, names)

	card, err := context.Connect(names[0], scard.ShareShared, scard.ProtocolAny)
	require.NoError(t, err)
	status, err := card.Status()
	require.NoError(t, err)
	assert.Equal(t, usualName, status.Reader)
	assert.Equal(t, scard.ProtocolT1, status.ActiveProtocol)
	require.NoError(t, card.BeginTransaction())
	response, err := card.Transmit([]byte{0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00})
	require.NoError(t, err)
	assert.Equal(t, []byte{0x90, 0x00}, response)
	require.NoError(t, card.EndTransaction(scard.LeaveCard))
	atr, err := card.GetAttrib(scard.AttrAtrString)
	require.NoError(t, err)
	assert.Equal(t, status.Atr, atr)
	require.NoError(t, card.Reconnect(scard.ShareExclusive, scard.ProtocolAny, scard.ResetCard))
	require.NoError(t, card.Disconnect(scard.UnpowerCard))

	_, err = context.Connect("No such reader 00 00", scard.ShareShared, scard.ProtocolAny)
	require.ErrorIs(t, err, scard.ErrUnknownReader)
	states := []scard.ReaderState{{Reader: usualName, CurrentState: scard.StatePresent}}
	require.ErrorIs(t, context.GetStatusChange(states, 100*time.Millisecond), scard.ErrTimeout)
	time.AfterFunc(200*time.Millisecond, func() { _ = context.Cancel() })
	require.ErrorIs(t, context.GetStatusChange(states, -1), scard.ErrCancelled)
}
