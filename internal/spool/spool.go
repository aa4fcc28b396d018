// Package spool keeps a stream for several who read it.
//
// Entry points: [New] makes a [Spool], which one writes and any number read.
//
// It promises that each reads all of it from the beginning, at their own pace, and that
// nothing is left on disk when nobody reads it any more.
package spool

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// A Spool is a stream written once and read by several at their own pace, while
// it is being written and after: a slow reader holds up nobody. What is longer
// than a bound goes to a file, which is removed with the last reader.
type Spool struct {
	dir    string
	memory int // how much of it is kept in memory

	mu      sync.Mutex
	more    *sync.Cond // the stream grew or ended
	head    []byte     // what is kept in memory, from the beginning on
	file    *os.File   // the rest; removed from its folder as soon as it is open
	size    int64
	began   time.Time
	took    time.Duration // until it ended
	done    bool
	err     error // why the stream ended early
	readers int
	closed  bool // no reader is left, and none can come
}

// ErrNoReader: what is written is for nobody any more.
var ErrNoReader = errors.New("nobody reads it any more")

// New returns an empty spool, which keeps that many bytes in memory and the rest in a
// file in dir.
func New(dir string, memory int) *Spool {
	s := &Spool{dir: dir, memory: memory, began: time.Now()}
	s.more = sync.NewCond(&s.mu)
	return s
}

// Write adds to the stream.
func (s *Spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrNoReader
	}
	n := min(len(p), s.memory-len(s.head))
	s.head = append(s.head, p[:n]...)
	if rest := p[n:]; len(rest) > 0 {
		if s.file == nil {
			f, err := os.CreateTemp(s.dir, "pack-")
			if err != nil {
				return n, err
			}
			s.file = f
			os.Remove(f.Name())
		}
		if _, err := s.file.WriteAt(rest, s.size+int64(n-s.memory)); err != nil {
			return n, err
		}
	}
	s.size += int64(len(p))
	s.more.Broadcast()
	return len(p), nil
}

// End ends the stream; err, if not nil, is what its readers get there.
func (s *Spool) End(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done, s.err, s.took = true, err, time.Since(s.began)
	s.more.Broadcast()
	s.release()
}

// Progress returns how long the stream is, and for how long it has been written.
func (s *Spool) Progress() (size int64, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return s.size, s.took
	}
	return s.size, time.Since(s.began)
}

// Open returns a reader from the beginning, or nil if the stream failed or is
// gone.
func (s *Spool) Open() io.ReadCloser {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.err != nil {
		return nil
	}
	s.readers++
	return &reader{s: s}
}

// release lets go of the file when nobody needs it. The caller holds mu.
func (s *Spool) release() {
	if s.readers == 0 {
		s.closed = true
	}
	if s.closed && s.done && s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

type reader struct {
	s      *Spool
	at     int64
	closed bool
}

func (r *reader) Read(p []byte) (int, error) {
	s := r.s
	s.mu.Lock()
	for r.at == s.size && !s.done && !r.closed {
		s.more.Wait()
	}
	switch {
	case r.closed:
		s.mu.Unlock()
		return 0, os.ErrClosed
	case r.at == s.size:
		defer s.mu.Unlock()
		if s.err != nil {
			return 0, s.err
		}
		return 0, io.EOF
	case r.at < int64(len(s.head)):
		n := copy(p, s.head[r.at:])
		s.mu.Unlock()
		r.at += int64(n)
		return n, nil
	}
	file, left := s.file, s.size-r.at
	s.mu.Unlock()
	// The file stays open while this reader is.
	n, err := file.ReadAt(p[:min(int64(len(p)), left)], r.at-int64(s.memory))
	r.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (r *reader) Close() error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.s.readers--
		r.s.more.Broadcast()
		r.s.release()
	}
	return nil
}
