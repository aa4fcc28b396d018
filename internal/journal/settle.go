package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Settle promotes learners to voters once there are three servers and all are
// ready, and reports whether nothing is left to do.
func (m *Members) Settle(ctx context.Context) (settled bool, err error) {
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return false, unavailable(err)
	}
	return m.settle(ctx, list.Members)
}

func (m *Members) settle(ctx context.Context, members []*etcdserverpb.Member) (settled bool, err error) {
	var learners []*etcdserverpb.Member
	for _, member := range members {
		if member.IsLearner {
			learners = append(learners, member)
		}
	}
	free := voters - (len(members) - len(learners))
	if len(learners) == 0 || len(members) < voters || free <= 0 {
		return true, nil
	}
	learners = learners[:min(free, len(learners))]
	// All before any: with two voters the death of either stops the journal,
	// so that state must be as short as it can be.
	for _, learner := range learners {
		if err := m.ready(ctx, members, learner); err != nil {
			return false, err
		}
	}
	for _, learner := range learners {
		err := reconfigure(ctx, func(ctx context.Context) error {
			_, err := m.client.MemberPromote(ctx, learner.ID)
			return err
		})
		if err != nil {
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
	its, err := m.status(ctx, learner.ClientURLs[0])
	if err != nil {
		return unavailable(err)
	}
	for _, member := range all {
		if member.IsLearner || len(member.ClientURLs) == 0 {
			continue
		}
		ours, err := m.status(ctx, member.ClientURLs[0])
		if err == nil && its.RaftIndex+100 >= ours.RaftIndex {
			return nil
		}
	}
	return fmt.Errorf("journal server %q is still catching up", learner.Name)
}

// deadAfter is how long a learner may give no answer before it loses its place, if
// others wait for it; pairFor is how long two servers may vote without a third.
const (
	deadAfter = 10 * time.Minute
	pairFor   = 10 * time.Minute
)

// A judgement is what the leader's node has seen of the others so far.
type judgement struct {
	silent map[uint64]time.Time // since when a learner has given no answer
	pair   time.Time            // since when two have voted without a third
}

// judge ends what would otherwise stay as it is for ever: a learner that died keeps
// its place from others, and if that was between two promotions, two voters are
// left, of which neither may die. The leader's node does so alone, and knows only what
// it has seen since it leads.
func (m *Members) judge(ctx context.Context, members []*etcdserverpb.Member) error {
	if !m.leads() {
		m.seen = judgement{}
		return nil
	}
	own, voting := m.server().id(), 0
	var other *etcdserverpb.Member // a voter
	silent := map[uint64]time.Time{}
	for _, there := range members {
		if !there.IsLearner {
			if voting++; there.ID != own {
				other = there
			}
			continue
		}
		since, limit, err := m.silence(ctx, there)
		if err != nil {
			return err
		}
		if since.IsZero() {
			continue
		}
		silent[there.ID] = since
		if len(members) >= voters && time.Since(since) > limit {
			if err := m.dismiss(ctx, there.ID); err != nil {
				return err
			}
			m.log.Warn("a server of the journal that gave no answer for long has lost its place", "name", there.Name, "since", since)
			return nil
		}
	}
	m.seen.silent = silent
	switch {
	case voting != 2 || len(members) != 2:
		m.seen.pair = time.Time{}
	case m.seen.pair.IsZero():
		m.seen.pair = time.Now()
	case time.Since(m.seen.pair) > m.pairFor:
		if err := m.dismiss(ctx, other.ID); err != nil {
			return err
		}
		m.log.Warn("two servers of the journal had voted without a third for long; one of them begins again as a learner", "name", other.Name)
	}
	return nil
}

// silence returns since when a learner has given no answer, if it gives none, and how
// long it may go on.
func (m *Members) silence(ctx context.Context, learner *etcdserverpb.Member) (since time.Time, limit time.Duration, err error) {
	if learner.Name == "" || len(learner.ClientURLs) == 0 {
		noted, err := m.admission(ctx, learner.ID)
		return noted.At, m.startWithin, err
	}
	attempt, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := m.status(attempt, learner.ClientURLs[0]); err == nil {
		return time.Time{}, 0, nil
	}
	since, ok := m.seen.silent[learner.ID]
	if !ok {
		since = time.Now()
	}
	return since, m.deadAfter, nil
}

// leads reports whether this node's server is the journal's leader.
func (m *Members) leads() bool {
	own := m.server()
	return own != nil && own.leads()
}
