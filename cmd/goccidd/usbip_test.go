//go:build unix

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/goccid/goccid/usbtransport"
	"github.com/goccid/goccid/usbtransport/usbip"
	"github.com/goccid/goccid/virtual"
)

// hostile is a USB/IP server that has each connection answered by converse, and then holds it until the test ends.
func hostile(t *testing.T, converse func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			go func() {
				defer stop()
				defer conn.Close()
				converse(conn)
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		<-ended
	})
	return listener.Addr().String()
}

// silent answers nothing.
func silent(net.Conn) {}

// lists answers with a list of readers, and no question for one of them.
func lists(readers int) func(net.Conn) {
	return func(conn net.Conn) {
		header := make([]byte, 8)
		if _, err := io.ReadFull(conn, header); err != nil || binary.BigEndian.Uint16(header[2:]) != 0x8005 {
			return
		}
		answer := binary.BigEndian.AppendUint32([]byte{0x01, 0x11, 0x00, 0x05, 0, 0, 0, 0}, uint32(readers))
		for i := range readers {
			device := make([]byte, 312+4)
			copy(device, "/sys/devices/1-1")
			copy(device[256:], fmt.Sprintf("1-%d", i+1))
			binary.BigEndian.PutUint32(device[288:], 1)
			binary.BigEndian.PutUint32(device[292:], uint32(i+2))
			binary.BigEndian.PutUint32(device[296:], 2) // full speed
			device[311] = 1                             // interfaces
			device[312] = 0x0B
			answer = append(answer, device...)
		}
		_, _ = conn.Write(answer)
	}
}

// TestAHostileUSBIPServerKeepsNobodyFromLocalReaders has servers that take the time of who asks them. A client of a local reader
// notices nothing of that, nor does who ends the daemon: at the start, while it serves, or while it looks for readers.
func TestAHostileUSBIPServerKeepsNobodyFromLocalReaders(t *testing.T) {
	const soon, ending = 2 * time.Second, 3 * time.Second
	for name, converse := range map[string][]func(net.Conn){
		"silent":                    {silent},
		"two of them":               {silent, silent},
		"lists and gives nothing":   {lists(20)},
		"as many as can be":         {lists(256), silent},
		"a daemon without its like": {},
	} {
		for _, when := range []string{"at the start", "while it serves", "while it looks for readers"} {
			t.Run(name+", ended "+when, func(t *testing.T) {
				t.Parallel()
				h := newHome(t)
				args := []string{"--foreground", "--socket", h.socket(), "--usb", "none", "--disable-polkit", "--virtual", oneCard}
				for _, c := range converse {
					args = append(args, "--usbip", hostile(t, c))
				}
				start := time.Now()
				p := launch(t, h.command(args...))
				if when == "at the start" {
					eventually(t, "it is at work", func() bool { return !gone(h.path("pcscd.pid")) })
				} else {
					require.Equal(t, "READY=1", h.told(t))
					require.Len(t, names(t, h.client(t)), 1)
					assert.Less(t, time.Since(start), soon, "the time until a client has its reader")
				}
				if when == "while it looks for readers" {
					p.signal(t, syscall.SIGUSR1)
					time.Sleep(100 * time.Millisecond) // it looks by now
				}
				start = time.Now()
				p.stop(t)
				assert.Less(t, time.Since(start), ending, "the time from SIGTERM to the end")
				assert.True(t, gone(h.socket()))
			})
		}
	}
}

// TestTheEndIsNotPutOffByACardThatStarts has a virtual reader whose card is another program, which does not answer.
func TestTheEndIsNotPutOffByACardThatStarts(t *testing.T) {
	h := newHome(t)
	p := launch(t, h.command(
		"--foreground", "--socket", h.socket(), "--usb", "none", "--disable-polkit", "--virtual", "card=vpcd:"+hostile(t, silent),
	))
	eventually(t, "it is at work", func() bool { return !gone(h.path("pcscd.pid")) })
	time.Sleep(100 * time.Millisecond) // it waits by now
	start := time.Now()
	p.stop(t)
	assert.Less(t, time.Since(start), 3*time.Second)
	assert.NotContains(t, p.stderr.String(), "serving")
	assert.True(t, gone(h.path("pcscd.pid")))
}

// exported is a USB/IP server with a virtual reader.
func exported(t *testing.T) (address string) {
	t.Helper()
	bus := virtual.NewBus()
	reader, err := virtual.NewReader(virtual.Config{})
	require.NoError(t, err)
	_, err = bus.Plug(reader)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- (&usbip.Server{Backend: bus}).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-served)
		assert.NoError(t, bus.Close())
		assert.NoError(t, reader.Close())
	})
	return listener.Addr().String()
}

// hold is another client that has the reader of a server.
func hold(t *testing.T, address string) usbtransport.Interface {
	t.Helper()
	other := usbip.New(usbip.Options{Address: address})
	devices, err := other.Devices(t.Context())
	require.NoError(t, err)
	require.Len(t, devices, 1)
	i, err := other.Open(t.Context(), devices[0], 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = i.Close() })
	return i
}

// status is what goccidd status prints.
func (h *home) status(t *testing.T) string {
	t.Helper()
	code, stdout, stderr := call(t, nil, "status", "--socket", h.socket())
	require.Zero(t, code, stderr)
	return stdout
}

func TestReadersOfAUSBIPServerAreThereForTheFirstClient(t *testing.T) {
	h := newHome(t)
	d := h.start(t, "--usbip", exported(t))
	require.Len(t, names(t, h.client(t)), 1)
	d.stop(t)
}

func TestAReaderThatAnotherUSBIPClientHasIsTakenWhenItIsFree(t *testing.T) {
	h := newHome(t)
	address := exported(t)
	other := hold(t, address)
	d := h.start(t, "--usbip", address)
	c := h.client(t)
	d.stderr.waitFor(t, "another USB/IP client has the device")
	require.Empty(t, names(t, c))
	require.Contains(t, h.status(t), "another USB/IP client has the device")
	require.NoError(t, other.Close())
	d.signal(t, syscall.SIGUSR1)
	eventually(t, "the reader is there", func() bool { return len(names(t, c)) == 1 })
	require.NotContains(t, h.status(t), "another USB/IP client has the device")
	d.stop(t)
}
