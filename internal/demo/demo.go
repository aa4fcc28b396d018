// Package demo sets up a whole cluster on this machine, by the commands that
// operators use, and shows a push to one node come out of another.
//
// Entry point: [Run].
//
// It promises to touch nothing outside its directory, to leave no process
// behind however it ends, and to leave in that directory, with Keep, what a
// script needs to use the cluster.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// Options say what to set up.
type Options struct {
	Nodes int
	Dir   string // "" for a temporary one
	Keep  bool   // stay up until the context ends
	Out   io.Writer
}

// Repo is the repository that the demo makes.
const Repo = "demo/hello"

// user is the demo's user, an administrator.
const user = "demo"

// A demo is a running demonstration.
type demo struct {
	Options
	self  string // this program
	start time.Time
	nodes []*nodeProcess
	run   gitexec.Runner
}

// Run sets up the cluster, shows it at work, and takes it down again; with Keep
// it first waits for the context to end.
func Run(ctx context.Context, o Options) (err error) {
	if o.Nodes < 1 || o.Nodes > 9 {
		return fmt.Errorf("a demo has 1 to 9 nodes, not %d", o.Nodes)
	}
	d := &demo{Options: o, start: time.Now()}
	if d.self, err = os.Executable(); err != nil {
		return err
	}
	if _, err := os.Stat(d.bin("git-remote-cluster")); err != nil {
		return cluster.WithHint(fmt.Errorf("git-remote-cluster is not beside %s", d.self), "run ./install.sh first")
	}
	if d.Dir == "" {
		if d.Dir, err = os.MkdirTemp("", "git-cluster-demo-"); err != nil {
			return err
		}
		defer os.RemoveAll(d.Dir)
	} else if err := emptyDir(&d.Dir); err != nil {
		return err
	} else if !o.Keep {
		defer os.RemoveAll(d.Dir)
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.setUp(ctx); err != nil {
		return d.explain(err)
	}
	if err := d.show(ctx); err != nil {
		return d.explain(err)
	}
	if !o.Keep {
		d.say("done; everything is taken down again")
		return nil
	}
	for _, n := range d.nodes {
		if !n.running() {
			if err := d.startNode(ctx, n); err != nil {
				return d.explain(err)
			}
		}
	}
	if err := d.writeNodes(); err != nil {
		return err
	}
	fmt.Fprintf(d.Out, "\nUse it:   . %s\n          git clone cluster::%s\n          git clone https://%s/%s\nLook:     https://%s/ (sign in with the token in %s)\nEnd it:   Ctrl-C\n",
		filepath.Join(d.Dir, "env.sh"), Repo, d.nodes[0].HTTP, Repo, d.nodes[0].HTTP, d.path("token"))
	fmt.Fprintln(d.Out, "ready")
	return d.wait(ctx)
}

// setUp makes the cluster as an operator would.
func (d *demo) setUp(ctx context.Context) error {
	if err := d.makeIdentity(); err != nil {
		return err
	}
	for i := range d.Nodes {
		n, err := d.newNode(fmt.Sprintf("node%d", i+1))
		if err != nil {
			return err
		}
		if i == 0 {
			err = d.do(ctx, nil, append([]string{d.self}, n.settings("init", "--cluster-name", "demo", "--admin", user, "--admin-key", d.path("identity.pub"))...)...)
		} else {
			var token string
			if token, err = d.output(ctx, d.self, "token", "create", "--data", d.nodes[0].Data); err != nil {
				return err
			}
			err = d.do(ctx, strings.NewReader(token+"\n"), append([]string{d.self}, n.settings("join", d.nodes[0].SSH, "--token", "-")...)...)
		}
		if err != nil {
			return err
		}
		d.nodes = append(d.nodes, n)
		if err := d.startNode(ctx, n); err != nil {
			return err
		}
		verb := "joined"
		if i == 0 {
			verb = "made the cluster"
		}
		d.say("%s %s and serves ssh://%s and https://%s", n.Name, verb, n.SSH, n.HTTP)
	}
	if err := d.awaitVoters(ctx); err != nil {
		return err
	}
	if err := d.do(ctx, nil, d.self, "repo", "create", Repo, "--data", d.nodes[0].Data); err != nil {
		return err
	}
	d.say("created the repository %s", Repo)
	token, err := d.output(ctx, d.self, "user", "token", "create", user, "--data", d.nodes[0].Data)
	if err != nil {
		return err
	}
	return d.writeFiles(token)
}

// show is what a newcomer came to see.
func (d *demo) show(ctx context.Context) error {
	work := d.path("work")
	first, second, third := d.nodes[0], d.nodes[min(1, len(d.nodes)-1)], d.nodes[len(d.nodes)-1]
	if err := d.do(ctx, nil, "git", "init", "-q", "-b", "main", work); err != nil {
		return err
	}
	push := func(n *nodeProcess, file, text, message string) error {
		if err := os.WriteFile(filepath.Join(work, file), []byte(text), 0o644); err != nil {
			return err
		}
		return errors.Join(
			d.do(ctx, nil, "git", "-C", work, "add", file),
			d.do(ctx, nil, "git", "-C", work, "commit", "-q", "-m", message),
			d.via(ctx, n, "-C", work, "push", "-q", "cluster::"+Repo, "main"))
	}
	clone := func(n *nodeProcess, name, file string) error {
		to := d.path(name)
		if err := d.via(ctx, n, "clone", "-q", "cluster::"+Repo, to); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(to, file)); err != nil {
			return fmt.Errorf("the clone from %s lacks what was just pushed: %w", n.Name, err)
		}
		return os.RemoveAll(to)
	}
	if err := push(first, "README.md", "# Hello\n\nThis repository is on every node of the cluster.\n", "Say hello"); err != nil {
		return err
	}
	d.say("pushed a commit to %s", first.Name)
	if err := clone(second, "clone1", "README.md"); err != nil {
		return err
	}
	d.say("cloned it from %s: the commit is there", second.Name)
	if len(d.nodes) < 3 {
		return nil
	}
	// Every replica has it; a node may die.
	if err := d.awaitReplicas(ctx); err != nil {
		return err
	}
	first.kill()
	d.say("killed %s with SIGKILL", first.Name)
	if err := push(second, "more.txt", "Pushed while a node was down.\n", "Go on without a node"); err != nil {
		return err
	}
	d.say("pushed another commit to %s", second.Name)
	if err := clone(third, "clone2", "more.txt"); err != nil {
		return err
	}
	d.say("cloned it from %s: the commit is there", third.Name)
	if err := d.startNode(ctx, first); err != nil {
		return err
	}
	d.say("started %s again", first.Name)
	if err := clone(first, "clone3", "more.txt"); err != nil {
		return err
	}
	d.say("cloned from %s: it has caught up by itself", first.Name)
	return nil
}

