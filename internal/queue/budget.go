package queue

import "sync"

// A Budget bounds what is held at once, such as bytes in memory. Nobody waits for
// room: who waits usually holds already what it is wanted for. Its methods are safe for
// concurrent use.
type Budget struct {
	all, each int

	mu   sync.Mutex
	held int
	by   map[string]int
}

// NewBudget returns a budget of so much for all, of which one holder may have each.
func NewBudget(all, each int) *Budget {
	return &Budget{all: all, each: each, by: map[string]int{}}
}

// Take notes that holder holds n more, and returns how to give it back. false means
// that there is no room. One who holds nothing may take more than its share at once.
func (b *Budget) Take(holder string, n int) (give func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.by[holder]
	if b.held+n > b.all || own > 0 && own+n > b.each {
		return nil, false
	}
	b.held += n
	b.by[holder] = own + n
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.held -= n
		if b.by[holder] -= n; b.by[holder] == 0 {
			delete(b.by, holder)
		}
	}), true
}
