package service

import (
	"context"
	"errors"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/queue"
)

// Pushes that wait for a journal which does not answer leave room for reads, and
// strangers for those who signed in.
func TestNobodyHasAllPlaces(t *testing.T) {
	s := New(Options{Device: "a", Engine: engine.New(engine.Options{Device: "a"}), Turns: queue.New(8, 100)})
	enough := errors.New("no place")
	enter := func(q Request, push bool, within time.Duration) (leave func(), err error) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), within, enough)
		defer cancel()
		return s.turn(ctx, q, push)
	}
	// count enters until there is no place. Those that there are to be are waited for.
	count := func(q func(i int) Request, push bool, want int) (n int, leave []func()) {
		t.Helper()
		for i := range 10 {
			within := 20 * time.Millisecond
			if i < want {
				within = 20 * time.Second
			}
			out, err := enter(q(i), push, within)
			if errors.Is(err, enough) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, out)
			n++
		}
		return n, leave
	}
	user := func(i int) Request { return Request{Identity: cluster.Identity{User: cluster.UserName(rune('a' + i))}} }
	pushes, leave := count(user, true, 6)
	reads, _ := count(user, false, 2)
	if pushes != 6 || reads != 2 {
		t.Errorf("%d pushes and then %d reads had a place; want 6 and 2", pushes, reads)
	}
	leave[0]()
	if n, _ := count(user, true, 1); n != 1 {
		t.Errorf("%d pushes had the place that became free", n)
	}
}
