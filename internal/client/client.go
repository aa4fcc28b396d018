// Package client is the remote helper `git-remote-cluster`: it turns the address
// Git was given into a replica, has that replica synchronize, and starts the
// service Git asked for there.
//
// Entry points: [Run]; [Replicas] only says where it would go, and why.
//
// It promises to try the replicas, the best first and each stage in bounded time,
// until one has begun to answer; to move on only where that is safe, which is
// until the first byte has reached Git; to log in to one at a time; to treat what a
// replica of the cluster calls final as final; and to be silent unless something
// is worth saying. A server that is not of a cluster is used as any SSH server is.
package client

import (
	"context"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"gitcluster/internal/address"
	"gitcluster/internal/cluster"
	"gitcluster/internal/nodecache"
	"gitcluster/internal/remotehelper"
)

// Params is what the program gives to Run.
type Params struct {
	Args   []string // after the program's name: the remote's name and its address
	In     io.Reader
	Out    io.Writer
	Err    io.Writer
	Getenv func(string) string
	// Watch gives a context that ends when somebody wants us to end, as
	// [signal.NotifyContext] does. It is called when Git has its first answer: until
	// then the system ends the process, and nothing has to be tidied up. May be nil.
	Watch func(context.Context) (context.Context, context.CancelFunc)
	// GitConfig runs `git config` with these arguments where Git runs us and
	// returns what it prints. It runs while the first replica is dialed.
	GitConfig func(ctx context.Context, args ...string) ([]byte, error)
	// Config is the client's file; "" for the usual one.
	Config string
	// Cache is what earlier runs have seen of the replicas. May be nil.
	Cache *nodecache.Cache
	// LookupSRV asks the DNS, as [net.Resolver.LookupSRV] does. May be nil.
	LookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	Limits    Limits
}

// Limits bounds the stages of trying a replica. Zero values mean the defaults.
type Limits struct {
	Connect   time.Duration // 5 s to connect
	Handshake time.Duration // 3 s for the key exchange, and again for the login; 10 s for the last replica
	Sync      time.Duration // 5 s between two signs of life while it synchronizes; 15 s for the last
	SyncWait  time.Duration // 3 s for the update of one before others are asked; it goes before the configuration
	Answer    time.Duration // 20 s between two signs of life until the service answers; 60 s for the last
	Alone     time.Duration // 50 ms to connect, then 500 ms for the key exchange, until the next replica is tried beside the first
}

// Program is how the helper names itself on standard error.
const Program = "git-remote-cluster"

// keepAlive finds a server that has vanished without a word, after three
// questions. A pack may take a server minutes to prepare in silence, so it has to be
// asked.
const keepAlive = 5 * time.Second

// Run serves Git until it has what it asked for. It returns soon after the
// context has ended.
func Run(ctx context.Context, p Params) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &lineWriter{w: p.Err}
	c := &connector{Params: p, log: out, trace: newTracer(p.Getenv(EnvTrace), out.raw()), settings: make(chan settings, 1)}
	unwatch := func() {}
	defer func() { unwatch() }()
	c.prepare = func() {
		if p.Watch != nil {
			var watched context.Context
			watched, unwatch = p.Watch(ctx)
			context.AfterFunc(watched, func() { cancel(context.Cause(watched)) })
		}
		if nothingSet(p.Getenv) {
			c.settings <- defaultSettings
			return
		}
		go func() { c.settings <- readSettings(ctx, p.GitConfig) }()
	}
	err := remotehelper.Serve(ctx, p.In, p.Out, c)
	c.Cache.Save()
	c.traceEnd(err)
	return err
}

// traceEnd sums up.
func (c *connector) traceEnd(err error) {
	if c.found == nil {
		return
	}
	trips := "an unknown number of"
	if counted, ok := c.found.conn.(interface{ RoundTrips() int }); ok {
		trips = strconv.Itoa(counted.RoundTrips())
	}
	c.trace.say("%v: end after %s round trips, error %v", c.found.replica, trips, err)
}

// A connector is the remotehelper.Connector of one run.
type connector struct {
	Params
	log      *lineWriter
	trace    *tracer
	prepare  func()
	settings chan settings // gets one value
	found    *stream       // what Connect returned last

	once sync.Once
	own  *account // what account returns
}

// A request is what Git asked for, and where its answer may come from.
type request struct {
	service remotehelper.Service
	options remotehelper.Options
	path    string
	settings
}

// Prepare begins what is needed whichever replica serves.
func (c *connector) Prepare() { c.prepare() }

// Connect finds the replica that serves.
func (c *connector) Connect(ctx context.Context, service remotehelper.Service, o remotehelper.Options) (remotehelper.Stream, error) {
	addr, err := address.FromArgs(c.Args)
	if err != nil {
		return nil, err
	}
	s := &search{connector: c, r: &request{service: service, options: o, path: addr.Path}, address: addr, slow: map[string]bool{}}
	if s.all, s.limit, err = c.candidates(ctx, addr); err != nil {
		return nil, err
	}
	s.left = slices.Clone(s.all)
	found, err := s.run(ctx)
	c.Cache.Save() // a long fetch must not keep from others what has failed
	if err != nil {
		return nil, err
	}
	c.found = found
	c.probe(ctx, found, s.all, o)
	return found, nil
}

// await waits for Git's configuration, which is read once.
func (c *connector) await(ctx context.Context) (settings, error) {
	select {
	case s := <-c.settings:
		c.settings <- s
		return s, nil
	case <-ctx.Done():
		return settings{}, context.Cause(ctx)
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
