package localsocket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

// A HookHandler serves the hooks of pushes. It checks the token first: any
// process of the node's account can claim to be a hook. The context ends when
// the hook goes away or the node stops.
type HookHandler interface {
	ServeHook(ctx context.Context, req HookRequest, stdin io.Reader, stdout, stderr io.Writer) (exit int)
}

// A Server serves one node's socket. Its fields must not change once it serves.
type Server struct {
	Sessions session.Handler // nil refuses sessions
	Hooks    HookHandler     // nil refuses hooks
	// Admit says whether a user or a device that something else authenticated
	// (sshd, for `git cluster shell`) may come in from an address, if it is
	// known. Its error is for the log. Nil lets only the operator in.
	Admit  func(ctx context.Context, id cluster.Identity, remote netip.AddrPort) error
	Logger *slog.Logger // nil discards

	mu       sync.Mutex
	ln       net.Listener
	cancel   context.CancelFunc
	sessions int // running
	conns    int
	stopping bool
	settled  chan struct{} // closed when stopping and no session is left
	served   chan struct{} // closed when Serve returns
}

// Bounds of what callers can hold. All of them share the node's account, so
// these are against mistakes.
const (
	maxConns    = 4096
	requestTime = 10 * time.Second // from connecting to a whole request
	lastWords   = 2 * time.Second  // for a client to take the last frames
	stallCheck  = 250 * time.Millisecond
)

// Serve accepts callers until ctx ends, which also cancels what they asked for,
// or until [Server.Shutdown]. It returns nil after either, when no request is
// left. It closes ln, and serves only one listener in its life.
func (s *Server) Serve(ctx context.Context, ln *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer ln.Close()
	s.mu.Lock()
	s.setup()
	if s.ln != nil || s.stopping {
		s.mu.Unlock()
		return errors.New("socket: this server has served already")
	}
	s.ln, s.cancel = ln, cancel
	s.mu.Unlock()
	defer close(s.served)
	defer context.AfterFunc(ctx, func() { ln.Close() })()

	var conns sync.WaitGroup
	defer conns.Wait()
	delay := time.Duration(0)
	for {
		conn, err := ln.AcceptUnix()
		if err == nil {
			delay = 0
			conns.Go(func() { s.serveConn(ctx, conn) })
			continue
		}
		if ctx.Err() != nil || s.isStopping() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			cancel() // taken from us: nobody will shut these down
			return fmt.Errorf("socket: %w", err)
		}
		// Out of file descriptors, most likely: running requests give some back.
		s.log().Error("cannot accept a local caller", "error", err)
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil
		}
	}
}

// Shutdown refuses new sessions and waits for what is running. Hooks are
// served while sessions are left, because sessions, also those of other fronts, cannot finish
// a push without them; so the other fronts are to be shut down first. When ctx
// ends first, what is left is canceled and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.setup()
	if !s.stopping {
		s.stopping = true
		s.settle()
	}
	ln, cancel := s.ln, s.cancel
	s.mu.Unlock()
	if ln == nil {
		return nil
	}
	select {
	case <-s.settled:
		ln.Close() // then Serve returns, after the last hook
	case <-ctx.Done():
	}
	select {
	case <-s.served:
		return nil
	case <-ctx.Done():
		cancel()
		return fmt.Errorf("socket: requests were still running: %w", ctx.Err())
	}
}

// setup is called with the mutex held, as is settle.
func (s *Server) setup() {
	if s.settled == nil {
		s.settled = make(chan struct{})
		s.served = make(chan struct{})
	}
}

func (s *Server) settle() {
	if s.stopping && s.sessions == 0 {
		select {
		case <-s.settled:
		default:
			close(s.settled)
		}
	}
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= maxConns {
		return false
	}
	s.conns++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

func (s *Server) enterSession() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.sessions++
	return true
}

func (s *Server) leaveSession() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions--
	s.settle()
}

