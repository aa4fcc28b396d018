package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"gitcluster/e2e/faults/disk"
	"gitcluster/e2e/faults/failpoint"
	"gitcluster/internal/admin"
	"gitcluster/internal/clustertest"
	"gitcluster/internal/journal"
)

// Settings are what a run is made of.
type Settings struct {
	Seed    uint64
	For     time.Duration // how long clients work and faults happen
	Clients int
	Repos   int
	Plan
	// Settle is how long nodes may take, once nothing goes wrong any more, until
	// all show the newest version of everything; 0 means a minute.
	Settle time.Duration
	// Hasty ends the work as soon as something is found.
	Hasty bool
	// Links has every node on a network of its own; the program must be enclosed.
	Links bool
	// Bin is a folder with programs made by build, and Deep says that they are with the
	// deep patches.
	Bin  string
	Deep bool
	// Dir is where the run leaves its log, and the nodes'.
	Dir string
}

// A Plan says what clients and faults are like.
type Plan struct {
	// Only lists kinds of faults, and Points and Actions what those called "step" are
	// made of; none means all.
	Only, Points, Actions []string
	// Looks is of how many pushes in a hundred the disks are looked at in the moment
	// of their "ok".
	Looks int
	// Upkeep is how many operations in a hundred have nodes gather packs and refs, and
	// remove what no ref has reached for as long as Unreached.
	Upkeep    int
	Unreached time.Duration
	// Leftovers is how many pushes in a hundred rely on what no ref may reach.
	Leftovers int
	// Aim has clients do nothing but add to a branch, if it is not mixed.
	Aim aim
	// Reads is how many operations in a hundred change nothing.
	Reads int
	// Pause is the longest time from the beginning of a fault to that of the next.
	Pause time.Duration
	// Longer is how much longer faults last than usual, and then one at a time; 0 is
	// as usual.
	Longer int
}

// An aim is what pushes change.
type aim int

const (
	mixed aim = iota
	hot       // one branch of all clients
	apart     // of each client its own
)

// usual is the plan of a run that is to find whatever there is.
var usual = Plan{Looks: 20, Upkeep: 4, Unreached: 10 * time.Second, Leftovers: 12, Reads: 50, Pause: 4 * time.Second}

// A Summary is what came of a run.
type Summary struct {
	Settings
	Operations, Faults             int
	Acknowledged, Refused, Unknown int           // changes of refs
	Alive, Cut                     int           // looks whether nodes serve, and operations that had no end when the client gave up
	Slowest                        time.Duration // of those looks
	Lost                           int           // acknowledged changes that are not in the journal
	Anomalies                      []string
	Took                           time.Duration // from the start of the work to the end of all comparisons
}

func (s Summary) String() string {
	return fmt.Sprintf("seed %d: %d operations, %d faults, %d acknowledged, %d refused, %d unclear, %d cut off after %v, %d looks who serves (the slowest %v), %d lost, %d anomalies",
		s.Seed, s.Operations, s.Faults, s.Acknowledged, s.Refused, s.Unknown, s.Cut, operationLimit, s.Alive, s.Slowest.Round(time.Millisecond), s.Lost, len(s.Anomalies))
}

// found is the first anomalies: one cause often has many.
func (s Summary) found() string {
	const most = 10
	text := strings.Join(s.Anomalies[:min(most, len(s.Anomalies))], "\n")
	if rest := len(s.Anomalies) - most; rest > 0 {
		text += fmt.Sprintf("\n… and %d more, which are in the log", rest)
	}
	return text
}

// Run lets clients work on a cluster in which things go wrong, and then looks whether
// every promise was kept. The error is of the run itself; what it found is in the
// summary.
func Run(ctx context.Context, s Settings) (sum Summary, err error) {
	if s.Settle == 0 {
		s.Settle = time.Minute
	}
	sum.Settings = s
	log, err := os.Create(filepath.Join(s.Dir, "events.jsonl"))
	if err != nil {
		return sum, err
	}
	defer log.Close()
	r := &run{Settings: s, history: &history{start: time.Now(), unreached: s.Unreached, log: log}}
	r.clients, r.stopClients = context.WithCancel(ctx)
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.open(ctx); err != nil {
		return sum, err
	}
	if err := r.work(ctx); err != nil {
		return sum, err
	}
	r.settle(ctx)
	if ctx.Err() != nil {
		return sum, context.Cause(ctx)
	}
	r.check(ctx, &sum)
	sum.Anomalies, sum.Took = r.history.anomalies, r.history.now()
	return sum, nil
}

