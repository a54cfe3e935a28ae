package pcscd

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUserPolicy(t *testing.T) {
	const nobody = 65534
	stranger := Client{UID: nobody, GID: nobody, PID: -1}
	for name, tc := range map[string]struct {
		policy UserPolicy
		client Client
		ok     bool
	}{
		"no lists let everybody in":      {UserPolicy{}, stranger, true},
		"users only":                     {UserPolicy{Users: []uint32{1000}}, stranger, false},
		"a user of the list":             {UserPolicy{Users: []uint32{1000, nobody}}, stranger, true},
		"groups only":                    {UserPolicy{Groups: []uint32{1000}}, stranger, false},
		"a group of the list":            {UserPolicy{Groups: []uint32{1000, nobody}}, stranger, true},
		"a group's number is no user's":  {UserPolicy{Groups: []uint32{7}}, Client{UID: 7, GID: 8, PID: -1}, false},
		"root":                           {UserPolicy{Users: []uint32{1000}}, Client{UID: 0, GID: 0}, true},
		"the daemon's own user":          {UserPolicy{Users: []uint32{1000}}, Client{UID: uint32(os.Geteuid()), GID: nobody}, true},
		"a user, when groups are listed": {UserPolicy{Users: []uint32{nobody}, Groups: []uint32{5}}, stranger, true},
	} {
		t.Run(name, func(t *testing.T) {
			connection := tc.policy.Connection(t.Context(), tc.client)
			card := tc.policy.CardAccess(t.Context(), tc.client, "Reader 00 00")
			if tc.ok {
				require.NoError(t, connection)
				require.NoError(t, card)
				return
			}
			require.ErrorIs(t, connection, ErrDenied)
			require.ErrorIs(t, card, ErrDenied)
		})
	}
}
