package wire

import (
	"errors"
	"fmt"
)

var errNameNotTerminated = errors.New("wire: reader name without a closing NUL")

// LengthError says that a body has not the size of its command.
type LengthError struct {
	What      string // the body
	Got, Want int    // bytes
}

// Error says what was expected.
func (e *LengthError) Error() string {
	return fmt.Sprintf("wire: %s of %d bytes, want %d", e.What, e.Got, e.Want)
}

func exactly(what string, b []byte, want int) error {
	if len(b) == want {
		return nil
	}
	return &LengthError{What: what, Got: len(b), Want: want}
}
