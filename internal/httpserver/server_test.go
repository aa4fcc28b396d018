package httpserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/service"
)

func TestRoutes(t *testing.T) {
	say := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text+" "+r.URL.Path) })
	}
	f := start(t, func(o *Options) { o.Conduit, o.Pages, o.Metrics = say("conduit"), say("page"), say("metrics") })
	c := f.client(t, 2)
	for path, want := range map[string]string{
		"/healthz": "# ok\n", "/readyz": "# ready\n", "/metrics": "metrics /metrics",
		"/api/conduit.ping": "conduit /api/conduit.ping", "/api//x": "conduit /api//x",
		"/": "page /", "/pub": "page /pub", "/pub/-/tree/main/info": "page /pub/-/tree/main/info", "/a/../b": "page /a/../b",
		"/pub.git/info/refs?service=git-upload-pack": "001e# service=git-upload-pack\n0000refs of pub",
	} {
		if answer, text := do(t, c, f.request(t, "GET", path, "", nil)); answer.StatusCode != 200 || text != want {
			t.Errorf("%s: %d %q", path, answer.StatusCode, text)
		}
	}
	// Through a proxy everybody comes from the proxy.
	for user, want := range map[string]int{"": 401, "alice": 403, "bob": 200} {
		r := f.request(t, "GET", "/metrics", user, nil)
		r.Header.Set("X-Forwarded-For", "127.0.0.1")
		if answer, text := do(t, c, r); answer.StatusCode != want {
			t.Errorf("metrics for %q by a proxy: %d %q", user, answer.StatusCode, text)
		}
	}
}

func TestReady(t *testing.T) {
	var asked atomic.Int32
	f := start(t, func(o *Options) {
		o.Ready = func(context.Context) error {
			asked.Add(1)
			return errors.New("etcd at 10.0.0.1 does not answer")
		}
	})
	c, start := f.client(t, 1), time.Now()
	for range 50 {
		if answer, text := do(t, c, f.request(t, "GET", "/readyz", "", nil)); answer.StatusCode != 503 || text != "# journal unavailable\n" {
			t.Errorf("%d %q", answer.StatusCode, text)
		}
	}
	if n, took := asked.Load(), time.Since(start); n > 2+int32(took/readyFor) {
		t.Errorf("50 requests in %v ask the journal %d times", took, n)
	}
}

// A stop lets a push finish and ends the pages, and Serve returns after both.
func TestShutdown(t *testing.T) {
	page := make(chan error, 1)
	inPage := make(chan struct{})
	f := start(t, func(o *Options) {
		o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(inPage)
			<-r.Context().Done()
			page <- context.Cause(r.Context())
		})
	})
	release := make(chan struct{})
	f.fake.receive = func(ctx context.Context, q service.Request) error {
		select {
		case <-release:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, err := io.WriteString(q.Stdout, "pushed")
		return err
	}
	go f.client(t, 2).Do(f.request(t, "GET", "/", "", nil))
	pushed := make(chan string, 1)
	go func() {
		answer, err := f.client(t, 2).Do(f.request(t, "POST", "/pub/git-receive-pack", "alice", strings.NewReader("x")))
		if err != nil {
			pushed <- err.Error()
			return
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		pushed <- string(text)
	}()
	<-inPage
	<-f.fake.started
	down := make(chan error, 1)
	go func() { down <- f.Shutdown(t.Context()) }()
	if err := <-page; !errors.Is(err, cluster.ErrStopping) {
		t.Errorf("the page ends with %v", err)
	}
	select {
	case err := <-f.served:
		t.Errorf("Serve returned %v in the middle of a push", err)
		f.served <- nil
	default:
	}
	close(release)
	if got := <-pushed; got != "pushed" {
		t.Errorf("the push: %s", got)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// Without time left, requests are ended, and waited for.
func TestShutdownInHaste(t *testing.T) {
	f := start(t, nil)
	ended := make(chan error, 1)
	f.fake.upload = func(ctx context.Context, q service.Request) error {
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond) // as Git does while it cleans up
		ended <- context.Cause(ctx)
		return context.Cause(ctx)
	}
	go f.client(t, 1).Do(f.request(t, "POST", "/pub/git-upload-pack", "", strings.NewReader("x")))
	<-f.fake.started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Shutdown(ctx); err == nil {
		t.Error("nothing was left to end")
	}
	select {
	case err := <-ended:
		if !errors.Is(err, cluster.ErrStopping) {
			t.Errorf("it ended with %v", err)
		}
	default:
		t.Error("a request goes on after Shutdown")
	}
}

func TestPanicEndsOneRequest(t *testing.T) {
	f := start(t, func(o *Options) {
		o.Pages = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("fault") })
	})
	f.versions(t, func(t *testing.T, c *http.Client) {
		if answer, err := c.Do(f.request(t, "GET", "/", "", nil)); err == nil {
			t.Errorf("a panic is answered with %d", answer.StatusCode)
		}
		if answer, _ := do(t, c, f.request(t, "GET", "/healthz", "", nil)); answer.StatusCode != 200 {
			t.Errorf("the next request: %d", answer.StatusCode)
		}
	})
}

