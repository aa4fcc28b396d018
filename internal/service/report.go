package service

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
)

// errUnheard: a push is in the journal, and receive-pack may not know it, because
// its hook has ended in between.
var errUnheard = errors.New("the hook ended before receive-pack had heard what became of the push")

// A report is what receive-pack says to the client. While it is not certain that
// receive-pack has heard of a decision, nothing that it says of refs is passed on:
// if its hook is killed, that would be "ng" for a push that is in the journal. What
// it says to a person goes through.
//
// Nothing is passed on either once the push's context has ended: whatever
// receive-pack says while it is being ended could be an "ng" that is not true.
type report struct {
	ctx context.Context
	w   io.Writer

	mu      sync.Mutex
	pending chan struct{} // closed when what was held may pass; nil: nothing is held

	head []byte // the beginning of a packet (gitprotocol-common(5)): its length and its band
	left int    // bytes that are still to come of the packet
	raw  bool   // it says something else than packets
}

// hold begins to hold back what is said of refs; the returned function ends that.
func (r *report) hold() (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := make(chan struct{})
	r.pending = held
	return sync.OnceFunc(func() { close(held) })
}

// await waits until nothing is held back.
func (r *report) await() error {
	r.mu.Lock()
	pending := r.pending
	r.mu.Unlock()
	if pending == nil {
		return nil
	}
	select {
	case <-pending:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// Write is for one goroutine.
func (r *report) Write(p []byte) (int, error) {
	size := len(p)
	for len(p) > 0 {
		n := min(r.left, len(p))
		if r.raw {
			n = len(p)
		}
		if n > 0 {
			if err := r.pass(p[:n]); err != nil {
				return size - len(p), err
			}
			r.left, p = r.left-n, p[n:]
			continue
		}
		r.head, p = append(r.head, p[0]), p[1:]
		if len(r.head) < 4 {
			continue
		}
		length, err := strconv.ParseUint(string(r.head[:4]), 16, 16)
		switch {
		case err != nil:
			r.raw = true
		case length > 4 && len(r.head) == 4:
			continue // its band comes next
		case length > 5 && r.head[4] != bandProgress && r.head[4] != bandError:
			if err := r.await(); err != nil {
				return size - len(p), err
			}
		}
		if err := r.pass(r.head); err != nil {
			return size - len(p), err
		}
		r.left, r.head = max(0, int(length)-len(r.head)), r.head[:0]
	}
	return size, nil
}

// The bands on which a person is spoken to (gitprotocol-pack(5)).
const (
	bandProgress = 2
	bandError    = 3
)

func (r *report) pass(p []byte) error {
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	_, err := r.w.Write(p)
	return err
}
