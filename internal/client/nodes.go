package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/nodecache"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// nodesCommand lists the cluster's nodes, on any of them.
const nodesCommand = "cluster-nodes"

// ErrNoNode: the server belongs to no cluster.
var ErrNoNode = errors.New("not a node of a cluster")

// Nodes is what one node says of its cluster and of itself.
type Nodes struct {
	cluster.NodeList
	Name    string             `json:"name"` // the cluster's
	Node    cluster.DeviceName `json:"node"` // the one that answered
	Version string             `json:"version"`
	Time    time.Time          `json:"time"`
	// Ahead is how far its clock is before ours, to within half of Took, in which
	// it was asked and answered.
	Ahead time.Duration `json:"-"`
	Took  time.Duration `json:"-"`
}

// maxNodesAnswer is far above what the nodes of a cluster are.
const maxNodesAnswer = 1 << 20

// A Runner runs a command on a server, as what [Connect] returns does.
type Runner interface {
	Run(ctx context.Context, command string, env map[string]string, stdin io.Reader, stdout, stderr io.Writer) (int, error)
}

// AskNodes asks the server at the other end of a connection for the nodes of
// its cluster. All text in the answer is fit to be shown.
func AskNodes(ctx context.Context, conn Runner) (Nodes, error) {
	out := &head{limit: maxNodesAnswer}
	asked := time.Now()
	status, err := conn.Run(ctx, nodesCommand, nil, nil, out, io.Discard)
	took := time.Since(asked)
	if err != nil {
		return Nodes{}, fmt.Errorf("%s: %w", nodesCommand, err)
	}
	var n Nodes
	if status != 0 || json.Unmarshal(out.kept, &n) != nil || n.Cluster == "" || n.Node == "" || len(n.Nodes) == 0 {
		return Nodes{}, cluster.WithHint(fmt.Errorf("%w: it does not know %s", ErrNoNode, nodesCommand),
			"it may be another kind of Git server, or its git-cluster is older than this one")
	}
	n.Took, n.Ahead = took, n.Time.Sub(asked.Add(took/2))
	for _, text := range []*string{&n.Cluster, &n.Name, &n.Version, (*string)(&n.Node)} {
		*text = printable(*text)
	}
	for i := range n.Nodes {
		a := &n.Nodes[i]
		for _, text := range []*string{&a.SSH, &a.HTTP, &a.Region, &a.HostKey, (*string)(&a.Name)} {
			*text = printable(*text)
		}
	}
	return n, nil
}

// ConnectTo connects to a server as the helper would.
func ConnectTo(ctx context.Context, candidate replica.Candidate, getenv func(string) string) (*sshclient.Conn, error) {
	opts, err := options(ctx, candidate, getenv)
	if err != nil {
		return nil, err
	}
	conn, err := sshclient.Dial(ctx, opts)
	if err != nil {
		return nil, plain(candidate.String(), err)
	}
	return conn, nil
}

// Remember keeps what a node has said of its cluster for the helper: where else
// the cluster is, under the name it has in the configuration.
func Remember(ctx context.Context, name string, list cluster.NodeList, getenv func(string) string) error {
	cache := nodecache.Open()
	unpinned := func(name string) string {
		if name == replica.EnvReplica {
			return ""
		}
		return getenv(name)
	}
	all, err := Replicas(ctx, "cluster::"+name+":any", unpinned)
	if err != nil {
		return err
	}
	cache.Learn(all[0].Origin, &list, true)
	cache.Save()
	return nil
}

// HostKey asks a server for its host key, on the way that the helper would take
// to it, and does not log in.
func HostKey(ctx context.Context, candidate replica.Candidate, getenv func(string) string) (ssh.PublicKey, error) {
	opts, err := options(ctx, candidate, getenv)
	if err != nil {
		return nil, err
	}
	key, err := sshclient.HostKey(ctx, opts)
	if err != nil {
		return nil, plain(candidate.String(), err)
	}
	return key, nil
}

// AskVersion asks a node whether it shows the newest version of a repository,
// and which one that is. It is ErrBehind if it does not.
func AskVersion(ctx context.Context, conn Runner, repo string) (cluster.Version, error) {
	out := &head{limit: maxSyncAnswer}
	_, err := conn.Run(ctx, syncCommand+" --current "+shellQuote(repo), nil, nil, out, io.Discard)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", syncCommand, err)
	}
	answer, ours := parseSyncAnswer(out.kept)
	if !ours {
		return 0, ErrNoNode
	}
	if rest, behind := strings.CutPrefix(answer.Error, cluster.ErrBehind.Error()); behind {
		return answer.Version, fmt.Errorf("%w%s", cluster.ErrBehind, printable(rest))
	}
	if answer.Error != "" {
		return answer.Version, answer.failure()
	}
	return answer.Version, nil
}
