//go:build linux

package gitexec

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitcluster/internal/gitcmd"
)

func sh(script string, args ...string) gitcmd.Command {
	return gitcmd.Command{
		Args: append([]string{"/bin/sh", "-c", script, "sh"}, args...),
		Env:  []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"},
	}
}

// within returns what do returns, and fails the test if that takes longer than
// anything here may.
func within[T any](t *testing.T, what string, do func() T) T {
	t.Helper()
	done := make(chan T, 1)
	go func() { done <- do() }()
	select {
	case v := <-done:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("%s: still not done after a minute", what)
		panic("unreachable")
	}
}

// state is the process's state letter in /proc, or "" if it is gone.
func state(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}

// waitGone waits until the process runs no more. An orphan is reaped by whoever
// adopted it, so a zombie counts as gone unless it is our child.
func waitGone(t *testing.T, what string, pid int, ours bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		s := state(pid)
		if s == "" || s == "Z" && !ours {
			return
		}
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("%s (process %d) is still there after a minute, in state %q", what, pid, s)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestExitStatus(t *testing.T) {
	var r Runner
	for _, c := range []struct {
		script string
		status int
		stderr string
	}{
		{"exit 0", 0, ""},
		{"exit 1", 1, ""},
		{"echo what; echo why >&2; echo then >&2; exit 128", 128, "why; then"},
		{"kill -9 $$", -1, ""},
	} {
		err := r.Run(t.Context(), sh(c.script), IO{})
		var exit *ExitError
		if errors.As(err, &exit) != (c.status != 0) {
			t.Errorf("%s: %v", c.script, err)
			continue
		}
		if exit == nil {
			if Status(err) != 0 {
				t.Errorf("%s: status %d", c.script, Status(err))
			}
			continue
		}
		if exit.Status != c.status || exit.Stderr != c.stderr {
			t.Errorf("%s: status %d, stderr %q; want %d, %q", c.script, exit.Status, exit.Stderr, c.status, c.stderr)
		}
		want := c.status
		if want < 0 {
			want = 255
		}
		if got := Status(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%s: Status is %d, want %d", c.script, got, want)
		}
	}
	if err := r.Run(t.Context(), gitcmd.Command{Args: []string{"/nonexistent/git"}}, IO{}); err == nil || Status(err) != 255 {
		t.Errorf("a program that is not there: %v", err)
	}
	if Status(errors.New("x")) != 255 {
		t.Error("another error does not stand for 255")
	}
}

func TestStreams(t *testing.T) {
	var r Runner
	big := strings.Repeat("0123456789abcdef\n", 40_000)
	out, err := r.Output(t.Context(), sh("cat"), strings.NewReader(big))
	if err != nil || string(out) != big {
		t.Errorf("%d bytes came back of %d, %v", len(out), len(big), err)
	}
	if out, err = r.Output(t.Context(), sh("cat; echo end"), nil); err != nil || string(out) != "end\n" {
		t.Errorf("without input: %q, %v", out, err)
	}
	var stderr bytes.Buffer
	err = r.Run(t.Context(), sh("echo why >&2; exit 3"), IO{Stderr: &stderr})
	if stderr.String() != "why\n" || Status(err) != 3 || strings.Contains(err.Error(), "why") {
		t.Errorf("stderr %q, %v", &stderr, err)
	}
	file := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if out, err = r.Output(t.Context(), sh("cat"), f); err != nil || string(out) != "from a file" {
		t.Errorf("from a file: %q, %v", out, err)
	}
	// A process that reads nothing of a large input ends all the same.
	if err := within(t, "unread input", func() error { return r.Run(t.Context(), sh("exit 0"), IO{Stdin: strings.NewReader(big)}) }); err != nil {
		t.Errorf("unread input: %v", err)
	}
}

func TestStderrTailIsBounded(t *testing.T) {
	var r Runner
	err := r.Run(t.Context(), sh(`i=0; while [ $i -lt 3000 ]; do echo "line $i of many that nobody wants"; i=$((i+1)); done >&2; echo "fatal: the last one" >&2; exit 1`), IO{})
	if err == nil || len(err.Error()) > 4096 || !strings.HasSuffix(err.Error(), "fatal: the last one") || strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("%d bytes: %.100q", len(fmt.Sprint(err)), fmt.Sprint(err))
	}
	var w tail
	for _, n := range []int{1, tailBytes, 10 * tailBytes, 3} {
		if got, err := w.Write(bytes.Repeat([]byte("x"), n)); got != n || err != nil || len(w.b) > tailBytes {
			t.Errorf("write of %d: %d, %v, %d kept", n, got, err, len(w.b))
		}
	}
}

