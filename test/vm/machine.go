package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/goccid/goccid/test/vm/hotplug"
	"github.com/goccid/goccid/virtual/card"
)

// What bounds one step of the machine. The whole run is bounded by the flag -timeout.
const (
	bootDeadline    = 90 * time.Second // takes 5 s on an idle machine
	lifeDeadline    = time.Minute      // init.sh gives a sign of life each 5 s
	monitorDeadline = 10 * time.Second
)

// What becomes of a guest now and then under emulation, whatever it runs.
var (
	errNotBooted = fmt.Errorf("the guest hasn't come up within %s", bootDeadline)
	errFrozen    = fmt.Errorf("the guest froze: it has given no sign of life for %s", lifeDeadline)
)

// The lines by which init.sh tells how far it is.
const (
	bootedLine = "goccid-vm: booted"
	aliveLine  = "goccid-vm: alive"
	exitLine   = "goccid-vm: exit "
)

// boot runs a shell script in the guest, as root in the module's folder, and returns its exit status. What the guest
// prints goes to console. A guest that doesn't come up gets a second chance.
func (l *lab) boot(ctx context.Context, script string, console io.Writer) (int, error) {
	// Process 1 keeps the initramfs as its root, so udev's tools take the guest's root for a mere chroot.
	script = "cd " + quote(l.repository) +
		"\nexport GOCCID_VM=1 SYSTEMD_IGNORE_CHROOT=1 GOCCID_VM_SEED=" + quote(os.Getenv("GOCCID_VM_SEED")) + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(l.share, "script"), []byte(script), 0o644); err != nil {
		return 0, err
	}
	status, err := l.bootOnce(ctx, console)
	if errors.Is(err, errNotBooted) && ctx.Err() == nil {
		note("%v; trying once more", err)
		status, err = l.bootOnce(ctx, console)
	}
	return status, err
}

// bootOnce starts QEMU, serves what the guest asks for, and returns when QEMU has ended.
func (l *lab) bootOnce(ctx context.Context, console io.Writer) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	monitor, err := listen(filepath.Join(l.dir, "monitor"))
	if err != nil {
		return 0, err
	}
	defer monitor.Close()
	port, err := listen(filepath.Join(l.dir, "port"))
	if err != nil {
		return 0, err
	}
	defer port.Close()
	control, err := listen(l.controlSocket())
	if err != nil {
		return 0, err
	}
	defer control.Close()
	passthru, err := listen(filepath.Join(l.dir, "card-t1"))
	if err != nil {
		return 0, err
	}
	defer passthru.Close()

	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", l.qemuArgs()...)
	qemu.Env = append(os.Environ(), "LD_PRELOAD="+l.wake())
	qemu.Stderr = os.Stderr
	serial, err := qemu.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := qemu.Start(); err != nil {
		return 0, err
	}

	// The tests that need these fail by themselves.
	var served sync.WaitGroup
	serve := func(what string, f func() error) {
		served.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				note("%s: %v", what, err)
			}
		})
	}
	serve("hot plug", func() error { return l.serve(monitor, port, control) })
	serve("T=1", func() error { return servePassthru(ctx, passthru, card.NewT1()) })

	boot := time.AfterFunc(bootDeadline, func() { cancel(errNotBooted) })
	life := time.AfterFunc(bootDeadline+lifeDeadline, func() {
		cancel(fmt.Errorf("%w (QEMU's main thread: %s)", errFrozen, waitsIn(qemu.Process.Pid)))
	})
	defer life.Stop()
	status, followErr := follow(serial, console, func() { boot.Stop() }, func() { life.Reset(lifeDeadline) })
	waitErr := qemu.Wait()

	monitor.Close()
	port.Close()
	control.Close()
	passthru.Close()
	served.Wait()
	switch {
	case context.Cause(ctx) != nil:
		return 0, context.Cause(ctx)
	case waitErr != nil:
		return 0, fmt.Errorf("QEMU: %w", waitErr)
	case followErr != nil:
		return 0, followErr
	}
	return status, nil
}

