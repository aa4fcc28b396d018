package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// DeviceRemove removes a device for good.
type DeviceRemove struct {
	Device cluster.DeviceName `json:"device"`
	Force  bool               `json:"force,omitempty"` // although it is up and was not drained
}

// DrainStatus is how far a node is from being safe to stop.
type DrainStatus struct {
	Device   cluster.DeviceName `json:"device"`
	Writable bool               `json:"writable"`
	Pushes   int                `json:"pushes"`  // in progress on it
	Waiting  []cluster.RepoName `json:"waiting"` // repositories that too few other nodes have, at most drainNames
	Left     int                `json:"left"`    // how many there are
	Problem  string             `json:"problem,omitempty"`
}

// Safe reports whether the node may be stopped.
func (d DrainStatus) Safe() bool {
	return !d.Writable && d.Pushes == 0 && d.Left == 0 && d.Problem == ""
}

const drainNames = 20

// drainStatus looks whether enough other nodes have every repository's newest
// version.
func (s *Server) drainStatus(ctx context.Context, p DeviceName) (st DrainStatus, err error) {
	rules, err := s.Rules.Refresh(ctx)
	if err != nil {
		return st, err
	}
	d, ok := rules.Device(p.Device)
	if !ok || !d.Node {
		return st, fmt.Errorf("node %q: %w", p.Device, cluster.ErrNotFound)
	}
	st = DrainStatus{Device: p.Device, Writable: d.Writable, Waiting: []cluster.RepoName{}}
	if len(othersThan(p.Device, rules)) == 0 {
		st.Problem = "there is no other node"
	}
	ask, cancel := context.WithTimeoutCause(ctx, nodePatience, errNoAnswer)
	defer cancel()
	// A node that is down has no pushes in progress.
	if err := s.on(ask, p.Device, "node.pushes", struct{}{}, &st.Pushes); err != nil && s.isUp(ctx, d) {
		st.Problem = fmt.Sprintf("%s does not say whether pushes are in progress: %v", p.Device, err)
	}
	if st.Problem == "" {
		if st.Problem, err = s.journalWithout(ctx, p.Device, rules); err != nil {
			return st, err
		}
	}
	w, err := s.waiting(ctx, p.Device, rules)
	st.Waiting, st.Left = w.names, w.left
	if st.Problem == "" && err == nil {
		st.Problem = w.silent
	}
	return st, err
}

// journalWithout says why the journal would stop without a node's server; "" if it
// would not.
func (s *Server) journalWithout(ctx context.Context, device cluster.DeviceName, rules *access.Directory) (string, error) {
	if s.Members == nil {
		return "", nil // it is another's
	}
	members, err := s.Members.List(ctx)
	if err != nil {
		return "", err
	}
	up := map[string]bool{}
	for _, n := range rules.Nodes() {
		up[string(n.Name)] = n.Name != device && s.isUp(ctx, n)
	}
	return majorityOf(members, up), nil
}

// majorityOf says why so many servers are no majority of the journal's; "" if they are.
func majorityOf(members []journal.MemberState, up map[string]bool) string {
	voters, left := 0, 0
	for _, m := range members {
		if m.Voter {
			voters++
			if up[m.Name] {
				left++
			}
		}
	}
	if left > voters/2 {
		return ""
	}
	return fmt.Sprintf("without it %d of the journal's %d voting servers would be up, which is no majority: neither reads nor pushes would go on", left, voters)
}

// othersThan returns the enabled nodes that count, but one.
func othersThan(device cluster.DeviceName, rules *access.Directory) map[cluster.DeviceName]bool {
	others := map[cluster.DeviceName]bool{}
	for _, n := range rules.Nodes() {
		if n.Name != device && n.Enabled && !n.New {
			others[n.Name] = true
		}
	}
	return others
}

// A shortage is what too few other nodes have.
type shortage struct {
	names  []cluster.RepoName // at most drainNames
	left   int                // how many there are
	silent string             // a node that is up and does not say what it has; ""
}

