package httpserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/login"
	"gitcluster/internal/service"
)

// A fake is a service in which "pub" may be read by anybody and written by
// alice, "priv" both by bob alone, and "down" needs the journal.
type fake struct {
	upload, receive func(ctx context.Context, q service.Request) error
	started         chan service.Request // requests that were let in, if there is room
}

func (f *fake) may(id cluster.Identity, name cluster.RepoName, write bool) error {
	notFound := cluster.WithHint(fmt.Errorf("repository %q: %w, or you may not read it", name, cluster.ErrNotFound), "list")
	switch {
	case name == "down":
		return fmt.Errorf("the journal did not confirm: %w", cluster.ErrUnavailable)
	case name == "pub" && (!write || id.User == "alice"), name == "priv" && id.User == "bob", name == "new" && id.User == "bob" && write:
		return nil
	case name == "pub":
		return fmt.Errorf("%s may read: %w", id, cluster.ErrDenied)
	}
	return notFound
}

func (f *fake) let(q service.Request) {
	select {
	case f.started <- q:
	default:
	}
}

func (f *fake) AdvertiseRefs(_ context.Context, q service.Request, push bool) error {
	if err := f.may(q.Identity, q.Repo, push); err != nil {
		return err
	}
	f.let(q)
	io.WriteString(q.Stdout, "refs of "+string(q.Repo))
	return nil
}

func (f *fake) UploadPack(ctx context.Context, q service.Request) error {
	if err := f.may(q.Identity, q.Repo, false); err != nil {
		return err
	}
	if q.Await != nil {
		if err := q.Await(); err != nil {
			return err
		}
	}
	f.let(q)
	return f.upload(ctx, q)
}

func (f *fake) ReceivePack(ctx context.Context, q service.Request) error {
	if err := f.may(q.Identity, q.Repo, true); err != nil {
		return err
	}
	f.let(q)
	return f.receive(ctx, q)
}

func (f *fake) Sync(_ context.Context, id cluster.Identity, name cluster.RepoName, write bool, _ func(string)) (service.Synced, error) {
	return service.Synced{}, f.may(id, name, write)
}

// nameLogin takes a user's name for a proof: "alice", "bob"; "bad" and "many" are
// refused.
type nameLogin struct{}

func (nameLogin) Request(r *http.Request) (cluster.Identity, error) {
	switch user, _, _ := r.BasicAuth(); user {
	case "bad":
		return cluster.Identity{}, login.ErrBad
	case "many":
		return cluster.Identity{}, login.ErrTooMany
	default:
		return cluster.Identity{User: cluster.UserName(user)}, nil
	}
}

// A front is a server that runs, and its clients.
type front struct {
	*Server
	fake   *fake
	addr   string
	cert   string // file
	pool   *x509.CertPool
	served chan error
	stop   context.CancelFunc
}

func start(t *testing.T, change func(*Options)) *front {
	t.Helper()
	f := &front{fake: &fake{started: make(chan service.Request, 1)}, served: make(chan error, 1), pool: x509.NewCertPool()}
	echo := func(_ context.Context, q service.Request) error {
		_, err := io.Copy(q.Stdout, q.Stdin)
		return err
	}
	f.fake.upload, f.fake.receive = echo, echo
	dir := t.TempDir()
	f.cert = filepath.Join(dir, "cert.pem")
	writeCertificate(t, dir, "127.0.0.1")
	pem, err := os.ReadFile(f.cert)
	if err != nil {
		t.Fatal(err)
	}
	f.pool.AppendCertsFromPEM(pem)
	log := slog.New(slog.DiscardHandler)
	certificate, err := LoadCertificate(f.cert, filepath.Join(dir, "key.pem"), log)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Service: f.fake, Login: nameLogin{}, Certificate: certificate, Logger: log,
		Rules: func() *access.Directory {
			return access.NewDirectory(nil, []cluster.User{{Name: "bob", Admin: true}}, nil, nil)
		}}
	if change != nil {
		change(&o)
	}
	if f.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	go func() { f.served <- f.Serve(ctx, ln) }()
	t.Cleanup(func() {
		f.stop()
		select {
		case err := <-f.served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the server does not end")
		}
	})
	return f
}

const patience = time.Minute

func writeCertificate(t *testing.T, dir string, hosts ...string) {
	t.Helper()
	cert, key, err := SelfSigned(hosts, time.Now())
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o644), os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// client is an HTTP client of one version of the protocol.
func (f *front) client(t *testing.T, version int) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.pool}, ForceAttemptHTTP2: version == 2, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// versions runs a test under HTTP/1.1 and HTTP/2.
func (f *front) versions(t *testing.T, run func(t *testing.T, c *http.Client)) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("http%d", version), func(t *testing.T) { run(t, f.client(t, version)) })
	}
}

func (f *front) request(t *testing.T, method, path, user string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+f.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, "x")
	}
	if i := strings.LastIndex(path, "/git-"); method == "POST" && i >= 0 {
		r.Header.Set("Content-Type", "application/x-"+path[i+1:]+"-request")
	}
	return r
}

func do(t *testing.T, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	answer, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s %s: %v after %q", r.Method, r.URL, err, text)
	}
	return answer, string(text)
}

// dial opens a TLS connection for HTTP/1.1 by hand.
func (f *front) dial(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: f.pool, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c, bufio.NewReader(c)
}
