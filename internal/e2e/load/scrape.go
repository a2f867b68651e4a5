package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// scraping is a run that fetches one page over and over, on one connection.
type scraping struct {
	url    string
	format string
	every  time.Duration
}

// pageRoom is written to before the first page comes: to find memory for one is
// not what the other side takes.
const pageRoom = 32 << 20

// scraped is the line of a run.
type scraped struct {
	Kind    string         `json:"kind"`
	URL     string         `json:"url"`
	Format  string         `json:"format"`
	Type    string         `json:"content_type"` // of the last page
	Pages   int            `json:"pages"`
	Samples int            `json:"samples"` // on the last page; -1 when it is protobuf
	Bytes   int            `json:"bytes"`   // of the last page, as it came
	Seconds float64        `json:"seconds"`
	P50     float64        `json:"p50_ms"` // from request to the last byte
	P99     float64        `json:"p99_ms"`
	Answers map[string]int `json:"answers"`
}

var accept = map[string]string{
	"plain":       "text/plain;version=0.0.4",
	"gzip":        "text/plain;version=0.0.4",
	"openmetrics": "application/openmetrics-text;version=1.0.0",
	"protobuf":    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
}

func (s *scraping) run(ctx context.Context, limit bounds) (*scraped, error) {
	if err := checkURL(s.url); err != nil {
		return nil, err
	}
	client := client()
	defer client.CloseIdleConnections()
	report := &scraped{Kind: "scrape", URL: s.url, Format: s.format, Answers: map[string]int{}}
	var page bytes.Buffer
	page.Write(make([]byte, pageRoom))
	var took []time.Duration
	packed := false
	begin := time.Now()
	for n := range limit.requests {
		if s.every > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(begin.Add(time.Duration(n) * s.every))):
			}
		}
		if ctx.Err() != nil || time.Since(begin) > limit.duration {
			break
		}
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Accept", accept[s.format])
		if s.format == "gzip" {
			r.Header.Set("Accept-Encoding", "gzip")
		}
		from := time.Now()
		answer, err := client.Do(r)
		if err != nil {
			report.Answers["error"]++
			continue
		}
		page.Reset()
		_, err = page.ReadFrom(answer.Body)
		answer.Body.Close()
		if err != nil {
			report.Answers["error"]++
			continue
		}
		took = append(took, time.Since(from))
		report.Answers[strconv.Itoa(answer.StatusCode)]++
		report.Type, packed = answer.Header.Get("Content-Type"), answer.Header.Get("Content-Encoding") == "gzip"
	}
	report.Pages, report.Bytes, report.Seconds = len(took), page.Len(), time.Since(begin).Seconds()
	report.P50, report.P99 = percentile(took, 50), percentile(took, 99)
	var err error
	report.Samples, err = samplesOn(page.Bytes(), packed, s.format)
	return report, err
}

const maxPage = 1 << 30

// samplesOn counts the lines of a page that are samples.
func samplesOn(page []byte, packed bool, format string) (n int, err error) {
	if format == "protobuf" {
		return -1, nil
	}
	if packed {
		z, err := gzip.NewReader(bytes.NewReader(page))
		if err != nil {
			return 0, err
		}
		if page, err = io.ReadAll(io.LimitReader(z, maxPage)); err != nil {
			return 0, fmt.Errorf("the page ends early: %w", err)
		}
	}
	for line := range bytes.Lines(page) {
		if len(line) > 1 && line[0] != '#' {
			n++
		}
	}
	return n, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func percentile(of []time.Duration, p int) float64 {
	if len(of) == 0 {
		return 0
	}
	slices.Sort(of)
	return milliseconds(of[min(len(of)-1, len(of)*p/100)])
}

func processorSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
