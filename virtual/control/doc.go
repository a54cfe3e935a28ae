// Package control is the language in which virtual readers are worked while they run: cards come and go, readers are
// unplugged, transfers fail, keys are pressed on PIN pads. ccid-probe virtual takes it from standard input and from a socket.
//
// A request is a line, an answer one or more lines, of which the last begins with "ok" or "error" and those before it with a space:
//
//	insert 0 t1
//	ok slot 0 has t1
//	@scr3310 unplug
//	ok unplugged
//	press 12x
//	error press: keys are 0 to 9, # to confirm, c to cancel, < to take back
//
// Parse is the language, a Bench the readers, and a Server takes requests from connections.
//
// Keys that are pressed may be a PIN: they stand in no error and in no log, and print as "hidden".
//
// Who owns what. A Bench has no goroutines; it may be used by several at once. A Server has one for each connection, and ends them
// with Serve.
package control
