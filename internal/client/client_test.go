package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/nodecache"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/sshclient"
	"gitcluster/internal/sshclient/sshtest"
)

// A git plays Git's part of one run of the helper.
type git struct {
	t      *testing.T
	conf   config.Client
	opts   sshtest.Options
	limits Limits
	cache  *nodecache.Cache
	env    map[string]string
	addr   string // "demo/x" if empty
	quiet  bool
	file   string // client.toml
}

func newGit(t *testing.T) *git {
	dir := t.TempDir()
	// A machine that is slow now and then changes nothing about who is asked, and when.
	g := &git{t: t, limits: Limits{Handshake: time.Minute, SyncWait: time.Minute, Answer: time.Minute, Alone: time.Minute}}
	path, key := sshtest.NewKeyFile(t, dir, "key", "")
	g.opts.Accept = key
	g.conf.Clusters = map[string]*config.Cluster{"demo": {Identity: path}}
	g.file = filepath.Join(dir, "client.toml")
	return g
}

func (g *git) node(name string, handler sshtest.Handler) *sshtest.Server {
	o := g.opts
	o.Handler = handler
	s := sshtest.Start(g.t, o)
	g.at(name, s.Addr, s.HostKey())
	return s
}

func (g *git) at(name, addr, key string) {
	k := g.conf.Clusters["demo"]
	k.Nodes = append(k.Nodes, config.Node{Name: name, SSH: addr, HostKey: key})
}

// connect asks for a service, holds its half open, and returns what came.
func (g *git) connect(service remotehelper.Service) (stdout, stderr string, err error) {
	g.t.Helper()
	if err := g.conf.Write(g.file); err != nil {
		g.t.Fatal(err)
	}
	in, say := io.Pipe()
	defer say.Close()
	verbosity := 1
	if g.quiet {
		verbosity = 0
	}
	go fmt.Fprintf(say, "capabilities\noption verbosity %d\nconnect %s\n", verbosity, service)
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	err = Run(ctx, Params{
		Args: []string{"origin", cmp.Or(g.addr, "demo/x")}, In: in, Out: &out, Err: &errOut,
		Getenv:    func(name string) string { return g.env[name] },
		GitConfig: func(context.Context, ...string) ([]byte, error) { return nil, errors.New("nothing set") },
		Limits:    g.limits,
		Cache:     g.cache,
		Config:    g.file,
	})
	return strings.TrimPrefix(out.String(), "connect\noption\n\nok\n"), errOut.String(), err
}

func isSync(s *sshtest.Session) bool { return strings.HasPrefix(s.Command, syncCommand+" ") }

func synced(s *sshtest.Session) int {
	fmt.Fprintln(s.Stdout, `{"cluster":"c","node":"n","epoch":1,"version":2,"waited_ms":3}`)
	return 0
}

// good is a node that answers at once.
func good(_ context.Context, s *sshtest.Session) int {
	if isSync(s) {
		return synced(s)
	}
	fmt.Fprint(s.Stdout, "hello0000")
	return 0
}

func TestSilentReplicasAreLeft(t *testing.T) {
	wait := func(ctx context.Context) int {
		<-ctx.Done()
		return sshtest.NoStatus
	}
	const limit = 4 * time.Second // in which the other one has to answer
	for name, c := range map[string]struct {
		first func(g *git)
		says  string
	}{
		"black hole": {func(g *git) {
			g.limits.Handshake = limit
			held, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, never answers
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { held.Close() })
			g.at("n1", held.Addr().String(), "")
		}, "no answer to the SSH handshake within 4s; trying n2"},
		"silent sync": {func(g *git) {
			g.limits.Sync = limit
			g.node("n1", func(ctx context.Context, s *sshtest.Session) int { return wait(ctx) })
		}, "cluster-sync: no answer to cluster-sync for 4s; trying n2"},
		"silent service": {func(g *git) {
			g.limits.Sync, g.limits.Answer = time.Minute, limit
			g.node("n1", func(ctx context.Context, s *sshtest.Session) int {
				if isSync(s) {
					return synced(s)
				}
				return wait(ctx)
			})
		}, "no answer from git-upload-pack within 4s; trying n2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGit(t)
			c.first(g)
			g.node("n2", good)
			out, stderr, err := g.connect(remotehelper.UploadPack)
			if out != "\nhello0000" || err != nil || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("stdout %q, stderr %q, %v; want %q", out, stderr, err, c.says)
			}
		})
	}
}

