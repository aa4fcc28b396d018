//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gitcluster/internal/sshclient/sshtest"
)

func TestGitCommands(t *testing.T) {
	for _, c := range []struct {
		name, protocol string
		plain          bool
		sessions       int
	}{
		{"node", "2", false, 0},
		{"node, protocol 1", "1", false, 0},
		{"node, protocol 0", "0", false, 0},
		{"plain server", "2", true, 0},
		{"plain server, protocol 0", "0", true, 0},
		{"plain server, one session", "2", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.opts.MaxSessions = c.sessions
			h := w.addNode("node1", func(h *host) {
				if c.plain {
					plain(h)
				}
			})
			bare := w.repo("demo/hello")
			w.setenv("GIT_CONFIG_COUNT", "1")
			w.setenv("GIT_CONFIG_KEY_0", "protocol.version")
			w.setenv("GIT_CONFIG_VALUE_0", c.protocol)
			silent := func(dir string, args ...string) string {
				t.Helper()
				r := w.tryGit(dir, args...)
				if r.status != 0 || r.stderr != "" {
					t.Fatalf("git %q: status %d, stderr %q", args, r.status, r.stderr)
				}
				return r.stdout
			}

			silent("", "clone", "-q", "cluster::demo/hello", "work")
			w.commit("work", "three")
			silent("work", "push", "-q", "origin", "main", "HEAD:refs/heads/other")
			head := w.git("work", "rev-parse", "HEAD")
			if got := w.git(bare, "rev-parse", "main"); got != head {
				t.Fatalf("the push left main at %s, not %s", got, head)
			}
			if out := silent("", "ls-remote", "cluster::demo:demo/hello"); !strings.Contains(out, head+"\trefs/heads/other") {
				t.Errorf("ls-remote: %q", out)
			}
			silent("", "clone", "-q", "--depth=1", "cluster::demo/hello", "shallow")
			silent("shallow", "fetch", "-q", "--depth=2")
			if n := w.git("shallow", "rev-list", "--count", "origin/main"); n != "2" {
				t.Errorf("%s commits after fetch --depth=2", n)
			}
			silent("shallow", "fetch", "-q", "--unshallow")
			silent("", "clone", "-q", "--no-checkout", "--filter=blob:none", "cluster::demo/hello", "partial")
			silent("partial", "cat-file", "-p", "HEAD:file") // a lazy fetch
			if out := silent("", "archive", "--remote=cluster::demo/hello", "main"); !strings.Contains(out, "three") {
				t.Errorf("archive: %d bytes without the file", len(out))
			}
			silent("work", "push", "-q", "--atomic", "origin", ":other", "main:new")
			silent("work", "fetch", "-q", "--prune")
			silent("work", "fetch", "-q", "--upload-pack=git-upload-pack", "origin")
			silent("work", "fetch", "-q", "-4", "origin")
			w.git("work", "fsck", "--strict")

			saw := map[string]bool{}
			for len(h.envs) > 0 {
				saw[(<-h.envs)["GIT_PROTOCOL"]] = true
			}
			if want := "version=" + c.protocol; c.protocol != "0" && !saw[want] || c.protocol == "0" && len(saw) > 1 {
				t.Errorf("services saw GIT_PROTOCOL %v", saw)
			}
		})
	}
}

