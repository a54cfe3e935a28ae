package quirks

import (
	"encoding/csv"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestReferenceDriver goes through everything that the reference driver does for particular readers (libccid 1.8.2) and
// demands a row for it, or a reason why there is none.
func TestReferenceDriver(t *testing.T) {
	f, err := os.Open("testdata/reference.csv")
	require.NoError(t, err)
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	lines = lines[1:]
	assert.Equal(t, 139, len(lines), "lines")

	unused, rows := map[rowID]bool{}, map[rowID]row{}
	for _, r := range load(t).rows {
		rows[r.ID], unused[r.ID] = r, true
	}
	for _, line := range lines {
		vid, pid, id, leftOut := line[0], line[1], rowID(line[4]), line[5]
		if id == "" {
			assert.NotEmpty(t, leftOut, "%v has neither a row nor a reason", line)
			continue
		}
		assert.Empty(t, leftOut, "%v has a row and a reason for having none", line)
		r, ok := rows[id]
		if !assert.True(t, ok, "%v: there is no row %s", line, id) {
			continue
		}
		assert.True(t, r.isAbout(t, vid, pid), "%v: row %s is not about this reader", line, id)
		delete(unused, id)
	}
	assert.Empty(t, unused, "rows that the reference driver has not")
}

// isAbout reports whether the row names these readers, or a set of readers that has them in it.
func (r row) isAbout(t *testing.T, vid, pid string) bool {
	all := readers{anyVID: true, anyPID: true}
	var named readers
	if vid == "-" {
		named = all
	} else {
		require.NoError(t, named.UnmarshalText([]byte(vid+":"+pid)))
	}
	for _, ids := range r.Readers {
		if ids == named || ids == all || ids.anyPID && ids.vid == named.vid || !named.anyPID && ids.match(named.vid, named.pid) {
			return true
		}
	}
	return false
}
