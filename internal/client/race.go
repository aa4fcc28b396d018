package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// Connections are raced up to the moment at which a server has proved that it
// holds a host key: by then it has shown that it lives, and nothing has been
// asked of a person. The first to get there takes the race's token and alone
// goes on to log in, so that a key is touched and a passphrase asked for once.
// Whoever comes while another holds the token waits for what becomes of that one.

// How long the newest runner may take before the next is started beside it.
const (
	// connectFloor is for a TCP connection. A server of which it is known how long
	// it takes to its first word, which is about twice that, gets so long.
	connectFloor = 50 * time.Millisecond
	// keyFloor is for the key exchange after that: two round trips, and work
	// that a busy machine does late.
	keyFloor = 500 * time.Millisecond
	// laterRunner is for every runner but the first: a network on which two do
	// not answer is not helped by a dozen connections.
	laterRunner = time.Second
)

// stages is what the caller of dial wants to hear of a connection that is being
// made, and to decide.
type stages struct {
	handshake time.Duration                   // bounds the key exchange and, again, the login; 0: the default
	connected func(took time.Duration)        // may be nil
	heard     func(took time.Duration)        // the server's first word; may be nil
	proceed   func(ctx context.Context) error // called before anything is asked of a person; may be nil
}

// errLate is what a runner ends with when another has won.
var errLate = errors.New("another replica answered first")

// A race is one round of connections.
type race struct {
	token   chan struct{} // has one place, for the runner that logs in
	won     chan struct{} // closed when one has logged in
	results chan *runner
	noted   chan struct{} // a runner's due has changed
	running []*runner     // in the order in which they were started
	winner  *runner
}

// A runner is one connection that is being made.
type runner struct {
	candidate replica.Candidate
	place     int // in the order of starting
	cancel    context.CancelCauseFunc
	started   time.Time
	hurried   bool        // it has little time
	connected atomic.Bool // there is a TCP connection

	mu  sync.Mutex
	due time.Time // when to start the next one

	// The result, read after it came:
	conn  transport
	err   error
	holds bool // the token
	late  bool // it had a host key to show, but another had won
}

// reach connects and logs in to the best candidate that answers, which it takes
// off s.left together with those that fail; s.fail has a say on each of these.
func (s *search) reach(ctx context.Context) (transport, replica.Candidate, error) {
	s.settle()
	r := &race{token: make(chan struct{}, 1), won: make(chan struct{}), results: make(chan *runner, len(s.left)), noted: make(chan struct{}, len(s.left))}
	s.race = r
	for {
		if len(r.running) == 0 && len(s.left) == 0 {
			return nil, replica.Candidate{}, s.nobody()
		}
		var next <-chan time.Time
		if len(s.left) > 0 && len(r.token) == 0 { // else it is being logged in
			if len(r.running) == 0 || !time.Now().Before(r.due()) {
				s.start(ctx, r)
			}
			next = time.After(time.Until(r.due()))
		}
		select {
		case <-ctx.Done():
			s.drop()
			return nil, replica.Candidate{}, context.Cause(ctx)
		case <-next:
		case <-r.noted:
		case run := <-r.results:
			r.remove(run)
			if run.err == nil {
				close(r.won)
				r.winner = run
				s.trace.say("%v: logged in after %s", run.candidate, since(run.started))
				return run.conn, run.candidate, nil
			}
			run.cancel(nil)
			if run.holds {
				<-r.token
			}
			if run.hurried && run.connected.Load() && errors.Is(run.err, sshclient.ErrTimeout) {
				s.hurried = append(s.hurried, run.candidate)
			}
			if err := s.fail(ctx, run.candidate, run.err); err != nil {
				s.drop()
				return nil, replica.Candidate{}, err
			}
			if len(s.left) > 0 && len(r.token) == 0 {
				s.start(ctx, r)
			}
		}
	}
}

// start lets the best candidate that is left run.
func (s *search) start(ctx context.Context, r *race) {
	candidate := s.left[0]
	s.left = s.left[1:]
	ctx, cancel := context.WithCancelCause(ctx)
	first := len(r.running) == 0
	run := &runner{candidate: candidate, cancel: cancel, started: time.Now()}
	run.due = run.started.Add(laterRunner)
	if first {
		run.due = run.started.Add(max(orDefault(s.Limits.Alone, connectFloor), candidate.Answers))
	} else {
		run.place = r.running[len(r.running)-1].place + 1
	}
	r.running = append(r.running, run)
	run.hurried = !s.patient && (len(s.left) > 0 || len(r.running) > 1)
	s.trace.say("%v: connecting (%s)", candidate, candidate.Why(run.started))
	st := stages{
		handshake: s.handshakeLimit(),
		connected: func(took time.Duration) {
			run.connected.Store(true)
			s.trace.say("%v: connected in %s", candidate, milliseconds(took))
			if first {
				run.setDue(time.Now().Add(max(orDefault(s.Limits.Alone, keyFloor), 8*took)))
				r.noted <- struct{}{}
			}
		},
		heard: func(took time.Duration) {
			s.trace.say("%v: answered after %s", candidate, milliseconds(took))
			s.Cache.Heard(candidate.Addr, took)
		},
		proceed: func(ctx context.Context) error {
			select {
			case r.token <- struct{}{}:
				run.holds = true
				s.trace.say("%v: has shown its host key after %s", candidate, since(run.started))
				return nil
			case <-r.won: // whose token is never given back
				run.late = true
				return errLate
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
	}
	go func() {
		run.conn, run.err = s.dial(ctx, candidate, s.r.options, st)
		if final := (*finalError)(nil); candidate.Learned() && errors.As(run.err, &final) {
			// That there is, say, no identity for a host the user has not named does
			// not speak for the others.
			run.err = final.err
		}
		r.results <- run
	}()
}

// settle ends what a race has left behind that one has won. A better candidate
// that has not even shown a host key by now, when the other has long logged in,
// counts as failed; one that came late is as good as before. All go back to
// s.left.
func (s *search) settle() {
	r := s.race
	if s.race = nil; r == nil || r.winner == nil {
		return
	}
	for done := true; done; {
		select {
		case run := <-r.results:
			r.remove(run)
			run.cancel(nil)
			if run.conn != nil {
				run.conn.Close()
			}
			if !run.late && run.err != nil {
				s.lost(run.candidate, run.err)
			}
			s.putBack(run.candidate)
		default:
			done = false
		}
	}
	for _, run := range r.running {
		run.cancel(errLate)
		if run.place < r.winner.place {
			s.lost(run.candidate, noAnswer(time.Since(run.started)))
		}
		s.putBack(run.candidate)
	}
	go r.close(len(r.running))
}

// drop ends a race that nobody shall win.
func (s *search) drop() {
	r := s.race
	s.race = nil
	for _, run := range r.running {
		run.cancel(errLate)
	}
	go r.close(len(r.running))
}

// close closes what the last n runners may still have opened.
func (r *race) close(n int) {
	for range n {
		if run := <-r.results; run.conn != nil {
			run.conn.Close()
		}
	}
}

func (r *race) remove(run *runner) {
	r.running = slices.DeleteFunc(r.running, func(other *runner) bool { return other == run })
}

// due is when the next is to be started.
func (r *race) due() time.Time {
	newest := r.running[len(r.running)-1]
	newest.mu.Lock()
	defer newest.mu.Unlock()
	return newest.due
}

func (run *runner) setDue(t time.Time) {
	run.mu.Lock()
	defer run.mu.Unlock()
	run.due = t
}