// A client may hold its half of the connection open long after Git is gone.
func TestWaitDoesNotWaitForStdin(t *testing.T) {
	var r Runner
	in, client := io.Pipe()
	defer client.Close()
	p, err := r.Start(t.Context(), sh("exit 5"), IO{Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	if err := within(t, "Wait with an open stdin", p.Wait); Status(err) != 5 {
		t.Errorf("got %v, want status 5", err)
	}
}

func TestEnvironmentIsClosed(t *testing.T) {
	t.Setenv("GIT_DIR", "/somewhere")
	t.Setenv("GITCLUSTER_TEST_SECRET", "inherited")
	var r Runner
	env := func(c gitcmd.Command) string {
		t.Helper()
		out, err := r.Output(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	self := gitcmd.Command{Args: []string{"/bin/cat", "/proc/self/environ"}}
	if got := env(self); got != "" {
		t.Errorf("a command without an environment has %q", got)
	}
	self.Env = []string{"A=1", "B=two words"}
	if got := env(self); got != "A=1\x00B=two words\x00" {
		t.Errorf("the environment is %q", got)
	}
	dir := t.TempDir()
	if out, err := r.Output(t.Context(), gitcmd.Command{Args: []string{"/bin/pwd", "-P"}, Dir: dir}, nil); err != nil || strings.TrimSpace(string(out)) == "" {
		t.Errorf("working directory %q, %v", out, err)
	}
}

// A writing command holds the lock as long as it lives, even if the node that
// started it closes its own; a reading one never has it.
func TestOnlyWritersInheritTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, writes := range []bool{false, true} {
		t.Run(fmt.Sprintf("writes=%v", writes), func(t *testing.T) {
			lock := open()
			defer lock.Close()
			if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
				t.Fatal(err)
			}
			r := Runner{Lock: lock}
			in, stop := io.Pipe()
			defer stop.Close()
			out, said := io.Pipe()
			c := sh("echo ready; read line")
			c.Writes = writes
			p, err := r.Start(t.Context(), c, IO{Stdin: in, Stdout: said})
			if err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
				t.Fatalf("%q, %v", line, err)
			}
			if got := holds(t, p.PID(), path); got != writes {
				t.Errorf("the process has the lock's descriptor: %v", got)
			}
			lock.Close() // the node dies
			next := open()
			defer next.Close()
			err = syscall.Flock(int(next.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			if free := err == nil; free == writes {
				t.Errorf("while the command lives, the lock is free: %v (%v)", free, err)
			}
			stop.Close()
			if err := within(t, "the end of the command", p.Wait); Status(err) > 1 {
				t.Error(err)
			}
			if err := syscall.Flock(int(next.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
				t.Errorf("after its end the lock is taken: %v", err)
			}
		})
	}
	// Without a lock a writing command still runs.
	c := sh("exit 0")
	c.Writes = true
	if err := (&Runner{}).Run(t.Context(), c, IO{}); err != nil {
		t.Error(err)
	}
}

func holds(t *testing.T, pid int, path string) bool {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); err == nil && target == path {
			return true
		}
	}
	return false
}

// A process sees the node's own descriptors never.
func TestNoOtherDescriptorIsInherited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := sh("ls -l /proc/self/fd")
	c.Writes = true
	out, err := (&Runner{}).Output(t.Context(), c, nil)
	if err != nil || strings.Contains(string(out), path) {
		t.Errorf("%v: the process has\n%s", err, out)
	}
}

func TestProcessIsItsOwnGroup(t *testing.T) {
	var r Runner
	in, stop := io.Pipe()
	p, err := r.Start(t.Context(), sh("read line"), IO{Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	if pgid, err := syscall.Getpgid(p.PID()); err != nil || pgid != p.PID() {
		t.Errorf("process %d is in group %d, %v", p.PID(), pgid, err)
	}
	stop.Close()
	within(t, "the end of the command", p.Wait)
	if s := state(p.PID()); s != "" {
		t.Errorf("after Wait the process is in state %q", s)
	}
}

func TestMemory(t *testing.T) {
	fill := sh(`read go; x=0123456789abcdef; while [ ${#x} -lt 50000000 ]; do x=$x$x; done; echo full`)
	fill.Memory = 16 << 20
	var r Runner
	out, err := r.Output(t.Context(), fill, strings.NewReader("go\n"))
	if err == nil || len(out) > 0 {
		t.Errorf("a process took more than its bound: %q, %v", out, err)
	}
	fill.Memory = 1 << 30
	if out, err := r.Output(t.Context(), fill, strings.NewReader("go\n")); err != nil || string(out) != "full\n" {
		t.Errorf("a process within its bound: %q, %v", out, err)
	}
}
