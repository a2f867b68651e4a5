package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/common/version"

	"fanin/internal/runs"
	"fanin/internal/sample"
)

// record is run.json: the record, and what the archive is of.
func (s *selection) record() ([]byte, error) {
	return indented(struct {
		*runs.Run
		From  runs.Time `json:"from"`
		To    runs.Time `json:"to"`
		Hosts []string  `json:"hosts"`
	}{s.run, runs.Time(s.from), runs.Time(s.to), s.hosts})
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(v)
	return b.Bytes(), err
}

// buildInfo is what a pusher says of itself.
const buildInfo = "fanin_build_info"

// versions is versions.json: what is known of the programs.
func (s *selection) versions(ctx context.Context) ([]byte, error) {
	type program struct {
		Version  string `json:"version"`
		Revision string `json:"revision,omitempty"`
		Go       string `json:"go"`
	}
	all := struct {
		Gateway program             `json:"gateway"`
		Pushers []map[string]string `json:"pushers"`
	}{Gateway: program{version.Version, version.GetRevision(), runtime.Version()}, Pushers: []map[string]string{}}
	if len(s.hosts) > 0 {
		past, err := s.History.Past(s.from, s.to)
		if err != nil {
			return nil, err
		}
		defer past.Close()
		lines, err := past.Lines(ctx, s.ofHosts(buildInfo)...)
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			says := map[string]string{}
			for name, value := range l.Labels.Each {
				if name == sample.HostName {
					name = "host"
				}
				says[name] = value
			}
			all.Pushers = append(all.Pushers, says)
		}
	}
	return indented(all)
}

func (s *selection) readme() []byte {
	when := func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
	end := "It goes on; the archive ends now, at " + when(s.to) + "."
	if s.run.Ended != nil {
		end = "It ended at " + when(s.to) + " (" + s.run.EndedBecause + ")."
	}
	return fmt.Appendf(nil, `Run %s on the deployment %s.
%s
It began at %s. %s

run.json       the record: name, times (seconds since 1970), marks, hosts
state.json     the deployment's state file as it was when the run began, with
               user names, passwords, keys, tokens and values of environment
               variables replaced by "(left out)". Look through it before you
               publish it: a credential in another place can not be known.
               Absent when the file could not be read: see state_problem in
               run.json.
versions.json  gateway and pushers, as far as they are known
metrics.om     every value of every series of the deployment, and of the hosts
               its guests were on, from the begin to the end, in OpenMetrics
               1.0 with the time each was read at:
                   promtool tsdb create-blocks-from openmetrics metrics.om DIR
               makes blocks of it that any Prometheus can serve
csv/           the same as tables, one for each metric: time (UTC), labels,
               value; a row for each value. A label's value that begins with
               =, +, - or @ and is no number has an apostrophe ahead, so that
               no spreadsheet runs it.

Counters (names that end with _total) only grow, and begin again at 0 when
what they count does. Values read back as the same floating-point numbers. The
two forms have no marker for the end of a series: it has no values any more.
What a host delivers later than the archive was made is not in it; make it
again.
`, s.run.ID, s.run.Project, s.run.Name, when(s.from), end)
}
