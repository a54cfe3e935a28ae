package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/goccid/goccid/usbtransport/capture"
)

// openFile opens a file; one that it makes is for its user's eyes. To open a FIFO waits for somebody at its other end: that
// can't be broken off, so the goroutine that does it may outlive ctx. It ends with the program then.
func openFile(ctx context.Context, name string, flag int) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	opened := make(chan result, 1)
	go func() {
		file, err := os.OpenFile(name, flag, 0o600)
		opened <- result{file, err}
	}()
	select {
	case r := <-opened:
		return r.file, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readCapture reads a capture file. Its errors say what to do.
func readCapture(ctx context.Context, name string) (*capture.Capture, error) {
	file, err := openFile(ctx, name, os.O_RDONLY)
	if err != nil {
		return nil, captureProblem(ctx, name, err)
	}
	// To close it is what ends a read from a FIFO.
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer func() {
		if stop() {
			_ = file.Close() // only read
		}
	}()
	c, err := capture.Read(file)
	if err != nil {
		return nil, captureProblem(ctx, name, err)
	}
	return c, nil
}

func captureProblem(ctx context.Context, name string, err error) error {
	var path *fs.PathError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &path):
		return usage("", "%w", err)
	case errors.Is(err, capture.ErrLinkType):
		return usage("Captures of USB are wanted: usbmon (link types 189, 220) or USBPcap (249).", "%s: %w", visible(name), err)
	case errors.Is(err, capture.ErrTooLarge):
		return usage("Cut the part out of it that matters: Wireshark and editcap do that.", "%s: %w", visible(name), err)
	}
	return usage("A pcapng or pcap file is wanted, as ccid-probe record, Wireshark or tcpdump writes.", "%s: %w", visible(name), err)
}

// create makes a file for one user's eyes. A file that exists is not touched, unless force says so; what is in it stays until
// empty is called.
func create(ctx context.Context, name string, force bool) (file *os.File, made bool, err error) {
	file, err = openFile(ctx, name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	made = err == nil
	if force && errors.Is(err, fs.ErrExist) {
		file, err = openFile(ctx, name, os.O_WRONLY|os.O_CREATE)
	}
	switch {
	case err == nil:
		return file, made, nil
	case ctx.Err() != nil:
		return nil, false, ctx.Err()
	case errors.Is(err, fs.ErrExist):
		return nil, false, usage("Another name, or --force to write over it.", "%s exists", visible(name))
	}
	return nil, false, usage("", "%w", err)
}

// empty takes out what is in a file. Pipes and devices have nothing.
func empty(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	return file.Truncate(0)
}

// flush has a file written to the disk, if it is on one: pipes and devices refuse.
func flush(file *os.File) error {
	if err := file.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// keepSource refuses to write over the file that is read: it would be lost.
func keepSource(source, name string) error {
	from, err := os.Stat(source)
	if err != nil {
		return nil // reading it will tell
	}
	to, err := os.Stat(name)
	if err == nil && os.SameFile(from, to) {
		return usage("Another name for --output.", "%s is the file that is read, which would be lost", visible(name))
	}
	return nil
}
