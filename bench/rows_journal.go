package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
)

// A cost is what one push leaves and sends, apart from time.
type cost struct {
	revisions, keys, bytes []float64 // in the journal
	client, nodes          []float64 // bytes between client and node, and between nodes
}

// journalAndBytes counts what a push writes to the journal and sends, with few refs
// and with many: nothing of that may grow with the refs that there are.
func journalAndBytes(ctx context.Context, b *bench) error {
	costs := map[string]*cost{repoSmall: {}, repoRefs: {}}
	withoutSS := ""
	for range max(1, b.Slow) {
		for repo, c := range costs {
			if err := b.onePushCosts(ctx, repo, c); err != nil {
				if !errors.Is(err, errNoSS) {
					return err
				}
				withoutSS = err.Error()
			}
		}
	}
	few := fmt.Sprintf("with %d refs", b.Small.Refs)
	line := func(what, unit string, of func(*cost) []float64) {
		b.report.ratio(fmt.Sprintf("%s of a push with %d refs", what, b.ManyRefs.Refs),
			newSample(unit, of(costs[repoRefs])...), few, newSample(unit, of(costs[repoSmall])...), 1.5)
	}
	line("journal revisions", "", func(c *cost) []float64 { return c.revisions })
	line("journal keys", "", func(c *cost) []float64 { return c.keys })
	line("journal bytes", "B", func(c *cost) []float64 { return c.bytes })
	line("bytes between client and node", "B", func(c *cost) []float64 { return c.client })
	if withoutSS != "" {
		b.report.skip("bytes between nodes", withoutSS)
		return nil
	}
	line("bytes between nodes", "B", func(c *cost) []float64 { return c.nodes })
	return nil
}

// onePushCosts makes a push and adds what it costs to c.
func (b *bench) onePushCosts(ctx context.Context, repo string, c *cost) error {
	n := b.cluster.Nodes[0]
	client, err := dialJournal(n)
	if err != nil {
		return err
	}
	defer client.Close()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := client.Watch(clientv3.WithRequireLeader(watching), "/gc/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if _, ok := <-events; !ok {
		return fmt.Errorf("the journal cannot be watched")
	}
	// What it takes to ask whether all are in sync is not the push's.
	nothing, ssErr := b.betweenNodes(ctx)
	if err := b.inSync(ctx, repo); err != nil {
		return err
	}
	before, _ := b.betweenNodes(ctx)
	logged := len(n.Log())
	if _, err := b.via(n).push(ctx, b.pusher, repo, "main"); err != nil {
		return err
	}
	if err := b.inSync(ctx, repo); err != nil {
		return err
	}
	// The entry and the head come at once; each replica's report comes when it next
	// has one to make.
	revisions, reports := map[int64]bool{}, map[string]bool{}
	keys, bytes := 0, 0
	for len(reports) < len(b.cluster.Nodes) {
		select {
		case r := <-events:
			if err := r.Err(); err != nil {
				return err
			}
			for _, e := range r.Events {
				revisions[e.Kv.ModRevision] = true
				keys++
				bytes += len(e.Kv.Key) + len(e.Kv.Value)
				if key := string(e.Kv.Key); strings.HasPrefix(key, "/gc/replica/") {
					reports[key] = true
				}
			}
		case <-time.After(20 * time.Second):
			return fmt.Errorf("%d of %d replicas have reported", len(reports), len(b.cluster.Nodes))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	in, out, err := transferred(n.Log()[logged:], "receive-pack", clusterName(repo))
	if err != nil {
		return err
	}
	c.revisions = append(c.revisions, float64(len(revisions)))
	c.keys = append(c.keys, float64(keys))
	c.bytes = append(c.bytes, float64(bytes))
	c.client = append(c.client, float64(in+out))
	if ssErr != nil {
		return ssErr
	}
	after, err := b.betweenNodes(ctx)
	if err != nil {
		return err
	}
	c.nodes = append(c.nodes, added(before, after)-added(nothing, before))
	return nil
}

// added is what came over connections between two looks at them.
func added(before, after map[string]float64) (sum float64) {
	for connection, bytes := range after {
		sum += bytes - before[connection]
	}
	return sum
}

// dialJournal connects to the journal as the node does.
func dialJournal(n *clustertest.Node) (*journal.Client, error) {
	st, err := n.Status()
	if err != nil {
		return nil, err
	}
	var servers []string
	for _, m := range st.Journal {
		servers = append(servers, m.Client)
	}
	return journal.Dial(servers, filepath.Join(n.Data, "tls"))
}

var requestLine = regexp.MustCompile(`msg=request .*bytes_in=(\d+) bytes_out=(\d+)`)

// transferred finds the request in a node's log and returns its bytes.
func transferred(log, service, repo string) (in, out int, err error) {
	for line := range strings.Lines(log) {
		m := requestLine.FindStringSubmatch(line)
		if m == nil || !strings.Contains(line, "service="+service+" ") || !strings.Contains(line, "repo="+repo+" ") {
			continue
		}
		in, _ = strconv.Atoi(m[1]) // digits, by the expression
		out, _ = strconv.Atoi(m[2])
		return in, out, nil
	}
	return 0, 0, fmt.Errorf("the log has no %s of %s:\n%s", service, repo, log)
}

var errNoSS = errors.New("ss(8) cannot be had")

// betweenNodes is what has come over each connection that a node's SSH server has
// now, in both directions: those that stay are of other nodes.
func (b *bench) betweenNodes(ctx context.Context) (map[string]float64, error) {
	program, err := find("ss")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSS, err)
	}
	out, err := new(gitexec.Runner).Output(ctx, gitcmd.Command{Args: []string{program, "-tinOH", "state", "established"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSS, err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		for _, n := range b.cluster.Nodes {
			if fields[2] != n.SSH {
				continue
			}
			for _, f := range fields {
				name, value, _ := strings.Cut(f, ":")
				if name == "bytes_sent" || name == "bytes_received" {
					bytes, err := strconv.ParseFloat(value, 64)
					if err != nil {
						return nil, fmt.Errorf("ss says %q: %w", f, err)
					}
					all[fields[2]+" "+fields[3]] += bytes
				}
			}
		}
	}
	return all, nil
}