// A run is the state of Run.
type run struct {
	Settings
	history  *history
	cluster  *clustertest.Cluster
	links    *clustertest.Links
	journal  *journal.Client
	recorder *recorder
	repos    []string
	ids      map[string]string // of the repositories
	sshds    map[string]string // by node: the name of the sshd before it; nil where there are none
	browser  *http.Client
	branches []string          // that clients use
	disk     string            // a small one with the third node's replicas, or ""
	states   map[string]string // by node: what its disk remembers
	folder   string            // of the clients

	clients     context.Context // ends with what clients do
	stopClients context.CancelFunc
	living      sync.WaitGroup
	last        map[string]holding // by repository, when the faults were not yet healed
}

// open starts the cluster.
func (r *run) open(ctx context.Context) (err error) {
	if r.folder, err = os.MkdirTemp("", "gc-work-"); err != nil {
		return err
	}
	settings := []clustertest.Setting{clustertest.Built(r.Bin)}
	if r.Links {
		if r.links, err = clustertest.NewLinks(); err != nil {
			return err
		}
		settings = append(settings, clustertest.On(r.links))
	}
	if r.cluster, err = clustertest.New(3, settings...); err != nil {
		return err
	}
	for _, n := range r.cluster.Nodes {
		n.Env = append(n.Env, failpoint.Env+"="+armed(n), failpoint.EnvUnreached+"="+r.Unreached.String())
		if r.Deep {
			n.Env = append(n.Env, envClock+"="+clock(n))
			if err := setClock(n, 0); err != nil {
				return err
			}
		}
		n.Kill()
		if r.Links && n == r.cluster.Nodes[2] {
			if err := r.smallDisk(n); err != nil {
				return err
			}
		}
		if err := r.remember(n); err != nil {
			return err
		}
	}
	for _, n := range r.cluster.Nodes {
		if err := n.Launch(); err != nil {
			return err
		}
	}
	for _, n := range r.cluster.Nodes {
		if err := n.AwaitReady(startLimit); err != nil {
			return err
		}
	}
	r.ids = map[string]string{}
	for i := range r.Repos {
		if err := r.create(fmt.Sprintf("faults/r%d", i)); err != nil {
			return err
		}
	}
	if r.journal, err = r.cluster.OpenJournal(); err != nil {
		return err
	}
	r.recorder = newRecorder(journal.New(r.journal))
	return r.openFronts()
}

// openFronts starts what stands before the nodes.
func (r *run) openFronts() (err error) {
	for _, n := range r.cluster.Nodes {
		f, err := r.cluster.StartOpenSSH(n)
		if errors.Is(err, clustertest.ErrNoOpenSSH) {
			r.history.note("%v", err)
			break
		}
		if err != nil {
			return err
		}
		if r.sshds == nil {
			r.sshds = map[string]string{}
		}
		r.sshds[n.Name] = f.Name
	}
	for _, ref := range sharedRefs {
		if strings.HasPrefix(ref, "refs/heads/") {
			r.branches = append(r.branches, ref)
		}
	}
	for i := range r.Clients + 1 { // the last is the one that looks who serves
		r.branches = append(r.branches, ownRef(i))
	}
	r.browser, err = r.cluster.Browser()
	return err
}

func (r *run) create(repo string) error {
	at := []string{repo, "--data", r.cluster.Nodes[0].Data}
	if err := r.cluster.Admin.Run("", append([]string{"git-cluster", "repo", "create"}, at...)...).Err(); err != nil {
		return err
	}
	res := r.cluster.Admin.Run("", append([]string{"git-cluster", "repo", "show", "--json"}, at...)...)
	if err := res.Err(); err != nil {
		return err
	}
	var view admin.RepoView
	if err := json.Unmarshal([]byte(res.Stdout), &view); err != nil {
		return err
	}
	r.repos, r.ids[repo] = append(r.repos, repo), string(view.ID)
	return nil
}

// smallDisk puts a node's replicas on a disk that can be filled.
func (r *run) smallDisk(n *clustertest.Node) error {
	r.disk = n.Data + ".disk"
	return r.cluster.Admin.Run("", "sh", "-c", `mkdir "$1" && mount -t tmpfs -o size=400m tmpfs "$1" && mv "$2" "$1/" && ln -s "$1/repositories" "$2"`,
		"sh", r.disk, filepath.Join(n.Data, "repositories")).Err()
}

// remember has the disk of a node that is down know from now on what was synced, if
// there is a library for its Git processes.
func (r *run) remember(n *clustertest.Node) error {
	if _, err := os.Stat(library(r.Bin)); err != nil {
		return nil
	}
	replicas, err := filepath.EvalSymlinks(filepath.Join(n.Data, "repositories"))
	if err != nil {
		return err
	}
	state := filepath.Join(filepath.Dir(replicas), "fault-disk")
	if r.states == nil {
		r.states = map[string]string{}
	}
	r.states[n.Name] = state
	n.Env = append(n.Env, disk.EnvState+"="+state, disk.EnvLibrary+"="+library(r.Bin))
	return errors.Join(awaitWriters(n), disk.Trust(state))
}

