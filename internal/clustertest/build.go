package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// Main runs the tests of a package that uses [Programs], and removes what was
// built for them.
func Main(m *testing.M) int {
	defer func() {
		if built.dir != "" {
			os.RemoveAll(built.dir)
		}
	}()
	return m.Run()
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// Programs returns a folder with the module's programs, built when it is first
// asked for.
func Programs() (string, error) {
	built.once.Do(func() {
		built.dir, built.err = os.MkdirTemp("", "gc-bin-")
		if built.err == nil {
			built.err = Build(context.Background(), built.dir)
		}
	})
	return built.dir, built.err
}

// OldPrograms returns a folder with the programs of an earlier version of the
// module, which goes with the test: that of the revision in GIT_CLUSTER_TEST_OLD, or
// of the commit before the last that changed any program. Where there is no history
// the test is skipped.
func OldPrograms(t testing.TB) string {
	t.Helper()
	root, err := ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) (string, error) {
		c := gitcmd.Command{Args: append([]string{"git", "-C", root}, args...), Env: os.Environ()}
		out, err := new(gitexec.Runner).Output(t.Context(), c, nil)
		return strings.TrimSpace(string(out)), err
	}
	revision := os.Getenv("GIT_CLUSTER_TEST_OLD")
	if revision == "" {
		last, err := git("log", "-n", "2", "--format=%H", "--", "cmd", "internal")
		commits := strings.Fields(last)
		if err != nil || len(commits) < 2 {
			t.Skipf("no earlier version of the programs is at hand (%d commits, %v)", len(commits), err)
		}
		revision = commits[1]
	}
	source, bin := t.TempDir(), t.TempDir()
	archive := filepath.Join(source, "source.tar")
	if _, err := git("archive", "--output="+archive, revision, "--", "go.mod", "go.sum", "cmd", "internal"); err != nil {
		t.Skipf("no earlier version of the programs is at hand: %v", err)
	}
	unpack := gitcmd.Command{Args: []string{"tar", "-x", "-f", archive, "-C", source}, Env: os.Environ()}
	if err := new(gitexec.Runner).Run(t.Context(), unpack, gitexec.IO{}); err != nil {
		t.Fatal(err)
	}
	if err := buildIn(t.Context(), source, bin); err != nil {
		t.Fatal(err)
	}
	return bin
}

// Build makes the module's programs, with further flags of "go build", in dir.
func Build(ctx context.Context, dir string, flags ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the build did not end"))
	defer cancel()
	root, err := ModuleRoot()
	if err != nil {
		return err
	}
	return buildIn(ctx, root, dir, flags...)
}

func buildIn(ctx context.Context, root, dir string, flags ...string) error {
	args := append(append([]string{"go", "build"}, flags...), "-o", dir+string(filepath.Separator), "./cmd/...")
	// As install.sh does, so that they start as fast.
	c := gitcmd.Command{Args: args, Env: append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off"), Dir: root}
	if err := new(gitexec.Runner).Run(ctx, c, gitexec.IO{}); err != nil {
		return err
	}
	return wrapSSH(dir)
}

// wrapSSH puts an ssh before the real one that reads the file in $SSH_CONFIG. It
// would look for its configuration where the account's home really is; and with
// GIT_SSH_COMMAND the remote helper would use ssh as well.
func wrapSSH(dir string) error {
	real, err := gitexec.Find("ssh")
	if err != nil {
		return nil // the tests that want it will say so
	}
	text := "#!/bin/sh\nexec '" + real + "' ${SSH_CONFIG:+-F \"$SSH_CONFIG\"} \"$@\"\n"
	return os.WriteFile(filepath.Join(dir, "ssh"), []byte(text), 0o755)
}

// ModuleRoot is the folder of go.mod: a test runs in that of its package.
func ModuleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(text), "module gitcluster\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in the module", start)
		}
	}
}

// Await polls until check returns "", and fails the test with what a check that
// began after the limit returned.
func Await(t testing.TB, limit time.Duration, check func() (missing string)) {
	t.Helper()
	if last := await(limit, check); last != "" {
		t.Fatalf("after %v: %s", limit, last)
	}
}

func await(limit time.Duration, check func() string) string {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		// A check that takes longer than the limit has a second try: it says how
		// things were when it began.
		began := time.Now()
		last := check()
		if last == "" || began.After(deadline) {
			return last
		}
	}
}
