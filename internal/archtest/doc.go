// Package archtest holds the test that keeps the arrows of the design true: which package may import which, and which
// packages stay free of I/O, clocks, goroutines, cgo and unsafe. It has no code of its own.
package archtest
