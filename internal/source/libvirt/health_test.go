//go:build cgo

package libvirt

import (
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// What Sample lists by itself says nothing of what the daemon owes Run, which may
// begin meanwhile.
func TestHealthIsOfRun(t *testing.T) {
	rig.Need(t, "libvirtd") // the library comes with it
	late := func(s *Source) error { return s.health.check(time.Now().Add(s.health.patience)) }

	s := &Source{URI: "test:///default"}
	s.setup()
	s.health.begin(0)
	sampleOnce(t, s)
	if late(s) == nil {
		t.Error("a good list ends a call of Run's")
	}
	s.health.end(nil)
	if err := late(s); err != nil {
		t.Errorf("after its answer: %v", err)
	}
	_ = s.Close()

	s = &Source{URI: "test:///no/such/file"}
	s.setup()
	s.health.begin(0)
	if err := s.Sample(t.Context(), &sample.Batch{}); err == nil {
		t.Error("a list that can not be had: got no error")
	}
	s.health.end(nil)
	if err := late(s); err != nil {
		t.Errorf("a list has failed, and Run is well: %v", err)
	}
	_ = s.Close()
}