// awaitVoters waits until the journal survives the loss of a node, where there
// are enough nodes for that.
func (d *demo) awaitVoters(ctx context.Context) error {
	if len(d.nodes) < 3 {
		return nil
	}
	err := d.await(ctx, time.Minute, func(st admin.Status) string {
		voters := 0
		for _, m := range st.Journal {
			if m.Voter {
				voters++
			}
		}
		if voters < 3 {
			return fmt.Sprintf("%d of 3 voters", voters)
		}
		return ""
	})
	if err == nil {
		d.say("the journal has three voters: any one node may die")
	}
	return err
}

// awaitReplicas waits until every node has reported all there is.
func (d *demo) awaitReplicas(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; {
		text, err := d.output(ctx, d.self, "repo", "show", Repo, "--json", "--data", d.nodes[0].Data)
		if err != nil {
			return err
		}
		var repo admin.RepoView
		if err := json.Unmarshal([]byte(text), &repo); err != nil {
			return err
		}
		current := 0
		for _, r := range repo.Replicas {
			if r.Version == repo.Version {
				current++
			}
		}
		if current == len(d.nodes) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d replicas are up to date after a minute", current, len(d.nodes))
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// await asks the first node for the status until done says "".
func (d *demo) await(ctx context.Context, limit time.Duration, done func(admin.Status) string) error {
	last := "no answer"
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		text, err := d.output(ctx, d.self, "status", "--json", "--data", d.nodes[0].Data)
		if err == nil {
			var st admin.Status
			if err = json.Unmarshal([]byte(text), &st); err == nil {
				if last = done(st); last == "" {
					return nil
				}
			}
		}
		if err != nil {
			last = err.Error()
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("after %v: %s", limit, last)
}

// wait stays up until the context ends or a node does.
func (d *demo) wait(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	select {
	case <-ctx.Done():
	case <-hup:
	}
	fmt.Fprintln(d.Out, "stopping")
	return nil
}

// stop stops one node after the other: a journal server hands its leadership on
// before it goes, which takes long when the others go at the same moment.
func (d *demo) stop() error {
	var failed []error
	for _, n := range d.nodes {
		n.terminate()
		failed = append(failed, n.awaitEnd(time.Minute))
	}
	return errors.Join(failed...)
}

// explain adds what the nodes logged last to an error.
func (d *demo) explain(err error) error {
	if errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "signal received") {
		return errors.New("interrupted")
	}
	for _, n := range d.nodes {
		data, readErr := os.ReadFile(n.log)
		if readErr != nil {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
		fmt.Fprintf(d.Out, "--- the end of %s's log\n%s\n", n.Name, bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
	}
	return err
}

func (d *demo) say(format string, a ...any) {
	fmt.Fprintf(d.Out, "%6.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, a...))
}

func (d *demo) path(parts ...string) string {
	return filepath.Join(append([]string{d.Dir}, parts...)...)
}

func (d *demo) bin(name string) string { return filepath.Join(filepath.Dir(d.self), name) }

// via runs git through the helper, pinned to one node.
func (d *demo) via(ctx context.Context, n *nodeProcess, args ...string) error {
	return d.command(ctx, nil, io.Discard, append([]string{"git"}, args...), "GIT_CLUSTER_REPLICA="+n.Name)
}

func (d *demo) do(ctx context.Context, stdin io.Reader, args ...string) error {
	return d.command(ctx, stdin, io.Discard, args)
}

func (d *demo) output(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := d.command(ctx, nil, &out, args)
	return strings.TrimSpace(out.String()), err
}

// command runs a program with the environment that env.sh gives, and nothing of
// the person's own Git configuration.
func (d *demo) command(ctx context.Context, stdin io.Reader, stdout io.Writer, args []string, env ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("%s: no end after a minute", strings.Join(args, " ")))
	defer cancel()
	all := append(d.environment(), env...)
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	err := d.run.Run(ctx, gitcmd.Command{Args: args, Env: all}, gitexec.IO{Stdin: stdin, Stdout: stdout})
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func emptyDir(dir *string) (err error) {
	if *dir, err = filepath.Abs(*dir); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(*dir)
	if err == nil && len(entries) > 0 {
		err = cluster.WithHint(fmt.Errorf("%s is not empty", *dir), "give a new --dir, or remove that one if it is of an earlier demo")
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