// waiting returns the repositories of which other nodes lack the newest version: one
// of those that are up, or so many of all that the others are no majority. They are
// asked: what a replica once reported outlives the disk it was on.
func (s *Server) waiting(ctx context.Context, device cluster.DeviceName, rules *access.Directory) (w shortage, err error) {
	others := othersThan(device, rules)
	up := map[cluster.DeviceName]bool{}
	for _, n := range rules.Nodes() {
		if others[n.Name] {
			up[n.Name] = n.Name == s.Device || s.isUp(ctx, n)
		}
	}
	w.names = []cluster.RepoName{}
	need := len(others)/2 + 1
	err = s.eachPage(ctx, func(page []journal.RepoHead) {
		at := map[cluster.DeviceName]map[cluster.RepoID]cluster.Position{}
		for name, isUp := range up {
			if !isUp {
				continue
			}
			shown, err := s.positions(ctx, name, page)
			if err != nil {
				w.silent = fmt.Sprintf("%s does not say what it has: %v", name, err)
			}
			at[name] = shown
		}
		for _, r := range page {
			have := 0
			for _, shown := range at {
				if shown[r.ID].Reached(r.Head.Position) {
					have++
				}
			}
			if r.Head.Version > 0 && (have < need || have < len(at)) {
				if w.left++; len(w.names) < drainNames {
					w.names = append(w.names, r.Name)
				}
			}
		}
	})
	return w, err
}

// positions asks a node what its replicas show.
func (s *Server) positions(ctx context.Context, device cluster.DeviceName, repos []journal.RepoHead) (map[cluster.RepoID]cluster.Position, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nodePatience, errNoAnswer)
	defer cancel()
	var ask nodePositions
	for _, r := range repos {
		ask.Repos = append(ask.Repos, r.ID)
	}
	var shown map[cluster.RepoID]cluster.Position
	err := s.on(ctx, device, "node.positions", ask, &shown)
	return shown, err
}

type nodePositions struct {
	Repos []cluster.RepoID `json:"repos"`
}

// shown is what this node's replicas show, of those that may be trusted.
func (s *Server) shown(p nodePositions) (any, error) {
	shown := map[cluster.RepoID]cluster.Position{}
	for _, text := range p.Repos {
		id, err := cluster.ParseRepoID(string(text))
		if err != nil {
			return nil, err
		}
		if at, err := s.Engine.Shows(id); err == nil {
			shown[id] = at
		}
	}
	return shown, nil
}

// eachPage calls do with all repositories, some at a time.
func (s *Server) eachPage(ctx context.Context, do func([]journal.RepoHead)) error {
	const page = 500
	var repos []journal.RepoHead
	for r, err := range s.Journal.Repos(ctx, "") {
		if err != nil {
			return err
		}
		if repos = append(repos, r); len(repos) == page {
			do(repos)
			repos = nil
		}
	}
	if len(repos) > 0 {
		do(repos)
	}
	return nil
}

func (s *Server) isUp(ctx context.Context, d cluster.Device) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.SSH)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// deviceRemove removes a device, and its server of the journal if it has one.
func (s *Server) deviceRemove(ctx context.Context, p DeviceRemove) error {
	rules, err := s.Rules.Refresh(ctx)
	if err != nil {
		return err
	}
	d, ok := rules.Device(p.Device)
	if !ok {
		return fmt.Errorf("device %q: %w", p.Device, cluster.ErrNotFound)
	}
	if d.Node {
		if err := s.mayRemove(ctx, d, rules.Nodes(), p.Force); err != nil {
			return err
		}
		if s.Members != nil {
			if err := s.Members.Remove(ctx, string(p.Device)); err != nil {
				return fmt.Errorf("take its server out of the journal: %w", err)
			}
		}
	}
	return s.Journal.RemoveDevice(ctx, p.Device)
}

func (s *Server) mayRemove(ctx context.Context, d cluster.Device, nodes []cluster.Device, force bool) error {
	if d.Name == s.Device {
		return errors.New("a node cannot remove itself; run this on another")
	}
	if !slices.ContainsFunc(nodes, func(n cluster.Device) bool { return n.Name != d.Name && n.Enabled }) {
		return errors.New("it is the last node")
	}
	if !force && d.Writable && s.isUp(ctx, d) {
		return cluster.WithHint(fmt.Errorf("%q is up and takes pushes", d.Name), fmt.Sprintf("`git cluster drain %s` first, and stop it; or add --force", d.Name))
	}
	if force {
		return nil
	}
	if s.isUp(ctx, d) {
		why, err := s.journalWithout(ctx, d.Name, s.Rules.Snapshot())
		if err == nil && why != "" {
			err = cluster.WithHint(errors.New(why), "start the journal's other servers, or join another node first")
		}
		if err != nil {
			return err
		}
	}
	const patience, pause = 3 * time.Second, 250 * time.Millisecond // replicas lag a little
	for end := time.Now().Add(patience); ; {
		w, err := s.waiting(ctx, d.Name, s.Rules.Snapshot())
		if err != nil || w.left == 0 {
			return err
		}
		if time.Now().After(end) {
			return cluster.WithHint(fmt.Errorf("too few other nodes have the newest version of %d repositories, such as %q", w.left, w.names[0]),
				"start it again if it is down, and wait until the others have what only it has; or add --force, and `git cluster accept-loss`")
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}