// The replicas are tried in order; the second always works.
func TestFailover(t *testing.T) {
	answer := func(line string, status int) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.addNode("node1", syncing(func(_ context.Context, s *sshtest.Session) int {
				fmt.Fprint(s.Stdout, line)
				return status
			}))
		}
	}
	for name, c := range map[string]struct {
		first func(t *testing.T, w *world)
		says  string
	}{
		"refused": {func(t *testing.T, w *world) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			w.configure("node1", l.Addr().String(), "")
		}, "connection refused; trying node2"},
		"another host key": {func(t *testing.T, w *world) {
			h := w.addHost("node1")
			w.configure("node1", h.Addr, (&sshtest.Server{Host: sshtest.NewKey(t)}).HostKey())
		}, "host key has changed: the server has ssh-ed25519 SHA256:"},
		"sync says retry": {
			answer(`{"cluster":"c","node":"node1","error":"journal unavailable","hint":"wait","retry":true}`+"\n", 1),
			"journal unavailable; trying node2"},
		"sync says nothing useful": {answer(`{"cluster":"c","node":"node1"}`+"\n", 7), "cluster-sync ended with status 7; trying"},
		"sync is cut": {func(t *testing.T, w *world) {
			w.addNode("node1", syncing(func(_ context.Context, s *sshtest.Session) int {
				s.Conn.Close()
				return 0
			}), wrapping(func(s *sshtest.Session, _ func() int) int {
				s.Conn.Close()
				return 0
			}))
		}, "connection"},
		"service fails": {func(t *testing.T, w *world) {
			w.addNode("node1", wrapping(func(s *sshtest.Session, _ func() int) int {
				fmt.Fprintln(s.Stderr, "disk on fire")
				return 3
			}))
		}, "git-upload-pack ended before it answered: exit status 3; trying node2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c.first(t, w)
			w.addNode("node2")
			w.repo("demo/hello")
			want := "git-remote-cluster: node1 (" + w.conf.Clusters["demo"].Nodes[0].SSH + "): "
			var r result
			for range 10 {
				r = w.tryGit("", "clone", "cluster::demo/hello", "work")
				if r.status != 0 || strings.Contains(r.stderr, want) && strings.Contains(r.stderr, c.says) {
					break
				}
				// On a busy machine the second may have been asked, and have answered, before
				// the first has failed.
				for _, left := range []string{"work", "home/.cache"} {
					if err := os.RemoveAll(filepath.Join(w.dir, left)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if r.status != 0 || !strings.Contains(r.stderr, c.says) || strings.Count(r.stderr, want) != 1 {
				t.Errorf("status %d, stderr %q; want one line %q… with %q", r.status, r.stderr, want, c.says)
			}
			w.commit("work", "three")
			r = w.tryGit("work", "push", "-q")
			said := r.stderr
			if name == "another host key" {
				// Also who wants silence is told, if that one was asked again before the other.
				said = regexp.MustCompile(`^`+regexp.QuoteMeta(want)+`.*`+regexp.QuoteMeta(c.says)+`.*\nhint: .*\n$`).ReplaceAllString(said, "")
			}
			if name != "service fails" && (r.status != 0 || said != "") {
				t.Errorf("quiet push: status %d, stderr %q", r.status, r.stderr)
			}
		})
	}
}

func TestFinalErrors(t *testing.T) {
	w := newWorld(t)
	w.conf.Clusters["demo"].SyncWait = time.Minute // on a busy machine the other is not asked instead
	var asked atomic.Int64
	// On a busy machine either may be the first to answer.
	final := syncing(func(_ context.Context, s *sshtest.Session) int {
		asked.Add(1)
		fmt.Fprintln(s.Stderr, "# looking\nnoise")
		fmt.Fprintln(s.Stdout, `{"cluster":"c","node":"node1","error":"no repository \"demo/none\"","hint":"ask for\u001b[2J it","retry":false}`)
		return 1
	})
	w.addNode("node1", final)
	w.addNode("node2", final)
	want := "# looking\ngit-remote-cluster: no repository \"demo/none\"\nhint: ask for [2J it\n"
	for _, args := range [][]string{
		{"ls-remote", "cluster::demo/none"}, {"clone", "-q", "cluster::demo/none"}, {"archive", "--remote=cluster::demo/none", "main"},
	} {
		want := want
		if args[0] == "clone" {
			want = strings.TrimPrefix(want, "# looking\n")
		}
		if r := w.tryGit("", args...); r.status == 0 || r.stderr != want {
			t.Errorf("git %q: status %d, stderr\n%s\nwant\n%s", args, r.status, r.stderr, want)
		}
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("replicas were asked %d times for three commands: a final error is not final", n)
	}
}

func TestPlainServerWithoutTheRepository(t *testing.T) {
	w := newWorld(t)
	w.addNode("node1", plain)
	w.repo("demo/hello")
	r := w.tryGit("", "ls-remote", "cluster::demo/none")
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	if r.status == 0 || len(lines) != 3 || !strings.HasPrefix(lines[0], "fatal: 'demo/none' does not appear") ||
		!strings.HasSuffix(lines[1], "): git-upload-pack ended before it answered: exit status 128") || !strings.HasPrefix(lines[2], "hint: ") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
}

