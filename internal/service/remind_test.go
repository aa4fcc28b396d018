package service

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestRemind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []string
		q := &Request{Tell: func(line string) { heard = append(heard, line) }}
		stop := q.remind()
		time.Sleep(3 * remindEvery / 2) // nothing was said yet
		q.tell("busy")
		time.Sleep(2 * remindEvery)
		q.tell("synchronizing")
		time.Sleep(remindEvery)
		stop()
		stop()
		time.Sleep(5 * remindEvery)
		synctest.Wait()
		if want := []string{"busy", "busy", "busy", "synchronizing", "synchronizing"}; !slices.Equal(heard, want) {
			t.Errorf("heard %q, want %q", heard, want)
		}
	})
	(&Request{}).remind()() // nobody listens
}
