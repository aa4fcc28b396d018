package shell

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
	}{
		{"", nil},
		{" \t\n ", nil},
		{"git-upload-pack 'demo/hello'", []string{"git-upload-pack", "demo/hello"}},
		{"git-upload-pack '/demo/hello.git'", []string{"git-upload-pack", "/demo/hello.git"}},
		{"git upload-pack demo", []string{"git", "upload-pack", "demo"}},
		{"  a   b\tc\nd ", []string{"a", "b", "c", "d"}},
		{`'it'\''s'`, []string{"it's"}},
		{`'a'\!'b'`, []string{"a!b"}},
		{`''`, []string{""}},
		{`a '' b`, []string{"a", "", "b"}},
		{`""`, []string{""}},
		{`a"b c"d`, []string{"ab cd"}},
		{`"a\"b"`, []string{`a"b`}},
		{`"a'b"`, []string{"a'b"}},
		{`'a"b\'`, []string{`a"b\`}},
		{`a\ b`, []string{"a b"}},
		{`\'`, []string{"'"}},
		{`@alice cluster-sync --write 'x'`, []string{"@alice", "cluster-sync", "--write", "x"}},
		// Nothing is expanded and nothing is a command of its own.
		{`a;b|c&d $(id) ${HOME} *`, []string{"a;b|c&d", "$(id)", "${HOME}", "*"}},
		{"`id` <x >y #z", []string{"`id`", "<x", ">y", "#z"}},
		{"a\x00b", []string{"a\x00b"}},
	} {
		if got, err := split(c.line); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("split(%q) = %q, %v; want %q", c.line, got, err, c.want)
		}
	}
	for _, line := range []string{`'`, `"`, `a 'b`, `a "b`, `a\`, `"a\`, `"a\"`, `'a''`, `'it's'`} {
		if got, err := split(line); err == nil {
			t.Errorf("split(%q) = %q, want an error", line, got)
		}
	}
}

// quote is how Git quotes an argument for a remote command: everything in single
// quotes, and those and exclamation marks outside of them.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"", "a b", `it's "quoted" \ and ! more`, "\x00\xff", "line\nfeed", "'"} {
		f.Add(s, "second")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if words, err := split(a); err == nil {
			total := 0
			for _, w := range words {
				total += len(w)
			}
			if total > len(a) {
				t.Errorf("split(%q) made %d bytes of %d", a, total, len(a))
			}
		}
		got, err := split(quote(a) + " " + quote(b))
		if err != nil || !slices.Equal(got, []string{a, b}) {
			t.Errorf("%q and %q come back as %q, %v", a, b, got, err)
		}
	})
}

// A POSIX shell divides what clients send in the same way.
func TestSplitAsAShellDoes(t *testing.T) {
	for _, line := range []string{
		`git-upload-pack 'demo/hello'`, `'it'\''s' 'a'\!'b'`, `a"b c"d ''`, `\'x\" "a\"b" 'a"b\'`, `"it's"  x`, `a\\b "a\\b" 'a\\b'`,
	} {
		sh, err := exec.LookPath("sh")
		if err != nil {
			t.Skip("no POSIX shell")
		}
		out, err := exec.Command(sh, "-c", `printf '%s\0' `+line).Output()
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if got, err := split(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("split(%q) = %q, %v; a shell makes it %q", line, got, err, want)
		}
	}
}
