package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A Seat is a node's place for a server of the journal, whether it has one or
// not. With a seat, a node whose server was taken out of the journal clears what
// that has left, and a node without a server starts one when there are too few.
type Seat struct {
	Server MemberConfig // without what concerns a first start
	// Remember writes down that this node has a server, which starts with these
	// members for the first time, or has none.
	Remember func(initial string) error
	// Turn says how many other nodes come first that have no server, given the names
	// of those that have one. A node that must not have one is not ok.
	Turn func(seated map[string]bool) (before int, ok bool)
	Log  *slog.Logger
}

// turn is how long each node without a server waits for those that come before it,
// and the first of them for a node that may be about to join.
const turn = 10 * time.Second

// peerURL is where the other servers reach the seat's.
func (s *Seat) peerURL() string {
	u := advertised(address(s.Server.Peer), s.Server.Advertise)
	return u.String()
}

// tendLoop does what is to be done about the servers, until the context ends.
func (m *Members) tendLoop(ctx context.Context) {
	for wait := time.Duration(0); pause(ctx, wait) == nil; {
		wait = 2 * time.Second
		if settled, err := m.tend(ctx); err != nil || !settled {
			wait = 200 * time.Millisecond
		}
	}
}

func (m *Members) tend(ctx context.Context) (settled bool, err error) {
	attempt, cancel := context.WithTimeout(ctx, callTimeout)
	list, err := m.client.MemberList(attempt)
	cancel()
	if err != nil {
		return false, unavailable(err)
	}
	if m.seat != nil {
		if err := m.tendSeat(ctx, list.Members); err != nil {
			m.seat.Log.Warn("this node's server of the journal", "error", err)
			return false, err
		}
	}
	attempt, cancel = context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return m.settle(attempt, list.Members)
}

func (m *Members) tendSeat(ctx context.Context, members []*etcdserverpb.Member) error {
	own := m.server()
	switch {
	case own == nil && m.myTurn(members):
		m.vacant = time.Time{} // if this fails, others have their turn first
		return m.take(ctx)
	case own != nil && !slices.ContainsFunc(members, func(there *etcdserverpb.Member) bool { return there.ID == own.id() }):
		return m.leave(own)
	}
	return nil
}

// myTurn reports whether a seat has been free for so long that this node should
// take it.
func (m *Members) myTurn(members []*etcdserverpb.Member) bool {
	count, seated := 0, map[string]bool{}
	for _, there := range members {
		if there.Name == "" && slices.Contains(there.PeerURLs, m.seat.peerURL()) {
			continue // what an earlier try has left
		}
		seated[there.Name] = true
		count++
	}
	if count >= voters {
		m.vacant = time.Time{}
		return false
	}
	if m.vacant.IsZero() {
		m.vacant = time.Now()
	}
	before, ok := m.seat.Turn(seated)
	return ok && time.Since(m.vacant) >= time.Duration(before+1)*m.turn
}

// take starts a server where none is.
func (m *Members) take(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, takePatience)
	defer cancel()
	c := m.seat.Server
	initial, err := m.Admit(ctx, c.Name, strings.TrimPrefix(m.seat.peerURL(), "https://"))
	if err != nil || initial == "" {
		return err
	}
	if err := m.seat.Remember(initial); err != nil {
		return err
	}
	// What a former server left is that of another member.
	if err := os.RemoveAll(c.Dir); err != nil {
		return err
	}
	c.Initial, c.Existing, c.Servers = initial, true, m.client.Endpoints()
	own, err := StartMember(ctx, c)
	if err != nil {
		return err
	}
	m.mu.Lock()
	closed := m.closed
	if !closed {
		m.own = own
	}
	m.mu.Unlock()
	if closed {
		own.Close()
		return nil
	}
	m.seat.Log.Info("this node runs a server of the journal now, because there were too few")
	return nil
}

// takePatience is how long the admission and the start of a server may take.
const takePatience = time.Minute

// leave clears the seat of a server that the others have taken out of the journal.
// That they could say so shows that they have everything it had.
func (m *Members) leave(own *Member) error {
	if !own.close(leavePatience) {
		return errors.New("it was taken out of the journal and does not stop")
	}
	m.mu.Lock()
	m.own = nil
	m.mu.Unlock()
	m.seat.Log.Warn("this node's server was taken out of the journal")
	if err := m.seat.Remember(""); err != nil {
		return err
	}
	return os.RemoveAll(m.seat.Server.Dir)
}

// leavePatience is how long a server that was taken out may take to stop. Its files
// must not go before.
const leavePatience = 30 * time.Second

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
