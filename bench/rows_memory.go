package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/sshclient"
)

// nodesMemory is the memory of every node, and what of it is the process's own.
func (b *bench) nodesMemory() (resident, own []float64, err error) {
	for _, n := range b.cluster.Nodes {
		r, o, err := memory(n.PID())
		if err != nil {
			return nil, nil, err
		}
		resident, own = append(resident, r), append(own, o)
	}
	return resident, own, nil
}

// idleCPU returns what all nodes together use while nobody asks them for anything, in
// seconds a second.
func (b *bench) idleCPU(ctx context.Context) (float64, error) {
	before, err := used(b.nodePIDs()...)
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, b.Idle); err != nil {
		return 0, err
	}
	after, err := used(b.nodePIDs()...)
	return (after.cpu - before.cpu).Seconds() / b.Idle.Seconds(), err
}

// nodeMemory reports what a node takes that has just started, one that has done all
// that was measured before, and one with many connections open.
func nodeMemory(ctx context.Context, b *bench) error {
	b.report.number("node memory, just started", newSample("MB", b.fresh...), 0, "")
	resident, own, err := b.nodesMemory()
	if err != nil {
		return err
	}
	idle, err := b.idleCPU(ctx)
	if err != nil {
		return err
	}
	b.report.number("node memory, idle after the rows above", newSample("MB", resident...), 0,
		fmt.Sprintf("of that its own %v", newSample("MB", own...)))
	b.report.number("CPU of an idle node", newSample("ms/s", 1000*idle/float64(len(b.cluster.Nodes))), 0, "")

	n := b.cluster.Nodes[0]
	var conns []*sshclient.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range b.Opened {
		c, err := b.connect(ctx, n)
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	with, withOwn, err := memory(n.PID())
	if err != nil {
		return err
	}
	b.report.number(fmt.Sprintf("node memory with %d connections", b.Opened), newSample("MB", with), 0,
		fmt.Sprintf("%s MB more than before; its own %s MB", number(with-resident[0]), number(withOwn)))
	return nil
}

// soakGrowth is how much larger a node may be at the end of a soak than when it had
// warmed up: what the Go runtime takes and gives back moves by some percent.
const soakGrowth = 1.1

// soak keeps the cluster busy and sees whether its nodes grow.
func soak(ctx context.Context, b *bench) error {
	if b.Soak == 0 {
		b.report.skip("memory over a soak", "it was not asked for: --soak MINUTES")
		return nil
	}
	const clients = 3
	deadline := time.Now().Add(b.Soak)
	var all sync.WaitGroup
	failed := make(chan error, clients)
	for i := range clients {
		p, err := b.Small.newPusher(ctx, b.masters[repoSmall], b.newDir("soaker"), uint64(100+i), int(b.Soak.Seconds())*10+100)
		if err != nil {
			return err
		}
		all.Go(func() {
			for n := i; time.Now().Before(deadline) && ctx.Err() == nil; n++ {
				if err := b.soakOnce(ctx, p, i, n); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	var samples [][]float64 // by time, of each node's own memory
	for time.Now().Before(deadline) {
		if err := pause(ctx, min(5*time.Second, b.Soak/20)); err != nil {
			return err
		}
		_, own, err := b.nodesMemory()
		if err != nil {
			return err
		}
		samples = append(samples, own)
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	quarter := func(n int) (values []float64) {
		for _, s := range samples[len(samples)*(n-1)/4 : len(samples)*n/4] {
			values = append(values, s...)
		}
		return values
	}
	b.report.ratio(fmt.Sprintf("node memory at the end of %v of load", b.Soak), newSample("MB", quarter(4)...),
		"in the second quarter", newSample("MB", quarter(2)...), soakGrowth)
	return nil
}

// soakOnce does what people do: push, read elsewhere, and now and then clone.
func (b *bench) soakOnce(ctx context.Context, p *pusher, client, n int) error {
	nodes := b.cluster.Nodes
	at := func(i int) *clustertest.Node { return nodes[i%len(nodes)] }
	if _, err := b.via(at(n)).push(ctx, p, repoSmall, fmt.Sprintf("soak-%d", client)); err != nil {
		return err
	}
	t := b.via(at(n + 1))
	if _, err := t.git(ctx, "", "ls-remote", "-q", t.url(repoSmall)); err != nil {
		return err
	}
	if n%20 != 0 {
		return nil
	}
	t = b.via(at(n + 2))
	_, err := b.clone(ctx, t, repoSmall)
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
