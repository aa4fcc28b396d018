package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gogit "github.com/go-git/go-git/v5"
	gogitconfig "github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing/object"
	gogithttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"gitcluster/internal/clustertest"
)

// signedIn is a user to whose Git the token is known as a password, as a
// credential helper knows it.
func signedIn(t testing.TB, u *clustertest.User, token string) *clustertest.User {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	text := ""
	for _, n := range sharedCluster(t).Nodes {
		text += fmt.Sprintf("https://%s:%s@%s\n", u.Name, token, n.HTTP)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return u.With("GIT_CONFIG_PARAMETERS='credential.helper'='store --file=" + file + "'")
}

// TestHTTPReadYourWrites pushes to each node in turn over HTTPS and reads at once
// from the others, by each version of Git's protocol and of HTTP.
func TestHTTPReadYourWrites(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	plain := addUser(t, "hanna")
	c.Admin.Must(t, "", "git-cluster", "grant", "hanna", "admin", "http-a/*")
	u := signedIn(t, plain, plain.Token(t))
	work := newWork(t, u)
	for i := range 6 {
		to, from, other := c.Nodes[i%3], c.Nodes[(i+1)%3], c.Nodes[(i+2)%3]
		head := u.Commit(t, work, "f", fmt.Sprint(i))
		u.Git(t, work, "push", "-q", to.URL("http-a/x.git"), "main", fmt.Sprintf("main:refs/heads/b%d", i))
		for how, got := range map[string]string{
			"https": u.Git(t, work, "-c", fmt.Sprintf("protocol.version=%d", i%3), "-c", fmt.Sprintf("http.version=HTTP/%d", 1+i%2), "ls-remote", from.URL("http-a/x")),
			"ssh":   u.Git(t, work, "ls-remote", "ssh://"+other.Name+"/http-a/x"),
		} {
			if !strings.Contains(got, fmt.Sprintf("%s\trefs/heads/b%d", head, i)) {
				t.Errorf("push %d to %s, then %s: no %s in\n%s", i, to.Name, how, head, got)
			}
		}
	}
	for version := range 3 {
		clone := filepath.Join(t.TempDir(), "clone")
		v := fmt.Sprintf("protocol.version=%d", version)
		u.Git(t, "", "-c", v, "clone", "-q", "--depth=2", c.Nodes[version].URL("http-a/x"), clone)
		if got := u.Git(t, clone, "rev-list", "--count", "HEAD"); got != "2" {
			t.Errorf("version %d: %s commits in a shallow clone, want 2", version, got)
		}
		u.Git(t, clone, "-c", v, "fetch", "-q", "--unshallow")
		if got := u.Git(t, clone, "rev-list", "--count", "HEAD"); got != "6" {
			t.Errorf("version %d: %s commits, want 6", version, got)
		}
	}
	partial := filepath.Join(t.TempDir(), "partial")
	u.Git(t, "", "clone", "-q", "--filter=blob:none", "--no-checkout", c.Nodes[1].URL("http-a/x"), partial)
	u.Git(t, partial, "checkout", "-q", "HEAD~3") // fetches what is missing
	if got, err := os.ReadFile(filepath.Join(partial, "f")); err != nil || string(got) != "2" {
		t.Errorf("a partial clone has %q, %v", got, err)
	}

	// A push that is larger than Git buffers, and refusals in Git's own words.
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for i := range large {
		large[i] += byte(i * i >> 7)
	}
	if err := os.WriteFile(filepath.Join(work, "large"), large, 0o644); err != nil {
		t.Fatal(err)
	}
	u.Git(t, work, "add", "large")
	u.Git(t, work, "commit", "-q", "-m", "large")
	u.Git(t, work, "-c", "core.compression=0", "push", "-q", c.Nodes[2].URL("http-a/x"), "main")
	u.Git(t, work, "-c", "core.compression=0", "push", "-q", c.Nodes[2].URL("http-a/large"), "main")
	old := u.Git(t, work, "rev-parse", "HEAD~2")
	r := u.Run(work, "git", "push", "--porcelain", c.Nodes[0].URL("http-a/x"), old+":main", "main:refs/heads/good", ":refs/heads/b0")
	if r.Status == 0 || !strings.Contains(r.Stdout, "[rejected] (non-fast-forward)") || !strings.Contains(r.Stdout, "[new branch]") || !strings.Contains(r.Stdout, "[deleted]") {
		t.Errorf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	r = u.Run(work, "git", "push", "--porcelain", "--atomic", "--force-with-lease=main:"+old, c.Nodes[1].URL("http-a/x"), "HEAD~1:main", "main:refs/heads/atomic")
	if r.Status == 0 || !strings.Contains(r.Stdout, "(stale info)") {
		t.Errorf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	if got := u.Git(t, work, "ls-remote", c.Nodes[2].URL("http-a/x"), "b0", "good", "atomic"); strings.Contains(got, "/b0") || strings.Contains(got, "/atomic") || !strings.Contains(got, "/good") {
		t.Errorf("afterwards there is\n%s", got)
	}
}

// TestHTTPRequestsOnSeveralNodes has one fetch served by two nodes, as a load
// balancer may: the second knows at least what the first has listed.
func TestHTTPRequestsOnSeveralNodes(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := c.Admin
	token := u.Token(t)
	work := newWork(t, u)
	web := c.HTTPClient(t)
	ask := func(method, url, kind string, body []byte) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(u.Name, token)
		r.Header.Set("Content-Type", kind)
		if body != nil {
			r.Header.Set("Content-Encoding", "gzip")
		}
		answer, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer, string(text)
	}
	for i := range 6 {
		head := u.Commit(t, work, "f", fmt.Sprint(i))
		u.Via(c.Nodes[i%3].Name).Git(t, work, "push", "-q", "cluster::http-b/x", "main")
		if _, refs := ask("GET", c.Nodes[i%3].URL("http-b/x/info/refs?service=git-upload-pack"), "", nil); !strings.Contains(refs, head) {
			t.Fatalf("the listing is %q", refs)
		}
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		fmt.Fprintf(z, "0032want %s\n00000009done\n", head)
		z.Close()
		answer, pack := ask("POST", c.Nodes[(i+1)%3].URL("http-b/x/git-upload-pack"), "application/x-git-upload-pack-request", zipped.Bytes())
		if answer.StatusCode != 200 || !strings.HasPrefix(pack, "0008NAK\nPACK") {
			t.Errorf("%s after %s: %d %.80q", c.Nodes[(i+1)%3].Name, c.Nodes[i%3].Name, answer.StatusCode, pack)
		}
	}
}

// TestHTTPRefusals asks for what one may not have.
func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	boss, ida := c.Admin, addUser(t, "ida")
	for _, name := range []string{"http-c/private", "http-c/readable"} {
		boss.Must(t, "", "git-cluster", "repo", "create", name)
	}
	boss.Must(t, "", "git-cluster", "repo", "create", "http-c/public", "--public")
	boss.Must(t, "", "git-cluster", "grant", "ida", "read", "http-c/readable")
	n := c.Nodes[0]
	work := newWork(t, ida)
	ida.Commit(t, work, "f", "1")

	// Nobody may read what is public, and cannot tell private from missing.
	ida.Git(t, "", "ls-remote", n.URL("http-c/public"))
	is := func(u *clustertest.User, want string, args ...string) string {
		t.Helper()
		r := u.Run(work, append([]string{"git"}, args...)...)
		said := r.Refused(t)
		if !strings.Contains(said, want) {
			t.Errorf("%v: no %q in\n%s", args, want, said)
		}
		return said
	}
	one := is(ida, "could not read Username", "ls-remote", n.URL("http-c/private"))
	if two := is(ida, "could not read Username", "ls-remote", n.URL("http-c/missing")); strings.ReplaceAll(one, "private", "missing") != two {
		t.Errorf("private: %s\nmissing: %s", one, two)
	}
	is(ida, "could not read Username", "push", n.URL("http-c/public"), "main")

	u := signedIn(t, ida, ida.Token(t, "--label", "for a test"))
	one = is(u, "# repository \"http-c/private\": not found, or you may not read it", "ls-remote", n.URL("http-c/private"))
	if two := is(u, "not found", "ls-remote", n.URL("http-c/missing")); strings.ReplaceAll(one, "private", "missing") != two {
		t.Errorf("private: %s\nmissing: %s", one, two)
	}
	one = is(u, "not found", "push", n.URL("http-c/private"), "main")
	if two := is(u, "not found", "push", n.URL("http-c/missing"), "main"); strings.ReplaceAll(one, "private", "missing") != two {
		t.Errorf("private: %s\nmissing: %s", one, two)
	}
	is(u, "remote: # hint: an administrator can allow it", "push", n.URL("http-c/readable"), "main")

	// A token is worth what it was made for, until it is revoked.
	reader := signedIn(t, boss, boss.Token(t, "--read-only", "--valid", "2h"))
	reader.Git(t, "", "ls-remote", n.URL("http-c/private"))
	is(reader, "with a token that is for reading", "push", n.URL("http-c/private"), "main")
	list := ida.Must(t, "", "git-cluster", "user", "token", "list", "ida", "--json")
	var tokens []struct{ ID, Label string }
	if err := json.Unmarshal([]byte(list), &tokens); err != nil || len(tokens) != 1 || tokens[0].Label != "for a test" {
		t.Fatalf("%s: %v", list, err)
	}
	if said := ida.Run("", "git-cluster", "user", "token", "list", boss.Name).Refused(t); !strings.Contains(said, "permission denied") {
		t.Errorf("%s", said)
	}
	ida.Must(t, "", "git-cluster", "user", "token", "revoke", "ida", tokens[0].ID)
	for _, n := range c.Nodes {
		clustertest.Await(t, 30*time.Second, func() string {
			if r := u.Run("", "git", "ls-remote", n.URL("http-c/readable")); !strings.Contains(r.Stderr, "Authentication failed") {
				return n.Name + ": " + r.Stdout + r.Stderr
			}
			return ""
		})
	}
	for _, path := range []string{"http-c/public/HEAD", "http-c/public/objects/info/packs", "http-c/public/info/refs"} {
		answer, err := c.HTTPClient(t).Get(n.URL(path))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode < 400 && !strings.Contains(answer.Header.Get("Content-Type"), "html") {
			t.Errorf("%s: %s", path, answer.Status)
		}
	}
}

// TestHTTPGoGit clones, pushes and fetches with go-git.
func TestHTTPGoGit(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := c.Admin
	auth := &gogithttp.BasicAuth{Username: u.Name, Password: u.Token(t)}
	ca, err := os.ReadFile(c.Certificates())
	if err != nil {
		t.Fatal(err)
	}
	work := newWork(t, u)
	u.Commit(t, work, "f", "1")
	u.Git(t, work, "push", "-q", "ssh://node1/http-d/x", "main")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	repo, err := gogit.PlainCloneContext(ctx, dir, false, &gogit.CloneOptions{URL: c.Nodes[1].URL("http-d/x.git"), Auth: auth, CABundle: ca})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := repo.Worktree()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "g"), []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Add("g"); err != nil {
		t.Fatal(err)
	}
	head, err := tree.Commit("by go-git", &gogit.CommitOptions{Author: &object.Signature{Name: "x", Email: "x@example.org", When: time.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.PushContext(ctx, &gogit.PushOptions{Auth: auth, CABundle: ca, RefSpecs: []gogitconfig.RefSpec{"refs/heads/main:refs/heads/main", "refs/heads/main:refs/heads/other"}}); err != nil {
		t.Fatal(err)
	}
	if got := lsRemote(t, u, "node3", "http-d/x"); got["refs/heads/main"] != head.String() || got["refs/heads/other"] != head.String() {
		t.Errorf("node3 shows %v, want %s", got, head)
	}
	again := u.Commit(t, work, "h", "3")
	u.Git(t, work, "push", "-q", "-f", "ssh://node3/http-d/x", "main:third")
	if err := repo.FetchContext(ctx, &gogit.FetchOptions{Auth: auth, CABundle: ca, RefSpecs: []gogitconfig.RefSpec{"+refs/heads/*:refs/remotes/origin/*"}}); err != nil {
		t.Fatal(err)
	}
	if ref, err := repo.Reference("refs/remotes/origin/third", true); err != nil || ref.Hash().String() != again {
		t.Errorf("the fetch gives %v, %v, want %s", ref, err, again)
	}
}

// TestHTTPDulwich does the same with dulwich.
func TestHTTPDulwich(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := c.Admin
	if r := u.Run("", "/usr/bin/python3", "-c", "import dulwich"); r.Status != 0 {
		t.Skip("dulwich is not installed")
	}
	work := newWork(t, u)
	u.Commit(t, work, "f", "1")
	u.Git(t, work, "push", "-q", "ssh://node1/http-e/x", "main")
	script := `
import os, sys, urllib3
from dulwich import porcelain, client
from dulwich.repo import Repo
one, two, token, ca, dir = sys.argv[1:]
pool = urllib3.PoolManager(ca_certs=ca)
def at(url): return client.HttpGitClient(url, pool_manager=pool, username="boss", password=token)
base, path = one.rsplit("/", 2)[0], "/" + "/".join(one.rsplit("/", 2)[1:])
r = Repo.init(dir, mkdir=True)
refs = at(base).fetch(path, r).refs
r.refs[b"refs/heads/main"] = refs[b"refs/heads/main"]
r.refs.set_symbolic_ref(b"HEAD", b"refs/heads/main")
r.reset_index()
open(os.path.join(dir, "g"), "w").write("2")
porcelain.add(r, os.path.join(dir, "g"))
head = porcelain.commit(r, b"by dulwich", author=b"x <x@example.org>", committer=b"x <x@example.org>")
result = at(two.rsplit("/", 2)[0]).send_pack(path, lambda refs: {b"refs/heads/main": head}, r.generate_pack_data)
assert not any((result.ref_status or {}).values()), result.ref_status
print(head.decode())
`
	dir := filepath.Join(t.TempDir(), "d")
	head := u.Must(t, "", "/usr/bin/python3", "-c", script, c.Nodes[1].URL("http-e/x"), c.Nodes[2].URL("http-e/x"), u.Token(t), c.Certificates(), dir)
	if got := lsRemote(t, u, "node1", "http-e/x")["refs/heads/main"]; got != head || len(head) != 40 {
		t.Errorf("node1 shows %q, want %q", got, head)
	}
}

// TestHTTPAddressChanges takes the HTTPS front from a node and gives it back under
// another name, as an operator does: in node.toml.
func TestHTTPAddressChanges(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	n, u := c.Nodes[0], c.Admin
	file := filepath.Join(n.Data, "node.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(text), "[http]\n")
	_, after, found2 := strings.Cut(after, "\n[")
	if !found || !found2 {
		t.Fatalf("node.toml has no section http:\n%s", text)
	}
	restart := func(http string) string {
		t.Helper()
		if err := n.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(before+http+"["+after), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Dir(n.Certificate())); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		return u.Must(t, "", "git-cluster", "device", "show", n.Name, "--json")
	}
	if got := restart(""); strings.Contains(got, `"http":`) {
		t.Errorf("without a front: %s", got)
	}
	if _, err := c.HTTPClient(t).Get(n.URL("healthz")); err == nil {
		t.Error("there is a front that was taken away")
	}
	address := strings.Replace(n.HTTP, strings.Split(n.HTTP, ":")[0], "localhost", 1)
	if got := restart(fmt.Sprintf("[http]\nlisten = %q\nadvertise = %q\n\n", n.HTTP, address)); !strings.Contains(got, `"http": "`+address+`"`) {
		t.Errorf("with another name: %s", got)
	}
	answer := u.Run("", "curl", "-s", "--cacert", n.Certificate(), "--connect-to", address+":"+n.HTTP, "https://"+address+"/healthz")
	if err := answer.Err(); err != nil || answer.Stdout != "# ok\n" {
		t.Errorf("%q, %v", answer.Stdout, err)
	}
}
