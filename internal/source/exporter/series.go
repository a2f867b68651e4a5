package exporter

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"fanin/internal/guest"
	"fanin/internal/sample"
)

// The limits of one series are the gateway's: what it would refuse is not sent.
const (
	maxMetricName = 200
	maxLabelName  = 128
	maxLabelValue = 512
	maxLabels     = 30 - 3 // without name, guest and port
	maxHelp       = 1_000  // bytes; a longer one is cut
)

const (
	portLabel  = "port"
	unseenFor  = 2 * time.Minute // then a series is forgotten
	sweepEvery = 30 * time.Second
)

// memory holds the series of one target, so that a page that is like the one
// before costs no more than finding them. The worker owns it.
type memory struct {
	guest, port sample.Label
	room        *room
	most        int // series
	mostWritten int // bytes of keys in lines

	page     uint64 // number of the page that is being read
	now      time.Time
	swept    time.Time
	lines    map[string]*line        // by what stands on the page before the value
	written  int                     // bytes of their keys
	series   map[string]*series      // by text
	families map[string]*description // by name, as the pages say
	held     usage

	present []*series // on the last good page
	next    []*series // on the one that is being read
	new     []*series // of those, the ones that were not known before
	unread  []string  // keys of lines that were not known before

	labels labels.Labels
	own    []sample.Label
}

// line is what became of a series as it is written on a page.
type line struct {
	series *series // nil: left out
	why    omission
	used   time.Time
}

type series struct {
	*sample.Series
	family *family
	page   uint64 // it was on last
	used   time.Time
}

// description is what a page says of a family.
type description struct {
	kind       sample.Type
	help, unit string
	page       uint64
}

func newMemory(k key, r *room, most, maxBytes int) *memory {
	return &memory{
		guest: guest.Named(k.guest), port: sample.Label{Name: portLabel, Value: k.port}, room: r, most: most,
		mostWritten: 2 * maxBytes, // all of a page, and of one that comes after it
		lines:       map[string]*line{}, series: map[string]*series{}, families: map[string]*description{},
	}
}

// begin starts a page.
func (m *memory) begin(now time.Time) {
	m.page++
	m.now = now
	m.next, m.new, m.unread = m.next[:0], m.new[:0], m.unread[:0]
	if now.Sub(m.swept) >= sweepEvery {
		m.swept = now
		m.sweep(func(used time.Time) bool { return now.Sub(used) <= unseenFor })
	}
}

// keep ends a page that was good, and tells which series of the one before are
// not on it any more. ok is false when there is no room for what is new on
// it: then it was not good.
func (m *memory) keep() (missing []*series, ok bool) {
	var more usage
	for _, s := range m.new {
		more = more.plus(usage{1, len(s.Text())})
	}
	if more.series > 0 && !m.room.take(m.held, more) {
		return nil, false
	}
	m.held = m.held.plus(more)
	for _, s := range m.present {
		if s.page != m.page {
			missing = append(missing, s)
		}
	}
	m.present, m.next = m.next, m.present[:0]
	m.new = m.new[:0] // they are not to be dropped any more
	return missing, true
}

// drop ends a page that was no good: what was new on it is forgotten.
func (m *memory) drop() {
	for _, s := range m.new {
		delete(m.series, s.Text())
		m.room.leave(s.family)
	}
	for _, key := range m.unread {
		m.forget(key)
	}
	m.new, m.unread = m.new[:0], m.unread[:0]
}

// sweep forgets what keep does not keep by the time it was last used.
func (m *memory) sweep(keep func(used time.Time) bool) {
	for key, l := range m.lines {
		if !keep(l.used) || l.series != nil && !keep(l.series.used) {
			m.forget(key)
		}
	}
	var less usage
	for text, s := range m.series {
		if !keep(s.used) {
			delete(m.series, text)
			m.room.leave(s.family)
			less = less.plus(usage{1, len(text)})
		}
	}
	m.held.series -= less.series
	m.held.bytes -= less.bytes
	m.room.give(less)
	for name, d := range m.families {
		if d.page+1 < m.page {
			delete(m.families, name)
		}
	}
}

func (m *memory) forget(key string) {
	delete(m.lines, key)
	m.written -= len(key)
}

// end forgets everything. present stays.
func (m *memory) end() {
	m.sweep(func(time.Time) bool { return false })
}

// find returns the line of the series at which the parser stands. full is
// true when there may not be another series.
func (m *memory) find(written []byte, p textparse.Parser) (l *line, full bool) {
	l = m.lines[string(written)]
	if l == nil {
		s, why, full := m.judge(p)
		if full {
			return nil, true
		}
		l = &line{series: s, why: why}
		// A page that writes the same series in ever new ways, or ever new ones
		// that are left out.
		if len(m.lines) < 2*m.most && m.written+len(written) <= m.mostWritten {
			key := string(written)
			m.lines[key] = l
			m.written += len(key)
			m.unread = append(m.unread, key)
		}
	}
	l.used = m.now
	if l.series == nil {
		return l, false
	}
	if l.series.page == m.page {
		return &line{why: repeated}, false
	}
	l.series.page, l.series.used = m.page, m.now
	m.next = append(m.next, l.series)
	return l, false
}

