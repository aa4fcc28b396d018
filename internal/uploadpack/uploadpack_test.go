package uploadpack

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/pktline"
)

var one, two = strings.Repeat("1", 40), strings.Repeat("2", 40)

// packets makes packets of lines, a delimiter of "|" and a flush packet of "".
func packets(lines ...string) []byte {
	var b bytes.Buffer
	for _, line := range lines {
		switch line {
		case "":
			b.WriteString(pktline.Flush)
		case "|":
			b.WriteString("0001")
		default:
			pktline.Write(&b, line)
		}
	}
	return b.Bytes()
}

func TestParse(t *testing.T) {
	usual := []string{"--revs", "--stdout", "--progress"}
	for name, c := range map[string]struct {
		raw  []byte
		want Request // without wants: it is Git's
	}{
		"a clone":        {packets("command=fetch", "agent=git/2", "object-format=sha1", "|", "want "+one+"\n", "done\n", ""), Request{[]cluster.OID{cluster.OID(one)}, usual}},
		"two, one again": {packets("command=fetch\n", "|", "want "+two, "want "+one, "want "+two, "done", ""), Request{[]cluster.OID{cluster.OID(two), cluster.OID(one)}, usual}},
		"all options": {packets("command=fetch", "|", "thin-pack", "no-progress", "include-tag", "ofs-delta", "want "+one, "done", ""),
			Request{[]cluster.OID{cluster.OID(one)}, []string{"--revs", "--thin", "--stdout", "--delta-base-offset", "--include-tag"}}},
		"something it has":      {raw: packets("command=fetch", "|", "want "+one, "have "+two, "done", "")},
		"not done":              {raw: packets("command=fetch", "|", "want "+one, "")},
		"nothing":               {raw: packets("command=fetch", "|", "done", "")},
		"no arguments":          {raw: packets("command=fetch", "")},
		"shallow":               {raw: packets("command=fetch", "|", "want "+one, "deepen 1", "done", "")},
		"of a shallow one":      {raw: packets("command=fetch", "|", "shallow "+two, "want "+one, "done", "")},
		"filtered":              {raw: packets("command=fetch", "|", "filter blob:none", "want "+one, "done", "")},
		"by name":               {raw: packets("command=fetch", "|", "want-ref refs/heads/main", "done", "")},
		"all on bands":          {raw: packets("command=fetch", "|", "sideband-all", "want "+one, "done", "")},
		"waits for done":        {raw: packets("command=fetch", "|", "wait-for-done", "want "+one, "done", "")},
		"another format":        {raw: packets("command=fetch", "object-format=sha256", "|", "want "+one, "done", "")},
		"an unknown capability": {raw: packets("command=fetch", "server-option=x", "|", "want "+one, "done", "")},
		"another command":       {raw: packets("command=ls-refs", "|", "want "+one, "done", "")},
		"two delimiters":        {raw: packets("command=fetch", "|", "|", "want "+one, "done", "")},
		"no command":            {raw: packets("|", "want "+one, "done", "")},
		"a short id":            {raw: packets("command=fetch", "|", "want "+one[1:], "done", "")},
		"no end":                {raw: packets("command=fetch", "|", "want "+one, "done")},
		"more behind it":        {raw: append(packets("command=fetch", "|", "want "+one, "done", ""), '0')},
		"nothing at all":        {},
		"no packet":             {raw: []byte("GET / HTTP/1.0\r\n")},
	} {
		q, ok := Parse(c.raw, cluster.SHA1)
		if ok != (c.want.Wants != nil) {
			t.Errorf("%s: ok is %v", name, ok)
		}
		if ok && (!slices.Equal(q.Wants, c.want.Wants) || !slices.Equal(q.Options, c.want.Options)) {
			t.Errorf("%s: %v, want %v", name, q, c.want)
		}
	}
}

// TestIsWhatGitAsks compares what pack-objects is given with what upload-pack gives it.
func TestIsWhatGitAsks(t *testing.T) {
	dir := t.TempDir()
	work, bare := filepath.Join(dir, "work"), filepath.Join(dir, "bare.git")
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com"}
	git := func(extra []string, stdin []byte, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Env, cmd.Stdin = append(env, extra...), bytes.NewReader(stdin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, &stderr)
		}
		return string(out)
	}
	git(nil, nil, "init", "-q", "-b", "main", work)
	var commits []string
	for _, message := range []string{"one", "two"} {
		git(nil, nil, "-C", work, "commit", "-q", "--allow-empty", "-m", message)
		commits = append(commits, strings.TrimSpace(git(nil, nil, "-C", work, "rev-parse", "HEAD")))
		git(nil, nil, "-C", work, "tag", "-a", "-m", message, message)
	}
	git(nil, nil, "clone", "-q", "--bare", work, bare)
	record := filepath.Join(dir, "record")
	hook := filepath.Join(dir, "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" >"+record+".args\ntee "+record+".revs | \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	arguments := []string{"thin-pack", "no-progress", "include-tag", "ofs-delta"}
	for set := range 1 << len(arguments) {
		lines := []string{"command=fetch", "agent=git/2", "object-format=sha1", "|"}
		for i, a := range arguments {
			if set&(1<<i) != 0 {
				lines = append(lines, a)
			}
		}
		for _, oid := range []string{commits[set%2], commits[1], commits[1], commits[0]} {
			lines = append(lines, "want "+oid+"\n")
		}
		raw := packets(append(lines, "done\n", "")...)
		q, ok := Parse(raw, cluster.SHA1)
		if !ok {
			t.Fatalf("%q is not ok", raw)
		}
		git([]string{"GIT_PROTOCOL=version=2", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=uploadpack.packObjectsHook", "GIT_CONFIG_VALUE_0=" + hook},
			raw, "upload-pack", "--stateless-rpc", bare)
		args, err := os.ReadFile(record + ".args")
		if err != nil {
			t.Fatal(err)
		}
		revs, _ := os.ReadFile(record + ".revs")
		if want := strings.Fields(string(args)); !slices.Equal(q.Args(), want) {
			t.Errorf("%q: %v, Git has %v", raw, q.Args(), want)
		}
		if q.Revs() != string(revs) {
			t.Errorf("%q: %q, Git has %q", raw, q.Revs(), revs)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packets("command=fetch", "agent=git/2", "|", "thin-pack", "ofs-delta", "want "+one, "done", ""))
	f.Add(packets("command=fetch", "|", "want "+one, "have "+two, "done", ""))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, ok := Parse(raw, cluster.SHA1)
		if !ok {
			return
		}
		for _, word := range []string{"have ", "deepen", "shallow ", "filter ", "want-ref "} {
			if bytes.Contains(raw, []byte("0000"+word)) || len(q.Wants) == 0 {
				t.Errorf("%q asks for %v", raw, q)
			}
		}
		for _, oid := range q.Wants {
			if !bytes.Contains(raw, []byte("want "+oid)) {
				t.Errorf("%q does not want %s", raw, oid)
			}
		}
	})
}
