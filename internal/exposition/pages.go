package exposition

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/common/expfmt"

	"fanin/internal/sample"
	"fanin/internal/window"
)

// Node is a host that has a page of its own.
type Node struct {
	Name string
	Up   bool
}

// Pages serves what the window holds, each point with its own timestamp.
//
// Without a name a scraper gets the newest point of each series, and nothing
// is consumed by it. A scraper that gives a name (?scraper=NAME) is a reader
// of the window, one for each path: its page holds all that has arrived since
// the last page it is known to have. That is so when the page was
// written whole and the same connection carries a later request, as an HTTP
// client uses a connection again only when it has read the answer before to
// its end. Where the connection says nothing about the reader (behind a
// proxy, in HTTP/2 and when it is closed after the answer) the
// successful write must do, which is weaker: a page that is lost on the way is
// then lost.
type Pages struct {
	Window *window.Store

	// Now returns points that stand for the moment of the scrape and carry
	// no timestamp, in a slice that is the caller's. None of their families is in
	// the window.
	Now func() []sample.Point

	Nodes     func() []Node // those that ?node=NAME may name; nil: none
	MaxPoints int           // on a page, default 500,000
	MaxAge    time.Duration // older points are passed over and counted, default 50 min
	Log       *slog.Logger  // nil: nothing is logged

	zippers sync.Pool // of *gzip.Writer
	points  sync.Pool // of *[]sample.Point

	mu      sync.Mutex
	callers map[window.ReaderID]*callers
	warned  map[string]bool // versions of Prometheus
	counts  counts
}

const defaultMaxAge = 50 * time.Minute

var readerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// ValidReader reports whether a reader can be called so.
func ValidReader(name string) bool { return readerName.MatchString(name) }

// Handler serves a page with the series whose owner match accepts (nil: all).
//
//	200  the page
//	400  ?scraper is no name
//	404  ?node is no host of the cluster
//	429  too many readers
//	503  that host is silent, and a named reader has all that it has said
func (p *Pages) Handler(match func(sample.Owner) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connection := connectionOf(r)
		connection.confirm() // whatever this request is about
		query := r.URL.Query()
		id := window.ReaderID{Name: query.Get("scraper"), Path: r.URL.Path, Node: query.Get("node")}
		if id.Name != "" && !ValidReader(id.Name) {
			http.Error(w, "scraper="+strconv.Quote(id.Name)+" is no name of a reader: letters, digits, _ . - and at most 63 of them", http.StatusBadRequest)
			return
		}
		match, silent := match, false
		if id.Node != "" {
			var known bool
			if silent, known = p.node(id.Node); !known {
				http.Error(w, "host "+strconv.Quote(id.Node)+" is not in the cluster", http.StatusNotFound)
				return
			}
			match = ofNode(id.Node, match)
		}
		if id.Name == "" || r.Method == http.MethodHead || !p.mayRead(id, r, connection) {
			if silent {
				saySilent(w, id.Node)
				return
			}
			points := p.buffer()
			defer p.points.Put(points)
			*points = p.Window.Newest((*points)[:0], match)
			_ = p.write(w, r, match, *points) // the scraper is gone: nothing to tell it
			return
		}
		p.read(w, r, id, match, connection, silent)
	})
}

func saySilent(w http.ResponseWriter, node string) {
	http.Error(w, "host "+strconv.Quote(node)+" is silent", http.StatusServiceUnavailable)
}

// read serves the next page of a named reader.
func (p *Pages) read(w http.ResponseWriter, r *http.Request, id window.ReaderID, match func(sample.Owner) bool, c *connection, silent bool) {
	format, _ := negotiate(r.Header)
	now, age := time.Now(), p.MaxAge
	if age <= 0 {
		age = defaultMaxAge
	}
	points := p.buffer()
	defer p.points.Put(points)
	page, err := p.Window.Next((*points)[:0], id, window.Request{
		Match: match, Now: now, Oldest: now.Add(-age).UnixMilli(), MaxPoints: p.MaxPoints, Markers: format == Protobuf,
	})
	if err != nil {
		code := http.StatusInternalServerError
		if errors.Is(err, window.ErrTooManyReaders) {
			code = http.StatusTooManyRequests
		}
		http.Error(w, err.Error(), code)
		return
	}
	*points = page.Points
	if silent && len(page.Points) == 0 {
		_ = page.Confirm(false) // so that the cursor of a silent node holds nobody up
		saySilent(w, id.Node)
		return
	}
	if err := p.write(w, r, match, page.Points); err != nil {
		return
	}
	page.Points = nil // they are lent
	if isWeak(r, c) {
		_ = page.Confirm(true) // overtaken: it is served again
		return
	}
	c.wrote(page)
}

func ofNode(name string, match func(sample.Owner) bool) func(sample.Owner) bool {
	return func(o sample.Owner) bool { return o.Host == name && (match == nil || match(o)) }
}

func (p *Pages) node(name string) (silent, known bool) {
	if p.Nodes != nil {
		for _, n := range p.Nodes() {
			if n.Name == name {
				return !n.Up, true
			}
		}
	}
	return false, false
}

func (p *Pages) write(w http.ResponseWriter, r *http.Request, match func(sample.Owner) bool, points []sample.Point) error {
	format, contentType := negotiate(r.Header)
	now := p.Now()
	if match != nil {
		now = slices.DeleteFunc(now, func(point sample.Point) bool { return !match(*point.Series.Owner()) })
	}
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Vary", "Accept, Accept-Encoding")
	if acceptsGzip(r.Header) {
		header.Set("Content-Encoding", "gzip")
		if err := p.compress(w, format, now, points); err != nil {
			return err
		}
	} else if err := Write(w, format, now, points); err != nil {
		return err
	}
	if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func (p *Pages) compress(w io.Writer, format Format, now, points []sample.Point) error {
	z, _ := p.zippers.Get().(*gzip.Writer)
	if z == nil {
		z, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	}
	defer p.zippers.Put(z)
	z.Reset(w)
	if err := Write(z, format, now, points); err != nil {
		return err
	}
	return z.Close()
}

func (p *Pages) buffer() *[]sample.Point {
	if b, _ := p.points.Get().(*[]sample.Point); b != nil {
		return b
	}
	return new([]sample.Point)
}

// negotiate takes what the scraper likes best of what there is.
func negotiate(header http.Header) (Format, string) {
	switch expfmt.NegotiateAccept(header, TextType, OpenMetricsType, ProtobufType).FormatType() {
	case expfmt.TypeOpenMetrics:
		return OpenMetrics, OpenMetricsType
	case expfmt.TypeProtoDelim:
		return Protobuf, ProtobufType
	default:
		return Text, TextType
	}
}

func acceptsGzip(header http.Header) bool {
	for _, part := range strings.Split(header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" && strings.ReplaceAll(params, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

// Connections gives each connection of a server an identity, by which pages
// are known to have arrived. The zero value is ready; its methods are the
// hooks ConnContext and ConnState of [http.Server].
type Connections struct {
	open sync.Map // of net.Conn to *connection
}

// ConnContext notes a new connection.
func (s *Connections) ConnContext(ctx context.Context, c net.Conn) context.Context {
	known := &connection{}
	s.open.Store(c, known)
	return context.WithValue(ctx, connectionKey{}, known)
}

// ConnState notes the end of a connection.
func (s *Connections) ConnState(c net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	if known, ok := s.open.LoadAndDelete(c); ok {
		known.(*connection).close()
	}
}
