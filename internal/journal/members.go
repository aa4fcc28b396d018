package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Members keeps the membership of the embedded servers: one voter for one or
// two nodes, three from three nodes on. A server joins as a learner, which
// counts for no quorum, so that a join that fails costs nothing.
type Members struct {
	client *clientv3.Client
	own    *Member // this node's server; nil if it runs none
}

// NewMembers returns the membership as a node sees it that runs the server own,
// or none.
func NewMembers(client *clientv3.Client, own *Member) *Members {
	return &Members{client: client, own: own}
}

// voters is how many servers vote once there are enough nodes.
const voters = 3

// A MemberState is one server of the journal.
type MemberState struct {
	Name   string `json:"name"`
	Client string `json:"client"` // its client address
	Voter  bool   `json:"voter"`
	Leader bool   `json:"leader"`
}

// Admit adds a server for the node called name as a learner and returns the
// initial cluster for its first start. When there are enough servers already it returns
// "", and the node is a client only. A server of that name that never started is
// replaced: an earlier join failed.
func (m *Members) Admit(ctx context.Context, name, peer string) (initial string, err error) {
	peerURL := "https://" + peer
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return "", unavailable(err)
	}
	for _, there := range list.Members {
		switch {
		case slices.Contains(there.PeerURLs, peerURL) && there.Name == "":
			if _, err := m.client.MemberRemove(ctx, there.ID); err != nil {
				return "", unavailable(err)
			}
		case slices.Contains(there.PeerURLs, peerURL), there.Name == name:
			return "", fmt.Errorf("a journal server %q at %s is a member already", there.Name, peer)
		}
	}
	if len(list.Members) >= voters {
		return "", nil
	}
	added, err := m.client.MemberAddAsLearner(ctx, []string{peerURL})
	if err != nil {
		return "", unavailable(err)
	}
	var all []string
	for _, there := range added.Members {
		who := there.Name
		if there.ID == added.Member.ID {
			who = name
		}
		for _, u := range there.PeerURLs {
			if who != "" {
				all = append(all, who+"="+u)
			}
		}
	}
	return strings.Join(all, ","), nil
}

// Settle promotes learners to voters once there are three servers and all are
// ready, and reports whether nothing is left to do.
func (m *Members) Settle(ctx context.Context) (settled bool, err error) {
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return false, unavailable(err)
	}
	var learners []*etcdserverpb.Member
	for _, member := range list.Members {
		if member.IsLearner {
			learners = append(learners, member)
		}
	}
	if len(learners) == 0 || len(list.Members) < voters {
		return true, nil
	}
	// All before any: with two voters the death of either stops the journal,
	// so that state must be as short as it can be.
	for _, learner := range learners {
		if err := m.ready(ctx, list.Members, learner); err != nil {
			return false, err
		}
	}
	for _, learner := range learners {
		if _, err := m.client.MemberPromote(ctx, learner.ID); err != nil {
			return false, unavailable(err)
		}
	}
	return true, nil
}

// ready reports whether a learner has nearly everything the leader has.
func (m *Members) ready(ctx context.Context, all []*etcdserverpb.Member, learner *etcdserverpb.Member) error {
	if learner.Name == "" || len(learner.ClientURLs) == 0 {
		return errors.New("a journal server has not started yet")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	its, err := m.client.Status(ctx, learner.ClientURLs[0])
	if err != nil {
		return unavailable(err)
	}
	for _, member := range all {
		if member.IsLearner || len(member.ClientURLs) == 0 {
			continue
		}
		ours, err := m.client.Status(ctx, member.ClientURLs[0])
		if err == nil && its.RaftIndex+100 >= ours.RaftIndex {
			return nil
		}
	}
	return fmt.Errorf("journal server %q is still catching up", learner.Name)
}

// List returns the state of all servers.
func (m *Members) List(ctx context.Context) ([]MemberState, error) {
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	var leader uint64
	for _, member := range list.Members {
		if len(member.ClientURLs) == 0 {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		s, err := m.client.Status(attempt, member.ClientURLs[0])
		cancel()
		if err == nil && s.Leader != 0 {
			leader = s.Leader
			break
		}
	}
	var all []MemberState
	for _, member := range list.Members {
		s := MemberState{Name: member.Name, Voter: !member.IsLearner, Leader: member.ID == leader}
		if len(member.ClientURLs) > 0 {
			s.Client = strings.TrimPrefix(member.ClientURLs[0], "https://")
		}
		all = append(all, s)
	}
	return all, nil
}

// Follow keeps the client's endpoints right until the context ends: a voter
// asks its own server, everyone else asks the voters, because a learner answers
// no linearizable read. It promotes learners on the way. changed is called with
// the voters' addresses when they change.
func (m *Members) Follow(ctx context.Context, changed func(endpoints []string)) {
	go m.settleLoop(ctx)
	// A server knows its members without asking anybody, so a change of them is
	// seen at once and even when those that were asked until now are gone.
	every := 2 * time.Second
	if m.own != nil {
		every = 50 * time.Millisecond
	}
	var last, lastVoters []string
	for wait := time.Duration(0); pause(ctx, wait) == nil; wait = every {
		own, others, err := m.endpoints(ctx)
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
func (m *Members) endpoints(ctx context.Context) (own, others []string, err error) {
	if m.own != nil {
		own, others = m.own.voters()
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

// settleLoop promotes learners when they are ready.
func (m *Members) settleLoop(ctx context.Context) {
	for wait := time.Duration(0); pause(ctx, wait) == nil; {
		wait = 2 * time.Second
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		if settled, err := m.Settle(attempt); err != nil || !settled {
			wait = 200 * time.Millisecond
		}
		cancel()
	}
}
