package pcscd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hungUp tells whether the other end of a socket is closed in both directions.
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR are always asked for
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// readNow reads what is there to read from a socket, without waiting. It reports false if there may be something later; at the end
// of what is to come, n is 0.
func readNow(fd uintptr, b []byte) (n int, over bool) {
	n, err := unix.Read(int(fd), b)
	return max(n, 0), err != unix.EAGAIN
}

// awaitInput waits until there is something to read from a socket, also its end. It takes this thread.
func awaitInput(fd uintptr, limit time.Duration) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, _ = unix.Poll(fds, int(limit.Milliseconds())) // an error is no input
}

// giveWay lets other goroutines have the processor, and other processes.
func giveWay() {
	runtime.Gosched()
	_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // never fails
}

// writeNow writes a message without waiting for room in the socket.
func writeNow(conn *net.UnixConn, message []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		n, sendErr = unix.SendmsgN(int(fd), message, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	switch {
	case err != nil:
		return err
	case sendErr != nil:
		return sendErr
	case n < len(message):
		return syscall.EAGAIN
	}
	return nil
}

// peer tells who is at the other end of a connection: as it was when it connected.
func peer(conn *net.UnixConn) (Client, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Client{}, err
	}
	var ucred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { ucred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil {
		return Client{}, err
	}
	if credErr != nil {
		return Client{}, fmt.Errorf("SO_PEERCRED: %w", credErr)
	}
	c := Client{PID: ucred.Pid, UID: ucred.Uid, GID: ucred.Gid, Executable: executable(ucred.Pid), started: startTime(ucred.Pid)}
	c.ended = ended(raw)
	return c, nil
}

// ended tells whether the process at the other end of a socket has ended, where the kernel gives a descriptor of it (Linux
// 6.5). What was read about it before by its number is about another process then, perhaps.
func ended(raw syscall.RawConn) bool {
	process, sockErr := -1, error(nil)
	err := raw.Control(func(fd uintptr) { process, sockErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
	switch {
	case err != nil || errors.Is(sockErr, unix.ENOPROTOOPT):
		return false
	case sockErr != nil: // also how older kernels say that it has ended
		return true
	}
	defer unix.Close(process)
	fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// startTime returns when a process was started, in clock ticks since boot, or 0 when that cannot be told.
func startTime(pid int32) uint64 {
	// Not os.ReadFile, whose ten system calls a client would wait for.
	file, err := unix.Open(procDir(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(file)
	stat := make([]byte, 512) // the field is in the first 300
	n, err := unix.Read(file, stat)
	if err != nil {
		return 0
	}
	return parseStartTime(stat[:n])
}

// parseStartTime finds the 22nd field of /proc/PID/stat. The second, a name in parentheses, may hold anything.
func parseStartTime(stat []byte) uint64 {
	const field, afterName = 22, 3
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= field-afterName {
		return 0
	}
	n, err := strconv.ParseUint(fields[field-afterName], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func procDir(pid int32) string { return "/proc/" + strconv.Itoa(int(pid)) }

// supplementaryGroups returns the groups of a client's process, none when it is not there any more, or another one's.
func supplementaryGroups(c Client) []uint32 {
	status, err := os.ReadFile(procDir(c.PID) + "/status")
	if err != nil {
		return nil
	}
	uids := statusNumbers(status, "Uid:") // real, effective, saved, file system
	if len(uids) < 2 || uids[1] != c.UID {
		return nil
	}
	return statusNumbers(status, "Groups:")
}

// statusNumbers returns the numbers in a line of /proc/PID/status.
func statusNumbers(status []byte, label string) []uint32 {
	for line := range strings.Lines(string(status)) {
		rest, ok := strings.CutPrefix(line, label)
		if !ok {
			continue
		}
		var numbers []uint32
		for _, f := range strings.Fields(rest) {
			n, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return nil
			}
			numbers = append(numbers, uint32(n))
		}
		return numbers
	}
	return nil
}

// executable returns the program's path; its short name, which everybody may read, where the path is not to be had; or
// "" for a process that is not visible here.
func executable(pid int32) string {
	if pid <= 0 {
		return ""
	}
	dir := procDir(pid)
	if path, err := os.Readlink(dir + "/exe"); err == nil {
		return path
	}
	name, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}
