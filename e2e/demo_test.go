package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestDemo runs the demonstration as a newcomer does.
func TestDemo(t *testing.T) {
	bin, err := clustertest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	for _, nodes := range []string{"3", "2", "1"} {
		t.Run(nodes, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			start := time.Now()
			out, err := exec.Command(filepath.Join(bin, "git-cluster"), "demo", "--nodes", nodes, "--dir", dir).CombinedOutput()
			took := time.Since(start)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			limit := 2 * time.Minute
			if clustertest.Long() {
				limit = 20 * time.Second // on a machine that does nothing else
			}
			if took > limit {
				t.Errorf("it took %v\n%s", took, out)
			}
			if nodes == "3" && !strings.Contains(string(out), "killed node1 with SIGKILL") {
				t.Errorf("%s", out)
			}
			nobodyIn(t, dir)
		})
	}
	for _, args := range [][]string{{"--nodes", "0"}, {"--nodes", "10"}, {"--dir", bin}, {"extra"}} {
		out, err := exec.Command(filepath.Join(bin, "git-cluster"), append([]string{"demo"}, args...)...).CombinedOutput()
		if err == nil || !strings.HasPrefix(string(out), "git-cluster: ") {
			t.Errorf("demo %v: %v\n%s", args, err, out)
		}
	}
}

// TestDemoKeep uses what a demo that stays up leaves for scripts, and ends it by
// SIGTERM.
func TestDemoKeep(t *testing.T) {
	t.Parallel()
	bin, err := clustertest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "it's a demo") // env.sh has to quote it
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	demo := exec.CommandContext(ctx, filepath.Join(bin, "git-cluster"), "demo", "--keep", "--dir", dir)
	demo.WaitDelay = time.Minute
	stdout, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	ready, said := false, ""
	lines := bufio.NewScanner(stdout)
	for !ready && lines.Scan() {
		said += lines.Text() + "\n"
		ready = lines.Text() == "ready"
	}
	if !ready {
		demo.Wait()
		t.Fatalf("it ended before it was ready:\n%s", said)
	}

	var nodes []struct {
		Name, SSH, Data, Repositories string
		PID                           int
		Command                       []string
	}
	data, err := os.ReadFile(filepath.Join(dir, "nodes.json"))
	if err == nil {
		err = json.Unmarshal(data, &nodes)
	}
	if err != nil || len(nodes) != 3 {
		t.Errorf("nodes.json: %v: %s", err, data)
	}
	for _, n := range nodes {
		if !filepath.IsAbs(n.Data) || !filepath.IsAbs(n.Repositories) || n.SSH == "" || len(n.Command) == 0 || syscall.Kill(n.PID, 0) != nil {
			t.Errorf("nodes.json: %+v", n)
		}
	}
	shell := func(script string) string {
		c := exec.CommandContext(ctx, "sh", "-euc", script)
		c.Dir = t.TempDir()
		c.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + c.Dir, "DIR=" + dir, "GIT_CONFIG_NOSYSTEM=1"}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%s\n%v: %s", script, err, out)
		}
		return string(out)
	}
	shell(`. "$DIR/env.sh"
		git clone -q cluster::demo/hello && cd hello && test -s README.md
		git -c user.name=x -c user.email=x@example.org commit -q --allow-empty -m more
		git push -q
		git ls-remote origin
		git cluster status
		git cluster repo list
		https=$(sed -n 's/.*"http": "\(.*\)".*/\1/p' "$DIR/nodes.json" | tail -1)
		git ls-remote "https://$https/demo/hello" main`)
	shell(`cd "$DIR"; for n in node1 node2 node3; do GIT_SSH_COMMAND="ssh -F ssh_config" git ls-remote ssh://$n/demo/hello main; done`)
	if got := shell(`cd "$DIR"; ssh -F ssh_config node2 </dev/null || true`); !strings.Contains(got, `node "node2"`) || !strings.Contains(got, "logged in as demo") {
		t.Errorf("%s", got)
	}
	// The command of a node starts it again.
	if len(nodes) == 3 {
		killed := nodes[2]
		syscall.Kill(killed.PID, syscall.SIGKILL)
		again := exec.CommandContext(ctx, killed.Command[0], killed.Command[1:]...)
		again.Cancel = func() error { return again.Process.Signal(syscall.SIGTERM) }
		if err := again.Start(); err != nil {
			t.Fatal(err)
		}
		clustertest.Await(t, time.Minute, func() string {
			c := exec.CommandContext(ctx, "git", "ls-remote", "ssh://node3/demo/hello")
			c.Env = append(os.Environ(), "GIT_SSH_COMMAND=ssh -F ssh_config")
			c.Dir = dir
			if out, err := c.CombinedOutput(); err != nil {
				return string(out)
			}
			return ""
		})
		if err := again.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := again.Wait(); err != nil {
			t.Errorf("the node that was started again: %v", err)
		}
	}

	if err := demo.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		said += lines.Text() + "\n"
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, said)
	}
	nobodyIn(t, dir)
}

// nobodyIn waits until no process is left whose command line names dir: one that was
// killed goes when the machine gets to it.
func nobodyIn(t *testing.T, dir string) {
	t.Helper()
	clustertest.Await(t, 10*time.Second, func() string {
		if left := processesIn(t, dir); len(left) > 0 {
			return fmt.Sprintf("processes are left: %v", left)
		}
		return ""
	})
}

// processesIn lists the processes whose command line names dir.
func processesIn(t *testing.T, dir string) (left []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it is gone
		}
		words := strings.Split(string(data), "\x00")
		if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, dir) }) {
			left = append(left, strings.Join(words, " "))
		}
	}
	return left
}
