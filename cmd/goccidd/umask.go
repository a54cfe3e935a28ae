//go:build unix

package main

import "syscall"

// umask sets the process's umask, which all goroutines have in common, and returns what puts the old one back.
func umask(mask int) (restore func()) {
	old := syscall.Umask(mask)
	return func() { syscall.Umask(old) }
}
