package usbfs

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/goccid/goccid/usbtransport"
)

// Bounds of the search for who has a node open.
const (
	maxProcesses             = 1 << 16
	maxDescriptorsPerProcess = 1 << 14
	maxHolders               = 8
)

// processes finds the processes that have the node at path open, but for the descriptor own of this process. It sees what this user may see:
// all processes as root, else one's own.
func processes(ctx context.Context, procRoot, path string, own int) []usbtransport.Holder {
	var holders []usbtransport.Holder
	for _, name := range readNames(procRoot, maxProcesses) {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if ctx.Err() != nil || len(holders) == maxHolders {
			break
		}
		if hasOpen(procRoot, pid, path, own) {
			holders = append(holders, usbtransport.Holder{Driver: usbfsDriver, PID: pid, Process: text(filepath.Join(procRoot, name), "comm")})
		}
	}
	return holders
}

func hasOpen(procRoot string, pid int, path string, own int) bool {
	dir := filepath.Join(procRoot, strconv.Itoa(pid), "fd")
	for _, descriptor := range readNames(dir, maxDescriptorsPerProcess) {
		if pid == os.Getpid() && descriptor == strconv.Itoa(own) {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, descriptor))
		if err == nil && strings.TrimSuffix(target, " (deleted)") == path {
			return true
		}
	}
	return false
}

// readNames lists a folder, up to limit entries; nothing where it can't be read.
func readNames(dir string, limit int) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(limit)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return names
}
