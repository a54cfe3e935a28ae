//go:build !unix

// Command goccidd is a PC/SC daemon for UNIX systems.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "goccidd: this system has a PC/SC service of its own; goccidd serves programs on UNIX systems")
	os.Exit(1)
}
