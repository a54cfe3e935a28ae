//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"strconv"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/goccid/goccid/pcscd"
)

// access decides who may be a client, by rules that can be exchanged for others.
type access struct {
	log     logrus.FieldLogger
	current atomic.Pointer[rules]
}

// rules are an authorizer and what ends it.
type rules struct {
	pcscd.Authorizer
	closer io.Closer // nil for none
}

func newAccess(s accessSettings, log logrus.FieldLogger) (*access, error) {
	r, err := newRules(s, log)
	if err != nil {
		return nil, err
	}
	a := &access{log: log}
	a.current.Store(r)
	return a, nil
}

// replace takes new rules. Who waits for an answer of the old ones is refused.
func (a *access) replace(r *rules) {
	if err := a.current.Swap(r).close(); err != nil {
		a.log.Debugf("closing the bus: %v", err)
	}
}

// newRules makes the rules of the settings: polkit, where it is there and wanted, else users and groups.
func newRules(s accessSettings, log logrus.FieldLogger) (*rules, error) {
	users, err := numbers(s.Users, "access.users", lookupUser)
	if err != nil {
		return nil, err
	}
	groups, err := numbers(s.Groups, "access.groups", lookupGroup)
	if err != nil {
		return nil, err
	}
	policy := pcscd.UserPolicy{Users: users, Groups: groups}
	if !s.Polkit {
		return &rules{Authorizer: policy}, nil
	}
	polkit := pcscd.NewPolkit(pcscd.PolkitOptions{Fallback: policy, Logger: log})
	return &rules{Authorizer: polkit, closer: polkit}, nil
}

// numbers turns names into numbers; what is a number already stays it.
func numbers(names []string, setting string, lookup func(string) (string, error)) ([]uint32, error) {
	list := make([]uint32, 0, len(names))
	for _, name := range names {
		number := name
		if _, err := strconv.ParseUint(name, 10, 32); err != nil {
			if number, err = lookup(name); err != nil {
				return nil, &usageError{wrong(setting, "%w", err)}
			}
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, wrong(setting, "%q: %w", name, err)
		}
		list = append(list, uint32(n))
	}
	return list, nil
}

func lookupUser(name string) (string, error) {
	u, err := user.Lookup(name)
	if errors.As(err, new(user.UnknownUserError)) {
		return "", fmt.Errorf("there is no user %q", name)
	}
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func lookupGroup(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if errors.As(err, new(user.UnknownGroupError)) {
		return "", fmt.Errorf("there is no group %q", name)
	}
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}

// Connection implements pcscd.Authorizer.
func (a *access) Connection(ctx context.Context, c pcscd.Client) error {
	return a.logged(c, a.current.Load().Connection(ctx, c))
}

// CardAccess implements pcscd.Authorizer.
func (a *access) CardAccess(ctx context.Context, c pcscd.Client, reader string) error {
	return a.logged(c, a.current.Load().CardAccess(ctx, c, reader))
}

// logged tells of errors that are no decision: somebody has to repair something.
func (a *access) logged(c pcscd.Client, err error) error {
	if err != nil && !errors.Is(err, pcscd.ErrDenied) && !errors.Is(err, context.Canceled) {
		a.log.WithField("pid", c.PID).Debugf("access can't be decided: %v", err)
	}
	return err
}

// Close ends what the rules need.
func (a *access) Close() error { return a.current.Load().close() }

func (r *rules) close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}