func TestLocalMistakes(t *testing.T) {
	w := newWorld(t)
	w.addNode("node1")
	for _, c := range []struct{ address, env, want string }{
		{"cluster::../x", "", "bad address"},
		{"cluster::other:x", "", `no such cluster: "other"`},
		{"cluster::x", "GIT_CLUSTER_REPLICA=node9", "set it to one of: node1"},
		{"cluster::x", "GIT_CLUSTER_CONFIG=/nonexistent/client.toml", "no client configuration"},
	} {
		w := *w
		w.env = append(append([]string(nil), w.env...), c.env)
		r := w.tryGit("", "ls-remote", c.address)
		if r.status == 0 || !strings.HasPrefix(r.stderr, "git-remote-cluster: ") || !strings.Contains(r.stderr, c.want) ||
			!strings.Contains(r.stderr, "\nhint: ") || strings.Count(r.stderr, "\n") != 2 {
			t.Errorf("%s %s: status %d, stderr %q, want %q", c.address, c.env, r.status, r.stderr, c.want)
		}
	}
}

// Who leaves out the port, where nodes do not listen on SSH's own, is told so.
func TestUnnamedPort(t *testing.T) {
	const host = "127.0.0.93"
	if conn, err := net.Dial("tcp", host+":22"); err == nil {
		conn.Close()
		t.Skip("an SSH server of this machine listens everywhere")
	}
	w := newWorld(t)
	for _, c := range []struct{ address, hint string }{
		{"cluster://" + host + "/x", "cluster://" + host + ":2222/REPOSITORY"},
		{"cluster://" + host + ":22/x", ""},
		{"cluster::demo:x", `ssh = "` + host + `:2222" in client.toml`},
	} {
		if w.conf.Clusters["demo"].Nodes == nil && strings.HasPrefix(c.address, "cluster::") {
			w.configure("n", host, "")
		}
		r := w.tryGit("", "ls-remote", c.address)
		hint := "hint: without a port, 22 is meant; nodes listen on 2222 unless they were told otherwise: " + c.hint + "\n"
		if r.status == 0 || !strings.Contains(r.stderr, "connection refused\n") || (c.hint != "") != strings.Contains(r.stderr, hint) || c.hint == "" && strings.Contains(r.stderr, "2222") {
			t.Errorf("%s: status %d, stderr %q, want %q", c.address, r.status, r.stderr, hint)
		}
	}
}

func TestPinnedReplicaAndHostAddress(t *testing.T) {
	w := newWorld(t)
	first, second := w.addNode("node1"), w.addNode("node2")
	bare := w.repo("demo/hello")
	w.setenv("GIT_CLUSTER_REPLICA", "node2")
	w.git("", "ls-remote", "cluster::demo/hello")
	if first.Connections() != 0 || second.Connections() != 1 {
		t.Errorf("connections %d and %d, want 0 and 1", first.Connections(), second.Connections())
	}
	pinned := len(second.Commands())
	w.setenv("GIT_CLUSTER_REPLICA", "")
	// The configuration knows these hosts' keys and the identity; the path is sent as it is.
	w.git("", "ls-remote", "cluster://"+first.Addr+","+second.Addr+bare)
	// On a busy machine either may be the first to answer.
	asked := func(got []string) bool { return len(got) == 2 && slices.Contains(got, "git-upload-pack '"+bare+"'") }
	if one, two := first.Commands(), second.Commands()[pinned:]; !asked(one) && !asked(two) {
		t.Errorf("commands %q and %q", one, two)
	}
}

func TestStaleReadsAreNotSynchronized(t *testing.T) {
	w := newWorld(t)
	h := w.addNode("node1")
	w.repo("demo/hello")
	w.git("", "-c", "cluster.staleOk=true", "clone", "-q", "cluster::demo/hello", "work")
	if got := h.Commands(); len(got) != 1 || !strings.HasPrefix(got[0], "git-upload-pack") {
		t.Errorf("commands %q, want no sync", got)
	}
	if env := <-h.envs; env["GIT_CLUSTER_STALE_OK"] != "1" {
		t.Errorf("environment %q", env)
	}
	w.commit("work", "three")
	w.git("work", "-c", "cluster.staleOk=true", "push", "-q")
	if got := h.Commands(); got[1] != "cluster-sync --write --nodes= 'demo/hello'" {
		t.Errorf("commands %q, want a sync before the push", got)
	}
	if env := <-h.envs; len(env) != 0 {
		t.Errorf("environment of the push %q", env)
	}
}

