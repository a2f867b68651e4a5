package wire

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"fanin/internal/sample"
)

// pieces divides a body until nothing can be divided any more.
func pieces(t *testing.T, body []byte) (all []Part) {
	t.Helper()
	left := []Part{{Body: body}}
	for len(left) > 0 {
		first, second, err := Split(left[0].Body)
		switch {
		case errors.Is(err, ErrIndivisible):
			all = append(all, left[0])
			left = left[1:]
		case err != nil:
			t.Fatal(err)
		default:
			left = append([]Part{first, second}, left[1:]...)
		}
	}
	return all
}

func contentOfBody(t *testing.T, body []byte) (string, *Request) {
	t.Helper()
	var d Decoder
	r, err := d.Decode(body, nil)
	if err != nil {
		t.Fatal(err)
	}
	return content(r), r
}

func TestSplitLosesNothing(t *testing.T) {
	body := encode(t, V1, points(101))
	whole, r := contentOfBody(t, body)
	first, second, err := Split(body)
	if err != nil {
		t.Fatal(err)
	}
	one, a := contentOfBody(t, first.Body)
	other, b := contentOfBody(t, second.Body)
	if first.Samples != a.Samples || second.Samples != b.Samples || a.Samples != 50 || b.Samples != 51 {
		t.Errorf("halves of %d say %d and %d samples and hold %d and %d, want 50 and 51", r.Samples, first.Samples, second.Samples, a.Samples, b.Samples)
	}
	var together, want []string
	together = append(strings.Split(strings.TrimSpace(one), "\n"), strings.Split(strings.TrimSpace(other), "\n")...)
	want = strings.Split(strings.TrimSpace(whole), "\n")
	slices.Sort(together) // metadata stands behind the first half's series
	slices.Sort(want)
	if !slices.Equal(together, want) {
		t.Errorf("together the halves hold\n%s\nwant\n%s", strings.Join(together, "\n"), strings.Join(want, "\n"))
	}
	samples := 0
	for _, p := range pieces(t, body) {
		samples += p.Samples
		if p.Samples > 1 {
			t.Errorf("a piece of %d samples", p.Samples)
		}
	}
	if samples != 101 {
		t.Errorf("the pieces hold %d samples, want 101", samples)
	}
}

func TestSplitSamplesOfOneSeries(t *testing.T) {
	w := prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "guest", Value: "a"}},
		Samples: []prompb.Sample{{Timestamp: 1, Value: 1}, {Timestamp: 2, Value: 2}, {Timestamp: 3, Value: 3}},
	}}}
	raw, err := w.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, p := range pieces(t, snappy.Encode(nil, raw)) {
		_, r := contentOfBody(t, p.Body)
		r.EachSeries(func(s *Series) {
			if labels, _ := s.Labels(); len(labels) != 2 || len(s.Points) != 1 {
				t.Errorf("a piece has %d labels and %d points, want 2 and 1", len(labels), len(s.Points))
			}
			got = append(got, s.Points[0].T)
		})
	}
	if !slices.Equal(got, []int64{1, 2, 3}) {
		t.Errorf("got samples of %v, want 1 2 3", got)
	}
}

func TestSplitRefuses(t *testing.T) {
	one := encode(t, V1, []sample.Point{{Series: sample.New(cpu), T: 1, V: 1}})
	metadata, alone, err := Split(one)
	if err != nil || metadata.Samples != 0 || alone.Samples != 1 {
		t.Fatalf("one series with metadata: %d and %d samples, %v; want the metadata and the sample", metadata.Samples, alone.Samples, err)
	}
	for name, c := range map[string]struct {
		body []byte
		want error
	}{
		"one sample":          {alone.Body, ErrIndivisible},
		"metadata":            {metadata.Body, ErrIndivisible},
		"nothing":             {[]byte{0}, ErrIndivisible},
		"not snappy":          {[]byte("no"), ErrMalformed},
		"not protobuf":        {snappy.Encode(nil, []byte("no")), ErrMalformed},
		"a huge declaration":  {[]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}, ErrTooLarge},
		"a series of nothing": {snappy.Encode(nil, []byte{0x0a, 0}), ErrIndivisible},
	} {
		if _, _, err := Split(c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(encode(f, V1, points(5)))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, body []byte) {
		var d Decoder
		r, err := d.Decode(body, nil)
		if err != nil {
			return
		}
		samples := r.Samples
		if first, second, err := Split(body); err == nil && first.Samples+second.Samples != samples {
			t.Fatalf("%d and %d samples of %d", first.Samples, second.Samples, samples)
		}
	})
}
