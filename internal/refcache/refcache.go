// Package refcache answers the beginning of a fetch without a Git process: with what
// upload-pack has said before to the same question, of refs that are still the same.
//
// Entry points: [New] makes a [Cache]; [Cache.Serve] is one upload-pack, and
// [Cache.Advertise] the first request of one over HTTP.
//
// In version 2 of Git's protocol (gitprotocol-v2(5)) a server first lists what it can do,
// and then answers one request after another. The first nearly always asks for refs, and a
// fetch that finds nothing new ends with it. So a request for refs that was asked before
// is answered from memory, and one that was not by an upload-pack for it alone, for all who
// ask it at that time. A request for objects is first put to the caller. At any other an
// upload-pack is started, its list is left out, for the client has one, and it gets the
// request and the rest of the conversation.
//
// It promises that who asks gets exactly what a process of their own could have written.
// An answer is kept if the refs and HEAD were known to be the same from before its process
// was started until its last byte had come, and given as long as they have not been
// touched since; where that is in doubt a process is started. Nothing that a client sends
// is interpreted but the lengths of its packets and the name of its first command. What is
// kept is bounded, and no client can have a longer request or answer held than
// that.
package refcache

import (
	"cmp"
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"gitcluster/internal/cluster"
)

// Version2 is the protocol that is answered here, as GIT_PROTOCOL has it. Who asks for
// another, or for this in other words, has a process.
const Version2 = "version=2"

// Options are what a cache works with.
type Options struct {
	// Limit is how many bytes of answers are kept; 0 means 32 MiB.
	Limit int
}

// A Cache is what the upload-packs of one node have said. Its methods are safe for
// concurrent use.
type Cache struct {
	Options
	patience time.Duration // how long one waits for an answer that somebody else is being given

	mu      sync.Mutex
	lists   map[listing][]byte
	asked   map[asked]chan struct{} // closed when the question was answered
	repos   map[cluster.RepoID]*shown
	used    *list.List // of *answer, the longest unused last
	bytes   int
	answers uint64
}

// A listing is what a list of capabilities depends on, besides Git and how it is
// configured.
type listing struct {
	format cluster.ObjectFormat
	http   bool
}

// shown is the answers for one state of a repository's refs.
type shown struct {
	state   uint64
	answers map[question]*list.Element
}

// A question is a request for refs, byte for byte, and of which refs.
type question struct {
	format   cluster.ObjectFormat
	position cluster.Position
	request  [sha256.Size]byte
}

// asked is a question of refs in one state.
type asked struct {
	repo  cluster.RepoID
	state uint64
	q     question
}

// An answer is what upload-pack has said to a question; nil: too much to be kept.
type answer struct {
	repo cluster.RepoID
	q    question
	said []byte
}

const (
	// maxRequest is the longest request that is looked at.
	maxRequest = 64 << 10
	// maxAnswer is the longest answer that is kept.
	maxAnswer = 1 << 20
	// maxOf is how many answers are kept of one repository: clients of a few versions
	// ask in a few ways.
	maxOf = 8
	// maxList is the longest list of capabilities.
	maxList = 16 << 10
	// overhead is about what an answer takes besides its bytes.
	overhead = 512
)

// New returns a cache.
func New(o Options) *Cache {
	o.Limit = cmp.Or(o.Limit, 32<<20)
	return &Cache{Options: o, patience: 5 * time.Second, lists: map[listing][]byte{}, asked: map[asked]chan struct{}{}, repos: map[cluster.RepoID]*shown{}, used: list.New()}
}

// Answers returns how many requests for refs were answered without a process.
func (c *Cache) Answers() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers
}

// ask makes a question of a request. What the answer depends on is all in it.
func ask(f *Fetch, request []byte) question {
	return question{f.Format, f.Position, sha256.Sum256(request)}
}

// list returns the list of capabilities that was last seen, or nil.
func (c *Cache) list(f *Fetch) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists[f.listing()]
}

// keepList keeps a list of capabilities instead of the one there was.
func (c *Cache) keepList(f *Fetch, said []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists[f.listing()] = said
}

// dropList forgets a list of capabilities.
func (c *Cache) dropList(f *Fetch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lists, f.listing())
}

// find returns what was said to the question, if the refs are those it was said of. If
// somebody is asking it of them now, over is closed when they have an answer.
func (c *Cache) find(f *Fetch, q question) (said []byte, over <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.same() {
		return nil, nil
	}
	r := c.repos[f.Repo]
	if r != nil && r.state != f.State {
		c.forget(r)
		r = nil
	}
	if r == nil || r.answers[q] == nil {
		return nil, c.asked[asked{f.Repo, f.State, q}]
	}
	e := r.answers[q]
	c.used.MoveToFront(e)
	if e.Value.(*answer).said != nil {
		c.answers++
	}
	return e.Value.(*answer).said, nil
}

// asking notes that a process is being asked the question, until over is called, which may
// be more than once.
func (c *Cache) asking(f *Fetch, q question) (over func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := asked{f.Repo, f.State, q}
	if f.State == 0 || c.asked[k] != nil {
		return func() {}
	}
	ended := make(chan struct{})
	c.asked[k] = ended
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.asked, k)
		close(ended)
	})
}

// keep keeps what was said to a question, if the refs are still those it was said of. nil
// stands for what is too long to be kept.
func (c *Cache) keep(f *Fetch, q question, said []byte) {
	if len(said) > min(maxAnswer, c.Limit) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.same() {
		return
	}
	r := c.repos[f.Repo]
	if r != nil && r.state != f.State {
		c.forget(r)
		r = nil
	}
	if r == nil {
		r = &shown{state: f.State, answers: map[question]*list.Element{}}
		c.repos[f.Repo] = r
	}
	if r.answers[q] != nil {
		return // somebody else was faster
	}
	if len(r.answers) >= maxOf {
		for e := c.used.Back(); e != nil; e = e.Prev() {
			if e.Value.(*answer).repo == f.Repo {
				c.drop(e)
				break
			}
		}
		c.repos[f.Repo] = r // which it leaves if that was the last
	}
	r.answers[q] = c.used.PushFront(&answer{repo: f.Repo, q: q, said: said})
	c.bytes += len(said) + overhead
	for c.bytes > c.Limit && c.used.Len() > 1 {
		c.drop(c.used.Back())
	}
}

// forget drops all that was said of one state. The caller holds mu.
func (c *Cache) forget(r *shown) {
	for _, e := range r.answers {
		c.drop(e)
	}
}

// drop drops one answer. The caller holds mu.
func (c *Cache) drop(e *list.Element) {
	a := c.used.Remove(e).(*answer)
	c.bytes -= len(a.said) + overhead
	r := c.repos[a.repo]
	delete(r.answers, a.q)
	if len(r.answers) == 0 {
		delete(c.repos, a.repo)
	}
}
