package host

import (
	"time"

	"github.com/goccid/goccid/apdu"
	"github.com/goccid/goccid/atr"
	"github.com/goccid/goccid/ccid"
	"github.com/goccid/goccid/ccid/quirks"
)

// Limits are the bounds on waiting. The zero value of each field means its default.
type Limits struct {
	// Silence is the longest wait for an answer, or for a sign of life, to one message: whatever the card's waiting
	// times and the reader's clock say, no wait is longer, but that for a PIN to be entered. Default 60 s.
	Silence time.Duration
	// Exchange is the ceiling on one operation with all of its messages, time extensions and waiting time extensions of
	// T=1: a reader or a card that asks for more time again and again gets no more than this. What the other slots of the
	// reader take meanwhile does not count, nor does the recovery at the end. A PIN entry has the time for the PIN in
	// addition. It is at least Silence. Default 60 s.
	Exchange time.Duration
	// KeyGeneration is the ceiling in place of Exchange where the command has the card make a key pair
	// (apdu.GeneratesKeyPair), for which cards ask for more time for minutes. It is at least Exchange. Default 5 min.
	KeyGeneration time.Duration
	// Allowance is added to every wait for USB, the reader's own work and the host's scheduling. Default 1 s.
	Allowance time.Duration
	// Poll is the interval at which a reader without an interrupt endpoint is asked for its slots' state while
	// somebody waits for a change. Default 400 ms.
	Poll time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&l.Silence, time.Minute},
		{&l.Exchange, time.Minute},
		{&l.KeyGeneration, 5 * time.Minute},
		{&l.Allowance, time.Second},
		{&l.Poll, 400 * time.Millisecond},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	l.Exchange = max(l.Exchange, l.Silence)
	l.KeyGeneration = max(l.KeyGeneration, l.Exchange)
	return l
}

// usual is the ceiling on an operation like any other.
func (l Limits) usual() time.Duration { return l.Exchange }

// forCommand is the ceiling on what a command APDU, or the header of a TPDU, asks of the card.
func (l Limits) forCommand(command []byte) time.Duration {
	if apdu.GeneratesKeyPair(command) {
		return l.KeyGeneration
	}
	return l.Exchange
}

// ceiling is the bound on an operation: how long it may take, and until when. The zero value bounds nothing.
type ceiling struct {
	limit time.Duration
	until time.Time
}

func newCeiling(limit time.Duration) ceiling { return ceiling{limit, time.Now().Add(limit)} }

// spare leaves a time out of account.
func (c *ceiling) spare(d time.Duration) { c.until = c.until.Add(d) }

// passed returns the limit when it is over, 0 before.
func (c ceiling) passed() time.Duration {
	if time.Now().Before(c.until) {
		return 0
	}
	return c.limit
}

// Waits that depend on neither card nor clock, before the allowance.
const (
	// controlWait is for requests on endpoint 0 (USB 2.0 §9.2.6.4 allows a device 5 s, readers answer in milliseconds).
	controlWait = time.Second
	// sendWait is for a command to be taken by the reader.
	sendWait = 5 * time.Second
	// statusWait is for commands that need no card: slot status, parameters, power off, clock. The slowest known
	// reader needs 1 s while its field is busy.
	statusWait = 2 * time.Second
	// escapeWait is for vendor commands, of which nothing is known.
	escapeWait = 30 * time.Second
	// drainWait is how long a notification from before the opening is waited for.
	drainWait = 100 * time.Millisecond
	// restWait is for the next bytes of a message whose first ones have come, messageWait for all of them: a full-speed device
	// sends the longest message in a tenth of a second.
	restWait    = 250 * time.Millisecond
	messageWait = 5 * time.Second
	// recoveryWait is for the answer that shows that a step of a recovery helped.
	recoveryWait = time.Second
	// resetWait is for a port reset.
	resetWait = 5 * time.Second
	// closeWait bounds the powering down of cards when a reader is closed.
	closeWait = time.Second
	// deactivationPause is the least time without power before the next activation (ISO/IEC 7816-3:2006 §6.2.4).
	deactivationPause = 10 * time.Millisecond
	// xfrWait is the least wait for a card's answer.
	xfrWait = 3 * time.Second
)

// deadlines is the one model of how long to wait for what. All methods are pure.
type deadlines struct {
	limits  Limits
	timing  quirks.Timing // what the reader needs
	clockHz int           // of the card, made plausible
}

// Clock frequencies outside of what cards are made for are lies: readers announce 250 kHz and 1 GHz (ISO/IEC
// 7816-3:2006 §5.2.3 has 1 MHz..20 MHz).
const (
	lowestClockHz   = 1_000_000
	highestClockHz  = 20_000_000
	fallbackClockHz = 4_000_000
)

func newDeadlines(l Limits, class *ccid.ClassDescriptor, t quirks.Timing) deadlines {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{{&l.Silence, t.Silence}, {&l.Exchange, t.Exchange}, {&l.Poll, t.Poll}} {
		if f.value > 0 {
			*f.field = f.value
		}
	}
	l = l.withDefaults()
	l.Exchange, l.KeyGeneration = l.Exchange+t.T1Allowance, l.KeyGeneration+t.T1Allowance
	return deadlines{limits: l, timing: t, clockHz: plausibleClock(class.DwDefaultClock)}
}

