package atr

import (
	"encoding/json"
	"fmt"
)

// MarshalJSON returns the decode for programs: "atr" (Raw in hexadecimal), "valid" (see Valid), "tck" with "present" and
// "correct", "convention" ("direct", "inverse"), "protocols", "specific" (null, or the T of TA2), "fi" and "di" (see FiDi),
// "historical_bytes" in hexadecimal, and "text", the lines of Text.
func (a *ATR) MarshalJSON() ([]byte, error) {
	type tck struct {
		Present bool `json:"present"`
		Correct bool `json:"correct"`
	}
	fi, di, _ := a.FiDi()
	v := struct {
		ATR        string   `json:"atr"`
		Valid      bool     `json:"valid"`
		TCK        tck      `json:"tck"`
		Convention string   `json:"convention"`
		Protocols  []int    `json:"protocols"`
		Specific   *int     `json:"specific"`
		Fi         int      `json:"fi"`
		Di         int      `json:"di"`
		Historical string   `json:"historical_bytes"`
		Text       []string `json:"text"`
	}{
		ATR:        fmt.Sprintf("%X", a.Raw),
		Valid:      a.Valid(),
		TCK:        tck{Present: a.TCK.Present, Correct: a.TCK.Correct},
		Convention: a.Convention.String(),
		Protocols:  make([]int, len(a.Protocols)),
		Fi:         fi,
		Di:         di,
		Historical: fmt.Sprintf("%X", a.Historical),
		Text:       a.Text(),
	}
	for i, t := range a.Protocols {
		v.Protocols[i] = int(t)
	}
	if a.Specific != nil {
		t := int(a.Specific.T)
		v.Specific = &t
	}
	return json.Marshal(v)
}
