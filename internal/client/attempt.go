package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"gitcluster/internal/remotehelper"
	"gitcluster/internal/replica"
	nodes "gitcluster/internal/session"
)

// An attempt is what is done with one connection.
type attempt struct {
	candidate replica.Candidate
	last      bool // nobody else is left, so it gets more time
	current   bool // it is to serve only if it needs no update
	beside    bool // another goes on that may be asking a person something; so this one must not
	sign      atomic.Int64
	foreign   bool // it did not know the command to synchronize
}

// alive notes a sign of life.
func (a *attempt) alive() { a.sign.Store(time.Now().UnixNano()) }

// silence is how long ago the last sign of life was.
func (a *attempt) silence() time.Duration { return time.Since(time.Unix(0, a.sign.Load())) }

// errOneCommand: a server that seems not to know cluster-sync ran no second
// command on the same connection, or ended the connection. It is asked for the
// service alone then. That is safe with a node of a cluster, too: the node
// synchronizes before it serves, whether it was asked to or not.
var errOneCommand = errors.New("the server runs one command only")

// attempt has a replica synchronize and starts the service there.
func (c *connector) attempt(ctx context.Context, r *request, conn transport, a *attempt) (*stream, error) {
	a.foreign = !c.Cache.Measure(a.candidate.Addr).Foreign.IsZero()
	asked := conn.Shared() && !r.staleOK && !a.foreign
	found, err := c.tryOnce(ctx, r, conn, a, asked)
	if errors.Is(err, errOneCommand) && !a.current {
		c.trace.say("%v: it runs one command on a connection; connecting again without %s", a.candidate, syncCommand)
		if conn, err = c.dial(ctx, a.candidate, r.options, stages{}); err == nil {
			found, err = c.tryOnce(ctx, r, conn, a, false)
		}
	}
	if asked && a.foreign && (err == nil || errors.Is(err, errNotCurrent)) {
		c.Cache.NoNode(a.candidate.Addr)
	}
	if err == nil && a.foreign {
		if r.options.Verbosity > 1 {
			c.log.say("%v: no node of a cluster, so it was not synchronized first", a.candidate)
		}
	}
	return found, err
}

// tryOnce uses a connection, with or without asking for synchronization. It
// closes the connection if that comes to nothing.
func (c *connector) tryOnce(ctx context.Context, r *request, conn transport, a *attempt, ask bool) (_ *stream, err error) {
	a.alive()
	if p, ok := conn.(*programTransport); ok && a.beside {
		if err := p.askNobody(ctx); err != nil {
			return nil, err
		}
	} else if a.current && !ask && !r.staleOK {
		conn.Close()
		return nil, errNotCurrent // it cannot be asked
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("connection lost")
		}
	}()
	// A dead connection also ends what waits for it, in bounded time whatever
	// the server does.
	context.AfterFunc(ctx, func() { conn.Close() })

	// A fetch is started together with the synchronization, which saves its round
	// trip: a node synchronizes before it serves in any case, and another server
	// has nothing to wait for. A push comes after it, for it may create what it is
	// to be refused. The session at least is opened meanwhile.
	together := ask && r.service == remotehelper.UploadPack
	held := &holder{w: c.log.raw(), quiet: r.options.Verbosity < 1}
	stderr := &sign{w: held, onWrite: a.alive}
	type opened struct {
		session session
		started bool
	}
	opening := make(chan opened, 1)
	go func() {
		var s session
		var err error
		if together {
			s, err = conn.Start(ctx, r.command(), r.environment(), stderr)
		} else {
			s, err = conn.Open(ctx)
		}
		if err != nil {
			s = nil // it is tried again below
		}
		opening <- opened{s, s != nil && together}
	}()
	ours := false
	if ask {
		ours, err = c.sync(ctx, conn, r, a)
		a.foreign = !ours
		if err != nil {
			return nil, err
		}
		if a.current && !ours {
			return nil, errNotCurrent // who knows
		}
	}
	if !a.beside {
		held.release(ours)
	}
	o := <-opening
	if o.session == nil {
		o.session, err = conn.Open(ctx)
	}
	if err == nil && !o.started {
		err = o.session.Start(r.command(), r.environment(), stderr)
	}
	if err != nil {
		if ask && !ours && context.Cause(ctx) == nil {
			return nil, errOneCommand
		}
		return nil, fmt.Errorf("start %s: %w", r.service, err)
	}
	s := newStream(conn, o.session, a.candidate, r.service)
	if r.service.SpeaksFirst() {
		if err := s.awaitAnswer(ctx, stderr, a.alive, c.answerLimit(r, conn, a)); err != nil {
			if a.beside {
				return nil, err // it will tell when its turn comes
			}
			node, refused := held.failed(), (*refusedError)(nil)
			if !ask && node && errors.As(err, &refused) && refused.status == 1 {
				// A node's word that no other can do better, if not in the terms of
				// cluster-sync.
				return nil, &finalError{err}
			}
			return nil, err
		}
	}
	if a.beside {
		held.release(false)
	}
	held.answered()
	c.trace.say("%v: %s has begun to answer", a.candidate, r.service)
	return s, nil
}

// answerLimit bounds the wait for a service that shows no sign of life. A program
// that connects by itself may be waiting for what a person types.
func (c *connector) answerLimit(r *request, conn transport, a *attempt) time.Duration {
	if a.beside && !conn.Shared() {
		return orDefault(c.Limits.Answer, 5*time.Second)
	}
	if a.last || !conn.Shared() && c.account(r.options).person.Reachable() {
		return orDefault(c.Limits.Answer, 60*time.Second)
	}
	return orDefault(c.Limits.Answer, 20*time.Second)
}

// syncLimit is the same for the synchronization, of which a node says every second
// that it goes on. Another server may take its time to say that it knows no such
// command: behind a login that reads many files, on a busy machine.
func (c *connector) syncLimit(r *request, conn transport, a *attempt) time.Duration {
	switch {
	case !isNode(conn):
		return orDefault(c.Limits.Sync, c.answerLimit(r, conn, a))
	case a.last:
		return orDefault(c.Limits.Sync, 15*time.Second)
	}
	return orDefault(c.Limits.Sync, 5*time.Second)
}

// isNode reports whether a node's own server is at the other end. A node may also
// be behind another's.
func isNode(conn transport) bool {
	server, ok := conn.(interface{ ServerVersion() string })
	return ok && strings.HasPrefix(server.ServerVersion(), nodes.ServerVersion)
}
