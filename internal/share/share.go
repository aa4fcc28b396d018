// Package share lets concurrent callers share the result of one call, but only
// of a call that started after they asked.
//
// Entry point: [Call.Do].
//
// It promises that whoever asks gets the result of work that began after that
// moment, and that at most one call is under way and one to come, however many
// ask.
package share

import (
	"context"
	"sync"
)

// A Call is one thing that many may want to know at once. The zero value is
// ready.
type Call[T any] struct {
	mu      sync.Mutex
	running bool
	next    *pending[T]
}

type pending[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// Do runs fn, or waits for a run that starts after now, whichever is sooner. The
// end of the context ends the wait, not the run; fn bounds itself.
func (c *Call[T]) Do(ctx context.Context, fn func() (T, error)) (T, error) {
	c.mu.Lock()
	p := c.next
	if p == nil {
		p = &pending[T]{done: make(chan struct{})}
		c.next = p
	}
	if !c.running {
		c.running = true
		go c.run(fn)
	}
	c.mu.Unlock()
	select {
	case <-p.done:
		return p.value, p.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// Waiting reports whether somebody waits for the next run.
func (c *Call[T]) Waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next != nil
}

func (c *Call[T]) run(fn func() (T, error)) {
	for {
		c.mu.Lock()
		p := c.next
		if p == nil {
			c.running = false
			c.mu.Unlock()
			return
		}
		c.next = nil
		c.mu.Unlock()
		p.value, p.err = fn()
		close(p.done)
	}
}