// waitsIn returns the kernel's function in which a process' first thread waits. QEMU's waits in a poll while all is well.
func waitsIn(pid int) string {
	function, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	if err != nil {
		return "unknown"
	}
	return string(function)
}

// listen makes a socket to which QEMU connects: there is no moment at which it isn't there yet.
func listen(path string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

func (l *lab) qemuArgs() []string {
	return []string{
		"-M", "q35", "-cpu", "max", "-smp", "2", "-m", "2048", "-accel", "tcg,thread=multi",
		"-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
		"-kernel", filepath.Join(l.tree, "boot", "vmlinuz-"+l.kernel), "-initrd", l.initramfs(),
		"-append", "console=ttyS0 quiet panic=-1",

		"-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
		"-fsdev", "local,id=tree,path=" + l.tree + ",security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=tree,mount_tag=tree",
		"-fsdev", "local,id=share,path=" + l.share + ",security_model=none,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=share,mount_tag=share",

		"-chardev", "socket,id=monitor,path=" + filepath.Join(l.dir, "monitor"), "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=port,path=" + filepath.Join(l.dir, "port"),
		// From outside only usbipd can be reached, and nothing from inside.
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:3240", l.port),
		"-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=" + hotplug.PortName,

		"-chardev", "socket,id=card-t1,path=" + filepath.Join(l.dir, "card-t1"),
		"-device", "qemu-xhci,id=xhci",
		"-device", properties(readerDevice(1)), "-device", properties(l.cardDevice()),
	}
}

// property is one of a device's; their order matters to the command line, where the driver comes first.
type property struct{ name, value string }

// readerDevice is QEMU's CCID reader, in a port of the root hub.
func readerDevice(port int) []property {
	return []property{{"driver", "usb-ccid"}, {"id", "reader"}, {"bus", "xhci.0"}, {"port", strconv.Itoa(port)}}
}

// cardDevice is the emulated CAC card in that reader.
func (l *lab) cardDevice() []property {
	return []property{
		{"driver", "ccid-card-emulated"},
		{"id", "card"},
		{"bus", "reader.0"},
		{"backend", "certificates"},
		{"db", "sql:" + l.cardDir()},
		{"cert1", certificates[0]},
		{"cert2", certificates[1]},
		{"cert3", certificates[2]},
	}
}

// cardDeviceT1 is a card that speaks T=1, see servePassthru, in place of it.
func cardDeviceT1() []property {
	return []property{{"driver", "ccid-card-passthru"}, {"id", "card"}, {"bus", "reader.0"}, {"chardev", "card-t1"}}
}

// properties returns a device's properties in the form of a command line.
func properties(device []property) string {
	text := device[0].value
	for _, p := range device[1:] {
		text += "," + p.name + "=" + p.value
	}
	return text
}

// follow reads the guest's console: it calls booted when the guest is up and alive at each sign of life, copies what the
// script prints to out, and returns the script's exit status. What the guest prints before it is up is worth reading only
// if it doesn't come up.
func follow(serial io.Reader, out io.Writer, booted, alive func()) (status int, err error) {
	lines := bufio.NewScanner(serial)
	lines.Buffer(nil, 1<<20)

	var before []string
	up := false
	for lines.Scan() {
		text := strings.TrimRight(lines.Text(), "\r")
		switch {
		case text == bootedLine:
			up = true
			booted()
		case strings.HasSuffix(text, aliveLine):
			alive()
			if begun := strings.TrimSuffix(text, aliveLine); begun != "" {
				fmt.Fprintln(out, begun) // the sign came in the middle of a line
			}
		case !up:
			before = append(before, text)
		case strings.HasPrefix(text, exitLine):
			_, err := io.Copy(io.Discard, serial)
			if err != nil {
				return 0, err
			}
			return strconv.Atoi(strings.TrimPrefix(text, exitLine))
		default:
			fmt.Fprintln(out, text)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !up {
		return 0, fmt.Errorf("%w; its console says:\n%s", errNotBooted, strings.Join(before, "\n"))
	}
	return 0, errors.New("the guest ended before its script did")
}

// serve plugs and unplugs the reader as the guest asks for it, and tests outside of it over control, until QEMU or the
// listeners end.
func (l *lab) serve(monitor, port, control *net.UnixListener) error {
	monitorConn, err := monitor.Accept()
	if err != nil {
		return nil // QEMU ended before it connected, and says itself why
	}
	defer monitorConn.Close()
	portConn, err := port.Accept()
	if err != nil {
		return nil
	}
	defer portConn.Close()

	qmp, err := newQMP(monitorConn)
	if err != nil {
		return err
	}
	var turn sync.Mutex
	act := func(request hotplug.Request) error {
		turn.Lock()
		defer turn.Unlock()
		return l.act(qmp, request)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer control.Close()
	serving.Go(func() {
		for {
			conn, err := control.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_ = hotplug.Serve(conn, act) // the test that asks finds out
			})
		}
	})
	return hotplug.Serve(portConn, act)
}

// act carries out one request of the guest.
func (l *lab) act(monitor *qmp, request hotplug.Request) error {
	switch request.Action {
	case hotplug.Unplug:
		return monitor.deviceDel("reader")
	case hotplug.Plug:
		if err := monitor.deviceAdd(readerDevice(request.Port)); err != nil {
			return err
		}
		if request.T1 {
			return monitor.deviceAdd(cardDeviceT1())
		}
		return monitor.deviceAdd(l.cardDevice())
	case hotplug.Remove:
		return monitor.deviceDel("card")
	case hotplug.Insert:
		return monitor.deviceAdd(l.cardDevice())
	}
	return fmt.Errorf("unknown action %q", request.Action)
}

// qmp speaks QEMU's machine protocol over the monitor socket.
type qmp struct {
	conn    net.Conn
	replies *json.Decoder
}

// newQMP reads QEMU's greeting and leaves the mode in which only capabilities can be negotiated.
func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, replies: json.NewDecoder(conn)}
	if _, err := q.next(); err != nil {
		return nil, err
	}
	return q, q.execute("qmp_capabilities", nil, "")
}

