package cluster

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseRepoName(t *testing.T) {
	long := strings.Repeat("a", MaxRepoName)
	for _, c := range []struct{ in, want string }{
		{"demo", "demo"},
		{"demo/hello", "demo/hello"},
		{"/demo/hello", "demo/hello"},
		{"demo/hello/", "demo/hello"},
		{"demo/hello.git", "demo/hello"},
		{"demo/hello.git/", "demo/hello"},
		{"a.b_c-d+e", "a.b_c-d+e"},
		{"C++/libstdc++", "C++/libstdc++"},
		{"grüße/日本", "grüße/日本"},
		{"e\u0301", "e\u0301"},
		{"git", "git"},
		{"x.gitx", "x.gitx"},
		{"x.locks", "x.locks"},
		{long, long},
		{"/" + long + ".git", long},
	} {
		got, err := ParseRepoName(c.in)
		if err != nil || string(got) != c.want {
			t.Errorf("ParseRepoName(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{
		"", "/", "//", ".git", "/.git", ".", "..", "../x", "x/..", "x/../y", "x/./y", "./x",
		"//x", "x//y", "x//", "x/.git", "x/.git/", "a.git.git", "a.git/b", "a.lock", "a.lock/b", "a.", "a./b",
		".hidden", "x/.hidden", "-x", "--upload-pack=x", "x/-y",
		"a b", "a\tb", "a\nb", "a\x00b", "a\x1bb", "a\x7fb", "a\u0085b", "a\u202eb", "a\u00a0b", "a\u2028b", "a\ufeffb",
		"a\\b", "a:b", "a@b", "a*b", "a?b", "a[b", "a~b", "a'b", `a"b`, "a$b", "a;b", "a|b", "a%2e%2e", "a&b", "a=b", "a#b",
		"\xff", "a\xc3", "😀", long + "a", strings.Repeat("a/", 200) + "a",
	} {
		if got, err := ParseRepoName(in); err == nil {
			t.Errorf("ParseRepoName(%q) = %q, want an error", in, got)
		} else if !errors.Is(err, ErrBadRepoName) {
			t.Errorf("ParseRepoName(%q): %v is not ErrBadRepoName", in, err)
		} else if len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\x00\x1b") {
			t.Errorf("ParseRepoName(%q): the error is not fit for a terminal: %q", in, err)
		}
	}
}

func FuzzParseRepoName(f *testing.F) {
	for _, s := range []string{"demo/hello", "/a/b.git/", "../x", "a.git.git", "a/.git", "x\x00", "ü/é", "-a", "a..b", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseRepoName(s)
		if err != nil {
			if n != "" {
				t.Fatalf("%q: both a name %q and an error", s, n)
			}
			return
		}
		name := string(n)
		for part := range strings.SplitSeq(name, "/") {
			if part == "" || part == ".." || part[0] == '.' || part[0] == '-' || strings.HasSuffix(part, ".git") || strings.HasSuffix(part, ".lock") {
				t.Errorf("%q: the part %q of %q", s, part, name)
			}
		}
		if !utf8.ValidString(name) || len(name) > MaxRepoName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
			t.Errorf("%q: unsafe name %q", s, name)
		}
		// As a path below a root it stays below it, and is already clean.
		if p := filepath.Join("/root", name); p != "/root/"+name || !filepath.IsLocal(name) {
			t.Errorf("%q: %q leaves its root or is not clean", s, name)
		}
		if again, err := ParseRepoName(name); err != nil || again != n {
			t.Errorf("%q: %q parses again to %q, %v", s, name, again, err)
		}
		for _, a := range n.Ancestors() {
			if again, err := ParseRepoName(string(a)); err != nil || again != a || !strings.HasPrefix(name, string(a)+"/") {
				t.Errorf("%q: ancestor %q: %q, %v", s, a, again, err)
			}
		}
	})
}

func TestAncestors(t *testing.T) {
	for in, want := range map[RepoName]string{"a": "", "a/b": "a", "a/b/c": "a a/b", "ü/é/x": "ü ü/é"} {
		var got []string
		for _, a := range in.Ancestors() {
			got = append(got, string(a))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("Ancestors of %q: %q, want %q", in, got, want)
		}
	}
}

func TestRepoPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, covers, not string // lists
	}{
		{"*", "a a/b a/b/c", ""},
		{"a", "a", "a/b ab b A"},
		{"a/*", "a/b a/b/c", "a ab ab/c b/a/b A/b"},
		{"a/b/*", "a/b/c", "a/b a/bc a"},
		{"/a.git/*", "a/b", "a"},
	} {
		p, err := ParseRepoPattern(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		for _, n := range strings.Fields(c.covers) {
			if !p.Covers(RepoName(n)) {
				t.Errorf("%q does not cover %q", p, n)
			}
		}
		for _, n := range strings.Fields(c.not) {
			if p.Covers(RepoName(n)) {
				t.Errorf("%q covers %q", p, n)
			}
		}
		if again, err := ParseRepoPattern(string(p)); err != nil || again != p {
			t.Errorf("%q parses again to %q, %v", p, again, err)
		}
	}
	for _, s := range []string{"", "/*", "//*", "**", "a*", "*/a", "a/*/b", "a/**", "../*", "a b", "*/*", "a/-*"} {
		if p, err := ParseRepoPattern(s); err == nil {
			t.Errorf("ParseRepoPattern(%q) = %q, want an error", s, p)
		}
	}
	if RepoPattern("").Covers("a") || RepoPattern("").Covers("") && RepoPattern("").Covers("a") {
		t.Error("the empty pattern covers something")
	}
}

func FuzzRepoPattern(f *testing.F) {
	f.Add("a/*", "a/b")
	f.Add("*", "x")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := ParseRepoPattern(pattern)
		if err != nil {
			return
		}
		n, err := ParseRepoName(name)
		if err != nil {
			return
		}
		folder, isFolder := strings.CutSuffix(string(p), "/*")
		want := p == "*" || string(p) == string(n)
		if isFolder {
			want = false
			for _, a := range n.Ancestors() {
				want = want || string(a) == folder
			}
		}
		if p.Covers(n) != want {
			t.Errorf("%q covers %q: %v, want %v", p, n, !want, want)
		}
	})
}

func TestPlainNames(t *testing.T) {
	long := strings.Repeat("n", 64)
	for _, s := range []string{"a", "repo001", "a.b-c_d", "0", "A", long} {
		if d, err := ParseDeviceName(s); err != nil || string(d) != s {
			t.Errorf("device %q: %v", s, err)
		}
		if u, err := ParseUserName(s); err != nil || string(u) != s {
			t.Errorf("user %q: %v", s, err)
		}
	}
	for _, s := range []string{"", "-a", ".a", "_a", "@all", "@a", "a/b", "a b", "a+b", "device/x", "ü", "a\n", "a\x00", "a@b", long + "n", "\xff"} {
		if _, err := ParseDeviceName(s); err == nil {
			t.Errorf("device %q was accepted", s)
		}
		if _, err := ParseUserName(s); err == nil {
			t.Errorf("user %q was accepted", s)
		}
	}
}

func TestParseIDs(t *testing.T) {
	if _, err := ParseRepoID("0123456789abcdef"); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "0123456789abcde/", "../../../../../.."} {
		if _, err := ParseRepoID(s); err == nil {
			t.Errorf("repository id %q was accepted", s)
		}
	}
	for _, n := range []int{40, 64} {
		if _, err := ParseOID(strings.Repeat("a", n)); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", strings.Repeat("a", 39), strings.Repeat("a", 41), strings.Repeat("A", 40), strings.Repeat("g", 40), "--" + strings.Repeat("a", 38), strings.Repeat("a", 39) + "\n"} {
		if _, err := ParseOID(s); err == nil {
			t.Errorf("object id %q was accepted", s)
		}
	}
	for s, want := range map[OID]bool{"": true, "0": true, SHA1.Zero(): true, SHA256.Zero(): true, "00a0": false} {
		if s.IsZero() != want {
			t.Errorf("%q is zero: %v", s, !want)
		}
	}
	if len(SHA1.Zero()) != 40 || len(SHA256.Zero()) != 64 {
		t.Error("a zero id has the wrong length")
	}
	for s, want := range map[string]ObjectFormat{"": SHA1, "sha1": SHA1, "sha256": SHA256} {
		if f, err := ParseObjectFormat(s); f != want || err != nil {
			t.Errorf("format %q: %q, %v", s, f, err)
		}
	}
	for _, s := range []string{"SHA1", "md5", "--sha1", "sha1 "} {
		if _, err := ParseObjectFormat(s); err == nil {
			t.Errorf("format %q was accepted", s)
		}
	}
}

func TestRoles(t *testing.T) {
	for _, want := range []Role{RoleRead, RoleWrite, RoleAdmin} {
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Role
		if err := got.UnmarshalText(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, s := range []string{"", "none", "Read", "owner"} {
		if r, err := ParseRole(s); err == nil {
			t.Errorf("role %q is %v", s, r)
		}
	}
}

func TestHint(t *testing.T) {
	if WithHint(nil, "x") != nil {
		t.Error("a hint made an error of nil")
	}
	err := WithHint(ErrNotFound, "look again")
	if !errors.Is(err, ErrNotFound) || Hint(err) != "look again" || err.Error() != ErrNotFound.Error() {
		t.Errorf("%v, hint %q", err, Hint(err))
	}
	if outer := WithHint(err, "nearer"); Hint(outer) != "nearer" {
		t.Errorf("hint %q, want the one nearest to the surface", Hint(outer))
	}
	if Hint(ErrNotFound) != "" || Hint(nil) != "" {
		t.Error("a hint from nowhere")
	}
}
