package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/goccid/goccid"

// anything lets a package import every other one of the module.
const anything = "*"

// rule is what a package, or each package below a folder, may use.
type rule struct {
	// path is a package's path in the module; with "/..." at its end, each package in or below that folder.
	path string
	// imports are the packages of this module that it may import, in the same notation, or anything. A package may
	// always import what lies below its own folder's internal/.
	imports []string
	// pure packages are bytes in, values and decisions out: see impure.
	pure bool
	// unsafe and cgo allow these two.
	unsafe, cgo bool
}

// rules has one entry for each package, the most special first. Imports point to entries of the design's picture that
// stand to the left of the package; a package without an entry fails the test, so that its place gets decided.
var rules = []rule{
	{path: "atr", pure: true},
	{path: "apdu", pure: true},
	{path: "t0", imports: []string{"apdu"}, pure: true},
	{path: "t1", pure: true},
	{path: "ccid", pure: true},
	{path: "pcscd/wire", pure: true},

	{path: "usbtransport"},
	{path: "usbtransport/transporttest/...", imports: []string{"usbtransport"}},
	{path: "usbtransport/usbfs/...", imports: []string{"usbtransport"}, unsafe: true},
	// On Linux libusb's backend lists, watches and names holders as usbfs does; transfers are its own.
	{path: "usbtransport/libusb/...", imports: []string{"usbtransport", "usbtransport/usbfs"}, cgo: true, unsafe: true},
	{path: "usbtransport/usbip/...", imports: []string{"usbtransport"}},
	{path: "usbtransport/capture/...", imports: []string{"usbtransport", "ccid", "atr", "apdu", "t0", "t1"}},

	// Quirks are about fields of the class descriptor, so they speak of them in ccid's types.
	{path: "ccid/quirks", imports: []string{"ccid"}},
	{path: "ccid/host/...", imports: []string{"usbtransport", "ccid", "ccid/quirks", "atr", "apdu", "t0", "t1"}},

	{path: "ifdhandler/...", imports: []string{"ccid/host", "ccid", "ccid/quirks", "atr", "apdu", "usbtransport"}},
	// A card driver in memory, for the tests of the manager and of what stands on it.
	{path: "pcscd/pcscdtest", imports: []string{"pcscd", "pcscd/wire", "ifdhandler"}},
	{path: "pcscd/...", imports: []string{"pcscd/wire", "ifdhandler", "atr", "apdu"}},

	// The device side must share no state machine with the host side: a common mistake would hide.
	{path: "virtual/card/...", imports: []string{"atr", "apdu"}},
	{path: "virtual/...", imports: []string{"virtual/...", "ccid", "atr", "apdu", "usbtransport"}},

	{path: "cmd/ifd-goccid/...", imports: []string{anything}, cgo: true, unsafe: true},
	{path: "cmd/...", imports: []string{anything}},
	{path: "test/...", imports: []string{anything}},
	{path: "internal/..."},
}

// impure are the packages that do I/O, log, or know the machine. A pure package imports none of them, nor one below them.
// To read from an io.Reader that it is given is no I/O of its own.
var impure = []string{
	"context", "database", "io/ioutil", "log", "math/rand", "net", "os", "plugin", "runtime", "syscall", "testing",
	"unsafe", "C", "github.com", "golang.org", "go.uber.org", "pgregory.net",
}

// clock are the functions of package time that read the clock or wait; a pure package may use time.Duration only.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

// source is one Go file that is not a test.
type source struct {
	name string // path in the module
	file *ast.File
}

func (s source) packagePath() string { return path.Dir(s.name) }

func TestImportsFollowTheDesign(t *testing.T) {
	for _, s := range sources(t) {
		r, ok := ruleFor(s.packagePath())
		if !ok {
			t.Errorf("%s: package %s has no entry in the rules: say what it may import", s.name, s.packagePath())
			continue
		}
		for _, violation := range violations(s, r) {
			t.Errorf("%s: %s", s.name, violation)
		}
	}
}

func TestEveryRuleCanBeReached(t *testing.T) {
	for i, r := range rules {
		for _, earlier := range rules[:i] {
			require.False(t, matches(earlier.path, strings.TrimSuffix(r.path, "/...")), "%q is never reached: %q stands before it", r.path, earlier.path)
		}
	}
}

