package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/clustertest"
)

// Who asks for refs that have not changed, or clones, starts no upload-pack, by any front; whoever
// asks for more gets it by one, in every version of the protocol; and what changes is
// told at once.
func TestListingStartsNoProcess(t *testing.T) {
	bin := t.TempDir()
	log := filepath.Join(bin, "log")
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\ncase $1 in upload-pack) echo \"$*\" >>'%s' ;; esac\nexec '%s' \"$@\"\n", log, real)
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := clustertest.Start(t, 1, clustertest.NodeEnv("PATH="+bin+":"+os.Getenv("PATH")))
	u, node := c.Admin, c.Nodes[0]
	runs := func() int {
		said, _ := os.ReadFile(log)
		return strings.Count(string(said), "\n")
	}
	for _, format := range []string{"sha1", "sha256"} {
		repo := "kept/" + format
		urls := map[string]string{"helper": "cluster::" + repo, "ssh": "ssh://" + node.Name + "/" + repo}
		work := filepath.Join(t.TempDir(), "work")
		u.Git(t, "", "init", "-q", "-b", "main", "--object-format="+format, work)
		first := u.Commit(t, work, "f", "one")
		u.Git(t, work, "push", "-q", urls["helper"], "HEAD:refs/heads/main")
		u.Git(t, work, "remote", "add", "origin", urls["helper"])
		want := first
		check := func(when string, args ...string) {
			t.Helper()
			for way, url := range urls {
				if format == "sha256" && way == "ssh" {
					continue
				}
				ask := func() string { return u.Git(t, work, append(args[:len(args):len(args)], url)...) }
				if got := ask(); !strings.Contains(got, want) {
					t.Errorf("%s, by %s, %q: told\n%s, and main is %s", when, way, args, got, want)
				}
				ask()
				before := runs()
				got := ask()
				if !strings.Contains(got, want) || runs() != before {
					t.Errorf("%s, by %s, %q: %d processes, told\n%s", when, way, args, runs()-before, got)
				}
			}
		}
		check("at first", "ls-remote")
		check("at first", "-c", "protocol.version=2", "ls-remote", "--symref")
		check("at first", "ls-remote", "--heads")
		second := u.Commit(t, work, "f", "two")
		u.Git(t, work, "push", "-q", "origin", "HEAD:main")
		want = second
		check("after a push", "ls-remote")
		u.Git(t, work, "fetch", "-q")
		before := runs()
		u.Git(t, work, "fetch", "-q")
		if n := runs() - before; n > 1 {
			t.Errorf("a fetch of nothing: %d processes", n)
		}
		before = runs()
		u.Git(t, work, "fetch", "-q")
		if n := runs() - before; n != 0 {
			t.Errorf("again: %d processes", n)
		}
		for most := range 2 {
			before = runs()
			to := filepath.Join(t.TempDir(), "clone")
			u.Git(t, "", "clone", "-q", urls["helper"], to)
			if n := runs() - before; n > 1-most {
				t.Errorf("a clone: %d processes", n)
			}
			u.Git(t, to, "fsck")
		}
		for way, url := range urls {
			for i, flags := range map[bool][][]string{true: {{}}, false: {{}, {"-c", "protocol.version=0"}, {"-c", "protocol.version=1"}, {"--depth=1"}, {}}}[format == "sha256"] {
				to := filepath.Join(t.TempDir(), fmt.Sprint(way, i))
				args := append(append([]string{"clone", "-q"}, flags...), url, to)
				u.Git(t, "", args...)
				if got := u.Git(t, to, "rev-parse", "HEAD"); got != second {
					t.Errorf("%q: HEAD is %q, want %q", args, got, second)
				}
			}
		}
		u.Git(t, work, "push", "-q", "origin", first+":refs/heads/other")
		want = "refs/heads/other"
		check("after a new branch", "ls-remote")
		u.Git(t, work, "push", "-q", "-d", "origin", "other")
		if got := u.Git(t, work, "ls-remote", "origin"); strings.Contains(got, "other") {
			t.Errorf("after a removal: told\n%s", got)
		}
	}
}
