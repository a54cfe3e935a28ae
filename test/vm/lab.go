package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript string

//go:embed qemu/wake.c
var wakeSource string

// guestModules are the kernel modules that the guest loads before anything else; others can be had with modprobe.
var guestModules = []string{
	"virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "xhci_pci", "ehci_pci", "uhci_hcd", "usbmon",
}

// lab is what one run of the virtual machine is made of. Its folder is its own, so that several can run at once.
type lab struct {
	repository string // the module's root
	dir        string // this run's folder
	share      string // below dir, the guest's /run/vm
	port       int    // of this machine's loopback interface, leads to the guest's usbipd
	tree       string // unpacked packages: the kernel, its modules, what is laid over this machine's files
	kernel     string // the kernel's version
}

// prepare provides everything that the machine needs to boot.
func prepare(ctx context.Context) (*lab, error) {
	// depmod and modprobe aren't on an ordinary user's path.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return nil, err
	}
	repository, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	tree, err := providePackages(ctx)
	if err != nil {
		return nil, err
	}
	kernel, err := kernelVersion(tree)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "goccid-vm-")
	if err != nil {
		return nil, err
	}
	l := &lab{repository: repository, dir: dir, share: filepath.Join(dir, "share"), tree: tree, kernel: kernel}
	if err := l.fill(ctx); err != nil {
		return nil, fmt.Errorf("%w (see %s)", err, dir)
	}
	return l, nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("not inside the module's folder")
		}
	}
}

// fill makes the files of the run's folder.
func (l *lab) fill(ctx context.Context) error {
	if err := os.MkdirAll(l.share, 0o755); err != nil {
		return err
	}
	if err := l.makeInitramfs(ctx); err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	if err := makeCard(ctx, l.cardDir()); err != nil {
		return fmt.Errorf("make the card's certificates: %w", err)
	}
	if err := l.makeWake(ctx); err != nil {
		return fmt.Errorf("compile what QEMU loads: %w", err)
	}
	var err error
	l.port, err = freePort()
	return err
}

// wake is the library of wake.c.
func (l *lab) wake() string { return filepath.Join(l.dir, "wake.so") }

func (l *lab) makeWake(ctx context.Context) error {
	source := filepath.Join(l.dir, "wake.c")
	if err := os.WriteFile(source, []byte(wakeSource), 0o644); err != nil {
		return err
	}
	_, err := output(ctx, "", "gcc", "-O2", "-shared", "-fPIC", "-o", l.wake(), source)
	return err
}

// freePort returns a TCP port that nobody listens on. Somebody else may take it before QEMU does; that ends the run.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

// controlSocket is where tests outside of the guest have readers plugged and unplugged.
func (l *lab) controlSocket() string { return filepath.Join(l.dir, "control") }

func (l *lab) initramfs() string { return filepath.Join(l.dir, "initramfs") }

func (l *lab) cardDir() string { return filepath.Join(l.dir, "card") }

// makeInitramfs packs busybox, init.sh and the modules, with those that they depend on.
func (l *lab) makeInitramfs(ctx context.Context) error {
	root := filepath.Join(l.dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "modules"), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		return err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), busybox, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(initScript), 0o755); err != nil {
		return err
	}
	order, err := l.copyModules(ctx, filepath.Join(root, "modules"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "modules", "order"), []byte(strings.Join(order, "\n")), 0o644); err != nil {
		return err
	}
	_, err = output(ctx, root, "sh", "-c", "find . | cpio --quiet --create --format=newc >"+l.initramfs())
	return err
}

// copyModules copies guestModules and what they depend on into a folder, and returns their names in the order in
// which they must be loaded.
func (l *lab) copyModules(ctx context.Context, to string) ([]string, error) {
	list, err := output(ctx, "", "modprobe", append([]string{
		"--dirname", filepath.Join(l.tree, "usr"), "--set-version", l.kernel, "--all", "--show-depends",
	}, guestModules...)...)
	if err != nil {
		return nil, err
	}
	var order []string
	seen := map[string]bool{}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "insmod" || seen[fields[1]] {
			continue // "builtin NAME", or wanted by several
		}
		seen[fields[1]] = true
		module, err := readModule(ctx, fields[1])
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(fields[1]), ".xz")
		if err := os.WriteFile(filepath.Join(to, name), module, 0o644); err != nil {
			return nil, err
		}
		order = append(order, name)
	}
	return order, nil
}

// readModule returns a module's content, which newer kernel packages compress.
func readModule(ctx context.Context, file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".xz") {
		return os.ReadFile(file)
	}
	content, err := output(ctx, "", "xz", "--decompress", "--stdout", file)
	return []byte(content), err
}

// certificates are the names of the card's three certificates, in the order in which QEMU takes them.
var certificates = [3]string{"id-cert", "signing-cert", "encryption-cert"}

// makeCard makes an NSS database with self-signed certificates for the emulated card. Names, serial numbers, key size
// and validity are fixed; keys are new each time.
func makeCard(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	db := "sql:" + dir
	if _, err := output(ctx, "", "certutil", "-N", "-d", db, "--empty-password"); err != nil {
		return err
	}
	noise := filepath.Join(dir, "noise")
	for i, name := range certificates {
		// certutil wants a file to stir its random numbers with; it would ask for keystrokes otherwise.
		if err := os.WriteFile(noise, []byte(strings.Repeat(name, 64)), 0o600); err != nil {
			return err
		}
		if _, err := output(ctx, "", "certutil", "-S", "-d", db, "-n", name, "-s", "CN="+name+", O=goccid test",
			"-x", "-t", "CT,CT,CT", "-k", "rsa", "-g", "2048", "-Z", "SHA256", "-m", fmt.Sprint(i+1), "-v", "120",
			"-z", noise); err != nil {
			return err
		}
	}
	return nil
}
