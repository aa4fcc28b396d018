package admin

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// Status is the state of the cluster as one node sees it.
type Status struct {
	Cluster string                `json:"cluster"`
	ID      string                `json:"id"`
	Node    cluster.DeviceName    `json:"node"`
	Version string                `json:"version"`
	Nodes   []NodeStatus          `json:"nodes"`
	Journal []journal.MemberState `json:"journal,omitempty"` // the embedded servers
	Repos   int                   `json:"repositories"`
	Behind  []RepoView            `json:"behind"` // repositories with a replica that lags or is fenced
	Mirrors int                   `json:"mirrors"`
	Failing []RepoView            `json:"failing"` // mirrors of which the last pull failed
	// Short, if not nil, says that too few nodes are up for the copies that pushes need.
	Short   *Shortage `json:"short,omitempty"`
	Trusted []string  `json:"trusted_networks"` // CIDR; where device keys count from
	// Problem is why the journal could not be asked. Then nodes and servers are as
	// this node last knew them, and nothing is said of repositories.
	Problem string `json:"problem,omitempty"`
}

// Shortage is to how many repositories pushes are refused, or accepted with a warning,
// because fewer nodes are up than have to hold them.
type Shortage struct {
	Up      int                `json:"up"` // nodes that can hold a copy
	Refused int                `json:"refused"`
	Warned  int                `json:"warned"`
	Names   []cluster.RepoName `json:"names"` // the first of those to which they are refused
}

// Full names the servers of the journal that have no room for more, or is "". While
// there are any it takes no writes.
func (st Status) Full() string {
	var names []string
	for _, m := range st.Journal {
		if m.Full {
			names = append(names, m.Name)
		}
	}
	return strings.Join(names, ", ")
}

// NodeStatus is one node.
type NodeStatus struct {
	Name    cluster.DeviceName `json:"name"`
	SSH     string             `json:"ssh"`
	Region  string             `json:"region,omitempty"`
	Enabled bool               `json:"enabled"`
	New     bool               `json:"new,omitempty"` // it has joined, and has not yet what the others have
	Up      bool               `json:"up"`            // its SSH front takes connections
	Journal string             `json:"journal"`       // "leader", "voter", "learner" or "client"
}

func (s *Server) status(ctx context.Context, id cluster.Identity) (any, error) {
	if err := s.mustAdmin(ctx, id); err != nil {
		return nil, err
	}
	st := s.nodes(ctx, 5*time.Second)
	if st.Problem != "" {
		return st, nil
	}
	return s.repositories(ctx, st)
}

// nodes looks at the nodes and at the journal's servers, and waits so long for the
// journal's answer.
func (s *Server) nodes(ctx context.Context, patience time.Duration) Status {
	st := Status{Cluster: s.Cluster.Name, ID: s.Cluster.ID, Node: s.Device, Version: s.Version, Nodes: []NodeStatus{}, Behind: []RepoView{}, Failing: []RepoView{}}
	if st.Trusted = s.Cluster.Trusted; st.Trusted == nil {
		for _, p := range access.DefaultTrusted() {
			st.Trusted = append(st.Trusted, p.String())
		}
	}
	asking, cancel := context.WithTimeoutCause(ctx, patience, cluster.ErrUnavailable)
	defer cancel()
	rules, err := s.Rules.Refresh(asking)
	if err == nil && s.Members != nil {
		st.Journal, err = s.Members.List(asking)
	}
	if err != nil {
		st.Problem = err.Error()
		rules = s.Rules.Snapshot()
		if s.Members != nil {
			st.Journal = s.Members.Known()
		}
	}
	for _, d := range rules.Nodes() {
		n := NodeStatus{Name: d.Name, SSH: d.SSH, Region: d.Region, Enabled: d.Enabled, New: d.New, Journal: "client"}
		for _, m := range st.Journal {
			switch {
			case m.Name != string(d.Name):
			case m.Leader:
				n.Journal = "leader"
			case m.Voter:
				n.Journal = "voter"
			default:
				n.Journal = "learner"
			}
		}
		st.Nodes = append(st.Nodes, n)
	}
	s.knock(ctx, st.Nodes)
	return st
}

// knock finds out which nodes take connections.
func (s *Server) knock(ctx context.Context, nodes []NodeStatus) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var wait sync.WaitGroup
	for i := range nodes {
		n := &nodes[i]
		wait.Go(func() {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, "tcp", n.SSH)
			if n.Up = err == nil; n.Up {
				conn.Close()
			}
		})
	}
	wait.Wait()
}

