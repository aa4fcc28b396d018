package localsocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

func TestNodeGone(t *testing.T) {
	f := start(t, &Server{Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int { return 0 })})
	ln, err := Listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for _, answer := range []string{"", "\x03\x00", "\x05\x00\x00\x00\x02{}", "\x63\x00\x00\x00\x00", "\x01\x00\x00\x00\x00"} {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	for range 5 {
		_, err := RunHook(t.Context(), ln.Addr().String(), HookRequest{Hook: PreReceive, Push: "p"}, nil, io.Discard, io.Discard)
		if !errors.Is(err, ErrNodeGone) && !errors.Is(err, errBadFrame) {
			t.Errorf("a node that goes away without a status: %v", err)
		}
	}
	f.stop()
	if err := recv(t, f.served, "Serve"); err != nil {
		t.Error(err)
	}
	f.served <- nil
	if got := f.run(t, operator, nil); !errors.Is(got.err, ErrNoNode) || cluster.Hint(got.err) == "" {
		t.Errorf("no node: %+v", got)
	}
}

func TestClientContext(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	f := start(t, &Server{Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int {
		close(started)
		<-ctx.Done()
		close(ended)
		return 0
	})})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := RunSession(ctx, f.dir, operator, nil, io.Discard, io.Discard)
		done <- err
	}()
	recv(t, started, "the command")
	cancel()
	if err := recv(t, done, "the client"); !errors.Is(err, context.Canceled) {
		t.Errorf("client: %v", err)
	}
	recv(t, ended, "the command to be canceled")
}

func TestPanic(t *testing.T) {
	f := start(t, &Server{Sessions: sessionFunc(func(_ context.Context, s *session.Session) int { panic("the reason") })})
	for range 2 {
		if got := f.run(t, operator, nil); got.err == nil || !strings.Contains(got.err.Error(), "internal error") {
			t.Errorf("%+v", got)
		}
	}
	if !strings.Contains(f.log.String(), "the reason") {
		t.Error("the log does not have the panic")
	}
}

func TestShutdown(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	f := start(t, &Server{
		Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int {
			close(started)
			select {
			case <-release:
				return 5
			case <-ctx.Done():
				return 6
			}
		}),
		Hooks: hookFunc(func(context.Context, HookRequest, io.Reader, io.Writer, io.Writer) int { return 4 }),
	})
	running := make(chan result, 1)
	go func() { running <- f.run(t, operator, nil) }()
	recv(t, started, "the session")
	down := make(chan error, 1)
	go func() { down <- f.Shutdown(context.Background()) }()
	waitFor(t, "the server to be stopping", func() (string, bool) { return "", f.isStopping() })
	if got := f.run(t, operator, nil); got.err == nil || got.err.Error() != cluster.ErrStopping.Error() {
		t.Errorf("a new session while stopping: %+v", got)
	}
	// The running session may be a push, which cannot end without its hooks.
	exit, err := RunHook(t.Context(), f.socket, HookRequest{Hook: PreReceive, Push: "p"}, nil, io.Discard, io.Discard)
	if exit != 4 || err != nil {
		t.Errorf("a hook while stopping: %d, %v", exit, err)
	}
	close(release)
	if got := recv(t, running, "the session"); got.exit != 5 || got.err != nil {
		t.Errorf("the running session: %+v", got)
	}
	if err := recv(t, down, "Shutdown"); err != nil {
		t.Error(err)
	}
	if got := f.run(t, operator, nil); !errors.Is(got.err, ErrNoNode) {
		t.Errorf("after Shutdown: %+v", got)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	started := make(chan struct{})
	f := start(t, &Server{Sessions: sessionFunc(func(ctx context.Context, s *session.Session) int {
		close(started)
		<-ctx.Done()
		fmt.Fprint(s.Stderr, "canceled")
		return 6
	})})
	running := make(chan result, 1)
	go func() { running <- f.run(t, operator, nil) }()
	recv(t, started, "the session")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := f.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	// It can still say its last words.
	if got := recv(t, running, "the session"); got.exit != 6 || got.stderr != "canceled" || got.err != nil {
		t.Errorf("the session: %+v", got)
	}
}
