package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/nodecache"
	"gitcluster/internal/remotehelper"
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
	said := &head{limit: 1 << 10}
	status, err := conn.Run(ctx, nodesCommand, nil, nil, out, said)
	took := time.Since(asked)
	if errors.Is(err, errNotConnected) && len(said.kept) > 0 {
		return Nodes{}, fmt.Errorf("%w: %s", err, printable(string(said.kept)))
	}
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

// A Connection is a way to run commands on a server.
type Connection interface {
	Runner
	// Close ends the commands. It does not wait.
	Close() error
}

// ConnectTo connects to a server as the helper would, with ssh where our own client
// will not do. With own set, no program that Git was told of stands in for it: it
// may be who calls.
func ConnectTo(ctx context.Context, candidate replica.Candidate, getenv func(string) string, own bool) (Connection, error) {
	if own {
		getenv = without(getenv, envSSHCommand, envSSH)
	}
	c := &connector{Params: Params{Getenv: getenv}, settings: make(chan settings, 1)}
	var s settings
	if !own {
		s = readSettings(ctx, GitConfig)
	}
	c.settings <- s
	conn, err := c.dial(ctx, candidate, remotehelper.Options{}, stages{})
	if err != nil {
		return nil, plain(candidate.String(), err)
	}
	return conn, nil
}

// OtherProgram names the SSH program that Git was told to use; "" if it was told of
// none.
func OtherProgram(ctx context.Context, getenv func(string) string) string {
	p, chosen := findProgram(getenv, readSettings(ctx, GitConfig))
	if !chosen {
		return ""
	}
	return p.String()
}

// without is an environment that lacks some variables.
func without(getenv func(string) string, names ...string) func(string) string {
	return func(name string) string {
		if slices.Contains(names, name) {
			return ""
		}
		return getenv(name)
	}
}

// GitConfig runs `git config` with these arguments. It sees the repository Git works
// on, and its "-c" settings, by the environment.
func GitConfig(ctx context.Context, args ...string) ([]byte, error) {
	return new(gitexec.Runner).Output(ctx, gitcmd.Command{
		Args: append([]string{"git", "config"}, args...),
		Env:  os.Environ(),
	}, nil)
}

// ReplicasOf returns the replicas of a cluster of the configuration, learned ones too,
// the best first.
func ReplicasOf(ctx context.Context, name string, getenv func(string) string) ([]replica.Candidate, error) {
	return Replicas(ctx, "cluster::"+name+":any", without(getenv, replica.EnvReplica))
}

// Remember keeps what a node has said of its cluster for the helper: where else
// the cluster is, under the name it has in the configuration.
func Remember(ctx context.Context, name string, list cluster.NodeList, getenv func(string) string) error {
	cache := nodecache.Open()
	all, err := ReplicasOf(ctx, name, getenv)
	if err != nil {
		return err
	}
	cache.Learn(all[0].Origin, &list, &nodecache.Voucher{})
	cache.Save()
	return nil
}

// ErrProgram: only a program that Git was told of, or ssh, reaches the server, and
// it checks the host key itself.
var ErrProgram = errors.New("another SSH program connects")

// HostKey asks a server for its host key, on the way that the helper would take
// to it, and does not log in. The error is [ErrProgram] if that way is another
// program's.
func HostKey(ctx context.Context, candidate replica.Candidate, getenv func(string) string) (ssh.PublicKey, error) {
	if p, chosen := findProgram(getenv, readSettings(ctx, GitConfig)); chosen {
		return nil, fmt.Errorf("%w: %v", ErrProgram, p)
	}
	r, err := newAccount(getenv).route(ctx, candidate)
	if err != nil {
		return nil, err
	}
	if len(r.beyond) > 0 {
		return nil, fmt.Errorf("%w: ssh, because of %s", ErrProgram, strings.Join(r.beyond, ", "))
	}
	key, err := sshclient.HostKey(ctx, r.options)
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
