package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"

	"gitcluster/internal/durable"
)

// A server is known to the others by an id, and they count on what it has confirmed
// and on how it has voted. One whose data is gone knows neither, so it must never
// start again under that id. That it has taken part stands in a file beside its
// folder, in case that is on another disk, and in the list of members, where a
// server has a name from its first start on.

var (
	// ErrNotMember: the cluster does not know the server that was to start for the
	// first time. It has lost its place, or never had one.
	ErrNotMember = errors.New("the journal's servers do not know this one")
	// ErrLost: the server has taken part, and its data is gone. With a [Seat] the node
	// has it taken out and begins anew with another.
	ErrLost = errors.New("the data of this node's server of the journal is gone")
)

// start starts the server, if it may.
func (c MemberConfig) start(ctx context.Context, cfg *embed.Config) (*embed.Etcd, error) {
	there, err := c.holdsData()
	if err != nil {
		return nil, err
	}
	marked, err := c.marked()
	switch {
	case err != nil:
		return nil, err
	case there || !c.Existing && marked == 0:
		server, err := embed.StartEtcd(cfg)
		if err == nil && marked == 0 { // it makes the cluster, or is of a release without the file
			if err = c.mark(uint64(server.Server.MemberID())); err != nil {
				server.Close()
			}
		}
		return server, err
	case marked != 0 || c.Initial == "": // who made the cluster has started then
		return nil, ErrLost
	}
	return c.join(ctx, cfg)
}

// join starts a server for the first time. It must name all members there are, which
// may be others than at its admission, and must be known to the one it asks,
// which may lag; so that is tried again for a while. Without the word of a majority
// that it is new it does not start.
func (c MemberConfig) join(ctx context.Context, cfg *embed.Config) (*embed.Etcd, error) {
	for deadline := time.Now().Add(joinPatience); ; {
		self, initial, err := c.members(ctx, cfg.AdvertisePeerUrls[0].String())
		switch {
		case err != nil:
			err = unavailable(err)
		case self == nil:
			return nil, ErrNotMember
		case self.Name != "" || !self.IsLearner:
			return nil, ErrLost
		default:
			cfg.InitialCluster = initial
			var server *embed.Etcd
			if server, err = c.first(cfg, self.ID); err == nil || !notYetKnown(err) {
				return server, err
			}
		}
		if time.Now().After(deadline) {
			return nil, err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// first starts the member id, which has no data yet.
func (c MemberConfig) first(cfg *embed.Config, id uint64) (*embed.Etcd, error) {
	// What a start that failed has left.
	if err := c.clear(); err != nil {
		return nil, err
	}
	if err := c.mark(id); err != nil {
		return nil, err
	}
	server, err := embed.StartEtcd(cfg)
	if err == nil {
		return server, nil
	}
	if there, dataErr := c.holdsData(); there || dataErr != nil {
		return nil, err
	}
	return nil, errors.Join(err, c.unmark()) // it has not taken part
}

// members asks the cluster for the server that joins, if it is a member, and for its
// initial cluster. Of the servers one answers that votes: another refuses, or is down.
func (c MemberConfig) members(ctx context.Context, peerURL string) (self *etcdserverpb.Member, initial string, err error) {
	var failures []error
	for _, server := range c.Servers {
		list, err := c.listAt(ctx, server)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", server, err))
			continue
		}
		isSelf := func(m *etcdserverpb.Member) bool { return slices.Contains(m.PeerURLs, peerURL) }
		if i := slices.IndexFunc(list, isSelf); i >= 0 {
			self = list[i]
		}
		return self, initialCluster(list, isSelf, c.Name), nil
	}
	return nil, "", errors.Join(failures...)
}

func (c MemberConfig) listAt(ctx context.Context, server string) ([]*etcdserverpb.Member, error) {
	client, err := Dial([]string{server}, c.TLS)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	return list.Members, nil
}

// initialCluster lists members as "name=URL,…". Etcd compares the URLs; for a
// member that has not started, and so has no name, any will do.
func initialCluster(members []*etcdserverpb.Member, isSelf func(*etcdserverpb.Member) bool, self string) string {
	var all []string
	for _, m := range members {
		who := m.Name
		switch {
		case isSelf(m):
			who = self
		case who == "":
			who = fmt.Sprintf("pending-%x", m.ID)
		}
		for _, u := range m.PeerURLs {
			all = append(all, who+"="+u)
		}
	}
	return strings.Join(all, ",")
}

// joinPatience is how long a server that joins waits until the others know it.
const joinPatience = 10 * time.Second

// notYetKnown reports whether a server could not join because another server's
// membership does not show it. Etcd has no error value for that.
func notYetKnown(err error) bool {
	text := err.Error()
	return strings.Contains(text, "member count is unequal") || strings.Contains(text, "cannot fetch cluster info") || strings.Contains(text, "unmatched member")
}

// holdsData reports whether the server's log is there. Etcd starts anew without, whatever
// else it finds.
func (c MemberConfig) holdsData() (bool, error) {
	files, err := os.ReadDir(filepath.Join(c.Dir, "member", "wal"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(files, func(f fs.DirEntry) bool { return filepath.Ext(f.Name()) == ".wal" }), err
}

// clear removes a former server's data. Its folder stays: a disk may be mounted there.
func (c MemberConfig) clear() error { return os.RemoveAll(filepath.Join(c.Dir, "member")) }

func (c MemberConfig) marker() string { return filepath.Clean(c.Dir) + "-member" }

// marked returns the id under which a server of this node has taken part; 0 if none has.
func (c MemberConfig) marked() (uint64, error) {
	data, err := os.ReadFile(c.marker())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(data)), 16, 64)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("%s names no server: %q", c.marker(), data)
	}
	return id, nil
}

func (c MemberConfig) mark(id uint64) error {
	return durable.WriteFile(c.marker(), fmt.Appendf(nil, "%x\n", id), 0o600)
}

func (c MemberConfig) unmark() error {
	if err := os.Remove(c.marker()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(c.marker()))
}

// giveUp has the server taken out that this node had once and that cannot start any
// more. The next one is new to the others, and counts when it has caught up. given is
// whether there was one.
func (m *Members) giveUp(ctx context.Context, members []*etcdserverpb.Member) (given bool, err error) {
	c := m.seat.Server
	marked, err := c.marked()
	if err != nil {
		return false, err
	}
	for _, there := range members {
		if there.ID != marked && there.Name != c.Name {
			continue
		}
		if err := m.dismiss(ctx, there.ID); err != nil {
			return false, err
		}
		m.log.Warn("this node's server of the journal was taken out, because its data is gone; the node begins anew with another", "member", fmt.Sprintf("%x", there.ID))
		given = true
	}
	if !given && marked == 0 {
		return false, nil
	}
	if err := m.seat.Remember(""); err != nil {
		return false, err
	}
	return given, c.unmark()
}
