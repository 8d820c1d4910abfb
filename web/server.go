package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers over HTTP.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen starts to answer on addr. report is asked for every request, wait for each that waits for a view.
func Listen(addr string, report func() Report, wait Waiter) (*Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP on %s: %w", addr, err)
	}
	s := &Server{listener: listener, http: &http.Server{Handler: handler(report, wait), ReadHeaderTimeout: 10 * time.Second}}
	return s, nil
}

// Addr is where the server answers.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Serve answers until Close. It returns nil after Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

// Close lets requests finish for a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.http.Shutdown(ctx)
}

func handler(report func() Report, wait Waiter) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{report})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, healthy(report())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, ready(report())) })
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(report()) // who asked has gone away
	})
	mux.HandleFunc("GET /api/views/{name}/wait", waitHandler(wait))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "walrill\n\n/healthz\n/readyz\n/metrics\n/api/status\n/api/views/NAME/wait?lsn=LSN&timeout=5s\n")
	})
	return mux
}

// healthy: the process does what it can. What a restart cannot mend is not unhealthy.
func healthy(r Report) error {
	switch r.State {
	case "failed", "slot_lost":
		return fmt.Errorf("%s: %s", r.State, r.Error)
	}
	return nil
}

// ready: changes arrive in Redis right now.
func ready(r Report) error {
	switch {
	case r.State != "streaming":
		return fmt.Errorf("%s: %s", r.State, r.Error)
	case r.Sink.ErrorKind != "":
		return fmt.Errorf("redis does not take entries (%s): %s", r.Sink.ErrorKind, r.Sink.Error)
	}
	return nil
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
