package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/virtual"
)

func TestParse(t *testing.T) {
	remote := virtual.CardSpec{Kind: virtual.CardVPCD, Address: "127.0.0.1:35963"}
	for line, want := range map[string]Request{
		"insert t1":                      {Command: Insert{Card: virtual.CardSpec{Kind: virtual.CardT1}}},
		" INSERT  3\tt0 ":                {Command: Insert{Slot: 3, Card: virtual.CardSpec{Kind: virtual.CardT0}}},
		"insert vpcd:127.0.0.1:35963":    {Command: Insert{Card: remote}},
		"remove":                         {Command: Remove{}},
		"remove 7":                       {Command: Remove{Slot: 7}},
		"@scr3310 unplug":                {Reader: "scr3310", Command: Unplug{}},
		"@1 plug":                        {Reader: "1", Command: Plug{}},
		"press 1234#":                    {Command: Press{Keys: "1234#"}},
		"press 12 34 < c":                {Command: Press{Keys: "1234<c"}},
		"fault stall":                    {Command: Fault{Fault: virtual.Fault{Kind: virtual.Stall}, Times: 1}},
		"fault delay=1500ms bulk-in":     {Command: Fault{Fault: virtual.Fault{Kind: virtual.Delay, Delay: 1500 * time.Millisecond}, Transfer: virtual.BulkInTransfer, Times: 1}},
		"fault truncate=5 after=2":       {Command: Fault{Fault: virtual.Fault{Kind: virtual.Truncate, Length: 5}, After: 2, Times: 1}},
		"fault drop times=3 control":     {Command: Fault{Fault: virtual.Fault{Kind: virtual.Drop}, Transfer: virtual.ControlTransfer, Times: 3}},
		"fault late always interrupt-in": {Command: Fault{Fault: virtual.Fault{Kind: virtual.Hold}, Transfer: virtual.InterruptInTransfer, Times: Always}},
		"fault remove-during bulk-out":   {Command: Fault{Fault: virtual.Fault{Kind: virtual.RemoveDuring}, Transfer: virtual.BulkOutTransfer, Times: 1}},
		"fault off":                      {Command: NoFault{}},
		"violations":                     {Command: Violations{}},
		"list":                           {Command: List{}},
		"help":                           {Command: Help{}},
		"quit":                           {Command: Quit{}},
	} {
		t.Run(line, func(t *testing.T) {
			got, err := Parse(line)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestParseSaysWhatIsPossible(t *testing.T) {
	for line, want := range map[string]string{
		"":                           "a command is missing; help lists them",
		"@":                          "@READER: a reader's name or number has to follow the @",
		"@0":                         "a command is missing; help lists them",
		"eject":                      `"eject" is no command; help lists them`,
		"insert":                     "insert: insert [SLOT] CARD is needed",
		"insert 0 t1 t1":             "insert: insert [SLOT] CARD is needed",
		"insert x t1":                `insert: "x" is no slot's number`,
		"insert 256 t1":              `insert: "256" is no slot's number`,
		"insert -1 t1":               `insert: "-1" is no slot's number`,
		"insert t2":                  `insert: card "t2": t0, t1, none, vpcd:HOST:PORT and vpcd-listen:PORT are possible`,
		"insert none":                "insert: none is no card; remove takes one out",
		"remove 0 1":                 "remove: remove [SLOT] is needed",
		"unplug now":                 "unplug: takes no arguments",
		"press":                      "press: keys are 0 to 9, # to confirm, c to cancel, < to take back",
		"press 4711x":                "press: keys are 0 to 9, # to confirm, c to cancel, < to take back",
		"fault":                      "fault: KIND or off is needed; help lists the kinds",
		"fault fire":                 `fault: "fire" is no kind of fault; help lists them`,
		"fault delay":                "fault: delay=TIME is needed",
		"fault stall=1":              "fault: stall is needed",
		"fault delay=soon":           `fault: delay="soon": a time from 0s to 1h0m0s is needed, as 500ms`,
		"fault delay=2h":             `fault: delay="2h": a time from 0s to 1h0m0s is needed, as 500ms`,
		"fault delay=-1s":            `fault: delay="-1s": a time from 0s to 1h0m0s is needed, as 500ms`,
		"fault truncate=-1":          `fault: truncate="-1": a number of bytes is needed`,
		"fault stall times=0":        `fault: times="0": a number of transfers is needed`,
		"fault stall after=99999999": `fault: after="99999999": a number of transfers is needed`,
		"fault stall sideways":       `fault: "sideways": control, bulk-out, bulk-in, interrupt-in, after=N, times=N and always are possible`,
		strings.Repeat("x", 5000):    "a line has at most 4096 bytes",
	} {
		t.Run(fmt.Sprintf("%.30s", line), func(t *testing.T) {
			_, err := Parse(line)
			require.ErrorIs(t, err, ErrSyntax)
			require.EqualError(t, err, want)
		})
	}
}

func TestEveryKindOfFaultHasAWord(t *testing.T) {
	words := map[virtual.FaultKind]bool{}
	for _, w := range faultWords() {
		words[w.kind] = true
	}
	for kind := virtual.NoFault + 1; kind.String() != "unknown"; kind++ {
		require.True(t, words[kind], "%v", kind)
	}
}

// FuzzParse parses anything: what is understood has a command whose numbers are within bounds, what is not says why on
// one short line, and keys come out of neither.
func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"insert t1", "@1 insert 2 vpcd:localhost:35963", "remove 0", "plug", "unplug", "press 1234#", "press 47110x", "fault off",
		"fault truncate=12 bulk-in after=3 times=2", "fault delay=5ms always", "violations", "list", "help", "quit", "@ x", "@a", "insert 0 vpcd-listen:0",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Parse(line)
		if err != nil {
			require.ErrorIs(t, err, ErrSyntax)
			require.Less(t, len(err.Error()), MaxLine+500)
			require.Equal(t, 1, strings.Count(failed(err), "\n"))
			return
		}
		require.NotNil(t, r.Command)
		switch c := r.Command.(type) {
		case Insert:
			require.True(t, c.Slot >= 0 && c.Slot <= maxSlot)
			again, err := virtual.ParseCard(c.Card.String())
			require.NoError(t, err)
			require.Equal(t, c.Card, again)
		case Remove:
			require.True(t, c.Slot >= 0 && c.Slot <= maxSlot)
		case Fault:
			require.True(t, c.Times == Always || c.Times > 0 && c.Times <= maxCount)
			require.True(t, c.After >= 0 && c.After <= maxCount && c.Fault.Length >= 0 && c.Fault.Delay >= 0)
		case Press:
			require.NotEmpty(t, c.Keys)
			require.NotContains(t, fmt.Sprintf("%v %+v %#v %s %q", r, r, r, c, c), string("Keys:")+string(c.Keys))
			require.Equal(t, "{hidden}", fmt.Sprint(c))
		}
	})
}
