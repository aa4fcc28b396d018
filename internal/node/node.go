// Package node is the composition of a server: it opens a data directory, reaches
// the journal, and serves.
//
// Entry points: [Init] makes a cluster and [Join] a further node; [Open] brings a
// node to where it could serve and [Node.Serve] serves until its context ends.
//
// It promises that one data directory has one node at a time, that a node never
// serves a journal that is not its cluster's, and that Serve returns only after
// what was acknowledged is finished and every process it started is gone.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/admin"
	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/httpserver"
	"gitcluster/internal/journal"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/metrics"
	"gitcluster/internal/observe"
	"gitcluster/internal/packcache"
	"gitcluster/internal/peer"
	"gitcluster/internal/queue"
	"gitcluster/internal/refcache"
	"gitcluster/internal/repository"
	"gitcluster/internal/service"
	"gitcluster/internal/shell"
	"gitcluster/internal/sshserver"
)

// A Node is an open node.
type Node struct {
	dir      dataDir
	self     *config.Self
	key      key
	log      *slog.Logger
	lock     *os.File
	client   *journal.Client
	journal  *journal.Journal
	members  *journal.Members
	cluster  journal.ClusterRecord
	rules    *rules
	peers    *peer.Peers
	engine   *engine.Engine
	packs    *packcache.Cache
	listings *refcache.Cache
	shell    *shell.Shell
	service  *service.Service
	browser  *browse.Browser
	mirrors  *observe.Observer
	metrics  *metrics.Metrics
	turns    *queue.Queue
	ssh      *sshserver.Server
	sshLn    net.Listener
	http     *httpserver.Server // nil: no HTTPS front
	httpLn   net.Listener
	localLn  *net.UnixListener
	closed   sync.Once

	stopUpkeep func() // ends the upkeep of the journal
}

// Open opens the node of a data directory: it waits for the directory's lock
// and for the journal, and listens. The caller must call Serve or Close.
func Open(ctx context.Context, dir, version string, log *slog.Logger) (*Node, error) {
	n := &Node{dir: dataDir(dir), log: log}
	if err := n.open(ctx, version); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open(ctx context.Context, version string) (err error) {
	if err := checkMachine(ctx); err != nil {
		return err
	}
	if n.self, err = config.LoadSelf(n.dir.config()); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = cluster.WithHint(fmt.Errorf("%s holds no node", n.dir), "`git cluster init` makes a new cluster there, `git cluster join` a further node")
		}
		return err
	}
	n.log = n.log.With("node", n.self.Name)
	if n.lock, err = n.dir.lock(ctx, n.log); err != nil {
		return err
	}
	if n.key, err = n.dir.loadKey(); err != nil {
		return err
	}
	var member *journal.Member
	if member, n.client, err = n.dir.dial(ctx, n.self, false, n.log); err != nil {
		return err
	}
	n.journal = journal.New(n.client)
	if len(n.self.Journal.Endpoints) == 0 {
		n.members = journal.NewMembers(n.client, member, n.dir.path("tls"), n.seat(), n.log)
	}
	if err := n.awaitJournal(ctx); err != nil {
		return err
	}
	n.startUpkeep()
	n.rules = &rules{journal: n.journal, log: n.log, trusted: n.trusted(), self: n.self.Name, removed: make(chan struct{})}
	if _, err := n.rules.Refresh(ctx); err != nil {
		return err
	}
	if _, ok := n.rules.Snapshot().Device(n.self.Name); !ok {
		return n.errRemoved()
	}
	if n.members != nil {
		// One that was issued before such notes were taken could not be revoked.
		if err := n.journal.NoteOwnCertificate(ctx, n.self.Name, n.dir.path("tls")); err != nil {
			n.log.Warn("note this node's certificate", "error", err)
		}
	}
	if err := n.compose(ctx, version); err != nil {
		return err
	}
	if n.sshLn, err = sshserver.Listen(n.self.SSH.Listen); err != nil {
		return err
	}
	if n.self.HTTP != nil {
		if n.httpLn, err = httpserver.Listen(n.self.HTTP.Listen); err != nil {
			return err
		}
	}
	n.advertiseHTTP(ctx)
	n.localLn, err = localsocket.Listen(string(n.dir))
	return err
}