// has is what this machine can do.
func (r *run) has() []means {
	all := []means{nothing}
	if r.Links {
		all = append(all, links)
	}
	if r.states != nil {
		all = append(all, preload)
	}
	if r.Deep {
		all = append(all, clocks)
	}
	return all
}

// work lets clients and faults go on for as long as was asked.
func (r *run) work(ctx context.Context) error {
	results := make(chan error)
	running := 0
	start := func(f func() error) {
		running++
		go func() { results <- f() }()
	}
	clients := make([]*client, r.Clients)
	for i := range clients {
		user, token, err := r.user(i)
		if err != nil {
			return err
		}
		if clients[i], err = newClient(r, i, user, token); err != nil {
			return err
		}
	}
	user, token, err := r.user(r.Clients)
	if err != nil {
		return err
	}
	watcher, err := newClient(r, r.Clients, user, token)
	if err != nil {
		return err
	}
	r.history.start = time.Now()
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, r.For)
	defer cancel()
	for _, k := range clients {
		r.living.Add(1)
		start(func() error { defer r.living.Done(); return k.live(ctx) })
	}
	start(func() error { r.recorder.follow(ctx, r.repos); return nil })
	i := r.injector()
	i.witness = watcher
	r.living.Go(func() { // it is a client, too
		<-ctx.Done()
		i.asking.Lock()
		defer i.asking.Unlock()
	})
	schedule := draw(r.Seed, int(r.For/shortestPause)+1, r.has(), r.Plan)
	if len(schedule) > 0 {
		start(func() error { return i.run(ctx, schedule) })
	}
	start(func() error { <-ctx.Done(); return r.lastLook(whole, i) })
	if r.Hasty {
		r.history.found = cancel
	}
	for range running {
		if e := <-results; e != nil {
			err = errors.Join(err, e)
			cancel()
		}
	}
	return err
}

func (r *run) injector() *injector {
	most := 2
	if r.Longer > 0 {
		most = 1
	}
	return &injector{most: most, cluster: r.cluster, links: r.links, history: r.history, states: r.states, older: filepath.Join(r.folder, "older"), disk: r.disk, refill: r.refilled,
		looked: make(chan struct{}), busy: make([]sync.Mutex, 3), failed: make(chan error, 1), holds: r.checkCopies}
}

// user makes the user that a client is, with a token.
func (r *run) user(client int) (_ *clustertest.User, token string, err error) {
	name := actor(client)
	u, err := r.cluster.Enroll(name)
	if err != nil {
		return nil, "", err
	}
	if err := r.cluster.Admin.Run("", "git-cluster", "grant", name, "write", "faults/*").Err(); err != nil {
		return nil, "", err
	}
	made := u.Run("", "git-cluster", "user", "token", "create", name)
	if err := made.Err(); err != nil {
		return nil, "", err
	}
	token = strings.TrimSpace(made.Stdout)
	text := ""
	for _, n := range r.cluster.Nodes {
		text += fmt.Sprintf("https://%s:%s@%s\n", name, token, n.HTTP)
	}
	file := filepath.Join(r.folder, "credentials-"+name)
	return u.With("GIT_CONFIG_PARAMETERS='credential.helper'='store --file=" + file + "'"), token, os.WriteFile(file, []byte(text), 0o600)
}

// refilled waits until a node can show everything.
func (r *run) refilled(ctx context.Context, node string) error {
	for _, repo := range r.repos {
		for r.cluster.Admin.Via(node).Run("", "git", "ls-remote", "cluster::"+repo).Status != 0 {
			if !sleep(ctx, time.Second) {
				return nil
			}
		}
	}
	return nil
}

// close ends everything. The nodes' logs are kept beside the run's.
func (r *run) close() error {
	var err error
	if r.journal != nil {
		err = r.journal.Close()
	}
	if r.browser != nil {
		r.browser.CloseIdleConnections()
	}
	if r.cluster != nil {
		for _, n := range r.cluster.Nodes {
			err = errors.Join(err, os.WriteFile(filepath.Join(r.Dir, n.Name+".log"), []byte(n.Log()), 0o600))
			n.Kill()
		}
		if r.disk != "" {
			err = errors.Join(err, r.cluster.Admin.Run("", "umount", r.disk).Err())
		}
		err = errors.Join(err, r.cluster.Close())
	}
	if r.links != nil {
		err = errors.Join(err, r.links.Close())
	}
	return errors.Join(err, os.RemoveAll(r.folder))
}

// tail is the end of the run's log, for people.
func tail(dir string, lines int) string {
	f, err := os.Open(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
