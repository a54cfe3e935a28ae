package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

//go:embed packages
var packageList string

// missingError says that this machine lacks something which the lab can't get by itself.
type missingError struct {
	what string
	err  error
}

func (e *missingError) Error() string {
	if e.err == nil {
		return e.what
	}
	return e.what + ": " + e.err.Error()
}

func (e *missingError) Unwrap() error { return e.err }

// wanted is the content of the file packages.
type wanted struct {
	install, unpack, depends []string
}

func parsePackages(list string) (wanted, error) {
	var w wanted
	lines := bufio.NewScanner(strings.NewReader(list))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 {
			return wanted{}, fmt.Errorf("packages: %q isn't an action and a name", lines.Text())
		}
		switch fields[0] {
		case "install":
			w.install = append(w.install, fields[1])
		case "unpack":
			w.unpack = append(w.unpack, fields[1])
		case "depends":
			w.depends = append(w.depends, fields[1])
		default:
			return wanted{}, fmt.Errorf("packages: unknown action %q", fields[0])
		}
	}
	return w, lines.Err()
}

// providePackages installs what is missing, and returns the folder of the cache that holds the unpacked packages.
func providePackages(ctx context.Context) (tree string, err error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", &missingError{what: "the VM needs Linux on amd64, this is " + runtime.GOOS + " on " + runtime.GOARCH}
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", &missingError{what: "the VM is made of Debian packages, and there is no apt-get here"}
	}
	w, err := parsePackages(packageList)
	if err != nil {
		return "", err
	}
	if err := install(ctx, w.install); err != nil {
		return "", err
	}
	tree, err = unpackTree(ctx, w)
	if err != nil {
		return "", &missingError{what: "the guest's kernel can't be had", err: err}
	}
	return tree, nil
}

// install installs those of the packages that aren't.
func install(ctx context.Context, packages []string) error {
	missing := notInstalled(ctx, packages)
	if len(missing) == 0 {
		return nil
	}
	note("installing %s", strings.Join(missing, " "))
	err := asRoot(ctx, "apt-get", "update", "--quiet")
	if err == nil {
		err = asRoot(ctx, "apt-get", append([]string{
			"install", "--quiet", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120",
		}, missing...)...)
	}
	if err != nil {
		return &missingError{what: "can't install " + strings.Join(missing, " "), err: err}
	}
	return nil
}

// notInstalled returns those of the packages that dpkg doesn't list as installed. It knows nothing of some, and fails then.
func notInstalled(ctx context.Context, packages []string) []string {
	query := append([]string{"--show", "--showformat=${Package} ${db:Status-Status}\n"}, packages...)
	list, _ := exec.CommandContext(ctx, "dpkg-query", query...).Output()
	installed := strings.Split(string(list), "\n")
	return slices.DeleteFunc(slices.Clone(packages), func(name string) bool {
		return slices.Contains(installed, name+" installed")
	})
}

// asRoot runs a command as root, through sudo where need be.
func asRoot(ctx context.Context, name string, args ...string) error {
	args = append([]string{"DEBIAN_FRONTEND=noninteractive", name}, args...)
	name = "env"
	if os.Geteuid() != 0 {
		args = append([]string{"--non-interactive", name}, args...)
		name = "sudo"
	}
	_, err := output(ctx, "", name, args...)
	return err
}

// output runs a command in a folder and returns what it prints; its complaints become part of the error.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// unpackTree downloads and unpacks the packages that the guest has and this machine hasn't, unless the cache has them
// already, and returns the folder they are in. Its name is made of theirs, so a newer kernel gets another folder.
func unpackTree(ctx context.Context, w wanted) (string, error) {
	names, files, err := resolve(ctx, w)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "goccid-vm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tree := filepath.Join(cache, fmt.Sprintf("%x", sha256.Sum256([]byte(files)))[:12])
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}

	note("downloading %s into %s", strings.Join(names, " "), cache)
	unfinished, err := os.MkdirTemp(cache, "unfinished-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(unfinished)
	if err := download(ctx, unfinished, names); err != nil {
		return "", err
	}
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return "", err
	}
	// Whoever comes second with the same tree finds that the name is taken, by the same content.
	if err := os.Rename(unfinished, tree); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return tree, nil
}

// resolve returns the names of the packages to unpack, and the names of their files, which hold versions.
func resolve(ctx context.Context, w wanted) (names []string, files string, err error) {
	names, files, err = lookUp(ctx, w)
	if err == nil {
		return names, files, nil
	}
	// The package lists may be missing or outdated.
	if err := asRoot(ctx, "apt-get", "update", "--quiet"); err != nil {
		return nil, "", err
	}
	return lookUp(ctx, w)
}

func lookUp(ctx context.Context, w wanted) (names []string, files string, err error) {
	names = append(names, w.unpack...)
	for _, name := range w.depends {
		list, err := output(ctx, "", "apt-cache", "depends", "--important", name)
		if err != nil {
			return nil, "", err
		}
		_, dependency, found := strings.Cut(list, "Depends: ")
		if !found {
			return nil, "", fmt.Errorf("apt knows of nothing that %s depends on", name)
		}
		dependency, _, _ = strings.Cut(dependency, "\n")
		names = append(names, dependency)
	}
	uris, err := output(ctx, "", "apt-get", append([]string{"download", "--print-uris"}, names...)...)
	if err != nil {
		return nil, "", err
	}
	for line := range strings.Lines(uris) {
		if fields := strings.Fields(line); len(fields) >= 3 {
			files += fields[1] + "\n"
		}
	}
	return names, files, nil
}

// download fetches packages, whose hashes apt checks, and unpacks them into a folder.
func download(ctx context.Context, dir string, names []string) error {
	fetch := append([]string{"download", "--quiet", "-o", "APT::Sandbox::User=root"}, names...)
	if _, err := output(ctx, dir, "apt-get", fetch...); err != nil {
		if err := asRoot(ctx, "apt-get", "update", "--quiet"); err != nil {
			return err
		}
		if _, err := output(ctx, dir, "apt-get", fetch...); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, err := output(ctx, dir, "dpkg-deb", "--extract", file, dir); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	kernel, err := kernelVersion(dir)
	if err != nil {
		return err
	}
	if _, err := output(ctx, dir, "depmod", "--basedir", dir, kernel); err != nil {
		return err
	}
	return mergeUsr(ctx, dir)
}

// mergeUsr moves /bin, /sbin and /lib to below /usr: on the machine over whose files the tree is laid they are links
// to there, and folders of the same name would hide those.
func mergeUsr(ctx context.Context, dir string) error {
	for _, name := range []string{"bin", "sbin", "lib"} {
		from, to := filepath.Join(dir, name), filepath.Join(dir, "usr", name)
		if _, err := os.Stat(from); err != nil {
			continue
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if _, err := output(ctx, dir, "cp", "--archive", "--link", from+"/.", to); err != nil {
			return err
		}
		if err := os.RemoveAll(from); err != nil {
			return err
		}
	}
	return nil
}

// kernelVersion returns the version of the one kernel in a tree of unpacked packages.
func kernelVersion(tree string) (string, error) {
	images, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil {
		return "", err
	}
	if len(images) != 1 {
		return "", fmt.Errorf("%d kernels in %s, want one", len(images), tree)
	}
	return strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-"), nil
}