func (q *qmp) deviceAdd(device []property) error {
	arguments := map[string]string{}
	for _, p := range device {
		arguments[p.name] = p.value
	}
	return q.execute("device_add", arguments, "")
}

func (q *qmp) deviceDel(id string) error {
	return q.execute("device_del", map[string]string{"id": id}, id)
}

// message is whatever QEMU sends: greeting, reply or event.
type message struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Device string `json:"device"`
	} `json:"data"`
}

func (q *qmp) next() (message, error) {
	var m message
	if err := q.conn.SetReadDeadline(time.Now().Add(monitorDeadline)); err != nil {
		return m, err
	}
	if err := q.replies.Decode(&m); err != nil {
		return m, fmt.Errorf("QEMU's monitor: %w", err)
	}
	return m, nil
}

// execute runs one command and waits for its reply, and for the event that the device deleted is gone, if one is named.
func (q *qmp) execute(command string, arguments map[string]string, deleted string) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(q.conn).Encode(request); err != nil {
		return fmt.Errorf("QEMU's monitor: %w", err)
	}

	replied, gone := false, deleted == ""
	for !replied || !gone {
		m, err := q.next()
		if err != nil {
			return err
		}
		if m.Error != nil {
			return fmt.Errorf("QEMU: %s: %s", command, m.Error.Desc)
		}
		replied = replied || m.Return != nil
		gone = gone || m.Event == "DEVICE_DELETED" && m.Data.Device == deleted
	}
	return nil
}
