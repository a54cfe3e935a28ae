package virtual

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/internal/pintest"
)

// TestViolationsHaveNoPIN: they are logged, and what breaks a rule may be a PIN where a command was expected.
func TestViolationsHaveNoPIN(t *testing.T) {
	for _, spec := range []string{"level=tpdu,card=t0", "level=tpdu,card=t1", "level=short,card=t1", "level=extended,card=t1"} {
		t.Run(spec, func(t *testing.T) {
			h, station, _ := newHost(t, "reader=gempctwin,"+spec)
			h.succeed(ccid.IccPowerOn(0, ccid.Power5V))
			h.exchange(ccid.XfrBlock(0, 0, 0, []byte(pintest.Digits)))
			h.exchange(ccid.XfrBlock(0, 0, 0, append([]byte{0x00, 0x20, 0x00, 0x01}, pintest.Digits...)))
			require.NotEmpty(t, station.Violations())
			require.Empty(t, pintest.Find(fmt.Append(nil, station.Violations())))
		})
	}
}
