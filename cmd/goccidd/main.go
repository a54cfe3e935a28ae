//go:build unix

// Command goccidd is a PC/SC daemon: programs that load libpcsclite.so.1 take it for pcscd. docs/goccidd.md has its manual.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/goccid/goccid/pcscd"
)

func main() {
	// Writing to a client or a reader of our log that has gone must fail, not kill.
	signal.Ignore(syscall.SIGPIPE)
	env := osEnvironment()
	if os.Getenv("GOMAXPROCS") == "" { // docs/goccidd.md, "Cost", has the figures
		env.crowd = pcscd.LimitProcessors()
	}
	os.Exit(run(context.Background(), env, os.Args[1:]))
}
