package quirks

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed names.txt
var modelNames string

// ModelName returns the name by which pcscd's users know the readers with this idVendor and idProduct, where that is not
// what their USB strings say: "Gemalto PC Twin Reader" for 08E6:3437. It returns "" for all others.
//
// It is no Setting of a row: readers have these names whatever the table is, until a row sets another.
func ModelName(vid, pid uint16) string { return findName(modelNames, vid, pid) }

// findName returns the name that a list in the form of names.txt has for a model.
func findName(list string, vid, pid uint16) string {
	id := fmt.Sprintf("%04X:%04X ", vid, pid)
	for line := range strings.Lines(list) {
		if name, found := strings.CutPrefix(line, id); found {
			return strings.TrimRight(name, "\r\n")
		}
	}
	return ""
}