// serveConn serves one caller.
func (s *Server) serveConn(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	// The mode of the file keeps others out; this does even where a directory's
	// mode, a lax umask or a copied socket would not.
	uid, err := peerUID(conn)
	if err != nil || uid != 0 && uid != os.Geteuid() {
		s.log().Warn("local caller refused", "uid", uid, "error", err)
		return
	}
	if !s.enter() {
		s.log().Warn("local caller refused: too many at once")
		return
	}
	defer s.leave()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return
	}
	// A node that stops does not wait for whoever has asked for nothing yet.
	early := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
	r := bufio.NewReaderSize(conn, maxRequest)
	req, err := readRequest(r)
	early()
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	switch {
	case err == io.EOF:
		return // somebody who looks whether we are there
	case err != nil && ctx.Err() != nil:
		err = cluster.ErrStopping
	}
	c := &caller{conn: conn, in: r, out: &frameWriter{w: conn}, log: s.log(), cancel: cancel}
	if err != nil {
		c.fail(err)
		return
	}
	if req.Kind == kindHook {
		err = s.serveHook(ctx, c, req)
	} else {
		err = s.serveSession(ctx, c, req)
	}
	if err != nil {
		c.fail(err)
	}
}

func (s *Server) serveHook(ctx context.Context, c *caller, req request) error {
	hook, err := req.hook()
	if err != nil {
		return err
	}
	if s.Hooks == nil {
		return errors.New("this node serves no hooks")
	}
	c.run(ctx, func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int {
		return s.Hooks.ServeHook(ctx, hook, stdin, stdout, stderr)
	})
	return nil
}

func (s *Server) serveSession(ctx context.Context, c *caller, req request) error {
	want, err := req.session()
	if err != nil {
		return err
	}
	if s.Sessions == nil {
		return errors.New("this node serves no sessions")
	}
	if !want.As.Operator {
		err := errors.New("nothing on this node admits users and devices")
		if s.Admit != nil {
			err = s.Admit(ctx, want.As, want.Remote)
		}
		if err != nil {
			s.log().Info("local session refused", "identity", want.As.String(), "remote", want.Remote.String(), "error", err)
			return cluster.ErrDenied // and not which of its reasons
		}
	}
	if !s.enterSession() {
		return cluster.ErrStopping
	}
	defer s.leaveSession()
	c.run(ctx, func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int {
		return s.Sessions.ServeSession(ctx, &session.Session{
			Identity: want.As,
			Remote:   want.Remote,
			Command:  want.Command,
			Env:      want.Env,
			Stdin:    stdin,
			Stdout:   stdout,
			Stderr:   stderr,
		})
	})
	return nil
}

// A caller is the other end of one connection.
type caller struct {
	conn   *net.UnixConn
	in     *bufio.Reader
	out    *frameWriter
	log    *slog.Logger
	cancel context.CancelFunc
}

// run runs what the caller asked for and tells it the exit status.
func (c *caller) run(ctx context.Context, command func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int) {
	// When the node stops, nobody may keep it: neither by not sending nor by
	// not reading.
	defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Now().Add(lastWords)) })()
	input := newInput()
	feed := make(chan struct{})
	go func() {
		defer close(feed)
		// Whatever ends the input's connection, rather than only the input,
		// means that nobody waits for the outcome any more.
		defer c.cancel()
		input.fill(ctx, c.conn, c.in)
	}()
	status, ok := c.protect(ctx, command, input.reader(ctx))
	input.close()
	if !ok {
		c.fail(errors.New("internal error; the node's log has the details"))
	} else {
		c.last(frameExit, exitFrame{Status: &status})
	}
	<-feed
}

// protect keeps a panic of one request from ending the node.
func (c *caller) protect(ctx context.Context, command func(context.Context, io.Reader, io.Writer, io.Writer) int, stdin io.Reader) (status int, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("a local request panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			status, ok = 0, false
		}
	}()
	return command(ctx, stdin, c.out.stream(frameStdout), c.out.stream(frameStderr)), true
}

// fail tells the caller why there is no exit status.
func (c *caller) fail(err error) {
	c.log.Debug("local request failed", "error", err)
	c.last(frameError, errorFrame{Message: err.Error(), Hint: cluster.Hint(err)})
}

// last sends the last frame, then lets the caller hang up: closing a socket with
// unread input can take from the other end what it has not read yet.
func (c *caller) last(kind frameType, content any) {
	text, err := json.Marshal(content)
	if err == nil && len(text) <= maxFrame {
		c.conn.SetWriteDeadline(time.Now().Add(lastWords))
		_, err = c.out.send(kind, text)
	}
	if err != nil {
		c.log.Debug("a local caller did not take its answer", "error", err)
		c.conn.SetReadDeadline(time.Now())
		return
	}
	c.conn.SetReadDeadline(time.Now().Add(lastWords))
	if kind == frameError {
		io.Copy(io.Discard, c.conn)
	}
}
