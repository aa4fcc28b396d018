package shell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/service"
	"gitcluster/internal/session"
	"gitcluster/internal/version"
)

// SyncCommand makes the replica current without transferring anything:
//
//	cluster-sync [--write] [--current] [--nodes=HASH] REPOSITORY
//
// With --write the asker wants to push. With --current a replica that is behind
// is an error at once and nothing is waited for. With --nodes the reply has the
// cluster's nodes, unless HASH is the hash of their list.
const SyncCommand = "cluster-sync"

// NodesCommand tells anybody who may log in where the cluster's nodes are.
const NodesCommand = "cluster-nodes"

// A syncReply is the one line that answers SyncCommand. Its form tells a client
// that this is a node of a cluster.
type syncReply struct {
	Cluster string                `json:"cluster"`
	Node    cluster.DeviceName    `json:"node"`
	Epoch   cluster.Epoch         `json:"epoch"`
	Version cluster.Version       `json:"version"`
	Waited  int64                 `json:"waited_ms"`
	Nodes   []cluster.NodeAddress `json:"nodes,omitempty"`
	Error   string                `json:"error,omitempty"`
	Hint    string                `json:"hint,omitempty"`
	Retry   bool                  `json:"retry,omitempty"` // another node may do better
}

// aliveEvery is how often a client that waits hears that the node still works.
const aliveEvery = time.Second

// syncArgs is what SyncCommand was given.
type syncArgs struct {
	write, current bool
	nodes          *string // the hash the client has
	repo           cluster.RepoName
}

func parseSyncArgs(args []string) (a syncArgs, err error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		name, value, hasValue := strings.Cut(args[0], "=")
		switch {
		case name == "--write" && !hasValue:
			a.write = true
		case name == "--current" && !hasValue:
			a.current = true
		case name == "--nodes" && hasValue:
			a.nodes = &value
		default:
			args = nil
			continue
		}
		args = args[1:]
	}
	if len(args) != 1 {
		return a, fmt.Errorf("usage: %s [--write] [--current] [--nodes=HASH] REPOSITORY", SyncCommand)
	}
	a.repo, err = cluster.ParseRepoName(args[0])
	return a, err
}

func (sh *Shell) sync(ctx context.Context, s *session.Session, id cluster.Identity, args []string) int {
	reply := syncReply{Cluster: sh.Cluster, Node: sh.Device}
	a, err := parseSyncArgs(args)
	if err == nil {
		var synced service.Synced
		if a.current {
			synced, err = sh.Service.Current(ctx, id, a.repo)
		} else {
			tell, stop := alive(ctx, s.Stderr)
			synced, err = sh.Service.Sync(ctx, id, a.repo, a.write, tell)
			stop()
		}
		reply.Epoch, reply.Version, reply.Waited = synced.Position.Epoch, synced.Position.Version, synced.Waited.Milliseconds()
	}
	if a.nodes != nil && id != (cluster.Identity{}) {
		if list := sh.nodeList(); list.Hash() != *a.nodes {
			reply.Nodes = list.Nodes
		}
	}
	status := 0
	if err != nil {
		status = 1
		reply.Error, reply.Hint, reply.Retry = err.Error(), cluster.Hint(err), retryable(err)
	}
	if err := json.NewEncoder(s.Stdout).Encode(reply); err != nil {
		return 1
	}
	return status
}

// nodeList is the nodes that serve clients.
func (sh *Shell) nodeList() cluster.NodeList {
	l := cluster.NodeList{Cluster: sh.Cluster}
	for _, d := range sh.Rules().Nodes() {
		if d.Enabled && d.SSH != "" && !d.New {
			l.Nodes = append(l.Nodes, cluster.NodeAddress{Name: d.Name, SSH: d.SSH, HTTP: d.HTTP, Region: d.Region, HostKey: d.PublicKey})
		}
	}
	return l
}

// A nodesReply is the one line that answers NodesCommand.
type nodesReply struct {
	cluster.NodeList
	Name    string             `json:"name"` // the cluster's
	Node    cluster.DeviceName `json:"node"` // the one that answers
	Version string             `json:"version"`
	Time    time.Time          `json:"time"` // by its clock
}

func (sh *Shell) nodes(s *session.Session, id cluster.Identity, args []string) int {
	switch {
	case id == (cluster.Identity{}):
		return sh.fail(s, fmt.Errorf("%s: %w", NodesCommand, cluster.ErrDenied))
	case len(args) != 0:
		return sh.fail(s, errors.New("usage: "+NodesCommand))
	}
	reply := nodesReply{NodeList: sh.nodeList(), Node: sh.Device, Version: version.String(), Time: time.Now().UTC()}
	if sh.Admin != nil {
		reply.Name = sh.Admin.Cluster.Name
	}
	if err := json.NewEncoder(s.Stdout).Encode(reply); err != nil {
		return 1
	}
	return 0
}

// alive returns a function that tells lines to the waiting client, and repeats
// the last one while nothing else happens, so that a slow synchronization differs
// from a dead node.
func alive(ctx context.Context, w io.Writer) (tell func(string), stop func()) {
	var mu sync.Mutex
	last := ""
	say := func(line string) { fmt.Fprintf(w, "# %s\n", line) }
	tell = func(line string) {
		mu.Lock()
		defer mu.Unlock()
		last = line
		say(line)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				mu.Lock()
				if last == "" {
					last = "Waiting for the journal…"
				}
				say(last)
				mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return tell, func() { cancel(); <-ended }
}

func retryable(err error) bool {
	return errors.Is(err, cluster.ErrUnavailable) || errors.Is(err, cluster.ErrNoReplica) || errors.Is(err, cluster.ErrFenced) ||
		errors.Is(err, cluster.ErrBehind) || errors.Is(err, cluster.ErrBusy) ||
		errors.Is(err, cluster.ErrDraining) || errors.Is(err, cluster.ErrStopping)
}
