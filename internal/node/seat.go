package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/durable"
	"gitcluster/internal/journal"
)

// noSeat is what journal-seat holds where the node runs no server of the journal.
const noSeat = "none"

// hasSeat reports whether the node runs a server of the journal, and which members
// that names at its first start. What node.toml says of it held when the node joined.
func (d dataDir) hasSeat(self *config.Self) (initial string, ok bool, err error) {
	data, err := os.ReadFile(d.path("journal-seat"))
	switch word := strings.TrimSpace(string(data)); {
	case errors.Is(err, fs.ErrNotExist):
		return self.Journal.Initial, self.Journal.Peer != "" && !self.Journal.Spare, nil
	case err != nil:
		return "", false, err
	case word == noSeat:
		return "", false, nil
	default:
		return word, self.Journal.Peer != "", nil
	}
}

// saveSeat writes down that the node has a server with these members at its first
// start, or none.
func (d dataDir) saveSeat(initial string) error {
	if initial == "" {
		initial = noSeat
	}
	return durable.WriteFile(d.path("journal-seat"), []byte(initial+"\n"), 0o600)
}

// server describes the server that the node embeds, or would.
func (d dataDir) server(self *config.Self) journal.MemberConfig {
	j := self.Journal
	return journal.MemberConfig{Name: string(self.Name), Dir: d.path("journal"), TLS: d.path("tls"), Peer: j.Peer, Client: j.Client,
		Cluster: self.ClusterID, Advertise: j.Advertise, Log: d.path("journal.log")}
}

// seat is the node's place for a server of the journal; nil if it has no addresses
// for one.
func (n *Node) seat() *journal.Seat {
	if n.self.Journal.Peer == "" {
		return nil
	}
	return &journal.Seat{Server: n.dir.server(n.self), Remember: n.dir.saveSeat, Turn: n.turn}
}

// turn says how many nodes without a server of the journal come before this one, by
// name.
func (n *Node) turn(ctx context.Context, seated map[string]bool) (before int, ok bool) {
	rules, err := n.rules.Refresh(ctx)
	if err != nil {
		return 0, false
	}
	for _, d := range rules.Nodes() {
		switch {
		case d.Name == n.self.Name:
			ok = d.Enabled
		case d.Name < n.self.Name && d.Enabled && !d.New && !seated[string(d.Name)]:
			before++
		}
	}
	return before, ok
}

// dial starts the embedded server, if this node has one, and makes a client. Only the
// node that founds the cluster starts a server that knows no other.
func (d dataDir) dial(ctx context.Context, self *config.Self, founds bool, log *slog.Logger) (*journal.Member, *journal.Client, error) {
	j := self.Journal
	if len(j.Endpoints) > 0 {
		client, err := journal.Dial(j.Endpoints, j.TLS)
		return nil, client, err
	}
	servers := d.servers()
	if len(servers) == 0 {
		servers = j.Servers
	}
	initial, seated, err := d.hasSeat(self)
	if err != nil {
		return nil, nil, err
	}
	var member *journal.Member
	if seated {
		c := d.server(self)
		c.Initial, c.Existing, c.Servers = initial, !founds, others(servers, c.Address())
		member, err = journal.StartMember(ctx, c)
		switch {
		case errors.Is(err, journal.ErrNotMember):
			// It was admitted long ago, and others have its place.
			log.Warn("this node's server has lost its place in the journal before it started", "error", err)
			err = d.saveSeat("")
		case errors.Is(err, journal.ErrLost) && len(c.Servers) == 0:
			// The others, if there are any, have copies, and no vote.
			err = cluster.WithHint(fmt.Errorf("%w, and there was no other that votes", err),
				"put "+c.Dir+" back as it last was: its disk may not be mounted; if it is lost, `git cluster init` a new cluster and `git cluster restore` a backup")
		case errors.Is(err, journal.ErrLost):
			log.Warn("this node's server of the journal does not start; the node goes on without, and begins anew with another when a majority of the others answers", "error", err, "others", c.Servers)
			servers, err = c.Servers, nil
		case errors.Is(err, cluster.ErrUnavailable) && len(c.Servers) > 0:
			log.Warn("this node's server of the journal does not start for the first time before a majority of the others answers", "error", err, "others", c.Servers)
			err = nil
		case err == nil && len(servers) == 0:
			servers = []string{j.Client}
		}
		if err != nil {
			return nil, nil, err
		}
	}
	client, err := journal.Dial(servers, d.path("tls"))
	if err != nil && member != nil {
		member.Close()
	}
	return member, client, err
}

// others returns the servers without the node's own.
func others(servers []string, own string) []string {
	return slices.DeleteFunc(slices.Clone(servers), func(s string) bool { return s == own })
}
