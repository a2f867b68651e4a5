package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// maxAnswer bounds the answer of a list call: 5,000 containers with two
// kilobytes of labels each need a sixth of it.
const maxAnswer = 64 << 20

var (
	errMissing = errors.New("there is no Docker socket")
	errDenied  = errors.New("the Docker socket may not be used")
)

// api is one connection's worth of the engine's API. Only what reads is ever
// called.
type api struct {
	client    *client.Client
	transport *http.Transport
	pinger    pinger
}

// connect looks whether the engine's socket is there and can be used, without
// asking anything yet. errMissing and errDenied say what it is otherwise.
func connect(ctx context.Context, socket string) (*api, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, errMissing
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w", errDenied, err)
	case err != nil:
		return nil, err
	}
	_ = c.Close()

	a := &api{pinger: pinger{socket: socket}, transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
		MaxIdleConns:       2,
		IdleConnTimeout:    time.Minute,
	}}
	a.client, err = client.New(client.WithHTTPClient(&http.Client{
		Transport:     bounded{a.transport},
		CheckRedirect: client.CheckRedirect,
	}))
	if err != nil {
		return nil, fmt.Errorf("make a Docker client: %w", err)
	}
	return a, nil
}

func (a *api) close() {
	a.transport.CloseIdleConnections()
	a.pinger.close()
}

// list is GET /containers/json?all=1, of all containers or of some.
func (a *api) list(ctx context.Context, ids ...string) ([]entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	options := client.ContainerListOptions{All: true}
	if len(ids) > 0 {
		options.Filters = client.Filters{}.Add("id", ids...)
	}
	answer, err := a.client.ContainerList(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return entriesOf(answer.Items), nil
}

// events is GET /events for what changes the roster. It returns once the
// engine has begun to answer, so nothing that happens after it is missed.
func (a *api) events(ctx context.Context) (client.EventsResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(callTimeout, func() { cancel(context.DeadlineExceeded) })
	stream := a.client.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.
		Add("type", string(events.ContainerEventType)).
		Add("event", string(events.ActionCreate), string(events.ActionStart), string(events.ActionDie), string(events.ActionStop),
			string(events.ActionKill), string(events.ActionOOM), string(events.ActionPause), string(events.ActionUnPause), string(events.ActionRename), string(events.ActionDestroy))})
	if !late.Stop() {
		return stream, fmt.Errorf("subscribe to events: %w", context.Cause(ctx))
	}
	return stream, nil
}

// bounded ends an answer that is longer than any list can be. The stream of
// events has no end, and is read one event at a time.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil && !strings.HasSuffix(r.URL.Path, "/events") {
		resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxAnswer}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("answer is longer than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
