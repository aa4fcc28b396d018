// Package browse reads a bare repository for people and programs that want to
// look at it: refs, commits, trees, files, differences, blame and searches, as
// values and not as Git's output.
//
// Entry points: [New] makes a [Browser], [Browser.Open] a [Repo], whose methods
// each answer one question.
//
// It promises that a question is bounded: in what it returns, in the memory it
// takes and in time ([ErrTooLong]). Nothing in a repository makes it run a program: no
// filter, no external diff, no text conversion. A path, a revision or a pattern
// never becomes an option of a Git command. It writes nothing, and sees what other processes add,
// pack or remove in between two calls.
//
// Paths are bytes as Git keeps them, slash-separated, without a leading or trailing
// slash; "" is the top. A path need not be UTF-8 and may hold any byte but NUL. Names,
// subjects and messages are always valid UTF-8. Escaping is the caller's business.
package browse

import (
	"errors"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
)

var (
	// ErrTooLong: the question was given up because its time was over. Where a
	// method says so, what was found until then comes with it.
	ErrTooLong = errors.New("it takes too long")
	// ErrBadQuery: the question itself is wrong: a malformed revision, path or
	// pattern, or a number out of range.
	ErrBadQuery = errors.New("bad query")
)

// What one call may ask for and take. A larger limit is cut to these, a larger
// offset refused.
const (
	maxTime    = 20 * time.Second
	maxLimit   = 1000    // refs, commits, matches or paths of one call
	maxOffset  = 100_000 // of them skipped before
	maxEntries = 10_000  // of one directory
	maxMessage = 64 << 10
	maxFile    = 32 << 20 // of a file that File holds in memory
)

// A Browser opens repositories. It may be used by many goroutines at once.
type Browser struct {
	run      *gitexec.Runner
	maxTime  time.Duration
	maxWalk  time.Duration
	maxIndex int64

	mu   sync.Mutex
	idle []*index // those used last come first

	walks walks
}

// New returns a Browser that starts Git with run.
func New(run *gitexec.Runner) *Browser {
	return &Browser{run: run, maxTime: maxTime, maxWalk: maxWalk, maxIndex: maxIndex}
}

// Open returns the bare repository at dir. It touches no disk, so it succeeds
// always; there is nothing to close. A Repo may be used by several goroutines.
func (b *Browser) Open(dir string, format cluster.ObjectFormat) *Repo {
	return &Repo{browser: b, dir: dir, format: format}
}

// A Repo is one repository to be looked at.
//
// Every method that is asked for something that is not there, be it a
// ref, an object or a path, returns an error that wraps [cluster.ErrNotFound]; so does an object of
// another type than was asked for. Object ids must be whole ids as [Repo.Resolve] gives them.
type Repo struct {
	browser *Browser
	dir     string
	format  cluster.ObjectFormat
}
