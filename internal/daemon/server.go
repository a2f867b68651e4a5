package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
)

// Limits on what one connection may take up.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	answerTimeout = 15 * time.Second
	// Above the longest scrape interval in use (5 min), so that a scraper
	// finds its connection open again.
	idleTimeout    = 6 * time.Minute
	maxHeaderBytes = 16 << 10
	// A program that is told to stop has ended within 5 s, whatever its peers
	// do. Shutdown alone waits that long for a connection that was opened and
	// then says nothing.
	stopGrace = 3 * time.Second
)

// Server is the program's HTTP server.
type Server struct {
	Addresses []string // host:port
	WebConfig string   // file in exporter-toolkit's web configuration format (TLS, users), "" for plain HTTP
	Handler   http.Handler
	Log       *slog.Logger

	// Hooks of [http.Server], for who wants to tell connections apart.
	ConnContext func(ctx context.Context, c net.Conn) context.Context
	ConnState   func(c net.Conn, state http.ConnState)

	listeners []net.Listener
}

// Listen checks the web configuration and opens the listeners, so that a
// taken port or a bad certificate is known before anything else starts.
func (s *Server) Listen() error {
	if err := CheckWebConfig(s.WebConfig); err != nil {
		return fmt.Errorf("--web.config.file: %w", err)
	}
	for _, address := range s.Addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			s.close()
			return fmt.Errorf("--web.listen-address %s: %w", address, err)
		}
		s.listeners = append(s.listeners, quick(l))
	}
	return nil
}

// URL is the address of the first listener, for messages.
func (s *Server) URL() string {
	if len(s.listeners) == 0 {
		return ""
	}
	scheme := "http"
	if s.WebConfig != "" {
		scheme = "https"
	}
	return scheme + "://" + s.listeners[0].Addr().String()
}

// Run serves on the listeners until ctx ends, then gives requests under way
// 3 s to finish.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       s.ConnContext,
		ConnState:         s.ConnState,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	addresses, socket := s.Addresses, false
	flags := &web.FlagConfig{WebListenAddresses: &addresses, WebSystemdSocket: &socket, WebConfigFile: &s.WebConfig}
	served := make(chan error, 1)
	go func() { served <- web.ServeMultiple(s.listeners, server, flags, s.Log) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		_ = server.Close()
	}
	if err := <-served; err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

func (s *Server) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.listeners = nil
}

// CheckWebConfig reports, in one line, what is wrong with a web configuration
// file.
func CheckWebConfig(file string) error {
	if err := web.Validate(file); err != nil {
		return fmt.Errorf("%s: %s", file, strings.Join(strings.Fields(err.Error()), " "))
	}
	return nil
}

// Link is one line of a landing page; Address is relative to it.
type Link struct{ Address, Text, Description string }

// LandingPage is what a person finds at the program's root.
func LandingPage(name, description string, links ...Link) (http.Handler, error) {
	config := web.LandingConfig{Name: name, Description: description, Profiling: "false", Version: version.Info()}
	for _, l := range links {
		config.Links = append(config.Links, web.LandingLinks(l))
	}
	page, err := web.NewLandingPage(config)
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	return page, nil
}
