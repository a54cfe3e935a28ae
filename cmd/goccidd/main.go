//go:build unix

// Command goccidd is a PC/SC daemon: programs that load libpcsclite.so.1 take it for pcscd. docs/goccidd.md has its manual.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() {
	// Writing to a client or a reader of our log that has gone must fail, not kill.
	signal.Ignore(syscall.SIGPIPE)
	// Requests take microseconds: to hand them from one processor to another costs more than it brings. docs/goccidd.md,
	// "Cost", has the figures.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	os.Exit(run(context.Background(), osEnvironment(), os.Args[1:]))
}
