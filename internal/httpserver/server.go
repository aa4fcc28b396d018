// Package httpserver is the HTTPS front of a node: Git's smart protocol, and the
// way to the pages, to Conduit, and to what operators look at.
//
// Entry points: [New], [Listen] and [Server.Serve]; [LoadCertificate] and
// [SelfSigned] for its certificate.
//
// It promises that no request reaches a repository but through the service, with
// the identity that login gave it; that nothing a client sends or fetches is held in memory whole; that a
// client which does not move is let go; and that an answer which is not whole
// does not look so.
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/service"
)

// A Service serves Git's requests; it is a [service.Service].
type Service interface {
	AdvertiseRefs(ctx context.Context, q service.Request, push bool) error
	UploadPack(ctx context.Context, q service.Request) error
	ReceivePack(ctx context.Context, q service.Request) error
	Sync(ctx context.Context, id cluster.Identity, name cluster.RepoName, write bool, tell func(string)) (service.Synced, error)
}

// A Login says who a request comes from; it is a [login.Login].
type Login interface {
	Request(r *http.Request) (cluster.Identity, error)
}

// Options say what a server does. Service, Login, Rules and Certificate are
// required.
type Options struct {
	Service     Service
	Login       Login
	Rules       func() *access.Directory // who may see the metrics
	Certificate *Certificate

	Conduit http.Handler                    // below /api/; nil: not found
	Pages   http.Handler                    // everything that is nobody else's; nil: not found
	Metrics http.Handler                    // nil: not found
	Ready   func(ctx context.Context) error // whether this node could serve; nil: always

	Logger *slog.Logger // nil discards
	Limits Limits       // zero fields stand for the defaults
}

// A Server serves HTTPS.
type Server struct {
	opts   Options
	limits Limits
	log    *slog.Logger
	http   *http.Server
	admit  *admission
	ready  readiness

	downgrades downgrades

	base     context.Context // of all requests
	end      context.CancelCauseFunc
	draining context.Context // of requests that a stop need not wait for
	drain    context.CancelCauseFunc

	mu       sync.Mutex
	ended    bool // no request begins any more
	requests sync.WaitGroup
}

// New returns a server that serves nothing yet.
func New(opts Options) (*Server, error) {
	if opts.Service == nil || opts.Login == nil || opts.Rules == nil || opts.Certificate == nil {
		return nil, errors.New("http server: an option is missing")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: opts, limits: opts.Limits.withDefaults(), log: opts.Logger}
	s.admit = newAdmission(s.limits)
	s.base, s.end = context.WithCancelCause(context.Background())
	s.draining, s.drain = context.WithCancelCause(s.base)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         s.downgrades.configs(opts.Certificate.get),
		ReadHeaderTimeout: s.limits.HeaderTime,
		IdleTimeout:       s.limits.Idle,
		MaxHeaderBytes:    s.limits.HeaderBytes,
		// No pings: Git answers none while it prepares what it sends.
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: s.limits.Streams, WriteByteTimeout: s.limits.Stall},
		BaseContext: func(net.Listener) context.Context { return s.base },
		// Anybody can make it write, so it is for those who look for it.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Listen opens a TCP address, such as ":8443", without serving it, so that a node
// can claim its ports before it starts anything else.
func Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("http server: %w", err)
	}
	return ln, nil
}

// Serve serves connections until ctx ends, which also ends all of them at once, or
// until [Server.Shutdown], which lets requests finish. It returns nil after
// either, when no request is left and every process they started is gone; it
// closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() {
		s.end(cluster.ErrStopping)
		s.http.Close()
	})()
	err := s.http.ServeTLS(s.admit.listener(ln), "", "")
	if !errors.Is(err, http.ErrServerClosed) {
		s.end(err)
		s.http.Close()
		err = fmt.Errorf("http server: %w", err)
	} else {
		err = nil
	}
	// After Shutdown requests may still run, and begin on connections that are
	// open; when it is done with those, it ends s.base.
	<-s.base.Done()
	s.awaitRequests()
	return err
}

// awaitRequests waits for the last of all requests.
func (s *Server) awaitRequests() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.requests.Wait()
}

// Shutdown stops accepting connections, lets Git's requests and Conduit's finish,
// and ends the pages'. When ctx ends first, it ends what is left, waits for that,
// and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.drain(cluster.ErrStopping)
	err := s.http.Shutdown(ctx)
	s.end(cluster.ErrStopping)
	if err != nil {
		s.http.Close()
		s.awaitRequests()
		return fmt.Errorf("http server: requests were still busy: %w", err)
	}
	return nil
}

// serve is every request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.requests.Add(1)
	s.mu.Unlock()
	defer s.requests.Done()

	x := s.exchange(w, r)
	defer func() {
		if p := recover(); p != nil {
			s.breakOff(x, p)
		}
		x.finish()
	}()
	r = x.request
	switch path := r.URL.Path; {
	case isGit(path):
		s.serveGit(x, r)
	case path == "/healthz":
		answer(x, http.StatusOK, "ok")
	case path == "/readyz":
		s.serveReady(x, r)
	case path == "/metrics":
		s.serveMetrics(x, r)
	case strings.HasPrefix(path, "/api/") && s.opts.Conduit != nil:
		s.opts.Conduit.ServeHTTP(x, r)
	case s.opts.Pages != nil:
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		defer context.AfterFunc(s.draining, func() { cancel(cluster.ErrStopping) })()
		s.opts.Pages.ServeHTTP(x, r.WithContext(ctx))
	default:
		answer(x, http.StatusNotFound, "there is no such page here")
	}
}

// breakOff ends a request, and with it the connection or stream, after a panic: one
// of our own, or a fault, of which the log shall tell. The node has other
// clients.
func (s *Server) breakOff(x *exchange, p any) {
	if p != http.ErrAbortHandler {
		s.log.Error("a request panicked", "path", x.request.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
	if x.body != nil {
		x.body.stop()
	}
	panic(http.ErrAbortHandler)
}
