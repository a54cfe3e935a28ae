package pcscd

import (
	"context"
	"os"
	"slices"
)

// UserPolicy is an Authorizer that knows users and groups by number. Without any it lets everybody in who can open the
// socket, as pcsc-lite does without polkit. With some, it lets in root, the daemon's own user, the Users, and who has one
// of the Groups, also as a supplementary group. Readers make no difference.
type UserPolicy struct {
	Users, Groups []uint32
}

// Connection decides by the client's user and groups.
func (p UserPolicy) Connection(_ context.Context, c Client) error {
	switch {
	case len(p.Users) == 0 && len(p.Groups) == 0,
		c.UID == 0, int(c.UID) == os.Geteuid(),
		slices.Contains(p.Users, c.UID),
		slices.Contains(p.Groups, c.GID):
		return nil
	}
	if len(p.Groups) > 0 && slices.ContainsFunc(supplementaryGroups(c), func(gid uint32) bool { return slices.Contains(p.Groups, gid) }) {
		return nil
	}
	return denied("access to the service", c)
}

// CardAccess decides like Connection, since the policy may have changed in between.
func (p UserPolicy) CardAccess(ctx context.Context, c Client, _ string) error {
	return p.Connection(ctx, c)
}
