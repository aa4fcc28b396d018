package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// takePart has the node count for what needs a majority of nodes, from when it has
// what the others have. Until then a push that waits for its copy would wait for the
// whole history.
func (n *Node) takePart(ctx context.Context) error {
	if d, ok := n.rules.Snapshot().Device(n.self.Name); !ok || !d.New {
		return nil
	}
	for {
		failed, err := n.engine.CatchUpAll(ctx)
		if err == nil && failed > 0 {
			n.log.Warn("some repositories could not be had yet; the node counts all the same", "repositories", failed)
		}
		if err == nil {
			err = n.journal.ChangeDevice(ctx, n.self.Name, func(d *cluster.Device) error { d.New = false; return nil })
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		n.log.Warn("first start", "error", err)
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// awaitJournal waits until the journal answers, however long that takes: after a
// power cut the other nodes may come up much later. It checks that the journal
// is the one this node belongs to.
func (n *Node) awaitJournal(ctx context.Context) error {
	var door journal.Door
	for tries := 0; ; tries++ {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		record, err := n.journal.Cluster(attempt)
		cancel()
		switch {
		case err == nil && record.ID != n.self.ClusterID:
			return cluster.WithHint(fmt.Errorf("%s belongs to cluster %s, and the journal is that of cluster %s (%q)", n.dir, n.self.ClusterID, record.ID, record.Name),
				"a data directory cannot move to another cluster: start with an empty one and `git cluster join`")
		case err == nil:
			n.cluster = record
			return nil
		case errors.Is(err, cluster.ErrNotFound):
			return cluster.WithHint(fmt.Errorf("the journal holds no cluster"), "check journal.endpoints in "+n.dir.config())
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n.members != nil && door.Closed(ctx, n.client.Endpoints(), n.dir.path("tls")):
			return n.errRemoved()
		}
		if tries%5 == 0 {
			n.log.Warn("waiting for the journal: a majority of its voters must be up", "last_known", n.lastKnownServers(), "error", err)
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

func (n *Node) lastKnownServers() []string {
	if len(n.self.Journal.Endpoints) > 0 {
		return n.self.Journal.Endpoints
	}
	if servers := n.dir.servers(); len(servers) > 0 {
		return servers
	}
	return n.self.Journal.Servers
}

// rememberServers writes down where the journal's voters are, for the next
// start.
func (n *Node) rememberServers() func([]string) {
	last := n.dir.servers()
	return func(urls []string) {
		var servers []string
		for _, u := range urls {
			servers = append(servers, strings.TrimPrefix(u, "https://"))
		}
		if len(servers) == 0 || slices.Equal(servers, last) {
			return
		}
		if err := n.dir.saveServers(servers); err != nil {
			n.log.Warn("remember the journal's servers", "error", err)
			return
		}
		last = servers
	}
}
