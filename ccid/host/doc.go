// Package host is the host side of CCID 1.1: it finds the readers on a USB transport, opens them, powers cards and
// exchanges APDUs with them. It knows nothing of PC/SC.
//
// # The way down
//
//	Reader, Slot          what a caller sees: status, power, protocol, Transmit
//	transmitter           the exchange level and protocol, chosen once in SetProtocol (transmit*.go)
//	Reader.exchange       one command message, one answer: deadlines, time extensions, recovery (exchange.go)
//	dispatcher            bSeq, and which message is whose, with several slots at work (dispatch.go)
//	carrier               how messages travel: bulk endpoints (carrier_bulk.go), or the control requests of ICCD (carrier_iccd*.go)
//	gate                  one per device: once removed, nothing reaches USB any more (device.go)
//	usbtransport          the backend
//
// # Who owns what
//
// Reader.bus has as many places as the reader works on slots at once (bMaxCCIDBusySlots); whoever holds one may have one
// exchange under way, and holds all for a USB reset. The dispatcher's fields are guarded by its mutex. A Slot's
// card session (ATR, protocol, engine) belongs to whoever holds Slot.ops, for one operation at a time. Slot.mu guards
// the little that both sides and the watcher share, and is never held over I/O. The order is Slot.ops, Reader.bus,
// Slot.mu.
//
// Of those who wait for an answer one reads, so that a Reader needs no goroutine for that. A Reader with an interrupt
// endpoint has one, which reads that; a Monitor has one for the backend's watcher, one that looks whether the machine has
// slept, and one for each device that it opens or, for a moment, checks. Close ends them and waits for them.
//
// # Removal
//
// A device's removal is a state. It is set once, by whoever learns of it first: Device.SetRemoved, or any transfer that
// ends in usbtransport.ErrRemoved. From then on every waiting and every later call on every reader of that device
// returns an error that is usbtransport.ErrRemoved, without touching USB, and each reader logs one line, "reader
// removed", at level info. Nothing else in this package logs above level debug.
package host
