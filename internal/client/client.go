// Package client is the remote helper `git-remote-cluster`: it turns the address
// Git was given into a replica, has that replica synchronize, and starts the
// service Git asked for there.
//
// Entry point: [Run].
//
// It promises to try the replicas one by one, each stage in bounded time, until
// one has begun to answer; to move on only where that is safe, which is until
// the first byte has reached Git; to treat what a replica of the cluster calls
// final as final; and to be silent unless something is worth saying. A server
// that is not of a cluster is used as any SSH server is.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient"
)

// Params is what the program gives to Run.
type Params struct {
	Args   []string // after the program's name: the remote's name and its address
	In     io.Reader
	Out    io.Writer
	Err    io.Writer
	Getenv func(string) string
	// GitConfig runs `git config` with these arguments where Git runs us and
	// returns what it prints. It runs while the first replica is dialed.
	GitConfig func(ctx context.Context, args ...string) ([]byte, error)
	Limits    Limits
}

// Limits bounds the stages of trying a replica. Zero values mean the defaults.
type Limits struct {
	Connect   time.Duration // 5 s to connect
	Handshake time.Duration // 10 s for key exchange and authentication
	Sync      time.Duration // 15 s between two signs of life while it synchronizes
	Answer    time.Duration // 60 s between two signs of life until the service answers
}

// Program is how the helper names itself on standard error.
const Program = "git-remote-cluster"

// keepAlive finds a server that has vanished without a word. A pack may take a
// server minutes to prepare in silence, so it has to be asked.
const keepAlive = 20 * time.Second

// Run serves Git until it has what it asked for. It returns soon after the
// context has ended.
func Run(ctx context.Context, p Params) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &lineWriter{w: p.Err}
	c := &connector{Params: p, log: out, settings: make(chan settings, 1)}
	go func() { c.settings <- readSettings(ctx, p.GitConfig) }()
	return remotehelper.Serve(ctx, p.In, p.Out, c)
}

// A connector is the remotehelper.Connector of one run.
type connector struct {
	Params
	log      *lineWriter
	settings chan settings // gets one value
}

// A request is what Git asked for, and where its answer may come from.
type request struct {
	service remotehelper.Service
	options remotehelper.Options
	path    string
	settings
}

// Connect tries the replicas in order.
func (c *connector) Connect(ctx context.Context, service remotehelper.Service, o remotehelper.Options) (remotehelper.Stream, error) {
	addr, err := address.FromArgs(c.Args)
	if err != nil {
		return nil, err
	}
	candidates, err := c.candidates(addr)
	if err != nil {
		return nil, err
	}
	r := request{service: service, options: o, path: addr.Path}
	var telling error // the failure that says most: of a node that answered, if one did
	for i, candidate := range candidates {
		stream, err := c.try(ctx, candidate, &r)
		if err == nil {
			return stream, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		var final *finalError
		switch {
		case errors.As(err, &final):
			return nil, final.err
		case errors.Is(err, sshclient.ErrIdentity):
			return nil, err
		case len(candidates) == 1:
			return nil, plain(candidate.String(), err)
		}
		placed := plain(candidate.String(), err)
		if telling == nil || cluster.Hint(err) != "" || cluster.Hint(telling) == "" {
			telling = placed
		}
		if i+1 == len(candidates) {
			failure := fmt.Errorf("none of %d replicas can serve %s; %w", len(candidates), addr, telling)
			return nil, cluster.WithHint(failure, cluster.Hint(telling))
		}
		if o.Verbosity >= 1 {
			c.log.say("%v; trying %s", placed, candidates[i+1].Name)
		}
	}
	return nil, errors.New("no replica to try")
}

func (c *connector) candidates(addr address.Address) ([]replica.Candidate, error) {
	conf, err := config.LoadClient(config.ClientPath())
	if errors.Is(err, os.ErrNotExist) && addr.Hosts != nil {
		err = nil // an address with hosts needs no configuration
	}
	if err != nil {
		return nil, err
	}
	return replica.Candidates(addr, conf, c.Getenv(replica.EnvReplica))
}

// try starts the service on one replica.
func (c *connector) try(ctx context.Context, candidate replica.Candidate, r *request) (remotehelper.Stream, error) {
	stream, err := c.attempt(ctx, candidate, r, true)
	if errors.Is(err, errOneCommand) {
		stream, err = c.attempt(ctx, candidate, r, false)
	}
	return stream, err
}

// errOneCommand: a server that seems not to know cluster-sync ran no second
// command on the same connection, or ended the connection. It is asked for the
// service alone then. That is safe with a node of a cluster, too: the node
// synchronizes before it serves, whether it was asked to or not.
var errOneCommand = errors.New("the server runs one command only")

func (c *connector) attempt(ctx context.Context, candidate replica.Candidate, r *request, mayAsk bool) (_ remotehelper.Stream, err error) {
	conn, err := c.dial(ctx, candidate, r.options)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	// A dead connection also ends what waits for it, in bounded time whatever
	// the server does.
	context.AfterFunc(ctx, func() { conn.Close() })
	if err := c.await(ctx, r); err != nil {
		return nil, err
	}

	// The service's session is opened while the replica synchronizes.
	opened := make(chan *sshclient.Session, 1)
	go func() {
		s, _ := conn.Open(ctx) // tried again below
		opened <- s
	}()
	ours := false
	if mayAsk && !r.staleOK {
		if ours, err = c.sync(ctx, conn, r); err != nil {
			return nil, err
		}
	}
	session := <-opened
	if session == nil {
		session, err = conn.Open(ctx)
	}
	stderr := &sign{w: c.log.raw()}
	if err == nil {
		err = session.Start(r.command(), r.environment(), stderr)
	}
	if err != nil {
		if mayAsk && !r.staleOK && !ours && context.Cause(ctx) == nil {
			return nil, errOneCommand
		}
		return nil, fmt.Errorf("start %s: %w", r.service, err)
	}
	s := newStream(conn, session, candidate)
	if r.service.SpeaksFirst() {
		if err := s.awaitAnswer(ctx, r.service, stderr, orDefault(c.Limits.Answer, 60*time.Second)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (c *connector) dial(ctx context.Context, candidate replica.Candidate, o remotehelper.Options) (*sshclient.Conn, error) {
	opts, err := options(ctx, candidate, c.Getenv)
	if err != nil {
		return nil, err
	}
	opts.ConnectTimeout, opts.HandshakeTimeout = c.Limits.Connect, c.Limits.Handshake
	switch o.Family {
	case "ipv4":
		opts.Network = "tcp4"
	case "ipv6":
		opts.Network = "tcp6"
	}
	return sshclient.Dial(ctx, opts)
}

// await waits for Git's configuration, which is read once.
func (c *connector) await(ctx context.Context, r *request) error {
	select {
	case s := <-c.settings:
		c.settings <- s
		r.settings = s
		if !r.service.ReadsOnly() {
			r.staleOK = false // a push is always made against the newest version
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// plain puts the place before an error. A server's own words may be in it, so
// nothing that acts on a terminal is kept.
func plain(place string, err error) error {
	placed := &placedError{place, err}
	if hint := cluster.Hint(err); hint != "" {
		return cluster.WithHint(placed, printable(hint))
	}
	return placed
}

type placedError struct {
	place string
	err   error
}

func (e *placedError) Error() string { return e.place + ": " + printable(e.err.Error()) }
func (e *placedError) Unwrap() error { return e.err }

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