// judge checks a series that was not on a page before.
func (m *memory) judge(p textparse.Parser) (s *series, why omission, full bool) {
	p.Labels(&m.labels)
	var name string
	m.own = m.own[:0]
	m.labels.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel && name == "" {
			name = l.Value
			return
		}
		m.own = append(m.own, sample.Label{Name: l.Name, Value: l.Value})
	})
	why, bad := m.flaw(name)
	if bad {
		return nil, why, false
	}
	m.own = append(exported(m.own, m.guest.Name, m.port.Name), m.guest, m.port)
	of := m.familyOf(name)
	made := sample.NewNamed(&of, name, m.own...)
	if s = m.series[made.Text()]; s != nil {
		return s, 0, false
	}
	if len(m.series) >= m.most {
		return nil, 0, true
	}
	f := m.room.enter(of)
	s = &series{Series: sample.NewNamed(&f.Family, name, m.own...), family: f}
	m.series[s.Text()] = s
	m.new = append(m.new, s)
	return s, 0, false
}

// flaw checks the form of the series in name and m.own.
func (m *memory) flaw(name string) (why omission, bad bool) {
	switch {
	case len(name) > maxMetricName:
		return tooLong, true
	case !sample.ValidMetricName(name):
		return badName, true
	case strings.HasPrefix(name, "testbed_"), strings.HasPrefix(name, "fanin_"):
		return reservedName, true
	case len(m.own) > maxLabels:
		return tooManyLabels, true
	}
	for i, l := range m.own {
		switch {
		case len(l.Name) > maxLabelName, len(l.Value) > maxLabelValue:
			return tooLong, true
		case !sample.ValidLabelName(l.Name):
			return badLabelName, true
		case i > 0 && m.own[i-1].Name == l.Name: // they are sorted
			return repeatedLabel, true
		}
	}
	return 0, false
}

// exported gives a page's own labels of these names the name exported_NAME,
// or one with more of it when the page has that too.
func exported(own []sample.Label, names ...string) []sample.Label {
	taken := func(name string) bool {
		for _, l := range own {
			if l.Name == name {
				return true
			}
		}
		return false
	}
	for _, name := range names {
		for i := range own {
			if own[i].Name != name {
				continue
			}
			other := "exported_" + name
			for taken(other) {
				other = "exported_" + other
			}
			own[i].Name = other
		}
	}
	return own
}

// describe is what the page says of a family, to be changed. When there are
// too many, or no series can be called like that, it is kept by nobody.
func (m *memory) describe(name []byte) *description {
	d := m.families[string(name)]
	if d == nil {
		if len(m.families) >= m.most || len(name) > maxMetricName {
			return &description{}
		}
		d = &description{}
		m.families[string(name)] = d
	}
	d.page = m.page
	return d
}

func (m *memory) typed(name []byte, t model.MetricType) { m.describe(name).kind = typeOf(t) }

func (m *memory) helped(name, help []byte) {
	help = cut(help)
	if d := m.describe(name); d.help != string(help) {
		d.help = string(help)
	}
}

func (m *memory) measured(name, unit []byte) {
	if d := m.describe(name); d.unit != string(unit) {
		d.unit = string(unit)
	}
}

// familyOf finds what a series belongs to: itself, or the histogram, summary,
// counter or info whose part it is. In OpenMetrics the last two have families
// without the series' suffix; a [sample.Family] is called as its series are.
func (m *memory) familyOf(name string) sample.Family {
	if d, ok := m.families[name]; ok {
		return d.family(name)
	}
	for _, suffix := range [...]string{"_bucket", "_sum", "_count", "_total", "_info"} {
		base, has := strings.CutSuffix(name, suffix)
		d, ok := m.families[base]
		if !has || !ok {
			continue
		}
		switch {
		case d.kind == sample.Histogram && suffix != "_total" && suffix != "_info",
			d.kind == sample.GaugeHistogram && suffix == "_bucket",
			d.kind == sample.Summary && (suffix == "_sum" || suffix == "_count"):
			return d.family(base)
		case d.kind == sample.Counter && suffix == "_total", d.kind == sample.Info && suffix == "_info":
			return d.family(name)
		}
	}
	return sample.Family{Name: name}
}

func (d *description) family(name string) sample.Family {
	return sample.Family{Name: name, Type: d.kind, Unit: d.unit, Help: d.help}
}

func typeOf(t model.MetricType) sample.Type {
	switch t {
	case model.MetricTypeCounter:
		return sample.Counter
	case model.MetricTypeGauge:
		return sample.Gauge
	case model.MetricTypeHistogram:
		return sample.Histogram
	case model.MetricTypeGaugeHistogram:
		return sample.GaugeHistogram
	case model.MetricTypeSummary:
		return sample.Summary
	case model.MetricTypeInfo:
		return sample.Info
	case model.MetricTypeStateset:
		return sample.StateSet
	}
	return sample.Unknown
}

// cut shortens a help text at a character's border.
func cut(b []byte) []byte {
	if len(b) <= maxHelp {
		return b
	}
	b = b[:maxHelp]
	for len(b) > 0 && !utf8.RuneStart(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return bytes.ToValidUTF8(b, nil)
}
