package gitcmd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// TestPushStartsFewProcesses holds what receive-pack starts for a push: one process that
// stores the pack and one that looks whether it is complete. A list of all refs is not
// among them.
func TestPushStartsFewProcesses(t *testing.T) {
	home := t.TempDir()
	repo, work, trace := filepath.Join(home, "x.git"), filepath.Join(home, "work"), filepath.Join(home, "trace")
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@x", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@x"}
	git := func(env []string, args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{Init(repo, cluster.SHA1, "refs/heads/main").Args[1:], {"init", "-q", "-b", "main", work},
		{"-C", work, "commit", "-q", "--allow-empty", "-m", "one"}} {
		if out, err := git(env, args...); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	// The client finds the command as a script that starts it in its own environment.
	receive := ReceivePack(repo, "", Push{Hooks: filepath.Join(home, "none")})
	script := "#!/bin/sh\nexec env -i"
	for _, v := range append(receive.Env, "GIT_TRACE="+trace) {
		script += " '" + strings.ReplaceAll(v, "'", `'\''`) + "'"
	}
	program := filepath.Join(home, "receive")
	if err := os.WriteFile(program, []byte(fmt.Sprintf("%s git receive-pack \"$1\"\n", script)), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := git(env, "-C", work, "push", "--receive-pack="+program, repo, "main")
	if err == nil || !strings.Contains(out, "fail to run proc-receive hook") {
		t.Fatalf("the push did not get as far as its hook, of which there is none: %v\n%s", err, out)
	}
	log, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	var started []string
	for line := range strings.Lines(string(log)) {
		if _, command, ok := strings.Cut(line, "run_command: "); ok {
			for _, word := range strings.Fields(command) {
				switch word {
				case "index-pack", "rev-list", "for-each-ref", "true":
					started = append(started, word)
				}
			}
		}
	}
	if got := strings.Join(started, " "); got != "index-pack rev-list true" {
		t.Errorf("it started %q, want \"index-pack rev-list true\"; the trace:\n%s", got, log)
	}
}
