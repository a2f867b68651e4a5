package main

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"time"
)

// app is a program that serves metrics of its own, with counters that grow at
// a known rate, exactly, from 0 at its start.
type app struct {
	began time.Time
	rate  float64 // per second
	more  int     // series beside those
}

// metrics answers GET /metrics on addr as small exporters do.
func metrics(addr string, rate, more int) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	a := &app{began: time.Now(), rate: float64(rate), more: more}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		a.write(w, time.Since(a.began).Seconds())
	})
	mux.HandleFunc("GET /html", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html>hello</html>")
	})
	mux.HandleFunc("GET /elsewhere", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }()
	return nil
}

func (a *app) write(w io.Writer, elapsed float64) {
	fmt.Fprint(w, "# HELP inference_time How long an inference took.\n# TYPE inference_time summary\n")
	for task, share := range []float64{1, 0.25} {
		n := math.Floor(elapsed * a.rate * share)
		fmt.Fprintf(w, "inference_time_count{task=\"t%d\"} %g\ninference_time_sum{task=\"t%d\"} %g\n", task, n, task, n*0.004)
	}
	fmt.Fprint(w, "# HELP inference_frame_count_total Frames seen.\n# TYPE inference_frame_count_total counter\n")
	fmt.Fprintf(w, "inference_frame_count_total{task=\"t0\"} %g\n", math.Floor(elapsed*a.rate))
	fmt.Fprint(w, "# HELP wait_seconds How long requests waited.\n# TYPE wait_seconds histogram\n")
	for _, le := range []string{"0.1", "1", "+Inf"} {
		fmt.Fprintf(w, "wait_seconds_bucket{le=%q} %g\n", le, math.Floor(elapsed*a.rate))
	}
	fmt.Fprintf(w, "wait_seconds_sum %g\nwait_seconds_count %g\n", elapsed, math.Floor(elapsed*a.rate))
	fmt.Fprint(w, "# HELP odd What a page may hold.\n# TYPE odd gauge\nodd{is=\"nan\"} NaN\nodd{is=\"inf\"} +Inf\nodd{guest=\"other\",project=\"other\",host_name=\"other\"} 1\n")
	fmt.Fprint(w, "testbed_guest_up{guest=\"other\"} 1\n")
	fmt.Fprint(w, "# HELP more To be many.\n# TYPE more gauge\n")
	for i := range a.more {
		fmt.Fprintf(w, "more{handler=\"/api/v1/things\",number=\"%d\"} %g\n", i, elapsed+float64(i))
	}
}
