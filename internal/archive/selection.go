package archive

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"fanin/internal/history"
	"fanin/internal/runs"
	"fanin/internal/sample"
)

// selection are the series of a run: those of its deployment, and those of the
// hosts themselves that the deployment's guests were on.
type selection struct {
	*Exporter
	run      *runs.Run
	from, to int64
	kept     map[string]sample.Family // of the run's end, by metric
	hosts    []string                 // set by groups
}

func newSelection(e *Exporter, run *runs.Run, now time.Time) *selection {
	s := &selection{Exporter: e, run: run, from: int64(run.Started), to: int64(run.Until(now))}
	if kept, err := e.Records.KeptFamilies(run.ID); err == nil {
		_ = json.Unmarshal(kept, &s.kept) // what is not kept is of unknown type
	}
	return s
}

// group is a family and the metrics that are parts of it.
type group struct {
	family  sample.Family
	metrics []string
}

func (s *selection) ofProject(metric ...string) []history.Match {
	return named(history.Match{Label: sample.Project, OneOf: []string{s.run.Project}}, metric)
}

func (s *selection) ofHosts(metric ...string) []history.Match {
	return append(named(history.Match{Label: sample.HostName, OneOf: s.hosts}, metric),
		history.Match{Label: sample.Project, OneOf: []string{""}})
}

func named(m history.Match, metric []string) []history.Match {
	if len(metric) == 0 {
		return []history.Match{m}
	}
	return []history.Match{{Label: history.NameLabel, OneOf: metric}, m}
}

// groups finds all families that the run has something of, sorted by name.
func (s *selection) groups(ctx context.Context) (all []group, err error) {
	past, err := s.History.Past(s.from, s.to)
	if err != nil {
		return nil, err
	}
	defer past.Close()
	hosts, err := past.Values(ctx, sample.HostName, s.ofProject()...)
	if err != nil {
		return nil, err
	}
	s.hosts = append(hosts, s.run.Hosts...)
	slices.Sort(s.hosts)
	s.hosts = slices.DeleteFunc(slices.Compact(s.hosts), func(h string) bool { return h == "" })
	metrics, err := past.Values(ctx, history.NameLabel, s.ofProject()...)
	if err != nil {
		return nil, err
	}
	if len(s.hosts) > 0 {
		more, err := past.Values(ctx, history.NameLabel, s.ofHosts()...)
		if err != nil {
			return nil, err
		}
		metrics = append(metrics, more...)
	}
	slices.Sort(metrics)
	at := map[string]int{}
	for _, metric := range slices.Compact(metrics) {
		if !sample.ValidMetricName(metric) {
			continue // the gateway writes none
		}
		f := s.known(metric)
		i, known := at[f.Name]
		if !known {
			i = len(all)
			at[f.Name] = i
			all = append(all, group{family: f})
		}
		all[i].metrics = append(all[i].metrics, metric)
	}
	slices.SortFunc(all, func(a, b group) int { return strings.Compare(a.family.Name, b.family.Name) })
	return all, nil
}

// known is what is known of a metric's family.
func (s *selection) known(metric string) sample.Family {
	if f := s.History.Family(metric); f.Type != sample.Unknown || f.Help != "" {
		return f
	}
	if f, kept := s.kept[metric]; kept {
		return f
	}
	return sample.Family{Name: metric}
}

// lines are the series of a group, metric by metric.
func (s *selection) lines(ctx context.Context, past *history.Past, g group) (all []history.Line, err error) {
	for _, metric := range g.metrics {
		some, err := past.Lines(ctx, s.ofProject(metric)...)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if len(s.hosts) == 0 {
			continue
		}
		if some, err = past.Lines(ctx, s.ofHosts(metric)...); err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Families is what is known of the metrics of a run that ends, for the
// archives of later: [runs.Options.Families].
func Families(past *history.History, run *runs.Run) ([]byte, error) {
	s := &selection{Exporter: &Exporter{History: past}, run: run, from: int64(run.Started), to: int64(*run.Ended)}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	groups, err := s.groups(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]sample.Family{}
	for _, g := range groups {
		for _, metric := range g.metrics {
			if g.family.Type != sample.Unknown || g.family.Help != "" {
				known[metric] = g.family
			}
		}
	}
	return json.Marshal(known)
}