// compose makes the parts of the server, from the bottom up.
func (n *Node) compose(ctx context.Context, version string) error {
	if err := n.dir.installHooks(); err != nil {
		return err
	}
	socket, err := localsocket.Path(string(n.dir))
	if err != nil {
		return err
	}
	runner := &gitexec.Runner{Lock: n.lock}
	n.metrics = metrics.New(version)
	n.journal.Observe = n.metrics.Journal
	n.turns = queue.New(gitProcesses(), maxWaiting)
	store, err := repository.NewStore(n.dir.path("repositories"), runner)
	if err != nil {
		return err
	}
	if err := store.CleanUp(); err != nil {
		return err
	}
	name := n.self.Name
	n.peers = peer.New(name, n.self.Region, n.key.Signer, n.rules.Snapshot)
	if err := n.alone(ctx); err != nil {
		return err
	}
	incarnation, err := n.incarnate(ctx, store)
	if err != nil {
		return err
	}
	n.engine = engine.New(engine.Options{Device: name, Incarnation: incarnation, Journal: n.journal, Store: store, Peers: n.peers, Log: n.log, Drained: n.drained})
	n.listings = refcache.New(refcache.Options{})
	n.packs = packcache.New(packcache.Options{Dir: store.Temp(), Run: runner})
	n.service = service.New(service.Options{Device: name, Engine: n.engine, Journal: n.journal, Directory: n.rules, Run: runner,
		Hooks: n.dir.path("hooks"), Socket: socket, Packs: n.packs, Refs: n.listings, Turns: n.turns, Metrics: n.metrics, Log: n.log})
	n.metrics.Watch(n.load)
	n.browser = browse.New(runner)
	if n.mirrors, err = observe.New(observe.Options{Device: name, Journal: n.journal, Engine: n.engine, Git: runner,
		Dir: n.dir.path("observing"), Network: n.dir.network(os.Getenv), Log: n.log}); err != nil {
		return err
	}
	n.shell = &shell.Shell{Cluster: n.cluster.ID, Device: name, Service: n.service, Engine: n.engine, Rules: n.rules.Snapshot, Log: n.log,
		Conduit: n.newConduit(nil),
		Admin: &admin.Server{Cluster: n.cluster, Device: name, Version: version, Journal: n.journal, Members: n.members,
			Engine: n.engine, Service: n.service, Mirrors: n.mirrors, Rules: n.rules, Nodes: nodes{n.peers}, Lost: n.dir.path("lost"), Log: n.log}}
	n.ssh, err = sshserver.New(sshserver.Options{HostKey: n.key.Signer, Authenticate: n.authenticate, Handler: n.shell,
		JoinHandler: n.admitJoiner, Logger: n.log, Version: version})
	if err != nil || n.self.HTTP == nil {
		return err
	}
	n.http, err = n.composeHTTP()
	return err
}

// nodes is the peers as the administration wants them.
type nodes struct{ *peer.Peers }

func (p nodes) Open(ctx context.Context, on cluster.DeviceName, command string) (admin.Conversation, error) {
	return p.Peers.Open(ctx, on, command)
}

