// Package packcache has equal fetches share one run of `git pack-objects`.
//
// Entry points: [New] makes a [Cache]; [Cache.Join] says whether it is worth asking it
// for a fetch; [Cache.Serve] is what upload-pack then runs instead of pack-objects, by
// uploadpack.packObjectsHook (git-config(1)), and what serves a clone without one.
//
// It promises that who asks gets exactly what their own run could have written. That
// rests on what the question is: upload-pack names the objects that are wanted and those
// that the client has by their ids, on standard input, and never a ref. What those ids
// reach does not change when refs move, when packs are gathered, or when a replica
// catches up; and that somebody may have what they want has been checked before it is
// asked. It also promises to keep within a bound on disk and in memory, to end a run that nobody waits
// for any more, and that one slow reader holds up nobody.
package packcache

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/spool"
)

// Options are what a cache works with.
type Options struct {
	Dir string          // for packs; what a former life left there is nobody's
	Run *gitexec.Runner // runs git pack-objects
	// Limit is how many bytes there may be on disk; 0 means one GiB. A repository that
	// takes more than a quarter of it is not shared.
	Limit int64
	// Keep is how long a pack stays after its last reader; 0 means a minute.
	Keep time.Duration
}

// A Cache is the packs of one node. Its methods are safe for concurrent use.
type Cache struct {
	Options
	ctx  context.Context // ends with the node
	stop context.CancelCauseFunc
	work sync.WaitGroup

	mu       sync.Mutex
	entries  map[question]*entry
	fetches  map[cluster.RepoID]*fetches
	reserved int64 // bytes that entries have, or may come to
	shared   uint64
	closed   bool
}

// A question is what a run of pack-objects depends on: the repository, the arguments and
// the objects named.
type question [sha256.Size]byte

// An entry is one run, and what it wrote.
type entry struct {
	q         question
	repo      cluster.RepoID
	out, said *spool.Spool
	limit     int64 // of what it may write
	cancel    context.CancelCauseFunc

	// Guarded by Cache.mu.
	readers  int
	reserved int64
	done     bool
	held     []io.Closer // keep the spools while nobody reads
	used     time.Time
	expiry   *time.Timer
}

// fetches is who fetches from a repository.
type fetches struct {
	active int
	last   time.Time // when one began
	alone  bool      // its packs cannot be shared
}

const (
	// maxQuestion is the longest question that is kept to be compared.
	maxQuestion = 1 << 20
	// recently is how long after one fetch another is likely to want the same.
	recently = 15 * time.Second
	// inMemory is how much of a pack is not on disk.
	inMemory = 64 << 10
	// maxSaid bounds the progress that is kept of a run.
	maxSaid = 64 << 10
	// maxEntries bounds what entries take in memory: a stranger can ask many small
	// questions that nobody else has.
	maxEntries = 256
	// slack is how much longer a pack may be than twice what is on disk.
	slack = 64 << 10
)

var (
	errNobody  = errors.New("nobody waits for this pack any more")
	errTooLong = errors.New("the pack is longer than the repository by far")
)

// New returns a cache. The caller must Close it.
func New(o Options) *Cache {
	o.Limit = cmp.Or(o.Limit, 1<<30)
	o.Keep = cmp.Or(o.Keep, time.Minute)
	ctx, stop := context.WithCancelCause(context.Background())
	return &Cache{Options: o, ctx: ctx, stop: stop, entries: map[question]*entry{}, fetches: map[cluster.RepoID]*fetches{}}
}

// Close ends all runs and lets go of all packs.
func (c *Cache) Close() {
	c.stop(cluster.ErrStopping)
	c.mu.Lock()
	c.closed = true
	for _, e := range c.entries {
		c.drop(e)
	}
	c.mu.Unlock()
	c.work.Wait()
}

// Join notes a fetch, until leave is called, and reports whether another one of the same
// repository goes on or has just begun. One by itself is faster without a cache.
func (c *Cache) Join(repo cluster.RepoID) (shared bool, leave func()) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fetches[repo]
	if f == nil {
		f = &fetches{}
		c.fetches[repo] = f
	}
	shared = !f.alone && (f.active > 0 || now.Sub(f.last) < recently)
	f.active++
	f.last = now
	return shared, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if f.active--; f.active == 0 {
			time.AfterFunc(recently, func() { c.forget(repo, f) })
		}
	}
}

// Shared returns how often so far somebody got a pack without a run of their own.
func (c *Cache) Shared() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared
}

func (c *Cache) forget(repo cluster.RepoID, f *fetches) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.active == 0 && time.Since(f.last) >= recently && c.fetches[repo] == f {
		delete(c.fetches, repo)
	}
}

// Serve writes what pack-objects, run in the repository at dir with args as upload-pack
// gives them, would write for the question on stdin.
func (c *Cache) Serve(ctx context.Context, repo cluster.RepoID, dir string, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	command, err := gitcmd.SharedPack(dir, args)
	if err != nil {
		return err
	}
	asked, err := io.ReadAll(io.LimitReader(stdin, maxQuestion+1))
	if err != nil {
		return err
	}
	var r *reading
	if len(asked) <= maxQuestion {
		if r, err = c.enter(repo, dir, command, asked); err != nil {
			return err
		}
	}
	if r == nil {
		return c.Run.Run(ctx, command, gitexec.IO{Stdin: io.MultiReader(bytes.NewReader(asked), stdin), Stdout: stdout, Stderr: stderr})
	}
	defer c.leave(r.entry)
	return r.pass(ctx, stdout, stderr)
}

