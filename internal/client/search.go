package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// A search finds the replica that serves one request. Its methods are for one
// goroutine at a time, except those that make and use one connection.
type search struct {
	configured bool // r has the settings
	*connector
	r       *request
	address address.Address
	all     []replica.Candidate
	left    []replica.Candidate // not tried yet, best first
	race    *race               // the last one; nil after settle
	telling *placedError        // the failure that says most: of a node that answered, if one did
	passed  []passedOver        // better candidates, for the end
	failed  []replica.Candidate // those that failed while aside; they may yet have their turn
	refused []string            // addresses of those that took no key of ours
	slow    map[string]bool     // by address: passed over, so tried after all others
	hurried []replica.Candidate // they had little time to answer, because others were left
	patient bool                // they have another turn, and all the time there is
	limit   time.Duration       // the configuration's sync-wait, if it has one
	// aside is set while one replica is being brought up to date and the others are
	// asked whether they need no update.
	aside bool
}

// errNotCurrent: the replica would have to be brought up to date first.
var errNotCurrent = errors.New("it needs an update, too")

// run goes through the candidates until one serves.
func (s *search) run(ctx context.Context) (*stream, error) {
	for {
		conn, candidate, err := s.reach(ctx)
		if err != nil {
			return nil, err
		}
		if err := s.readSettings(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		hurry := s.hurry()
		found, err := s.serve(ctx, conn, candidate)
		if hurry && errors.Is(err, sshclient.ErrTimeout) {
			s.hurried = append(s.hurried, candidate)
		}
		if err == nil {
			s.settle()
			s.tellPassed(found.replica)
			s.Cache.Served(found.replica.Addr)
			return found, nil
		}
		if err := s.fail(ctx, candidate, err); err != nil {
			return nil, err
		}
	}
}

// readSettings waits for Git's configuration, once: what an earlier attempt has
// started may still read it.
func (s *search) readSettings(ctx context.Context) (err error) {
	if s.configured {
		return nil
	}
	defer func() { s.configured = err == nil }()
	if s.r.settings, err = s.await(ctx); err == nil && !s.r.service.ReadsOnly() {
		s.r.staleOK = false // a push is always made against the newest version
	}
	return err
}

// serve starts the service on a replica, which is brought up to date for that. If
// that takes long the others are asked for one that needs no update, while this
// one goes on: whichever is ready first serves. So the near replica does the
// work that it has to do anyway, and the one that took the last write is not
// overrun by everybody at once.
func (s *search) serve(ctx context.Context, conn transport, candidate replica.Candidate) (*stream, error) {
	a := &attempt{candidate: candidate, last: !s.hurry()}
	a.alive()
	near := branch(ctx, func(ctx context.Context) (*stream, error) { return s.attempt(ctx, s.r, conn, a) })
	if a.last {
		o := <-near.done
		return o.stream, o.err
	}
	wait := s.syncWait()
	if !conn.Shared() {
		wait = max(wait, s.programWait())
	}
	start := time.Now()
	look := time.NewTicker(min(wait, 100*time.Millisecond))
	defer look.Stop()
	waits := func() bool {
		if !conn.Shared() {
			// Who speaks, goes on: the others cannot be asked whether they could do better.
			return a.silence() < wait
		}
		return time.Since(start) < wait && !(isNode(conn) && a.silence() > deadSilence)
	}
	for waits() {
		select {
		case o := <-near.done:
			return o.stream, o.err
		case <-look.C:
		}
	}
	s.trace.say("%v: no service after %s; asking the others", candidate, since(start))
	others := branch(ctx, func(ctx context.Context) (*stream, error) { return s.ask(ctx, !conn.Shared()) })
	select {
	case o := <-near.done:
		if o.err == nil {
			others.abandon()
			return o.stream, nil
		}
		s.trace.say("%v: %v", candidate, o.err)
		other := <-others.done
		if other.err != nil {
			return nil, o.err
		}
		s.lost(candidate, o.err)
		return other.stream, nil
	case other := <-others.done:
		if other.err != nil {
			o := <-near.done
			return o.stream, o.err
		}
		go near.abandon()
		if quiet := a.silence(); quiet > deadSilence {
			s.lost(candidate, noAnswer(quiet))
		} else {
			s.passed = append(s.passed, passedOver{candidate, fmt.Errorf("not up to date within %v", wait)})
		}
		return other.stream, nil
	}
}

// deadSilence is how long a node may be silent that works for its readers: it says so
// every second.
const deadSilence = 2 * time.Second

// A side is one of two ways to a service that are tried at the same time.
type side struct {
	leave context.CancelCauseFunc
	done  chan outcome
}

type outcome struct {
	stream *stream
	err    error
}

// branch runs f. Its context must last as long as the stream that f returns, so it
// ends with ctx, or when the side is abandoned.
func branch(ctx context.Context, f func(context.Context) (*stream, error)) side {
	ctx, leave := context.WithCancelCause(ctx)
	b := side{leave, make(chan outcome, 1)}
	go func() {
		found, err := f(ctx)
		b.done <- outcome{found, err}
	}()
	return b
}

// abandon ends what the side does and waits until it has, which is soon.
func (b side) abandon() {
	b.leave(errLate)
	if o := <-b.done; o.stream != nil {
		o.stream.Close()
	}
}

// ask looks for a replica that can serve without an update. Those that cannot
// stay in s.left. With silent set, the one that goes on is a program that has said
// nothing at all: then another's program is just asked to serve, as long as it needs
// no person. That it fails is not held against a replica.
func (s *search) ask(ctx context.Context, silent bool) (*stream, error) {
	s.aside = true
	var behind []replica.Candidate
	defer func() {
		s.aside = false
		s.putBack(append(behind, s.failed...)...)
		s.failed = nil
	}()
	for {
		conn, candidate, err := s.reach(ctx)
		if err != nil {
			return nil, err
		}
		found, err := s.attempt(ctx, s.r, conn, &attempt{candidate: candidate, current: true, beside: silent && !conn.Shared()})
		switch {
		case err == nil:
			return found, nil
		case context.Cause(ctx) != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, errNotCurrent), silent && !conn.Shared():
			s.trace.say("%v: %v", candidate, err)
			behind = append(behind, candidate)
		default:
			s.fail(ctx, candidate, err)
		}
	}
}

