package localsocket

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

type sessionFunc func(ctx context.Context, s *session.Session) int

func (f sessionFunc) ServeSession(ctx context.Context, s *session.Session) int { return f(ctx, s) }

type hookFunc func(ctx context.Context, req HookRequest, stdin io.Reader, stdout, stderr io.Writer) int

func (f hookFunc) ServeHook(ctx context.Context, req HookRequest, stdin io.Reader, stdout, stderr io.Writer) int {
	return f(ctx, req, stdin, stdout, stderr)
}

// A fixture is a server on a data directory of its own.
type fixture struct {
	*Server
	dir    string
	socket string
	log    *lockedBuffer
	stop   context.CancelFunc
	served chan error
}

func start(t *testing.T, s *Server) *fixture {
	t.Helper()
	f := &fixture{Server: s, dir: t.TempDir(), log: new(lockedBuffer), served: make(chan error, 1)}
	s.Logger = slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ln, err := Listen(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.socket, err = Path(f.dir); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	go func() { f.served <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		f.stop()
		if err := recv(t, f.served, "Serve to return"); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

// result is what a request ended with.
type result struct {
	stdout, stderr string
	exit           int
	err            error
}

func (f *fixture) run(t *testing.T, req SessionRequest, stdin io.Reader) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, errOut bytes.Buffer
	exit, err := RunSession(ctx, f.dir, req, stdin, &out, &errOut)
	return result{out.String(), errOut.String(), exit, err}
}

// raw connects and sends a request line without the client.
func (f *fixture) raw(t *testing.T, line string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := Dial(ctx, f.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	return conn
}

const operatorLine = `{"kind":"session","command":"x","as":{"operator":true}}` + "\n"

var operator = SessionRequest{Command: "x", As: cluster.Identity{Operator: true}}

func recv[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("gave up waiting for %s", what)
		panic("not reached")
	}
}

// waitFor asks until the answer is yes, or fails with the last thing seen.
func waitFor(t *testing.T, what string, ask func() (seen string, ok bool)) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		seen, ok := ask()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gave up waiting for %s; last seen: %s", what, seen)
		}
	}
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
