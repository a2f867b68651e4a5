package sample

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestText(t *testing.T) {
	f := NewGauge("cpu", "", "")
	for _, c := range []struct {
		labels []Label
		want   string
	}{
		{nil, "cpu"},
		{[]Label{{"b", "2"}, {"a", "1"}}, `cpu{a="1",b="2"}`},
		{[]Label{{"a", ""}, {"b", "2"}}, `cpu{b="2"}`},
		{[]Label{{"a", ""}}, "cpu"},
		{[]Label{{"a", "q\"b\\n\nz"}}, `cpu{a="q\"b\\n\nz"}`},
		{[]Label{{"a", "x\xffy"}}, "cpu{a=\"x\uFFFDy\"}"},
	} {
		if got := New(f, c.labels...).Text(); got != c.want {
			t.Errorf("%q: got %s, want %s", c.labels, got, c.want)
		}
	}
}

// Labels come out as they went in, whatever is in them.
func TestLabelsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.MapOf(rapid.StringMatching(`[a-z]{1,3}`), rapid.OneOf(rapid.String(), rapid.StringMatching(`[\\"n\n,={}]{0,5}`))).Draw(t, "labels")
		var labels []Label
		for name, value := range values {
			labels = append(labels, Label{name, value})
		}
		name := rapid.SampledFrom([]string{"f", "f_bucket", "g"}).Draw(t, "name")
		s := NewNamed(NewGauge("f", "", ""), name, labels...)
		if s.Name() != name {
			t.Fatalf("%s is called %q, want %q", s.Text(), s.Name(), name)
		}
		before, n := "", 0
		for name, value := range s.Each {
			if want := strings.ToValidUTF8(values[name], "\uFFFD"); value != want || value == "" || name <= before {
				t.Fatalf("%s: got %q=%q, want %q", s.Text(), name, value, want)
			}
			before = name
			n++
		}
		for name, value := range values {
			if got := s.Label(name); got != strings.ToValidUTF8(value, "\uFFFD") {
				t.Fatalf("%s: %s is %q, want %q", s.Text(), name, got, value)
			}
			if value == "" {
				n++
			}
		}
		if n != len(values) || len(s.Labels().All()) > n {
			t.Fatalf("%s: %d labels, want %d", s.Text(), n, len(values))
		}
	})
}

func TestLabelsAreCopied(t *testing.T) {
	labels := []Label{{"b", "2"}, {"a", "1"}}
	s := New(NewGauge("cpu", "", ""), labels...)
	labels[0].Value = "changed"
	if got := s.Label("b"); got != "2" {
		t.Fatalf("got %q, want 2", got)
	}
}

func TestMalformedNamesPanic(t *testing.T) {
	for name, f := range map[string]func(){
		"metric":   func() { New(NewGauge("a b", "", "")) },
		"label":    func() { New(NewGauge("a", "", ""), Label{"x-y", "1"}) },
		"internal": func() { New(NewGauge("a", "", ""), Label{"__name__", "1"}) },
		"repeated": func() { New(NewGauge("a", "", ""), Label{"x", "1"}, Label{"x", "2"}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestValidNames(t *testing.T) {
	for name, want := range map[string][2]bool{ // metric, label
		"a":        {true, true},
		"a:b":      {true, false},
		"_a1":      {true, true},
		"__a":      {true, false},
		"1a":       {false, false},
		"":         {false, false},
		"ä":        {false, false},
		"a\x00":    {false, false},
		"A_b_C_09": {true, true},
	} {
		if got := [2]bool{ValidMetricName(name), ValidLabelName(name)}; got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func TestOwner(t *testing.T) {
	f := NewGauge("cpu", "", "")
	for _, c := range []struct {
		labels []Label
		want   Owner
	}{
		{[]Label{{HostName, "h"}}, Owner{Host: "h"}},
		{[]Label{{HostName, "h"}, {GuestType, "docker"}}, Owner{Host: "h"}},
		{[]Label{{HostName, "h"}, {Project, "p"}, {GuestName, "g"}, {GuestType, "docker"}}, Owner{"h", "p", "g", "docker"}},
	} {
		if got := New(f, c.labels...).Owner(); *got != c.want {
			t.Errorf("%v: got %+v, want %+v", c.labels, got, c.want)
		}
	}
}

func TestTypeNames(t *testing.T) {
	var got []string
	for i := range typeNames {
		got = append(got, Type(i).String())
	}
	if want := "unknown counter gauge histogram summary info stateset gaugehistogram"; strings.Join(got, " ") != want {
		t.Fatalf("got %s, want %s", strings.Join(got, " "), want)
	}
}
