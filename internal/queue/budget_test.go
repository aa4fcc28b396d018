package queue

import "testing"

func TestBudget(t *testing.T) {
	b := NewBudget(100, 30)
	take := func(holder string, n int, want bool) (give func()) {
		t.Helper()
		give, ok := b.Take(holder, n)
		if ok != want {
			t.Errorf("%s takes %d: %v", holder, n, ok)
		}
		return give
	}
	first := take("a", 20, true)
	take("a", 11, false)
	take("a", 10, true)
	take("a", 1, false)
	take("b", 60, true) // more than its share, but all it has
	take("b", 1, false)
	take("c", 11, false)
	take("c", 10, true)
	first()
	first() // once is enough
	take("d", 21, false)
	take("d", 20, true)
	if len(b.by) != 4 || b.held != 100 {
		t.Errorf("%d held by %v", b.held, b.by)
	}
}
