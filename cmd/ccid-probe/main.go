// Command ccid-probe lists, explains and tries out CCID smart card readers, real and virtual, with no daemon in between.
// docs/ccid-probe.md has its manual.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// A reader of our output that has gone, as in "ccid-probe list | head -1", must not kill us half-way: the card would stay
	// powered. The write fails instead, and the run ends in order.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first Ctrl-C cancels; after it the signal has its usual effect again, for a run that does not end.
	context.AfterFunc(ctx, stop)
	os.Exit(int(run(ctx, osEnvironment(), os.Args[1:])))
}