// A replica may take as long as it likes if it shows that it lives.
func TestSignsOfLife(t *testing.T) {
	t.Parallel()
	g := newGit(t)
	g.limits.Sync = 4 * time.Second // less than it takes
	g.node("n1", func(ctx context.Context, s *sshtest.Session) int {
		if !isSync(s) {
			return good(ctx, s)
		}
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for range 15 {
			fmt.Fprintln(s.Stderr, "# still at it")
			<-tick.C
		}
		return synced(s)
	})
	out, stderr, err := g.connect(remotehelper.UploadPack)
	if out != "\nhello0000" || err != nil || stderr != "# still at it\n" { // told once
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
}

func TestAllReplicasFail(t *testing.T) {
	g := newGit(t)
	retry := func(_ context.Context, s *sshtest.Session) int {
		fmt.Fprintln(s.Stdout, `{"cluster":"c","node":"n","error":"journal unavailable\r\n\u001b[2Jx","hint":"wait","retry":true}`)
		return 1
	}
	g.node("n1", retry)
	last := g.node("n2", retry)
	out, stderr, err := g.connect(remotehelper.ReceivePack)
	want := "none of 2 replicas can serve cluster::demo/x; n2 (" + last.Addr + "): journal unavailable   [2Jx"
	if out != "" || err == nil || err.Error() != want || cluster.Hint(err) != "wait" {
		t.Errorf("stdout %q, %v (hint %q), want %q", out, err, cluster.Hint(err), want)
	}
	if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "n1 (") {
		t.Errorf("stderr %q", stderr)
	}
	if got := last.Commands(); len(got) != 1 || got[0] != "cluster-sync --write --nodes= 'demo/x'" {
		t.Errorf("commands %q", got)
	}
}

