package journal

import (
	"context"
	"errors"
	"fmt"
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
	// of those that have one. A node that must not have one, as it may have been removed
	// a moment ago, is not ok.
	Turn func(ctx context.Context, seated map[string]bool) (before int, ok bool)
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
	said := ""
	for wait := time.Duration(0); pause(ctx, wait) == nil; {
		wait = 2 * time.Second
		settled, err := m.tend(ctx)
		if err != nil || !settled {
			wait = 200 * time.Millisecond
		}
		if errors.Is(err, errSilent) && m.door.Closed(ctx, m.client.Endpoints(), m.tls) {
			m.once.Do(func() { close(m.shutOut) })
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		if now != said && now != "" && ctx.Err() == nil {
			m.log.Info("the journal's servers are not as they should be yet", "error", now)
		}
		said = now
	}
}

// errSilent: nobody says what servers there are.
var errSilent = errors.New("no list of them")

func (m *Members) tend(ctx context.Context) (settled bool, err error) {
	attempt, cancel := context.WithTimeout(ctx, callTimeout)
	list, err := m.client.MemberList(attempt)
	cancel()
	if err != nil {
		return false, fmt.Errorf("%w: %w", errSilent, unavailable(err))
	}
	if m.seat != nil {
		if err := m.tendSeat(ctx, list.Members); err != nil {
			return false, fmt.Errorf("this node's own: %w", err)
		}
	}
	attempt, cancel = context.WithTimeout(ctx, callTimeout)
	defer cancel()
	settled, err = m.settle(attempt, list.Members)
	return settled, errors.Join(err, m.judge(ctx, list.Members))
}

func (m *Members) tendSeat(ctx context.Context, members []*etcdserverpb.Member) error {
	m.mu.Lock()
	own, closed := m.own, m.closed
	m.mu.Unlock()
	if closed {
		return nil
	}
	if own == nil {
		if given, err := m.giveUp(ctx, members); given || err != nil {
			return err
		}
		if !m.myTurn(ctx, members) {
			return nil
		}
		m.vacant = time.Time{} // if this fails, others have their turn first
		return m.take(ctx)
	}
	for _, there := range members {
		if there.ID == own.id() {
			m.named = m.named || there.Name != ""
			return nil
		}
	}
	return m.leave(own)
}

// standBack is how long a node lets others go first whose server could not start, or
// was taken out before it had taken part: the next try would most likely end the same.
const standBack = 30 * time.Minute

// myTurn reports whether a seat has been free for so long that this node should
// take it.
func (m *Members) myTurn(ctx context.Context, members []*etcdserverpb.Member) bool {
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
	if time.Now().Before(m.behind) {
		return false
	}
	before, ok := m.seat.Turn(ctx, seated)
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
	if err := c.clear(); err != nil {
		return err
	}
	c.Initial, c.Existing, c.Servers = initial, true, m.client.Endpoints()
	own, err := StartMember(ctx, c)
	if err != nil {
		m.behind = time.Now().Add(standBack)
		return errors.Join(err, m.seat.Remember(""), m.withdraw(ctx))
	}
	m.named = false
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
	m.log.Info("this node runs a server of the journal now, because there were too few")
	return nil
}

// withdraw gives up the place of a server that did not start.
func (m *Members) withdraw(ctx context.Context) error {
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return unavailable(err)
	}
	for _, there := range list.Members {
		if there.Name == "" && slices.Contains(there.PeerURLs, m.seat.peerURL()) {
			return m.dismiss(ctx, there.ID)
		}
	}
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
	if !m.named {
		m.behind = time.Now().Add(standBack)
	}
	m.log.Warn("this node's server was taken out of the journal")
	if err := m.seat.Remember(""); err != nil {
		return err
	}
	if err := m.seat.Server.clear(); err != nil {
		return err
	}
	if marked, err := m.seat.Server.marked(); err != nil || marked != own.id() {
		return err
	}
	return m.seat.Server.unmark()
}

// leavePatience is how long a server that was taken out may take to stop. Its files
// must not go before.
const leavePatience = 30 * time.Second
