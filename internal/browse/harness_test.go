package browse

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
)

// A world is a bare repository and the means to fill it with exactly the bytes
// that a test wants.
type world struct {
	*Repo
	t    testing.TB
	home string
	made int
}

func newWorld(t testing.TB, format cluster.ObjectFormat) *world {
	t.Helper()
	w := &world{t: t, home: t.TempDir()}
	dir := filepath.Join(t.TempDir(), "x.git")
	w.Repo = New(&gitexec.Runner{}).Open(dir, format)
	w.browser.maxWalk, w.browser.maxTime = time.Minute, time.Minute // a slow machine's answers are to be complete, too
	w.git("", "init", "-q", "--bare", "--object-format="+string(format), "--initial-branch=main", dir)
	return w
}

// reopen is the repository as the next request sees it.
func (w *world) reopen() *Repo { return w.browser.Open(w.dir, w.format) }

func (w *world) git(stdin string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "GIT_DIR=" + w.dir,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func (w *world) rev(rev string) cluster.OID {
	w.t.Helper()
	return cluster.OID(w.git("", "rev-parse", "--verify", "--end-of-options", rev))
}

// A change gives a path contents, or takes it away if mode is "".
type change struct{ path, mode, data string }

func file(path, data string) change { return change{path, "100644", data} }
func gone(path string) change       { return change{path: path} }

// commit adds a commit to a branch: on top of it, or of from if there are any.
// The hours between commits are one.
func (w *world) commit(branch, message string, from []cluster.OID, changes ...change) cluster.OID {
	w.t.Helper()
	w.made++
	who := fmt.Sprintf("%d +0200", 1_500_000_000+3600*w.made)
	return w.commitBy(branch, "author A U Thor <author@example.com> "+who+"\ncommitter C O Mitter <committer@example.com> "+who+"\n", message, from, changes...)
}

func (w *world) commitBy(branch, who, message string, from []cluster.OID, changes ...change) cluster.OID {
	w.t.Helper()
	var s strings.Builder
	fmt.Fprintf(&s, "commit %s\n%s", branch, who)
	fmt.Fprintf(&s, "data %d\n%s\n", len(message), message)
	if len(from) == 0 {
		if out, err := exec.Command("git", "--git-dir="+w.dir, "rev-parse", "-q", "--verify", branch).Output(); err == nil {
			from = []cluster.OID{cluster.OID(strings.TrimSpace(string(out)))}
		}
	}
	for i, p := range from {
		fmt.Fprintf(&s, "%s %s\n", []string{"from", "merge"}[min(i, 1)], p)
	}
	for _, c := range changes {
		switch c.mode {
		case "":
			fmt.Fprintf(&s, "D %s\n", quotedPath(c.path))
		case "160000":
			fmt.Fprintf(&s, "M 160000 %s %s\n", c.data, quotedPath(c.path))
		default:
			fmt.Fprintf(&s, "M %s inline %s\ndata %d\n%s\n", c.mode, quotedPath(c.path), len(c.data), c.data)
		}
	}
	w.git(s.String(), "-c", "core.compression=0", "fast-import", "--quiet", "--force")
	return w.rev(branch)
}

// quotedPath quotes every byte, apart from how the package does it.
func quotedPath(path string) string {
	var s strings.Builder
	for _, c := range []byte(path) {
		fmt.Fprintf(&s, "\\%03o", c)
	}
	return `"` + s.String() + `"`
}

// hostile are names that Git can store and a careless reader gets wrong.
var hostile = []string{
	"-option", "--", "--help", "a b", " leading", "trailing ", "tab\there", "new\nline", `quo"te`, `back\slash`, "'", "HEAD", "main",
	"\xff\xfe not utf-8", "ü", "e\u0301", "\u202egnp.exe", ":(top)*", "*", "?", "[a]", "a:b", "\x01\x1b[31m", "\x7f", "<script>", "%00", "...",
	"refs", strings.Repeat("long", 60), "diff --git a", "@@ -1 +1 @@", "\"", "\\n",
}

// formats runs a test for both hashes.
func formats(t *testing.T, test func(t *testing.T, w *world)) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		t.Run(string(format), func(t *testing.T) { test(t, newWorld(t, format)) })
	}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newReader(s string) *bufio.Reader { return bufio.NewReader(strings.NewReader(s)) }
