//go:build unix

package main

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitcluster/internal/sshclient/sshtest"
)

// Git killed, or the helper told to stop, while the replica synchronizes: the
// helper and the command on the server end.
func TestEndingWhileSynchronizing(t *testing.T) {
	for name, stop := range map[string]func(git *os.Process) error{
		"git killed":        func(git *os.Process) error { return git.Kill() },
		"group interrupted": func(git *os.Process) error { return syscall.Kill(-git.Pid, syscall.SIGINT) },
		"group terminated":  func(git *os.Process) error { return syscall.Kill(-git.Pid, syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := w.addNode("node1", syncing(func(ctx context.Context, s *sshtest.Session) int {
				<-ctx.Done()
				return 1
			}))
			w.repo("demo/hello")
			cmd, stderr := w.command("", "git", "ls-remote", "cluster::demo/hello")
			// The helper holds this pipe for as long as it lives.
			alive, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer alive.Close()
			cmd.ExtraFiles = []*os.File{write}
			cmd.WaitDelay = 20 * time.Second
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			write.Close()
			h.WaitRunning(t, "cluster-sync")
			if err := stop(cmd.Process); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			h.WaitRunning(t, "")
			alive.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := alive.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
				t.Errorf("the helper still runs: %v", err)
			}
			if strings.Contains(stderr.String(), "git-remote-cluster") {
				t.Errorf("stderr %q", stderr)
			}
		})
	}
}

func TestHelperAlone(t *testing.T) {
	w := newWorld(t)
	w.addNode("node1")
	for _, c := range []struct {
		input, stdout, stderr string
		status                int
	}{
		{"capabilities\n\n", "connect\noption\n\n", "", 0},
		{"capabilities\nlist\n", "connect\noption\n\n", `git-remote-cluster: unknown command "list" from git`, 1},
		{"connect git-shell\n", "", `unknown service "git-shell"`, 1},
		{"option verbosity 1\noption depth 3\n", "ok\nunsupported\n", "", 0},
		{"capabilities", "", "in the middle of the command", 1},
		{strings.Repeat("x", 20<<10), "", "longer than", 1},
		{"", "", "", 0},
	} {
		cmd, stderr := w.command("", "git-remote-cluster", "origin", "x")
		cmd.Stdin = strings.NewReader(c.input)
		var stdout strings.Builder
		cmd.Stdout = &stdout
		cmd.Run()
		if stdout.String() != c.stdout || !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) ||
			cmd.ProcessState.ExitCode() != c.status {
			t.Errorf("%.40q: status %d, stdout %q, stderr %q", c.input, cmd.ProcessState.ExitCode(), stdout.String(), stderr)
		}
	}
	for _, arg := range []string{"--version", "-h"} {
		cmd, _ := w.command("", "git-remote-cluster", arg)
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), "git-remote-cluster") {
			t.Errorf("%s: %q, %v", arg, out, err)
		}
	}
}