// fail takes note of a candidate that cannot serve. It returns an error if that
// ends the search.
func (s *search) fail(ctx context.Context, candidate replica.Candidate, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	s.trace.say("%v: %v", candidate, err)
	var final *finalError
	switch {
	case s.aside:
		s.lost(candidate, err)
		s.failed = append(s.failed, candidate)
		return nil
	case errors.As(err, &final):
		return final.err
	case errors.Is(err, sshclient.ErrIdentity):
		return err
	}
	alike := errors.Is(err, sshclient.ErrAuth)
	switch refused := (*refusedError)(nil); {
	case alike:
		// The others will most likely say the same. It is told once then, and is no
		// fault of theirs.
		s.refused = append(s.refused, candidate.Addr)
		s.passed = append(s.passed, passedOver{candidate, err})
	case errors.As(err, &refused):
		// It knows no such repository, say: no reason to avoid it for others.
	default:
		s.Cache.Failed(candidate.Addr)
	}
	if s.telling == nil || cluster.Hint(err) != "" || cluster.Hint(s.telling.err) == "" {
		s.telling = &placedError{candidate.String(), err}
	}
	next := s.next()
	if next == nil && s.secondTurn() {
		next = s.next()
	}
	if next == nil {
		return s.nobody()
	}
	if !alike {
		s.tell(passedOver{candidate, err}, "trying "+next.Name)
	}
	return nil
}

// hurry reports whether a replica that has been reached gets little time, because
// others are left.
func (s *search) hurry() bool {
	return !s.patient && (len(s.left) > 0 || len(s.race.running) > 0)
}

// secondTurn has those tried again, and given time, that were reached and then too
// slow: when all are busy at once, somebody who waits is served.
func (s *search) secondTurn() bool {
	if len(s.hurried) == 0 || s.patient {
		return false
	}
	s.patient, s.left, s.hurried = true, s.hurried, nil
	if s.r.options.Verbosity >= 1 {
		s.log.say("no replica has answered in time; waiting longer")
	}
	return true
}

