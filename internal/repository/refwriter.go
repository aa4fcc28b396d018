package repository

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A refWriter is a `git update-ref --stdin` of one repository. It makes one
// transaction after another, and looks at the refs and packs anew in each: to start a
// process takes longer than to change a ref.
type refWriter struct {
	dir    string
	wait   <-chan struct{} // closed when Git is gone
	in     *bufio.Writer
	closer io.Closer
	out    *bufio.Reader
	stderr *strings.Builder
	cancel context.CancelFunc
	uses   int
	idle   *time.Timer
}

// startRefWriter starts one. It outlives ctx, which is whose it is for now.
func startRefWriter(ctx context.Context, run *gitexec.Runner, dir string, sync bool) (*refWriter, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	w := &refWriter{dir: dir, in: bufio.NewWriterSize(inW, 64<<10), closer: inW, out: bufio.NewReader(outR), stderr: &strings.Builder{}, cancel: cancel}
	proc, err := run.Start(ctx, gitcmd.UpdateRef(dir, sync), gitexec.IO{Stdin: inR, Stdout: outW, Stderr: &limited{w: w.stderr, n: 4096}})
	if err != nil {
		cancel()
		return nil, err
	}
	waited := make(chan struct{})
	w.wait = waited
	go func() {
		defer close(waited)
		err := proc.Wait()
		// Whoever waits for an answer or still writes commands is told that
		// none will be read.
		inR.CloseWithError(fmt.Errorf("git update-ref ended: %w", orEOF(err)))
		outW.CloseWithError(orEOF(err))
	}()
	return w, nil
}

// close ends Git's input, at which it exits and drops any locks, and reaps it.
func (w *refWriter) close() {
	w.closer.Close()
	<-w.wait
	w.cancel()
}

// isGone reports whether the process has ended by itself.
func (w *refWriter) isGone() bool {
	select {
	case <-w.wait:
		return true
	default:
		return false
	}
}

const (
	// writersKept is how many idle processes there are at most, a few megabytes each.
	writersKept = 16
	// writerIdle is how long one waits for the next transaction.
	writerIdle = 30 * time.Second
	// writerUses bounds what Git remembers of the objects it has met.
	writerUses = 1000
)

// refWriters are those that wait for work, at most one of each repository.
type refWriters struct {
	mu     sync.Mutex
	byDir  map[string]*refWriter
	closed bool
}

// take returns the one of a repository, which is then the caller's, or nil.
func (s *refWriters) take(dir string) *refWriter {
	s.mu.Lock()
	w := s.byDir[dir]
	delete(s.byDir, dir)
	s.mu.Unlock()
	if w == nil {
		return nil
	}
	w.idle.Stop()
	if w.isGone() {
		w.close()
		return nil
	}
	return w
}

// keep has one wait for work, if there is room.
func (s *refWriters) keep(w *refWriter) {
	w.uses++
	s.mu.Lock()
	full := s.closed || s.byDir[w.dir] != nil || len(s.byDir) >= writersKept || w.uses >= writerUses
	if !full {
		if s.byDir == nil {
			s.byDir = map[string]*refWriter{}
		}
		s.byDir[w.dir] = w
		w.idle = time.AfterFunc(writerIdle, func() { s.drop(w) })
	}
	s.mu.Unlock()
	if full {
		w.close()
	}
}

// drop ends one, if it still waits.
func (s *refWriters) drop(w *refWriter) {
	s.mu.Lock()
	mine := s.byDir[w.dir] == w
	if mine {
		delete(s.byDir, w.dir)
	}
	s.mu.Unlock()
	if mine {
		w.close()
	}
}

// close ends all, and has none be kept any more.
func (s *refWriters) close() {
	s.mu.Lock()
	all := s.byDir
	s.byDir, s.closed = nil, true
	s.mu.Unlock()
	for _, w := range all {
		w.idle.Stop()
		w.close()
	}
}
