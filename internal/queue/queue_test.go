package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPlacesAreBounded(t *testing.T) {
	const places = 4
	q := New(places, 1000)
	var running, most atomic.Int64
	var wait sync.WaitGroup
	for i := range 200 {
		wait.Go(func() {
			leave, err := q.Enter(t.Context(), fmt.Sprint(i%7), nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer leave()
			n := running.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond) // work, not a wait for something
			running.Add(-1)
		})
	}
	wait.Wait()
	if most.Load() > places {
		t.Errorf("%d ran at once, of %d places", most.Load(), places)
	}
	if taken, waiting := q.Load(); taken != 0 || waiting != 0 || q.free != places || len(q.lines)+len(q.turns)+len(q.held) != 0 {
		t.Errorf("left behind: %d taken, %d waiting, %d free, %v %v %v", taken, waiting, q.free, q.lines, q.turns, q.held)
	}
}

// One who waits for many places delays another by one turn only.
func TestTurns(t *testing.T) {
	q := New(1, 1000)
	leave, err := q.Enter(t.Context(), "first", nil)
	if err != nil {
		t.Fatal(err)
	}
	order := make(chan string, 20)
	enter := func(holder string) {
		there := make(chan int, 1)
		go func() {
			leave, err := q.Enter(t.Context(), holder, func(n int) { there <- n })
			if err != nil {
				t.Error(err)
				return
			}
			order <- holder
			leave()
		}()
		<-there
	}
	for range 10 {
		enter("greedy")
	}
	enter("modest")
	leave()
	for i := range 11 {
		select {
		case who := <-order:
			if who == "modest" && i > 1 {
				t.Errorf("modest had its turn after %d of greedy", i)
			}
		case <-time.After(time.Minute):
			t.Fatalf("only %d had their turn", i)
		}
	}
}

func TestNobodyHoldsAllPlaces(t *testing.T) {
	q := New(4, 1000)
	for range 3 {
		if _, err := q.Enter(t.Context(), "greedy", nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	refused := make(chan error, 1)
	waits := make(chan int, 1)
	go func() {
		_, err := q.Enter(ctx, "greedy", func(n int) { waits <- n })
		refused <- err
	}()
	<-waits
	if _, err := q.Enter(t.Context(), "other", nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-refused; !errors.Is(err, context.Canceled) {
		t.Errorf("a fourth place for one of four: %v", err)
	}
}

func TestFull(t *testing.T) {
	q := New(1, 1)
	leave, err := q.Enter(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan int, 1)
	entered := make(chan error, 1)
	go func() {
		leave, err := q.Enter(t.Context(), "b", func(n int) { waits <- n })
		if err == nil {
			leave()
		}
		entered <- err
	}()
	<-waits
	if _, err := q.Enter(t.Context(), "c", nil); !errors.Is(err, ErrFull) {
		t.Errorf("a second waiter of at most one: %v", err)
	}
	leave()
	leave() // leaving twice is leaving once
	if err := <-entered; err != nil {
		t.Error(err)
	}
	if taken, waiting := q.Load(); taken != 0 || waiting != 0 || q.free != 1 {
		t.Errorf("%d taken, %d waiting, %d free", taken, waiting, q.free)
	}
}

// Those who leave the line in the moment their turn comes lose no place.
func TestWithdrawals(t *testing.T) {
	q := New(2, 1000)
	var wait sync.WaitGroup
	for i := range 300 {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(300))*time.Microsecond)
			defer cancel()
			if leave, err := q.Enter(ctx, fmt.Sprint(i%3), nil); err == nil {
				leave()
			}
		})
	}
	wait.Wait()
	if q.free != 2 || q.waiting != 0 || len(q.lines)+len(q.turns)+len(q.held) != 0 {
		t.Errorf("left behind: %d free, %d waiting, %v %v %v", q.free, q.waiting, q.lines, q.turns, q.held)
	}
}
