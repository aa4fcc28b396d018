package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/sshclient"
)

// reads are what nothing is transferred by; all targets answer the same.

func noopList(ctx context.Context, b *bench) error {
	return b.noop(ctx, "no-op ls-remote", func(ctx context.Context, t target) (time.Duration, error) {
		return t.git(ctx, "", "ls-remote", "-q", t.url(repoQuiet))
	})
}

func noopFetch(ctx context.Context, b *bench) error {
	clones := map[string]string{}
	for _, t := range b.targets() {
		clones[t.name] = b.newDir("fetching")
		if _, err := t.git(ctx, "", "clone", "-q", "--no-checkout", t.url(repoQuiet), clones[t.name]); err != nil {
			return err
		}
	}
	return b.noop(ctx, "no-op fetch", func(ctx context.Context, t target) (time.Duration, error) {
		return t.git(ctx, clones[t.name], "fetch", "-q")
	})
}

func (b *bench) noop(ctx context.Context, name string, read func(context.Context, target) (time.Duration, error)) error {
	got, err := b.race(ctx, b.Fast, read)
	if err != nil {
		return err
	}
	b.against(name, got, map[string]float64{cold: 0.12, warm: 1, plain: 3})
	return nil
}

// race has all targets do the same in turn.
func (b *bench) race(ctx context.Context, n int, do func(context.Context, target) (time.Duration, error)) (map[string]sample, error) {
	var all []contestant
	for _, t := range b.targets() {
		all = append(all, contestant{t.name, func(ctx context.Context) (time.Duration, error) { return do(ctx, t) }})
	}
	return alternate(ctx, n, all...)
}

// against adds a line for each target that ours was compared with. Those without a
// limit are only reported.
func (b *bench) against(name string, got map[string]sample, limits map[string]float64) {
	for _, other := range []string{cold, warm, plain} {
		if s, ok := got[other]; ok {
			b.report.ratio(name, got[ours], other, s, limits[other])
		} else if limits[other] > 0 {
			b.report.skip(name+" beside "+other, b.unable)
		}
	}
}

// helperStart measures what Git waits for whenever it starts the helper.
func helperStart(ctx context.Context, b *bench) error {
	start := func(program string, args ...string) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			return answerTime(ctx, gitcmd.Command{Args: append([]string{program}, args...), Env: b.cluster.Admin.Environment()})
		}
	}
	got, err := alternate(ctx, b.Starts,
		contestant{ours, start(filepath.Join(b.cluster.Bin, "git-remote-cluster"), "origin", "cluster::"+clusterName(repoQuiet))},
		contestant{"cat", start("cat")})
	if err != nil {
		return err
	}
	b.report.number("helper start to capabilities", got[ours], 5, fmt.Sprintf("`cat` echoes in %v", got["cat"]))
	return nil
}

// answerTime starts a program, writes "capabilities", and returns the time until it
// has answered.
func answerTime(ctx context.Context, c gitcmd.Command) (took time.Duration, err error) {
	in, feed, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	out, answer, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if _, err := feed.WriteString("capabilities\n"); err != nil {
		return 0, err
	}
	start := time.Now()
	p, err := new(gitexec.Runner).Start(ctx, c, gitexec.IO{Stdin: in, Stdout: answer})
	in.Close()
	answer.Close()
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
		took = time.Since(start)
		feed.Close()
		err = errors.Join(err, p.Wait())
	}
	return took, err
}

// syncCheck measures what asking the journal adds to a command on a connection that
// is there, on every node: one of them has the journal's leader.
func syncCheck(ctx context.Context, b *bench) error {
	var extra []float64
	var notes []string
	for _, n := range b.cluster.Nodes {
		conn, err := b.connect(ctx, n)
		if err != nil {
			return err
		}
		defer conn.Close()
		got, err := alternate(ctx, b.Starts,
			contestant{"sync", func(ctx context.Context) (time.Duration, error) {
				return command(ctx, conn, "cluster-sync "+clusterName(repoQuiet))
			}},
			contestant{"no-op", func(ctx context.Context) (time.Duration, error) { return command(ctx, conn, "cluster-nodes") }})
		if err != nil {
			return err
		}
		extra = append(extra, got["sync"].Median-got["no-op"].Median)
		notes = append(notes, fmt.Sprintf("%s %s − %s", n.Name, number(got["sync"].Median), number(got["no-op"].Median)))
	}
	b.report.number("extra time of the sync check", newSample("ms", extra...), 2, strings.Join(notes, "; "))
	return nil
}

// command runs a command on a connection that is there.
func command(ctx context.Context, conn *sshclient.Conn, line string) (time.Duration, error) {
	var said strings.Builder
	start := time.Now()
	status, err := conn.Run(ctx, line, nil, nil, nil, &said)
	took := time.Since(start)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: status %d: %s", line, status, said.String())
	}
	return took, err
}

// readAfterPush reads on a node what was pushed through another a moment ago, beside
// a read that finds nothing new there.
func readAfterPush(ctx context.Context, b *bench) error {
	here, there := b.via(b.cluster.Nodes[0]), b.via(b.cluster.Nodes[1])
	read := func(ctx context.Context) (time.Duration, error) {
		return there.git(ctx, "", "ls-remote", "-q", there.url(repoSmall))
	}
	got, err := alternate(ctx, b.Fast,
		contestant{"after a push", func(ctx context.Context) (time.Duration, error) {
			if _, err := here.push(ctx, b.pusher, repoSmall, "main"); err != nil {
				return 0, err
			}
			return read(ctx)
		}},
		contestant{"no-op", func(ctx context.Context) (time.Duration, error) {
			if err := b.inSync(ctx, repoSmall); err != nil {
				return 0, err
			}
			return read(ctx)
		}})
	if err != nil {
		return err
	}
	b.report.ratio("read on another node right after a push", got["after a push"], "no-op read", got["no-op"], 1.5)
	return nil
}

// via is the cluster through one node.
func (b *bench) via(n *clustertest.Node) target {
	t := b.ours()
	t.user = t.user.Via(n.Name)
	return t
}
