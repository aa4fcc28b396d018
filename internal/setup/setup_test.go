package setup

import (
	"crypto/ed25519"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/address"
	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
)

func TestParseSeed(t *testing.T) {
	for text, want := range map[string]string{
		"h":                        " h:2222 h",
		"h:22":                     " h:22",
		"bob@h":                    "bob h:2222 h",
		"ssh://bob@h:99/":          "bob h:99",
		"cluster://a:1,b":          " a:1 b:2222 b",
		"[::1]":                    " [::1]:2222 [::1]",
		"-oProxyCommand=x":         "",
		"h/repo":                   "",
		"https://h":                "",
		"":                         "",
		"a b":                      "",
		"bob:secret@h":             "",
		"h\n":                      "",
		strings.Repeat("h,", 9000): "",
	} {
		s, err := ParseSeed(text)
		got := s.User
		for _, h := range s.Hosts {
			got += " " + h.String()
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.40q: %q, %v, want %q", text, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error repeats the password: %v", text, err)
		}
	}
}

func newKey(t *testing.T, seed byte) ssh.PublicKey {
	t.Helper()
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(append(make([]byte, 31), seed)).Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestCluster(t *testing.T) {
	one, two, other := newKey(t, 1), newKey(t, 2), newKey(t, 3)
	said := func(change func(*client.Nodes)) client.Nodes {
		n := client.Nodes{Name: "main", Node: "n2"}
		n.Nodes = []cluster.NodeAddress{{Name: "n1", SSH: "n1:2222", HostKey: line(one) + " comment"}, {Name: "n2", SSH: "n2:2222", HostKey: line(two)}}
		if change != nil {
			change(&n)
		}
		return n
	}
	s := Server{Host: address.Host{Name: "gate", Port: 22}, Key: two}
	c, err := s.Cluster(said(nil), "eu")
	if err != nil || len(c.Nodes) != 2 || c.Region != "eu" || c.User != "" {
		t.Fatalf("%+v, %v", c, err)
	}
	if n := c.Nodes[0]; n.Name != "n2" || n.SSH != "n2:2222" || n.HostKey != line(two) {
		t.Errorf("the node that was asked: %+v", n)
	}
	if n := c.Nodes[1]; n.Name != "n1" || n.HostKey != line(one) {
		t.Errorf("the other node: %+v", n)
	}

	// Before the node stands an sshd with a key of its own, which was confirmed.
	s.Key = other
	if c, err = s.Cluster(said(nil), ""); err != nil || c.Nodes[0].SSH != "gate:22" || c.Nodes[0].HostKey != line(other) || c.Nodes[1].HostKey != line(one) {
		t.Errorf("behind an sshd: %+v, %v", c, err)
	}

	for name, change := range map[string]func(*client.Nodes){
		"an option in the key": func(n *client.Nodes) { n.Nodes[0].HostKey = "no-pty " + line(one) },
		"no key":               func(n *client.Nodes) { n.Nodes[0].HostKey = "" },
		"an option as address": func(n *client.Nodes) { n.Nodes[0].SSH = "-oProxyCommand=x" },
		"not of its cluster":   func(n *client.Nodes) { n.Node = "n9" },
	} {
		if c, err := s.Cluster(said(change), ""); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// What git-lfs would be told depends on the address alone, and never goes to
// another cluster's server.
func TestWriteLFS(t *testing.T) {
	dir := t.TempDir()
	repo := filepath.Join(dir, "repo")
	git := func(args ...string) string {
		t.Helper()
		c := exec.Command("git", args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "GIT_CONFIG_NOSYSTEM=1")
		out, err := c.Output()
		if code := c.ProcessState.ExitCode(); err != nil && (code != 1 || args[0] != "-C") {
			t.Fatalf("git %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", repo)
	git("-C", repo, "remote", "add", "origin", "x")
	git("config", "--global", "include.path", filepath.Join(dir, LFSFile))
	endpoint := func(address string) string {
		git("-C", repo, "remote", "set-url", "origin", address)
		return git("-C", repo, "config", "lfs.url")
	}
	write := func(name, url string, bare bool, clusters ...string) {
		t.Helper()
		if _, got, err := WriteLFS(dir, name, url, clusters); err != nil || got != bare {
			t.Fatalf("%s %s: %v, %v", name, url, got, err)
		}
	}
	expect := func(want map[string]string) {
		t.Helper()
		for address, url := range want {
			if got := endpoint(address); got != url {
				t.Errorf("%s: %q, want %q", address, got, url)
			}
		}
	}

	if path, _, err := WriteLFS(dir, "a", "", []string{"a"}); path != "" || err != nil {
		t.Errorf("nothing to write: %q, %v", path, err)
	}
	write("a", "https://lfs.a/x", true, "a")
	expect(map[string]string{"cluster::r": "https://lfs.a/x", "cluster::team/deep/r": "https://lfs.a/x", "cluster::a:team/r": "https://lfs.a/x", "https://h/r": "", "ssh://h/cluster::r": ""})
	write("b", "", false, "a", "b")
	expect(map[string]string{"cluster::r": "", "cluster::a:r": "https://lfs.a/x", "cluster::a:team/r": "https://lfs.a/x", "cluster::b:r": "", "cluster::b:team/r": ""})
	write("b", "https://lfs.b/y", false, "a", "b")
	expect(map[string]string{"cluster::r": "", "cluster::a:r": "https://lfs.a/x", "cluster::b:r": "https://lfs.b/y"})

	for _, bad := range []string{"lfs.example.org", "https://", "https://bob:secret@h/", "https://h/\nx", "ssh://h/x", "https://h/\"x"} {
		if _, _, err := WriteLFS(dir, "a", bad, []string{"a"}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