// next is the candidate that is tried now, or will be.
func (s *search) next() *replica.Candidate {
	switch {
	case s.race != nil && len(s.race.running) > 0:
		return &s.race.running[0].candidate
	case len(s.left) > 0:
		return &s.left[0]
	}
	return nil
}

// nobody is the error of a search that has nobody left to try.
func (s *search) nobody() error {
	if s.telling == nil {
		return errors.New("no replica to try")
	}
	telling := plain(s.telling.place, s.telling.err)
	switch len(s.all) {
	case 1:
		return telling
	case len(s.refused):
		return plain(fmt.Sprintf("all %d replicas of %s", len(s.all), s.address), s.telling.err)
	}
	failure := fmt.Errorf("none of %d replicas can serve %s; %w", len(s.all), s.address, telling)
	return cluster.WithHint(failure, cluster.Hint(telling))
}

// lost takes note of a candidate that was passed over because it did not do its
// part, and of which the user shall hear when another serves.
func (s *search) lost(candidate replica.Candidate, err error) {
	s.Cache.Failed(candidate.Addr)
	s.slow[candidate.Addr] = true
	s.passed = append(s.passed, passedOver{candidate, err})
}

// A passedOver is a candidate that does not serve, and why.
type passedOver struct {
	candidate replica.Candidate
	err       error
}

// tell says why a candidate does not serve, and what is done instead. That somebody
// may be listening in between is said to who wants silence, too, and with what to do.
func (s *search) tell(p passedOver, instead string) {
	placed := plain(p.candidate.String(), p.err)
	alarm := errors.Is(p.err, sshclient.ErrHostKeyChanged) || errors.Is(p.err, sshclient.ErrHostKeyRevoked)
	if s.r.options.Verbosity >= 1 || alarm {
		s.log.say("%v; %s", placed, instead)
	}
	if alarm {
		s.log.line("hint: " + cluster.Hint(placed))
	}
}

func (s *search) tellPassed(found replica.Candidate) {
	for _, p := range s.passed {
		if p.candidate.Addr != found.Addr { // it had a second turn
			s.trace.say("%v: %v", p.candidate, p.err)
			s.tell(p, "using "+found.Name)
		}
	}
	for _, addr := range s.refused {
		s.Cache.Failed(addr)
	}
	s.passed, s.refused = nil, nil
}

// putBack returns candidates to their places among those left. What was
// passed over stays behind the others.
func (s *search) putBack(some ...replica.Candidate) {
	s.left = append(s.left, some...)
	place := func(c replica.Candidate) int {
		i := slices.IndexFunc(s.all, func(o replica.Candidate) bool { return o.Addr == c.Addr })
		if s.slow[c.Addr] {
			i += len(s.all)
		}
		return i
	}
	slices.SortStableFunc(s.left, func(a, b replica.Candidate) int { return place(a) - place(b) })
}

// handshakeLimit bounds a login. Where others are left it is short, so that a
// server that stalls costs little; the last one gets more time.
func (s *search) handshakeLimit() time.Duration {
	if s.Limits.Handshake > 0 {
		return s.Limits.Handshake
	}
	if !s.patient && (len(s.left) > 0 || len(s.race.running) > 1) {
		return 3 * time.Second
	}
	return 10 * time.Second
}

// syncWait is how long a replica may take for its update before others are asked.
func (s *search) syncWait() time.Duration {
	return orDefault(s.Limits.SyncWait, orDefault(s.limit, 3*time.Second))
}

// programWait is the least time that a program may be silent, which has to start and
// to log in by itself.
func (s *search) programWait() time.Duration { return orDefault(s.Limits.SyncWait, 3*time.Second) }

// noAnswer is the error of a server that has been silent for so long.
func noAnswer(d time.Duration) error {
	if d > time.Second {
		d = d.Round(100 * time.Millisecond)
	} else {
		d = d.Round(time.Millisecond)
	}
	return fmt.Errorf("%w for %v", sshclient.ErrTimeout, d)
}
