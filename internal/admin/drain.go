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
	st.Waiting, st.Left, err = s.waiting(ctx, p.Device, rules)
	return st, err
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

// waiting returns repositories of which too few nodes other than this one have
// reported the newest version, and how many there are.
func (s *Server) waiting(ctx context.Context, device cluster.DeviceName, rules *access.Directory) (names []cluster.RepoName, left int, err error) {
	others, names := othersThan(device, rules), []cluster.RepoName{}
	replicas, err := s.Journal.Replicas(ctx, "")
	if err != nil {
		return nil, 0, err
	}
	at := map[cluster.RepoID][]journal.Replica{}
	for _, r := range replicas {
		if others[r.Device] && r.Fenced == "" {
			at[r.Repo] = append(at[r.Repo], r)
		}
	}
	need := len(others)/2 + 1
	for r, err := range s.Journal.Repos(ctx, "") {
		if err != nil {
			return nil, 0, err
		}
		have := 0
		for _, replica := range at[r.ID] {
			if replica.Reached(r.Head.Position) {
				have++
			}
		}
		if have < need && r.Head.Version > 0 {
			if left++; len(names) < drainNames {
				names = append(names, r.Name)
			}
		}
	}
	return names, left, nil
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
	const patience, pause = 3 * time.Second, 250 * time.Millisecond // reports lag a little
	for end := time.Now().Add(patience); ; {
		names, left, err := s.waiting(ctx, d.Name, s.Rules.Snapshot())
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(end) {
			return cluster.WithHint(fmt.Errorf("too few other nodes have the newest version of %d repositories, such as %q", left, names[0]),
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
