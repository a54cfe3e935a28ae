package pcscd

import "golang.org/x/time/rate"

// user is what all clients of one user have together.
type user struct {
	connections int
	// requests has a token for each request that they may make now.
	requests *rate.Limiter
}

func newUser(uid uint32, l Limits) *user {
	if uid == 0 || l.RequestsPerSecond == 0 {
		return &user{requests: rate.NewLimiter(rate.Inf, 0)}
	}
	return &user{requests: rate.NewLimiter(rate.Limit(l.RequestsPerSecond), l.RequestsPerSecond)}
}

// isForgettable tells whether nothing of the user would be missed: a user's requests count also when no connection of theirs is
// left.
func (u *user) isForgettable() bool {
	return u.connections == 0 && u.requests.Tokens() >= float64(u.requests.Burst())
}
