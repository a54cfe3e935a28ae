package atr

import "fmt"

// Text explains the ATR for people, one fact a line.
func (a *ATR) Text() []string {
	return []string{fmt.Sprintf("ATR % X", a.Raw)}
}
