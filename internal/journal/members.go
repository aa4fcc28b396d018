package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// Members keeps the membership of the embedded servers: one voter for one or
// two nodes, three from three nodes on. A server joins as a learner, which
// counts for no quorum, so that a join that fails costs nothing.
type Members struct {
	client *clientv3.Client
	tls    string // the folder with this node's credentials
	seat   *Seat  // nil: this node never runs a server but the one it began with

	mu     sync.Mutex
	own    *Member // this node's server; nil if it runs none
	closed bool

	// What this node has seen of the servers; used by tend alone.
	vacant time.Time // since when a seat has been free
	behind time.Time // until when this node lets all others go before it
	named  bool      // its server has taken part
	seen   judgement
	door   Door

	shutOut chan struct{} // closed when the servers take this node's credentials no more
	once    sync.Once

	startWithin, turn, deadAfter, pairFor time.Duration
	log                                   *slog.Logger
}

// NewMembers returns the membership as a node sees it that runs the server own,
// or none, and has the seat, or none.
func NewMembers(client *clientv3.Client, own *Member, tlsDir string, seat *Seat, log *slog.Logger) *Members {
	return &Members{client: client, own: own, tls: tlsDir, seat: seat, log: log, named: own != nil, shutOut: make(chan struct{}),
		startWithin: startWithin, turn: turn, deadAfter: deadAfter, pairFor: pairFor}
}

// Close stops this node's server, if it runs one.
func (m *Members) Close() {
	m.mu.Lock()
	own := m.own
	m.own, m.closed = nil, true
	m.mu.Unlock()
	if own != nil {
		own.Close()
	}
}

// ShutOut is closed when the servers take this node's credentials no more.
func (m *Members) ShutOut() <-chan struct{} { return m.shutOut }

// server returns this node's server.
func (m *Members) server() *Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own
}

// voters is how many servers vote once there are enough nodes.
const voters = 3

// A MemberState is one server of the journal.
type MemberState struct {
	Name   string `json:"name"`
	Client string `json:"client"` // its client address
	Voter  bool   `json:"voter"`
	Leader bool   `json:"leader"`
	Full   bool   `json:"full,omitempty"` // its database has no room for more, so that the journal takes no writes
}

// An admission is what is remembered of a server that was admitted and may not
// have started yet: until it starts, etcd does not know its name.
type admission struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// startWithin is how long a server may take from its admission to its first
// start before its place is given to another.
const startWithin = 10 * time.Minute

// Admit adds a server for the node called name as a learner and returns the
// initial cluster for its first start. When there are enough servers already it
// returns "", and the node is a client only. What an earlier try of the same node
// left is replaced.
func (m *Members) Admit(ctx context.Context, name, peer string) (initial string, err error) {
	for {
		initial, err := m.admit(ctx, name, peer)
		// Raft takes one change of the membership at a time and drops the others
		// without a word; what did become of this one the next look shows.
		if !errors.Is(err, errNoWord) || pause(ctx, rand.N(time.Second)) != nil {
			return initial, err
		}
	}
}

func (m *Members) admit(ctx context.Context, name, peer string) (initial string, err error) {
	peerURL := "https://" + peer
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return "", unavailable(err)
	}
	count := 0
	for _, there := range list.Members {
		abandoned := false
		if there.Name == "" {
			earlier, err := m.admission(ctx, there.ID)
			if err != nil {
				return "", err
			}
			abandoned = slices.Contains(there.PeerURLs, peerURL) || earlier.Name == name || time.Since(earlier.At) > m.startWithin
		}
		switch {
		case abandoned:
			if err := m.dismiss(ctx, there.ID); err != nil {
				return "", err
			}
			continue
		case slices.Contains(there.PeerURLs, peerURL), there.Name == name:
			return "", fmt.Errorf("a journal server %q at %s is a member already", there.Name, peer)
		}
		count++
	}
	if count >= voters {
		return "", nil
	}
	var added *clientv3.MemberAddResponse
	err = reconfigure(ctx, func(ctx context.Context) (err error) {
		added, err = m.client.MemberAddAsLearner(ctx, []string{peerURL})
		return err
	})
	if err != nil {
		return "", unavailable(err)
	}
	if len(added.Members) > voters {
		// Others were admitted at the same moment, and came first.
		return "", m.dismiss(ctx, added.Member.ID)
	}
	if _, err := m.client.Put(ctx, memberKey(added.Member.ID), encode(admission{Name: name, At: time.Now().UTC()})); err != nil {
		return "", unavailable(err)
	}
	isSelf := func(m *etcdserverpb.Member) bool { return m.ID == added.Member.ID }
	return initialCluster(added.Members, isSelf, name), nil
}

// admission returns what is remembered of a server without a name. If that is
// nothing, the node that admits it is just about to write it down, or has died; so its
// time counts from now on.
func (m *Members) admission(ctx context.Context, id uint64) (a admission, err error) {
	key := memberKey(id)
	found := admission{At: time.Now().UTC()}
	r, err := m.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, encode(found))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return a, unavailable(err)
	}
	if r.Succeeded {
		return found, nil
	}
	return a, json.Unmarshal(r.Responses[0].GetResponseRange().Kvs[0].Value, &a)
}