// Serve serves until the context ends, then finishes what was acknowledged and
// refuses the rest. ready is called when everything listens.
func (n *Node) Serve(ctx context.Context, ready func()) error {
	defer n.Close()
	run, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	failed := make(chan error, 8)
	start := func(what string, f func(context.Context) error) {
		go func() {
			if err := f(run); err != nil && run.Err() == nil {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		}()
	}
	var shutOut <-chan struct{}
	if n.members != nil {
		shutOut = n.members.ShutOut()
		start("journal membership", func(ctx context.Context) error {
			n.members.Follow(ctx, n.rememberServers())
			return nil
		})
	}
	start("directory", n.rules.follow)
	start("identity", func(ctx context.Context) error { return n.watchTwin(ctx, n.engine.Incarnation) })
	start("engine", n.engine.Run)
	observing, stopObserving := context.WithCancelCause(run)
	observed := make(chan struct{})
	start("mirrors", func(context.Context) error {
		defer close(observed)
		n.mirrors.Run(observing)
		return nil
	})
	start("ssh", func(ctx context.Context) error { return n.ssh.Serve(ctx, n.sshLn) })
	if n.http != nil {
		start("http", func(ctx context.Context) error { return n.http.Serve(ctx, n.httpLn) })
	}
	local := &localsocket.Server{Sessions: n.shell, Hooks: n.service, Admit: n.admitSession, Logger: n.log}
	start("local socket", func(ctx context.Context) error { return local.Serve(ctx, n.localLn) })
	start("first start", n.takePart)
	n.log.Info("serving", "ssh", n.sshLn.Addr().String(), "http", n.self.HTTPAddress(), "cluster", n.cluster.Name)
	ready()
	var err error
	select {
	case <-ctx.Done():
		n.log.Info("stopping", "cause", context.Cause(ctx).Error())
	case <-n.rules.removed:
		// The cluster must be able to rely on what it removed not serving.
		err = n.errRemoved()
		n.log.Error("stopping", "error", err)
	case <-shutOut:
		// It was removed, and its connections had ended before it could hear of it.
		err = n.errRemoved()
		n.log.Error("stopping", "error", err)
	case err = <-failed:
		n.log.Error("stopping", "error", err)
	}
	// A pull is broken off at once: another node takes it up.
	stopObserving(cluster.ErrStopping)
	// New connections are refused; running commands get a while. The hooks'
	// socket must outlive the pushes that need it.
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	var fronts sync.WaitGroup
	fronts.Go(func() {
		if stopErr := n.ssh.Shutdown(grace); stopErr != nil && !errors.Is(stopErr, context.DeadlineExceeded) {
			n.log.Warn("ssh shutdown", "error", stopErr)
		}
	})
	if n.http != nil {
		fronts.Go(func() {
			if stopErr := n.http.Shutdown(grace); stopErr != nil && !errors.Is(stopErr, context.DeadlineExceeded) {
				n.log.Warn("http shutdown", "error", stopErr)
			}
		})
	}
	fronts.Wait()
	if stopErr := local.Shutdown(grace); stopErr != nil && !errors.Is(stopErr, context.DeadlineExceeded) {
		n.log.Warn("local socket shutdown", "error", stopErr)
	}
	<-observed
	n.engine.Close(grace)
	stop(cluster.ErrStopping)
	return err
}

func (n *Node) errRemoved() error {
	return cluster.WithHint(fmt.Errorf("node %q was removed from the cluster", n.self.Name), "to bring the machine back, `git cluster join` with an empty data directory")
}

// startUpkeep begins the upkeep of the journal. That must not wait until the node
// serves: where the journal is full it cannot start.
func (n *Node) startUpkeep() {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { journal.NewUpkeep(n.journal, n.members, n.log).Run(ctx) })
	if n.members != nil {
		work.Go(func() { n.journal.KeepRevoked(ctx, n.dir.path("tls"), n.log) })
	}
	n.stopUpkeep = func() { cancel(); work.Wait() }
}

// stopGrace is how long running commands may take when the node stops.
const stopGrace = 10 * time.Second

// Close releases everything Open took. Serve does so itself.
func (n *Node) Close() { n.closed.Do(n.close) }

func (n *Node) close() {
	if n.localLn != nil {
		n.localLn.Close()
	}
	if n.sshLn != nil {
		n.sshLn.Close()
	}
	if n.httpLn != nil {
		n.httpLn.Close()
	}
	if n.packs != nil {
		n.packs.Close()
	}
	if n.engine != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		n.engine.Close(ended)
	}
	if n.peers != nil {
		n.peers.Close()
	}
	if n.stopUpkeep != nil {
		n.stopUpkeep()
	}
	if n.client != nil {
		n.client.Close()
	}
	if n.members != nil {
		n.members.Close()
	}
	if n.lock != nil {
		n.lock.Close()
	}
}

// authenticate says who holds a key; one not known yet may have been added a
// moment ago.
func (n *Node) authenticate(ctx context.Context, _ string, key ssh.PublicKey, remote netip.AddrPort) (cluster.Identity, error) {
	id, err := n.rules.Snapshot().Authenticate(key, remote.Addr())
	if err == nil {
		return id, nil
	}
	now, refreshErr := n.rules.refreshForStranger(ctx)
	if refreshErr != nil {
		return id, errors.Join(err, refreshErr)
	}
	return now.Authenticate(key, remote.Addr())
}

// admitSession checks a session that sshd has authenticated: it knows keys, but
// not from where a device may come.
func (n *Node) admitSession(_ context.Context, id cluster.Identity, remote netip.AddrPort) error {
	return n.rules.Snapshot().Admit(id, remote.Addr())
}

// drained reports whether an operator wants this node to take no more writes.
func (n *Node) drained() bool {
	d, ok := n.rules.Snapshot().Device(n.self.Name)
	return ok && !d.Writable
}

func (n *Node) trusted() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range n.cluster.Trusted {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			n.log.Warn("trusted network ignored", "network", text, "error", err)
			continue
		}
		all = append(all, p)
	}
	if n.cluster.Trusted != nil && all == nil {
		return []netip.Prefix{} // only unreadable ones: trust none rather than the default
	}
	return all
}
