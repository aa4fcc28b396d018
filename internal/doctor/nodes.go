package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/credential"
	"gitcluster/internal/prompt"
	"gitcluster/internal/replica"
)

// Clocks that differ by more than the first make logs hard to read, and by
// more than the second end what has an expiry: a device's token lives for five minutes.
const (
	clockWarn = 30 * time.Second
	clockFail = 4 * time.Minute
)

// A visit is what one node had to say.
type visit struct {
	nodes   client.Nodes
	version cluster.Version // of the repository, if there is one to look at
	err     error           // the node could not be asked
	repoErr error           // the node does not show the repository's newest version
}

// cluster asks all nodes of one cluster, at the same time.
func (d *Doctor) cluster(ctx context.Context, name string) {
	candidates, err := d.Candidates(ctx, name)
	if err != nil {
		d.fault(Fail, "cluster "+name, err, "")
		return
	}
	visits := make([]visit, len(candidates))
	var wait sync.WaitGroup
	for i, c := range candidates {
		wait.Go(func() { visits[i] = d.visit(ctx, c) })
	}
	wait.Wait()
	ordinary := areOrdinary(visits)
	for i, c := range candidates {
		if ordinary && errors.Is(visits[i].err, client.ErrNoNode) {
			d.say(OK, "node "+c.Name, "%s lets this account in; it is no node of a cluster, and is used as any SSH server is", c.Addr)
			continue
		}
		d.judge(c, visits[i])
	}
	if !ordinary {
		d.agree(name, candidates, visits)
	}
}

// areOrdinary reports whether the servers that answer are of no cluster, none of them:
// somebody's own with copies of repositories. One such among nodes is a mistake.
func areOrdinary(visits []visit) (ordinary bool) {
	for _, v := range visits {
		if v.err == nil {
			return false
		}
		ordinary = ordinary || errors.Is(v.err, client.ErrNoNode)
	}
	return ordinary
}

func (d *Doctor) visit(ctx context.Context, c replica.Candidate) (v visit) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %v", patience))
	defer cancel()
	// All nodes are visited at once, and a key that has to be unlocked is a finding.
	conn, err := client.ConnectTo(prompt.WithoutAsking(ctx), c, d.Getenv, false)
	if err != nil {
		v.err = err
		return v
	}
	defer conn.Close()
	if v.nodes, v.err = client.AskNodes(ctx, conn); v.err == nil && d.Repository != "" {
		v.version, v.repoErr = client.AskVersion(ctx, conn, d.Repository)
	}
	return v
}

// judge reports what one node said.
func (d *Doctor) judge(c replica.Candidate, v visit) {
	check := "node " + c.Name
	if v.err != nil {
		d.fault(Fail, check, v.err, "see on that machine whether the node runs: git cluster status")
		return
	}
	took := v.nodes.Took.Round(100 * time.Microsecond)
	if v.nodes.Version != d.Version {
		d.tell(Warn, check, "install one release everywhere, the nodes first", "answers in %v; it is version %s, and this program %s", took, v.nodes.Version, d.Version)
	} else {
		d.say(OK, check, "%s answers in %v, version %s", c.Addr, took, v.nodes.Version)
	}
	// What the answer took cannot be told from a difference.
	off := v.nodes.Ahead.Abs() - v.nodes.Took/2
	direction := "ahead of"
	if v.nodes.Ahead < 0 {
		direction = "behind"
	}
	switch {
	case off > clockFail && credential.AsDevice(d.Getenv):
		d.tell(Fail, check, "set the clocks, with NTP", "its clock is %v %s this machine's; a device's tokens are refused", off.Round(time.Second), direction)
	case off > clockWarn:
		d.tell(Warn, check, "set the clocks, with NTP", "its clock is %v %s this machine's", off.Round(time.Second), direction)
	}
	switch {
	case d.Repository == "":
	case errors.Is(v.repoErr, cluster.ErrBehind):
		d.tell(Warn, check, "it catches up by itself; if it stays so, look at that node's log", "%s: %v", d.Repository, v.repoErr)
	case v.repoErr != nil:
		d.fault(Fail, check, fmt.Errorf("%s: %w", d.Repository, v.repoErr), "see that node's log")
	default:
		d.say(OK, check, "%s: has the newest version, %d", d.Repository, v.version)
	}
}

// agree compares the nodes' answers with each other and with what the
// configuration has.
func (d *Doctor) agree(name string, candidates []replica.Candidate, visits []visit) {
	check := "cluster " + name
	var first *client.Nodes
	for i := range visits {
		v := &visits[i]
		switch {
		case v.err != nil:
		case first == nil:
			first = &v.nodes
		case v.nodes.Cluster != first.Cluster:
			d.tell(Fail, check, "give each cluster a name of its own in the configuration", "node %s is of the cluster %s, and %s of %s",
				candidates[i].Name, v.nodes.Cluster, first.Node, first.Cluster)
			return
		}
	}
	if first == nil {
		if len(visits) > 1 {
			d.tell(Fail, check, "see above", "none of its %d nodes can be used", len(visits))
		}
		return
	}
	listed := map[cluster.DeviceName]bool{}
	for _, n := range first.Nodes {
		listed[n.Name] = true
	}
	for i, c := range candidates {
		if node := visits[i].nodes.Node; visits[i].err == nil && !listed[node] || visits[i].err != nil && !listed[cluster.DeviceName(c.Name)] {
			d.tell(Warn, check, "take it out of the configuration if it is gone for good", "%s is none of its enabled nodes any more", c.Name)
		}
	}
}
