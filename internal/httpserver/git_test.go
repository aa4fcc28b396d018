package httpserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/service"
)

func TestRefs(t *testing.T) {
	f := start(t, nil)
	f.versions(t, func(t *testing.T, c *http.Client) {
		for _, tt := range []struct{ path, service, version, user, want, protocol string }{
			{"/pub.git", "git-upload-pack", "", "", "001e# service=git-upload-pack\n0000refs of pub", ""},
			{"/pub", "git-upload-pack", "version=2", "", "refs of pub", "version=2"},
			{"/pub", "git-upload-pack", "key=x:version=1:LD_PRELOAD=x:version=2:version=7", "", "refs of pub", "version=2"},
			{"/pub", "git-upload-pack", "version=1", "", "001e# service=git-upload-pack\n0000refs of pub", "version=1"},
			{"/pub", "git-upload-pack", "version=2; rm", "", "001e# service=git-upload-pack\n0000refs of pub", ""},
			{"/pub.git", "git-receive-pack", "version=2", "alice", "001f# service=git-receive-pack\n0000refs of pub", ""},
			{"/%70riv.git", "git-upload-pack", "", "bob", "001e# service=git-upload-pack\n0000refs of priv", ""},
		} {
			r := f.request(t, "GET", tt.path+"/info/refs?service="+tt.service, tt.user, nil)
			r.Header.Set("Git-Protocol", tt.version)
			answer, text := do(t, c, r)
			q := <-f.fake.started
			if answer.StatusCode != 200 || text != tt.want || q.Protocol != tt.protocol {
				t.Errorf("%s %s %q: %d %q with protocol %q", tt.path, tt.service, tt.version, answer.StatusCode, text, q.Protocol)
			}
			h := answer.Header
			if h.Get("Content-Type") != "application/x-"+tt.service+"-advertisement" || h.Get("Expires") != "Fri, 01 Jan 1980 00:00:00 GMT" ||
				h.Get("Pragma") != "no-cache" || h.Get("Cache-Control") != "no-cache, max-age=0, must-revalidate" {
				t.Errorf("%s %s: headers %v", tt.path, tt.service, h)
			}
			if q.Front != "http" || !q.Stateless || !q.Remote.IsValid() {
				t.Errorf("the request is %+v", q)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	f := start(t, nil)
	const refs = "/info/refs?service="
	f.versions(t, func(t *testing.T, c *http.Client) {
		for _, tt := range []struct {
			method, path, user string
			status             int
			says               string
		}{
			{"GET", "/priv" + refs + "git-upload-pack", "", 401, "signed in"},
			{"GET", "/gone" + refs + "git-upload-pack", "", 401, "signed in"},
			{"GET", "/pub" + refs + "git-receive-pack", "", 401, "signed in"},
			{"GET", "/gone" + refs + "git-receive-pack", "", 401, "signed in"},
			{"POST", "/priv/git-upload-pack", "", 401, "signed in"},
			{"POST", "/pub/git-receive-pack", "", 401, "signed in"},
			{"GET", "/priv" + refs + "git-upload-pack", "alice", 404, "not found, or you may not read it\n# hint: list"},
			{"GET", "/pub" + refs + "git-receive-pack", "bob", 403, "bob may read"},
			{"GET", "/pub" + refs + "git-upload-pack", "bad", 401, "not valid"},
			{"GET", "/gone" + refs + "git-upload-pack", "bad", 401, "not valid"},
			{"GET", "/pub" + refs + "git-upload-pack", "many", 429, "too many"},
			{"GET", "/down" + refs + "git-upload-pack", "alice", 503, "did not confirm"},
			{"POST", "/down/git-upload-pack", "alice", 503, "did not confirm"},
			{"POST", "/down/git-receive-pack", "alice", 503, "did not confirm"},
			{"GET", "/a/../pub" + refs + "git-upload-pack", "alice", 404, "bad repository name"},
			{"GET", "/..%2fpub" + refs + "git-upload-pack", "alice", 404, "bad repository name"},
			{"GET", refs + "git-upload-pack", "alice", 404, "empty"},
			{"GET", "/pub/info/refs", "", 403, "smart HTTP"},
			{"GET", "/pub" + refs + "git-upload-archive", "", 403, "smart HTTP"},
			{"POST", "/pub" + refs + "git-upload-pack", "", 405, "GET"},
			{"GET", "/pub/git-upload-pack", "", 405, "POST"},
			{"GET", "/pub/HEAD", "", 404, "no such page"},
			{"GET", "/pub/objects/info/packs", "", 404, "no such page"},
		} {
			answer, text := do(t, c, f.request(t, tt.method, tt.path, tt.user, strings.NewReader("")))
			if answer.StatusCode != tt.status || !strings.Contains(text, tt.says) || !strings.HasPrefix(text, "# ") || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("%s %s as %q: %d %q", tt.method, tt.path, tt.user, answer.StatusCode, text)
			}
			challenges := answer.Header.Values("WWW-Authenticate")
			if (len(challenges) == 2) != (tt.status == 401) || len(challenges) > 0 && (!strings.HasPrefix(challenges[0], "Basic ") || !strings.HasPrefix(challenges[1], "ClusterDevice ")) {
				t.Errorf("%s %s: challenges %q", tt.method, tt.path, challenges)
			}
			if (answer.Header.Get("Retry-After") != "") != (tt.status == 429 || tt.status == 503) {
				t.Errorf("%s %s: Retry-After %q", tt.method, tt.path, answer.Header.Get("Retry-After"))
			}
		}
		// A private repository and one that is not there answer alike but for the name.
		for _, user := range []string{"", "alice"} {
			for _, wanted := range []string{"git-upload-pack", "git-receive-pack"} {
				one, text1 := do(t, c, f.request(t, "GET", "/priv"+refs+wanted, user, nil))
				two, text2 := do(t, c, f.request(t, "GET", "/gone"+refs+wanted, user, nil))
				one.Header.Del("Date")
				two.Header.Del("Date")
				if one.StatusCode != two.StatusCode || strings.ReplaceAll(text1, "priv", "gone") != text2 || fmt.Sprint(one.Header) != fmt.Sprint(two.Header) {
					t.Errorf("as %q: %v %q and %v %q", user, one.Header, text1, two.Header, text2)
				}
			}
		}
		for header, value := range map[string]string{"Content-Type": "text/plain", "Content-Encoding": "deflate"} {
			r := f.request(t, "POST", "/pub/git-upload-pack", "", strings.NewReader("x"))
			r.Header.Set(header, value)
			if answer, text := do(t, c, r); answer.StatusCode != 415 {
				t.Errorf("%s %s: %d %q", header, value, answer.StatusCode, text)
			}
		}
	})
}

func TestCompressedBody(t *testing.T) {
	f := start(t, nil)
	want := strings.Repeat("0032want 1234567890123456789012345678901234567890\n", 5000)
	var small bytes.Buffer
	w := gzip.NewWriter(&small)
	io.WriteString(w, want)
	w.Close()
	f.versions(t, func(t *testing.T, c *http.Client) {
		for _, encoding := range []string{"gzip", "x-gzip"} {
			r := f.request(t, "POST", "/pub/git-upload-pack", "", bytes.NewReader(small.Bytes()))
			r.Header.Set("Content-Encoding", encoding)
			if answer, text := do(t, c, r); answer.StatusCode != 200 || text != want {
				t.Errorf("%s: %d, %d bytes", encoding, answer.StatusCode, len(text))
			}
			// One that is cut off is an error, and looks like one.
			r = f.request(t, "POST", "/pub/git-upload-pack", "", bytes.NewReader(small.Bytes()[:small.Len()-9]))
			r.Header.Set("Content-Encoding", encoding)
			if answer, err := c.Do(r); err == nil {
				if text, err := io.ReadAll(answer.Body); err == nil && answer.StatusCode == 200 {
					t.Errorf("%s, cut off: %d bytes and no error", encoding, len(text))
				}
				answer.Body.Close()
			}
		}
	})
}

// Git asks with four bytes whether it would be let in; nothing is pushed by that.
func TestProbe(t *testing.T) {
	f := start(t, nil)
	f.fake.receive = func(context.Context, service.Request) error { return errors.New("a push was begun") }
	for user, want := range map[string]int{"bob": 200, "alice": 404, "": 401} {
		answer, text := do(t, f.client(t, 1), f.request(t, "POST", "/new/git-receive-pack", user, strings.NewReader("0000")))
		if answer.StatusCode != want || want == 200 && (text != "" || answer.Header.Get("Content-Type") != "application/x-git-receive-pack-result") {
			t.Errorf("as %q: %d %q", user, answer.StatusCode, text)
		}
	}
	if answer, _ := do(t, f.client(t, 1), f.request(t, "POST", "/new/git-receive-pack", "bob", strings.NewReader("0009"))); answer.StatusCode != 400 {
		t.Errorf("four other bytes: %d", answer.StatusCode)
	}
}

// An answer that is not whole does not look whole; one of which nobody knows the
// outcome has begun, so that the client does not send its request again.
func TestBrokenAnswers(t *testing.T) {
	f := start(t, nil)
	begin := func(q service.Request) { io.WriteString(q.Stdout, "some") }
	exit := func(status int) error { return &gitexec.ExitError{Command: "git", Status: status} }
	f.versions(t, func(t *testing.T, c *http.Client) {
		for _, tt := range []struct {
			name  string
			run   func(q service.Request) error
			fetch string // the status, and how the body ends
			push  string
		}{
			{"Git fails after it said why", func(q service.Request) error { begin(q); return exit(128) }, "200 whole", "200 broken"},
			{"Git is killed", func(q service.Request) error { begin(q); return exit(-1) }, "200 broken", "200 broken"},
			{"Git fails at once", func(service.Request) error { return exit(128) }, "500 whole", "500 whole"},
			{"Git is killed at once", func(service.Request) error { return exit(-1) }, "500 whole", "200 broken"},
			{"the outcome is not known", func(service.Request) error { return fmt.Errorf("%w: %w", engine.ErrUnclear, cluster.ErrUnavailable) }, "503 whole", "200 broken"},
			{"the node stops", func(service.Request) error { return cluster.ErrStopping }, "503 whole", "200 broken"},
			{"the journal is gone", func(service.Request) error { return cluster.ErrUnavailable }, "503 whole", "503 whole"},
		} {
			calls := 0
			f.fake.upload = func(_ context.Context, q service.Request) error { return tt.run(q) }
			f.fake.receive = func(_ context.Context, q service.Request) error { calls++; return tt.run(q) }
			see := func(path, user string) string {
				answer, err := c.Do(f.request(t, "POST", path, user, strings.NewReader("00000")))
				if err != nil {
					return err.Error()
				}
				defer answer.Body.Close()
				if _, err := io.ReadAll(answer.Body); err != nil {
					return fmt.Sprint(answer.StatusCode, " broken")
				}
				return fmt.Sprint(answer.StatusCode, " whole")
			}
			if got := see("/pub/git-upload-pack", ""); got != tt.fetch {
				t.Errorf("fetch, %s: %s, want %s", tt.name, got, tt.fetch)
			}
			if got := see("/pub/git-receive-pack", "alice"); got != tt.push || calls != 1 {
				t.Errorf("push, %s: %s after %d calls, want %s", tt.name, got, calls, tt.push)
			}
		}
	})
}

func TestProtocolIsNoEnvironment(t *testing.T) {
	for _, h := range [][]string{{"version=3"}, {"version=2\x00"}, {" version=2"}, {"x"}, {""}, nil, {"version=22"}} {
		if got := protocol(h); got != "" {
			t.Errorf("%q becomes %q", h, got)
		}
	}
	if got := protocol([]string{"version=1", "version=2"}); got != "version=2" {
		t.Errorf("two headers become %q", got)
	}
}

// After Git's small request by HTTP/2 its large one comes by HTTP/1.1.
func TestLargeRequestsComeByHTTP1(t *testing.T) {
	f := start(t, nil)
	c := f.client(t, 2)
	for _, path := range []string{"/pub/git-receive-pack", "/pub/git-upload-pack"} {
		f.downgrades.until = nil // the server is idle
		for i, body := range []string{"", "0000", "large", "again"} {
			answer, text := do(t, c, f.request(t, "POST", path, "alice", strings.NewReader(body)))
			want := 1
			if i < 2 {
				want = 2
			}
			if answer.StatusCode != 200 || answer.ProtoMajor != want {
				t.Errorf("%s, %q: %d %q by %s, want version %d", path, body, answer.StatusCode, text, answer.Proto, want)
			}
		}
		c.CloseIdleConnections()
	}
}