// repositories adds what the replicas have reported. Reports lag behind a push
// for a moment, so one that shows a replica behind is looked at once more.
func (s *Server) repositories(ctx context.Context, st Status) (Status, error) {
	for look := 0; ; look++ {
		st.Repos, st.Behind, st.Mirrors, st.Failing, st.Short = 0, []RepoView{}, 0, []RepoView{}, nil
		if err := s.lookAtReplicas(ctx, &st); err != nil || len(st.Behind) == 0 || look == 2 {
			return st, err
		}
		t := time.NewTimer(400 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return st, context.Cause(ctx)
		}
	}
}

func (s *Server) lookAtReplicas(ctx context.Context, st *Status) error {
	replicas, err := s.Journal.Replicas(ctx, "")
	if err != nil {
		return err
	}
	byRepo := map[cluster.RepoID][]journal.Replica{}
	for _, r := range replicas {
		byRepo[r.Repo] = append(byRepo[r.Repo], r)
	}
	pulls, err := s.Journal.Observed(ctx, "")
	if err != nil {
		return err
	}
	var counted []cluster.DeviceName
	short := &Shortage{Names: []cluster.RepoName{}}
	for _, n := range st.Nodes {
		if n.Enabled && !n.New {
			counted = append(counted, n.Name)
			if n.Up {
				short.Up++
			}
		}
	}
	for r, err := range s.Journal.Repos(ctx, "") {
		if err != nil {
			return err
		}
		st.Repos++
		v := RepoView{Repo: r.Repo, Version: r.Head.Version, Digest: r.Head.Digest.String()}
		if r.Observe != nil {
			st.Mirrors++
			if last := pulls[r.ID]; last.Failures > 0 {
				failing := v
				failing.Observed = &last
				st.Failing = append(st.Failing, failing)
			}
		}
		for _, replica := range withSilent(byRepo[r.ID], counted, r) {
			if rv := replicaView(replica, r.Head); rv.Behind > 0 || rv.Fenced != "" {
				v.Replicas = append(v.Replicas, rv)
			}
		}
		short.look(&r.Repo, len(counted))
		if len(v.Replicas) > 0 {
			st.Behind = append(st.Behind, v)
		}
	}
	return nil
}

// look counts a repository if its pushes find too few nodes.
func (s *Shortage) look(repo *cluster.Repo, nodes int) {
	need := repo.Copies
	if need == 0 {
		need = nodes/2 + 1
	}
	switch {
	case need <= s.Up || repo.Observe != nil:
	case repo.WhenDegraded == cluster.Warn:
		s.Warned++
	default:
		if s.Refused++; len(s.Names) < shortNames {
			s.Names = append(s.Names, repo.Name)
		}
	}
}

const shortNames = 20

// withSilent adds the nodes that have reported nothing of a repository: they have
// nothing of it.
func withSilent(reports []journal.Replica, nodes []cluster.DeviceName, r journal.RepoHead) []journal.Replica {
	for _, name := range nodes {
		if !slices.ContainsFunc(reports, func(r journal.Replica) bool { return r.Device == name }) {
			reports = append(reports, journal.Replica{Repo: r.ID, Device: name, Position: cluster.Position{Epoch: r.Head.Epoch}})
		}
	}
	return reports
}

// TokenCreate asks for a token that admits one machine.
type TokenCreate struct {
	Kind  string        `json:"kind"` // "node" or "device"
	Valid time.Duration `json:"valid"`
}

// Token is a token as the joining machine is given it.
type Token struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

func (s *Server) tokenCreate(ctx context.Context, p TokenCreate) (any, error) {
	if p.Kind != "node" && p.Kind != "device" {
		return nil, fmt.Errorf("unknown kind of token %q: use node or device", p.Kind)
	}
	if p.Valid <= 0 || p.Valid > 30*24*time.Hour {
		return nil, fmt.Errorf("a token is valid for at most 30 days, not %v", p.Valid)
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails (crypto/rand)
	t := journal.Token{ID: journal.NewID(), Secret: secret, Kind: p.Kind, Expires: time.Now().Add(p.Valid).UTC()}
	if err := s.Journal.CreateToken(ctx, t); err != nil {
		return nil, err
	}
	return Token{Token: FormatToken(t.ID, secret), Expires: t.Expires}, nil
}

const tokenPrefix = "gcjoin-"

// FormatToken writes a token's id and secret as one word.
func FormatToken(id string, secret []byte) string {
	return tokenPrefix + id + "-" + base64.RawURLEncoding.EncodeToString(secret)
}

// ParseToken reads what FormatToken wrote.
func ParseToken(s string) (id string, secret []byte, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	id, text, ok2 := strings.Cut(rest, "-")
	secret, err = base64.RawURLEncoding.DecodeString(text)
	if !ok || !ok2 || err != nil || len(id) != 16 || len(secret) != 32 {
		return "", nil, cluster.WithHint(fmt.Errorf("that is no join token"), "give the last line that `git cluster token create` printed")
	}
	return id, secret, nil
}