func TestAdmission(t *testing.T) {
	a := newAdmission(Limits{Connections: 3, ConnectionsOne: 2})
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	for i, tt := range []struct {
		from netip.Prefix
		want bool
	}{{one, true}, {one, true}, {one, false}, {two, true}, {two, false}} {
		if a.enter(tt.from) != tt.want {
			t.Errorf("entry %d: %v", i, !tt.want)
		}
	}
	a.leave(one)
	if !a.enter(two) {
		t.Error("a place that was left is not free")
	}
	a.leave(one)
	a.leave(two)
	a.leave(two)
	if a.all != 0 || len(a.from) != 0 {
		t.Errorf("after all left: %+v", a)
	}
	f := start(t, func(o *Options) { o.Limits = Limits{Connections: 8, ConnectionsOne: 1} })
	c, r := f.dial(t)
	if _, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: f.pool}); err == nil {
		t.Error("a second connection is served")
	}
	io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	io.Copy(io.Discard, r)
	c.Close()
	deadline := time.Now().Add(patience)
	for {
		again, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: f.pool})
		if err == nil {
			again.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the first has ended: %v", err)
		}
	}
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir, "git.example.com", "192.0.2.1", "2001:db8::1")
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c, err := LoadCertificate(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if names := c.Names(); !slices.Equal(names, []string{"git.example.com", "192.0.2.1", "2001:db8::1"}) {
		t.Errorf("names %q", names)
	}
	first, _ := c.get(nil)
	leaf := first.Leaf
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	for name, good := range map[string]bool{"git.example.com": true, "192.0.2.1": true, "other.example.com": false} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool}); (err == nil) != good {
			t.Errorf("for %s: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil || leaf.IsCA {
		t.Error("it can do more than serve")
	}
	if fp := c.Fingerprint(); len(fp) != 95 || strings.Count(fp, ":") != 31 {
		t.Errorf("fingerprint %s", fp)
	}

	// Another one is noticed; half of one is not.
	look := func() *tls.Certificate {
		c.checked = time.Time{}
		now, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	other := t.TempDir()
	writeCertificate(t, other, "new.example.com")
	replace := func(name string) {
		data, err := os.ReadFile(filepath.Join(other, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	replace("cert.pem")
	if look() != first {
		t.Error("a certificate without its key is served")
	}
	replace("key.pem")
	if look(); !slices.Equal(c.Names(), []string{"new.example.com"}) {
		t.Errorf("names %q", c.Names())
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	if look() == nil {
		t.Error("without its file nothing is served")
	}
}

func TestMetricsAreForTrustedNetworks(t *testing.T) {
	f := start(t, func(o *Options) {
		o.Metrics = http.NotFoundHandler()
		o.Rules = func() *access.Directory { return access.NewDirectory(nil, nil, nil, []netip.Prefix{}) }
	})
	if answer, _ := do(t, f.client(t, 1), f.request(t, "GET", "/metrics", "", nil)); answer.StatusCode != 401 {
		t.Errorf("from a network that is not trusted: %d", answer.StatusCode)
	}
}
