package pcscd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/ifdhandler"
	"github.com/goccid/goccid/pcscd"
	"github.com/goccid/goccid/pcscd/pcscdtest"
	"github.com/goccid/goccid/pcscd/wire"
)

// names are those of the readers that clients see, in their order.
func (w *world) names() []string {
	w.Helper()
	states, _ := w.States()
	var names []string
	for _, s := range states {
		names = append(names, s.Name)
	}
	return names
}

// permutations calls f with each order of s.
func permutations(s []string, f func([]string)) {
	var choose func(chosen, left []string)
	choose = func(chosen, left []string) {
		if len(left) == 0 {
			f(chosen)
		}
		for i, one := range left {
			choose(append(slices.Clone(chosen), one), slices.Delete(slices.Clone(left), i, i+1))
		}
	}
	choose(nil, s)
}

// TestReadersStandInTheOrderOfTheirNumbers, in whatever order they are opened: model names and Luns say nothing. Slots of one
// reader stand together.
func TestReadersStandInTheOrderOfTheirNumbers(t *testing.T) {
	want := []string{"Zeta 00 00", "Beta 01 00", "Beta 01 01", "Alpha 0A 00", "Gamma 10 00"}
	permutations(want, func(order []string) {
		bubble(t, func(t *testing.T) {
			w := &world{T: t, driver: pcscdtest.NewDriver()}
			w.Manager = pcscd.NewManager(pcscd.Options{Driver: w.driver})
			t.Cleanup(func() { require.NoError(t, w.Close(context.Background())) })
			for i, name := range order {
				_, before := w.States()
				changed := w.Changed(before)
				w.add(name, ifdhandler.NewLun(uint16(i), 0), nil)
				<-changed
			}
			require.Equal(t, want, w.names(), "opened as %v", order)
			require.EqualValues(t, 1+len(order), w.ReaderEvents())
		})
	})
}

// TestReaderThatComesBackTakesItsPlaceAgain: meanwhile there is no gap for clients, and what they see of the others is theirs.
func TestReaderThatComesBackTakesItsPlaceAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const gamma, gammaLun = "Gamma 02 00", ifdhandler.Lun(0x00020000)
		w := newWorld(t, card(), pcscd.Options{})
		w.add(beta, betaLun, nil)
		w.add(gamma, gammaLun, nil)
		require.NoError(t, w.RemoveReader(t.Context(), betaLun))
		require.Equal(t, []string{alpha, gamma}, w.names())
		w.driver.Insert(gammaLun, card())
		w.untilState(gamma, 0x34)

		_, before := w.States()
		changed := w.Changed(before)
		w.add(beta, 0x00030000, nil) // the driver gives no Lun twice in a row
		<-changed
		require.Equal(t, []string{alpha, beta, gamma}, w.names())
		require.EqualValues(t, 1+3+1+1, w.ReaderEvents())

		w.driver.Insert(gammaLun, nil)
		w.untilState(gamma, wire.StateAbsent)
		require.Equal(t, wire.State(0x34), w.state(alpha).State)
		require.Equal(t, wire.StateAbsent, w.state(beta).State)
		var reported []string
		for _, r := range w.Report().Readers {
			reported = append(reported, r.Name)
		}
		require.Equal(t, w.names(), reported)
	})
}

// TestMoreReadersThanOldClientsSeeAreToldOnce: the seventeenth reader is, not each time that it comes.
func TestMoreReadersThanOldClientsSeeAreToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log, hook := logtest.NewNullLogger()
		w := newWorld(t, nil, pcscd.Options{Logger: log})
		for i := range uint16(15) {
			w.add(fmt.Sprintf("Reader %02X 00", i+1), ifdhandler.NewLun(i+1, 0), nil)
		}
		require.Empty(t, hook.AllEntries(), "16 readers are seen by all")
		for range 3 {
			w.add("Reader 10 00", ifdhandler.NewLun(16, 0), nil)
			w.add("Reader 11 00", ifdhandler.NewLun(17, 0), nil)
			require.NoError(t, w.RemoveReader(t.Context(), ifdhandler.NewLun(16, 0)))
			require.NoError(t, w.RemoveReader(t.Context(), ifdhandler.NewLun(17, 0)))
		}
		var told []*logrus.Entry
		for _, e := range hook.AllEntries() {
			if strings.Contains(e.Message, "more than 16 readers") {
				told = append(told, e)
			}
		}
		require.Len(t, told, 1)
		require.Equal(t, logrus.WarnLevel, told[0].Level)
	})
}
