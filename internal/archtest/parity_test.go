package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)\\w+)`")
	notYet    = regexp.MustCompile(`^not yet \((issue \d+|no issue)\)$`)
)

// parityRow returns the cells of a table's row, nil for any other line, the head of a table among them.
func parityRow(line string) []string {
	if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasSuffix(line, "| shown by |") {
		return nil
	}
	cells := strings.Split(strings.Trim(line, "|"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	return cells
}

// parityFaults returns what is wrong with one row; exists tells whether a package has a test.
func parityFaults(cells []string, exists func(pkg, name string) bool) []string {
	var faults []string
	if len(cells) != 3 {
		faults = append(faults, "needs three cells")
	}
	for _, cell := range cells {
		if cell == "" {
			faults = append(faults, "has an empty cell")
		}
	}
	last := cells[len(cells)-1]
	tests := namedTest.FindAllStringSubmatch(last, -1)
	if len(tests) == 0 && !notYet.MatchString(last) {
		faults = append(faults, `names neither a test nor "not yet" and its issue`)
	}
	for _, test := range tests {
		if !exists(test[1], test[2]) {
			faults = append(faults, "names a test that is not there: "+test[0])
		}
	}
	return faults
}

func TestParityNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/parity.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]map[string]bool{}
	exists := func(pkg, name string) bool {
		if known[pkg] == nil {
			known[pkg] = testsOf(t, "../../"+pkg)
		}
		return known[pkg][name]
	}
	rows := 0
	for i, line := range strings.Split(string(text), "\n") {
		cells := parityRow(line)
		if cells == nil {
			continue
		}
		rows++
		for _, fault := range parityFaults(cells, exists) {
			t.Errorf("docs/parity.md:%d: %s", i+1, fault)
		}
	}
	if rows < 50 {
		t.Errorf("docs/parity.md has %d rows, the list of defects has more", rows)
	}
}

func TestParityFaultsAreFound(t *testing.T) {
	exists := func(pkg, name string) bool { return pkg == "t1" && name == "TestModel" }
	for line, faults := range map[string]int{
		"| a | b | `t1.TestModel` |":                  0,
		"| a | b | not yet (issue 4) |":               0,
		"| a |  | `t1.TestModel` |":                   1,
		"| a | b | |":                                 2,
		"| a | `t1.TestModel` |":                      1,
		"| a | b | some day |":                        1,
		"| a | b | `t1.TestModel`, `t1.TestModels` |": 1,
	} {
		if got := parityFaults(parityRow(line), exists); len(got) != faults {
			t.Errorf("%s: %q, want %d", line, got, faults)
		}
	}
}

// testsOf returns the tests and fuzz tests of the package in a folder.
func testsOf(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(folder + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}