// plausibleClock returns a clock frequency given in kHz in Hz, or 4 MHz, the most common one, where it can't be true.
func plausibleClock(kHz uint32) int {
	hz := int64(kHz) * 1000
	if hz < lowestClockHz || hz > highestClockHz {
		return fallbackClockHz
	}
	return int(hz)
}

// capped adds the allowance and applies the ceiling.
func (d deadlines) capped(wait time.Duration) time.Duration {
	return min(wait+d.limits.Allowance, d.limits.Silence)
}

func (d deadlines) status() time.Duration { return d.capped(statusWait) }

// slotStatus is for GetSlotStatus, which takes some readers long while there is no card.
func (d deadlines) slotStatus() time.Duration {
	return d.capped(max(statusWait, d.timing.StatusTimeout))
}

// firstStatus is for the first GetSlotStatus of all, for which a reader may have to finish its start.
func (d deadlines) firstStatus() time.Duration {
	return d.capped(max(statusWait, d.timing.StatusTimeout, d.timing.WarmUpTimeout))
}

// recovery is for the answer that shows that a step of a recovery helped.
func (d deadlines) recovery() time.Duration { return max(recoveryWait, d.timing.StatusTimeout) }

func (d deadlines) escape() time.Duration { return d.capped(escapeWait) }

// firstATR is the worst case of an answer to reset: TS and 32 characters, each at the end of the initial waiting time
// of 9,600 etu (ISO/IEC 7816-3:2006 §8.1), once for each voltage where the reader tries them by itself.
func (d deadlines) firstATR(p ccid.PowerSelect) time.Duration {
	wait := time.Duration(atr.MaxLength) * d.etu(atr.DefaultFD, 9600+12)
	if p == ccid.PowerAutomatic {
		wait *= 3
	}
	return d.capped(wait)
}

// etu is n elementary time units at a FI/DI byte; indexes that are reserved count as the default.
func (d deadlines) etu(fd byte, n int) time.Duration {
	fi, di := factors(fd)
	return time.Duration(int64(n) * int64(fi) * int64(time.Second) / (int64(di) * int64(d.clockHz)))
}

func factors(fd byte) (fi, di int) {
	fi, _, fiOK := atr.FI(fd)
	di, diOK := atr.DI(fd)
	if !fiOK || !diOK {
		return 372, 1
	}
	return fi, di
}

// waitingTimes are the card's, as its ATR and the parameters in use give them.
type waitingTimes struct {
	model deadlines
	fd    byte // Fi and Di in use
	n     byte // extra guard time TC1
	wi    byte // T=0: TC2
	t1    atr.T1Params
}

// etuPerCharacter is a character with its guard time; N = 255 shortens it by one (T=1) or is 0 (T=0).
func (w waitingTimes) etuPerCharacter() int {
	if w.n == 255 {
		return 12
	}
	return 12 + int(w.n)
}

// t0 is the wait for a T=0 exchange that moves n characters. The work waiting time (ISO/IEC 7816-3:2006 §10.2) may
// pass before any character; six times is more than cards have been seen to do without a NULL byte, on which a reader
// asks for a time extension.
func (w waitingTimes) t0(n int) time.Duration {
	fi, _ := factors(w.fd)
	wait := w.model.etu(w.fd, n*w.etuPerCharacter()) + 6*atr.WWT(w.wi, fi, w.model.clockHz)
	return w.model.capped(max(wait, xfrWait))
}

// t1Block is the wait for one T=1 block and its answer: block waiting time times wtx (ISO/IEC 7816-3:2006 §11.4.3),
// the characters of both, some gaps of a character waiting time, and a second so that the reader, which runs the same
// clocks, can report a mute card before we give it up.
func (w waitingTimes) t1Block(n, wtx int) time.Duration {
	fi, di := factors(w.fd)
	bwt := atr.BWT(w.t1.BWI, fi, di, w.model.clockHz)
	cwt := atr.CWT(w.t1.CWI, fi, di, w.model.clockHz)
	wait := time.Duration(max(wtx, 1))*bwt + 4*cwt + w.model.etu(w.fd, n*w.etuPerCharacter()) + time.Second
	return w.model.capped(max(wait, xfrWait)) + w.model.timing.T1Allowance
}

// apdu is the wait for a block of an APDU by T=t: the reader runs the card's protocol, and only it knows how many waiting
// times that takes, so it gets all there is.
func (d deadlines) apdu(t uint8) time.Duration {
	if t == 1 {
		return d.limits.Silence + d.timing.T1Allowance
	}
	return d.limits.Silence
}

// pin is the wait for PINs to be entered, each within a time-out in seconds, 0 for the reader's own, and for the card's
// answer. It is for people, so Silence does not bound it.
func (d deadlines) pin(timeOut uint8, entries int) time.Duration {
	const usual, card = 80 * time.Second, 10 * time.Second
	each := max(time.Duration(timeOut)*time.Second, usual)
	return time.Duration(entries)*each + card + d.limits.Allowance
}

// extended is the wait after a time extension whose multiplier is bError (CCID 1.1 §6.2.6); 0, which says nothing,
// counts as 1.
func (l Limits) extended(base time.Duration, multiplier uint8) time.Duration {
	return min(base*time.Duration(max(multiplier, 1)), max(base, l.Silence))
}
