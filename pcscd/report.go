package pcscd

import (
	"fmt"
	"slices"
	"time"
)

// Report is what a Manager knows, for people and monitoring. It has no numbers of handles or contexts, by which
// somebody could use them.
type Report struct {
	ReaderEvents uint32         `json:"reader_events"`
	Sessions     int            `json:"sessions"`
	Handles      int            `json:"handles"`
	Readers      []ReaderReport `json:"readers"`
}

// ReaderReport is about one reader.
type ReaderReport struct {
	Name         string   `json:"name"`
	Lun          string   `json:"lun"`
	State        string   `json:"state"`    // as wire.State says it; "starting" before the first status
	ATR          string   `json:"atr"`      // in upper-case hexadecimal
	Protocol     string   `json:"protocol"` // as wire.Protocol says it
	Powered      bool     `json:"powered"`  // false for a card whose power was taken because nobody used it
	Busy         bool     `json:"busy"`     // the driver works for somebody
	Sharing      int32    `json:"sharing"`  // -1: exclusive
	EventCounter uint32   `json:"event_counter"`
	Counters     Counters `json:"counters"`

	Handles []HandleReport `json:"handles"`
	// Lock is who has a transaction, or the reader for itself alone; nil when nobody.
	Lock *LockReport `json:"lock"`
	// Queue are those who wait for the lock, first come first.
	Queue     []WaiterReport `json:"queue"`
	LastError *ErrorReport   `json:"last_error"`
}

// Counters count what happened on a reader since it was added.
type Counters struct {
	Insertions    uint64 `json:"insertions"`
	Removals      uint64 `json:"removals"`
	Connects      uint64 `json:"connects"`
	Transactions  uint64 `json:"transactions"`
	Transmits     uint64 `json:"transmits"`
	Controls      uint64 `json:"controls"`
	Resets        uint64 `json:"resets"`
	PowerUps      uint64 `json:"power_ups"`
	AutoPowerOffs uint64 `json:"auto_power_offs"`
	DriverErrors  uint64 `json:"driver_errors"`
}

// HandleReport is about a handle on a reader.
type HandleReport struct {
	Client Client    `json:"client"`
	Mode   string    `json:"mode"` // exclusive, shared, direct
	Since  time.Time `json:"since"`
	// Pending is what the client has not been told yet: "", "reset" or "removed".
	Pending string `json:"pending,omitempty"`
}

// LockReport is about the lock of a reader.
type LockReport struct {
	Client    Client    `json:"client"`
	Since     time.Time `json:"since"`
	Depth     int       `json:"depth"` // levels of the transaction
	Exclusive bool      `json:"exclusive"`
}

// WaiterReport is about somebody who waits for the lock of a reader.
type WaiterReport struct {
	Client Client    `json:"client"`
	For    string    `json:"for"` // transaction, connect, disconnect
	Since  time.Time `json:"since"`
}

// ErrorReport is an error of a reader's driver.
type ErrorReport struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Report tells what is going on. It never waits for a driver.
func (m *Manager) Report() Report {
	m.mu.Lock()
	report := Report{ReaderEvents: m.events, Sessions: m.sessions, Handles: len(m.handles), Readers: []ReaderReport{}}
	readers := slices.Clone(m.readers)
	m.mu.Unlock()
	for _, r := range readers {
		report.Readers = append(report.Readers, r.report())
	}
	return report
}

func (r *reader) report() ReaderReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.public
	report := ReaderReport{
		Name: r.name, Lun: r.lun.String(), State: p.State.String(), ATR: fmt.Sprintf("%X", p.ATR),
		Protocol: p.Protocol.String(), Powered: r.powered, Busy: r.turn.taken, Sharing: p.Sharing,
		EventCounter: p.EventCounter, Counters: r.counters, Lock: r.reportLock(),
		Handles: []HandleReport{}, Queue: []WaiterReport{},
	}
	if !p.Known {
		report.State = "starting"
	}
	for _, h := range r.handles {
		report.Handles = append(report.Handles, HandleReport{h.session.client, h.mode.String(), h.since, h.event.String()})
	}
	for _, w := range r.lock.queue {
		report.Queue = append(report.Queue, WaiterReport{w.h.session.client, string(w.what), w.since})
	}
	if r.lastError != nil {
		last := *r.lastError
		report.LastError = &last
	}
	return report
}

func (r *reader) reportLock() *LockReport {
	switch {
	case r.lock.owner != nil:
		return &LockReport{r.lock.owner.session.client, r.lock.since, r.lock.depth, r.exclusive != nil}
	case r.exclusive != nil:
		return &LockReport{r.exclusive.session.client, r.exclusiveSince, 0, true}
	}
	return nil
}
