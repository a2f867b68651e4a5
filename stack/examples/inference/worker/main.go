// Worker stands for one replica of a service that runs models: it takes tasks
// at a steady rate, works on each for a while, and tells on /metrics how long
// that took, by task.
package main

import (
	"flag"
	"log"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// tasks by how often they come and how much work they are.
var tasks = []struct {
	name   string
	share  float64
	rounds int
}{
	{"detect", 0.6, 60_000},
	{"classify", 0.3, 30_000},
	{"segment", 0.1, 200_000},
}

func main() {
	listen := flag.String("listen", ":8000", "address of /metrics")
	rate := flag.Float64("rate", 20, "tasks a second")
	flag.Parse()

	registry := prometheus.NewRegistry()
	took := prometheus.NewSummaryVec(prometheus.SummaryOpts{
		Name: "inference_time", Help: "How long one inference took, in seconds, by task.",
		Objectives: map[float64]float64{0.5: 0.05, 0.95: 0.01},
	}, []string{"task"})
	frames := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "inference_frame_count_total", Help: "Frames that were worked on, by task.",
	}, []string{"task"})
	registry.MustRegister(took, frames)
	for _, t := range tasks {
		took.WithLabelValues(t.name)
		frames.WithLabelValues(t.name)
	}

	go work(*rate, took, frames)
	http.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Addr: *listen, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}

func work(rate float64, took *prometheus.SummaryVec, frames *prometheus.CounterVec) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	sum := uint64(1)
	for range tick.C {
		p := rand.Float64()
		for _, t := range tasks {
			if p -= t.share; p > 0 {
				continue
			}
			begin := time.Now()
			for range t.rounds { // what a model would do
				sum = sum*6364136223846793005 + 1442695040888963407
			}
			took.WithLabelValues(t.name).Observe(time.Since(begin).Seconds())
			frames.WithLabelValues(t.name).Inc()
			break
		}
	}
	_ = sum
}
