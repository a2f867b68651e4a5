package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"fanin/internal/sample"
	"fanin/internal/sampler"
)

func printOnce(ctx context.Context, log *slog.Logger, o *options, to io.Writer) error {
	if err := o.checkSampling(); err != nil {
		return err
	}
	sources := o.open(nil, log)
	defer closeAll(sources)
	points, failed := (&sampler.Sampler{Sources: sources, Interval: o.interval, Log: slog.New(slog.DiscardHandler)}).Once(ctx)
	if err := writePage(to, points); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return failed
}

var helpEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`)

// writePage writes the points in the Prometheus text format 0.0.4, without
// their times: they are of now. Series of a family stand together; of a
// series with several points the newest counts.
func writePage(to io.Writer, points []sample.Point) error {
	points = slices.Clone(points)
	slices.SortFunc(points, func(a, b sample.Point) int {
		return cmp.Or(
			strings.Compare(a.Series.Family().Name, b.Series.Family().Name),
			strings.Compare(a.Series.Text(), b.Series.Text()),
			cmp.Compare(a.T, b.T),
		)
	})
	w := bufio.NewWriter(to)
	var family *sample.Family
	for i, p := range points {
		if i+1 < len(points) && points[i+1].Series.Text() == p.Series.Text() {
			continue
		}
		if f := p.Series.Family(); f != family {
			family = f
			kind := f.Type.String()
			if f.Type == sample.Unknown {
				kind = "untyped"
			}
			fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.Name, helpEscaper.Replace(f.Help), f.Name, kind)
		}
		fmt.Fprintf(w, "%s %s\n", p.Series.Text(), strconv.FormatFloat(p.V, 'g', -1, 64))
	}
	return w.Flush()
}
