package docker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/source/docker"
)

// slowLists is the engine behind a socket of its own, where the answers to lists
// of all containers are kept back. It sends to answered when the engine has given
// one, and lets it go on when released is closed.
func slowLists(t *testing.T, d *rig.Docker, answered chan<- struct{}, released <-chan struct{}) (host string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "slow.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	relay := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	relay.FlushInterval = -1 // events come at once
	relay.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket)
	}}
	relay.ModifyResponse = func(r *http.Response) error {
		if !strings.HasSuffix(r.Request.URL.Path, "/containers/json") || r.Request.URL.Query().Has("filters") {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case answered <- struct{}{}:
		default:
		}
		select {
		case <-released:
			return nil
		case <-time.After(patience):
			return errors.New("the list is never released")
		}
	}
	server := &http.Server{Handler: relay}
	go func() { _ = server.Serve(listener) }() // until Close
	t.Cleanup(func() { _ = server.Close() })
	return "unix://" + socket
}

// What was created after the engine had made its list, and before the list
// came, can be reached after the next one, for which nobody waits half a minute.
func TestCreatedWhileTheListIsMade(t *testing.T) {
	t.Parallel()
	engine := rig.Dockerd(t)
	answered, released := make(chan struct{}, 1), make(chan struct{})
	s := &docker.Source{Host: slowLists(t, engine, answered, released), Interval: 30 * time.Second, Rescan: time.Hour}
	asked := time.Now()
	follow(t, s)
	select {
	case <-answered:
	case <-time.After(patience):
		t.Fatal("the source asks for no list")
	}
	engine.Run(t, "web", rig.Container{}, "idle")
	close(released)
	// A list that took its time is not asked for again soon.
	rig.Eventually(t, patience+20*time.Since(asked), func() error {
		if _, ok := s.Inside("web"); !ok {
			return errors.New("nobody knows how to reach web")
		}
		return nil
	})
}

// What was created long ago can be reached soon after its start, too.
func TestStartedLongAfterItWasCreated(t *testing.T) {
	t.Parallel()
	engine := rig.Dockerd(t)
	s := &docker.Source{Host: engine.Host(), Interval: 30 * time.Second, Rescan: time.Hour}
	follow(t, s)
	engine.Create(t, "web", rig.Container{}, "idle")
	rig.Eventually(t, patience, func() error {
		p, err := take(s)
		return errors.Join(err, down("web", "created")(p))
	})
	time.Sleep(8 * time.Second) // the list that its creation asks for is over
	engine.Do(t, "web", "start")
	rig.Eventually(t, patience, func() error {
		if _, ok := s.Inside("web"); !ok {
			return errors.New("nobody knows how to reach web")
		}
		return nil
	})
}
