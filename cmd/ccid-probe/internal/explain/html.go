package explain

import (
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"sync"
)

// The page's parts. Script and style have no template actions: their hashes stand in the page's Content-Security-Policy.
var (
	//go:embed page/page.html.tmpl
	pageText string
	//go:embed page/page.css
	pageStyle string
	//go:embed page/page.js
	pageScript string
)

// parsePage parses the template, once.
var parsePage = sync.OnceValues(func() (*template.Template, error) { return template.New("page").Parse(pageText) })

// MaxRows is how many transfers a page lists: a browser gets slow with more. Text and JSON have all of them.
const MaxRows = 10_000

// WriteHTML writes the transcript as one page, which needs nothing beside itself and is not allowed to load anything: its
// Content-Security-Policy refuses all but its own script and style.
func (t *Transcript) WriteHTML(w io.Writer) error {
	page, err := parsePage()
	if err != nil {
		return err
	}
	return page.Execute(w, t.view())
}

// view is what the page's template shows.
type view struct {
	*Transcript
	Title  string
	Style  template.CSS
	Script template.JS
	Policy string
	Rows   []row
	// Unlisted counts the transfers beyond MaxRows.
	Unlisted int
	Timeline timeline
	Latency  latencyPlot
}

// row is a transfer with the APDU that ends there.
type row struct {
	*Transfer
	APDUs []*APDU
}

