package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func onePush(ctx context.Context, b *bench) error {
	got, err := b.race(ctx, b.Fast, func(ctx context.Context, t target) (time.Duration, error) {
		return t.push(ctx, b.pusher, repoSmall, "main")
	})
	if err != nil {
		return err
	}
	b.against("one-commit push, 2 copies of 3", got, map[string]float64{cold: 0.4, warm: 1.5})
	return nil
}

// pushManyRefs pushes the same commits to the repository with many refs, and asks
// another node right after each push to synchronize.
func pushManyRefs(ctx context.Context, b *bench) error {
	conn, err := b.connect(ctx, b.cluster.Nodes[1])
	if err != nil {
		return err
	}
	defer conn.Close()
	t := b.via(b.cluster.Nodes[0])
	synced := map[string][]float64{}
	push := func(repo string) contestant {
		return contestant{repo, func(ctx context.Context) (time.Duration, error) {
			took, err := t.push(ctx, b.pusher, repo, "main")
			if err != nil {
				return 0, err
			}
			sync, err := command(ctx, conn, "cluster-sync "+clusterName(repo))
			synced[repo] = append(synced[repo], milliseconds(sync))
			return took, err
		}}
	}
	got, err := alternate(ctx, b.Fast, push(repoRefs), push(repoSmall))
	if err != nil {
		return err
	}
	// Those that count are the last.
	syncs := func(repo string) sample { return newSample("ms", synced[repo][len(synced[repo])-b.Fast:]...) }
	few := fmt.Sprintf("with %d refs", b.Small.Refs)
	b.report.ratio(fmt.Sprintf("push with %d refs", b.ManyRefs.Refs), got[repoRefs], few, got[repoSmall], 1.5)
	b.report.ratio(fmt.Sprintf("follow-up sync with %d refs", b.ManyRefs.Refs),
		syncs(repoRefs), few, syncs(repoSmall), 1.5)
	others, err := b.race(ctx, max(1, b.Fast/4), func(ctx context.Context, t target) (time.Duration, error) {
		return t.push(ctx, b.pusher, repoRefs, "main")
	})
	if err != nil {
		return err
	}
	b.against(fmt.Sprintf("push with %d refs", b.ManyRefs.Refs), others, nil)
	return nil
}

// sustainedPushes has clients push to branches of their own for a while, as fast as
// they can, to the cluster and to one OpenSSH server in turn.
func sustainedPushes(ctx context.Context, b *bench) error {
	clients := make([]*pusher, b.Pushers)
	for i := range clients {
		var err error
		commits := int(b.Pushing.Seconds()+1) * b.Rounds * 25 // more than a client can push in that time
		if clients[i], err = b.Small.newPusher(ctx, b.masters[repoSmall], b.newDir("client"), uint64(1+i), commits); err != nil {
			return err
		}
	}
	all := []*pushing{{
		target:  func(i int) target { return b.via(b.cluster.Nodes[i%3]) },
		servers: b.nodePIDs,
		settle:  func(ctx context.Context) error { return b.inSync(ctx, repoSmall) },
	}}
	if b.sshd != nil {
		t := b.overSSH(cold, "cold", b.sshd.cold)
		all = append(all, &pushing{
			target:  func(int) target { return t },
			servers: func() []int { return []int{b.sshd.pid} },
			settle:  func(context.Context) error { return nil },
		})
	}
	for range b.Rounds {
		for _, p := range all {
			if err := p.round(ctx, clients, b.Pushing); err != nil {
				return err
			}
		}
	}
	name := fmt.Sprintf("pushes by %d clients over 3 nodes", b.Pushers)
	if b.sshd == nil {
		b.report.skip(name+" beside "+cold, b.unable)
		b.report.number(name, newSample("/s", all[0].rate...), 0, "")
		return nil
	}
	b.report.faster(name, newSample("/s", all[0].rate...), cold, newSample("/s", all[1].rate...), 2)
	b.report.ratio("server's CPU for each of them", newSample("ms", all[0].server...), cold, newSample("ms", all[1].server...), 0)
	b.report.ratio("client's CPU for each of them", newSample("ms", all[0].client...), cold, newSample("ms", all[1].client...), 0)
	return nil
}

// A pushing is what clients pushed to one target.
type pushing struct {
	target               func(client int) target
	servers              func() []int
	settle               func(context.Context) error // waits for what goes on behind the pushes
	rate, server, client []float64                   // by round: pushes a second, and what each cost in milliseconds
}

func (p *pushing) round(ctx context.Context, clients []*pusher, long time.Duration) error {
	before, err := used(p.servers()...)
	if err != nil {
		return err
	}
	clientBefore, err := ownChildren()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	var pushes atomic.Int64
	failed := make(chan error, len(clients))
	start := time.Now()
	for i, c := range clients {
		all.Go(func() {
			for time.Since(start) < long {
				if _, err := p.target(i).push(ctx, c, repoSmall, fmt.Sprintf("client-%d", i)); err != nil {
					failed <- fmt.Errorf("client %d: %w", i, err)
					return
				}
				pushes.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	select {
	case err := <-failed:
		return err
	default:
	}
	clientAfter, err := ownChildren()
	if err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	server, err := usedSince(ctx, before, p.servers()...)
	if err != nil {
		return err
	}
	n := float64(pushes.Load())
	p.rate = append(p.rate, n/took.Seconds())
	p.server = append(p.server, milliseconds(server)/n)
	p.client = append(p.client, milliseconds(clientAfter-clientBefore)/n)
	return nil
}

// ownChildren is the CPU time of the commands that this process has run. Servers are
// not among them while they run.
func ownChildren() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}
