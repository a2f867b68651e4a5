//go:build !cgo

package libvirt

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/guest"
	"fanin/internal/sample"
)

type inner struct{ said sync.Once }

func (s *Source) say() {
	s.said.Do(func() {
		if s.Log != nil {
			s.Log.Info("this build has no libvirt support (CGO_ENABLED=0); libvirt domains are not measured")
		}
	})
}

// Sample says once that this build has no libvirt support.
func (s *Source) Sample(context.Context, *sample.Batch) error {
	s.say()
	return nil
}

// Run says once that this build has no libvirt support and waits for ctx.
func (s *Source) Run(ctx context.Context) error {
	s.say()
	<-ctx.Done()
	return nil
}

// Guests finds none.
func (s *Source) Guests(context.Context) ([]guest.Description, error) {
	s.say()
	return nil, nil
}

// Register has nothing to register.
func (s *Source) Register(prometheus.Registerer) error { return nil }

// Close has nothing to close.
func (s *Source) Close() error { return nil }
