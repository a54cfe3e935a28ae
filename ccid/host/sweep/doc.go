// Package sweep has only tests: sessions with a reader, each repeated with every fault at every USB transfer, and what
// the host must do about it. They print a table of scenario by fault, in which a cell says how many of its runs passed:
//
//	go test -run TestSweep -v ./ccid/host/sweep | grep '^|'
package sweep