// A key that nobody takes is one message, and speaks against no replica; one that
// is refused here and taken there is told of, and the next command knows.
func TestRefusedKey(t *testing.T) {
	g := remembering(t)
	taken := g.opts.Accept
	g.opts.Accept = sshtest.NewKey(t)
	g.node("n1", good)
	g.node("n2", good)
	for range 2 {
		g.cache = again(g.cache)
		_, stderr, err := g.connect(remotehelper.UploadPack)
		want := `all 2 replicas of cluster::demo/x: permission denied for user "git" with the one SSH key there is`
		if err == nil || err.Error() != want || stderr != "" {
			t.Errorf("%v, stderr %q; want %q and silence", err, stderr, want)
		}
	}
	g.opts.Accept = taken
	g.node("n3", good)
	g.cache = again(g.cache)
	out, stderr, err := g.connect(remotehelper.UploadPack)
	if out != "\nhello0000" || err != nil || strings.Count(stderr, "\n") != 2 || strings.Count(stderr, "with the one SSH key there is; using n3\n") != 2 {
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
	g.cache = again(g.cache)
	if out, stderr, err := g.connect(remotehelper.UploadPack); out != "\nhello0000" || err != nil || stderr != "" {
		t.Errorf("again: stdout %q, stderr %q, %v", out, stderr, err)
	}
}

func TestMissingIdentityIsNotTriedTwice(t *testing.T) {
	g := newGit(t)
	g.conf.Clusters["demo"].Identity = "/nonexistent/key"
	g.node("n1", good)
	g.node("n2", good)
	_, stderr, err := g.connect(remotehelper.UploadPack)
	if !errors.Is(err, sshclient.ErrIdentity) || stderr != "" {
		t.Errorf("%v, stderr %q", err, stderr)
	}
}

// The archive service waits for the client, so the helper must not wait for it.
func TestArchiveIsConnectedAtOnce(t *testing.T) {
	g := newGit(t)
	g.node("n1", func(ctx context.Context, s *sshtest.Session) int {
		if isSync(s) {
			return synced(s)
		}
		if s.Env["GIT_PROTOCOL"] != "" {
			return 1
		}
		return 0
	})
	if out, stderr, err := g.connect(remotehelper.UploadArchive); out != "\n" || stderr != "" || err != nil {
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
}

func TestParseSyncAnswer(t *testing.T) {
	for text, ours := range map[string]bool{
		`{"cluster":"c","node":"n","epoch":1,"version":43,"waited_ms":12}` + "\n": true,
		`{"cluster":"c","node":"n","error":"x","retry":false,"new":[1]}` + "\n":   true,
		`{"cluster":"c","node":"n"}`:                       false, // cut short
		`{"cluster":"c","node":"n"}` + "\n\n":              false,
		`{"cluster":"","node":"n"}` + "\n":                 false,
		`{"node":"n"}` + "\n":                              false,
		`{"cluster":"c","node":"n","version":-1}` + "\n":   false,
		`["cluster","node"]` + "\n":                        false,
		"Welcome!\n" + `{"cluster":"c","node":"n"}` + "\n": false,
		"": false, "\n": false, "{}\n": false,
	} {
		if _, got := parseSyncAnswer([]byte(text)); got != ours {
			t.Errorf("%q is a node's answer: %v, want %v", text, got, ours)
		}
	}
}

func TestReadSettings(t *testing.T) {
	for out, want := range map[string]settings{
		"extensions.objectformat\nsha256\x00": {protocol: 2, format: "sha256"},
		"":                                    {protocol: 2, staleOK: false},
		"protocol.version\n1\x00":             {protocol: 1, staleOK: false},
		"protocol.version\n7\x00":             {protocol: 2, staleOK: false},
		"cluster.staleok\x00":                 {protocol: 2, staleOK: true},
		"cluster.staleok\nyes\x00":            {protocol: 2, staleOK: true},
		"cluster.staleok\nTrue\x00":           {protocol: 2, staleOK: true},
		"cluster.staleok\n1\x00":              {protocol: 2, staleOK: true},
		"cluster.staleok\n0\x00":              {protocol: 2, staleOK: false},
		"cluster.staleok\n\x00":               {protocol: 2, staleOK: false},
		"cluster.staleok\nmaybe\x00":          {protocol: 2, staleOK: false},
		"cluster.staleok\ntrue\x00cluster.staleok\nfalse\x00protocol.version\n0\x00": {protocol: 0, staleOK: false},
	} {
		got := readSettings(t.Context(), func(context.Context, ...string) ([]byte, error) { return []byte(out), nil })
		if got != want {
			t.Errorf("%q: %+v, want %+v", out, got, want)
		}
	}
}

func TestRequest(t *testing.T) {
	for _, c := range []struct {
		r       request
		command string
		env     string
	}{
		{request{service: remotehelper.UploadPack, path: "a", settings: settings{protocol: 2}}, "git-upload-pack 'a'", "map[GIT_PROTOCOL:version=2]"},
		{request{service: remotehelper.ReceivePack, path: "a", settings: settings{protocol: 2}}, "git-receive-pack 'a'", "map[]"},
		{request{service: remotehelper.ReceivePack, path: "a", settings: settings{protocol: 1}}, "git-receive-pack 'a'", "map[GIT_PROTOCOL:version=1]"},
		{request{service: remotehelper.UploadArchive, path: "/it's!", settings: settings{protocol: 1, staleOK: true}}, `git-upload-archive '/it'\''s'\!''`, "map[GIT_CLUSTER_STALE_OK:1]"},
		{request{service: remotehelper.UploadPack, path: "a", options: remotehelper.Options{ServicePath: "nice up"}}, "nice up 'a'", "map[]"},
	} {
		if got := c.r.command(); got != c.command {
			t.Errorf("command %q, want %q", got, c.command)
		}
		if got := fmt.Sprint(c.r.environment()); got != c.env {
			t.Errorf("environment of %q: %s, want %s", c.command, got, c.env)
		}
	}
}

func FuzzComments(f *testing.F) {
	f.Add([]byte("# a\nb\n# c"), 2)
	f.Add(bytes.Repeat([]byte("# x\x1b"), 1000), 7)
	f.Fuzz(func(t *testing.T, text []byte, chunk int) {
		var out bytes.Buffer
		c := &comments{log: &lineWriter{w: &out}, show: true}
		for part := text; len(part) > 0; {
			n := min(max(chunk, 1), len(part))
			if m, err := c.Write(part[:n]); m != n || err != nil {
				t.Fatalf("Write: %d, %v", m, err)
			}
			part = part[n:]
		}
		for line := range strings.Lines(out.String()) {
			if !strings.HasPrefix(line, "#") || strings.ContainsAny(line, "\x1b\r\x00") || len(line) > 3*maxComment {
				t.Fatalf("%q became %q", text, line)
			}
		}
	})
}
