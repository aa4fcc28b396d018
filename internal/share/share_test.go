package share

import (
	"runtime"
	"testing"
	"time"
)

func TestConcurrentReadersShareOnlyLaterReads(t *testing.T) {
	var s Call[int]
	calls := make(chan chan int)
	fn := func() (int, error) {
		answer := make(chan int)
		calls <- answer
		return <-answer, nil
	}
	got := make(chan int, 10)
	ask := func() {
		v, err := s.Do(t.Context(), fn)
		if err != nil {
			t.Error(err)
		}
		got <- v
	}
	go ask()
	first := <-calls // one read is under way; nobody who comes now may share it
	for range 5 {
		go ask()
	}
	for deadline := time.Now().Add(time.Minute); !s.Waiting(); {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits for the next read")
		}
		runtime.Gosched()
	}
	first <- 1
	if v := <-got; v != 1 {
		t.Errorf("the first reader got %d", v)
	}
	for served := 0; served < 5; {
		select {
		case answer := <-calls:
			answer <- 2
		case v := <-got:
			if v != 2 {
				t.Errorf("a later reader got %d, from a read issued before it came", v)
			}
			served++
		}
	}
}
