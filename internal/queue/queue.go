// Package queue bounds how much runs at once, and lets those who wait take
// turns; and how much is held at once.
//
// Entry points: [New], and [Queue.Enter] around what is bounded; [NewBudget] and
// [Budget.Take].
//
// It promises that somebody who asks for much delays himself first: a free place
// goes to each who waits in turn, however many places another waits for, nobody
// holds all of them, and the number of those who wait has a bound, too.
package queue

import (
	"context"
	"fmt"
	"sync"

	"gitcluster/internal/cluster"
)

// ErrFull: so many wait already that one more would wait for nothing.
var ErrFull = fmt.Errorf("too many requests are waiting: %w", cluster.ErrBusy)

// A Queue has a number of places. Its methods are safe for concurrent use.
type Queue struct {
	all  int // places
	each int // places that one holder may have
	most int // waiters in all

	mu      sync.Mutex
	free    int
	waiting int
	held    map[string]int       // places, by holder
	lines   map[string][]*waiter // those who wait, in the order they came
	turns   []string             // holders with a line, in the order of their turns
}

type waiter struct {
	turn chan struct{} // closed when the place is theirs
}

// New returns a queue of so many places. One holder may have three quarters of
// them, and at most most callers may wait.
func New(places, most int) *Queue {
	return &Queue{all: max(1, places), each: max(1, places*3/4), most: most, free: max(1, places),
		held: map[string]int{}, lines: map[string][]*waiter{}}
}

// Enter waits for a place and returns how to leave it. holder is in whose name
// it is asked for; ahead, if not nil, is called once if there is no place free,
// with the number of those who wait already.
func (q *Queue) Enter(ctx context.Context, holder string, ahead func(int)) (leave func(), err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var once sync.Once
	leave = func() { once.Do(func() { q.leave(holder) }) }
	q.mu.Lock()
	if q.free > 0 && q.held[holder] < q.each && len(q.lines[holder]) == 0 {
		q.take(holder)
		q.mu.Unlock()
		return leave, nil
	}
	if q.waiting >= q.most {
		q.mu.Unlock()
		return nil, ErrFull
	}
	w := &waiter{turn: make(chan struct{})}
	if len(q.lines[holder]) == 0 {
		q.turns = append(q.turns, holder)
	}
	q.lines[holder] = append(q.lines[holder], w)
	before := q.waiting
	q.waiting++
	q.mu.Unlock()
	if ahead != nil {
		ahead(before)
	}
	select {
	case <-w.turn:
		return leave, nil
	case <-ctx.Done():
		if !q.withdraw(holder, w) {
			leave() // the place came at the same moment
		}
		return nil, context.Cause(ctx)
	}
}

// Size returns the number of places, and of callers that may wait.
func (q *Queue) Size() (places, most int) { return q.all, q.most }

// Load returns how many places are taken and how many callers wait.
func (q *Queue) Load() (taken, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range q.held {
		taken += n
	}
	return taken, q.waiting
}

func (q *Queue) take(holder string) {
	q.free--
	q.held[holder]++
}

func (q *Queue) leave(holder string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free++
	if q.held[holder]--; q.held[holder] == 0 {
		delete(q.held, holder)
	}
	q.next()
}

// next gives the free places to those whose turn it is. The caller holds mu.
func (q *Queue) next() {
	for passed := 0; q.free > 0 && passed < len(q.turns); {
		holder := q.turns[0]
		q.turns = q.turns[1:]
		if q.held[holder] >= q.each {
			q.turns = append(q.turns, holder)
			passed++
			continue
		}
		passed = 0
		line := q.lines[holder]
		w := line[0]
		q.waiting--
		if len(line) == 1 {
			delete(q.lines, holder)
		} else {
			q.lines[holder] = line[1:]
			q.turns = append(q.turns, holder)
		}
		q.take(holder)
		close(w.turn)
	}
}

// withdraw takes a waiter out of its line; false means that it has its place.
func (q *Queue) withdraw(holder string, w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.lines[holder]
	for i := range line {
		if line[i] != w {
			continue
		}
		q.waiting--
		if len(line) == 1 {
			delete(q.lines, holder)
			for j, h := range q.turns {
				if h == holder {
					q.turns = append(q.turns[:j:j], q.turns[j+1:]...)
					break
				}
			}
		} else {
			q.lines[holder] = append(line[:i:i], line[i+1:]...)
		}
		return true
	}
	return false
}
