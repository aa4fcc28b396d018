package sshserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/session"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// handlerFunc is a session.Handler made of a function.
type handlerFunc func(ctx context.Context, s *session.Session) int

func (f handlerFunc) ServeSession(ctx context.Context, s *session.Session) int { return f(ctx, s) }

// A fixture is a running server with a key that it knows as the user alice and
// one that it knows as the device node1.
type fixture struct {
	*Server
	addr    string
	hostKey ssh.PublicKey
	user    ssh.Signer
	device  ssh.Signer
	log     *lockedBuffer
	stop    context.CancelFunc // ends Serve's context
	served  chan error
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func start(t *testing.T, handler handlerFunc, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{user: newSigner(t), device: newSigner(t), log: new(lockedBuffer), served: make(chan error, 1)}
	host := newSigner(t)
	f.hostKey = host.PublicKey()
	opts := Options{
		HostKey: host,
		Version: "1.2-test",
		Handler: handler,
		Logger:  slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Authenticate: func(_ context.Context, _ string, key ssh.PublicKey, _ netip.AddrPort) (cluster.Identity, error) {
			switch {
			case bytes.Equal(key.Marshal(), f.user.PublicKey().Marshal()):
				return cluster.Identity{User: "alice"}, nil
			case bytes.Equal(key.Marshal(), f.device.PublicKey().Marshal()):
				return cluster.Identity{Device: "node1"}, nil
			}
			return cluster.Identity{}, errors.New("nobody has that key: for the log")
		},
	}
	if change != nil {
		change(&opts)
	}
	var err error
	if f.Server, err = New(opts); err != nil {
		t.Fatal(err)
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.served <- f.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := recv(t, f.served, "Serve to return"); err != nil {
			t.Errorf("Serve: %v", err)
		}
		f.served <- nil // for whoever asks again
	})
	return f
}

func (f *fixture) clientConfig(user string, keys ...ssh.Signer) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(keys...)},
		HostKeyCallback: ssh.FixedHostKey(f.hostKey),
		Timeout:         patience,
	}
}

func (f *fixture) dial(t *testing.T, user string, keys ...ssh.Signer) *ssh.Client {
	t.Helper()
	client, err := ssh.Dial("tcp", f.addr, f.clientConfig(user, keys...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// session opens a session on a connection. The server may take a moment to see
// that the one before it is closed.
func (f *fixture) session(t *testing.T, client *ssh.Client) (s *ssh.Session) {
	t.Helper()
	waitFor(t, "a free channel", func() (string, bool) {
		var err error
		if s, err = client.NewSession(); err != nil {
			return err.Error(), false
		}
		return "", true
	})
	return s
}

// sshArgs writes what the ssh program needs and returns its arguments up to
// and including the host.
func (f *fixture) sshArgs(t *testing.T, user string, private ed25519.PrivateKey) []string {
	t.Helper()
	dir := t.TempDir()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(f.addr)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile := write("key", pem.EncodeToMemory(block))
	known := write("known_hosts", fmt.Appendf(nil, "[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(f.hostKey)))
	config := write("config", fmt.Appendf(nil, `Host node
  HostName %s
  Port %s
  User %s
  IdentityFile %s
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
  SendEnv GIT_PROTOCOL LD_PRELOAD
`, host, port, user, keyFile, known))
	return []string{"-F", config, "node"}
}

// run runs a command and returns its output and exit status.
func run(t *testing.T, s *ssh.Session, command string, stdin io.Reader) (stdout, stderr string, status int) {
	t.Helper()
	var out, errOut lockedBuffer
	s.Stdin, s.Stdout, s.Stderr = stdin, &out, &errOut
	done := make(chan error, 1)
	go func() { done <- s.Run(command) }()
	return finish(t, done, &out, &errOut)
}

func finish(t *testing.T, done <-chan error, out, errOut *lockedBuffer) (string, string, int) {
	t.Helper()
	err := recv(t, done, "a command's end")
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return out.String(), errOut.String(), 0
	case errors.As(err, &exit):
		return out.String(), errOut.String(), exit.ExitStatus()
	}
	t.Fatalf("command: %v; stdout %q, stderr %q", err, out, errOut)
	return "", "", 0
}

// recv waits for a value of a channel.
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
	tick := time.NewTicker(5 * time.Millisecond)
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

// cutConn loses everything that is written to it, once it is cut.
type cutConn struct {
	net.Conn
	cut    atomic.Bool
	writes atomic.Int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if c.cut.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
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
