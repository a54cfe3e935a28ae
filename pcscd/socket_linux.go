package pcscd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp tells whether the other end of a socket is closed in both directions.
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR are always asked for
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
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
	return Client{PID: ucred.Pid, UID: ucred.Uid, GID: ucred.Gid, Executable: executable(ucred.Pid)}, nil
}

// executable returns the program's path; its short name, which everybody may read, where the path is not to be had; or
// "" for a process that is not visible here.
func executable(pid int32) string {
	if pid <= 0 {
		return ""
	}
	dir := "/proc/" + strconv.Itoa(int(pid))
	if path, err := os.Readlink(dir + "/exe"); err == nil {
		return path
	}
	name, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}
