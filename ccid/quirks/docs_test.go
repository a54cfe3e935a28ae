package quirks

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the tables of docs/quirks.md anew instead of comparing with them")

const docs = "../../docs/quirks.md"

// TestDocs keeps the tables of the manual true.
func TestDocs(t *testing.T) {
	raw, err := os.ReadFile(docs)
	require.NoError(t, err)
	text := string(raw)
	want := between(t, text, "settings", settingsTable(t))
	want = between(t, want, "rows", rowsTable(t))
	if *update {
		require.NoError(t, os.WriteFile(docs, []byte(want), 0o644))
		return
	}
	assert.Equal(t, want, text, "run: go test ./ccid/quirks -run Docs -update")
}

// between puts a table between the comment that begins with a name and the next one that ends it.
func between(t *testing.T, text, name, table string) string {
	t.Helper()
	place := regexp.MustCompile(`(?s)(<!-- ` + name + `:[^\n]*-->\n).*?(<!-- end -->)`)
	require.Len(t, place.FindAllString(text, -1), 1, name)
	parts := place.FindStringSubmatchIndex(text)
	return text[:parts[3]] + table + text[parts[4]:]
}

// settingsTable lists the keys with the comments of the fields.
func settingsTable(t *testing.T) string {
	comments := fieldComments(t)
	var b strings.Builder
	b.WriteString("| key | what it does |\n|---|---|\n")
	var walk func(path string, group reflect.Type)
	walk = func(path string, group reflect.Type) {
		for i := range group.NumField() {
			f := group.Field(i)
			key := join(path, f.Tag.Get("toml"))
			if f.Type.Kind() == reflect.Struct {
				walk(key, f.Type)
				continue
			}
			comment := comments[group.Name()+"."+f.Name]
			require.NotEmpty(t, comment, key)
			fmt.Fprintf(&b, "| `set.%s` | %s |\n", key, comment)
		}
	}
	walk("", reflect.TypeFor[Settings]())
	return b.String()
}

// fieldComments returns the comments of the fields of settings.go by "Type.Field", as one line each.
func fieldComments(t *testing.T) map[string]string {
	parsed, err := parser.ParseFile(token.NewFileSet(), "settings.go", nil, parser.ParseComments)
	require.NoError(t, err)
	comments := map[string]string{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				comments[spec.Name.Name+"."+f.Names[0].Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
		return false
	})
	return comments
}

func rowsTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| id | readers | what | why |\n|---|---|---|---|\n")
	for _, r := range load(t).rows {
		e := r.explain()
		fmt.Fprintf(&b, "| `%s`%s | %s: %s | `%s` | %s |\n", e.ID, map[bool]string{true: " *optional*"}[r.Optional], e.Name, r.conditions(),
			strings.Join(e.Actions, "`<br>`"), e.Reason)
	}
	return b.String()
}

// conditions writes the conditions of a built-in row for people.
func (r row) conditions() string {
	var ids []string
	for _, r := range r.Readers {
		ids = append(ids, strings.ReplaceAll(r.String(), "*", `\*`))
	}
	text := strings.Join(ids, ", ")
	if r.Versions.text != "" {
		text += ", firmware " + r.Versions.text
	}
	for name, value := range r.Class {
		text += fmt.Sprintf(", %s = %d", name, value)
	}
	if r.Level != nil {
		text += ", " + r.Level.String() + " level"
	}
	if r.OS != "" {
		text += ", on " + r.OS
	}
	if len(r.ATR.value) > 0 {
		text += ", ATR " + r.ATR.String()
	}
	return text
}