// TestViolationsAreFound proves the checker itself: each of these files breaks the rule it is held against.
func TestViolationsAreFound(t *testing.T) {
	tests := map[string]struct{ name, code, want string }{
		"arrow to the right": {
			"t1/x.go", `package t1; import "github.com/goccid/goccid/ccid/host"`, "must not import ccid/host",
		},
		"device side shares an engine": {
			"virtual/card/x.go", `package card; import "github.com/goccid/goccid/t1"`, "must not import t1",
		},
		"virtual reader in the daemon": {
			"pcscd/x.go", `package pcscd; import "github.com/goccid/goccid/virtual"`, "must not import virtual",
		},
		"somebody else's internals": {
			"ccid/host/x.go", `package host; import "github.com/goccid/goccid/virtual/internal/x"`, "must not import virtual/internal/x",
		},
		"I/O":        {"atr/x.go", `package atr; import "os"`, "is pure, must not import os"},
		"network":    {"ccid/x.go", `package ccid; import "net/netip"`, "is pure, must not import net/netip"},
		"logging":    {"t0/x.go", `package t0; import "github.com/sirupsen/logrus"`, "is pure, must not import github.com/sirupsen/logrus"},
		"clock":      {"t1/x.go", `package t1; import "time"; var x = time.Now`, "is pure, must not use time.Now"},
		"clock 2":    {"t1/x.go", `package t1; import c "time"; var x = c.After(1)`, "is pure, must not use time.After"},
		"goroutine":  {"t1/x.go", `package t1; func f() { go f() }`, "is pure, must not start a goroutine"},
		"unsafe":     {"ccid/host/x.go", `package host; import "unsafe"`, "must not import unsafe"},
		"cgo":        {"usbtransport/usbfs/x.go", `package usbfs; import "C"`, "must not use cgo"},
		"init":       {"apdu/x.go", `package apdu; func init() {}`, "must not have an init function"},
		"a main too": {"cmd/goccidd/x.go", `package main; func init() {}`, "must not have an init function"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), tt.name, tt.code, parser.SkipObjectResolution)
			require.NoError(t, err)
			s := source{tt.name, file}
			r, ok := ruleFor(s.packagePath())
			require.True(t, ok)
			require.Equal(t, []string{tt.want}, violations(s, r))
		})
	}
}

func TestAllowedCodePasses(t *testing.T) {
	tests := map[string]struct{ name, code string }{
		"a duration in an engine":    {"t1/x.go", `package t1; import "time"; var x time.Duration = time.Second`},
		"the driver uses the engine": {"ccid/host/x.go", `package host; import ("context"; "github.com/goccid/goccid/t1")`},
		"a command wires":            {"cmd/ccid-probe/x.go", `package main; import "github.com/goccid/goccid/virtual"`},
		"unsafe in usbfs":            {"usbtransport/usbfs/x.go", `package usbfs; import "unsafe"`},
		"one's own internals":        {"ccid/host/x.go", `package host; import "github.com/goccid/goccid/ccid/host/internal/x"`},
		"a method called init":       {"apdu/x.go", `package apdu; type T int; func (T) init() {}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), tt.name, tt.code, parser.SkipObjectResolution)
			require.NoError(t, err)
			s := source{tt.name, file}
			r, ok := ruleFor(s.packagePath())
			require.True(t, ok)
			require.Empty(t, violations(s, r))
		})
	}
}

// ruleFor returns the first rule about the package.
func ruleFor(packagePath string) (rule, bool) {
	i := slices.IndexFunc(rules, func(r rule) bool { return matches(r.path, packagePath) })
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

// matches reports whether the pattern is packagePath, or ends in "/..." and packagePath is in or below that folder.
func matches(pattern, packagePath string) bool {
	folder, below := strings.CutSuffix(pattern, "/...")
	return packagePath == folder || below && strings.HasPrefix(packagePath, folder+"/")
}

// violations says what in one file breaks the rule.
func violations(s source, r rule) []string {
	var list []string
	timeName := ""
	for _, spec := range s.file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			list = append(list, err.Error())
			continue
		}
		if name == "time" {
			timeName = "time"
			if spec.Name != nil {
				timeName = spec.Name.Name
			}
		}
		own, inModule := strings.CutPrefix(name, module+"/")
		switch {
		case inModule && !mayImport(s.packagePath(), r, own):
			list = append(list, "must not import "+own)
		case inModule:
		case r.pure && slices.ContainsFunc(impure, func(p string) bool { return matches(p+"/...", name) }):
			list = append(list, "is pure, must not import "+name)
		case name == "unsafe" && !r.unsafe:
			list = append(list, "must not import unsafe")
		case name == "C" && !r.cgo:
			list = append(list, "must not use cgo")
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				list = append(list, "must not have an init function")
			}
		case *ast.GoStmt:
			if r.pure {
				list = append(list, "is pure, must not start a goroutine")
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if ok && r.pure && timeName != "" && x.Name == timeName && slices.Contains(clock, n.Sel.Name) {
				list = append(list, "is pure, must not use time."+n.Sel.Name)
			}
		}
		return true
	})
	return list
}

// mayImport reports whether a package under rule r may import the module's package own.
func mayImport(packagePath string, r rule, own string) bool {
	if owner, _, internal := strings.Cut(own, "/internal/"); internal {
		return matches(owner+"/...", packagePath)
	}
	return slices.ContainsFunc(r.imports, func(p string) bool { return p == anything || matches(p, own) })
}

// sources parses every Go file of the module that is not a test, under any build tag.
func sources(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	var list []source
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skip(root, name)
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parse: %w", err)
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		list = append(list, source{filepath.ToSlash(relative), file})
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, list)
	return list
}

// skip returns fs.SkipDir for a folder whose files are not packages of this module.
func skip(root, name string) error {
	base := filepath.Base(name)
	if name == root {
		return nil
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}
