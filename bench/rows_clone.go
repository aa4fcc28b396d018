package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

func cloneBig(ctx context.Context, b *bench) error {
	got, err := b.race(ctx, b.Slow, func(ctx context.Context, t target) (time.Duration, error) {
		return b.clone(ctx, t, repoBig)
	})
	if err != nil {
		return err
	}
	size, err := packedSize(b.masters[repoBig])
	if err != nil {
		return err
	}
	b.against(fmt.Sprintf("clone of %s MB", number(float64(size)/1e6)), got, map[string]float64{cold: 1})
	return nil
}

// clone clones a repository and removes the clone.
func (b *bench) clone(ctx context.Context, t target, repo string) (time.Duration, error) {
	dir := b.newDir("clone")
	took, err := t.git(ctx, "", "clone", "-q", "--bare", t.url(repo), dir)
	if err == nil {
		err = os.RemoveAll(dir)
	}
	return took, err
}

// clonesAtOnce has many clients clone the same commit from one node, and from the
// OpenSSH server. Each round begins with a push, so that nothing that was kept of
// the round before is of use. What three nodes use while nobody asks them for anything is
// in what they use for the clones, whose clients keep the machine busy for minutes; so it
// is also reported without that.
func clonesAtOnce(ctx context.Context, b *bench) error {
	row := fmt.Sprintf("%d clones at once", b.Clones)
	const rounds = 2 // each takes minutes with a large repository
	pusher, err := b.Big.newPusher(ctx, b.masters[repoBig], b.newDir("big-pusher"), 0, rounds)
	if err != nil {
		return err
	}
	targets := []target{b.via(b.cluster.Nodes[0])}
	servers := []func() []int{b.nodePIDs}
	if b.sshd != nil {
		targets = append(targets, b.overSSH(cold, "cold", b.sshd.cold))
		servers = append(servers, func() []int { return []int{b.sshd.pid} })
	}
	idle, err := b.idleCPU(ctx)
	if err != nil {
		return err
	}
	var alone []float64 // of the cluster, without what idle nodes use
	cost, took := make([][]float64, len(targets)), make([][]float64, len(targets))
	for range rounds {
		for i, t := range targets {
			if _, err := t.push(ctx, pusher, repoBig, "main"); err != nil {
				return err
			}
			if t.name == ours {
				if err := b.inSync(ctx, repoBig); err != nil {
					return err
				}
			}
			before, err := used(servers[i]()...)
			if err != nil {
				return err
			}
			start := time.Now()
			if err := b.clones(ctx, t); err != nil {
				return err
			}
			took[i] = append(took[i], time.Since(start).Seconds())
			server, err := usedSince(ctx, before, servers[i]()...)
			if err != nil {
				return err
			}
			cost[i] = append(cost[i], server.Seconds())
			if t.name == ours {
				alone = append(alone, max(0, server.Seconds()-idle*took[i][len(took[i])-1]))
			}
		}
	}
	if b.sshd == nil {
		b.report.skip(row+" beside "+cold, b.unable)
		b.report.number(row+": server's CPU", newSample("s", cost[0]...), 0, "")
		return nil
	}
	b.report.ratio(row+": server's CPU", newSample("s", cost[0]...), cold, newSample("s", cost[1]...), 0.3)
	b.report.ratio(row+": without that of idle nodes", newSample("s", alone...), cold, newSample("s", cost[1]...), 0.3)
	b.report.ratio(row+": until the last is done", newSample("s", took[0]...), cold, newSample("s", took[1]...), 0)
	return nil
}

func (b *bench) clones(ctx context.Context, t target) error {
	failed := make(chan error, b.Clones)
	var all sync.WaitGroup
	for range b.Clones {
		all.Go(func() {
			if _, err := b.clone(ctx, t, repoBig); err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