// Troubled reports whether the transfer, or the APDU that ends there, has a problem.
func (r row) Troubled() bool {
	return len(r.Problems) > 0 || slices.ContainsFunc(r.APDUs, func(a *APDU) bool { return a.Problem != "" })
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (t *Transcript) view() view {
	v := view{
		Transcript: t, Title: visible(t.Capture.Name), Style: template.CSS(pageStyle), Script: template.JS(pageScript), //nolint:gosec // our own files
		Policy:   "default-src 'none'; script-src " + hash(pageScript) + "; style-src " + hash(pageStyle) + "; base-uri 'none'; form-action 'none'",
		Unlisted: max(0, len(t.Transfers)-MaxRows),
	}
	ends := map[int][]*APDU{}
	for i := range t.APDUs {
		a := &t.APDUs[i]
		ends[last(a.Transfers)] = append(ends[last(a.Transfers)], a)
	}
	for i := range t.Transfers[:len(t.Transfers)-v.Unlisted] {
		x := &t.Transfers[i]
		v.Rows = append(v.Rows, row{x, ends[x.Number]})
	}
	v.Timeline = newTimeline(t)
	v.Latency = newLatencyPlot(t)
	return v
}

// Kind is the class of a transfer in the page: control, out, in or interrupt.
func (x *Transfer) Kind() string {
	switch {
	case x.Type == "bulk":
		return x.Direction
	case x.Type == "interrupt":
		return "interrupt"
	}
	return "control"
}

// Arrow is the direction as a sign.
func (x *Transfer) Arrow() string {
	if x.Direction == "in" {
		return "←"
	}
	return "→"
}

// Seconds is the time since the capture's beginning.
func (x *Transfer) Seconds() string { return fmt.Sprintf("%.6f", x.At/1e6) }

// Wait is the time that counts of a transfer: from the command to its answer, or what the transfer took.
func (x *Transfer) Wait() string {
	switch {
	case x.Latency >= 0:
		return milliseconds(x.Latency)
	case x.Duration >= 0 && x.Type == "control":
		return milliseconds(x.Duration)
	}
	return ""
}

// Bytes is the data for people.
func (x *Transfer) Bytes() string { return shortened(x.Data, shownInPage) }

// shownInPage is how many bytes of a transfer a page shows at most.
const shownInPage = 1024

// CommandBytes is the command for people, ResponseBytes the response data.
func (a *APDU) CommandBytes() string { return dataText(a.Command) }

// ResponseBytes is the response data for people.
func (a *APDU) ResponseBytes() string { return dataText(a.Response) }

// Seconds is the time since the capture's beginning.
func (a *APDU) Seconds() string { return fmt.Sprintf("%.6f", a.At/1e6) }

// Took is the latency.
func (a *APDU) Took() string {
	if a.Latency < 0 {
		return ""
	}
	return milliseconds(a.Latency)
}

// First is the number of the first transfer.
func (a *APDU) First() int {
	if len(a.Transfers) == 0 {
		return 0
	}
	return a.Transfers[0]
}

// Good reports whether the card said that all went well: 9000, or 61xx for data that is there.
func (a *APDU) Good() bool {
	return a.Problem == "" && len(a.SW) == 4 && (a.SW == "9000" || a.SW[:2] == "61")
}

// The plots are drawn in these units, which the page scales to its width.
const (
	plotWidth   = 1000
	plotLeft    = 92
	plotRight   = 34
	plotColumns = plotWidth - plotLeft - plotRight
	laneHeight  = 22
)

// tick is a line of a plot's grid with its label.
type tick struct {
	At    string
	Label string
}

// mark is something in a plot. Its coordinates are text, ready for SVG.
type mark struct {
	Kind  string
	X, Y  string
	Width string
	// Number is the transfer that it is about, Title what it says when pointed at.
	Number int
	Title  string
}

func number(v float64) string { return fmt.Sprintf("%.1f", v) }

// scale maps the capture's time to a plot.
type scale struct{ total float64 }

func (t *Transcript) scale() scale { return scale{max(1, float64(t.Capture.Microseconds))} }

func (s scale) x(us float64) float64 {
	return plotLeft + plotColumns*min(1, max(0, us/s.total))
}

// ticks divides the time into five parts.
func (s scale) ticks() []tick {
	const parts = 5
	var list []tick
	for i := range parts + 1 {
		us := s.total * float64(i) / parts
		list = append(list, tick{number(s.x(us)), axisTime(us, s.total)})
	}
	return list
}

func axisTime(us, total float64) string {
	switch {
	case total >= 10e6:
		return fmt.Sprintf("%.0f s", us/1e6)
	case total >= 1e6:
		return fmt.Sprintf("%.1f s", us/1e6)
	case total >= 10e3:
		return fmt.Sprintf("%.0f ms", us/1e3)
	}
	return fmt.Sprintf("%.2f ms", us/1e3)
}

// timeline shows when each kind of transfer went on.
type timeline struct {
	Width, Height int
	Lanes         []lane
	Ticks         []tick
	Marks         []mark
}

type lane struct {
	Name string
	Y    string
}

// lanes are the timeline's, from top to bottom; kinds are the same as Transfer.Kind has, and APDUs.
var lanes = []struct{ kind, name string }{
	{"apdu", "APDU"}, {"control", "control"}, {"out", "to reader"}, {"in", "from reader"}, {"interrupt", "interrupt"},
}

func newTimeline(t *Transcript) timeline {
	s := t.scale()
	l := timeline{Width: plotWidth, Height: laneHeight*len(lanes) + 26, Ticks: s.ticks()}
	top := map[string]float64{}
	for i, x := range lanes {
		y := float64(4 + i*laneHeight)
		top[x.kind] = y + 4
		l.Lanes = append(l.Lanes, lane{x.name, number(y + laneHeight - 7)})
	}
	fill := newColumns()
	for i := range t.APDUs {
		a := &t.APDUs[i]
		kind := "apdu good"
		if !a.Good() {
			kind = "apdu bad"
		}
		fill.add(&l.Marks, s, a.At, max(0, a.Latency), mark{
			Kind: kind, Y: number(top["apdu"]), Number: a.First(), Title: fmt.Sprintf("APDU %d: %s: %s", a.Number, a.Name, a.Answer()),
		})
	}
	for i := range t.Transfers {
		x := &t.Transfers[i]
		if i == MaxRows {
			break
		}
		begin, length := x.At, 0.0
		switch {
		case x.Latency >= 0:
			begin, length = x.At-x.Latency, x.Latency
		case x.Direction == "out" || x.Type == "control":
			length = max(0, x.Duration)
		}
		fill.add(&l.Marks, s, begin, length, mark{Kind: x.Kind(), Y: number(top[x.Kind()]), Number: x.Number, Title: x.Headline()})
	}
	return l
}

// columns keeps plots small: of what would be drawn at the same place only the first is.
type columns map[[3]string]bool

func newColumns() columns { return columns{} }

func (c columns) add(list *[]mark, s scale, at, length float64, m mark) {
	const least = 1.5
	m.X = number(s.x(at))
	m.Width = number(max(least, s.x(at+length)-s.x(at)))
	key := [3]string{m.Kind, m.X, m.Width}
	if c[key] {
		return
	}
	c[key] = true
	*list = append(*list, m)
}

// latencyPlot shows how long each APDU took, or each message in a capture without APDUs, on a logarithmic scale.
type latencyPlot struct {
	Width, Height int
	What          string
	Ticks, Levels []tick
	Marks         []mark
	// Median and Most are texts.
	Median, Most string
}

const latencyHeight = 180

func newLatencyPlot(t *Transcript) latencyPlot {
	p := latencyPlot{Width: plotWidth, Height: latencyHeight + 26, What: "APDU"}
	s := t.scale()
	type point struct {
		at, latency float64
		mark        mark
	}
	var points []point
	for i := range t.APDUs {
		a := &t.APDUs[i]
		if a.Latency < 0 {
			continue
		}
		kind := "good"
		if !a.Good() {
			kind = "bad"
		}
		points = append(points, point{a.At, a.Latency, mark{Kind: kind, Number: a.First(), Title: fmt.Sprintf("APDU %d: %s: %s", a.Number, a.Name, a.Answer())}})
	}
	if len(points) == 0 {
		p.What = "message"
		for i := range t.Transfers[:min(len(t.Transfers), MaxRows)] {
			if x := &t.Transfers[i]; x.Latency >= 0 {
				points = append(points, point{x.At, x.Latency, mark{Kind: "in", Number: x.Number, Title: x.Headline()}})
			}
		}
	}
	if len(points) == 0 {
		return p
	}
	latencies := make([]float64, len(points))
	for i, x := range points {
		latencies[i] = x.latency
	}
	low, high := bounds(latencies)
	p.Median, p.Most = median(latencies)
	y := func(us float64) float64 {
		share := (math.Log10(max(us, low)) - math.Log10(low)) / (math.Log10(high) - math.Log10(low))
		return latencyHeight - (latencyHeight-14)*min(1, max(0, share))
	}
	for level := low; level <= high*1.001; level *= 10 {
		p.Levels = append(p.Levels, tick{number(y(level)), axisTime(level, level)})
	}
	p.Ticks = s.ticks()
	drawn := columns{}
	for _, x := range points {
		m := x.mark
		m.X, m.Y = number(s.x(x.at)), number(y(x.latency))
		key := [3]string{m.Kind, m.X, m.Y}
		if !drawn[key] {
			drawn[key] = true
			p.Marks = append(p.Marks, m)
		}
	}
	return p
}

// bounds returns powers of ten that have all values between them.
func bounds(list []float64) (low, high float64) {
	least, most := math.Inf(1), 0.0
	for _, v := range list {
		least, most = min(least, v), max(most, v)
	}
	low = math.Pow(10, math.Floor(math.Log10(max(1, least))))
	high = math.Pow(10, math.Ceil(math.Log10(max(10, most))))
	if high <= low {
		high = low * 10
	}
	return low, high
}

// median returns the median and the greatest of a list as text.
func median(list []float64) (middle, most string) {
	sorted := slices.Sorted(slices.Values(list))
	return milliseconds(sorted[(len(sorted)-1)/2]), milliseconds(sorted[len(sorted)-1])
}
