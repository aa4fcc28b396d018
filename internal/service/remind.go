package service

import (
	"sync"
	"time"
)

// remindEvery is how often who waits is told the last line again. A client that
// hears nothing for twenty seconds takes the node for dead.
const remindEvery = 8 * time.Second

// remind has the last line told again and again while the request waits for the
// replica or for its turn, until stop is called. It may be called twice.
func (q *Request) remind() (stop func()) {
	if q.Tell == nil {
		return func() {}
	}
	r := &reminder{tell: q.Tell, quit: make(chan struct{})}
	q.Tell = r.say
	go r.run()
	// Not waited for: a client that takes no lines would hold up more than itself.
	return sync.OnceFunc(func() { close(r.quit) })
}

type reminder struct {
	quit chan struct{}

	mu   sync.Mutex // held while a line is told, so that lines do not mix
	tell func(string)
	last string
}

func (r *reminder) say(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = line
	r.tell(line)
}

func (r *reminder) run() {
	tick := time.NewTicker(remindEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.mu.Lock()
			if r.last != "" {
				r.tell(r.last)
			}
			r.mu.Unlock()
		case <-r.quit:
			return
		}
	}
}
