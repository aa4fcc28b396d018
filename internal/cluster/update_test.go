package cluster

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseRefName(t *testing.T) {
	for _, s := range []string{"refs/heads/main", "refs/tags/v1.0", "refs/heads/a/b/c", "refs/heads/@", "refs/heads/-x", "refs/heads/ü", "refs/notes/commits", "refs/x/HEAD", "refs/heads/a.lockx", "refs/heads/{}"} {
		if r, err := ParseRefName(s); err != nil || string(r) != s {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "HEAD", "main", "heads/main", "refs", "refs/", "refs/heads", "refs/x", "refs/heads/", "/refs/heads/x", "refs//heads/x", "refs/heads//x",
		"refs/heads/.x", "refs/heads/x.", "refs/heads/x..y", "refs/heads/x.lock", "refs/heads/x.lock/y", "refs/heads/@{x", "refs/.x/y", "refs/../../x",
		"refs/heads/a b", "refs/heads/a~b", "refs/heads/a^b", "refs/heads/a:b", "refs/heads/a?b", "refs/heads/a*b", "refs/heads/a[b", `refs/heads/a\b`,
		"refs/heads/a\x00b", "refs/heads/a\nb", "refs/heads/a\x7f", "refs/heads/a\x1f", "refs/heads/" + strings.Repeat("x", 1024),
	} {
		if r, err := ParseRefName(s); err == nil {
			t.Errorf("%q was accepted as %q", s, r)
		} else if strings.ContainsAny(err.Error(), "\x00\n") || len(err.Error()) > 400 {
			t.Errorf("%q: the error is not fit for a terminal: %q", s, err)
		}
	}
}

// What we accept Git accepts; what we refuse beyond Git is documented: names
// not of at least three parts below refs/, and very long ones.
func TestParseRefNameAgainstGit(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"refs", "refs/heads", "heads", "a", "b", "/", "/", "/", ".", "..", ".lock", "lock", "@", "{", "@{", "-", "~", "^", ":", "?", "*", "[", "]", "\\", " ", "\t", "\x7f", "\x01", "ü", "\xff", "HEAD", "}", "!", "$", "'"}
	names := []string{"refs/heads/@", "refs/heads/a.lock", "refs/heads/.a", "refs/heads/a.", "refs/@/a", "refs/heads/a.LOCK", "refs/heads/.lock"}
	for len(names) < 400 {
		var b strings.Builder
		if rng.IntN(4) > 0 {
			b.WriteString("refs/heads/")
		}
		for range 1 + rng.IntN(5) {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		names = append(names, b.String())
	}
	accepted := 0
	for _, name := range names {
		cmd := exec.Command("git", "check-ref-format", name)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1"}
		out, err := cmd.CombinedOutput()
		if _, failed := err.(*exec.ExitError); err != nil && !failed {
			t.Fatal(err)
		}
		if len(out) > 0 && err != nil && strings.HasPrefix(string(out), "usage") {
			continue // an argument Git took for an option
		}
		git := err == nil
		_, ours := ParseRefName(name)
		if ours == nil {
			accepted++
		}
		documented := !strings.HasPrefix(name, "refs/") || strings.Count(name, "/") < 2 || !utf8.ValidString(name)
		switch {
		case ours == nil && !git:
			t.Errorf("%q: accepted, but Git refuses it", name)
		case ours != nil && git && !documented:
			t.Errorf("%q: refused (%v), but Git accepts it", name, ours)
		}
	}
	if accepted < 20 || accepted > len(names)-20 {
		t.Errorf("%d of %d names accepted: the test proves little", accepted, len(names))
	}
}

func FuzzParseRefName(f *testing.F) {
	for _, s := range []string{"refs/heads/main", "refs/heads/../x", "refs/heads/\xff", "refs/heads/a.lock", "refs/a/@{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRefName(s)
		if err != nil {
			return
		}
		if string(r) != s || strings.Contains(s, "..") || strings.ContainsAny(s, "\x00\n \\") || !strings.HasPrefix(s, "refs/") || strings.HasSuffix(s, ".lock") {
			t.Errorf("%q was accepted as %q", s, r)
		}
	})
}

// Updates travel in JSON: a name that was accepted must come back as it was.
func TestRefUpdateSurvivesJSON(t *testing.T) {
	for _, s := range []string{"refs/heads/main", "refs/heads/<&>", "refs/heads/\u2028", "refs/heads/ü", "refs/heads/\xff", "refs/heads/caf\xe9"} {
		name, err := ParseRefName(s)
		if err != nil {
			continue
		}
		data, err := json.Marshal(RefUpdate{Ref: name})
		if err != nil {
			t.Fatal(err)
		}
		var u RefUpdate
		if err := json.Unmarshal(data, &u); err != nil || u.Ref != name {
			t.Errorf("%q is accepted and comes back from JSON as %q, %v", s, u.Ref, err)
		}
	}
}

func TestRefKinds(t *testing.T) {
	for ref, want := range map[RefName][2]bool{
		"refs/heads/x": {true, false}, "refs/tags/x": {}, "refs/strays/x": {false, true}, "refs/straysx/y": {}, "refs/headsx/y": {},
	} {
		if got := [2]bool{ref.IsBranch(), ref.IsHidden()}; got != want {
			t.Errorf("%s: branch, hidden = %v, want %v", ref, got, want)
		}
	}
}