// A reading is one reader's of an entry.
type reading struct {
	*entry
	out, said io.ReadCloser
}

// enter begins to read the entry of a question, which it makes if there is none. nil:
// there is no room for one.
func (c *Cache) enter(repo cluster.RepoID, dir string, command gitcmd.Command, asked []byte) (*reading, error) {
	q := ask(repo, command.Args, asked)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.join(q); r != nil {
		c.shared++
		return r, nil
	}
	c.mu.Unlock()
	size, err := packed(dir)
	c.mu.Lock()
	if c.closed {
		return nil, cluster.ErrStopping
	}
	if r := c.join(q); r != nil {
		c.shared++
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	most := 2*size + slack // reserved until it is known how long it is
	if size > c.Limit/4 || !c.makeRoom(most) {
		return nil, nil
	}
	ctx, cancel := context.WithCancelCause(c.ctx)
	e := &entry{q: q, repo: repo, out: spool.New(c.Dir, inMemory), said: spool.New(c.Dir, maxSaid), limit: most, cancel: cancel, reserved: most}
	// The spools live while somebody could come to read them.
	e.held = []io.Closer{e.out.Open(), e.said.Open()}
	c.entries[q] = e
	c.reserved += most
	r := c.join(q)
	c.work.Go(func() { c.make(ctx, e, dir, command, asked) })
	return r, nil
}

// join begins to read the entry of a question, if there is a sound one. The caller
// holds mu.
func (c *Cache) join(q question) *reading {
	e := c.entries[q]
	if e == nil {
		return nil
	}
	r := &reading{e, e.out.Open(), e.said.Open()}
	if r.out == nil || r.said == nil { // it has just failed
		c.drop(e)
		return nil
	}
	if e.expiry != nil {
		e.expiry.Stop()
	}
	e.readers++
	return r
}

// make runs pack-objects for an entry.
func (c *Cache) make(ctx context.Context, e *entry, dir string, command gitcmd.Command, asked []byte) {
	defer e.cancel(nil)
	out := &bounded{w: e.out, left: e.limit}
	said := &bounded{w: e.said, left: maxSaid, quiet: true}
	asked, err := c.stillThere(ctx, dir, asked)
	for err == nil {
		err = c.Run.Run(ctx, command, gitexec.IO{Stdin: bytes.NewReader(asked), Stdout: out, Stderr: said})
		if exit := (*gitexec.ExitError)(nil); !errors.As(err, &exit) || out.left < e.limit || ctx.Err() != nil {
			break
		}
		// What the client has may have gone between the look and the run.
		rest, again := c.stillThere(ctx, dir, asked)
		if again != nil || len(rest) == len(asked) {
			break
		}
		asked, err = rest, nil
	}
	if out.left < 0 {
		err = errTooLong
	}
	e.said.End(nil)
	e.out.End(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	e.done = true
	if f := c.fetches[e.repo]; f != nil && errors.Is(err, errTooLong) {
		f.alone = true
	}
	if c.entries[e.q] != e {
		return
	}
	if err != nil {
		c.drop(e) // the next one who asks has another try
		return
	}
	length, _ := e.out.Progress()
	c.reserved += length - e.reserved
	e.reserved = length
}

// stillThere leaves out of a question what the client has and this repository has no
// more. upload-pack takes for common whatever is there, also what no ref reaches, and
// housekeeping may have removed that since; pack-objects fails on it. Without it the pack
// is larger. What comes before "--not" is wanted and stays as it is.
func (c *Cache) stillThere(ctx context.Context, dir string, asked []byte) ([]byte, error) {
	const not = "--not\n"
	wants, haves, ok := strings.Cut(string(asked), not)
	if !ok || strings.TrimSpace(haves) == "" {
		return asked, nil
	}
	var named strings.Builder
	for line := range strings.Lines(haves) {
		if _, err := cluster.ParseOID(strings.TrimSpace(line)); err == nil {
			named.WriteString(line)
		}
	}
	found, err := c.Run.Output(ctx, gitcmd.CheckObjects(dir), strings.NewReader(named.String()))
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}
	for line := range strings.Lines(string(found)) {
		if oid, missing := strings.CutSuffix(strings.TrimSpace(line), " missing"); missing {
			gone[oid] = true
		}
	}
	var rest strings.Builder
	rest.WriteString(wants + not)
	for line := range strings.Lines(haves) {
		if !gone[strings.TrimSpace(line)] {
			rest.WriteString(line)
		}
	}
	return []byte(rest.String()), nil
}

// pass passes on what the run writes, from its beginning.
func (r *reading) pass(ctx context.Context, stdout, stderr io.Writer) error {
	defer context.AfterFunc(ctx, func() { r.out.Close(); r.said.Close() })()
	defer r.out.Close()
	told := make(chan struct{})
	go func() {
		defer close(told)
		defer r.said.Close()
		io.Copy(stderr, r.said)
	}()
	_, err := io.Copy(stdout, r.out)
	if err != nil {
		r.said.Close() // what is left to be said may come much later
	}
	<-told
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func ask(repo cluster.RepoID, args []string, asked []byte) (q question) {
	h := sha256.New()
	for _, part := range append([]string{string(repo), string(asked)}, args...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		io.WriteString(h, part)
	}
	h.Sum(q[:0])
	return q
}
