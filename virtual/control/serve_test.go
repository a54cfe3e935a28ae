package control

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// serve starts a server for a bench at a socket. ended gives what Serve returns.
func serve(t *testing.T, ctx context.Context, b *Bench) (path string, ended chan error) {
	t.Helper()
	path = socketPath(t)
	l, err := Listen(path)
	require.NoError(t, err)
	ended = make(chan error, 1)
	go func() { ended <- b.Serve(ctx, l) }()
	return path, ended
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// answer reads one answer.
func answer(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		b.WriteString(line)
		if !strings.HasPrefix(line, " ") {
			return b.String()
		}
	}
}

func TestClientsWorkTheSameReaders(t *testing.T) {
	b, _ := newBench(t, "reader=scr3310,card=none")
	path, ended := serve(t, t.Context(), b)
	first, second := dial(t, path), dial(t, path)
	firstAnswers, secondAnswers := bufio.NewReader(first), bufio.NewReader(second)
	_, err := io.WriteString(first, "insert t0\n\nremove 5\n")
	require.NoError(t, err)
	require.Equal(t, "ok slot 0 has t0\n", answer(t, firstAnswers))
	require.Equal(t, "ok\n", answer(t, firstAnswers), "to an empty line")
	require.Equal(t, "error virtual: the reader has no such slot: 5\n", answer(t, firstAnswers))
	_, err = io.WriteString(second, "list\nquit\n")
	require.NoError(t, err)
	require.Equal(t, " 0 scr3310, port 1-1, slot 0: t0\nok 1 reader\n", answer(t, secondAnswers))
	require.Equal(t, "ok bye\n", answer(t, secondAnswers))
	require.ErrorIs(t, <-ended, ErrQuit)
	_, err = firstAnswers.ReadString('\n')
	require.ErrorIs(t, err, io.EOF)
	require.NoFileExists(t, path)
}

func TestServeEndsWithItsContext(t *testing.T) {
	b, _ := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	path, ended := serve(t, ctx, b)
	conn := dial(t, path)
	_, err := io.WriteString(conn, "list\n")
	require.NoError(t, err)
	require.Equal(t, "ok 0 readers\n", answer(t, bufio.NewReader(conn)))
	cancel()
	require.NoError(t, <-ended)
	require.NoFileExists(t, path)
}

func TestALineWithoutEndEndsTheConversation(t *testing.T) {
	b, _ := newBench(t)
	path, ended := serve(t, t.Context(), b)
	conn := dial(t, path)
	_, _ = conn.Write(bytes.Repeat([]byte("x"), 2*MaxLine)) // the rest may not be taken any more
	_, _ = io.Copy(io.Discard, conn)                        // ends, or is reset since not all was read
	other := dial(t, path)
	_, err := io.WriteString(other, "quit\n")
	require.NoError(t, err)
	require.Equal(t, "ok bye\n", answer(t, bufio.NewReader(other)))
	require.ErrorIs(t, <-ended, ErrQuit)
}

func TestMoreClientsThanPlacesAreSentAway(t *testing.T) {
	b, _ := newBench(t)
	path, ended := serve(t, t.Context(), b)
	var last net.Conn
	for range maxConnections {
		last = dial(t, path)
		_, err := io.WriteString(last, "list\n")
		require.NoError(t, err)
		require.Equal(t, "ok 0 readers\n", answer(t, bufio.NewReader(last)))
	}
	_, err := dial(t, path).Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = io.WriteString(last, "quit\n")
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, ErrQuit)
}

func TestSocketIsItsOwnersOnly(t *testing.T) {
	path := socketPath(t)
	l, err := Listen(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	}
	entries, err := os.ReadDir(path[:strings.LastIndexAny(path, `/\`)])
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing else is left there")

	_, err = Listen(path)
	require.ErrorContains(t, err, "is in use by another program")
	require.NoError(t, l.Close())
	require.NoFileExists(t, path)
	require.NoError(t, l.Close())
}

func TestSocketTakesThePlaceOfALeftOneOnly(t *testing.T) {
	path := socketPath(t)
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	left.SetUnlinkOnClose(false)
	require.NoError(t, left.Close())
	l, err := Listen(path)
	require.NoError(t, err)
	require.NoError(t, l.Close())

	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = Listen(path)
	require.ErrorContains(t, err, "is no socket")
	_, err = Listen(path + "/missing/control")
	require.Error(t, err)
}
