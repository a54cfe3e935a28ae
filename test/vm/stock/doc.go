// Package stock holds the tests that take the VM's reader away from a daemon under a client of libpcsclite: from the stock one with
// libccid, for comparison, and from goccidd.
package stock