func TestProgressOfSync(t *testing.T) {
	w := newWorld(t)
	w.addNode("node1", func(h *host) {
		inner := h.sync
		h.sync = func(ctx context.Context, s *sshtest.Session) int {
			fmt.Fprint(s.Stderr, "# Synchronizing from \"node2\" (version 41 ", "→ 43)…\nother noise\n")
			return inner(ctx, s)
		}
	})
	w.repo("demo/hello")
	if r := w.tryGit("", "ls-remote", "cluster::demo/hello"); r.stderr != "# Synchronizing from \"node2\" (version 41 → 43)…\n" {
		t.Errorf("stderr %q", r.stderr)
	}
	if r := w.tryGit("", "fetch", "-q", "cluster::demo/hello"); strings.Contains(r.stderr, "#") {
		t.Errorf("stderr with -q: %q", r.stderr)
	}
}

func TestHookDeclines(t *testing.T) {
	w := newWorld(t)
	w.addNode("node1")
	bare := w.repo("demo/hello")
	hook := "#!/bin/sh\necho not today >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(bare, "hooks", "pre-receive"), []byte(hook), 0o700); err != nil {
		t.Fatal(err)
	}
	w.git("", "clone", "-q", "cluster::demo/hello", "work")
	w.commit("work", "three")
	r := w.tryGit("work", "push")
	if r.status != 1 || !strings.Contains(r.stderr, "remote: not today") || !strings.Contains(r.stderr, "pre-receive hook declined") ||
		strings.Contains(r.stderr, "git-remote-cluster") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
}

// What comes after a whole answer is not a failure.
func TestNoiseAfterAWholeStream(t *testing.T) {
	for name, wrap := range map[string]func(s *sshtest.Session, run func() int) int{
		"status": func(_ *sshtest.Session, run func() int) int { run(); return 1 },
		"none":   func(_ *sshtest.Session, run func() int) int { run(); return sshtest.NoStatus },
		"cut": func(s *sshtest.Session, run func() int) int {
			run()
			s.Channel.CloseWrite()
			s.Conn.(*net.TCPConn).SetLinger(0)
			s.Conn.Close()
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.addNode("node1", wrapping(wrap))
			bare := w.repo("demo/hello")
			for _, protocol := range []string{"0", "2"} {
				w.git("", "-c", "protocol.version="+protocol, "clone", "-q", "cluster::demo/hello", "work"+protocol)
			}
			w.commit("work2", "three")
			w.git("work2", "push", "-q")
			if w.git("work2", "rev-parse", "HEAD") != w.git(bare, "rev-parse", "main") {
				t.Error("the push did not land")
			}
			w.git("", "archive", "--output=x.tar", "--remote=cluster::demo/hello", "main")
		})
	}
}

// A stream that is cut short is a failure, whatever the status says.
func TestCutStream(t *testing.T) {
	w := newWorld(t)
	w.addNode("node1", wrapping(func(s *sshtest.Session, run func() int) int {
		s.Stdout = &limitWriter{s, 3000}
		return run()
	}))
	bare := w.repo("demo/hello")
	for i := range 60 {
		w.git(bare, "branch", fmt.Sprintf("branch-with-a-long-name-%d", i), "main")
	}
	r := w.tryGit("", "clone", "cluster::demo/hello", "work")
	if r.status == 0 || !strings.Contains(r.stderr, "git-remote-cluster: node1 (") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "work")); err == nil {
		t.Error("the broken clone was left behind")
	}
}

type limitWriter struct {
	s    *sshtest.Session
	left int
}

func (l *limitWriter) Write(p []byte) (int, error) {
	if len(p) > l.left {
		l.s.Channel.Write(p[:l.left])
		l.s.Conn.Close()
		return 0, net.ErrClosed
	}
	l.left -= len(p)
	return l.s.Channel.Write(p)
}
