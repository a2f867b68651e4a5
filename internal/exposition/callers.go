package exposition

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"fanin/internal/window"
)

type connectionKey struct{}

// connection is one that carries requests. A nil one has no identity.
type connection struct {
	mu      sync.Mutex
	written []*window.Page // whole, and no request has come since
	closed  bool
}

func connectionOf(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}

// confirm is called when a request has come: the pages before have arrived.
func (c *connection) confirm() {
	if c == nil {
		return
	}
	c.mu.Lock()
	pages := c.written
	c.written = nil
	c.mu.Unlock()
	for _, page := range pages {
		_ = page.Confirm(false) // overtaken: it is served again
	}
}

func (c *connection) wrote(page *window.Page) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.written = append(c.written, page)
	}
}

func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.written = true, nil
}

func (c *connection) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// isWeak reports whether the connection says nothing about what arrives at
// the scraper.
func isWeak(r *http.Request, c *connection) bool {
	return c == nil || proxied(r) || r.Close || !r.ProtoAtLeast(1, 1)
}

func proxied(r *http.Request) bool {
	return r.ProtoMajor > 1 || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Via") != "" || r.Header.Get("Forwarded") != ""
}

// callers is who has come under one reader's name.
type callers struct {
	seen     map[any]time.Time // by *connection, forwarded or address; at most maxCallers
	conflict bool
}

const (
	// Who is unseen for so long has left; above the longest scrape interval.
	callerLeft = 10 * time.Minute
	// A caller can say of each request that it is for somebody else.
	maxCallers = 64
	// Versions that are warned of: there are six that are affected.
	maxWarned = 16
)

// forwarded is the hash of what a proxy says of whom it asks for, which can be
// as long as all headers.
type forwarded [sha256.Size]byte

// Why a named reader gets the newest points only.
const (
	conflict   = "conflict"    // two scrapers use one name
	oldVersion = "old_version" // this Prometheus keeps one of several points of a series
)

// mayRead reports whether a named request is served as its reader's. It is
// not when another caller that is still there has come under this name since
// this one came last: then there are two of them, and pages would go now to
// the one and now to the other.
func (p *Pages) mayRead(id window.ReaderID, r *http.Request, c *connection) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if version := keepsOne(r.UserAgent()); version != "" {
		p.counts.newestOnly(id, oldVersion)
		if !p.warned[version] && len(p.warned) < maxWarned {
			if p.warned == nil {
				p.warned = map[string]bool{}
			}
			p.warned[version] = true
			p.log().Warn("this version of Prometheus keeps one of several points of a series on a page and drops the others: it gets the newest points only; use another version", "version", version, "reader", id.Name)
		}
		return false
	}
	now, caller := time.Now(), p.caller(id, r, c)
	if p.callers == nil {
		p.callers = map[window.ReaderID]*callers{}
	}
	of := p.callers[id]
	if of == nil {
		p.forgetCallers(now)
		of = &callers{seen: map[any]time.Time{}}
		p.callers[id] = of
	}
	before, known := of.seen[caller]
	two := false
	var oldest any
	for other, seen := range of.seen {
		if o, ok := other.(*connection); ok && o.isClosed() || now.Sub(seen) > callerLeft {
			delete(of.seen, other)
			continue
		}
		two = two || known && other != caller && seen.After(before)
		if oldest == nil || seen.Before(of.seen[oldest]) {
			oldest = other
		}
	}
	if !known && len(of.seen) >= maxCallers {
		delete(of.seen, oldest)
	}
	of.seen[caller] = now
	if two {
		p.counts.newestOnly(id, conflict)
	}
	if two != of.conflict {
		of.conflict = two
		if two {
			p.log().Warn("two scrapers use the name of one reader: both get the newest points only until each has a name of its own", "reader", id.Name, "path", id.Path, "address", r.RemoteAddr)
		} else {
			p.log().Info("one scraper uses the name of the reader again", "reader", id.Name, "path", id.Path, "address", r.RemoteAddr)
		}
	}
	return !two
}

// caller tells scrapers apart: by connection, but where one scraper has
// several (behind a proxy, and when it takes a page for each node) by address.
func (p *Pages) caller(id window.ReaderID, r *http.Request, c *connection) any {
	if c != nil && !isWeak(r, c) && id.Node == "" {
		return c
	}
	if from := r.Header.Get("X-Forwarded-For"); from != "" {
		return forwarded(sha256.Sum256([]byte(from)))
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// forgetCallers bounds what is remembered, before a new name is.
func (p *Pages) forgetCallers(now time.Time) {
	if len(p.callers) < 4*window.MaxReaders {
		return
	}
	for id, of := range p.callers {
		newest := time.Time{}
		for _, seen := range of.seen {
			if seen.After(newest) {
				newest = seen
			}
		}
		if now.Sub(newest) > callerLeft || len(p.callers) > 64*window.MaxReaders {
			delete(p.callers, id)
		}
	}
}

var userAgent = regexp.MustCompile(`^Prometheus/(\d+)\.(\d+)\.(\d+)`)

// keepsOne returns the version of a Prometheus that keeps one of several
// points of a series: 2.52.0 to 2.53.2, and 2.54.0.
func keepsOne(agent string) string {
	m := userAgent.FindStringSubmatch(agent)
	if m == nil {
		return ""
	}
	var v [3]int
	for i := range v {
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return ""
		}
		v[i] = n
	}
	version := v[0]*1_000_000 + v[1]*1_000 + v[2]
	if version >= 2_052_000 && version <= 2_053_002 || version == 2_054_000 {
		return fmt.Sprintf("Prometheus/%d.%d.%d", v[0], v[1], v[2]) // whatever zeros it was written with
	}
	return ""
}