// Remove removes the server of a node that is gone for good, if it has one. etcd
// refuses what would leave too few servers to go on.
func (m *Members) Remove(ctx context.Context, name string) error {
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return unavailable(err)
	}
	for _, there := range list.Members {
		if there.Name == name {
			return m.dismiss(ctx, there.ID)
		}
	}
	return nil
}

// dismiss removes a server; one that is gone already is no error.
func (m *Members) dismiss(ctx context.Context, id uint64) error {
	err := reconfigure(ctx, func(ctx context.Context) error {
		_, err := m.client.MemberRemove(ctx, id)
		return err
	})
	if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return unavailable(err)
	}
	_, err = m.client.Delete(ctx, memberKey(id))
	return unavailable(err)
}

// reconfigure makes a change of the membership again while etcd says that its
// servers have not been connected for long enough: it says so for some seconds after
// each such change, and after an election. Without a definite answer it ends with
// errNoWord.
func reconfigure(ctx context.Context, change func(context.Context) error) error {
	for end := time.Now().Add(unhealthyFor); ; {
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		err := change(attempt)
		cancel()
		switch {
		case err == nil || answered(err):
			return err
		case !errors.Is(err, rpctypes.ErrUnhealthy):
			return fmt.Errorf("%w: %w", errNoWord, err)
		case time.Now().After(end) || pause(ctx, 250*time.Millisecond) != nil:
			return err
		}
	}
}

// answered reports whether etcd's error says why it did not change the membership.
func answered(err error) bool {
	var etcd rpctypes.EtcdError
	return refused(err) || errors.As(err, &etcd) && (etcd.Code() == codes.FailedPrecondition || etcd.Code() == codes.NotFound)
}

// errNoWord: nobody knows whether a change of the membership was made.
var errNoWord = errors.New("a change of the journal's servers was not confirmed")

// unhealthyFor is how long that may go on; etcd wants five seconds.
const unhealthyFor = 12 * time.Second

func memberKey(id uint64) string { return fmt.Sprintf("%s%016x", keyMember, id) }

// status asks one server, on a connection of its own: etcd's client does not
// guard its endpoints, which Follow changes, against its own use of them there.
func (m *Members) status(ctx context.Context, server string) (*clientv3.StatusResponse, error) {
	client, err := Dial([]string{server}, m.tls)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Status(ctx, server)
}

// Known returns the servers as this node's own knows them, without asking anybody.
func (m *Members) Known() []MemberState {
	own := m.server()
	if own == nil {
		return nil
	}
	return own.known()
}

// List returns the state of all servers.
func (m *Members) List(ctx context.Context) ([]MemberState, error) {
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	var leader uint64
	var noRoom []uint64
	for _, member := range list.Members {
		if len(member.ClientURLs) == 0 {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		s, err := m.status(attempt, member.ClientURLs[0])
		cancel()
		if err == nil && s.Leader != 0 {
			leader, noRoom = s.Leader, full(s)
			break
		}
	}
	var all []MemberState
	for _, member := range list.Members {
		s := MemberState{Name: member.Name, Voter: !member.IsLearner, Leader: member.ID == leader, Full: slices.Contains(noRoom, member.ID)}
		if len(member.ClientURLs) > 0 {
			s.Client = strings.TrimPrefix(member.ClientURLs[0], "https://")
		}
		all = append(all, s)
	}
	return all, nil
}

// Follow keeps the client's endpoints right until the context ends: a voter
// asks its own server, everyone else asks the voters, because a learner answers
// no linearizable read. It promotes learners on the way, and takes a free seat.
// changed is called with the voters' addresses when they change.
func (m *Members) Follow(ctx context.Context, changed func(endpoints []string)) {
	tended := make(chan struct{})
	go func() {
		defer close(tended)
		m.tendLoop(ctx)
	}()
	defer func() { <-tended }()
	var last, lastVoters []string
	for wait := time.Duration(0); pause(ctx, wait) == nil; {
		// A server knows its members without asking anybody, so a change of them is
		// seen soon, and even when those that were asked until now are gone.
		wait = 2 * time.Second
		server := m.server()
		if server != nil {
			wait = 250 * time.Millisecond
		}
		own, others, err := m.endpoints(ctx, server)
		if err != nil {
			continue
		}
		endpoints := others
		if len(own) > 0 {
			endpoints = own
		}
		if len(endpoints) > 0 && !slices.Equal(endpoints, last) {
			last = endpoints
			m.client.SetEndpoints(endpoints...)
		}
		if all := slices.Concat(own, others); !slices.Equal(all, lastVoters) {
			lastVoters = all
			changed(all)
		}
	}
}

// endpoints returns the voters' client addresses: that of this node's server,
// if it votes, and those of the others.
func (m *Members) endpoints(ctx context.Context, server *Member) (own, others []string, err error) {
	if server != nil {
		own, others = server.voters()
		return own, others, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return nil, nil, unavailable(err)
	}
	for _, member := range list.Members {
		if !member.IsLearner {
			others = append(others, member.ClientURLs...)
		}
	}
	slices.Sort(others)
	return nil, others, nil
}
