package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// shaky is a follower that panics so many times before it ends.
type shaky struct{ panics, runs int }

func (s *shaky) Name() string { return "shaky" }

func (s *shaky) Run(context.Context) error {
	if s.runs++; s.runs <= s.panics {
		panic("oh")
	}
	return errors.New("end")
}

func TestSurvive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shaky{panics: 2}
		start := time.Now()
		err := survive(s, time.Second, slog.New(slog.DiscardHandler))(t.Context())
		if err == nil || err.Error() != "end" || s.runs != 3 || time.Since(start) != 2*time.Second {
			t.Errorf("got %v after %d runs in %s, want its own error after 3 in 2s", err, s.runs, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := survive(&shaky{panics: 9}, time.Second, slog.New(slog.DiscardHandler))(ctx); err != nil {
			t.Errorf("stopped while it waits: %v, want nil", err)
		}
	})
}
