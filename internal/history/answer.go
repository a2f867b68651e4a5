package history

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/annotations"
)

// fail answers with an error in Prometheus' form.
func fail(w http.ResponseWriter, code int, kind, text string) {
	body, _ := json.Marshal(struct {
		Status    string `json:"status"`
		ErrorType string `json:"errorType"`
		Error     string `json:"error"`
	}{"error", kind, text}) // strings always can be
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Content-Encoding")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

// answer writes data that encoding/json knows.
func (r *request) answer(data any) error {
	body, err := json.Marshal(data)
	if err != nil {
		return err
	}
	out := r.begin()
	out.b = append(out.b, body...)
	out.end(nil, "")
	return nil
}

// An answer is written in parts of this size, and packed when it is longer
// than one.
const partBytes = 32 << 10

// writer writes one answer: the data, in the order in which Prometheus has
// it, as Grafana reads it as it comes.
type writer struct {
	b     []byte
	w     http.ResponseWriter
	packs bool // the client takes gzip
	begun bool
	zip   *gzip.Writer
	err   error
}

func (r *request) begin() *writer {
	return &writer{
		w: r.w, packs: strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"),
		b: append(make([]byte, 0, 4096), `{"status":"success","data":`...),
	}
}

// flush hands a part on when it is large enough.
func (o *writer) flush() {
	if len(o.b) >= partBytes {
		o.part()
	}
}

func (o *writer) part() {
	if !o.begun {
		o.begun = true
		header := o.w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Vary", "Accept-Encoding")
		if o.packs && len(o.b) >= partBytes {
			header.Set("Content-Encoding", "gzip")
			o.zip, _ = gzip.NewWriterLevel(o.w, gzip.BestSpeed) // the level is valid
		}
	}
	if o.err == nil && o.zip != nil {
		_, o.err = o.zip.Write(o.b)
	} else if o.err == nil {
		_, o.err = o.w.Write(o.b)
	}
	o.b = o.b[:0]
}

// end writes the rest.
func (o *writer) end(notes annotations.Annotations, query string) {
	warnings, infos := notes.AsStrings(query, 10, 10)
	if len(warnings) > 0 {
		o.b = append(o.b, `,"warnings":`...)
		o.strings(warnings)
	}
	if len(infos) > 0 {
		o.b = append(o.b, `,"infos":`...)
		o.strings(infos)
	}
	o.b = append(o.b, '}')
	o.part()
	if o.zip != nil {
		_ = o.zip.Close() // the client is gone: nothing to tell it
	}
}

func (o *writer) value(v any) {
	switch v := v.(type) {
	case promql.Matrix:
		o.b = append(o.b, `{"resultType":"matrix","result":[`...)
		for i, s := range v {
			o.comma(i)
			o.b = append(o.b, `{"metric":`...)
			o.labels(s.Metric)
			o.b = append(o.b, `,"values":[`...)
			for k, p := range s.Floats {
				o.comma(k)
				o.point(p.T, p.F)
				o.flush()
			}
			o.b = append(o.b, `]}`...)
		}
		o.b = append(o.b, `]}`...)
	case promql.Vector:
		o.b = append(o.b, `{"resultType":"vector","result":[`...)
		for i, s := range v {
			o.comma(i)
			o.b = append(o.b, `{"metric":`...)
			o.labels(s.Metric)
			o.b = append(o.b, `,"value":`...)
			o.point(s.T, s.F)
			o.b = append(o.b, '}')
			o.flush()
		}
		o.b = append(o.b, `]}`...)
	case promql.Scalar:
		o.b = append(o.b, `{"resultType":"scalar","result":`...)
		o.point(v.T, v.V)
		o.b = append(o.b, '}')
	case promql.String:
		o.b = append(o.b, `{"resultType":"string","result":[`...)
		o.time(v.T)
		o.b = append(o.b, ',')
		o.string(v.V)
		o.b = append(o.b, `]}`...)
	}
}

func (o *writer) labelSets(all []labels.Labels) {
	o.b = append(o.b, '[')
	for i, set := range all {
		o.comma(i)
		o.labels(set)
		o.flush()
	}
	o.b = append(o.b, ']')
}

func (o *writer) strings(all []string) {
	o.b = append(o.b, '[')
	for i, s := range all {
		o.comma(i)
		o.string(s)
		o.flush()
	}
	o.b = append(o.b, ']')
}

func (o *writer) labels(set labels.Labels) {
	o.b = append(o.b, '{')
	n := 0
	set.Range(func(l labels.Label) {
		o.comma(n)
		n++
		o.string(l.Name)
		o.b = append(o.b, ':')
		o.string(l.Value)
	})
	o.b = append(o.b, '}')
}

func (o *writer) comma(i int) {
	if i > 0 {
		o.b = append(o.b, ',')
	}
}

// string writes a JSON string.
func (o *writer) string(s string) {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			text, _ := json.Marshal(s) // a string always can be
			o.b = append(o.b, text...)
			return
		}
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, s...)
	o.b = append(o.b, '"')
}

// point writes [seconds, "value"].
func (o *writer) point(t int64, v float64) {
	o.b = append(o.b, '[')
	o.time(t)
	o.b = append(o.b, `,"`...)
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	o.b = strconv.AppendFloat(o.b, v, format, -1, 64)
	o.b = append(o.b, `"]`...)
}

// time writes milliseconds as seconds.
func (o *writer) time(t int64) {
	if t < 0 {
		o.b = append(o.b, '-')
		t = -t
	}
	o.b = strconv.AppendInt(o.b, t/1000, 10)
	if ms := t % 1000; ms != 0 {
		o.b = append(o.b, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
		for o.b[len(o.b)-1] == '0' {
			o.b = o.b[:len(o.b)-1]
		}
	}
}

func short(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
