//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidFile is the file that says that we run. It is locked as long as we do, so one that a dead daemon left behind is known for
// what it is, even when its number is now somebody else's.
type pidFile struct {
	file *os.File
	path string
}

// runningError says that a daemon runs already.
type runningError struct {
	pid    int // 0 when it is not known
	socket string
}

// Error says who serves, and what to do.
func (e *runningError) Error() string {
	who := "another daemon"
	if e.pid > 0 {
		who = fmt.Sprintf("another daemon (PID %d)", e.pid)
	}
	return fmt.Sprintf("%s serves %s already: stop it, or choose another --socket", who, e.socket)
}

// createPIDFile makes and locks the pid file. It is a *runningError if a goccidd has it.
func createPIDFile(path, socket string) (*pidFile, error) {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for {
		p, err := lockPIDFile(path, socket)
		if err != nil {
			return nil, err
		}
		// A daemon that ended meanwhile has deleted the file that we opened.
		if p.stillThere() {
			return p, p.write()
		}
		p.file.Close()
	}
}

func lockPIDFile(path, socket string) (*pidFile, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		file.Close()
		pid, _ := readPID(path)
		return nil, &runningError{pid: pid, socket: socket}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("pid file %s: lock: %w", path, err)
	}
	return &pidFile{file: file, path: path}, nil
}

func (p *pidFile) stillThere() bool {
	ours, err := p.file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(p.path)
	return err == nil && os.SameFile(ours, now)
}

func (p *pidFile) write() error {
	err := errors.Join(p.file.Chmod(0o644), p.file.Truncate(0))
	if err == nil {
		_, err = p.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("pid file: %w", err), p.remove())
	}
	return nil
}

// remove deletes the file, then gives the lock back.
func (p *pidFile) remove() error {
	return errors.Join(os.Remove(p.path), p.file.Close())
}

// readPID reads a pid file; pcscd's have a NUL at their end.
func readPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(bytes.TrimRight(data, "\x00")))
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s: %q is no process number", path, text)
	}
	return pid, nil
}

// pidFileInUse tells whether the daemon lives that wrote a pid file. If not, the number in it may be another process's by now.
func pidFileInUse(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// rescanRunning has the running daemon look for readers anew.
func rescanRunning(path string) error {
	running, err := pidFileInUse(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no daemon runs: there is no %s", path)
	}
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("no goccidd runs: %s is what is left of one", path)
	}
	pid, err := readPID(path)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		return fmt.Errorf("signal the daemon with PID %d of %s: %w", pid, path, err)
	}
	return nil
}

// socketTimeout bounds the question whether somebody serves a socket.
const socketTimeout = 2 * time.Second

// clearSocket removes the socket of a daemon that is dead. It is a *runningError if somebody serves it.
func clearSocket(path string, pid func() int) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and no socket: it is left alone, so choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, socketTimeout)
	if err == nil {
		conn.Close()
		return &runningError{pid: pid(), socket: path}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("is %s served? %w", path, err)
	}
	return os.Remove(path)
}

// makeFolder makes the folder of a socket, which has to be open to all.
func makeFolder(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o755) // whatever the umask says
}
