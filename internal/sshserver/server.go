package sshserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

// Options say what a server does. HostKey, Authenticate, Handler and Version
// are required.
type Options struct {
	HostKey ssh.Signer // Ed25519: a device has no other key

	// Authenticate says who holds a key. It is asked before the client has
	// proved that it does, possibly for several keys of one client, so it must
	// have no effect. Its error is logged and never sent.
	Authenticate func(ctx context.Context, user string, key ssh.PublicKey, remote netip.AddrPort) (cluster.Identity, error)

	Handler session.Handler

	// JoinHandler serves [JoinCommand] for the login name [JoinUser]. The key is
	// the one that the client proved to hold; nothing else is known of it. Nil
	// refuses that login name.
	JoinHandler func(ctx context.Context, key ssh.PublicKey, s *session.Session) (exitStatus int)

	Logger  *slog.Logger // nil discards
	Version string       // of this program, for the protocol's greeting
	Limits  Limits       // zero fields stand for the defaults
}

// A Server serves SSH on any number of listeners.
type Server struct {
	opts   Options
	limits Limits
	log    *slog.Logger
	admit  *admission

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	stopping  bool
	idle      chan struct{} // closed when stopping and no connection is left
}

// New checks the options and returns a server that serves nothing yet.
func New(opts Options) (*Server, error) {
	switch {
	case opts.HostKey == nil:
		return nil, errors.New("ssh server: no host key")
	case opts.HostKey.PublicKey().Type() != ssh.KeyAlgoED25519:
		return nil, fmt.Errorf("ssh server: the host key is of the type %q, not %q", opts.HostKey.PublicKey().Type(), ssh.KeyAlgoED25519)
	case opts.Authenticate == nil:
		return nil, errors.New("ssh server: nothing authenticates clients")
	case opts.Handler == nil:
		return nil, errors.New("ssh server: nothing handles commands")
	case opts.Version == "":
		return nil, errors.New("ssh server: no version to greet with")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	limits := opts.Limits.withDefaults()
	return &Server{
		opts:      opts,
		limits:    limits,
		log:       opts.Logger,
		admit:     newAdmission(limits),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		idle:      make(chan struct{}),
	}, nil
}

// Listen opens a TCP address, such as ":2222", without serving it, so that a
// node can claim its ports before it starts anything else.
func Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	return ln, nil
}

// Serve accepts connections until ctx ends, which also ends all of them at
// once, or until [Server.Shutdown], which lets them finish. It returns nil
// after either, when none of its connections is left; it closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer ln.Close()
	if !s.addListener(ln) {
		return nil
	}
	defer s.dropListener(ln)
	defer context.AfterFunc(ctx, func() { ln.Close() })()

	var conns sync.WaitGroup
	defer conns.Wait()
	backoff := acceptBackoff{}
	for {
		nc, err := ln.Accept()
		if err != nil {
			switch {
			case ctx.Err() != nil || s.isStopping():
				return nil
			case errors.Is(err, net.ErrClosed):
				cancel() // the listener was taken from us: nobody will shut these down
				return fmt.Errorf("ssh server: %w", err)
			}
			// Out of file descriptors, most likely. Running sessions will give
			// some back; ending the node would not help anybody.
			s.log.Error("cannot accept a connection", "error", err)
			if backoff.wait(ctx) != nil {
				return nil
			}
			continue
		}
		backoff.reset()
		conns.Go(func() { s.serveConn(ctx, nc) })
	}
}

// Shutdown stops accepting connections and commands, waits for the running
// commands, and closes each connection after its last one. When ctx ends first,
// it closes what is left and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopping
	s.stopping = true
	for ln := range s.listeners {
		ln.Close()
	}
	open := s.openConns()
	if first && len(open) == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.drain()
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	open = s.openConns()
	s.mu.Unlock()
	for _, c := range open {
		c.end()
	}
	if len(open) == 0 {
		return nil
	}
	return fmt.Errorf("ssh server: %d connections were still busy: %w", len(open), ctx.Err())
}

// openConns is called with the mutex held.
func (s *Server) openConns() []*conn {
	open := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	return open
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

func (s *Server) addListener(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) dropListener(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}

func (s *Server) addConn(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) dropConn(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.stopping && len(s.conns) == 0 {
		close(s.idle)
	}
}

// acceptBackoff spaces out attempts to accept after failures.
type acceptBackoff struct{ delay time.Duration }

func (b *acceptBackoff) reset() { b.delay = 0 }

func (b *acceptBackoff) wait(ctx context.Context) error {
	b.delay = min(max(2*b.delay, 5*time.Millisecond), time.Second)
	select {
	case <-time.After(b.delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// greeting is the line that opens the protocol. RFC 4253 allows printable ASCII
// without spaces and minus signs in the part we choose.
func greeting(version string) string {
	plain := strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || r == '-' {
			return '_'
		}
		return r
	}, version)
	return session.ServerVersion + plain[:min(len(plain), 64)]
}
