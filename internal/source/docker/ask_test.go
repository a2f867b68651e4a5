package docker

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fanin/internal/sample"
)

// Run begins while Sample waits for a list of its own: what the engine answers to
// the one says nothing of what it owes the other.
func TestRunBeginsDuringAList(t *testing.T) {
	for _, c := range []struct {
		name                string
		answersSample, well bool // Run gets what Sample does not
	}{
		{"answered is Sample alone", true, false},
		{"answered is Run alone", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var lists atomic.Int32
			asked, subscribed, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
			e := answering(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/events"):
					close(subscribed)
					if c.well {
						w.WriteHeader(http.StatusOK)
						_ = http.NewResponseController(w).Flush()
					}
					<-end
				case strings.HasSuffix(r.URL.Path, "/containers/json"):
					if lists.Add(1) == 1 {
						close(asked)
						<-subscribed
						if !c.answersSample {
							<-end
						}
					}
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, "[]")
				}
			})
			defer close(end)
			s := &Source{Host: "unix://" + e.socket}
			sampled := make(chan error, 1)
			go func() { sampled <- s.Sample(t.Context(), &sample.Batch{}) }()
			<-asked
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- s.Run(ctx) }()
			if err := <-sampled; (err == nil) != c.answersSample {
				t.Errorf("the first sample: got error %v, want one: %v", err, !c.answersSample)
			}
			time.Sleep(s.health.patience + 500*time.Millisecond)
			if err := s.Sample(t.Context(), &sample.Batch{}); (err == nil) != c.well {
				t.Errorf("after %s: got error %v, want one: %v", s.health.patience, err, !c.well)
			}
			cancel()
			if err := <-ran; err != nil {
				t.Error(err)
			}
			_ = s.Close()
		})
	}
}
