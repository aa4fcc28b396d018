package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/clustertest"
)

// A crowd is readers that come to two stale nodes at once.
type crowd struct {
	*bench
	stale []*clustertest.Node
	id    string // of the repository
	// read is one reader's part, on a node; it may have got ready before.
	read func(ctx context.Context, n *clustertest.Node, reader int) error

	alone, last []float64 // milliseconds
	catchUps    []float64 // of each node, in each round
}

// herd has many readers come at once, right after a push, to each of two nodes that
// have missed it: they are stopped meanwhile. The journal needs a majority of its
// servers, so these are two nodes beyond the three that have one.
func herd(ctx context.Context, b *bench) error {
	for len(b.cluster.Nodes) < 5 {
		if _, err := b.cluster.Grow(); err != nil {
			return err
		}
	}
	// Of five nodes a majority would be three.
	if err := b.admin(ctx, "repo", "set", clusterName(repoQuiet), "--copies", "2"); err != nil {
		return err
	}
	for name := range b.recipes() {
		if err := b.inSync(ctx, name); err != nil {
			return err
		}
	}
	var view admin.RepoView
	shown := b.cluster.Admin.RunContext(ctx, "", "", "git-cluster", "repo", "show", clusterName(repoQuiet), "--json")
	if err := errors.Join(shown.Err(), json.Unmarshal([]byte(shown.Stdout), &view)); err != nil {
		return err
	}
	c := crowd{bench: b, stale: b.cluster.Nodes[3:5], id: string(view.ID)}
	who := fmt.Sprintf("last of %d on each of 2 stale nodes", b.Readers)
	if err := c.onKeptConnections(ctx); err != nil {
		return err
	}
	b.report.number("herd: catch-ups of a node", newSample("", c.catchUps...), 1, "")
	b.report.ratio("herd: "+who+", asking to be synchronized", newSample("ms", c.last...), "one alone", newSample("ms", c.alone...), 2)

	c.alone, c.last, c.catchUps = nil, nil, nil
	c.read = func(ctx context.Context, n *clustertest.Node, _ int) error {
		t := b.via(n)
		_, err := t.git(ctx, "", "ls-remote", "-q", t.url(repoQuiet))
		return err
	}
	if err := c.rounds(ctx); err != nil {
		return err
	}
	b.report.number("herd of `git ls-remote`: catch-ups of a node", newSample("", c.catchUps...), 1, "")
	b.report.ratio("herd of `git ls-remote`: "+who, newSample("ms", c.last...), "one alone", newSample("ms", c.alone...), 2)
	return nil
}

// onKeptConnections has the readers connect before, so that what is measured is the
// node's work and not the start of many processes on one machine.
func (c *crowd) onKeptConnections(ctx context.Context) error {
	asks := map[string][]func(context.Context) error{}
	for _, n := range c.stale {
		for range c.Readers {
			conn, err := c.connect(ctx, n)
			if err != nil {
				return err
			}
			defer conn.Close()
			asks[n.Name] = append(asks[n.Name], func(ctx context.Context) error {
				_, err := command(ctx, conn, "cluster-sync "+clusterName(repoQuiet))
				return err
			})
		}
	}
	c.read = func(ctx context.Context, n *clustertest.Node, reader int) error { return asks[n.Name][reader](ctx) }
	return c.rounds(ctx)
}

func (c *crowd) rounds(ctx context.Context) error {
	if c.Rounds > 1 { // the first time nodes have to connect to each other
		if _, err := c.round(ctx, c.stale, 1); err != nil {
			return err
		}
	}
	for range c.Rounds {
		alone, err := c.round(ctx, c.stale[:1], 1)
		if err != nil {
			return err
		}
		last, err := c.round(ctx, c.stale, c.Readers)
		if err != nil {
			return err
		}
		c.alone, c.last = append(c.alone, milliseconds(alone)), append(c.last, milliseconds(last))
	}
	return nil
}

// round pushes while the stale nodes are stopped, has so many readers wait at each of
// the given ones, and lets them go on. It returns when the last reader was done.
func (c *crowd) round(ctx context.Context, nodes []*clustertest.Node, readers int) (last time.Duration, err error) {
	if err := c.inSync(ctx, repoQuiet); err != nil {
		return 0, err
	}
	logged := make([]int, len(c.stale))
	for i, n := range c.stale {
		logged[i] = len(n.Log())
		if err := n.Pause(); err != nil {
			return 0, err
		}
		defer n.Resume() // once more than needed is harmless
	}
	if _, err := c.via(c.cluster.Nodes[0]).push(ctx, c.pusher, repoQuiet, "main"); err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed error
	var done time.Time
	for _, n := range nodes {
		for i := range readers {
			all.Go(func() {
				err := c.read(ctx, n, i)
				mu.Lock()
				defer mu.Unlock()
				failed, done = errors.Join(failed, err), time.Now()
			})
		}
	}
	for _, n := range nodes {
		err = errors.Join(err, await(ctx, 20*time.Second, func() string {
			if waiting, err := unread(n.SSH); err != nil || waiting < readers {
				return fmt.Sprintf("%d of %d readers wait at %s (%v)", waiting, readers, n.Name, err)
			}
			return ""
		}))
	}
	start := time.Now()
	for _, n := range c.stale {
		err = errors.Join(err, n.Resume())
	}
	all.Wait()
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	if err := c.inSync(ctx, repoQuiet); err != nil {
		return 0, err
	}
	for i, n := range c.stale {
		c.catchUps = append(c.catchUps, float64(catchUps(n.Log()[logged[i]:], c.id)))
	}
	return done.Sub(start), nil
}

// catchUps counts those of a repository in a node's log.
func catchUps(log, id string) (n int) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, `msg="caught up"`) && strings.Contains(line, "repo="+id+" ") {
			n++
		}
	}
	return n
}
